// The elementwise family on CUDA: one read of input and target, loss and gradient in registers, one write.
//
// - One launch: partial sums by block, the last block adds them and writes the loss (reduce.cuh).
// - Two 16-byte packs of input and of target in flight per thread before the first use.
// - The denominator of the mean, where it depends on data, is a launch of its own and stays on the device.
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
#include "formulas/divergence.h"
#include "formulas/regression.h"

// Where one operand's values come from: element i reads data[(i / inner) % period], or data[i] when period is 0.
struct Source {
  const void* data;
  Dtype dtype;
  int64_t period, inner;
};

// Pointers of one call; null where not given or not wanted. n: elements.
struct Operands {
  int64_t n;
  const void *input, *target;  // [n] dtype of input; [n] any dtype
  Dtype target_dtype;
  Source weight, pos_weight;
  const void* incoming;  // [n], or one element with `incoming_scalar`; accumulation dtype
  bool incoming_scalar;
  double factor;                   // 1 / denominator where it is known on the host
  const double* denominator;       // else the denominator
  void* loss;                      // [n] accumulation dtype, for "none"
  void* total;                     // [1] accumulation dtype, for the other reductions
  void *grad_input, *grad_target;  // [n] dtype of input, of target
  double* partial;                 // workspace of grid_sum
  unsigned* finished;
  bool packed;  // all pointers allow 16-byte packs
};

template <class A>
__device__ __forceinline__ A broadcast_value(const Source& s, int64_t i) {
  if (s.data == nullptr) return A(1);
  if (s.period == 1) return load_any<A>(s.data, s.dtype, 0);
  if (s.period == 0) return load_any<A>(s.data, s.dtype, i);
  return load_any<A>(s.data, s.dtype, i / s.inner % s.period);
}

// The factor of every gradient but the incoming gradient of each element.
template <class A>
__device__ __forceinline__ A gradient_scale(const Operands& o) {
  double scale = o.denominator ? 1.0 / *o.denominator : o.factor;
  if (o.incoming && o.incoming_scalar) scale *= *static_cast<const A*>(o.incoming);
  return static_cast<A>(scale);
}

// Element i of one call: its weighted loss, which is returned; its outputs but the gradient of the input, which is set.
template <class F, class A>
__device__ __forceinline__ A element(const F& f, const Operands& o, A scale, int64_t i, A x, A t, A* grad_input) {
  if constexpr (F::kChecks) CUDA_KERNEL_ASSERT(f.valid(t));
  const Terms<A> r = f(x, t, broadcast_value<A>(o.pos_weight, i));
  const A w = broadcast_value<A>(o.weight, i);
  bool counts = true;
  if constexpr (F::kIgnores) counts = !f.ignored(t);
  const A loss = counts ? w * r.loss : A(0);
  if (o.loss) static_cast<A*>(o.loss)[i] = loss;
  A s = scale * w;
  if (o.incoming && !o.incoming_scalar) s *= static_cast<const A*>(o.incoming)[i];
  *grad_input = counts ? s * r.grad_input : A(0);
  if constexpr (F::kGradTarget) {
    if (o.grad_target) store_any(o.grad_target, o.target_dtype, i, counts ? s * r.grad_target : A(0));
  }
  return loss;
}

// A gradient in its storage type; float16 holds up to 65504.
template <class F, class T, class A>
__device__ __forceinline__ T narrow_gradient(A g) {
  if constexpr (F::kSaturates && std::is_same_v<T, __half>) g = max_(min_(g, A(65504)), A(-65504));
  return narrow<T>(g);
}

// One pack of elements from `at`; target values are read as they are stored.
template <class F, class T, class A, bool kSameDtype>
__device__ __forceinline__ A pack_of(const F& f, const Operands& o, A scale, int64_t at, const Pack<T>& x,
                                     const Pack<T>& t) {
  Pack<T> grad;
  A sum = 0;
#pragma unroll
  for (int k = 0; k < Pack<T>::kSize; ++k) {
    const A target = kSameDtype ? widen<A>(t.values[k]) : load_any<A>(o.target, o.target_dtype, at + k);
    A g;
    sum += element<F, A>(f, o, scale, at + k, widen<A>(x.values[k]), target, &g);
    grad.values[k] = narrow_gradient<F, T>(g);
  }
  if (o.grad_input) store_pack(static_cast<T*>(o.grad_input) + at, grad);
  return sum;
}

template <class F, class T, bool kSameDtype>
__global__ void __launch_bounds__(kThreads) elementwise_kernel(const F f, const Operands o) {
  using A = Accumulation<T>;
  constexpr int kPack = Pack<T>::kSize;
  const A scale = gradient_scale<A>(o);
  const T* input = static_cast<const T*>(o.input);
  const T* target = static_cast<const T*>(o.target);  // read as T only with kSameDtype
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = o.packed ? o.n / kPack : 0;
  A sum = 0;
  for (int64_t p = thread; p < packs; p += 2 * threads) {
    const int64_t first = p * kPack, second = (p + threads) * kPack;
    const bool both = p + threads < packs;
    Pack<T> x1 = load_pack(input + first), t1, x2, t2;
    if constexpr (kSameDtype) t1 = load_pack(target + first);
    if (both) {
      x2 = load_pack(input + second);
      if constexpr (kSameDtype) t2 = load_pack(target + second);
    }
    sum += pack_of<F, T, A, kSameDtype>(f, o, scale, first, x1, t1);
    if (both) sum += pack_of<F, T, A, kSameDtype>(f, o, scale, second, x2, t2);
  }
  for (int64_t i = packs * kPack + thread; i < o.n; i += threads) {
    A g;
    sum += element<F, A>(f, o, scale, i, widen<A>(input[i]), load_any<A>(o.target, o.target_dtype, i), &g);
    if (o.grad_input) static_cast<T*>(o.grad_input)[i] = narrow_gradient<F, T>(g);
  }
  if (o.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) {
    *static_cast<A*>(o.total) = static_cast<A>(o.denominator ? total / *o.denominator : total * o.factor);
  }
}

// *denominator = the sum of the weights, or the number of targets not ignored.
template <class F, class A>
__global__ void __launch_bounds__(kThreads) denominator_kernel(const F f, const Operands o, double* denominator) {
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  double sum = 0;
  for (int64_t i = thread; i < o.n; i += threads) {
    if constexpr (F::kIgnores) {
      sum += f.ignored(load_any<A>(o.target, o.target_dtype, i)) ? 0.0 : 1.0;
    } else {
      sum += broadcast_value<A>(o.weight, i);
    }
  }
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) *denominator = total;
}

Source source(const OptionalTensor& t, const Tensor& input) {
  if (!t) return {nullptr, Dtype::kFloat32, 0, 1};
  int64_t inner = 1;
  for (int64_t d = t->dim() - 1, i = input.dim() - 1; d >= 0 && t->size(d) == 1; --d, --i) inner *= input.size(i);
  const bool whole = t->numel() == input.numel();
  return {t->const_data_ptr(), dtype_of(*t), whole ? 0 : t->numel(), inner};
}

// One call of one loss, forward or backward: fills in the workspace, the denominator and launches.
template <template <class> class Functor>
void run(Operands o, const Tensor& input, const Tensor& target, const Options& options, Reduction reduction) {
  const Launch launch(input);
  const bool same = dtype_of(target) == dtype_of(input);
  o.n = input.numel();
  o.input = input.const_data_ptr();
  o.target = target.const_data_ptr();
  o.target_dtype = dtype_of(target);
  o.packed = aligned(o.input, o.grad_input) && (!same || aligned(o.target));
  o.factor = 1;
  if (reduction == Reduction::kMean) o.factor = 1.0 / static_cast<double>(o.n);
  if (reduction == Reduction::kBatchMean) o.factor = 1.0 / static_cast<double>(input.size(0));
  with_floating(dtype_of(input), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulation<T>;
    const int grid = launch.grid(o.n, int64_t{kThreads} * Pack<T>::kSize * 2);
    GridSum workspace(launch, input, grid);
    o.partial = workspace.data();
    o.finished = workspace.finished;
    Functor<A>::with(options, [&](auto f) {
      using F = decltype(f);
      Tensor denominator;
      const bool ignores = F::kIgnores && options.ignores();
      if (reduction == Reduction::kMean && (ignores || (F::kWeightedMean && o.weight.data))) {
        if constexpr (F::kIgnores || F::kWeightedMean) {
          denominator = new_tensor(input, {1}, Dtype::kFloat64);
          double* value = static_cast<double*>(denominator.mutable_data_ptr());
          launch(denominator_kernel<F, A>, grid, kThreads, 0, f, o, value);
          o.denominator = value;
        }
      }
      if (same && !std::is_same_v<T, double>) {
        launch(elementwise_kernel<F, T, !std::is_same_v<T, double>>, grid, kThreads, 0, f, o);
      } else {
        launch(elementwise_kernel<F, T, false>, grid, kThreads, 0, f, o);
      }
      return 0;
    });
  });
}

std::vector<Tensor> gradient_outputs(Operands* o, const Tensor& input, const Tensor& target, int64_t gradients,
                                     std::vector<Tensor> out) {
  if (wants(gradients, 0)) {
    out.push_back(new_like(input));
    o->grad_input = out.back().mutable_data_ptr();
  }
  if (wants(gradients, 1)) {
    out.push_back(new_like(target));
    o->grad_target = out.back().mutable_data_ptr();
  }
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> forward(Tensor input, Tensor target, OptionalTensor weight, OptionalTensor pos_weight,
                            Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Operands o{};
  o.weight = source(weight, input);
  o.pos_weight = source(pos_weight, input);
  std::vector<Tensor> out;
  if (reduce == Reduction::kNone) {
    const auto sizes = input.sizes();
    out.push_back(new_tensor(input, sizes.data(), sizes.size(), accumulation_dtype(dtype_of(input))));
    o.loss = out[0].mutable_data_ptr();
  } else {
    out.push_back(new_scalar(input));
    o.total = out[0].mutable_data_ptr();
    out = gradient_outputs(&o, input, target, gradients, std::move(out));
  }
  run<Functor>(o, input, target, options, reduce);
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> backward(Tensor grad_output, Tensor input, Tensor target, OptionalTensor weight,
                             OptionalTensor pos_weight, Options options, int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Operands o{};
  o.weight = source(weight, input);
  o.pos_weight = source(pos_weight, input);
  o.incoming = grad_output.const_data_ptr();
  o.incoming_scalar = reduce != Reduction::kNone;
  std::vector<Tensor> out = gradient_outputs(&o, input, target, gradients, {});
  run<Functor>(o, input, target, options, reduce);
  return out;
}

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, Functor, ...)                                    \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<Functor>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &backward<Functor>>::call)));
  FL_ELEMENTWISE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
