// The second term of the compounds, built of the formulas of binary.h and classification.h: of one element under
// sigmoid, of one class under softmax. Reference: fused_losses/losses/compound.py.

// Options of SigmoidFocal and of SoftmaxFocal in the order their functors read them.
struct FocalOptions {
  double of_element[3], of_class[kClassOptions + 2];
  FocalOptions(double gamma, double alpha)
      : of_element{std::numeric_limits<double>::quiet_NaN(), alpha, gamma},
        of_class{0, 0, gamma, alpha < 0 ? 1 : alpha} {}
};

// Either second term, chosen at run time; for kernels in which that costs nothing beside the reading.
template <class A>
struct AnySecondTerm {
  SecondTerm kind;
  BinaryCrossEntropyWithLogits<A> binary;
  SigmoidFocalGamma<A, -1> sigmoid_focal;
  CrossEntropy<A> cross_entropy;
  SoftmaxFocalGamma<A, -1> softmax_focal;

  AnySecondTerm(SecondTerm kind, const FocalOptions& options)
      : kind(kind),
        binary(nullptr),
        sigmoid_focal(options.of_element),
        cross_entropy(nullptr),
        softmax_focal{static_cast<A>(options.of_class[kClassOptions]),
                      static_cast<A>(options.of_class[kClassOptions + 1])} {}

  FL_HD Terms<A> of_element(A x, A t) const {
    return kind == SecondTerm::kFocal ? sigmoid_focal(x, t, A(1)) : binary(x, t, A(1));
  }
  FL_HD ClassTerms<A> of_class(A u, A p) const {
    return kind == SecondTerm::kFocal ? softmax_focal(u, p) : cross_entropy(u, p);
  }
};
