// The tensor side of the sequence family: checks lengths and tokens, counts the references' n-grams, runs the rows.
#include "cpu/sequence.h"

#include "host/check.h"
#include "cpu/isa.h"
#include "cpu/legacy.h"
#include "cpu/memory.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace fused_losses {
namespace {

constexpr const char* kName = "expected_bleu_loss";
constexpr int64_t kManySamples = 8;  // as many keep the threads busy without cutting a sample

// [n] lengths, `full` where not given.
std::vector<int64_t> read_lengths(const char* argument, const OptionalTensor& t, int64_t n, int64_t full) {
  std::vector<int64_t> lengths(n, full);
  for (int64_t i = 0; t && i < n; ++i) {
    lengths[i] = integer_at(t->const_data_ptr(), dtype_of(*t), i);
    if (lengths[i] < 0 || lengths[i] > full) {
      refuse_value(kName, static_cast<double>(lengths[i]), i, argument, " in [0, ", full, "]");
    }
  }
  return lengths;
}

// Room for n values of A, not initialised, 64-byte aligned.
struct Space {
  explicit Space(int64_t bytes) : raw(new char[bytes + 64]) {}
  void* data() { return raw.get() + (64 - reinterpret_cast<uintptr_t>(raw.get()) % 64); }
  std::unique_ptr<char[]> raw;
};

// One call, forward or backward.
struct Call {
  const SequenceEntry& entry;
  const Tensor& logits;
  const Tensor& target;
  SequenceTask task{};
  int64_t batch;
  bool wide;
  std::vector<int64_t> sentence_length, reference_length, token, same, count;

  Call(const Tensor& logits, const Tensor& target, const OptionalTensor& logits_lengths,
       const OptionalTensor& target_lengths, const Options& options)
      : entry(for_isa(base::sequence_loops, avx2::sequence_loops, avx512::sequence_loops)),
        logits(logits),
        target(target),
        batch(logits.size(0)),
        wide(dtype_of(logits) == Dtype::kFloat64) {
    task.steps = logits.size(1);
    task.classes = logits.size(2);
    task.places = target.size(1);
    task.orders = std::min({static_cast<int64_t>(options.max_order), task.steps, task.places});
    task.logits = logits.const_data_ptr();
    task.dtype = dtype_of(logits);
    task.options = &options;
    sentence_length = read_lengths("logits_lengths", logits_lengths, batch, task.steps);
    reference_length = read_lengths("target_lengths", target_lengths, batch, task.places);
    read_tokens();
    count_ngrams();
    task.sentence_length = sentence_length.data();
    task.reference_length = reference_length.data();
    task.token = token.data();
    task.same = same.data();
    task.count = count.data();
  }

  void read_tokens() {
    token.resize(batch * task.places);
    const Dtype dtype = dtype_of(target);
    const void* data = target.const_data_ptr();
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t u = 0; u < reference_length[b]; ++u) {
        const int64_t i = b * task.places + u, y = integer_at(data, dtype, i);
        if (y < 0 || y >= task.classes) {
          refuse_value(kName, static_cast<double>(y), i, "class index in [0, ", task.classes, ")");
        }
        token[i] = y;
      }
    }
  }

  // An n-gram is named by the first place where it stands: equal (n-1)-grams followed by equal tokens are equal.
  void count_ngrams() {
    const int64_t places = task.places;
    same.resize(batch * places);
    count.resize(batch * task.orders * places);
    std::vector<std::pair<std::pair<int64_t, int64_t>, int64_t>> keys(places);
    std::vector<int64_t> name(places);
    for (int64_t b = 0; b < batch; ++b) {
      std::fill(name.begin(), name.end(), 0);
      for (int64_t n = 0; n < task.orders && n < reference_length[b]; ++n) {
        const int64_t starts = reference_length[b] - n;
        for (int64_t u = 0; u < starts; ++u) keys[u] = {{name[u], token[b * places + u + n]}, u};
        std::sort(keys.begin(), keys.begin() + starts);
        for (int64_t from = 0, to = 0; from < starts; from = to) {
          while (to < starts && keys[to].first == keys[from].first) ++to;
          for (int64_t i = from; i < to; ++i) {
            name[keys[i].second] = keys[from].second;
            count[(b * task.orders + n) * places + keys[i].second] = to - from;
          }
        }
        if (n == 0) std::copy(name.begin(), name.begin() + starts, same.begin() + b * places);
      }
    }
  }

  // The sum of the losses; loss: [batch] accumulation dtype, or null.
  double run(void* loss) {
    const int64_t size = wide ? sizeof(double) : sizeof(float), rows = batch * task.steps;
    Space softmax(rows * 2 * size), chance(rows * task.places * size);
    Space by_chance(task.gradient ? rows * task.places * size : 0);
    task.softmax = softmax.data();
    task.chance = chance.data();
    task.by_chance = task.gradient ? by_chance.data() : nullptr;
    std::vector<double> losses(batch);
    const auto match = [&](int64_t begin, int64_t end) {
      Space scratch((2 * task.orders + 1) * task.places * size);
      for (int64_t b = begin; b < end; ++b) losses[b] = entry.match[wide](task, b, scratch.data());
    };
    const auto read = [&](int64_t begin, int64_t end) { entry.read[wide](task, begin, end); };
    const auto write = [&](int64_t begin, int64_t end) {
      if (task.gradient) entry.write[wide](task, begin, end);
    };
    const int64_t steps = task.steps;
    if (batch >= kManySamples) {  // a sample's logits may still be in the cache when its gradient is written
      parallel(batch, steps * task.classes, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          read(b * steps, (b + 1) * steps);
          match(b, b + 1);
          write(b * steps, (b + 1) * steps);
        }
      });
    } else {
      parallel(rows, task.classes, read);
      parallel(batch, steps * task.places * task.orders, match);
      parallel(rows, task.classes, write);
    }
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) {
      sum += losses[b];
      if (!loss) continue;
      if (wide) {
        static_cast<double*>(loss)[b] = losses[b];
      } else {
        static_cast<float*>(loss)[b] = static_cast<float>(losses[b]);
      }
    }
    return sum;
  }

  Tensor make_gradient() {
    Tensor made = new_output(logits);
    task.gradient = made.mutable_data_ptr();
    return made;
  }
};

std::vector<Tensor> forward(Tensor logits, Tensor target, OptionalTensor logits_lengths, OptionalTensor target_lengths,
                            Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(logits, target, logits_lengths, target_lengths, options);
  if (reduce == Reduction::kNone) {
    Tensor loss = new_tensor(logits, {call.batch}, accumulation_dtype(dtype_of(logits)));
    call.run(loss.mutable_data_ptr());
    return {loss};
  }
  const double denominator = reduce == Reduction::kMean ? static_cast<double>(call.batch) : 1.0;
  call.task.scale = reduction_factor(reduce, denominator);
  std::vector<Tensor> out = {new_scalar(logits)};
  if (wants(gradients, 0)) out.push_back(call.make_gradient());
  set_scalar(out[0], call.run(nullptr) / denominator);
  return out;
}

std::vector<Tensor> backward(Tensor grad_output, Tensor logits, Tensor target, OptionalTensor logits_lengths,
                             OptionalTensor target_lengths, Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  if (!wants(gradients, 0)) return {};
  Call call(logits, target, logits_lengths, target_lengths, options);
  if (reduce == Reduction::kNone) {
    call.task.incoming = grad_output.const_data_ptr();
  } else {
    call.task.scale = scalar_value(grad_output) * reduction_factor(reduce, static_cast<double>(call.batch));
  }
  Tensor gradient = call.make_gradient();
  call.run(nullptr);
  return {gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
  m.impl("expected_bleu_loss", TORCH_BOX((&Named<LossId::expected_bleu_loss, &forward>::call)));
  m.impl("expected_bleu_loss_backward", TORCH_BOX((&Named<LossId::expected_bleu_loss, &backward>::call)));
}

}  // namespace fused_losses
