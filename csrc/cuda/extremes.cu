// The extremes family on CUDA: a block for each row of a tile of squared distances; the gradient by the rows it is of,
// whose block looks for those that chose it. No atomics: the bits are the same from run to run.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/extremes.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/triplet.h"

#include "cuda/product.cuh"

template <class A, class T>
__device__ __forceinline__ A squared_distance(const T* a, const T* b, int64_t n, A* shared) {
  A sum = 0;
  for (int64_t d = threadIdx.x; d < n; d += blockDim.x) {
    const A difference = widen<A>(a[d]) - widen<A>(b[d]);
    sum = fma_(difference, difference, sum);
  }
  return block_sum(sum, shared);
}

template <class A, class T>
__global__ void __launch_bounds__(kThreads) norms_kernel(const ExtremesProblem p) {
  FL_SHARED(A, shared, [32]);
  for (int64_t i = blockIdx.x; i < p.columns; i += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + i * p.features;
    A sum = 0;
    for (int64_t d = threadIdx.x; d < p.features; d += blockDim.x) sum = fma_(widen<A>(x[d]), widen<A>(x[d]), sum);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) static_cast<A*>(p.norms)[i] = sum;
  }
}

// The largest value a thread has seen and its first place; NaN is the largest. None: place -1.
template <class A>
struct Largest {
  A value = -infinity_<A>();
  int place = -1;

  __device__ __forceinline__ void see(A x, int at) {
    if (place < 0 || x > value || (x != x && value == value)) {
      value = x;
      place = at;
    }
  }

  // The first place of the largest over the block's threads.
  __device__ __forceinline__ int of_block(A* shared, int* places) const {
    constexpr int kNone = 1 << 30;
    const A most = block_max(value, shared);
    const bool mine = place >= 0 && (value == most || (value != value && most != most));
    const int first = -block_max(mine ? -place : -kNone, places);
    return first == kNone ? -1 : first;
  }
};

// Chooses the rows of a tile's anchors; their losses and factors.
template <class A, class T>
__global__ void __launch_bounds__(kThreads) choose_kernel(const BatchHard<A> f, const ExtremesProblem p) {
  FL_SHARED(A, shared, [32]);
  FL_SHARED(int, places, [32]);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t i = p.first + row, label = p.labels[i];
    const A* tile = static_cast<const A*>(p.tile) + row * p.columns;
    Largest<A> far, near;
    for (int64_t j = threadIdx.x; j < p.columns; j += blockDim.x) {
      if (p.labels[j] != label) {
        near.see(-tile[j], static_cast<int>(j));
      } else if (j != i) {
        far.see(tile[j], static_cast<int>(j));
      }
    }
    int positive = far.of_block(shared, places), negative = near.of_block(shared, places);
    TripletTerms<A> terms{};
    if (positive < 0 || negative < 0) {  // as every thread knows
      positive = negative = -1;
    } else {
      const T* x = static_cast<const T*>(p.x);
      const A farthest = squared_distance<A>(x + i * p.features, x + positive * p.features, p.features, shared);
      terms = f(farthest, squared_distance<A>(x + i * p.features, x + negative * p.features, p.features, shared));
    }
    if (threadIdx.x != 0) continue;
    A* chosen = static_cast<A*>(p.chosen) + i * 4;
    chosen[0] = static_cast<A>(positive);
    chosen[1] = static_cast<A>(negative);
    chosen[2] = terms.positive;
    chosen[3] = terms.negative;
    static_cast<A*>(p.losses)[i] = terms.loss;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) count_anchors_kernel(const ExtremesProblem p, double* counted) {
  FL_SHARED(double, shared, [32]);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.columns; i += blockDim.x) {
    sum += static_cast<const A*>(p.chosen)[4 * i] >= A(0) ? 1 : 0;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *counted = sum;
}

// The gradient of row k by this block; a thread has features of its own.
template <class A, class T>
struct GradientRow {
  const ExtremesProblem& p;
  int64_t k;

  __device__ __forceinline__ const A* chosen(int64_t anchor) const {
    return static_cast<const A*>(p.chosen) + 4 * anchor;
  }

  __device__ __forceinline__ void add(int64_t other, A factor) const {
    const T *x = static_cast<const T*>(p.x) + k * p.features, *y = static_cast<const T*>(p.x) + other * p.features;
    A* to = static_cast<A*>(p.gradient) + k * p.features;
    for (int64_t d = threadIdx.x; d < p.features; d += blockDim.x) to[d] += factor * (widen<A>(x[d]) - widen<A>(y[d]));
  }

  __device__ __forceinline__ void scale(A factor, bool clears) const {
    A* to = static_cast<A*>(p.gradient) + k * p.features;
    for (int64_t d = threadIdx.x; d < p.features; d += blockDim.x) to[d] = clears ? A(0) : to[d] * factor;
  }

  // Bit b, and 16 + b: anchor begin + b blockDim.x of this thread chose row k as its positive, as its negative.
  __device__ __forceinline__ unsigned who_chose(int64_t begin) const {
    unsigned found = 0;
    for (int b = 0; b < 16; ++b) {
      const int64_t anchor = begin + b * int64_t{blockDim.x};
      if (anchor >= p.columns) break;
      if (chosen(anchor)[0] == static_cast<A>(k)) found |= 1u << b;
      if (chosen(anchor)[1] == static_cast<A>(k)) found |= 1u << (16 + b);
    }
    return found;
  }

  // The anchors of all threads that chose row k, in the order of the threads.
  __device__ __forceinline__ void add_anchors(int64_t begin, const unsigned* found) const {
    for (unsigned thread = 0; thread < blockDim.x; ++thread) {
      for (unsigned bit = 0; found[thread] != 0 && bit < 32; ++bit) {
        if ((found[thread] >> bit & 1) == 0) continue;
        const int64_t anchor = begin + thread + (bit % 16) * int64_t{blockDim.x};
        add(anchor, chosen(anchor)[2 + bit / 16]);
      }
    }
  }
};

template <class A, class T>
__global__ void __launch_bounds__(kThreads) extremes_gradient_kernel(const ExtremesProblem p) {
  FL_SHARED(unsigned, found, [kThreads]);
  FL_SHARED(int, shared, [32]);
  const bool nothing_counts = p.results.counted && *p.results.counted == 0;
  const A factor = nothing_counts ? A(0) : gradient_scale<A>(p.results, p.results.counted);
  for (int64_t k = blockIdx.x; k < p.columns; k += gridDim.x) {
    const GradientRow<A, T> row{p, k};
    row.scale(A(0), true);
    const A* own = row.chosen(k);
    for (int which = 0; which < 2 && own[0] >= A(0); ++which) {
      CUDA_KERNEL_ASSERT(own[which] >= A(0) && own[which] < static_cast<A>(p.columns) && "a row in [0, N)");
      row.add(static_cast<int64_t>(own[which]), own[2 + which]);
    }
    for (int64_t begin = 0; begin < p.columns; begin += 16 * int64_t{blockDim.x}) {
      const unsigned mine = row.who_chose(begin + threadIdx.x);
      if (block_max(mine != 0 ? 1 : 0, shared) == 0) continue;
      found[threadIdx.x] = mine;
      __syncthreads();
      row.add_anchors(begin, found);
      __syncthreads();
    }
    row.scale(factor, false);
  }
}

struct CudaExtremes : CudaProducts {
  static std::shared_ptr<void> prepare(ExtremesProblem*) { return nullptr; }

  static void norms(const ExtremesProblem& problem, const Tensor& like) {
    const Launch launch(like);
    with_floating(problem.x_dtype, [&](auto tag) {
      using T = decltype(tag);
      launch(norms_kernel<Accumulation<T>, T>, launch.grid(problem.columns, 1), kThreads, 0, problem);
    });
  }

  static void choose(LossId, const Options& options, const ExtremesProblem& problem, const Tensor& like) {
    const Launch launch(like);
    with_floating(problem.x_dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulation<T>;
      launch(choose_kernel<A, T>, launch.grid(problem.rows, 1), kThreads, 0, BatchHard<A>(options), problem);
    });
  }

  static void count(const ExtremesProblem& problem, const Tensor& like, double* counted) {
    const Launch launch(like);
    with_floating(problem.dtype, [&](auto tag) {
      launch(count_anchors_kernel<Accumulation<decltype(tag)>>, 1, kThreads, 0, problem, counted);
    });
  }

  static void gradient(const ExtremesProblem& problem, const Tensor& like) {
    const Launch launch(like);
    with_floating(problem.x_dtype, [&](auto tag) {
      using T = decltype(tag);
      launch(extremes_gradient_kernel<Accumulation<T>, T>, launch.grid(problem.columns, 1), kThreads, 0, problem);
    });
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<ExtremesCall<CudaExtremes, LossId::op>, LossId::op>(m);
  FL_EXTREMES_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
