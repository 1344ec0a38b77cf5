// The tensor side of the pairs family: a sum over each row, a loss of that sum, and gradients to every operand.
#include "pairs.h"

#include "isa.h"

namespace fused_losses {
namespace {

const PairsEntry& entry_of(PairsOp op) {
  return for_isa(base::pairs_loops, avx2::pairs_loops, avx512::pairs_loops)[static_cast<int>(op)];
}

// One call: [rows, length] operands, reduced over the rows.
struct Call {
  const PairsEntry& entry;
  const Tensor& first;
  PairsTask task;
  int64_t rows, batch;
  int wide;

  Call(PairsOp op, const std::vector<const Tensor*>& operands, const Options& options)
      : entry(entry_of(op)), first(*operands[0]), wide(dtype_of(first) == Dtype::kFloat64) {
    const int64_t dims = first.dim();
    task.length = dims > 0 ? first.size(dims - 1) : 1;
    rows = 1;
    for (int64_t d = 0; d + 1 < dims; ++d) rows *= first.size(d);
    batch = dims > 0 ? first.size(0) : 1;
    for (size_t k = 0; k < operands.size(); ++k) {
      if (!operands[k]) continue;
      task.operand[k] = operands[k]->const_data_ptr();
      task.operand_dtype[k] = dtype_of(*operands[k]);
    }
    task.options = options.data();
  }

  double denominator(Reduction reduction) const {
    if (reduction == Reduction::kMean) return static_cast<double>(rows);
    return reduction == Reduction::kBatchMean ? static_cast<double>(batch) : 1.0;
  }

  double run(Reduction reduction) {
    if (entry.linear && reduction != Reduction::kNone) {
      task.flat = true;
      return chunked_sum(rows * task.length, [&](int64_t b, int64_t e) { return entry.run[wide](task, b, e); });
    }
    return chunked_sum(rows, task.length, [&](int64_t b, int64_t e) { return entry.run[wide](task, b, e); });
  }

  std::vector<Tensor> gradients(const std::vector<const Tensor*>& operands, int64_t wanted, std::vector<Tensor> out) {
    for (size_t k = 0; k < operands.size(); ++k) {
      if (!operands[k] || !wants(wanted, static_cast<int>(k))) continue;
      out.push_back(new_output(*operands[k]));
      task.grad[k] = out.back().mutable_data_ptr();
    }
    return out;
  }
};

std::vector<Tensor> forward(Call& call, const std::vector<const Tensor*>& operands, int64_t reduction,
                            int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  if (reduce == Reduction::kNone) {
    const auto sizes = call.first.sizes();
    Tensor loss = new_tensor(call.first, sizes.data(), static_cast<int64_t>(sizes.size()) - 1,
                             accumulation_dtype(dtype_of(call.first)));
    call.task.loss = loss.mutable_data_ptr();
    call.run(reduce);
    return {loss};
  }
  const double denominator = call.denominator(reduce);
  call.task.scale = reduction_factor(reduce, denominator);
  std::vector<Tensor> out = call.gradients(operands, gradients, {new_scalar(call.first)});
  set_scalar(out[0], call.run(reduce) / denominator);
  return out;
}

std::vector<Tensor> backward(Call& call, const Tensor& grad_output, const std::vector<const Tensor*>& operands,
                             int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  if (reduce == Reduction::kNone) {
    call.task.incoming = grad_output.const_data_ptr();
  } else {
    call.task.scale = scalar_value(grad_output) * reduction_factor(reduce, call.denominator(reduce));
  }
  std::vector<Tensor> out = call.gradients(operands, gradients, {});
  call.run(reduce);
  return out;
}

Call pair_call(PairsOp op, const std::vector<const Tensor*>& operands, const Tensor& target, const Options& options) {
  Call call(op, operands, options);
  call.task.target = target.const_data_ptr();
  call.task.target_dtype = dtype_of(target);
  return call;
}

template <PairsOp op>
std::vector<Tensor> pair_forward(Tensor x1, Tensor x2, Tensor target, Options options, int64_t reduction,
                                 int64_t gradients) {
  const std::vector<const Tensor*> operands = {&x1, &x2};
  Call call = pair_call(op, operands, target, options);
  return forward(call, operands, reduction, gradients);
}

template <PairsOp op>
std::vector<Tensor> pair_backward(Tensor grad_output, Tensor x1, Tensor x2, Tensor target, Options options,
                                  int64_t reduction, int64_t gradients) {
  const std::vector<const Tensor*> operands = {&x1, &x2};
  Call call = pair_call(op, operands, target, options);
  return backward(call, grad_output, operands, reduction, gradients);
}

const Tensor* given(const OptionalTensor& t) { return t ? &*t : nullptr; }

template <PairsOp op>
std::vector<Tensor> gaussian_forward(Tensor mu, Tensor logvar, OptionalTensor prior_mu, OptionalTensor prior_logvar,
                                     Options options, int64_t reduction, int64_t gradients) {
  const std::vector<const Tensor*> operands = {&mu, &logvar, given(prior_mu), given(prior_logvar)};
  Call call(op, operands, options);
  return forward(call, operands, reduction, gradients);
}

template <PairsOp op>
std::vector<Tensor> gaussian_backward(Tensor grad_output, Tensor mu, Tensor logvar, OptionalTensor prior_mu,
                                      OptionalTensor prior_logvar, Options options, int64_t reduction,
                                      int64_t gradients) {
  const std::vector<const Tensor*> operands = {&mu, &logvar, given(prior_mu), given(prior_logvar)};
  Call call(op, operands, options);
  return backward(call, grad_output, operands, reduction, gradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, Functor)                                \
  m.impl(#op, TORCH_BOX(&pair_forward<PairsOp::op>));           \
  m.impl(#op "_backward", TORCH_BOX(&pair_backward<PairsOp::op>));
  FL_PAIR_LOSSES(FL_REGISTER)
#undef FL_REGISTER
#define FL_REGISTER(op, Functor)                                \
  m.impl(#op, TORCH_BOX(&gaussian_forward<PairsOp::op>));       \
  m.impl(#op "_backward", TORCH_BOX(&gaussian_backward<PairsOp::op>));
  FL_GAUSSIAN_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
