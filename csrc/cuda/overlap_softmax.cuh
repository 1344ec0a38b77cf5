// The softmax kernels of the overlap family, which need all classes of a position: a thread per position.
// Included by overlap.cu after overlap.cuh.

// ---- Softmax, any number of classes and any target: a thread per position. ----

template <class A>
__device__ __forceinline__ void store_row(const OverlapOperands& o, int64_t at, const SoftmaxRow<A>& row) {
  static_cast<SoftmaxRow<A>*>(o.softmax_rows)[at] = row;
}

// The second term of a position, and what it adds to the number or the weights that its mean divides by.
template <class A>
struct PositionTerm {
  A loss;
  double count;
};

// The class of position `at`, where there are class indices.
__device__ __forceinline__ int64_t class_of(const OverlapOperands& o, int64_t at) {
  return o.class_index ? class_at(o, at) : int64_t{-1};
}

// x: the first logit of a position, whose class is y with class indices; base: its index in the target's classes.
template <class T, class A>
__device__ __forceinline__ PositionTerm<A> second_of_position(const OverlapOperands& o, const AnySecondTerm<A>& second,
                                                              const T* x, int64_t base, int64_t y,
                                                              const SoftmaxRow<A>& s) {
  const int64_t S = o.positions;
  const A log_inverse = o.second_softmax ? log_(s.inverse) : A(0);
  PositionTerm<A> sum = {A(0), 0};
#pragma unroll 1
  for (int64_t c = 0; c < o.classes; ++c) {
    const TargetValue<A> r = target_of<A>(o, base + c * S, c, y);
    if (!r.counts) continue;
    const A value = widen<A>(x[c * S]), weight = class_weight<A>(o, c);
    if (o.second_softmax) {
      const A share = weight * second.smoothed(r.g), u = (value - s.row_max) + log_inverse;
      sum.loss += times_(share, second.of_class(u, exp_(u)).loss);
      sum.count = 1;
    } else {
      sum.loss += weight * second.of_element(value, r.g).loss;
      sum.count += 1;
    }
  }
  if (o.counts_weights && y >= 0) sum.count = class_weight<A>(o, y);
  return sum;
}

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
    store_row(o, at, s);
    if (second.kind == SecondTerm::kNone) continue;
    const PositionTerm<A> term = second_of_position(o, second, x, base, class_of(o, at), s);
    second_sum += term.loss;
    count += term.count;
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
    const int64_t y = class_of(o, at);
    const SoftmaxRow<A> s = static_cast<const SoftmaxRow<A>*>(o.softmax_rows)[at];
    const A log_inverse = both ? log_(s.inverse) : A(0);
    // What one class of the position adds to its gradient: p times `from_all`, of all classes, is taken from it.
    struct Slope {
      A p, own, from_all;
      bool counts;
    };
    const auto slope_of = [&](int64_t c) {
      const A value = widen<A>(x[c * S]), shifted = value - s.row_max;
      Slope slope = {exp_<Policy>(shifted) * s.inverse, A(0), A(0), false};
      const TargetValue<A> r = target_of<A>(o, base + c * S, c, y);
      slope.counts = r.counts;
      if (o.activation == Activation::kSoftmax) {
        slope.own = slope.from_all = times_by_p(o, k[c], r, slope.p, slope.p);
      } else {
        const Sigmoid<A> sigmoid = sigmoid_terms<Policy>(value);
        slope.own = times_by_p(o, k[c], r, sigmoid.p, sigmoid.p * sigmoid.q);
      }
      if (!both || !r.counts) return slope;
      const A factor = scale * class_weight<A>(o, c);
      if (!o.second_softmax) {
        slope.own += factor * second.of_element(value, r.g).grad_input;
        return slope;
      }
      const A share = factor * second.smoothed(r.g);
      const A by_log = share != A(0) ? share * second.of_class(shifted + log_inverse, slope.p).slope : A(0);
      slope.own += by_log;
      slope.from_all += by_log;
      return slope;
    };
    A inner = 0;
    bool any = false;
#pragma unroll 2
    for (int64_t c = 0; c < C; ++c) {
      const Slope slope = slope_of(c);
      inner += slope.from_all;
      any = any || slope.counts;
    }
#pragma unroll 2
    for (int64_t c = 0; c < C; ++c) {
      const Slope slope = slope_of(c);
      to[c * S] = narrow<T>(any ? slope.own - slope.p * inner : A(0));
    }
  }
}

// ---- Softmax against class indices, at most kClasses: in registers. Blocks of kSoftmaxThreads. ----

// Neighbouring positions that a thread takes together: as many as fill four bytes of a class.
template <class T>
constexpr int kTogether = sizeof(T) < 4 ? 4 / sizeof(T) : 1;

// Values of one class at neighbouring positions.
template <class T>
struct alignas(kTogether<T> * sizeof(T)) Neighbours {
  T v[kTogether<T>];
};

// The logits of neighbouring positions. x: the first's first, those of the next class S further on; there: how many
// positions there are; paired: they may be read at once.
template <class T, int kClasses>
struct NeighbourLogits {
  Neighbours<T> of[kClasses];

  __device__ __forceinline__ NeighbourLogits(const T* x, int64_t S, int classes, int there, bool paired) {
    if (paired) {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c < classes) of[c] = *reinterpret_cast<const Neighbours<T>*>(x + c * S);
      }
    } else {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
#pragma unroll
        for (int j = 0; j < kTogether<T>; ++j) {
          if (c < classes && j < there) of[c].v[j] = x[c * S + j];
        }
      }
    }
  }

  __device__ __forceinline__ void store(T* to, int64_t S, int classes, int there, bool paired) const {
    if (paired) {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c < classes) *reinterpret_cast<Neighbours<T>*>(to + c * S) = of[c];
      }
    } else {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
#pragma unroll
        for (int j = 0; j < kTogether<T>; ++j) {
          if (c < classes && j < there) to[c * S + j] = of[c].v[j];
        }
      }
    }
  }
};

// The probabilities of one position.
template <class T, int kClasses>
struct Position {
  using A = Accumulation<T>;
  A p[kClasses];  // 0 beyond the classes there are
  A log_p;        // of class y, where that is a class and `with_log`
  SoftmaxRow<A> row;

  __device__ __forceinline__ Position(const NeighbourLogits<T, kClasses>& x, int j, int classes, int y, bool with_log) {
    A row_max = -infinity_<A>(), sum = 0;
#pragma unroll
    for (int c = 0; c < kClasses; ++c) p[c] = c < classes ? widen<A>(x.of[c].v[j]) : -infinity_<A>();
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
    row = {row_max, A(1) / sum};
#pragma unroll
    for (int c = 0; c < kClasses; ++c) p[c] *= row.inverse;
  }
};

template <class T, int kClasses>
__global__ void __launch_bounds__(kSoftmaxThreads, kClasses > 16  ? (sizeof(T) == 4 ? 3 : 2)
                                                   : kClasses > 8 ? 4
                                                   : kClasses > 4 ? 5
                                                                  : 6)
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
    for (int64_t s = begin + kTogether<T> * threadIdx.x; s < end; s += kTogether<T> * kSoftmaxThreads) {
      const int there = s + kTogether<T> <= end ? kTogether<T> : static_cast<int>(end - s);
      const NeighbourLogits<T, kClasses> logits(x + s, S, classes, there, o.paired);
#pragma unroll
      for (int j = 0; j < kTogether<T>; ++j) {
        if (j >= there) break;
        const int y = static_cast<int>(class_at(o, sample * S + s + j));
        const Position<T, kClasses> at(logits, j, classes, y, both);
#pragma unroll
        for (int c = 0; c < kClasses; ++c) {
          const A q = y >= 0 ? at.p[c] : A(0);
          I[c] += c == y ? q : A(0);
          P[c] += o.squared ? q * q : q;
        }
        const unsigned one = 1u << (8 * (y & 3));
#pragma unroll
        for (int c = 0; c < kClasses / 4; ++c) G[c] += c == y >> 2 ? one : 0u;
        counted += y >= 0;
        if (o.softmax_rows) store_row(o, sample * S + s + j, at.row);
        if (!both || y < 0) continue;
        if (o.softmax_rows) {  // the second term is of all classes
          const PositionTerm<A> term = second_of_position(o, second, x + s + j, 0, y, at.row);
          loss += term.loss;
          count += term.count;
        } else {
          const A weight = class_weight<A>(o, y);
          loss += times_(weight, second.of_class(at.log_p, exp_(at.log_p)).loss);
          count += o.counts_weights ? weight : A(1);
        }
      }
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
  }
  if (both) write_second(o, second_sum, count);
}

template <class T, int kClasses>
__global__ void __launch_bounds__(kSoftmaxThreads, kClasses > 16  ? 2
                                                   : kClasses > 8 ? 4
                                                                  : 8)
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
    for (int64_t s = begin + kTogether<T> * threadIdx.x; s < end; s += kTogether<T> * kSoftmaxThreads) {
      const int there = s + kTogether<T> <= end ? kTogether<T> : static_cast<int>(end - s);
      NeighbourLogits<T, kClasses> logits(x + s, S, classes, there, o.paired);  // later their gradients
#pragma unroll
      for (int j = 0; j < kTogether<T>; ++j) {
        if (j >= there) break;
        const int y = static_cast<int>(class_at(o, sample * S + s + j));
        const Position<T, kClasses> at(logits, j, classes, y, both);
        A by_log = 0;
        if (both && y >= 0) by_log = scale * class_weight<A>(o, y) * second.of_class(at.log_p, exp_(at.log_p)).slope;
        A inner = by_log;
#pragma unroll
        for (int c = 0; c < kClasses; ++c) {
          inner += times_by_p(o, k[c], TargetValue<A>{c == y ? A(1) : A(0), true}, at.p[c], at.p[c]);
        }
#pragma unroll
        for (int c = 0; c < kClasses; ++c) {
          const A d = times_by_p(o, k[c], TargetValue<A>{c == y ? A(1) : A(0), true}, at.p[c], at.p[c]);
          const A g = d - at.p[c] * inner + (c == y ? by_log : A(0));
          logits.of[c].v[j] = narrow<T>(y >= 0 ? g : A(0));
        }
      }
      logits.store(to + s, S, classes, there, o.paired);
    }
    __syncthreads();
  }
}
