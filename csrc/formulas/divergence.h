// Divergences between distributions. Formulas only; reference: fused_losses/losses/divergence.py.

// ---- From logits, row by row: both distributions are softmaxes of their logits times `rate`. ----
// A functor maps u = log p, p (input) and v = log q, q (target) of a class to its loss and the derivatives with respect
// to u and v; drivers apply the softmax's chain rule. A probability of 0 contributes 0.

template <class A>
struct PairTerms {
  A loss, slope_input, slope_target;
};

// q log(q/p) - q + p, d = log p - log q: never negative, and without the error that the normalisation of p and of q
// has in common over a row. Summed over distributions, -q + p is 0.
template <class A>
FL_HD A excess_divergence(A q, A p, A d) {
  constexpr A kSmall = static_cast<A>(0.34);  // where e^d - 1 - d is d^2 exp_tail(d)
  const A far = fma_(-q, q == A(0) ? A(0) : d, p - q);
  return abs_(d) < kSmall ? q * (d * d) * detail::exp_tail(d) : far;
}

// temperature^2 q (log q - log p); Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
template <class A>
struct KLDivWithLogits : Plain<KLDivWithLogits<A>> {
  static constexpr bool kPair = true;
  static constexpr bool kKnownSlope = true;  // the sum of slope_input over a distribution, without computing it

  A rate, factor;

  explicit KLDivWithLogits(const Options& options)
      : rate(static_cast<A>(1 / options.temperature)),
        factor(static_cast<A>(options.temperature * options.temperature)) {}

  FL_HD A slope_of_all() const { return -factor; }

  FL_HD PairTerms<A> operator()(A u, A p, A v, A q) const {
    const A share = factor * q, slope_target = q == A(0) ? A(0) : share * (v - u);
    return {factor * excess_divergence(q, p, u - v), -share, slope_target};
  }
};

// beta q log(q/m) + (1-beta) p log(p/m), m = beta q + (1-beta) p; Lin, "Divergence Measures Based on the Shannon
// Entropy", 1991. The derivative through m vanishes: each slope is its own term.
template <class A>
struct JSDivWithLogits : Plain<JSDivWithLogits<A>> {
  static constexpr bool kPair = true;
  static constexpr bool kKnownSlope = false;

  A rate, beta;

  explicit JSDivWithLogits(const Options& options) : rate(1), beta(static_cast<A>(options.beta)) {}

  FL_HD PairTerms<A> operator()(A u, A p, A v, A q) const {
    constexpr A kSmallest = static_cast<A>(1.17549435e-38);
    const A rest = A(1) - beta, m = fma_(beta, q, rest * p);
    const A log_m = fma_(m, A(0), log_normal(m < kSmallest ? kSmallest : m));  // NaN for NaN
    const A from_p = p == A(0) ? A(0) : rest * p * (u - log_m), from_q = q == A(0) ? A(0) : beta * q * (v - log_m);
    const A loss = beta * excess_divergence(q, m, log_m - v) + rest * excess_divergence(p, m, log_m - u);
    return {loss, from_p, from_q};
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
