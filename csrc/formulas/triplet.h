// The triplet loss of an anchor, from its distances to two other rows. Formulas only; reference:
// fused_losses/chunked/metric.py.

// A loss and what it pulls by: the factors of (anchor - positive) and of (anchor - negative) in its gradient by the
// anchor.
template <class A>
struct TripletTerms {
  A loss, positive, negative;
};

// max(0, margin + d_p - d_n), or log(1 + exp(d_p - d_n)), of distances or of their squares; Hermans, Beyer and Leibe,
// "In Defense of the Triplet Loss for Person Re-Identification", 2017. Gradient 0 of a distance of 0.
template <class A>
struct BatchHard {
  A margin;
  bool squared, soft;
  explicit BatchHard(const Options& options)
      : margin(static_cast<A>(options.margin)), squared(options.squared != 0), soft(options.soft != 0) {}

  FL_HD A distance(A square) const { return squared ? square : sqrt_(square); }
  FL_HD A slope(A square) const {
    if (squared) return A(2);
    return square == A(0) ? A(0) : A(1) / sqrt_(square);
  }

  // positive, negative: squared distances.
  FL_HD TripletTerms<A> operator()(A positive, A negative) const {
    const A gap = distance(positive) - distance(negative);
    A loss = margin + gap, pull = A(1);
    if (soft) {
      const Sigmoid<A> f = sigmoid_terms(gap);
      loss = f.softplus_pos;
      pull = f.p;
    } else if (loss <= A(0)) {
      loss = pull = A(0);
    }
    return {loss, pull * slope(positive), -pull * slope(negative)};
  }
};
