// Rows beside the blocks of the overlap losses with a softmax: one class of a tile's positions.
// Included by overlap_loops.h.

template <class A>
void fill_row(const A value, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// The gradient where only the second term has the softmax p, and the ratio a sigmoid of the logits x; inner, added and
// keep as in BlockGradient.
template <class A, bool kSquared, Added kAdded, class Target>
void sigmoid_gradient_row(const Target target, const A* __restrict x, const A* __restrict p, const A* __restrict t,
                          const A by_I, const A by_P, const A* __restrict inner, const A* __restrict added,
                          const A* __restrict keep, A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A kept = smaller_probability(x[i], exp_minus_abs(x[i])), smaller = abs_(kept);
    const A slope = by_probability<A, kSquared>(target, probability_of(kept), t[i], by_I, by_P);
    A value = smaller * (A(1) - smaller) * slope - p[i] * inner[i];
    if constexpr (kAdded == Added::kOwnClass) value += t[i] == target.c ? added[i] : A(0);
    if constexpr (kAdded == Added::kEachClass) value += added[i];
    d[i] = keep[i] >= A(0) ? value : A(0);
  }
}

template <class A>
void sigmoid_row(const A* __restrict x, A* __restrict p, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = probability_of(smaller_probability(x[i], exp_minus_abs(x[i])));
}

// keep = 0 where this class counts.
template <class A, class Target>
void keep_row(const Target target, const A* __restrict t, A* __restrict keep, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) keep[i] = target.counts(t[i]) ? A(0) : keep[i];
}
