// Binary cross-entropy on logits and on probabilities. Formulas only; reference: fused_losses/losses/binary.py.

// w [(1-t) log(1+e^x) + p t log(1+e^-x)]; both terms are non-negative, so nothing cancels.
template <class A>
struct BinaryCrossEntropyWithLogits : Plain<BinaryCrossEntropyWithLogits<A>> {
  explicit BinaryCrossEntropyWithLogits(const double*) {}

  FL_HD Terms<A> operator()(A x, A t, A pos_weight) const {
    const auto s = sigmoid_terms(x);
    const A positive = pos_weight * t, negative = A(1) - t;
    return {negative * s.softplus_pos + positive * s.softplus_neg, negative * s.p - positive * s.q, A(0)};
  }
};
