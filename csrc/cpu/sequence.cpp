// The CPU driver of the sequence family: checks lengths and tokens, counts the references' n-grams, runs the rows.
#include "cpu/sequence.h"

#include "cpu/device.h"
#include "cpu/scratch.h"
#include "host/sequence.h"

#include <algorithm>
#include <utility>

namespace fused_losses {
namespace {

constexpr const char* kName = loss_of(LossId::expected_bleu_loss).name;
constexpr int64_t kManySamples = 8;  // as many keep the threads busy without cutting a sample

// [n] lengths, `full` where not given.
std::vector<int64_t> read_lengths(const char* argument, const Operand& given, int64_t n, int64_t full) {
  std::vector<int64_t> lengths(n, full);
  for (int64_t i = 0; given && i < n; ++i) {
    lengths[i] = integer_at(given.data, given.dtype, i);
    if (lengths[i] < 0 || lengths[i] > full) {
      refuse_value(kName, static_cast<double>(lengths[i]), i, argument, " in [0, ", full, "]");
    }
  }
  return lengths;
}

// One call, forward or backward.
struct SequenceRun {
  const SequenceEntry& entry;
  SequenceTask task;
  Dtype dtype;  // of the loss
  bool wide;
  std::vector<int64_t> sentence_length, reference_length, token, same, count;

  SequenceRun(const SequenceProblem& problem, const Options& options)
      : entry(FL_FOR_ISA(sequence_loops)),
        task{problem},
        dtype(accumulation_dtype(problem.logits.dtype)),
        wide(dtype == Dtype::kFloat64) {
    task.options = &options;
    const double orders = std::min(options.max_order, static_cast<double>(std::min(task.steps, task.places)));
    task.orders = static_cast<int64_t>(orders);
    task.scale = gradient_scale(task.results, dtype);
    sentence_length = read_lengths("logits_lengths", task.logits_lengths, task.batch, task.steps);
    reference_length = read_lengths("target_lengths", task.target_lengths, task.batch, task.places);
    read_tokens();
    count_ngrams();
    task.sentence_length = sentence_length.data();
    task.reference_length = reference_length.data();
    task.token = token.data();
    task.same = same.data();
    task.count = count.data();
  }

  void read_tokens() {
    const Operand& target = task.target;
    token.resize(task.batch * task.places);
    for (int64_t b = 0; b < task.batch; ++b) {
      for (int64_t u = 0; u < reference_length[b]; ++u) {
        const int64_t i = b * task.places + u, y = integer_at(target.data, target.dtype, i);
        if (y < 0 || y >= task.classes) {
          refuse_class_index(kName, target.data, target.dtype, i, task.classes, nullptr);
        }
        token[i] = y;
      }
    }
  }

  // An n-gram is named by the first place where it stands: equal (n-1)-grams followed by equal tokens are equal.
  void count_ngrams() {
    const int64_t places = task.places;
    same.resize(task.batch * places);
    count.resize(task.batch * task.orders * places);
    std::vector<std::pair<std::pair<int64_t, int64_t>, int64_t>> keys(places);
    std::vector<int64_t> name(places);
    for (int64_t b = 0; b < task.batch; ++b) {
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

  void run() {
    const int64_t size = element_size(dtype), batch = task.batch, rows = batch * task.steps;
    Scratch softmax, probability, by_probability;
    task.softmax = softmax.at_least(rows * 2 * size);
    task.probability = probability.at_least(rows * task.places * size);
    task.by_probability = task.gradient ? by_probability.at_least(rows * task.places * size) : nullptr;
    std::vector<double> losses(batch);
    const auto match = [&](int64_t begin, int64_t end) {
      Scratch space;
      void* scratch = space.at_least((2 * task.orders + 1) * task.places * size);
      for (int64_t b = begin; b < end; ++b) losses[b] = entry.match[wide](task, b, scratch);
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
      if (task.results.losses) store_scalar(losses[b], task.results.losses, dtype, b);
    }
    store_total(task.results, dtype, sum);
  }
};

struct CpuSequence : CpuDevice {
  static void run(LossId, const Options& options, const SequenceProblem& problem, const Tensor&) {
    SequenceRun(problem, options).run();
  }
};

}  // namespace

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<SequenceCall<CpuSequence>, LossId::op>(m);
  FL_SEQUENCE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
