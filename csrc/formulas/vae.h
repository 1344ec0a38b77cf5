// The reconstruction terms of the VAE loss, summed over a sample. Formulas only; reference: fused_losses/losses/vae.py.
// Operands: reconstruction, target (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014).

// A term without derivative to the target.
template <class Self>
struct ReconstructionTerm : RowFunctor<Self, 2, true> {
  template <class A>
  FL_HD static RowTerms<A> terms(A value, A slope) {
    return {value, {slope, A(0), A(0), A(0)}};
  }

  template <class A>
  FL_HD RowLoss<A> finish(A sum, A) const {
    return {sum, A(1)};
  }
};

template <class A>
struct BernoulliTerm : ReconstructionTerm<BernoulliTerm<A>> {
  static constexpr Work kWork = kMuch;
  static constexpr bool kSaturates = true;
  static constexpr bool kChecks = true;
  explicit BernoulliTerm(const Options&) {}
  FL_HD static bool valid(A p, A t) { return is_probability(p) & is_probability(t); }
  FL_HD RowTerms<A> operator()(A p, A t, A, A) const {
    const Terms<A> r = probability_terms(p, log_(p), log1p_neg(p), t);
    return this->terms(valid(p, t) ? r.loss : -infinity_<A>(), r.grad_input);
  }
};

template <class A>
struct BernoulliLogitsTerm : ReconstructionTerm<BernoulliLogitsTerm<A>> {
  static constexpr Work kWork = kMuch;
  explicit BernoulliLogitsTerm(const Options&) {}
  FL_HD RowTerms<A> operator()(A x, A t, A, A) const {
    const Terms<A> r = logistic_terms(sigmoid_terms(x), t, A(1));
    return this->terms(r.loss, r.grad_input);
  }
};

template <class A>
struct GaussianTerm : ReconstructionTerm<GaussianTerm<A>> {
  explicit GaussianTerm(const Options&) {}
  FL_HD RowTerms<A> operator()(A x, A t, A, A) const {
    const A d = x - t;
    return this->terms(d * d, 2 * d);
  }
};
