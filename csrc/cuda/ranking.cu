// The ranking family on CUDA: a warp takes a few items of a list and sweeps the whole list, its lanes over the others.
//
// - Ranks and the ideal order are found by counting, so nothing is sorted and no float is added atomically.
// - The smooth ranks take a sweep, their gradient a second one; pairs give loss and gradient in one.
// - Memory: a few values for each item. Sums of a list are partial sums of its groups of items, added in order.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/ranking.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/ranking.h"

constexpr int kRows = 4;  // items of one warp: a value loaded serves as many pairs

// A Problem with the workspace of one call: [lists, n] values of A (and flags), [lists, groups] partial sums.
template <class A>
struct Lists : RankingProblem {
  int64_t groups, cutoff;
  A* score;  // 0 where padded, as is the gain
  A* gain;
  A* discount;  // of the current rank; 0 where padded or beyond the cut-off
  A* fall;      // derivative of the loss by the smooth rank
  uint8_t* real;
  double* ideal;    // [lists, groups]
  double* sums;     // [lists, groups] discounted gains or pair losses
  double* partial;  // workspace of grid_sum
  unsigned* finished;
};

// The group of items a warp works on.
template <class A>
struct Group {
  int64_t list, first, base;  // first item; position of the list
  int count;

  __device__ __forceinline__ Group(const Lists<A>& o, int64_t index)
      : list(index / o.groups),
        first(index % o.groups * kRows),
        base(list * o.n),
        count(o.n - first < kRows ? static_cast<int>(o.n - first) : kRows) {}

  // A value of each item; that of the last one beyond the end.
  template <class T>
  __device__ __forceinline__ void load(const T* values, T (&x)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = values[base + first + (r < count ? r : count - 1)];
  }
};

__device__ __forceinline__ int64_t warp_index() { return (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / 32; }
__device__ __forceinline__ int64_t warp_count() { return int64_t{gridDim.x} * (blockDim.x / 32); }
__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }

// Sum of a list's partial sums, the same bits in every warp.
__device__ __forceinline__ double list_sum(const double* partial, int64_t list, int64_t groups) {
  double sum = 0;
  for (int64_t g = lane_index(); g < groups; g += 32) sum += partial[list * groups + g];
  return warp_sum(sum);
}

template <class A>
__device__ __forceinline__ A discount_of(int64_t rank) {
  return A(1) / log2(static_cast<A>(rank + 1));
}

template <class A>
__global__ void __launch_bounds__(kThreads) read_kernel(const Lists<A> o) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < o.lists * o.n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const bool real = o.mask == nullptr || o.mask[i] != 0;
    o.score[i] = real ? load_any<A>(o.scores.data, o.scores.dtype, i) : A(0);
    o.gain[i] = real ? gain_of(load_any<A>(o.relevance.data, o.relevance.dtype, i)) : A(0);
    o.real[i] = real;
  }
}

// Discounts of the current ranks, equal scores in the order of the input, and the groups' shares of the ideal DCG.
template <class A>
__global__ void __launch_bounds__(kThreads) rank_kernel(const Lists<A> o) {
  for (int64_t index = warp_index(); index < o.lists * o.groups; index += warp_count()) {
    const Group<A> group(o, index);
    A s[kRows], g[kRows];
    group.load(o.score, s);
    group.load(o.gain, g);
    int above[kRows] = {}, better[kRows] = {};
    for (int64_t j = lane_index(); j < o.n; j += 32) {
      if (!o.real[group.base + j]) continue;
      const A s_j = o.score[group.base + j], g_j = o.gain[group.base + j];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const bool before = j < group.first + r;
        above[r] += s_j > s[r] || (s_j == s[r] && before);
        better[r] += g_j > g[r] || (g_j == g[r] && before);
      }
    }
    double ideal = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t rank = 1 + warp_sum(above[r]), place = 1 + warp_sum(better[r]), i = group.base + group.first + r;
      if (r >= group.count) continue;
      const bool real = o.real[i];
      if (real && place <= o.cutoff) ideal += static_cast<double>(g[r] * discount_of<A>(place));
      if (lane_index() == 0) o.discount[i] = real && rank <= o.cutoff ? discount_of<A>(rank) : A(0);
    }
    if (lane_index() == 0) o.ideal[index] = ideal;
  }
}

template <class F, class A>
__global__ void __launch_bounds__(kThreads) smooth_kernel(const F f, const Lists<A> o) {
  for (int64_t index = warp_index(); index < o.lists * o.groups; index += warp_count()) {
    const Group<A> group(o, index);
    const A ideal = static_cast<A>(list_sum(o.ideal, group.list, o.groups));
    A s[kRows], g[kRows], d[kRows], rank[kRows];
    group.load(o.score, s);
    group.load(o.gain, g);
    group.load(o.discount, d);
    bool any = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      rank[r] = 0;
      any = any || d[r] > A(0);
    }
    const bool counts = any && ideal != A(0);  // NaN counts
    for (int64_t j = lane_index(); counts && j < o.n; j += 32) {
      if (!o.real[group.base + j]) continue;
      const A s_j = o.score[group.base + j];
#pragma unroll
      for (int r = 0; r < kRows; ++r) rank[r] += j == group.first + r ? A(0) : f(s[r], s_j).value;
    }
    double sum = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const DiscountedGain<A> term = f.at(g[r], A(1) + warp_sum(rank[r]));
      if (r >= group.count) continue;
      const bool counted = counts && d[r] > A(0);
      if (counted) sum += static_cast<double>(term.value);
      if (o.fall && lane_index() == 0) o.fall[group.base + group.first + r] = counted ? term.fall / ideal : A(0);
    }
    if (lane_index() == 0) o.sums[index] = sum;
  }
}

// The factor of a list's gradients.
template <class A>
__device__ __forceinline__ double list_scale(const Lists<A>& o, int64_t list) {
  const double scale = gradient_scale<double, A>(o.results, nullptr);
  return o.results.per_item ? scale * static_cast<const A*>(o.results.incoming)[list] : scale;
}

// dL/ds_m = 1/T Σ_j (fall_j - fall_m) sigmoid'((s_j - s_m) / T); a slope of NaN between two items that do not count is
// not taken (if either counts, its rank and fall are NaN).
template <class F, class A>
__global__ void __launch_bounds__(kThreads) smooth_gradient_kernel(const F f, const Lists<A> o) {
  for (int64_t index = warp_index(); index < o.lists * o.groups; index += warp_count()) {
    const Group<A> group(o, index);
    const bool empty = list_sum(o.ideal, group.list, o.groups) == 0;
    A s[kRows], fall[kRows], slope[kRows];
    uint8_t real[kRows];
    group.load(o.score, s);
    group.load(o.fall, fall);
    group.load(o.real, real);
#pragma unroll
    for (int r = 0; r < kRows; ++r) slope[r] = 0;
    for (int64_t j = lane_index(); !empty && j < o.n; j += 32) {
      if (!o.real[group.base + j]) continue;
      const A s_j = o.score[group.base + j], fall_j = o.fall[group.base + j];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const A difference = fall_j - fall[r];
        slope[r] += difference == A(0) || j == group.first + r ? A(0) : difference * f(s[r], s_j).slope;
      }
    }
    const double scale = list_scale(o, group.list) * f.rate;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const A sum = warp_sum(slope[r]);
      if (r >= group.count || lane_index() != 0) continue;
      store_any<A>(o.gradient, o.scores.dtype, group.base + group.first + r,
                   real[r] ? static_cast<A>(scale * sum) : A(0));
    }
  }
}

// Pairs of a group's items with all others. Each pair is met from both sides; its loss counts at the larger gain.
template <class F, class A>
__global__ void __launch_bounds__(kThreads) pair_kernel(const F f, const Lists<A> o) {
  for (int64_t index = warp_index(); index < o.lists * o.groups; index += warp_count()) {
    const Group<A> group(o, index);
    const double ideal = list_sum(o.ideal, group.list, o.groups);
    A s[kRows], g[kRows], d[kRows], value = 0, slope[kRows];
    group.load(o.score, s);
    group.load(o.gain, g);
    group.load(o.discount, d);
    bool any = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      slope[r] = 0;
      if (r >= group.count) d[r] = 0;
      any = any || d[r] > A(0);
    }
    const bool counts = any && ideal != 0;
    for (int64_t j = lane_index(); counts && j < o.n; j += 32) {
      const A d_j = o.discount[group.base + j];
      if (!(d_j > A(0))) continue;
      const A s_j = o.score[group.base + j], g_j = o.gain[group.base + j];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const bool larger = g[r] > g_j, smaller = g[r] < g_j;
        if (!(d[r] > A(0)) || !(larger || smaller)) continue;
        const PairLoss<A> pair = larger ? f(s[r], g[r], d[r], s_j, g_j, d_j) : f(s_j, g_j, d_j, s[r], g[r], d[r]);
        value += larger ? pair.value : A(0);
        slope[r] += larger ? -pair.slope : pair.slope;
      }
    }
    const double sum = warp_sum(static_cast<double>(value));
    if (lane_index() == 0) o.sums[index] = sum;
    if (!o.gradient) continue;
    const double scale = list_scale(o, group.list) * f.rate / ideal;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const A total = warp_sum(slope[r]);
      if (r >= group.count || lane_index() != 0) continue;
      store_any<A>(o.gradient, o.scores.dtype, group.base + group.first + r,
                   counts && d[r] > A(0) ? static_cast<A>(scale * total) : A(0));
    }
  }
}

// The losses of the lists and their sum.
template <class A, bool kSmooth>
__global__ void __launch_bounds__(kThreads) finish_kernel(const Lists<A> o) {
  double losses = 0;
  for (int64_t list = warp_index(); list < o.lists; list += warp_count()) {
    const A ideal = static_cast<A>(list_sum(o.ideal, list, o.groups));
    const double ratio = list_sum(o.sums, list, o.groups) / static_cast<double>(ideal);
    const double loss = ideal == A(0) ? 0.0 : kSmooth ? 1 - ratio : ratio;
    if (lane_index() != 0) continue;
    if (o.results.losses) static_cast<A*>(o.results.losses)[list] = static_cast<A>(loss);
    losses += loss;
  }
  double total;
  if (o.results.total && grid_sum(losses, o.partial, o.finished, &total)) store_total<A>(o.results, nullptr, total);
}

// Slots of the workspace tensors.
template <class A, class T>
A* values_of(const T& tensor, int64_t slot, int64_t stride) {
  return static_cast<A*>(tensor.mutable_data_ptr()) + slot * stride;
}

template <template <class> class Functor, class A>
void run_loss(const Options& options, const RankingProblem& problem, const Tensor& like) {
  using F = Functor<A>;
  const F f(options);
  const Launch launch(like);
  Lists<A> o{problem};
  o.groups = (o.n + kRows - 1) / kRows;
  o.cutoff = options.k > 0 && options.k < static_cast<double>(o.n) ? static_cast<int64_t>(options.k) : o.n;
  const int64_t items = o.lists * o.n, groups = o.lists * o.groups;
  Tensor values = new_tensor(like, {4 * items}, accumulation_dtype(o.scores.dtype));
  Tensor flags = new_tensor(like, {items}, Dtype::kUInt8);
  Tensor sums = new_tensor(like, {2 * groups}, Dtype::kFloat64);
  o.score = values_of<A>(values, 0, items);
  o.gain = values_of<A>(values, 1, items);
  o.discount = values_of<A>(values, 2, items);
  if (F::kSmoothRanks && o.gradient) o.fall = values_of<A>(values, 3, items);
  o.real = values_of<uint8_t>(flags, 0, items);
  o.ideal = values_of<double>(sums, 0, groups);
  o.sums = values_of<double>(sums, 1, groups);

  constexpr int kWarps = kThreads / 32;
  const int grid = launch.grid(groups, kWarps);
  if (items > 0) {
    launch(read_kernel<A>, launch.grid(items, kThreads), kThreads, 0, o);
    launch(rank_kernel<A>, grid, kThreads, 0, o);
    if constexpr (F::kSmoothRanks) {
      launch(smooth_kernel<F, A>, grid, kThreads, 0, f, o);
      if (o.gradient) {
        launch(smooth_gradient_kernel<F, A>, grid, kThreads, 0, f, o);
      }
    } else {
      launch(pair_kernel<F, A>, grid, kThreads, 0, f, o);
    }
  }
  if (o.results.losses == nullptr && o.results.total == nullptr) return;
  const int finish_grid = launch.grid(o.lists, kWarps);
  GridSum workspace(launch, like, finish_grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  launch(finish_kernel<A, F::kSmoothRanks>, finish_grid, kThreads, 0, o);
}

struct CudaRanking : CudaDevice {
  static void run(LossId id, const Options& options, const RankingProblem& problem, const Tensor& like) {
    const bool wide = problem.scores.dtype == Dtype::kFloat64;
    switch (id) {
#define FL_RUN(op, Functor, ...) \
  case LossId::op:               \
    return (wide ? run_loss<Functor, double> : run_loss<Functor, float>)(options, problem, like);
      FL_RANKING_LOSSES(FL_RUN)
#undef FL_RUN
      default:
        return;
    }
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<RankingCall<CudaRanking>, LossId::op>(m);
  FL_RANKING_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
