// The tensor side of the row-sums family: a sum over each row, a loss of that sum, and gradients to every operand.
#include "cpu/row_sums.h"

#include "cpu/isa.h"
#include "cpu/legacy.h"
#include "cpu/memory.h"

namespace fused_losses {
namespace {

const RowSumsEntry& entry_of(RowSumsOp op) {
  return for_isa(base::row_sums_loops, avx2::row_sums_loops, avx512::row_sums_loops)[static_cast<int>(op)];
}

using TensorPointers = std::vector<const Tensor*>;

// One call: operands [rows, length], the first `lead` dimensions being the rows, reduced over the rows.
struct Call {
  const RowSumsEntry& entry;
  TensorPointers operands;  // null where not given
  const Tensor& first;
  RowSumsTask task;
  int64_t rows = 1, batch;
  int wide;

  Call(RowSumsOp op, TensorPointers given, const Options& options, int64_t lead)
      : entry(entry_of(op)), operands(std::move(given)), first(*operands[0]), wide(dtype_of(first) == Dtype::kFloat64) {
    task.length = 1;
    for (int64_t d = 0; d < first.dim(); ++d) (d < lead ? rows : task.length) *= first.size(d);
    batch = first.dim() > 0 ? first.size(0) : 1;
    for (size_t k = 0; k < operands.size(); ++k) {
      if (!operands[k]) continue;
      task.operand[k] = operands[k]->const_data_ptr();
      task.operand_dtype[k] = dtype_of(*operands[k]);
    }
    task.options = &options;
  }

  // With a label for each row.
  Call(RowSumsOp op, TensorPointers given, const Tensor& target, const Options& options)
      : Call(op, std::move(given), options, 1) {
    task.target = target.const_data_ptr();
    task.target_dtype = dtype_of(target);
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

  // A new gradient of operand k.
  Tensor gradient(size_t k) {
    Tensor made = new_output(*operands[k]);
    task.grad[k] = made.mutable_data_ptr();
    return made;
  }

  void add_gradients(int64_t wanted, std::vector<Tensor>* out) {
    for (size_t k = 0; k < operands.size(); ++k) {
      if (operands[k] && wants(wanted, static_cast<int>(k))) out->push_back(gradient(k));
    }
    stream_what_exceeds_the_caches();
  }

  void stream_what_exceeds_the_caches() {
    int64_t touched = 0;
    for (size_t k = 0; k < operands.size(); ++k) {
      if (operands[k]) touched += operands[k]->numel() * element_size(task.operand_dtype[k]) * (task.grad[k] ? 2 : 1);
    }
    task.stream = exceeds_caches(touched);
  }
};

// A loss for each row, in the shape of the first `lead` dimensions.
Tensor row_losses(Call& call, int64_t lead) {
  Tensor loss = new_tensor(call.first, call.first.sizes().data(), lead, accumulation_dtype(dtype_of(call.first)));
  call.task.loss = loss.mutable_data_ptr();
  return loss;
}

std::vector<Tensor> forward(Call&& call, int64_t lead, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  if (reduce == Reduction::kNone) {
    std::vector<Tensor> out = {row_losses(call, lead)};
    call.run(reduce);
    return out;
  }
  const double denominator = call.denominator(reduce);
  call.task.scale = reduction_factor(reduce, denominator);
  std::vector<Tensor> out = {new_scalar(call.first)};
  call.add_gradients(gradients, &out);
  set_scalar(out[0], call.run(reduce) / denominator);
  return out;
}

std::vector<Tensor> backward(Call&& call, const Tensor& grad_output, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  if (reduce == Reduction::kNone) {
    call.task.incoming = grad_output.const_data_ptr();
  } else {
    call.task.scale = scalar_value(grad_output) * reduction_factor(reduce, call.denominator(reduce));
  }
  std::vector<Tensor> out;
  call.add_gradients(gradients, &out);
  call.run(reduce);
  return out;
}

// The boxed entry points of each set of tensors.

template <RowSumsOp op>
std::vector<Tensor> pair_forward(Tensor x1, Tensor x2, Tensor target, Options options, int64_t reduction,
                                 int64_t gradients) {
  return forward(Call(op, {&x1, &x2}, target, options), 1, reduction, gradients);
}

template <RowSumsOp op>
std::vector<Tensor> pair_backward(Tensor grad_output, Tensor x1, Tensor x2, Tensor target, Options options,
                                  int64_t reduction, int64_t gradients) {
  return backward(Call(op, {&x1, &x2}, target, options), grad_output, reduction, gradients);
}

template <RowSumsOp op>
std::vector<Tensor> labelled_forward(Tensor whitened, Tensor target, Options options, int64_t reduction,
                                     int64_t gradients) {
  return forward(Call(op, {&whitened}, target, options), 1, reduction, gradients);
}

template <RowSumsOp op>
std::vector<Tensor> labelled_backward(Tensor grad_output, Tensor whitened, Tensor target, Options options,
                                      int64_t reduction, int64_t gradients) {
  return backward(Call(op, {&whitened}, target, options), grad_output, reduction, gradients);
}

template <RowSumsOp op>
std::vector<Tensor> whitened_forward(Tensor whitened, Options options, int64_t reduction, int64_t gradients) {
  return forward(Call(op, {&whitened}, options, 1), 1, reduction, gradients);
}

template <RowSumsOp op>
std::vector<Tensor> whitened_backward(Tensor grad_output, Tensor whitened, Options options, int64_t reduction,
                                      int64_t gradients) {
  return backward(Call(op, {&whitened}, options, 1), grad_output, reduction, gradients);
}

const Tensor* given(const OptionalTensor& t) { return t ? &*t : nullptr; }

template <RowSumsOp op>
std::vector<Tensor> gaussian_forward(Tensor mu, Tensor logvar, OptionalTensor prior_mu, OptionalTensor prior_logvar,
                                     Options options, int64_t reduction, int64_t gradients) {
  const int64_t lead = mu.dim() - 1;
  return forward(Call(op, {&mu, &logvar, given(prior_mu), given(prior_logvar)}, options, lead), lead, reduction,
                 gradients);
}

template <RowSumsOp op>
std::vector<Tensor> gaussian_backward(Tensor grad_output, Tensor mu, Tensor logvar, OptionalTensor prior_mu,
                                      OptionalTensor prior_logvar, Options options, int64_t reduction,
                                      int64_t gradients) {
  return backward(Call(op, {&mu, &logvar, given(prior_mu), given(prior_logvar)}, options, mu.dim() - 1), grad_output,
                  reduction, gradients);
}

RowSumsOp vae_term(const Options& options) {
  return options.likelihood == 0   ? RowSumsOp::vae_bernoulli
         : options.likelihood == 1 ? RowSumsOp::vae_bernoulli_logits
                                   : RowSumsOp::vae_gaussian;
}

// vae_loss: the sum of a reconstruction term and beta times GaussianKL, sample by sample.
struct VaeCall {
  const double beta;
  Call reconstruction, kl;

  VaeCall(const Tensor& x, const Tensor& target, const Tensor& mu, const Tensor& logvar, const Options& options)
      : beta(options.beta),
        reconstruction(vae_term(options), {&x, &target}, options, 1),
        kl(RowSumsOp::gaussian_kl, {&mu, &logvar}, options, 1) {}

  void add_gradients(int64_t wanted, std::vector<Tensor>* out) {
    if (wants(wanted, 0)) out->push_back(reconstruction.gradient(0));
    if (wants(wanted, 2)) out->push_back(kl.gradient(0));
    if (wants(wanted, 3)) out->push_back(kl.gradient(1));
    reconstruction.stream_what_exceeds_the_caches();
    kl.stream_what_exceeds_the_caches();
  }
};

// to[i] = a[i] + factor * b[i], n values of the accumulation dtype of `like`.
void add_scaled(const Tensor& a, double factor, const Tensor& b, Tensor* to) {
  for (int64_t i = 0, n = a.numel(); i < n; ++i) {
    if (dtype_of(a) == Dtype::kFloat64) {
      static_cast<double*>(to->mutable_data_ptr())[i] = static_cast<const double*>(a.const_data_ptr())[i] +
                                                        factor * static_cast<const double*>(b.const_data_ptr())[i];
    } else {
      static_cast<float*>(to->mutable_data_ptr())[i] = static_cast<float>(
          static_cast<const float*>(a.const_data_ptr())[i] + factor * static_cast<const float*>(b.const_data_ptr())[i]);
    }
  }
}

std::vector<Tensor> vae_forward(Tensor x, Tensor target, Tensor mu, Tensor logvar, Options options, int64_t reduction,
                                int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  VaeCall call(x, target, mu, logvar, options);
  std::vector<Tensor> out;
  if (reduce == Reduction::kNone) {
    Tensor nll = row_losses(call.reconstruction, 1), kl = row_losses(call.kl, 1);
    out = {new_like(nll), nll, kl};
    call.reconstruction.run(reduce);
    call.kl.run(reduce);
    add_scaled(nll, call.beta, kl, &out[0]);
    return out;
  }
  const double denominator = call.reconstruction.denominator(reduce), factor = reduction_factor(reduce, denominator);
  call.reconstruction.task.scale = factor;
  call.kl.task.scale = factor * call.beta;
  out = {new_scalar(x), new_scalar(x), new_scalar(x)};
  call.add_gradients(gradients, &out);
  const double nll = call.reconstruction.run(reduce) / denominator, kl = call.kl.run(reduce) / denominator;
  set_scalar(out[0], nll + call.beta * kl);
  set_scalar(out[1], nll);
  set_scalar(out[2], kl);
  return out;
}

std::vector<Tensor> vae_backward(Tensor grad_total, Tensor grad_reconstruction, Tensor grad_kl, Tensor x, Tensor target,
                                 Tensor mu, Tensor logvar, Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  VaeCall call(x, target, mu, logvar, options);
  Tensor nll = new_like(grad_total), kl = new_like(grad_total);  // incoming gradients of the two terms
  add_scaled(grad_reconstruction, 1, grad_total, &nll);
  add_scaled(grad_kl, call.beta, grad_total, &kl);
  if (reduce == Reduction::kNone) {
    call.reconstruction.task.incoming = nll.const_data_ptr();
    call.kl.task.incoming = kl.const_data_ptr();
  } else {
    const double factor = reduction_factor(reduce, call.reconstruction.denominator(reduce));
    call.reconstruction.task.scale = factor * scalar_value(nll);
    call.kl.task.scale = factor * scalar_value(kl);
  }
  std::vector<Tensor> out;
  call.add_gradients(gradients, &out);
  if (wants(gradients, 0)) call.reconstruction.run(reduce);
  if (wants(gradients, 2) || wants(gradients, 3)) call.kl.run(reduce);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(set, op)                                                         \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &set##_forward<RowSumsOp::op>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &set##_backward<RowSumsOp::op>>::call)));
#define FL_PAIR(op, Functor, ...) FL_REGISTER(pair, op)
#define FL_GAUSSIAN(op, Functor, ...) FL_REGISTER(gaussian, op)
#define FL_WHITENED(op, Functor, ...) FL_REGISTER(whitened, op)
#define FL_LABELLED(op, Functor, ...) FL_REGISTER(labelled, op)
  FL_PAIR_LOSSES(FL_PAIR)
  FL_GAUSSIAN_LOSSES(FL_GAUSSIAN)
  FL_WHITENED_LOSSES(FL_WHITENED)
  FL_LABELLED_LOSSES(FL_LABELLED)
#undef FL_PAIR
#undef FL_GAUSSIAN
#undef FL_WHITENED
#undef FL_LABELLED
#undef FL_REGISTER
  m.impl("vae_loss", TORCH_BOX((&Named<LossId::vae_loss, &vae_forward>::call)));
  m.impl("vae_loss_backward", TORCH_BOX((&Named<LossId::vae_loss, &vae_backward>::call)));
}

}  // namespace fused_losses
