// Losses of one class against its log-probability. Formulas only; reference: fused_losses/losses/classification.py.
// A functor maps u = log p and p of a class to its loss and to the derivative with respect to u; drivers multiply both
// by the class's share of the target and by its weight, and apply the softmax's chain rule.

template <class A>
struct ClassTerms {
  A loss, slope;
};

// factor value, 0 where the factor is 0 and the value infinite: of a class that has no weight its probability may be 0.
// NaN stays NaN.
template <class A>
FL_HD A times_(A factor, A value) {
  const bool limit = (factor == A(0)) & (abs_(value) == infinity_<A>());
  return limit ? A(0) : factor * value;
}

// z (log sum e^x)^2 of a row and what multiplies p in its gradient; Chowdhery et al., "PaLM: Scaling Language Modeling
// with Pathways", 2022. z = 0 costs nothing, whatever the row.
template <class A>
FL_HD ClassTerms<A> normaliser_terms(A z, A log_sum_exp) {
  const A slope = A(2) * z * log_sum_exp;
  return {z == A(0) ? A(0) : z * log_sum_exp * log_sum_exp, z == A(0) ? A(0) : slope};
}

// -log p
template <class A>
struct CrossEntropy : Plain<CrossEntropy<A>> {
  static constexpr bool kPair = false;
  static constexpr bool kWeightedMean = true;

  explicit CrossEntropy(const Options&) {}

  FL_HD ClassTerms<A> operator()(A u, A) const { return {-u, A(-1)}; }
};

// factor (1-p)^gamma (-log p); Lin et al., "Focal Loss for Dense Object Detection", 2017. kGamma < 0: any gamma.
// The slope is -(1-p)^gamma (1 + gamma p r), r = -log p / (1-p), which tends to 1 as p does.
template <class A, int kGamma>
struct SoftmaxFocalGamma {
  static constexpr bool kPair = false;
  static constexpr bool kWeightedMean = false;
  static constexpr bool kFills = true;

  A gamma, factor;

  FL_HD ClassTerms<A> operator()(A u, A p) const {
    if constexpr (kGamma == 0) return {-factor * u, -factor};
    const A one_minus_p = -expm1_(u);
    const A modulated = factor * modulator(one_minus_p);
    const A ratio = one_minus_p == A(0) ? A(1) : -u / one_minus_p;
    const A from_modulator = p == A(0) ? A(0) : gamma * p * ratio;
    return {modulated * -u, -modulated * (A(1) + from_modulator)};
  }

  FL_HD A modulator(A one_minus_p) const {
    if constexpr (kGamma == 1) return one_minus_p;
    if constexpr (kGamma == 2) return one_minus_p * one_minus_p;
    if constexpr (kGamma == 3) return one_minus_p * one_minus_p * one_minus_p;
    return pow_from_log(log_(one_minus_p), gamma);
  }
};

template <class A>
struct SoftmaxFocal {
  static constexpr bool kPair = false;
  static constexpr bool kWeightedMean = false;

  template <class Run>
  static auto with(const Options& options, const Run& run) {
    const A gamma = static_cast<A>(options.gamma), factor = static_cast<A>(options.alpha);
#ifndef FL_CUDA  // on the GPU the exponent costs little beside the reading, and kernels for each gamma cost minutes
    if (gamma == A(0)) return run(SoftmaxFocalGamma<A, 0>{gamma, factor});
    if (gamma == A(1)) return run(SoftmaxFocalGamma<A, 1>{gamma, factor});
    if (gamma == A(2)) return run(SoftmaxFocalGamma<A, 2>{gamma, factor});
    if (gamma == A(3)) return run(SoftmaxFocalGamma<A, 3>{gamma, factor});
#endif
    return run(SoftmaxFocalGamma<A, -1>{gamma, factor});
  }
};
