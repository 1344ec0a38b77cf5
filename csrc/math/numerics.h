// Branch-free exp, log, log1p, expm1, sigmoid and softplus for the CPU loops (gcc vectorises every one) and for CUDA.
// No include guard: included inside each instruction set's namespace, after platform.h and the standard headers.

// The errors stated are the largest relative ones measured on the CPU, float32 over an even sample of a fifth to a
// thirteenth of all floats, float64 over 2 million values; without FMA in brackets where larger. Denormal results are
// rounded to within one unit of the last place. Float64 without FMA is the C library's.

// How exact device code is. Precise: the accurate forms. Fast, for half precision inputs: the special function unit,
// within 2e-5 by the documented bounds of its intrinsics, for log near 1 within 4e-7 absolute. On the CPU and for
// double both are the same.
struct Precise {};
struct Fast {};
using DefaultPolicy = Precise;

// a * b + c, fused where the target has the instruction. gcc 12 does not update __FMA__ after a target pragma in C++,
// so the header that opens the target says what it has: FL_HAS_FMA, FL_HAS_AVX2, FL_HAS_AVX512, FL_HAS_NEON.
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
  return ((x > y) | (x != x)) ? x : y;
}
template <class T>
FL_HD T min_(T x, T y) {
  return ((x < y) | (x != x)) ? x : y;
}

// x where it is on the right side of a bound that is a number, else the bound; NaN stays NaN. gcc makes one blend of
// each where max_ and min_ may become branches.
template <class T>
FL_HD T at_least_(T x, T bound) {
  return x < bound ? bound : x;
}
template <class T>
FL_HD T at_most_(T x, T bound) {
  return x > bound ? bound : x;
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
FL_HD int64_t bits(double x) { return __builtin_bit_cast(int64_t, x); }
FL_HD float from_bits(int32_t x) { return __builtin_bit_cast(float, x); }
FL_HD float from_bits(uint32_t x) { return __builtin_bit_cast(float, x); }
FL_HD double from_bits(int64_t x) { return __builtin_bit_cast(double, x); }
FL_HD double from_bits(uint64_t x) { return __builtin_bit_cast(double, x); }

// The layout of a type and the constants of its exponential and logarithm.
template <class T>
struct Real;
template <>
struct Real<float> {
  using Int = int32_t;
  using Uint = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr Int kTwoThirds = 0x3f2aaaab;  // bits of 2/3: log takes mantissas from [2/3, 4/3)
  static constexpr Int kExpLimit = 0x42d10000;   // bits of 104.5: e^-104.5 rounds to 0, e^104.5 to infinity
  static constexpr float kExpm1Low = -18.0f, kExpm1High = 89.0f;  // -1 and infinity beyond
  static constexpr float kRound = 12582912.0f;                    // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLog2e = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * kLn2High is exact
};
template <>
struct Real<double> {
  using Int = int64_t;
  using Uint = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr Int kTwoThirds = 0x3fe5555555555555;
  static constexpr Int kExpLimit = 0x4087500000000000;  // bits of 746
  static constexpr double kExpm1Low = -40.0, kExpm1High = 710.0;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLog2e = 1.4426950408889634;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
};

// bits(x) - kTwoThirds, which wraps around for negative x.
template <class T>
FL_HD typename Real<T>::Int above_two_thirds(T x) {
  using Uint = typename Real<T>::Uint;
  return static_cast<typename Real<T>::Int>(static_cast<Uint>(bits(x)) - static_cast<Uint>(Real<T>::kTwoThirds));
}

}  // namespace detail

FL_HD float select_(bool which, float x, float y) { return which ? x : y; }
FL_HD double select_(bool which, double x, double y) { return which ? x : y; }

#ifndef FL_CUDA
#include "math/vector.h"
#endif

namespace detail {

// Where the system's functions serve: device code, and float64 on a target without FMA, where they are twice as fast.
#if defined(FL_DEVICE_CODE)
template <class T>
constexpr bool kLibrary = true;
#elif defined(FL_HAS_FMA)
template <class T>
constexpr bool kLibrary = false;
#else
template <class T>
constexpr bool kLibrary = std::is_same_v<T, double>;
#endif

#ifdef FL_DEVICE_CODE
// 2^x by the special function unit, denormal results as 0: __expf has four instructions for those.
FL_HD float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2(x);
#endif
}
#endif

// All ones where a, the bits of |x|, are a NaN's; else zero.
template <class T, class Int>
FL_HD Int nan_mask(Int a) {
  const auto above = a > bits(infinity_<T>());  // of vectors a mask already
  if constexpr (std::is_same_v<decltype(above), const bool>)
    return above ? Int(-1) : Int(0);
  else
    return above;
}

// (e^r - 1 - r) / r^2 for |r| <= 0.3475; adds 3.2e-9 (double: 2.5e-19) to the relative error of e^r.
template <class T>
FL_HD T exp_tail(T r) {
  const T r2 = r * r;
  if constexpr (Real<T>::kMantissa == 23) {
    const T odd = fma_(8.36871564e-3f, r2, 0.166665211f);
    const T even = fma_(fma_(1.3818359e-3f, r2, 4.16682959e-2f), r2, 0.49999994f);
    return fma_(odd, r, even);
  } else {
    T odd = fma_(2.5105490906986696e-08, r2, 2.7557254740405416e-06);
    T even = fma_(2.091488256348507e-09, r2, 2.7557273171941026e-07);
    odd = fma_(odd, r2, 0.00019841269875342141);
    even = fma_(even, r2, 2.4801587325920163e-05);
    odd = fma_(odd, r2, 0.008333333333325985);
    even = fma_(even, r2, 0.0013888888888883642);
    odd = fma_(odd, r2, 0.1666666666666667);
    even = fma_(even, r2, 0.04166666666666667);
    even = fma_(even, r2, 0.5);
    return fma_(odd, r, even);
  }
}

// x = n ln 2 + r. Returns r; the low bits of *power hold n + offset.
template <class T>
FL_HD T exp_reduce(T x, int offset, T* n, typename Real<T>::Uint* power) {
  using R = Real<T>;
  const T round = R::kRound + T(offset);
  const T t = fma_(x, R::kLog2e, round);
  *n = t - round;
  *power = __builtin_bit_cast(typename R::Uint, t);
  return fma_(*n, -R::kLn2Low, fma_(*n, -R::kLn2High, x));
}
template <class T>
FL_HD T exp_reduce(T x, int offset, typename Real<T>::Uint* power) {
  T n;
  return exp_reduce(x, offset, &n, power);
}

// e^r for |r| <= 0.3475.
template <class T>
FL_HD T exp_reduced(T r) {
  return fma_(fma_(exp_tail(r), r, T(1)), r, T(1));
}

// e^-a for a >= 0. Its power of 2 is applied in two factors, 2^(n+64) and 2^-64, for gradual underflow.
template <class T>
FL_HD T exp_minus(T a) {
  using R = Real<T>;
  if constexpr (kLibrary<T>) return ::exp(-a);
  const auto b = bits(a);
  typename R::Uint power;
  const T r = exp_reduce(-from_bits(b < R::kExpLimit ? b : R::kExpLimit), R::kBias + 64, &power);
  const T y = exp_reduced(r) * from_bits(power << R::kMantissa) * T(0x1p-64);
  return from_bits(bits(y) | nan_mask<T>(b));
}
#ifndef FL_CUDA
#ifdef FL_HAS_AVX512
// The same bits in fewer operations: a minimum that is a where a is NaN, a power of 2 with gradual underflow.
FL_HD Vector<float> exp_minus(Vector<float> a) {
  const Vector<float> most = from_bits(Real<float>::kExpLimit);
  Vector<float> n;
  Vector<float>::Bits power;
  const Vector<float> bounded = Vector<float>::of(_mm512_maskz_min_ps(0xffff, most.values, a.values));
  const Vector<float> r = exp_reduce(-bounded, 0, &n, &power);
  return Vector<float>::of(_mm512_maskz_scalef_ps(0xffff, exp_reduced(r).values, n.values));
}
#elif defined(FL_HAS_AVX2) || defined(FL_HAS_NEON)
// The same bits without a mask: the minimum is a where a is NaN, and NaN remains NaN.
FL_HD Vector<float> exp_minus(Vector<float> a) {
  const Vector<float> most = from_bits(Real<float>::kExpLimit);
  Vector<float>::Bits power;
#ifdef FL_HAS_AVX2
  const Vector<float> bounded = Vector<float>::of(_mm256_min_ps(most.values, a.values));
#else
  const Vector<float> bounded = Vector<float>::of(vminq_f32(most.values, a.values));
#endif
  const Vector<float> r = exp_reduce(-bounded, Real<float>::kBias + 64, &power);
  return exp_reduced(r) * from_bits(power << Real<float>::kMantissa) * Vector<float>(0x1p-64f);
}
#endif
template <class A, class V>
FL_HD Pair<A, V> exp_minus(Pair<A, V> a) {
  return {exp_minus(a.low), exp_minus(a.high)};
}
#endif

}  // namespace detail

// e^x within 8e-8 [1e-7], double 1.4e-16. Gradual underflow, exact limits at -inf and inf, NaN stays NaN.
template <class Policy = DefaultPolicy, class T>
FL_HD T exp_(T x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<Policy, Fast> && std::is_same_v<T, float>) return detail::fast_exp2(x * 1.44269504f);
#endif
  if constexpr (detail::kLibrary<T>) return ::exp(x);
  using R = detail::Real<T>;
  const auto b = detail::bits(x), magnitude = detail::bits(abs_(x));
  const T c = detail::from_bits((magnitude < R::kExpLimit ? magnitude : R::kExpLimit) | (b ^ magnitude));
  typename R::Uint power;
  const T r = detail::exp_reduce(c, 2 * R::kBias, &power);
  // 2^n in two factors, because n goes beyond the exponents of T on both sides.
  const auto half = power >> 1;
  const T first = detail::from_bits(half << R::kMantissa), second = detail::from_bits((power - half) << R::kMantissa);
  const T y = detail::exp_reduced(r) * first * second;
  return detail::from_bits(detail::bits(y) | detail::nan_mask<T>(magnitude));
}

// Half of e^x - 1, and half of what that exceeds x by, which near 0 is x^2/2 and no difference.
template <class T>
struct HalfExpm1 {
  T value, beyond;
};
template <class Policy = DefaultPolicy, class T>
FL_HD HalfExpm1<T> half_expm1(T x) {
  const T half_x = T(0.5) * at_most_(x, T(1000));  // infinity less infinity is no number
  if constexpr (detail::kLibrary<T>) {
    const T value = T(0.5) * ::expm1(x);
    return {value, abs_(x) < T(0.34) ? half_x * x * detail::exp_tail(x) : value - half_x};
  }
  using R = detail::Real<T>;
  T c = x < R::kExpm1Low ? R::kExpm1Low : x;
  c = c > R::kExpm1High ? R::kExpm1High : c;
  typename R::Uint power;
  const T r = detail::exp_reduce(c, R::kBias - 1, &power), tail = detail::exp_tail(r), r2 = r * r;
  const T scale = detail::from_bits(power << R::kMantissa);             // 2^(n-1), finite for the largest n
  const T lower = x > R::kExpm1High ? infinity_<T>() : scale - T(0.5);  // 0 where n is
  return {fma_(fma_(tail, r2, r), scale, lower), fma_(tail * r2, scale, fma_(r, scale, lower) - half_x)};
}

// e^x - 1 within 1.3e-7, double 2.7e-16, for small x too.
template <class Policy = DefaultPolicy, class T>
FL_HD T expm1_(T x) {
  if constexpr (detail::kLibrary<T>) return ::expm1(x);
  return T(2) * half_expm1<Policy>(x).value;
}

// tanh x within 3e-7, double 5e-16, for small x too.
template <class Policy = DefaultPolicy, class T>
FL_HD T tanh_(T x) {
  const T below = expm1_<Policy>(T(-2) * abs_(x)), t = -below / (T(2) + below);
  return x < T(0) ? -t : (x == T(0) ? x : t);
}

#include "math/logarithm.h"

// base^exponent from log(base); x^0 is 1 also for x = 0. The relative error is that of log_base times
// |exponent * log_base|.
template <class Policy = DefaultPolicy, class T>
FL_HD T pow_from_log(T log_base, T exponent) {
  const T power = exp_<Policy>(exponent * log_base);
  return exponent == T(0) ? T(1) : power;
}

// 1 / x for x in [2^-126, 2^126], on a GPU to the last bit or the one before it, in 2 instructions instead of 9.
template <class T>
FL_HD T reciprocal_(T x) {
#ifdef FL_DEVICE_CODE
  if constexpr (std::is_same_v<T, float>) return __fdividef(1.0f, x);
#endif
  return T(1) / x;
}

#include "math/sigmoid.h"
