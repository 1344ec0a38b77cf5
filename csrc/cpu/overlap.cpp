// The tensor side of the overlap family and its compounds: sums of every class, a ratio of each, then the gradient
// while the sample is still in the cache.
#include "cpu/overlap.h"

#include <cmath>

#include "host/check.h"
#include "losses.h"
#include "cpu/isa.h"
#include "cpu/legacy.h"
#include "cpu/loop_headers.h"
#include "cpu/memory.h"

namespace fused_losses {
namespace {

using std::pow;
#include "formulas/overlap.h"

constexpr int64_t kOverlapChunk = 64 * 1024;  // elements whose sums are kept together

// One call. Groups are what has sums of its own and can be worked on alone: a sample, or a class of a sample where
// neither the activation nor the target ties the classes together.
template <class F>
struct Call {
  const F ratio;
  const char* name;
  const Tensor& input;
  OverlapTask task;
  int64_t samples, kept, classes_of_group, groups, chunk, chunks;
  bool batch;
  const OverlapLoops& loops;
  int wide;
  std::vector<double> sums, by_I, by_P, losses;  // [samples, C, 3], [samples, C] (one sample with batch)
  double second_sum = 0, second_count = 0;       // the second terms, and what their mean divides by
  std::atomic<int64_t> invalid{-1};

  Call(const char* name, const Tensor& input, const Tensor& target, const Options& given, SecondTerm second)
      : ratio(given),
        name(name),
        input(input),
        task{.options = OverlapOptions(given, second)},
        batch(task.options.batch),
        loops(for_isa(base::overlap_loops, avx2::overlap_loops, avx512::overlap_loops)),
        wide(dtype_of(input) == Dtype::kFloat64) {
    task.input = input.const_data_ptr();
    task.target = target.const_data_ptr();
    task.input_dtype = dtype_of(input);
    task.target_dtype = dtype_of(target);
    task.classes = input.size(1);
    samples = input.size(0);
    task.positions = 1;
    for (int64_t d = 2; d < input.dim(); ++d) task.positions *= input.size(d);
    task.indexed = target.dim() < input.dim();
    kept = task.classes - (task.options.background ? 0 : 1);
    const bool apart = task.options.activation != Activation::kSoftmax && !task.indexed;
    classes_of_group = apart ? 1 : task.classes;
    groups = apart ? samples * task.classes : samples;
    chunk = kOverlapChunk / (classes_of_group > 0 ? classes_of_group : 1);
    if (chunk < 1024) chunk = 1024;
    chunks = task.positions > 0 ? (task.positions + chunk - 1) / chunk : 1;
    sums.assign((batch ? 1 : samples) * task.classes * 3, 0.0);
  }

  int64_t end(int64_t c) const { return c + 1 < chunks ? (c + 1) * chunk : task.positions; }
  int64_t first(int64_t group) const { return classes_of_group == 1 ? group % task.classes : 0; }
  int64_t sample(int64_t group) const { return classes_of_group == 1 ? group / task.classes : group; }

  // Sums of chunk c of a group into part [classes_of_group, 3], then the two of the second term.
  void add_chunk(int64_t group, int64_t c, double* part) {
    const int64_t from = first(group), bad = loops.sums[wide](task, sample(group), from, from + classes_of_group,
                                                              c * chunk, end(c), part, part + 3 * classes_of_group);
    if (bad >= 0) {
      int64_t at = sample(group) * task.positions + bad, known = invalid.load();
      while ((known < 0 || at < known) && !invalid.compare_exchange_weak(known, at)) {
      }
    }
  }

  double* sums_of(int64_t group) { return &sums[((batch ? 0 : sample(group)) * task.classes + first(group)) * 3]; }

  // What counts for the second term's mean where nothing is ignored.
  double all_count() const {
    const int64_t classes = task.options.activation == Activation::kSoftmax ? 1 : task.classes;
    return static_cast<double>(samples * classes * task.positions);
  }

  // incoming: gradient of the result; needs second_count.
  void set_second_scale(Reduction reduction, double incoming) {
    task.second_scale = task.options.second_weight * incoming * reduction_factor(reduction, second_count);
  }

  void write_gradient(int64_t group, int64_t c) {
    const int64_t at = (batch ? 0 : sample(group)) * task.classes + first(group);
    loops.gradient[wide](task, sample(group), first(group), first(group) + classes_of_group, c * chunk, end(c),
                         &by_I[at], &by_P[at]);
  }

  // Factor of class c's loss: its weight, 0 for the background where that is left out.
  double weight_of(const std::vector<double>& weights, int64_t c) const {
    const int64_t k = c - (task.classes - kept);
    return k < 0 ? 0.0 : weights.empty() ? 1.0 : weights[k];
  }

  // Loss and coefficients of classes [from, to) of row r of `sums`; incoming(r, k): gradient of the loss of kept class
  // k.
  template <class Incoming>
  void finish(int64_t r, int64_t from, int64_t to, const std::vector<double>& weights, const Incoming& incoming) {
    for (int64_t c = from; c < to; ++c) {
      const int64_t at = r * task.classes + c, k = c - (task.classes - kept);
      const double* s = &sums[at * 3];
      const double w = weight_of(weights, c);
      if (k < 0) {  // the background: no loss, and no gradient even where its sums are NaN
        losses[at] = by_I[at] = by_P[at] = 0;
        continue;
      }
      const OverlapLoss result = overlap_loss(ratio, s[0], s[1], s[2], task.options.ignoring);
      const double factor = task.options.overlap_weight * w * incoming(r, k);
      losses[at] = w * result.loss;
      by_I[at] = factor * result.by_I;
      by_P[at] = factor * result.by_P;
    }
  }

  void check() const {
    const int64_t at = invalid.load();
    if (at < 0) return;
    double given = 0;
    read_values(task.target, task.target_dtype, at, 1, &given);
    refuse_value(name, given, at, "class index in [0, ", task.classes, ")");
  }

  // All sums; where the samples are apart and there is a gradient to write, also coefficients and gradient of each.
  template <class Incoming>
  void run(const std::vector<double>& weights, Reduction reduction, const Incoming& incoming) {
    const int64_t rows = batch ? 1 : samples, per_group = classes_of_group * 3 + 2;
    const bool second = task.options.second != SecondTerm::kNone;
    losses.assign(rows * task.classes, 0.0);
    by_I = by_P = losses;
    const int64_t cost = classes_of_group * task.positions;
    const bool counted = !second || !task.options.ignoring;  // the second term's mean needs no sum over the targets
    const bool whole_groups =
        !batch && task.gradient && counted && (chunks == 1 || groups >= 2 * torch::stable::get_num_threads());
    second_count = all_count();
    set_second_scale(reduction, 1);
    task.keeps = keeps_probabilities();
    std::vector<double> parts(groups * chunks * per_group), seconds(2);
    const auto add_parts = [&](int64_t g) {
      for (int64_t c = 0; c < chunks; ++c) {
        const double* part = &parts[(g * chunks + c) * per_group];
        for (int64_t k = 0; k < per_group - 2; ++k) sums_of(g)[k] += part[k];
      }
    };
    if (whole_groups) {
      parallel(groups, cost, [&](int64_t begin, int64_t end_) {
        for (int64_t g = begin; g < end_; ++g) {
          for (int64_t c = 0; c < chunks; ++c) add_chunk(g, c, &parts[(g * chunks + c) * per_group]);
          if (invalid.load() >= 0) continue;
          add_parts(g);
          finish(sample(g), first(g), first(g) + classes_of_group, weights, incoming);
          for (int64_t c = 0; c < chunks; ++c) write_gradient(g, c);
        }
      });
    } else {
      parallel(groups * chunks, cost / chunks, [&](int64_t begin, int64_t end_) {
        for (int64_t i = begin; i < end_; ++i) add_chunk(i / chunks, i % chunks, &parts[i * per_group]);
      });
    }
    check();
    for (int64_t i = 0; i < groups * chunks; ++i) {
      for (int64_t k = 0; k < 2; ++k) seconds[k] += parts[(i + 1) * per_group - 2 + k];
    }
    second_sum = seconds[0];
    second_count = seconds[1] > 1 ? seconds[1] : 1;
    if (whole_groups) return;
    for (int64_t g = 0; g < groups; ++g) add_parts(g);
    for (int64_t r = 0; r < rows; ++r) finish(r, 0, task.classes, weights, incoming);
    if (!task.gradient) return;
    set_second_scale(reduction, 1);
    write_gradients();
  }

  // They are kept where there is a gradient of their dtype to keep them in; a second term after softmax needs more, but
  // for the cross-entropy of class indices, whose slope is 1 whatever the logits.
  bool keeps_probabilities() const {
    const Activation activation = task.options.activation;
    return task.gradient && activation != Activation::kNone &&
           task.input_dtype == accumulation_dtype(task.input_dtype) &&
           (activation != Activation::kSoftmax || task.options.second == SecondTerm::kNone ||
            (task.options.second == SecondTerm::kCrossEntropy && task.indexed));
  }

  void write_gradients() {
    parallel(groups * chunks, classes_of_group * task.positions / chunks, [&](int64_t begin, int64_t end_) {
      for (int64_t i = begin; i < end_; ++i) write_gradient(i / chunks, i % chunks);
    });
  }

  double denominator(Reduction reduction) const {
    return reduction == Reduction::kMean ? static_cast<double>((batch ? 1 : samples) * kept) : 1.0;
  }
};

std::vector<double> read_weights(const OptionalTensor& weight) {
  std::vector<double> values(weight ? weight->numel() : 0);
  if (weight) read_values(weight->const_data_ptr(), dtype_of(*weight), 0, weight->numel(), values.data());
  return values;
}

void store(Tensor& to, int64_t i, double value) {
  if (dtype_of(to) == Dtype::kFloat64) {
    static_cast<double*>(to.mutable_data_ptr())[i] = value;
  } else {
    static_cast<float*>(to.mutable_data_ptr())[i] = static_cast<float>(value);
  }
}

template <class F>
std::vector<Tensor> forward(const char* name, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                            const Options& options, int64_t reduction, int64_t gradients,
                            SecondTerm second = SecondTerm::kNone) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call<F> call(name, input, target, options, second);
  const int64_t rows = call.batch ? 1 : call.samples, C = call.task.classes;
  const Dtype dtype = accumulation_dtype(dtype_of(input));
  const double denominator = call.denominator(reduce);
  std::vector<Tensor> out;
  if (reduce != Reduction::kNone) {
    out.push_back(new_scalar(input));
  } else {
    out.push_back(call.batch ? new_tensor(input, {call.kept}, dtype) : new_tensor(input, {rows, call.kept}, dtype));
  }
  out.push_back(new_tensor(input, {rows, C, 3}, dtype));
  if (second != SecondTerm::kNone) out.push_back(new_tensor(input, {1}, dtype));
  if (wants(gradients, 0)) {
    out.push_back(new_output(input));
    call.task.gradient = out.back().mutable_data_ptr();
  }
  const double factor = reduction_factor(reduce, denominator);
  call.run(read_weights(weight), reduce, [&](int64_t, int64_t) { return factor; });
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = C - call.kept; c < C; ++c) {
      const double loss = call.losses[r * C + c];
      total += loss;
      if (reduce == Reduction::kNone) store(out[0], r * call.kept + c - (C - call.kept), loss);
    }
  }
  total *= call.task.options.overlap_weight / denominator;
  if (second != SecondTerm::kNone) {
    store(out[2], 0, call.second_count);
    total += call.task.options.second_weight * call.second_sum * reduction_factor(reduce, call.second_count);
  }
  if (reduce != Reduction::kNone) set_scalar(out[0], total);
  for (size_t i = 0; i < call.sums.size(); ++i) store(out[1], static_cast<int64_t>(i), call.sums[i]);
  return out;
}

template <class F>
std::vector<Tensor> backward(const char* name, const Tensor& grad_output, const Tensor& saved, const Tensor& input,
                             const Tensor& target, const OptionalTensor& weight, const Options& options,
                             int64_t reduction, int64_t gradients, const Tensor* count = nullptr,
                             SecondTerm second = SecondTerm::kNone) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call<F> call(name, input, target, options, second);
  if (!wants(gradients, 0)) return {};
  Tensor gradient = new_output(input);
  call.task.gradient = gradient.mutable_data_ptr();
  const int64_t rows = call.batch ? 1 : call.samples, C = call.task.classes;
  read_values(saved.const_data_ptr(), dtype_of(saved), 0, saved.numel(), call.sums.data());
  call.losses.assign(rows * C, 0.0);
  call.by_I = call.by_P = call.losses;
  std::vector<double> incoming(grad_output.numel());
  read_values(grad_output.const_data_ptr(), dtype_of(grad_output), 0, grad_output.numel(), incoming.data());
  const double factor = reduction_factor(reduce, call.denominator(reduce));
  const std::vector<double> weights = read_weights(weight);
  for (int64_t r = 0; r < rows; ++r) {
    call.finish(r, 0, C, weights, [&](int64_t row, int64_t k) {
      return factor * incoming[reduce == Reduction::kNone ? row * call.kept + k : 0];
    });
  }
  if (count) {
    call.second_count = scalar_value(*count);
    call.set_second_scale(reduce, incoming[0]);
  }
  call.write_gradients();
  return {gradient};
}

}  // namespace

// The boxed entry points of one loss.
#define FL_DEFINE(op, Functor, ...)                                                                                    \
  std::vector<Tensor> op##_cpu(Tensor input, Tensor target, OptionalTensor weight, Options options, int64_t reduction, \
                               int64_t gradients) {                                                                    \
    return forward<Functor>(#op, input, target, weight, options, reduction, gradients);                                \
  }                                                                                                                    \
  std::vector<Tensor> op##_backward_cpu(Tensor grad_output, Tensor sums, Tensor input, Tensor target,                  \
                                        OptionalTensor weight, Options options, int64_t reduction,                     \
                                        int64_t gradients) {                                                           \
    return backward<Functor>(#op, grad_output, sums, input, target, weight, options, reduction, gradients);            \
  }
FL_OVERLAP_LOSSES(FL_DEFINE)
#undef FL_DEFINE

#define FL_DEFINE(op, kSecond, ...)                                                                                    \
  std::vector<Tensor> op##_cpu(Tensor input, Tensor target, OptionalTensor weight, Options options, int64_t reduction, \
                               int64_t gradients) {                                                                    \
    return forward<Dice>(#op, input, target, weight, options, reduction, gradients, SecondTerm::kSecond);              \
  }                                                                                                                    \
  std::vector<Tensor> op##_backward_cpu(Tensor grad_output, Tensor sums, Tensor count, Tensor input, Tensor target,    \
                                        OptionalTensor weight, Options options, int64_t reduction,                     \
                                        int64_t gradients) {                                                           \
    return backward<Dice>(#op, grad_output, sums, input, target, weight, options, reduction, gradients, &count,        \
                          SecondTerm::kSecond);                                                                        \
  }
FL_COMPOUND_LOSSES(FL_DEFINE)
#undef FL_DEFINE

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, Functor, ...)                            \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &op##_cpu>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &op##_backward_cpu>::call)));
  FL_OVERLAP_LOSSES(FL_REGISTER)
  FL_COMPOUND_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
