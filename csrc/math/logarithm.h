// Logarithms: of x, of 1 + x and of 1 - x, branch-free. Included by numerics.h, after its exponentials.

namespace detail {

// log(1 + f) + k ln 2 for f in [-1/3, 1/3].
FL_HD float log_assemble(float f, float k) {
  const float f2 = f * f;
  float odd = fma_(-0.12874493f, f2, -0.12188343f);
  float even = fma_(0.139867082f, f2, 0.140053406f);
  odd = fma_(odd, f2, -0.16680181f);
  even = fma_(even, f2, 0.200104445f);
  odd = fma_(odd, f2, -0.249998048f);
  even = fma_(even, f2, 0.333332151f);
  const float p = fma_(odd, f, even);
  const float tail = fma_(p * f, f2, fma_(-0.5f, f2, k * Real<float>::kLn2Low));
  return fma_(k, Real<float>::kLn2High, f + tail);
}

// s (f - z Q(z)) with s = f / (2 + f), z = s^2: what f exceeds log(1 + f) by, for f in [-1/3, 1].
FL_HD double log1p_excess(double f) {
  const double s = f / (2.0 + f), z = s * s, z2 = z * z;
  double odd = fma_(0.07492143795550767, z2, 0.11734279061303197);
  double even = fma_(0.1563057780092285, z2, 0.10845178394880015);
  odd = fma_(odd, z2, 0.1538454396486055);
  even = fma_(even, z2, 0.13335178631449257);
  odd = fma_(odd, z2, 0.2222222219823677);
  even = fma_(even, z2, 0.18181819897962714);
  odd = fma_(odd, z2, 0.39999999999999525);
  even = fma_(even, z2, 0.285714285716001);
  even = fma_(even, z2, 0.6666666666666666);
  return s * fma_(-z, fma_(odd, z, even), f);
}
FL_HD double log_assemble(double f, double k) {
  using R = Real<double>;
  return fma_(k, R::kLn2High, f - (log1p_excess(f) - k * R::kLn2Low));
}

// The exponent in the high bits of i, of either sign. SSE2 and AVX2 cannot convert int64, hence the rounding constant.
FL_HD float high_exponent(int32_t i) { return static_cast<float>(i >> 23); }
FL_HD double high_exponent(int64_t i) {
  const uint64_t biased = (static_cast<uint64_t>(i) + 0x4000000000000000u) >> 52;
  return from_bits(biased | 0x4330000000000000u) - (0x1p52 + 1024.0);
}

}  // namespace detail

// log x of 0 <= x < infinity as log_, denormal x too, but at +0 a number below the logarithm of any other x; anything
// for other x.
template <class Policy = DefaultPolicy, class T>
FL_HD T log_finite(T x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast> && std::is_same_v<T, float>) return __logf(x);
#endif
  if constexpr (detail::kLibrary<T>) return ::log(x);
  using R = detail::Real<T>;
  constexpr typename R::Int kOne = 1;
  constexpr T kUp = static_cast<T>(kOne << R::kMantissa);
  const bool tiny = x < std::numeric_limits<T>::min();
  const auto i = detail::above_two_thirds(tiny ? x * kUp : x);
  const T k = detail::high_exponent(i) - (tiny ? T(R::kMantissa) : T(0));
  const T m = detail::from_bits((i & ((kOne << R::kMantissa) - 1)) + R::kTwoThirds);
  return detail::log_assemble(m - T(1), k);
}

// log x within 8.5e-8, double 1.7e-16; -inf at 0, NaN below.
template <class Policy = DefaultPolicy, class T>
FL_HD T log_(T x) {
  const T r = log_finite<Policy>(x);
  if constexpr (detail::kLibrary<T>) return r;
  const T finite = x < infinity_<T>() ? r : x;
  return x > T(0) ? finite : (x == T(0) ? -infinity_<T>() : nan_<T>());
}

// log x of a positive, finite and not denormal x, half the price of log_; anything for other x.
template <class Policy = DefaultPolicy, class T>
FL_HD T log_normal(T x) {
  if constexpr (detail::kLibrary<T>) return log_<Policy>(x);
  using R = detail::Real<T>;
  constexpr typename R::Int kOne = 1;
  const auto i = detail::above_two_thirds(x);
  const T m = detail::from_bits((i & ((kOne << R::kMantissa) - 1)) + R::kTwoThirds);
  return detail::log_assemble(m - T(1), detail::high_exponent(i));
}

// log(1 + e) for e in [0, 1] within 1.2e-7 [1.6e-7], double 1.9e-16, without range reduction.
template <class Policy = DefaultPolicy>
FL_HD float log1p_unit(float e) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast>) {
    return e < 0.03f ? e * fma_(fma_(e, 0.333333333f, -0.5f), e, 1.0f) : __logf(1.0f + e);
  }
#endif
  const float e2 = e * e;
  float low = fma_(0.196931928f, e, -0.24958156f), high = fma_(-0.00330653763f, e, 0.0201503318f);
  low = fma_(low, e, 0.333304703f);
  high = fma_(high, e, -0.0575615279f);
  low = fma_(low, e, -0.499999315f);
  high = fma_(high, e, 0.10670013f);
  high = fma_(high, e, -0.153490975f);
  const float p = fma_(high, e2 * e2, low);
  return fma_(p, e2, e);
}
template <class Policy = DefaultPolicy>
FL_HD double log1p_unit(double e) {
  if constexpr (detail::kLibrary<double>) return ::log1p(e);
  return e - detail::log1p_excess(e);
}

// log(1 + e) where `sum`, for e > -1 below 2^126 and as exact for small e, else log x of x as for log_normal.
template <class Policy = DefaultPolicy, class T>
FL_HD T log_of_sum_or(bool sum, T e, T x) {
  if constexpr (detail::kLibrary<T>) return sum ? ::log1p(e) : log_<Policy>(x);
  // 1 + e = 2^k (1 + f) with f from e itself, not from the rounded 1 + e.
  using R = detail::Real<T>;
  constexpr typename R::Int kOne = 1;
  const T y = sum ? T(1) + e : x;
  const auto i = detail::above_two_thirds(y);
  const auto exponent = static_cast<typename R::Uint>(i & ~((kOne << R::kMantissa) - 1));
  const T scale = detail::from_bits(static_cast<typename R::Uint>(detail::bits(T(1))) - exponent);
  const T f = sum ? fma_(e, scale, scale - T(1)) : fma_(x, scale, T(-1));
  return detail::log_assemble(f, detail::high_exponent(i));
}

// log(1 - p) for p in [0, 1] within 1.6e-7, double 1.5e-16, for small p too; -inf at 1, NaN above.
template <class Policy = DefaultPolicy, class T>
FL_HD T log1p_neg(T p) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast> && std::is_same_v<T, float>) {
    return p < 0.03f ? -p * fma_(fma_(p, 0.333333333f, 0.5f), p, 1.0f) : __logf(1.0f - p);
  }
#endif
  if constexpr (detail::kLibrary<T>) return ::log1p(-p);
  const T r = log_of_sum_or(true, -p, T(0));
  return p < T(1) ? r : (p == T(1) ? -infinity_<T>() : nan_<T>());
}
