// Divergences between distributions. Formulas only; reference: fused_losses/losses/divergence.py.

// ---- From logits, row by row: both distributions are softmaxes of their logits times `rate`. ----
// A functor maps u = log p, p (input) and v = log q, q (target) of a class to its loss and the derivatives with respect
// to u and v, all of them to be multiplied by `factor`; drivers apply the softmax's chain rule. A probability of 0
// contributes 0. `loss_of` makes the loss of a sum of terms, `slope` is the factor of a gradient with respect to
// logits.

template <class A>
struct PairTerms {
  A loss, slope_input, slope_target;
};

template <class Self, class A>
struct OfLogits : Plain<Self> {
  static constexpr bool kPair = true;
  static constexpr bool kKnownSlope = false;  // slope_of_all, the sum of slope_input over a distribution, is there
  static constexpr A rate = A(1), factor = A(1);

  FL_HD A loss_of(A sum) const { return self().factor * sum; }
  FL_HD A slope() const { return self().factor * self().rate; }

 private:
  FL_HD const Self& self() const { return *static_cast<const Self*>(this); }
};

// q log(q/p) - q + p, d = log p - log q: never negative, and without the error that the normalisation of p and of q
// has in common over a row. Summed over distributions, -q + p is 0.
template <class A>
FL_HD A excess_divergence(A q, A p, A d) {
  constexpr A kSmall = static_cast<A>(0.34);  // where e^d - 1 - d is d^2 exp_tail(d)
  const A d2 = d * d, far = fma_(-q, q == A(0) ? A(0) : d, p - q);
  return d2 < kSmall * kSmall ? q * d2 * detail::exp_tail(d) : far;
}

// temperature^2 q (log q - log p); Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
template <class A>
struct KLDivWithLogits : OfLogits<KLDivWithLogits<A>, A> {
  static constexpr bool kKnownSlope = true;

  A rate, factor;

  explicit KLDivWithLogits(const Options& options)
      : rate(static_cast<A>(1 / options.temperature)),
        factor(static_cast<A>(options.temperature * options.temperature)) {}

  FL_HD A slope_of_all() const { return A(-1); }

  FL_HD PairTerms<A> operator()(A u, A p, A v, A q) const {
    return {excess_divergence(q, p, u - v), -q, q == A(0) ? A(0) : q * (v - u)};
  }
};

// A mean of two divergences, which is none below 0.
template <class Self, class A>
struct JSOfLogits : OfLogits<Self, A> {
  FL_HD A loss_of(A sum) const { return at_least_(Self::factor * sum, A(0)); }
};

// log cosh(d/2) for |d| <= 1/2 within eps, by its power series.
template <class A>
FL_HD A log_cosh_of_half(A d2) {
  A y = A(31.0 / 14515200);
  if constexpr (sizeof(A) == sizeof(double)) {
    const A x = d2 / A(4);
    A rest = fma_(A(-221930581.0 / 18561569276250.0), x, A(3202291.0 / 97692469875.0));
    rest = fma_(rest, x, A(-929569.0 / 10216206000.0));
    rest = fma_(rest, x, A(10922.0 / 42567525));
    y = fma_(fma_(rest, x, A(-691.0 / 935550)) / A(4096), d2, y);
  }
  y = fma_(y, d2, A(-17.0 / 645120));
  y = fma_(y, d2, A(1.0 / 2880));
  y = fma_(y, d2, A(-1.0 / 192));
  return fma_(y, d2, A(0.125)) * d2;
}

// [q log(q/m) + p log(p/m)] / 2, m = (p + q) / 2; Lin, "Divergence Measures Based on the Shannon Entropy", 1991. The
// derivative through m vanishes: each slope is its own term. With d = log p - log q,
//   log p/m = d/2 - log cosh(d/2), log q/m = log p/m - d,
// by a series where d is small: without the rounding of log m, which the terms have in common.
template <class A>
struct JSHalves : JSOfLogits<JSHalves<A>, A> {
  static constexpr A factor = A(0.5);

  explicit JSHalves(const Options&) {}

  FL_HD PairTerms<A> operator()(A log_p, A p, A log_q, A q) const {
    constexpr A kSmallest = std::numeric_limits<A>::min(), kLowest = A(-1e30);  // 0 times kLowest is 0
    const A u = at_least_(log_p, kLowest), v = at_least_(log_q, kLowest), d = u - v, d2 = d * d, m = A(0.5) * (p + q);
    const A log_m = fma_(m, A(0), log_normal(at_least_(m, kSmallest)));  // NaN for NaN
    const A small = fma_(A(0.5), d, -log_cosh_of_half(d2));
    const bool near = d2 < A(0.25);
    const A from_p = p * (near ? small : u - log_m), from_q = q * (near ? small - d : v - log_m);
    return {from_p + from_q, from_p, from_q};
  }
};

// beta q log(q/m) + (1-beta) p log(p/m), m = beta q + (1-beta) p, for beta <= 1/2. m/p is near 1 by beta, and its
// logarithm is not that of m less that of p but of 1 + beta (q - p)/p; log m serves where that is far from 1.
template <class A>
struct JSToInput : JSOfLogits<JSToInput<A>, A> {
  A beta, rest;  // their sum is 1

  explicit JSToInput(double weight) : beta(static_cast<A>(weight)), rest(static_cast<A>(1 - weight)) {}

  FL_HD PairTerms<A> operator()(A u, A p, A v, A q) const {
    constexpr A kSmallest = std::numeric_limits<A>::min();
    const A m = fma_(beta, q, rest * p), excess = beta * ((q - p) / p);
    const bool near = excess <= A(1);
    const A log = fma_(m, A(0), log_of_sum_or(near, excess, m < kSmallest ? kSmallest : m));  // NaN for NaN
    const A of_p = near ? -log : u - log, of_q = near ? v - u - log : v - log;
    const A loss = beta * excess_divergence(q, m, -of_q) + rest * excess_divergence(p, m, -of_p);
    return {loss, p == A(0) ? A(0) : rest * p * of_p, q == A(0) ? A(0) : beta * q * of_q};
  }
};

// The same for beta > 1/2: of the other distribution.
template <class A>
struct JSToTarget : JSOfLogits<JSToTarget<A>, A> {
  JSToInput<A> mirrored;

  explicit JSToTarget(double beta) : mirrored(1 - beta) {}

  FL_HD PairTerms<A> operator()(A u, A p, A v, A q) const {
    const PairTerms<A> r = mirrored(v, q, u, p);
    return {r.loss, r.slope_target, r.slope_input};
  }
};

template <class A>
struct JSDivWithLogits : JSHalves<A> {
  using JSHalves<A>::JSHalves;

  template <class Run>
  static auto with(const Options& options, const Run& run) {
    if (options.beta == 0.5) return run(JSHalves<A>(options));
    if (options.beta < 0.5) return run(JSToInput<A>(options.beta));
    return run(JSToTarget<A>(options.beta));
  }
};

// ---- From log-probabilities, element by element. ----

// t (log t - x), or e^t (t - x) for a log-target; a target of probability 0 contributes 0 (Kullback and Leibler, 1951).
template <class A, bool kLogTarget>
struct KLDivTerms : Plain<KLDivTerms<A, kLogTarget>> {
  explicit KLDivTerms(const Options&) {}

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A p = kLogTarget ? exp_(t) : t, log_p = kLogTarget ? t : log_(t);
    const bool empty = (kLogTarget ? t == -infinity_<A>() : t == A(0)) && x == x;
    const A distance = log_p - x, loss = p * distance;
    return {empty ? A(0) : loss, empty ? A(0) : -p, empty ? A(0) : (kLogTarget ? loss + p : distance + A(1))};
  }
};

template <class A>
struct KLDiv : KLDivTerms<A, false> {
  template <class Run>
  static auto with(const Options& options, const Run& run) {
    if (options.log_target != 0) return run(KLDivTerms<A, true>(options));
    return run(KLDivTerms<A, false>(options));
  }
};
