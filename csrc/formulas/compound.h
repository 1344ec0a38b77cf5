// The second term of the compounds, built of the formulas of binary.h and classification.h: of one element under
// sigmoid, of one class under softmax. Reference: fused_losses/losses/compound.py.

// The options of SigmoidFocal (alpha < 0: no factor) or of SoftmaxFocal as a compound's second term.
inline Options focal_options(double gamma, double alpha, bool softmax) {
  Options options;
  options.gamma = gamma;
  options.alpha = softmax && alpha < 0 ? 1 : alpha;
  return options;
}

// Either second term, chosen at run time; for kernels in which that costs nothing beside the reading. The target is
// smoothed here: g (1 - e) + e / `spread`, of 2 for elements, of C for classes.
template <class A>
struct AnySecondTerm {
  SecondTerm kind;
  A keep, shift;
  BinaryCrossEntropyWithLogits<A> binary;
  SigmoidFocalGamma<A, -1> sigmoid_focal;
  CrossEntropy<A> cross_entropy;
  SoftmaxFocalGamma<A, -1> softmax_focal;

  AnySecondTerm(SecondTerm kind, double gamma, double alpha, double label_smoothing, double spread)
      : kind(kind),
        keep(static_cast<A>(1 - label_smoothing)),
        shift(static_cast<A>(label_smoothing / spread)),
        binary(Options()),
        sigmoid_focal(focal_options(gamma, alpha, false)),
        cross_entropy(Options()),
        softmax_focal{static_cast<A>(gamma), static_cast<A>(focal_options(gamma, alpha, true).alpha)} {}

  FL_HD A smoothed(A g) const { return g * keep + shift; }
  FL_HD Terms<A> of_element(A x, A g) const {
    const A t = smoothed(g);
    return kind == SecondTerm::kFocal ? sigmoid_focal(x, t, A(1)) : binary(x, t, A(1));
  }
  FL_HD ClassTerms<A> of_class(A u, A p) const {
    return kind == SecondTerm::kFocal ? softmax_focal(u, p) : cross_entropy(u, p);
  }
};
