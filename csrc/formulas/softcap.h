// Logits kept within a bound. Formulas only; reference: fused_losses/chunked/linear.py.

// c tanh(x / c), and its derivative 1 - (y / c)^2 from the capped y; Gemma Team, "Gemma 2", 2024.
template <class A>
struct SoftCap {
  A cap, inverse;
  explicit SoftCap(double softcap) : cap(static_cast<A>(softcap)), inverse(static_cast<A>(1 / softcap)) {}

  FL_HD A operator()(A x) const { return cap * tanh_(x * inverse); }
  FL_HD A slope(A y) const {
    const A t = y * inverse;
    return fma_(-t, t, A(1));
  }
};
