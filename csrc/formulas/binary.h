// Binary cross-entropy, focal and hinge losses. Formulas only; reference: fused_losses/losses/binary.py.

// (1-t) log(1+e^x) + p t log(1+e^-x) and its derivative; both terms are non-negative, so nothing cancels.
template <class A>
FL_HD Terms<A> logistic_terms(const Sigmoid<A>& s, A t, A pos_weight) {
  const A positive = pos_weight * t, negative = A(1) - t;
  return {negative * s.softplus_pos + positive * s.softplus_neg, negative * s.p - positive * s.q, A(0)};
}

// p (1-p) < 0 outside [0, 1]. NaN is not refused: it propagates.
template <class A>
FL_HD bool is_probability(A p) {
  return !(p * (A(1) - p) < A(0));
}

// -[t log p + (1-t) log_q], log_q = log(1-p), logarithms >= -100, with the derivative (p-t) / max(p(1-p), 1e-12).
template <class A>
FL_HD Terms<A> probability_terms(A p, A log_p, A log_q, A t) {
  const A negative = A(1) - t, floor = A(-100);
  const A loss = -(t * at_least_(log_p, floor) + negative * at_least_(log_q, floor));
  return {loss, (p - t) / at_least_(p * (A(1) - p), A(1e-12)), A(0)};
}

// ahead: e^-|x|.
template <class Self, class A>
struct Logistic : InTwoSteps<Self, A> {
  static constexpr bool kMask = true;
  template <class T>
  FL_HD static T ahead(T x) {
    return exp_minus_abs(x);
  }
};

template <class A>
struct BinaryCrossEntropyWithLogits : Logistic<BinaryCrossEntropyWithLogits<A>, A> {
  explicit BinaryCrossEntropyWithLogits(const Options&) {}

  FL_HD Terms<A> terms(A x, A e, A t, A pos_weight) const { return logistic_terms(sigmoid_terms(x, e), t, pos_weight); }
};

// (t w1 + (1-t) w0) of the logistic loss; t smoothed to t (1-e) + e/2 first.
template <class A>
struct WeightedBinaryCrossEntropyWithLogits : Logistic<WeightedBinaryCrossEntropyWithLogits<A>, A> {
  static constexpr bool kIgnores = true;
  A ignore_index, keep, shift, w0, w1;
  explicit WeightedBinaryCrossEntropyWithLogits(const Options& options)
      : ignore_index(static_cast<A>(options.ignore_index)),
        keep(static_cast<A>(1 - options.label_smoothing)),
        shift(static_cast<A>(options.label_smoothing / 2)),
        w0(static_cast<A>(options.class_weight_0)),
        w1(static_cast<A>(options.class_weight_1)) {}

  FL_HD bool ignored(A t) const { return t == ignore_index; }

  FL_HD Terms<A> terms(A x, A e, A target, A pos_weight) const {
    const A t = target * keep + shift, w = t * w1 + (A(1) - t) * w0;
    const Terms<A> r = logistic_terms(sigmoid_terms(x, e), t, pos_weight);
    return {w * r.loss, w * r.grad_input, A(0)};
  }
};

// ahead: log(1-p).
template <class Self, class A>
struct OfProbability : InTwoSteps<Self, A> {
  static constexpr bool kMask = true;
  static constexpr bool kSaturates = true;
  static constexpr bool kChecks = true;
  static constexpr const char* kExpectedInput = "input in [0, 1]";
  static constexpr const char* kExpectedTarget = "target in [0, 1]";
  FL_HD static bool valid_input(A p) { return is_probability(p); }
  FL_HD static bool valid_target(A t) { return is_probability(t); }
  FL_HD static A ahead(A p) { return log1p_neg(p); }
  // Of p in [0, 1], which -0 is, too; NaN comes through log_q.
  FL_HD static Terms<A> in_range(A p, A log_q, A t) { return probability_terms(p, log_finite(abs_(p)), log_q, t); }
};

template <class A>
struct BinaryCrossEntropy : OfProbability<BinaryCrossEntropy<A>, A> {
  explicit BinaryCrossEntropy(const Options&) {}

  FL_HD Terms<A> terms(A p, A log_q, A t, A) const { return this->in_range(p, log_q, t); }
};

// (t w1 + (1-t) w0) of the loss on probabilities.
template <class A>
struct WeightedBinaryCrossEntropy : OfProbability<WeightedBinaryCrossEntropy<A>, A> {
  A w0, w1;
  explicit WeightedBinaryCrossEntropy(const Options& options)
      : w0(static_cast<A>(options.class_weight_0)), w1(static_cast<A>(options.class_weight_1)) {}

  FL_HD Terms<A> terms(A p, A log_q, A t, A) const {
    const A w = t * w1 + (A(1) - t) * w0;
    const Terms<A> r = this->in_range(p, log_q, t);
    return {w * r.loss, w * r.grad_input, A(0)};
  }
};

// alpha_t u^gamma ce, u = 1 - p_t = p (1-t) + q t, alpha_t = alpha t + (1-alpha)(1-t) (Lin et al., "Focal Loss", 2017).
// The derivative is alpha_t [u^gamma ce' + gamma (1-2t) u^(gamma-1) p q ce]. kGamma < 0: any gamma, in log space, with
// u^(gamma-1) p q as u^gamma r, r = p q / u in [0, 1]: no power of u with a negative exponent.
template <class A, int kGamma>
struct SigmoidFocalGamma : Logistic<SigmoidFocalGamma<A, kGamma>, A> {
  static constexpr bool kIgnores = true;
  A ignore_index, at_one, at_zero, gamma;
  explicit SigmoidFocalGamma(const Options& options)
      : ignore_index(static_cast<A>(options.ignore_index)),
        at_one(static_cast<A>(options.alpha < 0 ? 1 : options.alpha)),
        at_zero(static_cast<A>(options.alpha < 0 ? 1 : 1 - options.alpha)),
        gamma(static_cast<A>(options.gamma)) {}

  FL_HD bool ignored(A t) const { return t == ignore_index; }

  FL_HD Terms<A> terms(A x, A e, A t, A pos_weight) const {
    const Sigmoid<A> s = sigmoid_terms(x, e);
    const Terms<A> ce = logistic_terms(s, t, pos_weight);
    const A alpha = at_one * t + at_zero * (A(1) - t);
    if constexpr (kGamma == 0) return {alpha * ce.loss, alpha * ce.grad_input, A(0)};
    // A logit of 1e30 has p q = 0; the bound keeps its loss from overflowing, and from undoing the floor of p q below.
    const A by_u = gamma * (A(1) - A(2) * t) * at_most_(ce.loss, A(1e30));
    A power, slope;
    if constexpr (kGamma > 0) {
      const A u = s.p * (A(1) - t) + s.q * t;
      const A lower = kGamma == 1 ? A(1) : (kGamma == 2 ? u : u * u);
      power = lower * u;
      slope = power * ce.grad_input + by_u * lower * (s.p * s.q);
    } else {
      const A tiny = sizeof(A) == sizeof(double)
                         ? A(1e-300)
                         : A(1e-37);  // keeps 0/0 away where p or q underflows: then r is q or p
      const A p = s.p > tiny ? s.p : tiny, q = s.q > tiny ? s.q : tiny;
      const A u = p * (A(1) - t) + q * t;
      power = pow_from_log(log_(u), gamma);
      // Without the exponent an infinite loss of weight 0, which is NaN, does not reach the slope.
      slope = gamma == A(0) ? ce.grad_input : power * (ce.grad_input + by_u * (p * q / u));
    }
    return {alpha * power * ce.loss, alpha * slope, A(0)};
  }
};

template <class A>
struct SigmoidFocal : SigmoidFocalGamma<A, -1> {
  template <class Run>
  static auto with(const Options& options, const Run& run) {
    if (options.gamma == 0) return run(SigmoidFocalGamma<A, 0>(options));
    if (options.gamma == 1) return run(SigmoidFocalGamma<A, 1>(options));
    if (options.gamma == 2) return run(SigmoidFocalGamma<A, 2>(options));
    if (options.gamma == 3) return run(SigmoidFocalGamma<A, 3>(options));
    return run(SigmoidFocalGamma<A, -1>(options));
  }
};

// max(0, margin - t x) or its square; subgradient 0 at the kink (Cortes and Vapnik, 1995).
template <class A, bool kSquared>
struct HingeTerms : Plain<HingeTerms<A, kSquared>> {
  static constexpr Work kWork = kFew;
  static constexpr bool kChecks = true;
  static constexpr const char* kExpectedInput = nullptr;
  static constexpr const char* kExpectedTarget = "target in {-1, +1}";
  A margin;
  explicit HingeTerms(const Options& options) : margin(static_cast<A>(options.margin)) {}

  FL_HD static bool valid_input(A) { return true; }
  FL_HD static bool valid_target(A t) { return (t == A(1)) | (t == A(-1)); }

  FL_HD Terms<A> operator()(A x, A t, A) const {
    const A slack = at_least_(margin - t * x, A(0));
    if constexpr (kSquared) return {slack * slack, -2 * t * slack, A(0)};
    return {slack, slack <= A(0) ? A(0) : -t, A(0)};
  }
};

template <class A>
struct Hinge : HingeTerms<A, false> {
  template <class Run>
  static auto with(const Options& options, const Run& run) {
    if (options.squared != 0) return run(HingeTerms<A, true>(options));
    return run(HingeTerms<A, false>(options));
  }
};
