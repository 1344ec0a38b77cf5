// The all-pairs family on CUDA: a block for each row of a tile of similarities, a thread for each column where columns
// are merged; all launches of a call from one function (host/all_pairs.h), none waits for the host.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/all_pairs.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/pairs.h"

#include "cuda/product.cuh"

template <class A>
__device__ __forceinline__ A scalar_or(const void* value, A otherwise) {
  return value ? *static_cast<const A*>(value) : otherwise;
}

// One row: calls run(j, logit, own, same) for each column of this thread.
template <class F, class A>
struct PairsRow {
  const PairsProblem& p;
  int64_t i;
  A scale, bias;

  __device__ __forceinline__ PairsRow(const PairsProblem& p, int64_t i)
      : p(p), i(i), scale(scalar_or(p.scale, A(1))), bias(scalar_or(p.bias, A(0))) {}

  __device__ __forceinline__ A* values() const { return static_cast<A*>(p.tile) + i * p.columns; }

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
    const int64_t label = F::kLabels ? p.row_labels[i] : 0;
    each_ahead(
        threadIdx.x, p.columns, blockDim.x, [&](int64_t j) { return values()[j]; },
        [&](int64_t j, A x) {
          const bool own = j == p.first + i, same = F::kLabels ? p.column_labels[j] == label : own;
          run(j, fma_(scale, x, bias), own, same);
        });
  }
};

// What is above the diagonal of a square of rows `stride` apart, below it: a block for each 32 x 32 of them.
template <class A>
__global__ void __launch_bounds__(kThreads) mirror_kernel(A* x, int64_t n, int64_t stride) {
  constexpr int kWarps = kThreads / 32;
  FL_SHARED(A, part, [32 * 33]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t side = (n + 31) / 32;
  for (int64_t block = blockIdx.x; block < side * side; block += gridDim.x) {
    const int64_t low = block / side * 32, left = block % side * 32;  // where it is written
    if (left > low) continue;
    for (int k = warp; k < 32; k += kWarps) {
      if (left + k < n && low + lane < n) part[k * 33 + lane] = x[(left + k) * stride + low + lane];
    }
    __syncthreads();
    for (int k = warp; k < 32; k += kWarps) {
      if (low + k < n && left + lane < low + k) x[(low + k) * stride + left + lane] = part[lane * 33 + k];
    }
    __syncthreads();
  }
}

template <class F, class A>
__global__ void __launch_bounds__(kThreads) pairs_statistics_kernel(const F f, const PairsProblem p) {
  FL_SHARED(A, shared, [32]);
  for (int64_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
    const PairsRow<F, A> row(p, i);
    A low = infinity_<A>(), high = -infinity_<A>();
    if constexpr (F::kStatistics > 0) {
      row.each([&](int64_t, A s, bool own, bool same) {
        low = f.in_low(own, same) && s < low ? s : low;
        high = f.in_high(own, same) && s > high ? s : high;
      });
      if constexpr (F::kLow) low = -block_max(-low, shared);
      high = block_max(high, shared);
    }
    const A known = F::kMirrors && p.known_max ? static_cast<const A*>(p.known_max)[i] : -infinity_<A>();
    high = known > high ? known : high;
    PairSums3<A> sums{};
    row.each([&](int64_t, A s, bool own, bool same) { sums += f.terms(s, own, same, low, high); });
    sums = {block_sum(sums.a, shared), block_sum(sums.b, shared), block_sum(sums.c, shared)};
    if (threadIdx.x != 0) continue;
    if constexpr (F::kMirrors) {
      if (p.known_max) sums = with_known(sums, p.known_sums + i * F::kColumnSums, known, high);
    }
    A statistics[F::kStatistics + 1];
    static_cast<A*>(p.losses)[i] = f.finish(low, high, sums, statistics);
    for (int k = 0; k < F::kStatistics; ++k) {
      static_cast<A*>(p.row_statistics)[i * F::kStatistics + k] = statistics[k];
    }
  }
}

template <class F, class A>
__global__ void __launch_bounds__(kThreads) pairs_gradient_kernel(const F f, const PairsProblem p) {
  FL_SHARED(A, shared, [32]);
  constexpr int kStep = F::kColumns ? 1 : F::kStatistics;
  const bool nothing_counts = p.results.counted && *p.results.counted == 0;
  const A factor = nothing_counts ? A(0) : gradient_scale<A>(p.results, p.results.counted);
  for (int64_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
    const PairsRow<F, A> row(p, i);
    const A* statistics = static_cast<const A*>(p.row_statistics) + i * F::kStatistics;
    const A* columns = static_cast<const A*>(p.column_statistics);
    A of_scale = 0, of_bias = 0;
    row.each([&](int64_t j, A s, bool own, bool same) {
      const A g = f.gradient(s, own, same, statistics, columns + j * kStep);
      of_scale += g * row.values()[j];
      of_bias += g;
      row.values()[j] = g * factor * row.scale;
    });
    of_scale = block_sum(of_scale, shared);
    of_bias = block_sum(of_bias, shared);
    if (threadIdx.x != 0) continue;
    static_cast<A*>(p.scalars)[2 * i] = of_scale;
    static_cast<A*>(p.scalars)[2 * i + 1] = of_bias;
  }
}

// The rows of a tile merged into each column's running maximum and the sums below it: 32 columns for each block, whose
// warps share the rows. The pair of a row with itself is no matter here: it is not among these columns, or its row's
// part in the sums is not asked for.
template <class F, class A>
__global__ void __launch_bounds__(kThreads) columns_kernel(const F f, const PairsProblem p, bool first) {
  constexpr int kWarps = kThreads / 32;
  FL_SHARED(A, highest, [kThreads]);
  FL_SHARED(PairSums3<A>, parts, [kThreads]);
  const A scale = scalar_or(p.scale, A(1)), bias = scalar_or(p.bias, A(0));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t begin = p.merged_from + blockIdx.x * int64_t{32}; begin < p.columns; begin += gridDim.x * int64_t{32}) {
    const int64_t j = begin + lane, rows = j < p.columns ? p.rows : 0;
    const A* x = static_cast<const A*>(p.tile) + j;
    const int64_t label = F::kLabels && rows > 0 ? p.column_labels[j] : 0;
    const auto each = [&](const auto& run) {
      each_ahead(
          warp, rows, kWarps, [&](int64_t i) { return x[i * p.columns]; },
          [&](int64_t i, A value) { run(fma_(scale, value, bias), F::kLabels && p.row_labels[i] == label); });
    };
    A most = -infinity_<A>();
    each([&](A s, bool same) { most = f.in_high(false, same) && s > most ? s : most; });
    highest[threadIdx.x] = most;
    __syncthreads();
    A* known = static_cast<A*>(p.column_max) + j;
    const A before = first || rows == 0 ? -infinity_<A>() : *known;
    most = before;
    for (int i = lane; i < kThreads; i += 32) most = highest[i] > most ? highest[i] : most;
    PairSums3<A> sums{};
    each([&](A s, bool same) { sums += f.terms(s, false, same, A(0), most); });
    parts[threadIdx.x] = sums;
    __syncthreads();  // also between the reads of `highest` and of `known` and what is written next
    if (warp > 0 || rows == 0) continue;
    for (int i = lane + 32; i < kThreads; i += 32) sums += parts[i];
    double* to = p.column_sums + j * F::kColumnSums;
    to[0] = (first ? 0.0 : below(most, to[0], before)) + static_cast<double>(sums.a);
    if constexpr (F::kColumnSums > 1) {
      to[1] = (first ? 0.0 : to[1]) + static_cast<double>(sums.b);
      to[2] = (first ? 0.0 : to[2]) + static_cast<double>(sums.c);
    }
    *known = most;
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) column_sums_kernel(const PairsProblem p) {
  for (int64_t j = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; j < p.columns;
       j += int64_t{gridDim.x} * blockDim.x) {
    static_cast<A*>(p.column_statistics)[j] =
        static_cast<A>(finite_shift(static_cast<const A*>(p.column_max)[j]) + log_(p.column_sums[j]));
  }
}

// The losses become the mean of both cross-entropies.
template <class A>
__global__ void __launch_bounds__(kThreads) both_losses_kernel(const PairsProblem p) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < p.rows; i += int64_t{gridDim.x} * blockDim.x) {
    const A own = static_cast<const A*>(p.row_statistics)[2 * i + 1];
    A& loss = static_cast<A*>(p.losses)[i];
    loss = A(0.5) * (loss + (static_cast<const A*>(p.column_statistics)[p.first + i] - own));
  }
}

// *counted = the rows whose statistic 1 is not 0.
template <class A>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const A* statistics, int64_t rows, int64_t step, double* counted) {
  FL_SHARED(double, shared, [32]);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) sum += statistics[i * step + 1] != A(0) ? 1 : 0;
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *counted = sum;
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    scalars_kernel(const A* scalars, int64_t rows, const Results results, A* scale, A* bias) {
  FL_SHARED(double, shared, [32]);
  double of_scale = 0, of_bias = 0;
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
    of_scale += scalars[2 * i];
    of_bias += scalars[2 * i + 1];
  }
  of_scale = block_sum(of_scale, shared);
  of_bias = block_sum(of_bias, shared);
  if (threadIdx.x != 0) return;
  const double factor = gradient_scale<double, A>(results, results.counted);
  if (scale) *scale = static_cast<A>(factor * of_scale);
  if (bias) *bias = static_cast<A>(factor * of_bias);
}

// Calls run(A{}) with the accumulation type.
template <class Run>
void with_accumulation(Dtype dtype, const Run& run) {
  if (dtype == Dtype::kFloat64) return run(double{});
  run(float{});
}

struct CudaAllPairs : CudaProducts {
  static constexpr int64_t kKeptBytes = CudaProducts::kTileBytes;

  static std::shared_ptr<void> prepare(PairsProblem*) { return nullptr; }

  static void mirror(const Matrix& square) {
    const Launch launch(square.owner);
    const int64_t side = (square.rows + 31) / 32;
    with_accumulation(dtype_of(square.owner), [&](auto tag) {
      launch(mirror_kernel<decltype(tag)>, launch.grid(side * side, 1), kThreads, 0,
             static_cast<decltype(tag)*>(square.data()), square.rows, square.stride);
    });
  }

  static void statistics(LossId id, const Options& options, const PairsProblem& problem, const Tensor& like) {
    with_functor(id, options, problem.dtype, [&](const auto& f, auto tag) {
      const Launch launch(like);
      launch(pairs_statistics_kernel<std::remove_cvref_t<decltype(f)>, decltype(tag)>, launch.grid(problem.rows, 1),
             kThreads, 0, f, problem);
    });
  }

  static void gradient(LossId id, const Options& options, const PairsProblem& problem, const Tensor& like) {
    with_functor(id, options, problem.dtype, [&](const auto& f, auto tag) {
      const Launch launch(like);
      launch(pairs_gradient_kernel<std::remove_cvref_t<decltype(f)>, decltype(tag)>, launch.grid(problem.rows, 1),
             kThreads, 0, f, problem);
    });
  }

  static void columns(LossId id, const Options& options, const PairsProblem& problem, const Tensor& like, bool first) {
    with_functor(id, options, problem.dtype, [&](const auto& f, auto tag) {
      using F = std::remove_cvref_t<decltype(f)>;
      if constexpr (F::kColumnSums > 0) {
        const Launch launch(like);
        const int grid = launch.grid(problem.columns - problem.merged_from, 32);
        launch(columns_kernel<F, decltype(tag)>, grid, kThreads, 0, f, problem, first);
      }
    });
  }

  static void finish_columns(const PairsProblem& problem, const Tensor& like) {
    const Launch launch(like);
    with_accumulation(problem.dtype, [&](auto tag) {
      using A = decltype(tag);
      launch(column_sums_kernel<A>, launch.grid(problem.columns, kThreads), kThreads, 0, problem);
      launch(both_losses_kernel<A>, launch.grid(problem.rows, kThreads), kThreads, 0, problem);
    });
  }

  static void count(const Matrix& statistics, double* counted) {
    const Launch launch(statistics.owner);
    with_accumulation(dtype_of(statistics.owner), [&](auto tag) {
      using A = decltype(tag);
      launch(count_kernel<A>, 1, kThreads, 0, static_cast<const A*>(statistics.data()), statistics.rows,
             statistics.columns, counted);
    });
  }

  static void reduce_scalars(const Tensor& scalars, const Results& results, void* scale, void* bias) {
    const Launch launch(scalars);
    with_accumulation(dtype_of(scalars), [&](auto tag) {
      using A = decltype(tag);
      launch(scalars_kernel<A>, 1, kThreads, 0, static_cast<const A*>(scalars.const_data_ptr()), scalars.size(0),
             results, static_cast<A*>(scale), static_cast<A*>(bias));
    });
  }

 private:
  // Calls run(functor, A{}) of a loss, with the accumulation type.
  template <class Run>
  static void with_functor(LossId id, const Options& options, Dtype dtype, const Run& run) {
    switch (id) {
#define FL_RUN(op, Functor, ...)                    \
  case LossId::op:                                  \
    static_assert(has_traits<Functor>(LossId::op)); \
    return with_accumulation(dtype, [&](auto tag) { run(Functor<decltype(tag)>(options), tag); });
      FL_ALL_PAIRS(FL_RUN)
#undef FL_RUN
      default:
        return;
    }
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<AllPairsCall<CudaAllPairs, LossId::op>, LossId::op>(m);
  FL_ALL_PAIRS(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
