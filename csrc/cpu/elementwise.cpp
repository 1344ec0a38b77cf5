// The tensor side of the elementwise family: one result for each element, one pass for loss and gradient.
#include "cpu/elementwise.h"

#include <cmath>

#include "host/check.h"
#include "cpu/isa.h"
#include "cpu/memory.h"

namespace fused_losses {
namespace {

constexpr const char* kNames[] = {
#define FL_NAME(op, Functor, ...) #op,
    FL_ELEMENTWISE_LOSSES(FL_NAME)
#undef FL_NAME
};

// A broadcast operand in the accumulation dtype; holds the converted values.
struct Broadcast {
  Source source;
  std::vector<double> doubles;
  std::vector<float> floats;
};

Source whole(const Tensor& t) { return {t.const_data_ptr(), dtype_of(t)}; }

constexpr int64_t kLongRun = 512;

// The values of `t`, `copies` times over.
template <class A>
void read_as(const Tensor& t, int64_t copies, std::vector<A>* out) {
  const int64_t n = t.numel();
  out->resize(n * copies);
  read_values(t.const_data_ptr(), dtype_of(t), 0, n, out->data());
  for (int64_t i = n; i < n * copies; ++i) (*out)[i] = (*out)[i - n];
}

// `t` broadcast to `input` (from the last dimension): all of it, one element, or one run of equal dimensions.
void broadcast(const OptionalTensor& t, const Tensor& input, Broadcast* out) {
  if (!t) return;
  if (t->numel() == input.numel()) {
    out->source = whole(*t);
    return;
  }
  // Alone, a short run would be copied piece by piece: repeated, it is read in long ones.
  const Dtype dtype = accumulation_dtype(dtype_of(input));
  int64_t inner = 1;
  if (t->numel() > 1) {
    for (int64_t d = t->dim() - 1, i = input.dim() - 1; d >= 0 && t->size(d) == 1; --d, --i) inner *= input.size(i);
  }
  const int64_t copies = inner == 1 && t->numel() < kLongRun ? kLongRun / (t->numel() > 0 ? t->numel() : 1) : 1;
  out->source = {nullptr, dtype, t->numel() * copies, inner};
  if (dtype == Dtype::kFloat64) {
    read_as(*t, copies, &out->doubles);
    out->source.data = out->doubles.data();
  } else {
    read_as(*t, copies, &out->floats);
    out->source.data = out->floats.data();
  }
}

// One call of one loss, forward or backward.
struct Call {
  const ElementwiseEntry& entry;
  ElementwiseOp op;
  const Tensor& input;
  ElementwiseTask task;
  Broadcast weight, pos_weight;
  std::atomic<int64_t> invalid;
  int64_t n;
  int wide;

  Call(ElementwiseOp op, const Tensor& input, const Tensor& target, const OptionalTensor& w, const OptionalTensor& p,
       const Options& options)
      : entry(
            for_isa(base::elementwise_loops, avx2::elementwise_loops, avx512::elementwise_loops)[static_cast<int>(op)]),
        op(op),
        input(input),
        n(input.numel()),
        wide(dtype_of(input) == Dtype::kFloat64) {
    broadcast(w, input, &weight);
    broadcast(p, input, &pos_weight);
    task.input = whole(input);
    task.target = whole(target);
    task.weight = weight.source;
    task.pos_weight = pos_weight.source;
    task.options = &options;
    invalid = n;
    task.invalid = &invalid;
  }

  double denominator(Reduction reduction) const {
    if (reduction == Reduction::kBatchMean) return static_cast<double>(input.size(0));
    if (reduction != Reduction::kMean) return 1;
    const bool counts = entry.counts_weights ? bool(task.weight) : entry.count[wide] && task.options->ignores();
    if (!counts) return static_cast<double>(n);
    return chunked_sum(n, [&](int64_t begin, int64_t end) { return entry.count[wide](task, begin, end); });
  }

  double run(const Tensor& target) {
    const double sum = chunked_sum(n, [&](int64_t begin, int64_t end) { return entry.run[wide](task, begin, end); });
    if (invalid < n) {
      double given = 0;
      read_values(target.const_data_ptr(), dtype_of(target), invalid, 1, &given);
      refuse(kNames[static_cast<int>(op)], given, invalid.load(), entry.expected_target);
    }
    return sum;
  }
};

// Allocates the gradients asked for and points the task at them.
std::vector<Tensor> gradient_outputs(ElementwiseTask* task, const Tensor& input, const Tensor& target,
                                     int64_t gradients, std::vector<Tensor> out) {
  if (wants(gradients, 0)) {
    out.push_back(new_output(input));
    task->grad_input = out.back().mutable_data_ptr();
  }
  if (wants(gradients, 1)) {
    out.push_back(new_output(target));
    task->grad_target = out.back().mutable_data_ptr();
  }
  const int64_t bytes[] = {element_size(dtype_of(input)), element_size(dtype_of(target))};
  const bool written[] = {task->grad_input != nullptr, task->grad_target != nullptr};
  task->stream = streams(input.numel() * (bytes[0] * (1 + written[0]) + bytes[1] * (1 + written[1])));
  return out;
}

template <ElementwiseOp op>
std::vector<Tensor> forward(Tensor input, Tensor target, OptionalTensor weight, OptionalTensor pos_weight,
                            Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(op, input, target, weight, pos_weight, options);
  if (reduce == Reduction::kNone) {
    const auto sizes = input.sizes();
    Tensor loss = new_tensor(input, sizes.data(), sizes.size(), accumulation_dtype(dtype_of(input)));
    expect_large_writes(loss.mutable_data_ptr(), call.n * element_size(dtype_of(loss)));
    call.task.loss = loss.mutable_data_ptr();
    call.run(target);
    return {loss};
  }
  const double denominator = call.denominator(reduce);
  call.task.scale = reduction_factor(reduce, denominator);
  std::vector<Tensor> out = gradient_outputs(&call.task, input, target, gradients, {new_scalar(input)});
  const double sum = call.run(target);
  set_scalar(out[0], sum / denominator);
  return out;
}

template <ElementwiseOp op>
std::vector<Tensor> backward(Tensor grad_output, Tensor input, Tensor target, OptionalTensor weight,
                             OptionalTensor pos_weight, Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(op, input, target, weight, pos_weight, options);
  if (reduce == Reduction::kNone) {
    call.task.incoming = whole(grad_output);
  } else {
    call.task.scale = scalar_value(grad_output) * reduction_factor(reduce, call.denominator(reduce));
  }
  std::vector<Tensor> out = gradient_outputs(&call.task, input, target, gradients, {});
  call.run(target);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, Functor, ...)                                              \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<ElementwiseOp::op>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &backward<ElementwiseOp::op>>::call)));
  FL_ELEMENTWISE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
