// Expected BLEU of one sentence from its n-gram counts. Formulas only; reference: fused_losses/losses/sequence.py.

// What one place of an n-gram in the reference adds to the matches of its order, and the derivative by the expected
// count.
template <class A>
struct ClippedCount {
  A value, slope;
};

// 1 - BP exp(mean over n of log precision_n) (Papineni et al. 2002; Shao et al. 2020).
template <class A>
struct ExpectedBLEU {
  int64_t max_order;
  double smooth;
  explicit ExpectedBLEU(const Options& options)
      : max_order(static_cast<int64_t>(options.max_order)), smooth(options.smooth) {}

  // min(E[count], count), shared by the `count` places where the n-gram stands; at equality the derivative from below.
  FL_HD ClippedCount<A> clip(A expected, A count) const {
    const A share = A(1) / count;
    return expected > count ? ClippedCount<A>{A(1), A(0)} : ClippedCount<A>{expected / count, share};
  }

  // Matches of order n with what is added to them.
  FL_HD double smoothed(int64_t n, double matches) const { return n > 1 ? matches + smooth : matches; }

  // No match at all: the sentence's BLEU is 0.
  FL_HD bool no_match(double smoothed_matches) const {
    return smoothed_matches <
           static_cast<double>(sizeof(A) == sizeof(double) ? 2.2250738585072014e-308 : 1.17549435e-38);
  }

  // log precision of order n in a sentence of `length` tokens.
  FL_HD double log_precision(int64_t n, double smoothed_matches, int64_t length) const {
    const double places = length >= n ? static_cast<double>(length - n + 1) : 0.0;
    return log_(smoothed_matches / (n > 1 ? places + smooth : places));
  }

  // BLEU from the sum of the log precisions, for a sentence and a reference of these lengths.
  FL_HD double bleu(double log_precisions, int64_t length, int64_t reference_length) const {
    const double shortfall = static_cast<double>(reference_length) / static_cast<double>(length > 0 ? length : 1) - 1;
    return exp_(log_precisions / static_cast<double>(max_order) - (shortfall > 0 ? shortfall : 0.0));
  }

  // Derivative of the loss by the matches of one order.
  FL_HD double by_matches(double bleu, double smoothed_matches) const {
    return bleu == 0 ? 0.0 : -bleu / (static_cast<double>(max_order) * smoothed_matches);
  }
};
