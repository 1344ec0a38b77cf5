// Branch-free exp, log, log1p, expm1, sigmoid and softplus for the CPU loops (gcc vectorises every one) and for CUDA.
// No include guard: included inside each instruction set's namespace, after platform.h and the standard headers.
#if !defined(FL_HD) || !defined(_MATH_H)
#include_next <math.h>  // a system header asked for <math.h> and found this directory on its search path first
#else

// How exact device code is. Precise: the accurate forms. Fast: for half precision inputs, a few 1e-6 relative, from the
// special function unit. On the CPU and for double both are the same. FL_MATH_POLICY changes the default of a
// namespace.
struct Precise {};
struct Fast {};
#ifdef FL_MATH_POLICY
using DefaultPolicy = FL_MATH_POLICY;
#else
using DefaultPolicy = Precise;
#endif

// a * b + c, fused where the target has the instruction. gcc 12 does not update __FMA__ after a target pragma in C++,
// so the header that opens the target says what it has: FL_HAS_FMA, FL_HAS_F16C, FL_HAS_AVX512.
FL_HD float fma_(float a, float b, float c) {
#if defined(FL_DEVICE_CODE) || defined(FL_HAS_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
FL_HD double fma_(double a, double b, double c) {
#if defined(FL_DEVICE_CODE) || defined(FL_HAS_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

FL_HD float abs_(float x) { return __builtin_fabsf(x); }
FL_HD double abs_(double x) { return __builtin_fabs(x); }
FL_HD float sqrt_(float x) { return __builtin_sqrtf(x); }
FL_HD double sqrt_(double x) { return __builtin_sqrt(x); }

// The larger and the smaller; NaN where either is NaN, as torch.maximum and torch.clamp.
template <class T>
FL_HD T max_(T x, T y) {
  return (x > y) | (x != x) ? x : y;
}
template <class T>
FL_HD T min_(T x, T y) {
  return (x < y) | (x != x) ? x : y;
}

template <class T>
FL_HD constexpr T infinity_() {
  return static_cast<T>(__builtin_inff());
}
template <class T>
FL_HD constexpr T nan_() {
  return static_cast<T>(__builtin_nanf(""));
}

namespace detail {

FL_HD int32_t bits(float x) { return __builtin_bit_cast(int32_t, x); }
FL_HD float from_bits(uint32_t x) { return __builtin_bit_cast(float, x); }
FL_HD float from_bits(int32_t x) { return __builtin_bit_cast(float, x); }
FL_HD int64_t bits(double x) { return __builtin_bit_cast(int64_t, x); }
FL_HD double from_bits(int64_t x) { return __builtin_bit_cast(double, x); }

constexpr int32_t kExpLimit = 0x42d10000;  // bits of 104.5: e^-104.5 is 0 and e^104.5 infinite in float
constexpr float kLog2e = 1.44269504f;
// ln 2 in two parts; the first has 10 bits, so that its product with an exponent is exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;

// (e^r - 1 - r) / r^2 for |r| <= 0.3475; contributes 3.2e-9 to the relative error of e^r.
FL_HD float exp_tail(float r) {
  const float r2 = r * r;
  const float odd = fma_(8.36871564e-3f, r2, 0.166665211f);
  const float even = fma_(fma_(1.3818359e-3f, r2, 4.16682959e-2f), r2, 0.49999994f);
  return fma_(odd, r, even);
}

// x = n ln 2 + r with n an integer. Returns r; *shifted holds n + offset in its low bits, from the rounding by adding
// 1.5 * 2^23, which is right with and without FMA.
FL_HD float exp_reduce(float x, float offset, float* n, int32_t* shifted) {
  const float magic = 12582912.0f + offset;
  const float t = fma_(x, kLog2e, magic);
  *n = t - magic;
  *shifted = bits(t);
  return fma_(*n, -kLn2Low, fma_(*n, -kLn2High, x));
}

// e^x for x <= 0: one multiplication by 2^(n+64), one by 2^-64 for gradual underflow. -inf gives 0.
FL_HD float exp_minus(float a) {
  const int32_t b = bits(a);
  const float c = from_bits(b < kExpLimit ? b : kExpLimit);
  float n;
  int32_t shifted;
  const float r = exp_reduce(-c, 127.0f + 64.0f, &n, &shifted);
  const float scale = from_bits(static_cast<uint32_t>(shifted) << 23);
  const float e = fma_(fma_(exp_tail(r), r, 1.0f), r, 1.0f) * scale * 5.42101086e-20f;
  return from_bits(bits(e) | (0x7f800000 - b) >> 31);
}
FL_HD double exp_minus(double a) { return ::exp(-a); }

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
  const float tail = fma_(p * f, f2, fma_(-0.5f, f2, k * kLn2Low));
  return fma_(k, kLn2High, f + tail);
}

constexpr int32_t kTwoThirds = 0x3f2aaaab;  // bits of 2/3: mantissas are taken from [2/3, 4/3)

}  // namespace detail

// e^x. Gradual underflow, exact limits at -inf and inf, NaN stays NaN.
template <class Policy = DefaultPolicy>
FL_HD float exp_(float x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast>) return __expf(x);
  return ::expf(x);
#else
  const int32_t b = detail::bits(x), magnitude = b & 0x7fffffff;
  const float c = detail::from_bits((magnitude < detail::kExpLimit ? magnitude : detail::kExpLimit) | (b ^ magnitude));
  float n;
  int32_t shifted;
  const float r = detail::exp_reduce(c, 254.0f, &n, &shifted);
  // 2^n in two factors, because n reaches 151 on both sides.
  const uint32_t all = static_cast<uint32_t>(shifted), half = all >> 1;
  const float first = detail::from_bits(half << 23), second = detail::from_bits((all - half) << 23);
  const float y = fma_(fma_(detail::exp_tail(r), r, 1.0f), r, 1.0f) * first * second;
  return detail::from_bits(detail::bits(y) | (0x7f800000 - magnitude) >> 31);
#endif
}
template <class Policy = DefaultPolicy>
FL_HD double exp_(double x) {
  return ::exp(x);
}

// e^x - 1, accurate for small x too.
template <class Policy = DefaultPolicy>
FL_HD float expm1_(float x) {
#ifdef FL_DEVICE_CODE
  return ::expm1f(x);
#else
  float c = x < -18.0f ? -18.0f : x;
  c = c > 89.0f ? 89.0f : c;
  float n;
  int32_t shifted;
  const float r = detail::exp_reduce(c, 126.0f, &n, &shifted);
  const float half_scale = detail::from_bits(static_cast<uint32_t>(shifted) << 23);  // 2^(n-1), finite for n = 128
  const float small = fma_(detail::exp_tail(r), r * r, r);
  return 2.0f * fma_(small, half_scale, half_scale - 0.5f);
#endif
}
template <class Policy = DefaultPolicy>
FL_HD double expm1_(double x) {
  return ::expm1(x);
}

// log x; -inf at 0, NaN below, denormals exact.
template <class Policy = DefaultPolicy>
FL_HD float log_(float x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast>) return __logf(x);
  return ::logf(x);
#else
  const bool tiny = x < 1.17549435e-38f;
  const float y = tiny ? x * 8388608.0f : x;
  const int32_t i = detail::bits(y) - detail::kTwoThirds;
  const float k = static_cast<float>(i >> 23) - (tiny ? 23.0f : 0.0f);
  const float m = detail::from_bits(static_cast<uint32_t>((i & 0x7fffff) + detail::kTwoThirds));
  const float r = detail::log_assemble(m - 1.0f, k);
  const float finite = x < infinity_<float>() ? r : x;
  return x > 0.0f ? finite : (x == 0.0f ? -infinity_<float>() : nan_<float>());
#endif
}
template <class Policy = DefaultPolicy>
FL_HD double log_(double x) {
  return ::log(x);
}

// log(1 + e) for e in [0, 1], one polynomial without range reduction.
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
  return ::log1p(e);
}

// log(1 - p) for p in [0, 1]: relative accuracy for small p too, -inf at 1, NaN above.
template <class Policy = DefaultPolicy>
FL_HD float log1p_neg(float p) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast>) {
    return p < 0.03f ? -p * fma_(fma_(p, 0.333333333f, 0.5f), p, 1.0f) : __logf(1.0f - p);
  }
  return ::log1pf(-p);
#else
  // 1 - p = 2^k (1 + f) with f from p itself, not from the rounded 1 - p.
  const int32_t i = detail::bits(1.0f - p) - detail::kTwoThirds;
  const float scale = detail::from_bits(0x3f800000u - (static_cast<uint32_t>(i) & 0xff800000u));
  const float f = fma_(-p, scale, scale - 1.0f);
  const float r = detail::log_assemble(f, static_cast<float>(i >> 23));
  return p < 1.0f ? r : (p == 1.0f ? -infinity_<float>() : nan_<float>());
#endif
}
template <class Policy = DefaultPolicy>
FL_HD double log1p_neg(double p) {
  return ::log1p(-p);
}

// base^exponent from log(base); x^0 is 1 also for x = 0. The relative error is that of log_base times
// |exponent * log_base|.
template <class Policy = DefaultPolicy, class T>
FL_HD T pow_from_log(T log_base, T exponent) {
  const T power = exp_<Policy>(exponent * log_base);
  return exponent == T(0) ? T(1) : power;
}

// 1 / x.
template <class Policy = DefaultPolicy, class T>
FL_HD T reciprocal_(T x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast> && std::is_same_v<T, float>) return __fdividef(1.0f, x);
#endif
  return T(1) / x;
}

template <class T>
struct Sigmoid {
  T e;             // exp(-|x|)
  T p;             // 1 / (1 + exp(-x))
  T q;             // 1 - p, without cancellation
  T softplus_pos;  // log(1 + exp(x))  = -log q
  T softplus_neg;  // log(1 + exp(-x)) = -log p
};

// All that logistic losses need, from one exponential and one division. Finite for finite x, exact limits at +-inf,
// NaN in every member for NaN.
template <class Policy = DefaultPolicy, class T>
FL_HD Sigmoid<T> sigmoid_terms(T x) {
#ifdef FL_DEVICE_CODE
  const T e = exp_<Policy>(-abs_(x));
  const T larger = reciprocal_<Policy>(T(1) + e), smaller = e * larger, rest = log1p_unit<Policy>(e);
  const bool positive = x > T(0);
  return {e, positive ? larger : smaller, positive ? smaller : larger, (positive ? x : T(0)) + rest,
          (positive ? T(0) : -x) + rest};
#else
  using detail::bits, detail::from_bits;
  const T a = abs_(x), e = detail::exp_minus(a);
  const T larger = T(1) / (T(1) + e), smaller = e * larger, rest = log1p_unit(e);
  const auto negative = bits(x) >> (8 * sizeof(T) - 1);  // all ones or zero
  const auto swap = (bits(larger) ^ bits(smaller)) & negative;
  const auto positive_part = bits(x) & ~negative;
  return {e, from_bits(bits(larger) ^ swap), from_bits(bits(smaller) ^ swap), from_bits(positive_part) + rest,
          from_bits(positive_part ^ bits(a)) + rest};
#endif
}

#endif
