// The tensor side of the softmax family: one softmax for each position, one pass over memory for loss and gradient.
#include "cpu/softmax.h"

#include <memory>

#include "host/check.h"
#include "cpu/isa.h"
#include "cpu/legacy.h"
#include "cpu/memory.h"

namespace fused_losses {
namespace {

constexpr const char* kNames[] = {
#define FL_NAME(op, Functor, ...) #op,
    FL_SOFTMAX_LOSSES(FL_NAME) FL_SOFTMAX_PAIR_LOSSES(FL_NAME)
#undef FL_NAME
};

// What the positions [begin, end) with class indices add to the denominator of the mean: the weights of their classes,
// ones without. Indices out of range are left to the loops.
template <class Index>
double counted(const Index* y, int64_t begin, int64_t end, int64_t ignore_index, const double* weight,
               int64_t classes) {
  if (!weight) {
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) count += static_cast<int64_t>(y[i]) != ignore_index;
    return static_cast<double>(count);
  }
  double sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t c = static_cast<int64_t>(y[i]);
    if (c != ignore_index && c >= 0 && c < classes) sum += weight[c];
  }
  return sum;
}

// One call of one loss, forward or backward.
struct Call {
  const SoftmaxEntry& entry;
  SoftmaxOp op;
  const Tensor& input;
  const Tensor& target;
  SoftmaxTask task;
  std::vector<double> weight;
  std::vector<float> narrow_weight;
  std::atomic<int64_t> invalid;
  std::vector<int64_t> shape;  // of the losses
  int64_t positions;
  bool wide;

  Call(SoftmaxOp op, const Tensor& input, const Tensor& target, const OptionalTensor& w, const Options& options)
      : entry(for_isa(base::softmax_loops, avx2::softmax_loops, avx512::softmax_loops)[static_cast<int>(op)]),
        op(op),
        input(input),
        target(target),
        positions(1),
        wide(dtype_of(input) == Dtype::kFloat64) {
    const int64_t dims = input.dim();
    const int64_t dim = entry.pair ? static_cast<int64_t>(options.dim) : dims > 1 ? 1 : 0;
    task.outer = task.inner = 1;
    task.classes = input.size(dim);
    for (int64_t d = 0; d < dims; ++d) {
      if (d == dim) continue;
      (d < dim ? task.outer : task.inner) *= input.size(d);
      shape.push_back(input.size(d));
    }
    positions = task.outer * task.inner;
    task.input = input.const_data_ptr();
    task.target = target.const_data_ptr();
    task.dtype = dtype_of(input);
    task.target_dtype = dtype_of(target);
    task.indices = !entry.pair && target.dim() < dims;
    task.ignore_index = entry.pair ? 0 : static_cast<int64_t>(options.ignore_index);
    task.smoothing = entry.pair ? 0 : options.label_smoothing;
    task.options = &options;
    task.incoming = nullptr;
    task.weight = nullptr;
    if (!entry.pair) read_weight(w);
    invalid = positions;
    task.invalid = &invalid;
  }

  // Weights in the accumulation dtype; ones where none are given, null where the loops need none.
  void read_weight(const OptionalTensor& w) {
    task.weight = nullptr;
    if (w) {
      weight.resize(task.classes);
      read_values(w->const_data_ptr(), dtype_of(*w), 0, task.classes, weight.data());
    } else if (task.indices && task.smoothing == 0) {
      return;
    } else if (wide) {
      weight.assign(task.classes, 1.0);
    } else {
      narrow_weight.assign(task.classes, 1.0f);
    }
    if (w && !wide) narrow_weight.assign(weight.begin(), weight.end());
    weight.resize(padded_classes(task.classes));
    narrow_weight.resize(padded_classes(task.classes));
    task.weight = wide ? static_cast<const void*>(weight.data()) : narrow_weight.data();
  }

  double denominator(Reduction reduction, bool weighted) const {
    if (reduction == Reduction::kBatchMean) return static_cast<double>(input.size(0));
    if (reduction != Reduction::kMean) return 1;
    if (!task.indices) return static_cast<double>(positions);
    const double* w = weighted && entry.weighted_mean ? weight.data() : nullptr;
    return chunked_sum(positions, [&](int64_t begin, int64_t end) {
      switch (task.target_dtype) {
        case Dtype::kUInt8:
          return counted(static_cast<const uint8_t*>(task.target), begin, end, task.ignore_index, w, task.classes);
        case Dtype::kInt32:
          return counted(static_cast<const int32_t*>(task.target), begin, end, task.ignore_index, w, task.classes);
        default:
          return counted(static_cast<const int64_t*>(task.target), begin, end, task.ignore_index, w, task.classes);
      }
    });
  }

  // Positions of which one partial sum is kept: whole groups where the loops gather several outer indices.
  int64_t chunk() const {
    int64_t n = kChunk / (task.classes > 0 ? task.classes : 1);
    if (runs_as_rows(task.classes, task.inner)) return n > 0 ? n : 1;
    const int64_t lanes = tile_lanes(task.classes);
    if (n < lanes) n = lanes;
    return task.inner < kGatherInner ? n / task.inner * task.inner : n;
  }

  double run() {
    if (positions == 0) return 0;
    const int64_t size = chunk(), chunks = (positions + size - 1) / size;
    const int64_t bytes = scratch_size(task.classes, task.inner) * (wide ? sizeof(double) : sizeof(float));
    std::vector<double> partial(chunks);
    const SoftmaxLoop loop = entry.run[wide];
    parallel(chunks, positions / chunks * (task.classes + 1), [&](int64_t first, int64_t last) {
      const std::unique_ptr<char[]> space(new char[bytes + 64]);  // touched only where values pass through it
      char* scratch = space.get() + (64 - reinterpret_cast<uintptr_t>(space.get()) % 64);
      for (int64_t c = first; c < last; ++c) {
        partial[c] = loop(task, c * size, c + 1 < chunks ? (c + 1) * size : positions, scratch);
      }
    });
    if (invalid < positions) {
      double given = 0;
      read_values(target.const_data_ptr(), dtype_of(target), invalid, 1, &given);
      refuse_value(kNames[static_cast<int>(op)], given, invalid.load(), "class index in [0, ", task.classes,
             ") or ignore_index ", task.ignore_index);
    }
    double sum = 0;
    for (const double p : partial) sum += p;
    return sum;
  }

  // Allocates the gradients asked for and points the task at them.
  std::vector<Tensor> gradient_outputs(int64_t gradients, std::vector<Tensor> out) {
    if (wants(gradients, 0)) {
      out.push_back(new_output(input));
      task.grad_input = out.back().mutable_data_ptr();
    }
    if (entry.pair && wants(gradients, 1)) {
      out.push_back(new_output(target));
      task.grad_target = out.back().mutable_data_ptr();
    }
    return out;
  }
};

template <SoftmaxOp op>
std::vector<Tensor> forward(Tensor input, Tensor target, OptionalTensor weight, Options options, int64_t reduction,
                            int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(op, input, target, weight, options);
  if (reduce == Reduction::kNone) {
    Tensor loss = new_tensor(input, call.shape.data(), call.shape.size(), accumulation_dtype(dtype_of(input)));
    call.task.loss = loss.mutable_data_ptr();
    call.run();
    return {loss};
  }
  const double denominator = call.denominator(reduce, weight.has_value());
  call.task.scale = reduction_factor(reduce, denominator);
  std::vector<Tensor> out = call.gradient_outputs(gradients, {new_scalar(input)});
  const double sum = call.run();
  set_scalar(out[0], sum / denominator);
  return out;
}

template <SoftmaxOp op>
std::vector<Tensor> backward(Tensor grad_output, Tensor input, Tensor target, OptionalTensor weight, Options options,
                             int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(op, input, target, weight, options);
  if (reduce == Reduction::kNone) {
    call.task.incoming = grad_output.const_data_ptr();
  } else {
    call.task.scale =
        scalar_value(grad_output) * reduction_factor(reduce, call.denominator(reduce, weight.has_value()));
  }
  std::vector<Tensor> out = call.gradient_outputs(gradients, {});
  call.run();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, Functor, ...)                                          \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<SoftmaxOp::op>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &backward<SoftmaxOp::op>>::call)));
  FL_SOFTMAX_LOSSES(FL_REGISTER)
  FL_SOFTMAX_PAIR_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
