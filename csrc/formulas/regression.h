// Regression losses of d = x - t. Formulas only; reference: fused_losses/losses/regression.py.

// A loss of the difference alone: derivatives to input and target are opposite; the mean is over the weights.
template <class Self>
struct OfDifference : Plain<Self> {
  static constexpr bool kWeightedMean = true;
  static constexpr Work kWork = kFew;

  template <class A>
  FL_HD static Terms<A> terms(A loss, A slope) {
    return {loss, slope, -slope};
  }
};

// -1, 0 or 1; 0 for NaN, as torch differentiates |d|.
template <class A>
FL_HD A sign_(A d) {
  return d > A(0) ? A(1) : (d < A(0) ? A(-1) : A(0));
}

template <class A>
struct SquaredError : OfDifference<SquaredError<A>> {
  explicit SquaredError(const Options&) {}

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A d = x - t;
    return this->terms(d * d, 2 * d);
  }
};

template <class A>
struct AbsoluteError : OfDifference<AbsoluteError<A>> {
  explicit AbsoluteError(const Options&) {}

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A d = x - t;
    return this->terms(abs_(d), sign_(d));
  }
};

// d^2/2 for |d| <= delta, else delta (|d| - delta/2) (Huber, 1964); with c = clamp(d, -delta, delta): c (d - c/2).
template <class A>
struct Huber : OfDifference<Huber<A>> {
  A delta;
  explicit Huber(const Options& options) : delta(static_cast<A>(options.delta)) {}

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A d = x - t, c = at_least_(at_most_(d, delta), -delta);
    return this->terms(c * (d - A(0.5) * c), c);
  }
};

// Huber of width beta, divided by beta; the absolute error for beta = 0 (Girshick, "Fast R-CNN", 2015).
template <class A>
struct RoundedL1 : OfDifference<RoundedL1<A>> {
  A beta, inverse;
  explicit RoundedL1(const Options& options)
      : beta(static_cast<A>(options.beta)), inverse(static_cast<A>(1 / options.beta)) {}

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A d = x - t, c = at_least_(at_most_(d, beta), -beta), scaled = c * inverse;
    return this->terms(scaled * (d - A(0.5) * c), scaled);
  }
};

template <class A>
struct SmoothL1 : RoundedL1<A> {
  template <class Run>
  static auto with(const Options& options, const Run& run) {
    if (options.beta == 0) return run(AbsoluteError<A>(options));
    return run(RoundedL1<A>(options));
  }
};
