// The row-sums family on CUDA: a warp (or, for long rows, a block) sums a row and writes its gradients from the cache.
//
// - Operands are read once from device memory: the second sweep of a row finds it in L1 or L2.
// - A linear loss that is reduced needs one sweep only, over the flat order.
// - 16-byte packs where every operand has the input's dtype, is aligned, and the row is a whole number of packs.
#include <vector>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/vae.h"

#include "cuda/row_sums.cuh"

template <class F, class T, bool kWrite>
void launch_kernel(const Launch& launch, const F& f, Operands o, const Tensor& like, bool flat) {
  const bool wide = o.length > kWarpRow;
  const int64_t per_block = wide ? 1 : kThreads / 32;
  const int grid =
      flat ? launch.grid(o.rows * o.length, int64_t{kThreads} * Pack<T>::kSize) : launch.grid(o.rows, per_block);
  GridSum workspace(launch, like, grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  if (flat) {
    launch(flat_kernel<F, T, kWrite>, grid, kThreads, 0, f, o);
  } else if (wide) {
    launch(rows_kernel<F, T, kThreads, kWrite>, grid, kThreads, 0, f, o);
  } else {
    launch(rows_kernel<F, T, 32, kWrite>, grid, kThreads, 0, f, o);
  }
}

using TensorPointers = std::vector<const Tensor*>;

// One call: operands [rows, length], the first `lead` dimensions being the rows, and the label of each row or null.
struct Call {
  TensorPointers operands;
  const Tensor* target;
  int64_t lead;
  Operands o{};

  Call(TensorPointers given, const Tensor* labels, int64_t lead_dims)
      : operands(std::move(given)), target(labels), lead(lead_dims) {
    const Tensor& x = first();
    o.rows = o.length = 1;
    for (int64_t d = 0; d < x.dim(); ++d) (d < lead ? o.rows : o.length) *= x.size(d);
    for (size_t k = 0; k < operands.size(); ++k) {
      if (!operands[k]) continue;
      o.in[k] = operands[k]->const_data_ptr();
      o.dtype[k] = dtype_of(*operands[k]);
    }
    if (target) {
      o.target = target->const_data_ptr();
      o.target_dtype = dtype_of(*target);
    }
  }

  const Tensor& first() const { return *operands[0]; }

  Tensor gradient(size_t k) {
    Tensor made = new_like(*operands[k]);
    o.grad[k] = made.mutable_data_ptr();
    return made;
  }

  void add_gradients(int64_t wanted, std::vector<Tensor>* out) {
    for (size_t k = 0; k < operands.size(); ++k) {
      if (operands[k] && wants(wanted, static_cast<int>(k))) out->push_back(gradient(k));
    }
  }

  // The result of `reduction`: a loss for each row in the shape of the leading dimensions, or a scalar.
  Tensor result(Reduction reduction) {
    if (reduction != Reduction::kNone) {
      Tensor total = new_scalar(first());
      o.total = total.mutable_data_ptr();
      return total;
    }
    Tensor loss = new_tensor(first(), first().sizes().data(), lead, accumulation_dtype(dtype_of(first())));
    o.loss = loss.mutable_data_ptr();
    return loss;
  }

  // extra: a factor of every gradient.
  template <template <class> class Functor>
  void run(const Options& options, Reduction reduction, double extra = 1) {
    const Launch launch(first());
    double denominator = 1;
    if (reduction == Reduction::kMean) denominator = static_cast<double>(o.rows);
    if (reduction == Reduction::kBatchMean) denominator = first().dim() > 0 ? static_cast<double>(first().size(0)) : 1;
    o.factor = 1 / denominator;
    o.gradient_factor = extra / denominator;
    unsigned given = 0;
    bool write = false, same = true;
    for (size_t k = 0; k < operands.size(); ++k) {
      if (!operands[k]) continue;
      given |= 1u << k;
      same = same && o.dtype[k] == o.dtype[0];
      write = write || o.grad[k] != nullptr;
    }
    with_floating(dtype_of(first()), [&](auto tag) {
      using T = decltype(tag);
      const bool flat = Functor<float>::kLinear && reduction != Reduction::kNone;
      const int64_t whole = flat ? o.rows * o.length : o.length;
      o.packed = same && whole % Pack<T>::kSize == 0 && aligned(o.in[0], o.in[1], o.in[2], o.in[3]) &&
                 aligned(o.grad[0], o.grad[1], o.grad[2], o.grad[3]);
      Functor<Accumulation<T>>::with(options, given, [&](auto f) {
        using F = decltype(f);
        if (write) {
          launch_kernel<F, T, true>(launch, f, o, first(), flat);
        } else {
          launch_kernel<F, T, false>(launch, f, o, first(), flat);
        }
        return 0;
      });
    });
  }

  void set_incoming(const Tensor& grad_output, Reduction reduction) {
    o.incoming = grad_output.const_data_ptr();
    o.incoming_scalar = reduction != Reduction::kNone;
  }
};

template <template <class> class Functor>
std::vector<Tensor> forward(Call&& call, const Options& options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  std::vector<Tensor> out = {call.result(reduce)};
  if (reduce != Reduction::kNone) call.add_gradients(gradients, &out);
  call.run<Functor>(options, reduce);
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> backward(Call&& call, const Tensor& grad_output, const Options& options, int64_t reduction,
                             int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  std::vector<Tensor> out;
  call.add_gradients(gradients, &out);
  call.set_incoming(grad_output, reduce);
  call.run<Functor>(options, reduce);
  return out;
}

// The boxed entry points of each set of tensors.

template <template <class> class Functor>
std::vector<Tensor> pair_forward(Tensor x1, Tensor x2, Tensor target, Options options, int64_t reduction,
                                 int64_t gradients) {
  return forward<Functor>(Call({&x1, &x2}, &target, 1), options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> pair_backward(Tensor grad_output, Tensor x1, Tensor x2, Tensor target, Options options,
                                  int64_t reduction, int64_t gradients) {
  return backward<Functor>(Call({&x1, &x2}, &target, 1), grad_output, options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> labelled_forward(Tensor whitened, Tensor target, Options options, int64_t reduction,
                                     int64_t gradients) {
  return forward<Functor>(Call({&whitened}, &target, 1), options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> labelled_backward(Tensor grad_output, Tensor whitened, Tensor target, Options options,
                                      int64_t reduction, int64_t gradients) {
  return backward<Functor>(Call({&whitened}, &target, 1), grad_output, options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> whitened_forward(Tensor whitened, Options options, int64_t reduction, int64_t gradients) {
  return forward<Functor>(Call({&whitened}, nullptr, 1), options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> whitened_backward(Tensor grad_output, Tensor whitened, Options options, int64_t reduction,
                                      int64_t gradients) {
  return backward<Functor>(Call({&whitened}, nullptr, 1), grad_output, options, reduction, gradients);
}

const Tensor* given(const OptionalTensor& t) { return t ? &*t : nullptr; }

template <template <class> class Functor>
std::vector<Tensor> gaussian_forward(Tensor mu, Tensor logvar, OptionalTensor prior_mu, OptionalTensor prior_logvar,
                                     Options options, int64_t reduction, int64_t gradients) {
  return forward<Functor>(Call({&mu, &logvar, given(prior_mu), given(prior_logvar)}, nullptr, mu.dim() - 1), options,
                          reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> gaussian_backward(Tensor grad_output, Tensor mu, Tensor logvar, OptionalTensor prior_mu,
                                      OptionalTensor prior_logvar, Options options, int64_t reduction,
                                      int64_t gradients) {
  return backward<Functor>(Call({&mu, &logvar, given(prior_mu), given(prior_logvar)}, nullptr, mu.dim() - 1),
                           grad_output, options, reduction, gradients);
}

// to[i] = a[i] + factor b[i]
template <class A>
__global__ void __launch_bounds__(kThreads) add_scaled_kernel(const A* a, double factor, const A* b, A* to, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = a[i] + static_cast<A>(factor) * b[i];
  }
}

// A new tensor a + factor b of the accumulation dtype both have.
Tensor add_scaled(const Tensor& a, double factor, const Tensor& b) {
  Tensor to = new_like(a);
  const Launch launch(a);
  with_floating(dtype_of(a), [&](auto tag) {
    using A = Accumulation<decltype(tag)>;
    launch(add_scaled_kernel<A>, launch.grid(a.numel(), kThreads), kThreads, 0,
           static_cast<const A*>(a.const_data_ptr()), factor, static_cast<const A*>(b.const_data_ptr()),
           static_cast<A*>(to.mutable_data_ptr()), a.numel());
  });
  return to;
}

// vae_loss: options likelihood, beta; the sum of a reconstruction term and beta times GaussianKL, sample by sample.
struct VaeCall {
  const Options& options;
  Call reconstruction, kl;

  VaeCall(const Tensor& x, const Tensor& target, const Tensor& mu, const Tensor& logvar, const Options& given)
      : options(given), reconstruction({&x, &target}, nullptr, 1), kl({&mu, &logvar}, nullptr, 1) {}

  void add_gradients(int64_t wanted, std::vector<Tensor>* out) {
    if (wants(wanted, 0)) out->push_back(reconstruction.gradient(0));
    if (wants(wanted, 2)) out->push_back(kl.gradient(0));
    if (wants(wanted, 3)) out->push_back(kl.gradient(1));
  }

  // beta: factor of the divergence's gradient.
  void run(Reduction reduction, double beta) {
    switch (static_cast<int>(options.likelihood)) {
      case 0:
        reconstruction.run<BernoulliTerm>(options, reduction);
        break;
      case 1:
        reconstruction.run<BernoulliLogitsTerm>(options, reduction);
        break;
      default:
        reconstruction.run<GaussianTerm>(options, reduction);
        break;
    }
    kl.run<GaussianKL>(options, reduction, beta);
  }
};

std::vector<Tensor> vae_forward(Tensor x, Tensor target, Tensor mu, Tensor logvar, Options options, int64_t reduction,
                                int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  VaeCall call(x, target, mu, logvar, options);
  Tensor nll = call.reconstruction.result(reduce), kl = call.kl.result(reduce);
  std::vector<Tensor> out = {nll, nll, kl};
  if (reduce != Reduction::kNone) call.add_gradients(gradients, &out);
  call.run(reduce, options.beta);
  out[0] = add_scaled(nll, options.beta, kl);
  return out;
}

std::vector<Tensor> vae_backward(Tensor grad_total, Tensor grad_reconstruction, Tensor grad_kl, Tensor x, Tensor target,
                                 Tensor mu, Tensor logvar, Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  VaeCall call(x, target, mu, logvar, options);
  const Tensor nll = add_scaled(grad_reconstruction, 1, grad_total), kl = add_scaled(grad_kl, options.beta, grad_total);
  std::vector<Tensor> out;
  call.add_gradients(gradients, &out);
  call.reconstruction.set_incoming(nll, reduce);
  call.kl.set_incoming(kl, reduce);
  call.run(reduce, 1);
  return out;
}

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(set, op, Functor, ...)                                     \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &set##_forward<Functor>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &set##_backward<Functor>>::call)));
#define FL_PAIR(op, Functor, ...) FL_REGISTER(pair, op, Functor)
#define FL_GAUSSIAN(op, Functor, ...) FL_REGISTER(gaussian, op, Functor)
#define FL_WHITENED(op, Functor, ...) FL_REGISTER(whitened, op, Functor)
#define FL_LABELLED(op, Functor, ...) FL_REGISTER(labelled, op, Functor)
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

}  // namespace fused_losses::cuda
