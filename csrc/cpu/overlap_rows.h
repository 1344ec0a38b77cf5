// The inner loops of the overlap family: one class of a tile, n positions. Included by overlap_loops.h.

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
// Under sigmoid the smaller of p and q = 1 - p is kept, negative where it is q: neither loses digits to the other.

// e: exp_minus_abs(x).
template <class A>
FL_HD A smaller_probability(A x, A e) {
  const A smaller = e / (A(1) + e);
  return x > A(0) ? -smaller : smaller;
}

template <class A>
FL_HD A probability_of(A kept) {
  using detail::bits;
  return bits(kept) < 0 ? A(1) + kept : kept;
}

template <class A>
void exp_minus_abs_row(const A* __restrict x, A* __restrict e, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) e[i] = exp_minus_abs(x[i]);
}

template <class A>
void smaller_probability_row(const A* __restrict x, A* __restrict kept, const int64_t n) {
  exp_minus_abs_row(x, kept, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) kept[i] = smaller_probability(x[i], kept[i]);
}

// kept: exp_minus_abs(x), which becomes the smaller probability; not used without a sigmoid.
template <class A, bool kSigmoid, bool kSquared, class R, class Term>
void element_sums_row(const R region, const Term term, const A* __restrict x, A* __restrict kept, const A* __restrict t,
                      const int64_t n, double* sums, double* second) {
  A I = 0, P = 0, G = 0, loss = 0, count = 0;
#pragma omp simd reduction(+ : I, P, G, loss, count)
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]);
    const bool counts = region.counts(t[i]);
    A p = x[i];
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) {
      const A value = term.terms(x[i], kept[i], g, A(1)).loss;
      loss += counts ? value : A(0);
      count += counts ? A(1) : A(0);
    }
    if constexpr (kSigmoid) {
      kept[i] = smaller_probability(x[i], kept[i]);
      p = probability_of(kept[i]);
    }
    const A q = counts ? p : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
  second[0] += loss;
  second[1] += count;
}

// d = gradient with respect to x: of the overlap through p, and scale times the term's. kept: as element_sums_row left
// it, d itself or other memory; x is read only without a sigmoid or with a term.
template <class A, bool kSigmoid, bool kSquared, class R, class Term>
void element_gradient_row(const R region, const Term term, const A* __restrict x, const A* kept, const A* __restrict t,
                          const A by_I, const A by_P, const A scale, A* d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]);
    A value;
    if constexpr (kSigmoid) {
      const A smaller = abs_(kept[i]), p = probability_of(kept[i]);
      value = smaller * (A(1) - smaller) * (by_I * g + (kSquared ? 2 * by_P * p : by_P));
    } else {
      value = by_I * g + (kSquared ? 2 * by_P * x[i] : by_P);
    }
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) value += scale * term(x[i], g, A(1)).grad_input;
    d[i] = region.counts(t[i]) ? value : A(0);
  }
}

// ---- Softmax: p = exp(x - most) * inverse. ----

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

// e may be x.
template <class A>
void exp_row(const A* x, const A* __restrict most, A* e, A* __restrict sum, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = detail::exp_minus(most[i] - x[i]);
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

template <class A, bool kSquared, class R>
void softmax_sums_row(const R region, const A* __restrict p, const A* __restrict t, const int64_t n, double* sums) {
  A I = 0, P = 0, G = 0;
#pragma omp simd reduction(+ : I, P, G)
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]), q = region.counts(t[i]) ? p[i] : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
}

// I and P of four classes from c, class numbers t: p of each `step` further on. Four at once hide the latency of the
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
    sums[3 * k] += own[k];
    sums[3 * k + 1] += all[k];
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

// The derivative of the overlap with respect to p. With class numbers a position counts for all classes or for none,
// and then its whole gradient is set to 0.
template <class A, bool kSquared, class R>
FL_HD A by_probability(const R& region, A p, A t, A by_I, A by_P) {
  const A slope = by_I * region.target(t) + (kSquared ? 2 * by_P * p : by_P);
  return R::kIndexed || region.counts(t) ? slope : A(0);
}

// inner += p d: the term that softmax's Jacobian takes from every class.
template <class A, bool kSquared, class R>
void softmax_inner_row(const R region, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                       A* __restrict inner, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) inner[i] += p[i] * by_probability<A, kSquared>(region, p[i], t[i], by_I, by_P);
}

// by_log: derivative of the second term with respect to log p, of class t[i] with class numbers, else of this class.
// keep: negative where nothing of the position counts; its logits, NaN included, are not read.
template <class A, bool kSquared, bool kSecond, class R>
void softmax_gradient_row(const R region, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                          const A* __restrict inner, const A* __restrict by_log, const A* __restrict keep,
                          A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A value = p[i] * (by_probability<A, kSquared>(region, p[i], t[i], by_I, by_P) - inner[i]);
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
