// The kernels of the row-sums family: sweeps over rows by packs or elements, flat and row by row.
// Included inside the anonymous namespace of row_sums.cu, after numerics.h and the formulas.

constexpr int64_t kWarpRow = 2048;  // longest row a single warp sums

// A Problem with what one launch adds to it.
struct RowSumsOperands : RowSumsProblem {
  double* partial;  // workspace of grid_sum
  unsigned* finished;
  bool packed;  // packs of the first operand's dtype may be read and written everywhere
};

template <class T, class A, int kCount>
__device__ __forceinline__ void load_elements(const RowSumsOperands& o, int64_t at, A (&x)[4][Pack<T>::kSize]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k < kCount && o.operands[k].data) {
      const Pack<T> pack = load_pack(static_cast<const T*>(o.operands[k].data) + at);
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) x[k][j] = widen<A>(pack.values[j]);
    } else {
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) x[k][j] = A(0);
    }
  }
}

// A gradient as a tensor of this dtype can hold it.
template <class F, class A>
__device__ __forceinline__ A held_by(Dtype dtype, A g) {
  return F::kSaturates && dtype == Dtype::kFloat16 ? saturated(g) : g;
}

template <class F, class T, class A>
__device__ __forceinline__ T narrow_gradient(A g) {
  return narrow<T>(held_by<F>(std::is_same_v<T, __half> ? Dtype::kFloat16 : Dtype::kFloat32, g));
}

// The term of one element, which a loss may refuse.
template <class F, class A>
__device__ __forceinline__ RowTerms<A> row_terms(const F& f, A a, A b, A c, A d) {
  const RowTerms<A> r = f(a, b, c, d);
  if constexpr (F::kChecks) {
    CUDA_KERNEL_ASSERT(r.value != -infinity_<A>() && "expected reconstruction and target in the domain of the loss");
  }
  return r;
}

// Elements first, first + step, ... of [begin, end) in packs: returns the sum of their terms; with kWrite stores
// coefficient * derivative. Like terms round alike, so thousands of them are added as doubles, a pack at a time.
template <class F, class T, class A, bool kWrite>
__device__ __forceinline__ double sweep_packs(const F& f, const RowSumsOperands& o, A coefficient, int64_t begin,
                                              int64_t end, int64_t first, int64_t step) {
  constexpr int kPack = Pack<T>::kSize;
  double total = 0;
  for (int64_t at = begin + first * kPack; at < end; at += step * kPack) {
    A x[4][kPack];
    load_elements<T, A, F::kOperands>(o, at, x);
    Pack<T> grad[4];
    A sum = 0;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const RowTerms<A> r = row_terms(f, x[0][j], x[1][j], x[2][j], x[3][j]);
      sum += r.value;
      if constexpr (kWrite) {
#pragma unroll
        for (int k = 0; k < F::kOperands; ++k) grad[k].values[j] = narrow_gradient<F, T>(coefficient * r.grad[k]);
      }
    }
    total += sum;
    if constexpr (kWrite) {
#pragma unroll
      for (int k = 0; k < F::kOperands; ++k) {
        if (o.gradients[k]) store_pack(static_cast<T*>(o.gradients[k]) + at, grad[k]);
      }
    }
  }
  return total;
}

// As sweep_packs, one element at a time, any dtypes.
template <class F, class A, bool kWrite>
__device__ __forceinline__ double sweep_elements(const F& f, const RowSumsOperands& o, A coefficient, int64_t begin,
                                                 int64_t end, int64_t first, int64_t step) {
  double sum = 0;
  for (int64_t at = begin + first; at < end; at += step) {
    A x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
      x[k] = k < F::kOperands && o.operands[k].data ? load_any<A>(o.operands[k].data, o.operands[k].dtype, at) : A(0);
    const RowTerms<A> r = row_terms(f, x[0], x[1], x[2], x[3]);
    sum += r.value;
    if constexpr (kWrite) {
#pragma unroll
      for (int k = 0; k < F::kOperands; ++k) {
        if (o.gradients[k])
          store_any(o.gradients[k], o.operands[k].dtype, at, held_by<F>(o.operands[k].dtype, coefficient * r.grad[k]));
      }
    }
  }
  return sum;
}

template <class F, class T, class A, bool kWrite>
__device__ __forceinline__ double sweep(const F& f, const RowSumsOperands& o, A coefficient, int64_t begin, int64_t end,
                                        int64_t first, int64_t step) {
  if (o.packed) return sweep_packs<F, T, A, kWrite>(f, o, coefficient, begin, end, first, step);
  return sweep_elements<F, A, kWrite>(f, o, coefficient, begin, end, first, step);
}

template <class A>
__device__ __forceinline__ void finish_total(const RowSumsOperands& o, double sum) {
  if (o.results.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) store_total<A>(o.results, nullptr, total);
}

// A reduced linear loss: the rows do not matter.
template <class F, class T, bool kWrite>
__global__ void __launch_bounds__(kThreads) flat_kernel(const F f, const RowSumsOperands o) {
  using A = Accumulation<T>;
  const A scale = gradient_scale<A>(o.results, nullptr);
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  const A coefficient = scale * f.finish(A(0), A(0)).coefficient;
  finish_total<A>(o, sweep<F, T, A, kWrite>(f, o, coefficient, 0, o.rows * o.length, thread, threads));
}

// kGroup threads to a row: 32 (a warp) or kThreads (the block).
template <class F, class T, int kGroup, bool kWrite>
__global__ void __launch_bounds__(kThreads) rows_kernel(const F f, const RowSumsOperands o) {
  using A = Accumulation<T>;
  FL_SHARED(double, shared, [32]);
  constexpr int kGroups = kThreads / kGroup;
  const int group = threadIdx.x / kGroup, lane = threadIdx.x % kGroup;
  double losses = 0;
  for (int64_t row = int64_t{blockIdx.x} * kGroups + group; row < o.rows; row += int64_t{gridDim.x} * kGroups) {
    const int64_t begin = row * o.length, end = begin + o.length;
    double sum = sweep<F, T, A, false>(f, o, A(1), begin, end, lane, kGroup);
    sum = kGroup == 32 ? warp_sum(sum) : block_sum(sum, shared);
    const A y = o.labels.data ? load_any<A>(o.labels.data, o.labels.dtype, row) : A(0);
    const RowLoss<A> result = f.finish(static_cast<A>(sum), y);
    if (lane == 0) {
      if (o.results.losses) static_cast<A*>(o.results.losses)[row] = result.loss;
      losses += result.loss;
    }
    if constexpr (kWrite) {
      A scale = gradient_scale<A>(o.results, nullptr);
      if (o.results.per_item) scale *= static_cast<const A*>(o.results.incoming)[row];
      sweep<F, T, A, true>(f, o, scale * result.coefficient, begin, end, lane, kGroup);
    }
  }
  finish_total<A>(o, losses);
}
