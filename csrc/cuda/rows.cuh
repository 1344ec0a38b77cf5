// The parts of a softmax kernel: which threads share a row, where the row's logits are kept, and its softmax.
// Included inside the anonymous namespace of each softmax .cu, after numerics.h.

// kSize values of T, loaded and stored at once where kSize is a whole pack.
template <class T, int kSize>
struct Values {
  T v[kSize];
};

template <class T, int kSize>
__device__ __forceinline__ Values<T, kSize> load_values(const T* from) {
  Values<T, kSize> values;
  if constexpr (kSize == 1) {
    values.v[0] = *from;
  } else {
    const Pack<T> pack = load_pack(from);
#pragma unroll
    for (int i = 0; i < kSize; ++i) values.v[i] = pack.values[i];
  }
  return values;
}

template <class T, int kSize>
__device__ __forceinline__ void store_values(T* to, const Values<T, kSize>& values) {
  if constexpr (kSize == 1) {
    *to = values.v[0];
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack.values[i] = values.v[i];
    store_pack(to, pack);
  }
}

// The threads of one row. kThreadsPerRow: 1, 32, or 0 for the whole block.
template <int kThreadsPerRow>
struct Team {
  static __device__ __forceinline__ int size() { return kThreadsPerRow ? kThreadsPerRow : blockDim.x; }
  static __device__ __forceinline__ int rank() { return threadIdx.x % size(); }
  static __device__ __forceinline__ int64_t first() {
    return kThreadsPerRow ? (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / size() : blockIdx.x;
  }
  static __device__ __forceinline__ int64_t teams() {
    return kThreadsPerRow ? int64_t{gridDim.x} * (blockDim.x / size()) : gridDim.x;
  }

  template <class A>
  static __device__ __forceinline__ A sum(A x) {
    if constexpr (kThreadsPerRow == 1) {
      return x;
    } else if constexpr (kThreadsPerRow == 32) {
      return warp_sum(x);
    } else {
      FL_SHARED(A, shared, [32]);
      return block_sum(x, shared);
    }
  }

  template <class A>
  static __device__ __forceinline__ A maximum(A x) {
    if constexpr (kThreadsPerRow == 1) {
      return x;
    } else if constexpr (kThreadsPerRow == 32) {
      return warp_max(x);
    } else {
      FL_SHARED(A, shared, [32]);
      return block_max(x, shared);
    }
  }

  // As each_ahead and each_few, for the places of this thread in a row of `classes` by kSize.
  template <int kSize, class Load, class Run>
  static __device__ __forceinline__ void each(int64_t classes, const Load& load, const Run& run) {
    each_ahead(rank() * kSize, classes, int64_t{size()} * kSize, load, run);
  }
  template <int kSize, class Load, class Run>
  static __device__ __forceinline__ void few(int64_t classes, const Load& load, const Run& run) {
    each_few(rank() * kSize, classes, int64_t{size()} * kSize, load, run);
  }

  // Orders what each thread read before it before what any other writes after the next `sum` or `maximum`.
  static __device__ __forceinline__ void finish_reads() {
    if constexpr (kThreadsPerRow == 32) __syncwarp();
  }
};

// Where a row is kept between its passes. Its classes begin at element `base` and lie `step` elements apart; space:
// [classes] in shared memory. `each` calls run(slot, at, values) for the values that belong to this thread, `at` the
// first one's class; `get` finds the values of another row at the same place. kSlots: of registers; 0 elsewhere, where
// `first`, a pass before any whose values matter, calls run(values) for a few of them at a time.

// In registers, at most kPacks times kSize values per thread; step is 1.
template <class T, int kSize, int kPacks, class Threads>
struct RegisterRow {
  static constexpr int kSlots = kPacks, kValues = kSize;
  Values<T, kSize> held[kPacks];
  int64_t classes;

  __device__ __forceinline__ RegisterRow(const void* data, Dtype, int64_t base, int64_t, int64_t classes, void*)
      : classes(classes) {
    const T* x = static_cast<const T*>(data) + base;
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const int at = (j * Threads::size() + Threads::rank()) * kSize;
      if (at < classes) held[j] = load_values<T, kSize>(x + at);
    }
  }

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      const int at = (j * Threads::size() + Threads::rank()) * kSize;
      if (at < classes) run(j, int64_t{at}, held[j]);
    }
  }

  __device__ __forceinline__ Values<T, kSize> get(int slot, int64_t) const { return held[slot]; }

  static __device__ __forceinline__ void store(void* data, Dtype, int64_t i, const Values<T, kSize>& values) {
    store_values<T, kSize>(static_cast<T*>(data) + i, values);
  }
};

// Not kept: read again by every pass.
template <class T, int kSize, int, class Threads>
struct GlobalRow {
  static constexpr int kSlots = 0, kValues = kSize;
  const T* x;
  int64_t step, classes;

  __device__ __forceinline__ GlobalRow(const void* data, Dtype, int64_t base, int64_t step, int64_t classes, void*)
      : x(static_cast<const T*>(data) + base), step(step), classes(classes) {}

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
    Threads::template each<kSize>(
        classes, [&](int64_t at) { return get(0, at); }, [&](int64_t at, const auto& x) { run(0, at, x); });
  }

  template <class Run>
  __device__ __forceinline__ void first(const Run& run) const {
    Threads::template few<kSize>(
        classes, [&](int64_t at) { return get(0, at); }, [&](int64_t, const auto& values) { run(values); });
  }

  __device__ __forceinline__ Values<T, kSize> get(int, int64_t at) const {
    return load_values<T, kSize>(x + at * step);
  }

  static __device__ __forceinline__ void store(void* data, Dtype, int64_t i, const Values<T, kSize>& values) {
    store_values<T, kSize>(static_cast<T*>(data) + i, values);
  }
};

// In shared memory from the first pass on; a thread reads only what it wrote. step is 1.
template <class T, int kSize, int, class Threads>
struct SharedRow : GlobalRow<T, kSize, 0, Threads> {
  using Global = GlobalRow<T, kSize, 0, Threads>;
  T* held;

  __device__ __forceinline__ SharedRow(const void* data, Dtype dtype, int64_t base, int64_t, int64_t classes,
                                       void* space)
      : Global(data, dtype, base, 1, classes, space), held(static_cast<T*>(space)) {}

  template <class Run>
  __device__ __forceinline__ void first(const Run& run) const {
    const int64_t stride = int64_t{Threads::size()} * kSize;
    Threads::template few<kSize>(
        this->classes, [&](int64_t at) { return Global::get(0, at); },
        [&](int64_t at, const auto& values) {
#pragma unroll
          for (size_t i = 0; i < std::size(values); ++i) {
            store_values<T, kSize>(held + at + static_cast<int64_t>(i) * stride, values[i]);
          }
          run(values);
        });
  }

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
#pragma unroll 2
    for (int64_t at = Threads::rank() * kSize; at < this->classes; at += Threads::size() * kSize)
      run(0, at, get(0, at));
  }

  __device__ __forceinline__ Values<T, kSize> get(int, int64_t at) const { return load_values<T, kSize>(held + at); }
};

// As GlobalRow, of any dtype, value by value in the accumulation dtype A.
template <class A, int, int, class Threads>
struct AnyRow {
  static constexpr int kSlots = 0, kValues = 1;
  const void* data;
  Dtype dtype;
  int64_t base, step, classes;

  __device__ __forceinline__ AnyRow(const void* data, Dtype dtype, int64_t base, int64_t step, int64_t classes, void*)
      : data(data), dtype(dtype), base(base), step(step), classes(classes) {}

  template <class Run>
  __device__ __forceinline__ void each(const Run& run) const {
    for (int64_t at = Threads::rank(); at < classes; at += Threads::size()) run(0, at, get(0, at));
  }

  template <class Run>
  __device__ __forceinline__ void first(const Run& run) const {
    each([&](int, int64_t, const Values<A, 1>& x) {
      const Values<A, 1> values[1] = {x};
      run(values);
    });
  }

  __device__ __forceinline__ Values<A, 1> get(int, int64_t at) const {
    return {load_any<A>(data, dtype, base + at * step)};
  }

  static __device__ __forceinline__ void store(void* data, Dtype dtype, int64_t i, const Values<A, 1>& values) {
    store_any(data, dtype, i, values.v[0]);
  }
};

// run(at, x, z) for the values of two rows at the same places.
template <class Threads, class Row, class Other, class Run>
__device__ __forceinline__ void each_of_both(const Row& row, const Other& other, const Run& run) {
  if constexpr (Row::kSlots > 0) {
    row.each([&](int slot, int64_t at, const auto& x) { run(at, x, other.get(slot, at)); });
  } else {
    struct Both {
      decltype(row.get(0, 0)) x;
      decltype(other.get(0, 0)) z;
    };
    Threads::template each<Row::kValues>(
        row.classes, [&](int64_t at) { return Both{row.get(0, at), other.get(0, at)}; },
        [&](int64_t at, const Both& both) { run(at, both.x, both.z); });
  }
}

// log p = rate (x - row_max) - log_sum, p = exp(rate (x - row_max)) * inverse.
template <class A>
struct Softmax {
  A rate, row_max, log_sum, inverse;
};

// The larger, the number where one is NaN: one instruction, as a comparison and a choice are not.
__device__ __forceinline__ float larger(float x, float y) { return fmaxf(x, y); }
__device__ __forceinline__ double larger(double x, double y) { return fmax(x, y); }

// A running maximum and the sum of exp(rate (x - row_max)) below it.
template <class A>
struct Running {
  A row_max, sum;
};

template <class T>
using ExpPolicy = std::conditional_t<sizeof(T) == 2, Fast, Precise>;  // half precision needs no more

// exp(rate (x - row_max)), 0 for x = -inf also while the row_max is -inf.
template <class Policy, class A>
__device__ __forceinline__ A exp_below(A x, A row_max, A rate) {
  return exp_<Policy>((x - (row_max == -infinity_<A>() ? A(0) : row_max)) * rate);
}

template <class A>
__device__ __forceinline__ Softmax<A> finish_softmax(A rate, A row_max, A sum) {
  return {rate, row_max, log_(sum), A(1) / sum};  // a row of -inf alone: -inf - -inf, NaN as torch
}

// Of a row in registers: its maximum first, then one exponential for each value, which use(slot, i, e) may keep.
template <class A, class T, class Threads, class Row, class Use>
__device__ __forceinline__ Running<A> held_softmax(const Row& row, A rate, const Use& use) {
  A row_max = -infinity_<A>(), sum = 0;
  row.each([&](int, int64_t, const auto& x) {
#pragma unroll
    for (int i = 0; i < Row::kValues; ++i) row_max = larger(row_max, widen<A>(x.v[i]));
  });
  row_max = Threads::maximum(row_max);
  row.each([&](int slot, int64_t, const auto& x) {
#pragma unroll
    for (int i = 0; i < Row::kValues; ++i) {
      const A e = exp_below<ExpPolicy<T>>(widen<A>(x.v[i]), row_max, rate);
      use(slot, i, e);
      sum += e;
    }
  });
  return {row_max, Threads::sum(sum)};
}

// Of any other row.
template <class A, class T, class Threads, class Row>
__device__ __forceinline__ Running<A> passing_softmax(const Row& row, A rate) {
  using Policy = ExpPolicy<T>;
  A row_max = -infinity_<A>(), sum = 0;
  row.first([&](const auto& values) {
    A new_max = row_max;
#pragma unroll
    for (const auto& x : values) {
#pragma unroll
      for (int i = 0; i < Row::kValues; ++i) new_max = larger(new_max, widen<A>(x.v[i]));
    }
    if (new_max > row_max) {
      sum *= exp_below<Policy>(row_max, new_max, rate);
      row_max = new_max;
    }
#pragma unroll
    for (const auto& x : values) {
#pragma unroll
      for (int i = 0; i < Row::kValues; ++i) sum += exp_below<Policy>(widen<A>(x.v[i]), row_max, rate);
    }
  });
  const A of_all = Threads::maximum(row_max);
  // A thread without a finite value has row_max -inf and sum 0, or NaN from a NaN.
  sum = Threads::sum(row_max == -infinity_<A>() ? sum : sum * exp_<Policy>((row_max - of_all) * rate));
  return {of_all, sum};
}

template <class A, class T, class Threads, class Row>
__device__ __forceinline__ Running<A> running_softmax(const Row& row, A rate) {
  if constexpr (Row::kSlots > 0) {
    return held_softmax<A, T, Threads>(row, rate, [](int, int, A) {});
  } else {
    return passing_softmax<A, T, Threads>(row, rate);
  }
}

template <class A, class T, class Threads, class Row>
__device__ __forceinline__ Softmax<A> row_softmax(const Row& row, A rate) {
  const Running<A> running = running_softmax<A, T, Threads>(row, rate);
  return finish_softmax(rate, running.row_max, running.sum);
}
