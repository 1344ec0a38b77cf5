// The sigmoid and the softplus of both signs, from one exponential and one division. Included by numerics.h.

template <class T>
struct Sigmoid {
  T e;             // exp(-|x|)
  T p;             // 1 / (1 + exp(-x))
  T q;             // 1 - p, without cancellation
  T softplus_pos;  // log(1 + exp(x))  = -log q
  T softplus_neg;  // log(1 + exp(-x)) = -log p
};

// e^-|x|, from which everything logistic follows.
template <class Policy = DefaultPolicy, class T>
FL_HD T exp_minus_abs(T x) {
#ifdef FL_DEVICE_CODE
  return exp_<Policy>(-abs_(x));
#else
  return detail::exp_minus(abs_(x));
#endif
}

// All that logistic losses need, from e = exp_minus_abs(x) and one division: p and q within 2e-7, softplus
// within 1.7e-7 [2.2e-7], double 3.6e-16. Finite for finite x, exact limits at +-inf, NaN in every member for NaN.
template <class Policy = DefaultPolicy, class T>
FL_HD Sigmoid<T> sigmoid_terms(T x, T e) {
  const T larger = reciprocal_(T(1) + e), smaller = e * larger, rest = log1p_unit<Policy>(e);
#ifdef FL_DEVICE_CODE
  const bool positive = x > T(0);
  return {e, positive ? larger : smaller, positive ? smaller : larger, (positive ? x : T(0)) + rest,
          (positive ? T(0) : -x) + rest};
#else
  // By bits, because gcc turns selects on x into paths with a blend each: a tenth slower.
  using detail::bits, detail::from_bits;
  const auto negative = bits(x) >> (8 * sizeof(T) - 1);  // all ones or zero
  const auto swap = (bits(larger) ^ bits(smaller)) & negative;
  const auto positive_part = bits(x) & ~negative;
  return {e, from_bits(bits(larger) ^ swap), from_bits(bits(smaller) ^ swap), from_bits(positive_part) + rest,
          from_bits(positive_part ^ bits(abs_(x))) + rest};
#endif
}
template <class Policy = DefaultPolicy, class T>
FL_HD Sigmoid<T> sigmoid_terms(T x) {
  return sigmoid_terms<Policy>(x, exp_minus_abs<Policy>(x));
}
