// What every formula header shares. Included once in each instruction set's namespace and once for CUDA: no guard.

// A loss at one element and its derivatives with respect to its tensors; the last two are of a loss with kTensors > 2.
template <class A>
struct Terms {
  A loss, grad_input, grad_target, grad_third = A(0), grad_fourth = A(0);
};

// How much a loss computes for each element: a CPU driver writes the gradients of one that waits for memory past the
// caches. kFew: some additions and products; kExponential: one exponential; kMuch: more.
enum Work : int { kFew, kExponential, kMuch };

// A gradient that float16 is to hold, up to 65504: a larger one is stored as that.
template <class A>
FL_HD A saturated(A gradient) {
  return at_least_(at_most_(gradient, A(65504)), A(-65504));
}

// A functor without compile-time variants: `with` builds it from its options and hands it to `run`.
template <class Self>
struct Plain {
  static constexpr bool kIgnores = false;       // such elements count for nothing, NaN included
  static constexpr bool kWeightedMean = false;  // the mean divides by the sum of the weights
  static constexpr bool kSaturates = false;     // a float16 gradient is clamped to the largest finite number
  static constexpr bool kMask = false;          // an integer target is a mask: 0, 1 or ignored
  static constexpr bool kChecks = false;        // has valid_input(x), valid_target(t) and the words for both
  static constexpr bool kAhead = false;         // an InTwoSteps
  static constexpr bool kFills = true;          // rows may be filled up with classes of logit -inf: none makes NaN
  static constexpr int kTensors = 2;            // of more, the call takes the third and fourth in place of pos_weight
  static constexpr Work kWork = kMuch;

  template <class Run>
  static auto with(const Options& options, const Run& run) {
    return run(Self(options));
  }
};

// A loss whose long chain of operations is cut in two: `ahead`, a function of the input, which a driver may compute for
// many elements first, and `terms`, which takes its result.
template <class Self, class A>
struct InTwoSteps : Plain<Self> {
  static constexpr bool kAhead = true;

  FL_HD Terms<A> operator()(A x, A t, A pos_weight) const {
    return static_cast<const Self*>(this)->terms(x, Self::ahead(x), t, pos_weight);
  }
};
