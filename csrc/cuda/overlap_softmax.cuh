// The softmax kernels of the overlap family, which need all classes of a position: a thread per position.
// Included by overlap.cu after overlap.cuh.

// ---- Softmax, any number of classes and any target: a thread per position. ----

// The SoftmaxRow of each position; with a compound also its second term, which reads the position again.
template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_rows_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  using Policy = ExpPolicy<T>;
  const int64_t C = o.classes, S = o.positions;
  double second_sum = 0, count = 0;
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < o.samples * S;
       at += int64_t{gridDim.x} * blockDim.x) {
    const int64_t base = at / S * C * S + at % S;
    const T* x = static_cast<const T*>(o.input) + base;
    A row_max = -infinity_<A>(), sum = 0;
#pragma unroll 4
    for (int64_t c = 0; c < C; ++c) {
      const A v = widen<A>(x[c * S]), larger = v > row_max ? v : row_max;
      if (larger > row_max) sum *= row_max == -infinity_<A>() ? A(0) : exp_<Policy>(row_max - larger);
      row_max = larger;
      sum += exp_<Policy>(v - (row_max == -infinity_<A>() ? A(0) : row_max));
    }
    if (sum == A(0)) sum = nan_<A>();  // every logit is -inf: NaN, as torch
    const SoftmaxRow<A> s = {row_max, A(1) / sum};
    static_cast<SoftmaxRow<A>*>(o.softmax_rows)[at] = s;
    if (second.kind == SecondTerm::kNone) continue;
    const A log_inverse = log_(s.inverse);
    A loss = 0;
    bool any = false;
    if (o.class_index) {
      const int64_t y = class_at(o, at);
      any = y >= 0;
      if (any) {
        const A u = (widen<A>(x[y * S]) - row_max) + log_inverse;
        loss = second.of_class(u, exp_(u)).loss;
      }
    } else {
      for (int64_t c = 0; c < C; ++c) {
        const TargetValue<A> r = target_of<A>(o, base + c * S, c, -1);
        const A u = (widen<A>(x[c * S]) - row_max) + log_inverse;
        loss += r.g == A(0) ? A(0) : r.g * second.of_class(u, exp_(u)).loss;
        any = any || r.counts;
      }
    }
    second_sum += any ? loss : A(0);
    count += any;
  }
  if (second.kind != SecondTerm::kNone) write_second(o, second_sum, count);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_gradient_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  using Policy = ExpPolicy<T>;
  const int64_t C = o.classes, S = o.positions;
  const bool both = second.kind != SecondTerm::kNone;
  const A scale = both ? second_scale<A>(o) : A(0);
  for (int64_t at = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; at < o.samples * S;
       at += int64_t{gridDim.x} * blockDim.x) {
    const int64_t sample = at / S, base = sample * C * S + at % S;
    const T* x = static_cast<const T*>(o.input) + base;
    T* to = static_cast<T*>(o.gradient) + base;
    const auto* k = static_cast<const Coefficients<A>*>(o.coefficients) + (o.batch ? 0 : sample * C);
    const int64_t y = o.class_index ? class_at(o, at) : int64_t{-1};
    const SoftmaxRow<A> s = static_cast<const SoftmaxRow<A>*>(o.softmax_rows)[at];
    const A log_inverse = both ? log_(s.inverse) : A(0);
    // p d loss / d p and d loss / d log p of one class.
    const auto slopes = [&](int64_t c, A* p, A* by_log, bool* counts) {
      const A shifted = widen<A>(x[c * S]) - s.row_max;
      *p = exp_<Policy>(shifted) * s.inverse;
      const TargetValue<A> r = target_of<A>(o, base + c * S, c, y);
      *by_log = both && r.g != A(0) ? scale * r.g * second.of_class(shifted + log_inverse, *p).slope : A(0);
      *counts = r.counts;
      return times_by_p(o, k[c], r, *p, *p);
    };
    A inner = 0, p, by_log;
    bool any = false, counts;
#pragma unroll 2
    for (int64_t c = 0; c < C; ++c) {
      const A d = slopes(c, &p, &by_log, &counts);
      inner += d + by_log;
      any = any || counts;
    }
#pragma unroll 2
    for (int64_t c = 0; c < C; ++c) {
      const A d = slopes(c, &p, &by_log, &counts);
      to[c * S] = narrow<T>(any ? d - p * inner + by_log : A(0));
    }
  }
}

// ---- Softmax against class indices, at most kClasses: in registers. Blocks of kSoftmaxThreads. ----

// The probabilities of one position.
template <class T, int kClasses>
struct Position {
  using A = Accumulation<T>;
  A p[kClasses];  // 0 beyond the classes there are
  A log_p;        // of class y, where that is a class and `with_log`

  // x: its first logit, the next S further on.
  __device__ __forceinline__ Position(const T* x, int64_t S, int classes, int y, bool with_log) {
    A row_max = -infinity_<A>(), sum = 0;
#pragma unroll
    for (int c = 0; c < kClasses; ++c) p[c] = c < classes ? widen<A>(x[c * S]) : -infinity_<A>();
#pragma unroll
    for (int c = 0; c < kClasses; ++c) row_max = p[c] > row_max ? p[c] : row_max;
    log_p = 0;
    if (with_log) {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) log_p = c == y ? p[c] : log_p;
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      p[c] = exp_<ExpPolicy<T>>(p[c] - row_max);
      sum += p[c];
    }
    if (with_log) log_p = (log_p - row_max) - log_(sum);
    const A inverse = A(1) / sum;
#pragma unroll
    for (int c = 0; c < kClasses; ++c) p[c] *= inverse;
  }
};

template <class T, int kClasses>
__global__ void __launch_bounds__(kSoftmaxThreads, kClasses > 16  ? (sizeof(T) == 4 ? 3 : 2)
                                                   : kClasses > 8 ? 4
                                                                  : 8)
    register_sums_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  constexpr int kWarps = kSoftmaxThreads / 32;
  FL_SHARED(A, shared, [kWarps][3 * kClasses + 1]);
  const int classes = static_cast<int>(o.classes), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t S = o.positions;
  const bool both = second.kind != SecondTerm::kNone;
  double second_sum = 0, count = 0;
  for (int64_t item = blockIdx.x; item < o.samples * o.chunks; item += gridDim.x) {
    const int64_t sample = item / o.chunks, begin = item % o.chunks * o.chunk, stop = begin + o.chunk;
    const int64_t end = stop < S ? stop : S;
    const T* x = static_cast<const T*>(o.input) + sample * classes * S;
    A I[kClasses], P[kClasses], loss = 0;
    unsigned G[kClasses / 4];  // a byte for each class; a chunk holds no more than that
    int counted = 0;           // positions
#pragma unroll
    for (int c = 0; c < kClasses; ++c) I[c] = P[c] = A(0);
#pragma unroll
    for (int c = 0; c < kClasses / 4; ++c) G[c] = 0;
#pragma unroll 1
    for (int64_t s = begin + threadIdx.x; s < end; s += kSoftmaxThreads) {
      const int y = static_cast<int>(class_at(o, sample * S + s));
      const Position<T, kClasses> at(x + s, S, classes, y, both);
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        const A q = y >= 0 ? at.p[c] : A(0);
        I[c] += c == y ? q : A(0);
        P[c] += o.squared ? q * q : q;
      }
      const unsigned one = 1u << (8 * (y & 3));
#pragma unroll
      for (int c = 0; c < kClasses / 4; ++c) G[c] += c == y >> 2 ? one : 0u;
      if (both && y >= 0) loss += second.of_class(at.log_p, exp_(at.log_p)).loss;
      counted += y >= 0;
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      const A i = warp_sum(I[c]), p = warp_sum(P[c]), g = warp_sum(static_cast<A>(G[c / 4] >> (8 * (c % 4)) & 255u));
      if (lane == 0) {
        shared[warp][3 * c] = i;
        shared[warp][3 * c + 1] = p;
        shared[warp][3 * c + 2] = g;
      }
    }
    const A any = warp_sum(static_cast<A>(counted));
    if (lane == 0) shared[warp][3 * kClasses] = any;
    __syncthreads();
    for (int j = threadIdx.x; j < kRegionSums * classes; j += kSoftmaxThreads) {
      const int c = j / kRegionSums, k = j % kRegionSums;
      double sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared[w][k < 3 ? 3 * c + k : 3 * kClasses];
      o.partial[kRegionSums * ((sample * classes + c) * o.chunks + item % o.chunks) + k] = sum;
    }
    __syncthreads();
    second_sum += loss;
    count += counted;
  }
  if (both) write_second(o, second_sum, count);
}

template <class T, int kClasses>
__global__ void __launch_bounds__(kSoftmaxThreads)
    register_gradient_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  FL_SHARED(Coefficients<A>, k, [kClasses]);
  const int classes = static_cast<int>(o.classes);
  const int64_t S = o.positions;
  const bool both = second.kind != SecondTerm::kNone;
  const A scale = both ? second_scale<A>(o) : A(0);
  for (int64_t item = blockIdx.x; item < o.samples * o.chunks; item += gridDim.x) {
    const int64_t sample = item / o.chunks, begin = item % o.chunks * o.chunk, stop = begin + o.chunk;
    const int64_t end = stop < S ? stop : S;
    if (threadIdx.x < kClasses) {
      const auto* all = static_cast<const Coefficients<A>*>(o.coefficients) + (o.batch ? 0 : sample * classes);
      k[threadIdx.x] = static_cast<int>(threadIdx.x) < classes ? all[threadIdx.x] : Coefficients<A>{};
    }
    __syncthreads();
    const T* x = static_cast<const T*>(o.input) + sample * classes * S;
    T* to = static_cast<T*>(o.gradient) + sample * classes * S;
#pragma unroll 1
    for (int64_t s = begin + threadIdx.x; s < end; s += kSoftmaxThreads) {
      const int y = static_cast<int>(class_at(o, sample * S + s));
      const Position<T, kClasses> at(x + s, S, classes, y, both);
      const A by_log = both && y >= 0 ? scale * second.of_class(at.log_p, exp_(at.log_p)).slope : A(0);
      A inner = by_log;
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        inner += times_by_p(o, k[c], TargetValue<A>{c == y ? A(1) : A(0), true}, at.p[c], at.p[c]);
      }
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        const A d = times_by_p(o, k[c], TargetValue<A>{c == y ? A(1) : A(0), true}, at.p[c], at.p[c]);
        const A g = d - at.p[c] * inner + (c == y ? by_log : A(0));
        if (c < classes) to[c * S + s] = narrow<T>(y >= 0 ? g : A(0));
      }
    }
    __syncthreads();
  }
}
