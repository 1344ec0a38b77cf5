// Distances and divergences summed along rows. Formulas only; references:
// fused_losses/losses/{distance,divergence,vae}.py.
//
// A row functor gives the term of one element and its derivative with respect to each operand; `finish` turns the sum
// of a row's terms into the row's loss and the factor of its derivatives. kLinear: that factor does not need the sum.

// One element's term of the row sum and its derivatives with respect to the row's operands.
template <class A>
struct RowTerms {
  A value, grad[4];
};

// A row's loss and the derivative of the loss with respect to the sum.
template <class A>
struct RowLoss {
  A loss, coefficient;
};

// A row functor without variants. kSaturates: as in contract.h. kChecks: has valid(a, b) of its first operands; a term
// of others is -infinity, which no term else is.
template <class Self, int kCount, bool kIsLinear>
struct RowFunctor {
  static constexpr Work kWork = kFew;
  static constexpr int kOperands = kCount;
  static constexpr bool kLinear = kIsLinear;
  static constexpr bool kSaturates = false;
  static constexpr bool kChecks = false;

  // given: bit mask of the operands that are there.
  template <class Run>
  static auto with(const Options& options, unsigned, const Run& run) {
    return run(Self(options));
  }
};

// y d^2 + (1-y) max(0, margin - d)^2 of sum = d^2, derivative by the sum; gradient 0 of the push at d = 0.
template <class A>
FL_HD RowLoss<A> pull_and_push(A sum, A y, A margin) {
  const A d = sqrt_(sum), short_by = at_least_(margin - d, A(0));
  const A push = sum > A(0) ? short_by / d : sum * A(0);  // NaN stays NaN
  const A pull = y == A(0) ? A(0) : y * sum;              // a dissimilar pair too far for its square costs 0
  return {pull + (A(1) - y) * short_by * short_by, y - (A(1) - y) * push};
}

// d = ||x1 - x2|| (Hadsell, Chopra, LeCun 2006).
template <class A>
struct Contrastive : RowFunctor<Contrastive<A>, 2, false> {
  A margin;
  explicit Contrastive(const Options& options) : margin(static_cast<A>(options.margin)) {}

  FL_HD RowTerms<A> operator()(A x1, A x2, A, A) const {
    const A d = x1 - x2;
    return {d * d, {2 * d, -2 * d, A(0), A(0)}};
  }

  FL_HD RowLoss<A> finish(A sum, A y) const { return pull_and_push(sum, y, margin); }
};

// ||z|| or its square, z = L^-1 (x - mean): the Mahalanobis distance (1936); gradient 0 at 0.
template <class A>
struct MahalanobisDistance : RowFunctor<MahalanobisDistance<A>, 1, false> {
  bool squared;
  explicit MahalanobisDistance(const Options& options) : squared(options.squared != 0) {}

  FL_HD RowTerms<A> operator()(A z, A, A, A) const { return {z * z, {2 * z, A(0), A(0), A(0)}}; }

  FL_HD RowLoss<A> finish(A sum, A) const {
    if (squared) return {sum, A(1)};
    const A d = sqrt_(sum);
    return {d, sum > A(0) ? A(0.5) / d : sum * A(0)};
  }
};

// The contrastive form of the Mahalanobis distance: y = 1 normal, 0 anomaly.
template <class A>
struct MahalanobisLoss : RowFunctor<MahalanobisLoss<A>, 1, false> {
  A margin;
  explicit MahalanobisLoss(const Options& options) : margin(static_cast<A>(options.margin)) {}

  FL_HD RowTerms<A> operator()(A z, A, A, A) const { return {z * z, {2 * z, A(0), A(0), A(0)}}; }

  FL_HD RowLoss<A> finish(A sum, A y) const { return pull_and_push(sum, y, margin); }
};

// 1/2 [pv - v - 1 + e^(v-pv) + (m-pm)^2 e^(-pv)]: KL of N(m, e^v) from N(pm, e^pv); a standard prior costs one exp.
// Near the prior e^r - 1 - r is r^2/2, and no difference.
// (m-pm)^2 e^(-pv) is the square of (m-pm) q q, q = e^(-pv/4): none of its factors overflows before the result does.
template <class A, bool kPrior>
struct GaussianKLTerms {
  static constexpr Work kWork = kPrior ? kMuch : kExponential;
  static constexpr int kOperands = 4;
  static constexpr bool kLinear = true;
  static constexpr bool kSaturates = false;
  static constexpr bool kChecks = false;

  FL_HD RowTerms<A> operator()(A m, A v, A pm, A pv) const {
    const A half = A(0.5);
    if constexpr (kPrior) {
      const HalfExpm1<A> power = half_expm1(v - pv);
      const A q = exp_(at_most_(A(-0.25) * pv, sizeof(A) == 8 ? A(700) : A(88)));
      const A z = (m - pm) * q * q, scaled = z * q * q;
      return {fma_(half * z, z, power.beyond), {scaled, power.value, -scaled, -fma_(half * z, z, power.value)}};
    } else {
      const HalfExpm1<A> power = half_expm1(v);
      return {fma_(half * m, m, power.beyond), {m, power.value, A(0), A(0)}};
    }
  }

  FL_HD RowLoss<A> finish(A sum, A) const { return {sum, A(1)}; }
};

template <class A>
struct GaussianKL : GaussianKLTerms<A, true> {
  // given: bit mask of the operands that are there.
  template <class Run>
  static auto with(const Options&, unsigned given, const Run& run) {
    if (given & 0b1100) return run(GaussianKLTerms<A, true>());
    return run(GaussianKLTerms<A, false>());
  }
};

// y d^2 + (1-y) max(0, margin - d)^2 from a given distance.
template <class A>
struct ContrastiveFromDistance : Plain<ContrastiveFromDistance<A>> {
  static constexpr Work kWork = kFew;
  A margin;
  explicit ContrastiveFromDistance(const Options& options) : margin(static_cast<A>(options.margin)) {}

  FL_HD Terms<A> operator()(A d, A y, A) const {
    const A short_by = at_least_(margin - d, A(0)), other = A(1) - y;
    const A near = y == A(0) ? A(0) : d;  // a dissimilar pair infinitely far apart costs 0
    return {y * near * near + other * short_by * short_by, A(2) * (y * near - other * short_by), A(0)};
  }
};
