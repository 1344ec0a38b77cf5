// The pairs family on CUDA: a warp (or, for long rows, a block) sums a row and writes its gradients from the cache.
//
// - Operands are read once from device memory: the second sweep of a row finds it in L1 or L2.
// - A linear loss that is reduced needs one sweep only, over the flat order.
// - 16-byte packs where every operand has the input's dtype, is aligned, and the row is a whole number of packs.
#include <vector>

#include "../losses.h"
#include "pack.cuh"
#include "reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "../math.h"
#include "../losses/terms.h"
#include "../losses/distance.h"

constexpr int64_t kWarpRow = 2048;  // longest row a single warp sums

// Pointers of one call, [rows, length] each; null where not given or not wanted.
struct Operands {
  int64_t rows, length;
  const void* in[4];
  Dtype dtype[4];
  void* grad[4];
  const void* target;          // [rows]
  Dtype target_dtype;
  const void* incoming;        // [rows], or one element with `incoming_scalar`; accumulation dtype
  bool incoming_scalar;
  double factor;               // 1 / denominator
  void* loss;                  // [rows] accumulation dtype, for "none"
  void* total;                 // [1] accumulation dtype, for the other reductions
  double* partial;             // workspace of grid_sum
  unsigned* finished;
  bool packed;
};

template <class T, class A, int kOperands>
__device__ __forceinline__ void load_elements(const Operands& o, int64_t at, A (&x)[4][Pack<T>::kSize]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k < kOperands && o.in[k]) {
      const Pack<T> pack = load_pack(static_cast<const T*>(o.in[k]) + at);
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) x[k][j] = widen<A>(pack.values[j]);
    } else {
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) x[k][j] = A(0);
    }
  }
}

// Elements first, first + step, ... of [begin, end) in packs: returns the sum of their terms; with kWrite stores
// coefficient * derivative.
template <class F, class T, class A, bool kWrite>
__device__ __forceinline__ A sweep_packs(const F& f, const Operands& o, A coefficient, int64_t begin, int64_t end,
                                         int64_t first, int64_t step) {
  constexpr int kPack = Pack<T>::kSize;
  A sum = 0;
  for (int64_t at = begin + first * kPack; at < end; at += step * kPack) {
    A x[4][kPack];
    load_elements<T, A, F::kOperands>(o, at, x);
    Pack<T> grad[4];
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const RowTerms<A> r = f(x[0][j], x[1][j], x[2][j], x[3][j]);
      sum += r.value;
      if constexpr (kWrite) {
#pragma unroll
        for (int k = 0; k < F::kOperands; ++k) grad[k].values[j] = narrow<T>(coefficient * r.grad[k]);
      }
    }
    if constexpr (kWrite) {
#pragma unroll
      for (int k = 0; k < F::kOperands; ++k) {
        if (o.grad[k]) store_pack(static_cast<T*>(o.grad[k]) + at, grad[k]);
      }
    }
  }
  return sum;
}

// As sweep_packs, one element at a time, any dtypes.
template <class F, class A, bool kWrite>
__device__ __forceinline__ A sweep_elements(const F& f, const Operands& o, A coefficient, int64_t begin, int64_t end,
                                            int64_t first, int64_t step) {
  A sum = 0;
  for (int64_t at = begin + first; at < end; at += step) {
    A x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = k < F::kOperands && o.in[k] ? load_any<A>(o.in[k], o.dtype[k], at) : A(0);
    const RowTerms<A> r = f(x[0], x[1], x[2], x[3]);
    sum += r.value;
    if constexpr (kWrite) {
#pragma unroll
      for (int k = 0; k < F::kOperands; ++k) {
        if (o.grad[k]) store_any(o.grad[k], o.dtype[k], at, coefficient * r.grad[k]);
      }
    }
  }
  return sum;
}

template <class F, class T, class A, bool kWrite>
__device__ __forceinline__ A sweep(const F& f, const Operands& o, A coefficient, int64_t begin, int64_t end,
                                   int64_t first, int64_t step) {
  if (o.packed) return sweep_packs<F, T, A, kWrite>(f, o, coefficient, begin, end, first, step);
  return sweep_elements<F, A, kWrite>(f, o, coefficient, begin, end, first, step);
}

template <class A>
__device__ __forceinline__ void finish_total(const Operands& o, double sum) {
  if (o.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) *static_cast<A*>(o.total) = static_cast<A>(total * o.factor);
}

// A reduced linear loss: the rows do not matter.
template <class F, class T, bool kWrite>
__global__ void __launch_bounds__(kThreads) flat_kernel(const F f, const Operands o) {
  using A = Accumulation<T>;
  A scale = static_cast<A>(o.factor);
  if (o.incoming) scale *= *static_cast<const A*>(o.incoming);
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  const A coefficient = scale * f.finish(A(0), A(0)).coefficient;
  finish_total<A>(o, sweep<F, T, A, kWrite>(f, o, coefficient, 0, o.rows * o.length, thread, threads));
}

// kGroup threads to a row: 32 (a warp) or kThreads (the block).
template <class F, class T, int kGroup, bool kWrite>
__global__ void __launch_bounds__(kThreads) rows_kernel(const F f, const Operands o) {
  using A = Accumulation<T>;
  __shared__ A shared[32];
  constexpr int kGroups = kThreads / kGroup;
  const int group = threadIdx.x / kGroup, lane = threadIdx.x % kGroup;
  double losses = 0;
  for (int64_t row = int64_t{blockIdx.x} * kGroups + group; row < o.rows; row += int64_t{gridDim.x} * kGroups) {
    const int64_t begin = row * o.length, end = begin + o.length;
    A sum = sweep<F, T, A, false>(f, o, A(1), begin, end, lane, kGroup);
    sum = kGroup == 32 ? warp_sum(sum) : block_sum(sum, shared);
    const A y = o.target ? load_any<A>(o.target, o.target_dtype, row) : A(0);
    const RowLoss<A> result = f.finish(sum, y);
    if (lane == 0) {
      if (o.loss) static_cast<A*>(o.loss)[row] = result.loss;
      losses += result.loss;
    }
    if constexpr (kWrite) {
      A scale = static_cast<A>(o.factor);
      if (o.incoming) scale *= static_cast<const A*>(o.incoming)[o.incoming_scalar ? 0 : row];
      sweep<F, T, A, true>(f, o, scale * result.coefficient, begin, end, lane, kGroup);
    }
  }
  finish_total<A>(o, losses);
}

template <class F, class T, bool kWrite>
void launch_kernel(const Launch& launch, const F& f, Operands o, const Tensor& like, bool flat) {
  const bool wide = o.length > kWarpRow;
  const int64_t per_block = wide ? 1 : kThreads / 32;
  const int grid = flat ? launch.grid(o.rows * o.length, int64_t{kThreads} * Pack<T>::kSize) : launch.grid(o.rows, per_block);
  GridSum workspace(launch, like, grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  if (flat) {
    flat_kernel<F, T, kWrite><<<grid, kThreads, 0, launch.stream()>>>(f, o);
  } else if (wide) {
    rows_kernel<F, T, kThreads, kWrite><<<grid, kThreads, 0, launch.stream()>>>(f, o);
  } else {
    rows_kernel<F, T, 32, kWrite><<<grid, kThreads, 0, launch.stream()>>>(f, o);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

using TensorPointers = std::vector<const Tensor*>;

template <template <class> class Functor>
void run(Operands o, const TensorPointers& operands, const Options& options, Reduction reduction) {
  const Tensor& first = *operands[0];
  const Launch launch(first);
  const int64_t dims = first.dim();
  o.length = dims > 0 ? first.size(dims - 1) : 1;
  o.rows = 1;
  for (int64_t d = 0; d + 1 < dims; ++d) o.rows *= first.size(d);
  o.factor = 1;
  if (reduction == Reduction::kMean) o.factor = 1.0 / static_cast<double>(o.rows);
  if (reduction == Reduction::kBatchMean) o.factor = 1.0 / static_cast<double>(dims > 0 ? first.size(0) : 1);
  unsigned given = 0;
  bool write = false, same = true;
  for (size_t k = 0; k < operands.size(); ++k) {
    if (!operands[k]) continue;
    given |= 1u << k;
    o.in[k] = operands[k]->const_data_ptr();
    o.dtype[k] = dtype_of(*operands[k]);
    same = same && o.dtype[k] == o.dtype[0];
    write = write || o.grad[k] != nullptr;
  }
  with_floating(dtype_of(first), [&](auto tag) {
    using T = decltype(tag);
    const bool flat = Functor<float>::kLinear && reduction != Reduction::kNone;
    const int64_t whole = flat ? o.rows * o.length : o.length;
    o.packed = same && whole % Pack<T>::kSize == 0 && aligned(o.in[0], o.in[1], o.in[2], o.in[3]) &&
               aligned(o.grad[0], o.grad[1], o.grad[2], o.grad[3]);
    Functor<Accumulation<T>>::with(options.data(), given, [&](auto f) {
      using F = decltype(f);
      if (write) {
        launch_kernel<F, T, true>(launch, f, o, first, flat);
      } else {
        launch_kernel<F, T, false>(launch, f, o, first, flat);
      }
      return 0;
    });
  });
}

std::vector<Tensor> gradient_outputs(Operands* o, const TensorPointers& operands, int64_t gradients,
                                     std::vector<Tensor> out) {
  for (size_t k = 0; k < operands.size(); ++k) {
    if (!operands[k] || !wants(gradients, static_cast<int>(k))) continue;
    out.push_back(new_like(*operands[k]));
    o->grad[k] = out.back().mutable_data_ptr();
  }
  return out;
}

void set_target(Operands* o, const Tensor* target) {
  if (!target) return;
  o->target = target->const_data_ptr();
  o->target_dtype = dtype_of(*target);
}

template <template <class> class Functor>
std::vector<Tensor> forward(const TensorPointers& operands, const Tensor* target, const Options& options,
                            int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  const Tensor& first = *operands[0];
  Operands o{};
  set_target(&o, target);
  std::vector<Tensor> out;
  if (reduce == Reduction::kNone) {
    const auto sizes = first.sizes();
    out.push_back(new_tensor(first, sizes.data(), static_cast<int64_t>(sizes.size()) - 1,
                             accumulation_dtype(dtype_of(first))));
    o.loss = out[0].mutable_data_ptr();
  } else {
    out.push_back(new_scalar(first));
    o.total = out[0].mutable_data_ptr();
    out = gradient_outputs(&o, operands, gradients, std::move(out));
  }
  run<Functor>(o, operands, options, reduce);
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> backward(const Tensor& grad_output, const TensorPointers& operands, const Tensor* target,
                             const Options& options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Operands o{};
  set_target(&o, target);
  o.incoming = grad_output.const_data_ptr();
  o.incoming_scalar = reduce != Reduction::kNone;
  std::vector<Tensor> out = gradient_outputs(&o, operands, gradients, {});
  run<Functor>(o, operands, options, reduce);
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> pair_forward(Tensor x1, Tensor x2, Tensor target, Options options, int64_t reduction,
                                 int64_t gradients) {
  return forward<Functor>({&x1, &x2}, &target, options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> pair_backward(Tensor grad_output, Tensor x1, Tensor x2, Tensor target, Options options,
                                  int64_t reduction, int64_t gradients) {
  return backward<Functor>(grad_output, {&x1, &x2}, &target, options, reduction, gradients);
}

const Tensor* given(const OptionalTensor& t) { return t ? &*t : nullptr; }

template <template <class> class Functor>
std::vector<Tensor> gaussian_forward(Tensor mu, Tensor logvar, OptionalTensor prior_mu, OptionalTensor prior_logvar,
                                     Options options, int64_t reduction, int64_t gradients) {
  return forward<Functor>({&mu, &logvar, given(prior_mu), given(prior_logvar)}, nullptr, options, reduction, gradients);
}

template <template <class> class Functor>
std::vector<Tensor> gaussian_backward(Tensor grad_output, Tensor mu, Tensor logvar, OptionalTensor prior_mu,
                                      OptionalTensor prior_logvar, Options options, int64_t reduction,
                                      int64_t gradients) {
  return backward<Functor>(grad_output, {&mu, &logvar, given(prior_mu), given(prior_logvar)}, nullptr, options,
                           reduction, gradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CUDA, m) {
#define FL_REGISTER(op, Functor)                    \
  m.impl(#op, TORCH_BOX(&pair_forward<Functor>));   \
  m.impl(#op "_backward", TORCH_BOX(&pair_backward<Functor>));
  FL_PAIR_LOSSES(FL_REGISTER)
#undef FL_REGISTER
#define FL_REGISTER(op, Functor)                        \
  m.impl(#op, TORCH_BOX(&gaussian_forward<Functor>));   \
  m.impl(#op "_backward", TORCH_BOX(&gaussian_backward<Functor>));
  FL_GAUSSIAN_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
