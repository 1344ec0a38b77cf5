// The sequence family on CUDA: a block reads a row of logits for its softmax and the reference's tokens, later once
// more to write the row's gradient.
//
// - Between the two, one small block for each sample and order counts n-grams from the [steps, places] probabilities.
// - Memory: the probabilities and a few values for each place; no tensor over the classes but the gradient.
// - Sums are taken in a fixed order: no float is added atomically.
#include <algorithm>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/sequence.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/sequence.h"
#include "cuda/rows.cuh"

constexpr int kLanes = 32, kWarps = kThreads / kLanes;

// A Problem with the workspace of one call.
template <class A>
struct Sentences : SequenceProblem {
  int64_t orders;     // min(max_order, steps, places)
  A* softmax;         // [batch, steps, 2] row maximum, 1 / sum of the exponentials
  A* probability;     // [batch, steps, places] of the reference's token
  A* by_probability;  // [batch, steps, places] derivative of the result by it
  A* weight;          // [batch, orders, places] derivative of the matches by the expected count
  A* slope;           // [batch, orders] derivative of the result by the matches
  int* next;          // [batch, places] next place of the same token, `places` for none; complement: not the first
  double* matches;    // [batch, orders]
  double* bleu;       // [batch]
  double* partial;    // workspace of grid_sum
  unsigned* finished;

  __device__ __forceinline__ int64_t length(int64_t sample) const {
    if (!logits_lengths.data) return steps;
    const int64_t n = integer_at(logits_lengths.data, logits_lengths.dtype, sample);
    CUDA_KERNEL_ASSERT(n >= 0 && n <= steps && "logits_lengths in [0, T]");
    return n;
  }
  __device__ __forceinline__ int64_t reference_length(int64_t sample) const {
    if (!target_lengths.data) return places;
    const int64_t n = integer_at(target_lengths.data, target_lengths.dtype, sample);
    CUDA_KERNEL_ASSERT(n >= 0 && n <= places && "target_lengths in [0, U]");
    return n;
  }
  __device__ __forceinline__ int64_t token(int64_t sample, int64_t place) const {
    const int64_t y = integer_at(target.data, target.dtype, sample * places + place);
    CUDA_KERNEL_ASSERT(y >= 0 && y < classes && "class index in [0, V)");
    return y;
  }
};

template <class T, int kSize>
using LogitsRow = GlobalRow<T, kSize, 0, Team<0>>;

template <class T, int kSize>
__global__ void __launch_bounds__(512) read_kernel(const Sentences<Accumulation<T>> o) {
  using A = Accumulation<T>;
  for (int64_t row = blockIdx.x; row < o.batch * o.steps; row += gridDim.x) {
    const int64_t sample = row / o.steps;
    if (row % o.steps >= o.length(sample)) continue;
    const LogitsRow<T, kSize> logits(o.logits.data, Dtype{}, row * o.classes, 1, o.classes, nullptr);
    const Softmax<A> s = row_softmax<A, T, Team<0>>(logits, A(1));
    if (threadIdx.x == 0) {
      o.softmax[2 * row] = s.row_max;
      o.softmax[2 * row + 1] = s.inverse;
    }
    const int64_t places = o.reference_length(sample);
    for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
      o.probability[row * o.places + u] = exp_(widen<A>(logits.x[o.token(sample, u)]) - s.row_max) * s.inverse;
    }
  }
}

// Whether the n-grams that start at the places u and v are equal.
template <class A>
__device__ __forceinline__ bool same_ngram(const Sentences<A>& o, int64_t sample, int64_t u, int64_t v, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    if (o.token(sample, u + j) != o.token(sample, v + j)) return false;
  }
  return true;
}

// The chain of places with the same token, from each place on.
template <class A>
__device__ void link_places(const Sentences<A>& o, int64_t sample, int64_t places) {
  for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
    const int64_t y = o.token(sample, u);
    int64_t before = 0, next = u + 1;
    while (before < u && o.token(sample, before) != y) ++before;
    while (next < places && o.token(sample, next) != y) ++next;
    const int link = static_cast<int>(next < places ? next : o.places);
    o.next[sample * o.places + u] = before == u ? link : ~link;
  }
}

// Expected and reference counts of the n-grams of one sample and order: lanes over places, warps over steps.
template <class A>
__global__ void __launch_bounds__(kThreads) match_kernel(const ExpectedBLEU<A> f, const Sentences<A> o) {
  FL_SHARED(A, expected, [kWarps][kLanes]);
  FL_SHARED(int, count, [kWarps][kLanes]);
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (int64_t index = blockIdx.x; index < o.batch * o.orders; index += gridDim.x) {
    const int64_t sample = index / o.orders, n = index % o.orders + 1;
    const int64_t length = o.length(sample), places = o.reference_length(sample), starts = places - n + 1;
    const A* p = o.probability + sample * o.steps * o.places;
    double matches = 0;
    for (int64_t first = 0; first < starts; first += kLanes) {
      const int64_t u = first + lane;
      A sum = 0;
      int equal = 0;
      if (u < starts) {
        for (int64_t t = warp; t + n <= length; t += kWarps) {
          A probability = p[t * o.places + u];
          for (int64_t j = 1; j < n; ++j) probability *= p[(t + j) * o.places + u + j];
          sum += probability;
        }
        for (int64_t v = warp; v < starts; v += kWarps) equal += same_ngram(o, sample, u, v, n);
      }
      expected[warp][lane] = sum;
      count[warp][lane] = equal;
      __syncthreads();
      if (warp == 0 && u < starts) {
        for (int w = 1; w < kWarps; ++w) {
          sum += expected[w][lane];
          equal += count[w][lane];
        }
        const ClippedCount<A> clipped = f.clip(sum, static_cast<A>(equal));
        matches += static_cast<double>(clipped.value);
        o.weight[index * o.places + u] = clipped.slope;
      }
      __syncthreads();
    }
    if (warp == 0) {
      matches = warp_sum(matches);
      if (lane == 0) o.matches[index] = matches;
    }
    if (n == 1 && o.gradient) link_places(o, sample, places);
  }
}

// BLEU and loss of each sample, the sum of the losses, and the derivatives by the matches.
template <class A>
__global__ void __launch_bounds__(kThreads) finish_kernel(const ExpectedBLEU<A> f, const Sentences<A> o) {
  double losses = 0;
  for (int64_t b = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; b < o.batch; b += int64_t{gridDim.x} * blockDim.x) {
    const int64_t length = o.length(b);
    const double* matches = o.matches + b * o.orders;
    double logs = 0;
    bool no_match = false;
    const int64_t orders = f.max_order <= length ? f.max_order : length + 1;  // what is longer has precision 1
    for (int64_t n = 1; n <= orders && !no_match; ++n) {
      const double smoothed = f.smoothed(n, n <= o.orders ? matches[n - 1] : 0.0);
      no_match = f.no_match(smoothed);
      logs += f.log_precision(n, smoothed, length);
    }
    const double bleu = no_match ? 0.0 : f.bleu(logs, length, o.reference_length(b));
    o.bleu[b] = bleu;
    losses += 1 - bleu;
    if (o.results.losses) static_cast<A*>(o.results.losses)[b] = static_cast<A>(1 - bleu);
    if (o.gradient == nullptr) continue;
    double scale = gradient_scale<double, A>(o.results, nullptr);
    if (o.results.per_item) scale *= static_cast<const A*>(o.results.incoming)[b];
    for (int64_t n = 1; n <= o.orders; ++n) {
      o.slope[b * o.orders + n - 1] = static_cast<A>(scale * f.by_matches(bleu, f.smoothed(n, matches[n - 1])));
    }
  }
  double total;
  if (o.results.total && grid_sum(losses, o.partial, o.finished, &total)) store_total<A>(o.results, nullptr, total);
}

// Derivative of a sample's result by the probability of step t and place u: over the n-grams that run through both, the
// product of the other probabilities. p: [length, places]; weight: [orders, places]; slope: [orders].
template <class A>
__device__ __forceinline__ A derivative_by_probability(const Sentences<A>& o, const A* p, const A* weight,
                                                       const A* slope, int64_t length, int64_t places, int64_t t,
                                                       int64_t u) {
  A sum = 0, before = 1;
  for (int64_t j = 0; j < o.orders && j <= t && j <= u; ++j) {
    if (j > 0) before *= p[(t - j) * o.places + u - j];
    A after = 1;
    for (int64_t n = j, m = 0; n < o.orders && t + m < length && u + m < places; ++n, ++m) {
      if (m > 0) after *= p[(t + m) * o.places + u + m];
      sum += slope[n] * weight[n * o.places + u - j] * (before * after);
    }
  }
  return sum;
}

// dL/dx[v] = p[v] (h[v] - Σ p h), h the derivative by the probability of token v.
template <class T, int kSize>
__global__ void __launch_bounds__(512) write_kernel(const Sentences<Accumulation<T>> o) {
  using A = Accumulation<T>;
  FL_SHARED(double, shared, [32]);
  for (int64_t row = blockIdx.x; row < o.batch * o.steps; row += gridDim.x) {
    const int64_t sample = row / o.steps, t = row % o.steps, length = o.length(sample);
    T* to = static_cast<T*>(o.gradient) + row * o.classes;
    const LogitsRow<T, kSize> logits(o.logits.data, Dtype{}, row * o.classes, 1, o.classes, nullptr);
    if (t >= length || o.bleu[sample] == 0) {
      Values<T, kSize> zeros;
#pragma unroll
      for (int i = 0; i < kSize; ++i) zeros.v[i] = narrow<T>(A(0));
      for (int64_t at = threadIdx.x * int64_t{kSize}; at < o.classes; at += int64_t{blockDim.x} * kSize) {
        store_values<T, kSize>(to + at, zeros);
      }
      continue;
    }
    const int64_t places = o.reference_length(sample);
    const A* p = o.probability + sample * o.steps * o.places;
    const A* weight = o.weight + sample * o.orders * o.places;
    const A* slope = o.slope + sample * o.orders;
    A* h = o.by_probability + row * o.places;
    double mean = 0;
    for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
      h[u] = derivative_by_probability(o, p, weight, slope, length, places, t, u);
      mean += static_cast<double>(h[u]) * p[t * o.places + u];
    }
    mean = block_sum(mean, shared);  // and every h is written
    const A row_max = o.softmax[2 * row], factor = static_cast<A>(-mean) * o.softmax[2 * row + 1];
    logits.each([&](int, int64_t at, const auto& x) {
      auto out = x;
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.v[i] = narrow<T>(factor * exp_<ExpPolicy<T>>(widen<A>(x.v[i]) - row_max));
      store_values<T, kSize>(to + at, out);
    });
    __syncthreads();
    const int* next = o.next + sample * o.places;
    for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
      if (next[u] < 0) continue;
      A sum = h[u];
      for (int64_t v = next[u]; v < o.places; v = ~next[v]) sum += h[v];
      to[o.token(sample, u)] = narrow<T>(p[t * o.places + u] * static_cast<A>(sum - mean));
    }
  }
}

template <class T, int kSize>
void run_rows(const Launch& launch, const Tensor& like, const ExpectedBLEU<Accumulation<T>>& f,
              Sentences<Accumulation<T>> o) {
  using A = Accumulation<T>;
  const int64_t rows = o.batch * o.steps;
  const int threads = o.classes <= 4096 ? 128 : 512;
  const int grid = launch.grid(rows, 1, 2048 / threads);
  if (rows > 0) {
    launch(read_kernel<T, kSize>, grid, threads, 0, o);
  }
  if (o.orders > 0 && o.batch > 0) {
    launch(match_kernel<A>, launch.grid(o.batch * o.orders, 1), kThreads, 0, f, o);
  }
  const int finish_grid = launch.grid(o.batch, kThreads);
  GridSum workspace(launch, like, finish_grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  launch(finish_kernel<A>, finish_grid, kThreads, 0, f, o);
  if (o.gradient && rows > 0) {
    launch(write_kernel<T, kSize>, grid, threads, 0, o);
  }
}

struct CudaSequence : CudaDevice {
  static void run(LossId, const Options& options, const SequenceProblem& problem, const Tensor& like) {
    const Launch launch(like);
    with_floating(problem.logits.dtype, [&](auto tag) { run_typed<decltype(tag)>(launch, options, problem, like); });
  }

 private:
  template <class T>
  static void run_typed(const Launch& launch, const Options& options, const SequenceProblem& problem,
                        const Tensor& like) {
    using A = Accumulation<T>;
    const ExpectedBLEU<A> f(options);
    Sentences<A> o{problem};
    const double orders = std::min(options.max_order, static_cast<double>(std::min(o.steps, o.places)));
    o.orders = static_cast<int64_t>(orders);
    const Dtype dtype = accumulation_dtype(o.logits.dtype);
    const auto room = [&](int64_t n, Dtype type) { return new_tensor(like, {n}, type); };
    const int64_t rows = o.batch * o.steps;
    Tensor softmax = room(2 * rows, dtype), probability = room(rows * o.places, dtype);
    Tensor by_probability = room(o.gradient ? rows * o.places : 0, dtype);
    Tensor weight = room(o.batch * o.orders * o.places, dtype), slope = room(o.batch * o.orders, dtype);
    Tensor next = room(o.batch * o.places, Dtype::kInt32), matches = room(o.batch * o.orders, Dtype::kFloat64);
    Tensor bleu = room(o.batch, Dtype::kFloat64);
    o.softmax = static_cast<A*>(softmax.mutable_data_ptr());
    o.probability = static_cast<A*>(probability.mutable_data_ptr());
    o.by_probability = static_cast<A*>(by_probability.mutable_data_ptr());
    o.weight = static_cast<A*>(weight.mutable_data_ptr());
    o.slope = static_cast<A*>(slope.mutable_data_ptr());
    o.next = static_cast<int*>(next.mutable_data_ptr());
    o.matches = static_cast<double*>(matches.mutable_data_ptr());
    o.bleu = static_cast<double*>(bleu.mutable_data_ptr());
    constexpr int kPack = Pack<T>::kSize;
    const bool packed = o.classes % kPack == 0 && aligned(o.logits.data, o.gradient);
    packed ? run_rows<T, kPack>(launch, like, f, o) : run_rows<T, 1>(launch, like, f, o);
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<SequenceCall<CudaSequence>, LossId::op>(m);
  FL_SEQUENCE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
