// Rows of the overlap losses with a softmax, p = exp(x - row_max) * inverse: one class of a tile's positions.
// Included by overlap_loops.h.

template <class A>
void fill_row(const A value, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// The largest logit so far; a NaN may be passed over here, since its own exponential is NaN too.
template <class A>
void max_row(const A* __restrict x, A* __restrict row_max, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], m = row_max[i];
    row_max[i] = a > m ? a : m;
  }
}

// As max_row for four rows `step` apart.
template <class A>
void max_rows(const A* __restrict x, const int64_t step, A* __restrict row_max, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], b = x[i + step], c = x[i + 2 * step], d = x[i + 3 * step], m = row_max[i];
    const A ab = a > b ? a : b, cd = c > d ? c : d, all = ab > cd ? ab : cd;
    row_max[i] = all > m ? all : m;
  }
}

// e may be x.
template <class A>
void exp_row(const A* x, const A* __restrict row_max, A* e, A* __restrict sum, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = detail::exp_minus(row_max[i] - x[i]);
    e[i] = value;
    sum[i] += value;
  }
}

template <class A>
void invert_row(A* __restrict v, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) v[i] = A(1) / v[i];
}

// p *= inverse, and a copy of it to `kept` where that is wanted.
template <class A>
void normalise_row(const A* __restrict inverse, A* __restrict p, A* __restrict kept, const int64_t n) {
  if (!kept) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) p[i] *= inverse[i];
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = p[i] * inverse[i];
    p[i] = value;
    kept[i] = value;
  }
}

template <class A, bool kSquared, class Target>
void softmax_sums_row(const Target target, const A* __restrict p, const A* __restrict t, const int64_t n,
                      double* sums) {
  A I = 0, P = 0, G = 0;
#pragma omp simd reduction(+ : I, P, G)
  for (int64_t i = 0; i < n; ++i) {
    const A g = target.target(t[i]), q = target.counts(t[i]) ? p[i] : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
}

// I and P of four classes from c, class indices t: p of each `step` further on. Four at once hide the latency of the
// additions; the positions of each class (G) are counted apart, by count_classes.
template <class A, bool kSquared>
void softmax_class_sums4(const A c, const A* __restrict p, const int64_t step, const A* __restrict t, const int64_t n,
                         double* sums) {
  A I0 = 0, I1 = 0, I2 = 0, I3 = 0, P0 = 0, P1 = 0, P2 = 0, P3 = 0;
#pragma omp simd reduction(+ : I0, I1, I2, I3, P0, P1, P2, P3)
  for (int64_t i = 0; i < n; ++i) {
    const A y = t[i];
    const A p0 = p[i], p1 = p[i + step], p2 = p[i + 2 * step], p3 = p[i + 3 * step];
    const auto add = [y](A q, A number, A* own, A* all) {
      *own += y == number ? q : A(0);
      const A counted = y >= A(0) ? q : A(0);
      *all += kSquared ? counted * counted : counted;
    };
    add(p0, c, &I0, &P0);
    add(p1, c + A(1), &I1, &P1);
    add(p2, c + A(2), &I2, &P2);
    add(p3, c + A(3), &I3, &P3);
  }
  const A own[4] = {I0, I1, I2, I3}, all[4] = {P0, P1, P2, P3};
  for (int k = 0; k < 4; ++k) {
    sums[kRegionSums * k] += own[k];
    sums[kRegionSums * k + 1] += all[k];
  }
}

// The same of one class.
template <class A, bool kSquared>
void softmax_class_sums(const A c, const A* __restrict p, const A* __restrict t, const int64_t n, double* sums) {
  A I = 0, P = 0;
#pragma omp simd reduction(+ : I, P)
  for (int64_t i = 0; i < n; ++i) {
    const A q = t[i] >= A(0) ? p[i] : A(0);
    I += t[i] == c ? q : A(0);
    P += kSquared ? q * q : q;
  }
  sums[0] += I;
  sums[1] += P;
}

// The derivative of the overlap with respect to p. With class indices a position counts for all classes or for none,
// and then its whole gradient is set to 0.
template <class A, bool kSquared, class Target>
FL_HD A by_probability(const Target& target, A p, A t, A by_I, A by_P) {
  const A slope = by_I * target.target(t) + (kSquared ? 2 * by_P * p : by_P);
  return Target::kClassIndex || target.counts(t) ? slope : A(0);
}

// inner += p d: the term that softmax's Jacobian takes from every class.
template <class A, bool kSquared, class Target>
void softmax_inner_row(const Target target, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                       A* __restrict inner, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) inner[i] += p[i] * by_probability<A, kSquared>(target, p[i], t[i], by_I, by_P);
}

// What a second term adds to the gradient of a class: nothing, something where the position is of that class, or
// something everywhere.
enum class Added { kNothing, kOwnClass, kEachClass };

// added: derivative of the second term with respect to log p, or without its softmax to the logit, of class t[i] with
// kOwnClass, else of this class. keep: negative where nothing of the position counts; its logits, NaN included, are not
// read.
template <class A, bool kSquared, Added kAdded, class Target>
void softmax_gradient_row(const Target target, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                          const A* __restrict inner, const A* __restrict added, const A* __restrict keep,
                          A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A value = p[i] * (by_probability<A, kSquared>(target, p[i], t[i], by_I, by_P) - inner[i]);
    if constexpr (kAdded == Added::kOwnClass) value += t[i] == target.c ? added[i] : A(0);
    if constexpr (kAdded == Added::kEachClass) value += added[i];
    d[i] = keep[i] >= A(0) ? value : A(0);
  }
}

// The same where only the second term has the softmax p, and the ratio a sigmoid of the logits x.
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
