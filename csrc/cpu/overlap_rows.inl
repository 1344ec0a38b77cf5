// The inner loops of the overlap family: one class of a tile, n positions. Included by overlap.inl.

// The target of class c and whether a position counts for it.
// kIndexed: t holds class numbers, -1 where ignored; else the dense target, ignored where equal to `ignore` (NaN:
// never).
template <class A, bool kIndexed_>
struct Region {
  static constexpr bool kIndexed = kIndexed_;
  A c, ignore;
  FL_HD A target(A t) const { return kIndexed ? (t == c ? A(1) : A(0)) : (t == ignore ? A(0) : t); }
  FL_HD bool counts(A t) const { return kIndexed ? t >= A(0) : t != ignore; }
};

// In place of a second term of an element.
template <class A>
struct NoTerm {
  FL_HD Terms<A> operator()(A, A, A) const { return {A(0), A(0), A(0)}; }
};

// ---- Elements on their own: no activation, or sigmoid. ----

template <class A, bool kSigmoid, bool kSquared, class R, class Term>
void element_sums_row(const R region, const Term term, const A* __restrict x, const A* __restrict t, const int64_t n,
                      double* sums, double* second) {
  A I = 0, P = 0, G = 0, loss = 0, count = 0;
#pragma omp simd reduction(+ : I, P, G, loss, count)
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]);
    const bool counts = region.counts(t[i]);
    const A p = kSigmoid ? sigmoid_terms(x[i]).p : x[i];
    const A q = counts ? p : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) {
      const A value = term(x[i], g, A(1)).loss;
      loss += counts ? value : A(0);
      count += counts ? A(1) : A(0);
    }
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
  second[0] += loss;
  second[1] += count;
}

// d = gradient with respect to x: of the overlap through p, and scale times the term's.
template <class A, bool kSigmoid, bool kSquared, class R, class Term>
void element_gradient_row(const R region, const Term term, const A* __restrict x, const A* __restrict t, const A by_I,
                          const A by_P, const A scale, A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]);
    A value;
    if constexpr (kSigmoid) {
      const Sigmoid<A> s = sigmoid_terms(x[i]);
      value = s.p * s.q * (by_I * g + (kSquared ? 2 * by_P * s.p : by_P));
    } else {
      value = by_I * g + (kSquared ? 2 * by_P * x[i] : by_P);
    }
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) value += scale * term(x[i], g, A(1)).grad_input;
    d[i] = region.counts(t[i]) ? value : A(0);
  }
}

// ---- Softmax: e = exp(x - most), p = e * inverse. ----

template <class A>
void fill_row(const A value, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// The largest logit so far; a NaN may be passed over here, since its own exponential is NaN too.
template <class A>
void max_row(const A* __restrict x, A* __restrict most, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], m = most[i];
    most[i] = a > m ? a : m;
  }
}

// As max_row for four rows `step` apart.
template <class A>
void max_rows(const A* __restrict x, const int64_t step, A* __restrict most, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], b = x[i + step], c = x[i + 2 * step], d = x[i + 3 * step], m = most[i];
    const A ab = a > b ? a : b, cd = c > d ? c : d, all = ab > cd ? ab : cd;
    most[i] = all > m ? all : m;
  }
}

template <class A>
void exp_row(const A* __restrict x, const A* __restrict most, A* __restrict e, A* __restrict sum, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    e[i] = detail::exp_minus(most[i] - x[i]);
    sum[i] += e[i];
  }
}

template <class A>
void invert_row(A* __restrict v, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) v[i] = A(1) / v[i];
}

template <class A, bool kSquared, class R>
void softmax_sums_row(const R region, const A* __restrict e, const A* __restrict inverse, const A* __restrict t,
                      const int64_t n, double* sums) {
  A I = 0, P = 0, G = 0;
#pragma omp simd reduction(+ : I, P, G)
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]), p = e[i] * inverse[i];
    const A q = region.counts(t[i]) ? p : A(0);
    I += R::kIndexed ? (t[i] == region.c ? p : A(0)) : q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
}

// As softmax_sums_row for classes c and c + 1 of class numbers; e of the second `step` further on. Two at once hide the
// latency of the sums.
template <class A, bool kSquared>
void softmax_sums_pair(const A c, const A* __restrict e, const int64_t step, const A* __restrict inverse,
                       const A* __restrict t, const int64_t n, double* sums) {
  A I0 = 0, P0 = 0, G0 = 0, I1 = 0, P1 = 0, G1 = 0;
#pragma omp simd reduction(+ : I0, P0, G0, I1, P1, G1)
  for (int64_t i = 0; i < n; ++i) {
    const A y = t[i], q0 = e[i] * inverse[i], q1 = e[i + step] * inverse[i];
    const A p0 = y >= A(0) ? q0 : A(0), p1 = y >= A(0) ? q1 : A(0);
    const bool first = y == c, second = y == c + A(1);
    I0 += first ? p0 : A(0);
    I1 += second ? p1 : A(0);
    P0 += kSquared ? p0 * p0 : p0;
    P1 += kSquared ? p1 * p1 : p1;
    G0 += first ? A(1) : A(0);
    G1 += second ? A(1) : A(0);
  }
  sums[0] += I0;
  sums[1] += P0;
  sums[2] += G0;
  sums[3] += I1;
  sums[4] += P1;
  sums[5] += G1;
}

// The derivative of the overlap with respect to p.
template <class A, bool kSquared, class R>
FL_HD A by_probability(const R& region, A p, A t, A by_I, A by_P) {
  const A slope = by_I * region.target(t) + (kSquared ? 2 * by_P * p : by_P);
  return region.counts(t) ? slope : A(0);
}

// inner += p d: the term that softmax's Jacobian takes from every class.
template <class A, bool kSquared, class R>
void softmax_inner_row(const R region, const A* __restrict e, const A* __restrict inverse, const A* __restrict t,
                       const A by_I, const A by_P, A* __restrict inner, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A p = e[i] * inverse[i], d = by_probability<A, kSquared>(region, p, t[i], by_I, by_P);
    inner[i] += p * d;
  }
}

// by_log: derivative of the second term with respect to log p, of class t[i] with class numbers, else of this class.
// keep: negative where nothing of the position counts; its logits, NaN included, are not read.
template <class A, bool kSquared, bool kSecond, class R>
void softmax_gradient_row(const R region, const A* __restrict e, const A* __restrict inverse, const A* __restrict t,
                          const A by_I, const A by_P, const A* __restrict inner, const A* __restrict by_log,
                          const A* __restrict keep, A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A p = e[i] * inverse[i];
    A value = p * (by_probability<A, kSquared>(region, p, t[i], by_I, by_P) - inner[i]);
    if constexpr (kSecond) value += !R::kIndexed || t[i] == region.c ? by_log[i] : A(0);
    d[i] = keep[i] >= A(0) ? value : A(0);
  }
}

// keep = 0 where this class counts.
template <class A, class R>
void keep_row(const R region, const A* __restrict t, A* __restrict keep, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) keep[i] = region.counts(t[i]) ? A(0) : keep[i];
}

// ---- The second term under softmax, from u = log p. ----

// The logit of each position's class; x [classes, step].
template <class A>
void pick_row(const A* __restrict x, const int64_t step, const A* __restrict classes, A* __restrict to,
              const int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(classes[i]);
    to[i] = x[(c < 0 ? 0 : c) * step + i];
  }
}

// u = x - most + log(inverse)
template <class A>
void log_row(const A* __restrict x, const A* __restrict most, const A* __restrict inverse, A* __restrict u,
             const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) u[i] = (x[i] - most[i]) + log_(inverse[i]);
}

// Sums of the term of one class, times its share of the target, over the positions to keep.
template <class A, class Term>
void term_row(const Term term, const A* __restrict u, const A* __restrict share, const A* __restrict keep,
              const int64_t n, double* second) {
  A loss = 0;
#pragma omp simd reduction(+ : loss)
  for (int64_t i = 0; i < n; ++i) {
    const A value = share[i] * term(u[i], exp_(u[i])).loss;
    loss += (keep[i] >= A(0)) & (share[i] != A(0)) ? value : A(0);
  }
  second[0] += loss;
}

// by_log = scale times the derivative of the term, times the share of the target.
template <class A, class Term>
void term_slope_row(const Term term, const A* __restrict u, const A* __restrict share, const A* __restrict keep,
                    const A scale, A* __restrict by_log, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = scale * share[i] * term(u[i], exp_(u[i])).slope;
    by_log[i] = (keep[i] >= A(0)) & (share[i] != A(0)) ? value : A(0);
  }
}

template <class A>
void share_row(const A ignore, const A* __restrict t, A* __restrict share, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) share[i] = t[i] == ignore ? A(0) : t[i];
}

template <class A>
void add_to_row(const A* __restrict a, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += a[i];
}

template <class A>
double count_row(const A* __restrict keep, const int64_t n) {
  A count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) count += keep[i] >= A(0) ? A(1) : A(0);
  return count;
}
