// The sequence family on CUDA: a block reads a row of logits for its softmax and the reference's tokens, later once
// more to write the row's gradient.
//
// - Between the two, one small block for each sample and order counts n-grams from the [steps, places] chances.
// - Memory: the chances and a few values for each place; no tensor over the classes but the gradient.
// - Sums are taken in a fixed order: no float is added atomically.
#include <algorithm>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/sequence.h"
#include "cuda/rows.cuh"

constexpr int kLanes = 32, kWarps = kThreads / kLanes;

// One call. The workspace belongs to it; null where not given or not wanted.
template <class A>
struct Sentences {
  int64_t batch, steps, classes, places, orders;  // orders: min(max_order, steps, places)
  const void* logits;                             // [batch, steps, classes]
  const void* target;                             // [batch, places]
  const void *logits_lengths, *target_lengths;    // [batch]
  Dtype target_dtype, logits_lengths_dtype, target_lengths_dtype;
  A* softmax;            // [batch, steps, 2] peak, 1 / sum of the exponentials
  A* chance;             // [batch, steps, places] probability of the reference's token
  A* by_chance;          // [batch, steps, places] derivative of the result by it
  A* weight;             // [batch, orders, places] derivative of the matches by the expected count
  A* slope;              // [batch, orders] derivative of the result by the matches
  int* next;             // [batch, places] next place of the same token, `places` for none; complement: not the first
  double* matches;       // [batch, orders]
  double* bleu;          // [batch]
  const void* incoming;  // [batch], or one element with `incoming_scalar`; accumulation dtype
  bool incoming_scalar;
  double factor;    // 1 / denominator
  void* gradient;   // as logits
  void* loss;       // [batch] accumulation dtype, for "none"
  void* total;      // [1] accumulation dtype, for the other reductions
  double* partial;  // workspace of grid_sum
  unsigned* finished;

  __device__ __forceinline__ int64_t length(int64_t sample) const {
    if (logits_lengths == nullptr) return steps;
    const int64_t n = load_index(logits_lengths, logits_lengths_dtype, sample);
    CUDA_KERNEL_ASSERT(n >= 0 && n <= steps && "logits_lengths in [0, T]");
    return n;
  }
  __device__ __forceinline__ int64_t reference_length(int64_t sample) const {
    if (target_lengths == nullptr) return places;
    const int64_t n = load_index(target_lengths, target_lengths_dtype, sample);
    CUDA_KERNEL_ASSERT(n >= 0 && n <= places && "target_lengths in [0, U]");
    return n;
  }
  __device__ __forceinline__ int64_t token(int64_t sample, int64_t place) const {
    const int64_t y = load_index(target, target_dtype, sample * places + place);
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
    const LogitsRow<T, kSize> logits(o.logits, Dtype{}, row * o.classes, 1, o.classes, nullptr);
    const Softmax<A> s = row_softmax<A, T, Team<0>>(logits, A(1));
    if (threadIdx.x == 0) {
      o.softmax[2 * row] = s.row_max;
      o.softmax[2 * row + 1] = s.inverse;
    }
    const int64_t places = o.reference_length(sample);
    for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
      o.chance[row * o.places + u] = exp_(widen<A>(logits.x[o.token(sample, u)]) - s.row_max) * s.inverse;
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
    const A* p = o.chance + sample * o.steps * o.places;
    double matches = 0;
    for (int64_t first = 0; first < starts; first += kLanes) {
      const int64_t u = first + lane;
      A sum = 0;
      int equal = 0;
      if (u < starts) {
        for (int64_t t = warp; t + n <= length; t += kWarps) {
          A chance = p[t * o.places + u];
          for (int64_t j = 1; j < n; ++j) chance *= p[(t + j) * o.places + u + j];
          sum += chance;
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
    bool hopeless = false;
    for (int64_t n = 1; n <= f.max_order && !hopeless; ++n) {
      const double smoothed = f.smoothed(n, n <= o.orders ? matches[n - 1] : 0.0);
      hopeless = f.hopeless(smoothed);
      logs += f.log_precision(n, smoothed, length);
    }
    const double bleu = hopeless ? 0.0 : f.bleu(logs, length, o.reference_length(b));
    o.bleu[b] = bleu;
    losses += 1 - bleu;
    if (o.loss) static_cast<A*>(o.loss)[b] = static_cast<A>(1 - bleu);
    if (o.gradient == nullptr) continue;
    double scale = o.factor;
    if (o.incoming) scale *= static_cast<const A*>(o.incoming)[o.incoming_scalar ? 0 : b];
    for (int64_t n = 1; n <= o.orders; ++n) {
      o.slope[b * o.orders + n - 1] = static_cast<A>(scale * f.by_matches(bleu, f.smoothed(n, matches[n - 1])));
    }
  }
  double total;
  if (o.total && grid_sum(losses, o.partial, o.finished, &total)) {
    *static_cast<A*>(o.total) = static_cast<A>(total * o.factor);
  }
}

// Derivative of a sample's result by the chance of step t and place u: over the n-grams that run through both, the
// product of the other chances. p: [length, places]; weight: [orders, places]; slope: [orders].
template <class A>
__device__ __forceinline__ A derivative_by_chance(const Sentences<A>& o, const A* p, const A* weight, const A* slope,
                                                  int64_t length, int64_t places, int64_t t, int64_t u) {
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
    const LogitsRow<T, kSize> logits(o.logits, Dtype{}, row * o.classes, 1, o.classes, nullptr);
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
    const A* p = o.chance + sample * o.steps * o.places;
    const A* weight = o.weight + sample * o.orders * o.places;
    const A* slope = o.slope + sample * o.orders;
    A* h = o.by_chance + row * o.places;
    double mean = 0;
    for (int64_t u = threadIdx.x; u < places; u += blockDim.x) {
      h[u] = derivative_by_chance(o, p, weight, slope, length, places, t, u);
      mean += static_cast<double>(h[u]) * p[t * o.places + u];
    }
    mean = block_sum(mean, shared);  // and every h is written
    const A peak = o.softmax[2 * row], factor = static_cast<A>(-mean) * o.softmax[2 * row + 1];
    logits.each([&](int, int64_t at, const auto& x) {
      auto out = x;
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.v[i] = narrow<T>(factor * exp_<ExpPolicy<T>>(widen<A>(x.v[i]) - peak));
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

// What a call is given and gives.
struct Call {
  const Tensor& logits;
  const Tensor& target;
  const OptionalTensor &logits_lengths, &target_lengths;
  const Options& options;
  Reduction reduction;
  const Tensor* incoming = nullptr;
  void* gradient = nullptr;
  void* loss = nullptr;
  void* total = nullptr;

  template <class A>
  Sentences<A> sentences() const {
    Sentences<A> o{};
    o.batch = logits.size(0);
    o.steps = logits.size(1);
    o.classes = logits.size(2);
    o.places = target.size(1);
    o.orders = std::min({static_cast<int64_t>(options.max_order), o.steps, o.places});
    o.logits = logits.const_data_ptr();
    o.target = target.const_data_ptr();
    o.target_dtype = dtype_of(target);
    if (logits_lengths) {
      o.logits_lengths = logits_lengths->const_data_ptr();
      o.logits_lengths_dtype = dtype_of(*logits_lengths);
    }
    if (target_lengths) {
      o.target_lengths = target_lengths->const_data_ptr();
      o.target_lengths_dtype = dtype_of(*target_lengths);
    }
    if (incoming) {
      o.incoming = incoming->const_data_ptr();
      o.incoming_scalar = reduction != Reduction::kNone;
    }
    o.factor = reduction == Reduction::kMean ? 1 / static_cast<double>(o.batch) : 1;
    o.gradient = gradient;
    o.loss = loss;
    o.total = total;
    return o;
  }
};

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

void run(const Call& call) {
  const Launch launch(call.logits);
  with_floating(dtype_of(call.logits), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulation<T>;
    const ExpectedBLEU<A> f(call.options);
    Sentences<A> o = call.sentences<A>();
    const Dtype dtype = accumulation_dtype(dtype_of(call.logits));
    const auto room = [&](int64_t n, Dtype type) { return new_tensor(call.logits, {n}, type); };
    const int64_t rows = o.batch * o.steps;
    Tensor softmax = room(2 * rows, dtype), chance = room(rows * o.places, dtype);
    Tensor by_chance = room(o.gradient ? rows * o.places : 0, dtype);
    Tensor weight = room(o.batch * o.orders * o.places, dtype), slope = room(o.batch * o.orders, dtype);
    Tensor next = room(o.batch * o.places, Dtype::kInt32), matches = room(o.batch * o.orders, Dtype::kFloat64);
    Tensor bleu = room(o.batch, Dtype::kFloat64);
    o.softmax = static_cast<A*>(softmax.mutable_data_ptr());
    o.chance = static_cast<A*>(chance.mutable_data_ptr());
    o.by_chance = static_cast<A*>(by_chance.mutable_data_ptr());
    o.weight = static_cast<A*>(weight.mutable_data_ptr());
    o.slope = static_cast<A*>(slope.mutable_data_ptr());
    o.next = static_cast<int*>(next.mutable_data_ptr());
    o.matches = static_cast<double*>(matches.mutable_data_ptr());
    o.bleu = static_cast<double*>(bleu.mutable_data_ptr());
    constexpr int kPack = Pack<T>::kSize;
    const bool packed = o.classes % kPack == 0 && aligned(o.logits, o.gradient);
    packed ? run_rows<T, kPack>(launch, call.logits, f, o) : run_rows<T, 1>(launch, call.logits, f, o);
  });
}

std::vector<Tensor> forward(Tensor logits, Tensor target, OptionalTensor logits_lengths, OptionalTensor target_lengths,
                            Options options, int64_t reduction, int64_t gradients) {
  Call call{logits, target, logits_lengths, target_lengths, options, static_cast<Reduction>(reduction)};
  std::vector<Tensor> out;
  if (call.reduction == Reduction::kNone) {
    out.push_back(new_tensor(logits, {logits.size(0)}, accumulation_dtype(dtype_of(logits))));
    call.loss = out[0].mutable_data_ptr();
  } else {
    out.push_back(new_scalar(logits));
    call.total = out[0].mutable_data_ptr();
    if (wants(gradients, 0)) {
      out.push_back(new_like(logits));
      call.gradient = out[1].mutable_data_ptr();
    }
  }
  run(call);
  return out;
}

std::vector<Tensor> backward(Tensor grad_output, Tensor logits, Tensor target, OptionalTensor logits_lengths,
                             OptionalTensor target_lengths, Options options, int64_t reduction, int64_t gradients) {
  if (!wants(gradients, 0)) return {};
  Call call{logits, target, logits_lengths, target_lengths, options, static_cast<Reduction>(reduction)};
  Tensor gradient = new_like(logits);
  call.incoming = &grad_output;
  call.gradient = gradient.mutable_data_ptr();
  run(call);
  return {gradient};
}

}  // namespace

FL_CUDA_LIBRARY(m) {
  m.impl("expected_bleu_loss", TORCH_BOX((&Named<LossId::expected_bleu_loss, &forward>::call)));
  m.impl("expected_bleu_loss_backward", TORCH_BOX((&Named<LossId::expected_bleu_loss, &backward>::call)));
}

}  // namespace fused_losses::cuda
