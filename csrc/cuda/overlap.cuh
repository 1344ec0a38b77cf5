// The kernels of the overlap family that sweep the logits; they do not depend on the ratio.
//
// - Sums of each class by chunk of positions (double, in fixed order), then the gradient from the class's coefficients.
// - Softmax against class indices: a thread takes all classes of a position into registers, one read in each pass.
// - Any other softmax: the row_max and the sum of each position first, 8 bytes that the other passes read.
// - A compound's second term rides along: its sum and the number of what counts, its gradient added.
// Included inside the anonymous namespace of overlap.cu, after the formulas.

constexpr int kSoftmaxThreads = 128;  // all classes of a position in registers: fewer threads, more registers each
constexpr int kRegisterBlocks = 4;    // that share a multiprocessor
constexpr int kMostClasses = 32;      // held in registers
constexpr int kMostCounted = 255;     // positions of a class that a thread counts in a byte

template <class T>
using ExpPolicy = std::conditional_t<sizeof(T) == 2, Fast, Precise>;  // half precision needs no more

// exp(x - row_max) * inverse is the probability of a class at a position.
template <class A>
struct alignas(2 * sizeof(A)) SoftmaxRow {
  A row_max, inverse;
};

// d loss / d p = scale (by_I g + by_P) (2 by_P p with `squared`); scale: a power of two, other than 1 where a small
// denominator would take the coefficients out of float's range although their products with p are in it.
template <class A>
struct alignas(4 * sizeof(A)) Coefficients {
  A by_I, by_P, scale, unused;  // 0: copies take the whole, so the whole is written
};

// A Problem with what its launches add to it. A row is one class of one sample; an item is one chunk of its positions.
struct OverlapOperands : OverlapProblem {
  bool squared, batch, ignoring, micro;
  bool second_softmax;  // of the second term
  Absent absent;
  Activation activation;
  double ignored_value;  // of a dense target, NaN: none
  int64_t ignored_class;
  double overlap_weight, second_weight;  // of the two terms
  int64_t chunk, chunks;                 // positions of a chunk, chunks of a row
  int team;                              // threads that share an item: 1, 32 or kThreads
  bool packed;                           // packs of the input may be read, and written to the gradient
  bool paired;                           // and what kernels in registers take together
  double* partial;                       // [B, C, chunks, kRegionSums], in the forward
  double* class_sums;                    // [rows, C, kRegionSums]: of all chunks, for what needs all classes; or null
  double* present;                       // [1]: losses of what has a target, at least 1, where the mean is over them
  void* softmax_rows;                    // [B, S] SoftmaxRow, for the softmax that is not in registers
  void* coefficients;                    // [rows, C] Coefficients
  double* second_partial;                // [blocks, 2]: second terms, number of what counts
  double* second;                        // [2]: the sum of both
};

// The class at a position, -1 where it is ignored. at: index in [B, S].
__device__ __forceinline__ int64_t class_at(const OverlapOperands& o, int64_t at) {
  const int64_t y = integer_at(o.target, o.target_dtype, at);
  if (o.ignoring && y == o.ignored_class) return -1;
  CUDA_KERNEL_ASSERT(y >= 0 && y < o.classes && "class index in [0, C) or ignore_index");
  return y;
}

// The target of one element and whether it counts.
template <class A>
struct TargetValue {
  A g;
  bool counts;
};

template <class A>
__device__ __forceinline__ TargetValue<A> dense_target(const OverlapOperands& o, A t) {
  const bool counts = t != static_cast<A>(o.ignored_value);
  CUDA_KERNEL_ASSERT((is_floating(o.target_dtype) || t == A(0) || t == A(1) || !counts) && "a mask of 0 and 1");
  return {counts ? t : A(0), counts};
}

// at: index in [B, C, S]; y: class of the position with `class_index`.
template <class A>
__device__ __forceinline__ TargetValue<A> target_of(const OverlapOperands& o, int64_t at, int64_t c, int64_t y) {
  if (o.class_index) return {A(c == y), y >= 0};
  return dense_target(o, load_any<A>(o.target, o.target_dtype, at));
}

// The weight of class c in the second term.
template <class A>
__device__ __forceinline__ A class_weight(const OverlapOperands& o, int64_t c) {
  return o.class_weight ? load_any<A>(o.class_weight, o.class_weight_dtype, c) : A(1);
}

// The factor of the second term's gradient.
template <class A>
__device__ __forceinline__ A second_scale(const OverlapOperands& o) {
  double scale = o.second_weight * o.results.factor;
  if (o.results.counts) scale /= *static_cast<const A*>(o.backward ? o.saved_count : o.count);
  if (o.results.incoming) scale *= *static_cast<const A*>(o.results.incoming);
  return static_cast<A>(scale);
}

// d loss / d p times `factor`, p or its derivative: the product is in range where the derivative may not be.
template <class A>
__device__ __forceinline__ A times_by_p(const OverlapOperands& o, const Coefficients<A>& k, const TargetValue<A>& r,
                                        A p, A factor) {
  const A slope = k.by_I * r.g + (o.squared ? 2 * k.by_P * p : k.by_P);
  return r.counts ? factor * k.scale * slope : A(0);
}

// Sum over the threads of an item, known to its first. shared: as for block_sum. All threads of a warp come here.
template <class A>
__device__ __forceinline__ A team_sum(A x, int team, A* shared) {
  if (team == 1) return x;
  return team == 32 ? warp_sum(x) : block_sum(x, shared);
}

// This block's part of the second term and of its count.
__device__ __forceinline__ void write_second(const OverlapOperands& o, double second, double count) {
  FL_SHARED(double, shared, [32]);
  second = block_sum(second, shared);
  count = block_sum(count, shared);
  if (threadIdx.x == 0) {
    o.second_partial[2 * int64_t{blockIdx.x}] = second;
    o.second_partial[2 * int64_t{blockIdx.x} + 1] = count;
  }
}

// ---- Element by element: any activation for the sums (softmax from its SoftmaxRow), none and sigmoid for the
// gradient.
// ----

// The chunk of one row that a team works on, by packs (kSame: of the target too, which has the input's dtype) or by
// elements: run.element gives each one's result, run.pack and run.single store it.
template <class T, bool kSame, class Run>
__device__ __forceinline__ void each_element(const OverlapOperands& o, int64_t item, const Run& run) {
  using A = Accumulation<T>;
  constexpr int kPack = Pack<T>::kSize;
  const int64_t row = item / o.chunks, sample = row / o.classes, c = row % o.classes;
  const int64_t begin = item % o.chunks * o.chunk, stop = begin + o.chunk;
  const int64_t end = stop < o.positions ? stop : o.positions, base = row * o.positions;
  const int lane = threadIdx.x % o.team;
  const T* input = static_cast<const T*>(o.input);
  if (kSame || o.packed) {
    for (int64_t s = begin + lane * kPack; s < end; s += o.team * kPack) {
      const Pack<T> x = load_pack(input + base + s);
      if constexpr (kSame) {
        const Pack<T> t = load_pack(static_cast<const T*>(o.target) + base + s);
        run.pack(base + s, [&](int k) {
          return run.element(sample * o.positions + s + k, widen<A>(x.values[k]),
                             dense_target(o, widen<A>(t.values[k])));
        });
      } else {
        run.pack(base + s, [&](int k) {
          const int64_t at = sample * o.positions + s + k, y = o.class_index ? class_at(o, at) : int64_t{-1};
          return run.element(at, widen<A>(x.values[k]), target_of<A>(o, base + s + k, c, y));
        });
      }
    }
  } else {
    for (int64_t s = begin + lane; s < end; s += o.team) {
      const int64_t at = sample * o.positions + s, y = o.class_index ? class_at(o, at) : int64_t{-1};
      run.single(base + s, run.element(at, widen<A>(input[base + s]), target_of<A>(o, base + s, c, y)));
    }
  }
}

// The sums of a row's chunk over one thread's elements.
template <class T, bool kSecond>
struct ElementSums {
  using A = Accumulation<T>;
  using Policy = std::conditional_t<kSecond, Precise, ExpPolicy<T>>;  // the second term's, so that both share one exp
  const OverlapOperands& o;
  const AnySecondTerm<A>& second;
  A weight;  // of the second term
  mutable A I = 0, P = 0, G = 0, second_sum = 0;
  mutable int64_t count = 0;
  mutable bool any = false;

  __device__ __forceinline__ ElementSums(const OverlapOperands& o, const AnySecondTerm<A>& second, int64_t c)
      : o(o), second(second), weight(kSecond ? class_weight<A>(o, c) : A(1)) {}

  // at: index in [B, S]
  __device__ __forceinline__ A element(int64_t at, A x, const TargetValue<A>& r) const {
    A p = x;
    if (o.activation == Activation::kSigmoid) p = sigmoid_terms<Policy>(x).p;
    if (o.activation == Activation::kSoftmax) {
      const SoftmaxRow<A> s = static_cast<const SoftmaxRow<A>*>(o.softmax_rows)[at];
      p = exp_<Policy>(x - s.row_max) * s.inverse;
    }
    any = any || r.counts;
    const A q = r.counts ? p : A(0);
    I += q * r.g;
    P += o.squared ? q * q : q;
    G += o.squared ? r.g * r.g : r.g;
    if constexpr (kSecond) {
      second_sum += r.counts ? weight * second.of_element(x, r.g).loss : A(0);
      count += r.counts;
    }
    return A(0);
  }

  template <class Element>
  __device__ __forceinline__ void pack(int64_t, const Element& element_of) const {
#pragma unroll
    for (int k = 0; k < Pack<T>::kSize; ++k) element_of(k);
  }
  __device__ __forceinline__ void single(int64_t, A) const {}
};

template <class T, bool kSame, bool kSecond>
__global__ void __launch_bounds__(kThreads)
    element_sums_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  FL_SHARED(A, shared, [32]);
  const int teams = kThreads / o.team;
  const int64_t items = o.samples * o.classes * o.chunks;
  double second_sum = 0, count = 0;
  for (int64_t item = int64_t{blockIdx.x} * teams + threadIdx.x / o.team; item < items;
       item += int64_t{gridDim.x} * teams) {
    const ElementSums<T, kSecond> sums(o, second, item / o.chunks % o.classes);
    each_element<T, kSame>(o, item, sums);
    const A I = team_sum(sums.I, o.team, shared), P = team_sum(sums.P, o.team, shared);
    const A G = team_sum(sums.G, o.team, shared);
    const A any = o.ignoring ? team_sum(A(sums.any), o.team, shared) : A(1);
    if (threadIdx.x % o.team == 0) {
      double* to = o.partial + kRegionSums * item;
      to[0] = I;
      to[1] = P;
      to[2] = G;
      to[3] = any;
    }
    if constexpr (kSecond) {
      second_sum += sums.second_sum;
      count += static_cast<double>(sums.count);
    }
  }
  if constexpr (kSecond) write_second(o, second_sum, count);
}

template <class T, bool kSecond>
struct ElementGradient {
  using A = Accumulation<T>;
  using Policy = std::conditional_t<kSecond, Precise, ExpPolicy<T>>;
  const OverlapOperands& o;
  const AnySecondTerm<A>& second;
  Coefficients<A> k;
  A scale;

  __device__ __forceinline__ A element(int64_t, A x, const TargetValue<A>& r) const {
    A g;
    if (o.activation == Activation::kSigmoid) {
      const Sigmoid<A> s = sigmoid_terms<Policy>(x);
      g = times_by_p(o, k, r, s.p, s.p * s.q);
      if constexpr (kSecond) g += scale * second.of_element(x, r.g).grad_input;
    } else {
      g = times_by_p(o, k, r, x, A(1));
    }
    return r.counts ? g : A(0);
  }

  template <class Element>
  __device__ __forceinline__ void pack(int64_t at, const Element& element_of) const {
    Pack<T> g;
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) g.values[j] = narrow<T>(element_of(j));
    store_pack(static_cast<T*>(o.gradient) + at, g);
  }
  __device__ __forceinline__ void single(int64_t at, A g) const { static_cast<T*>(o.gradient)[at] = narrow<T>(g); }
};

template <class T, bool kSame, bool kSecond>
__global__ void __launch_bounds__(kThreads)
    element_gradient_kernel(const OverlapOperands o, const AnySecondTerm<Accumulation<T>> second) {
  using A = Accumulation<T>;
  const int teams = kThreads / o.team;
  const int64_t items = o.samples * o.classes * o.chunks;
  const A scale = kSecond ? second_scale<A>(o) : A(0);
  for (int64_t item = int64_t{blockIdx.x} * teams + threadIdx.x / o.team; item < items;
       item += int64_t{gridDim.x} * teams) {
    const int64_t row = item / o.chunks;
    const auto k = static_cast<const Coefficients<A>*>(o.coefficients)[o.batch ? row % o.classes : row];
    const A weighted = kSecond ? scale * class_weight<A>(o, row % o.classes) : A(0);
    each_element<T, kSame>(o, item, ElementGradient<T, kSecond>{o, second, k, weighted});
  }
}
