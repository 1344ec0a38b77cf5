// The elementwise family on CUDA: one read of input and target, loss and gradient in registers, one write.
//
// - One launch: partial sums by block, the last block adds them and writes the loss (reduce.cuh).
// - The kernel of a scalar loss and its gradient knows that nothing else is asked for (Scope::kPlain): no condition
//   parts the elements of a pack, which are computed side by side. The kernel of everything else goes one by one.
// - Two 16-byte packs of input and of target in flight per thread before the first use.
// - The denominator of the mean, where it depends on data, is a launch of its own and stays on the device.
#include <vector>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/elementwise.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/divergence.h"
#include "formulas/regression.h"
#include "formulas/custom.h"

// A Problem with what one launch adds to it.
struct ElementwiseOperands : ElementwiseProblem {
  const double* denominator;  // where the data says it, else null
  double* partial;            // workspace of grid_sum
  unsigned* finished;
  bool packed;    // all pointers allow 16-byte packs
  bool mask;      // the target holds integers
  bool ignoring;  // of class indices
  int64_t ignored_class;
};

// How the target is read: packs of the input's dtype, element by element, or made of class indices.
enum class Read { kPacks, kElements, kClasses };

// What is asked for. kPlain: a scalar loss, the gradient of the input, a weight and a pos_weight of one element if any.
enum class Scope { kPlain, kAll };

// The targets of neighbours from element `at` on, of class indices: 1 in the row of the class of its position.
class ClassTargets {
 public:
  __device__ __forceinline__ ClassTargets(const ElementwiseOperands& o, int64_t at) : o_(o) {
    if (o.n <= 0xffffffffLL) {  // 64-bit divisions cost several times as much
      const auto row = static_cast<unsigned>(at) / static_cast<unsigned>(o.positions);
      set(at, row, row / static_cast<unsigned>(o.classes));
    } else {
      const int64_t row = at / o.positions;
      set(at, row, row / o.classes);
    }
  }

  // The targets of the next elements.
  template <class A, int kSize>
  __device__ __forceinline__ void read(A (&targets)[kSize]) {
    if (position_ + kSize <= o_.positions) {  // all of one class
      int64_t y[kSize];
      load_any_values<false>(o_.target.data, o_.target.dtype, sample_ * o_.positions + position_, y);
#pragma unroll
      for (int k = 0; k < kSize; ++k) targets[k] = target_of<A>(y[k]);
    } else {
#pragma unroll 1
      for (int k = 0; k < kSize; ++k) targets[k] = next<A>();
    }
  }

  // The target of the next element.
  template <class A>
  __device__ __forceinline__ A next() {
    const A t = target_of<A>(integer_at(o_.target.data, o_.target.dtype, sample_ * o_.positions + position_));
    if (++position_ < o_.positions) return t;
    position_ = 0;
    if (++class_ < o_.classes) return t;
    class_ = 0;
    ++sample_;
    return t;
  }

 private:
  const ElementwiseOperands& o_;
  int64_t sample_, class_, position_;

  template <class A>
  __device__ __forceinline__ A target_of(int64_t y) const {
    const bool ignored = o_.ignoring && y == o_.ignored_class;
    CUDA_KERNEL_ASSERT((ignored || (y >= 0 && y < o_.classes)) && "class index in [0, C) or ignore_index");
    return ignored ? A(kIgnoredTarget) : A(y == class_);
  }

  __device__ __forceinline__ void set(int64_t at, int64_t row, int64_t sample) {
    sample_ = sample;
    class_ = row - sample * o_.classes;
    position_ = at - row * o_.positions;
  }
};

template <class A>
__device__ __forceinline__ A broadcast_value(const Operand& s, int64_t i) {
  if (s.data == nullptr) return A(1);
  if (s.period == 1) return load_any<A>(s.data, s.dtype, 0);
  if (s.period == 0) return load_any<A>(s.data, s.dtype, i);
  return load_any<A>(s.data, s.dtype, i / s.inner % s.period);
}

// What all elements share.
template <class A>
struct Shared {
  A scale;               // of every gradient
  A weight, pos_weight;  // where they have one element, else 1
};

template <class F, class A, Scope kScope>
__device__ __forceinline__ Terms<A> terms_at(const F& f, const ElementwiseOperands& o, const Shared<A>& shared,
                                             int64_t i, A x, A t) {
  if constexpr (F::kTensors > 3) {
    return f(x, t, load_any<A>(o.third.data, o.third.dtype, i), load_any<A>(o.fourth.data, o.fourth.dtype, i));
  } else if constexpr (F::kTensors > 2) {
    return f(x, t, load_any<A>(o.third.data, o.third.dtype, i));
  } else {
    return f(x, t, kScope == Scope::kPlain ? shared.pos_weight : broadcast_value<A>(o.pos_weight, i));
  }
}

// What a target may not be.
template <class F, class A>
__device__ __forceinline__ bool valid_element(const F& f, const ElementwiseOperands& o, A x, A t) {
  bool valid = true;
  if constexpr (F::kChecks) valid = F::valid_input(x) && F::valid_target(t);
  if constexpr (F::kMask) {
    bool allowed = !o.mask || t == A(0) || t == A(1);
    if constexpr (F::kIgnores) allowed = allowed || f.ignored(t);
    valid = valid && allowed;
  }
  return valid;
}

// Element i of one call: its weighted loss, which is returned; its outputs but the gradient of the input, which is set.
template <class F, bool kHasGradTarget, Scope kScope, class A>
__device__ __forceinline__ A element(const F& f, const ElementwiseOperands& o, const Shared<A>& shared, int64_t i, A x,
                                     A t, A* grad_input) {
  const Terms<A> r = terms_at<F, A, kScope>(f, o, shared, i, x, t);
  bool counts = true;
  if constexpr (F::kIgnores) counts = !f.ignored(t);
  if constexpr (kScope == Scope::kPlain) {
    *grad_input = counts ? shared.scale * r.grad_input : A(0);
    return counts ? shared.weight * r.loss : A(0);
  } else {
    const A w = broadcast_value<A>(o.weight, i);
    const A loss = counts ? w * r.loss : A(0);
    if (o.results.losses) static_cast<A*>(o.results.losses)[i] = loss;
    A s = shared.scale * w;
    if (o.results.per_item) s *= static_cast<const A*>(o.results.incoming)[i];
    *grad_input = counts ? s * r.grad_input : A(0);
    if constexpr (kHasGradTarget) {
      if (o.grad_target) store_any(o.grad_target, o.target.dtype, i, counts ? s * r.grad_target : A(0));
    }
    if constexpr (F::kTensors > 2) {
      if (o.grad_third) store_any(o.grad_third, o.third.dtype, i, counts ? s * r.grad_third : A(0));
      if (o.grad_fourth) store_any(o.grad_fourth, o.fourth.dtype, i, counts ? s * r.grad_fourth : A(0));
    }
    return loss;
  }
}

// A gradient in its storage type.
template <class F, class T, class A>
__device__ __forceinline__ T narrow_gradient(A g) {
  if constexpr (F::kSaturates && std::is_same_v<T, __half>) g = saturated(g);
  return narrow<T>(g);
}

// One pack of elements from `at`; target values are read as they are stored.
template <class F, class T, class A, Read kRead>
__device__ __forceinline__ A pack_of(const F& f, const ElementwiseOperands& o, const Shared<A>& shared, int64_t at,
                                     const Pack<T>& x, const Pack<T>& t) {
  constexpr int kSize = Pack<T>::kSize;
  A targets[kSize], sum = 0;
  if constexpr (kRead == Read::kClasses) {
    ClassTargets(o, at).read(targets);
  } else if constexpr (kRead == Read::kPacks) {
#pragma unroll
    for (int k = 0; k < kSize; ++k) targets[k] = widen<A>(t.values[k]);
  } else {
    load_any_values<true>(o.target.data, o.target.dtype, at, targets);
  }
  Pack<T> grad;
  bool valid = true;
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    A g;
    valid = valid && valid_element(f, o, widen<A>(x.values[k]), targets[k]);
    sum += element<F, false, Scope::kPlain, A>(f, o, shared, at + k, widen<A>(x.values[k]), targets[k], &g);
    grad.values[k] = narrow_gradient<F, T>(g);
  }
  CUDA_KERNEL_ASSERT(valid && "expected input in the domain of the loss, and target");
  if (o.grad_input) store_pack(static_cast<T*>(o.grad_input) + at, grad);
  return sum;
}

template <class F, bool kHasGradTarget, class T, Read kRead, Scope kScope>
__global__ void __launch_bounds__(kThreads) elementwise_kernel(const F f, const ElementwiseOperands o) {
  using A = Accumulation<T>;
  constexpr int kPack = Pack<T>::kSize;
  Shared<A> shared = {gradient_scale<A>(o.results, o.denominator), A(1), A(1)};
  if constexpr (kScope == Scope::kPlain) {
    shared.weight = broadcast_value<A>(o.weight, 0);
    shared.pos_weight = broadcast_value<A>(o.pos_weight, 0);
    shared.scale *= shared.weight;
  }
  const T* input = static_cast<const T*>(o.input.data);
  const T* target = static_cast<const T*>(o.target.data);  // read as T only in packs
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = kScope == Scope::kPlain && o.packed ? o.n / kPack : 0;
  double sum = 0;
  if constexpr (kScope == Scope::kPlain) {
    for (int64_t p = thread; p < packs; p += 2 * threads) {
      const int64_t first = p * kPack, second = (p + threads) * kPack;
      const bool both = p + threads < packs;
      Pack<T> x1 = load_pack(input + first), t1, x2, t2;
      if constexpr (kRead == Read::kPacks) t1 = load_pack(target + first);
      if (both) {
        x2 = load_pack(input + second);
        if constexpr (kRead == Read::kPacks) t2 = load_pack(target + second);
      }
      sum += pack_of<F, T, A, kRead>(f, o, shared, first, x1, t1);
      if (both) sum += pack_of<F, T, A, kRead>(f, o, shared, second, x2, t2);
    }
  }
#pragma unroll 1
  for (int64_t i = packs * kPack + thread; i < o.n; i += threads) {
    A target, g;
    if constexpr (kRead == Read::kClasses) {
      target = ClassTargets(o, i).next<A>();
    } else {
      target = load_any<A>(o.target.data, o.target.dtype, i);
    }
    const A x = widen<A>(input[i]);
    const bool valid = valid_element(f, o, x, target);
    CUDA_KERNEL_ASSERT(valid && "expected input in the domain of the loss, and target");
    sum += element<F, kHasGradTarget, kScope, A>(f, o, shared, i, x, target, &g);
    if (o.grad_input) static_cast<T*>(o.grad_input)[i] = narrow_gradient<F, T>(g);
  }
  if (o.results.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) store_total<A>(o.results, o.denominator, total);
}

// *denominator = the sum of the weights, or the number of targets not ignored, class indices for every class.
template <class F, class A>
__global__ void __launch_bounds__(kThreads)
    denominator_kernel(const F f, const ElementwiseOperands o, double* denominator) {
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  double sum = 0;
  const int64_t n = o.classes ? o.n / o.classes : o.n;
  for (int64_t i = thread; i < n; i += threads) {
    if (o.classes) {
      sum += integer_at(o.target.data, o.target.dtype, i) == o.ignored_class ? 0 : static_cast<double>(o.classes);
    } else if constexpr (F::kIgnores) {
      sum += f.ignored(load_any<A>(o.target.data, o.target.dtype, i)) ? 0.0 : 1.0;
    } else {
      sum += broadcast_value<A>(o.weight, i);
    }
  }
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) *denominator = total;
}

// Whether it is all in the scope of a plain kernel.
inline bool plain(const ElementwiseOperands& o) {
  const auto one = [](const Operand& s) { return s.data == nullptr || s.period == 1; };
  return !o.results.losses && !o.results.per_item && !o.grad_target && one(o.weight) && one(o.pos_weight);
}

template <template <class> class Functor, bool kHasGradTarget, bool kTakesClasses>
void run_loss(Options options, const ElementwiseProblem& problem, const Tensor& like) {
  const Launch launch(like);
  ElementwiseOperands o{problem};
  const bool same = o.target.dtype == o.input.dtype;
  o.mask = !is_floating(o.target.dtype) && !o.classes;
  o.ignoring = options.ignores();
  o.ignored_class = o.classes && o.ignoring ? static_cast<int64_t>(options.ignore_index) : 0;
  if (o.classes && o.ignoring) options.ignore_index = kIgnoredTarget;
  o.packed = aligned(o.input.data, o.grad_input) && (o.classes || aligned(o.target.data));
  with_floating(o.input.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulation<T>;
    const int grid = launch.grid(o.n, int64_t{kThreads} * Pack<T>::kSize * 2);
    GridSum workspace(launch, like, grid);
    o.partial = workspace.data();
    o.finished = workspace.finished;
    Functor<A>::with(options, [&](auto f) {
      using F = decltype(f);
      Tensor denominator;
      if constexpr (F::kIgnores || F::kWeightedMean) {
        if (o.results.counts && (F::kIgnores ? options.ignores() : bool(o.weight))) {
          denominator = new_tensor(like, {1}, Dtype::kFloat64);
          double* value = static_cast<double*>(denominator.mutable_data_ptr());
          launch(denominator_kernel<F, A>, grid, kThreads, 0, f, o, value);
          o.denominator = value;
        }
      }
      const auto go = [&](auto read) {
        constexpr Read kRead = decltype(read)::value;
        if constexpr (F::kTensors == 2) {
          if (plain(o)) {
            launch(elementwise_kernel<F, false, T, kRead, Scope::kPlain>, grid, kThreads, 0, f, o);
            return;
          }
        }
        constexpr Read kRest = kRead == Read::kPacks ? Read::kElements : kRead;
        launch(elementwise_kernel<F, kHasGradTarget, T, kRest, Scope::kAll>, grid, kThreads, 0, f, o);
      };
      if constexpr (kTakesClasses) {
        if (o.classes) {
          go(std::integral_constant<Read, Read::kClasses>{});
          return 0;
        }
      }
      constexpr Read kMayBePacks = std::is_same_v<T, double> ? Read::kElements : Read::kPacks;
      if (same) {
        go(std::integral_constant<Read, kMayBePacks>{});
      } else {
        go(std::integral_constant<Read, Read::kElements>{});
      }
      return 0;
    });
  });
}

struct CudaElementwise : CudaDevice {
  static void run(LossId id, const Options& options, const ElementwiseProblem& problem, const Tensor& like) {
    switch (id) {
#define FL_RUN(op, Functor, differentiable, ...) \
  case LossId::op:                               \
    return run_loss<Functor, lists(differentiable, "target"), takes_class_index(LossId::op)>(options, problem, like);
      FL_ELEMENTWISE_LOSSES(FL_RUN)
#undef FL_RUN
      default:
        return;
    }
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<ElementwiseCall<CudaElementwise>, LossId::op>(m);
  FL_ELEMENTWISE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
