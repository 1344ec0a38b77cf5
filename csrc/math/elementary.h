// The functions of a custom formula that no built-in loss needs, with PyTorch's special values. No include guard: after
// numerics.h, inside each instruction set's namespace. Those of the last group call the C library, element by element.

// log(1 + x) within 2 eps for x > -1, for small x too; -inf at -1, NaN below.
template <class T>
FL_HD T log1p_(T x) {
  if constexpr (detail::kLibrary<T>) return ::log1p(x);
  // log of the rounded u = 1 + x, and what rounding lost.
  const T u = T(1) + x, lost = (x - (u - T(1))) / u;
  const T r = log_(u) + lost;
  return u == infinity_<T>() || u == T(0) ? log_(u) : r;
}

// -1, 0 or 1; 0 for NaN, as torch.sgn.
template <class T>
FL_HD T sgn_(T x) {
  return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0));
}

FL_HD float floor_(float x) { return __builtin_floorf(x); }
FL_HD double floor_(double x) { return __builtin_floor(x); }
FL_HD float ceil_(float x) { return __builtin_ceilf(x); }
FL_HD double ceil_(double x) { return __builtin_ceil(x); }
FL_HD float trunc_(float x) { return __builtin_truncf(x); }
FL_HD double trunc_(double x) { return __builtin_trunc(x); }
FL_HD float round_(float x) { return __builtin_rintf(x); }
FL_HD double round_(double x) { return __builtin_rint(x); }

// condition ? a : b by masks. Around a condition that options alone decide gcc makes branches, and no vectors.
template <class T>
FL_HD T choose(bool condition, T a, T b) {
#ifdef FL_CUDA
  return condition ? a : b;
#else
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  const Bits mask = Bits(0) - Bits(condition);
  return __builtin_bit_cast(T, (__builtin_bit_cast(Bits, a) & mask) | (__builtin_bit_cast(Bits, b) & ~mask));
#endif
}

// |x|^y from log |x|; x^0 and 1^y are 1.
template <class T>
FL_HD T power_of_log(T log_x, T y) {
  return choose(y == T(0), T(1), exp_(choose(log_x == T(0), T(0), y * log_x)));
}

// x^y from `magnitude` = |x|^y, as the C library's pow: below 0, but for -0 and -inf, a number for whole y alone, of
// which the infinite ones are even.
template <class T>
FL_HD T power_of_sign(T magnitude, T x, T y) {
  const T half = y * T(0.5);
  const bool whole = floor_(y) == y, odd = whole & (floor_(half) != half);
  const T apart = choose(x == T(0), magnitude, choose(x == -infinity_<T>(), magnitude, nan_<T>()));
  const T negative = choose(odd, -magnitude, choose(whole, magnitude, apart));
  return choose(y == T(0), T(1), choose(detail::bits(x) < 0, negative, magnitude));
}

// x^y of options, not for elements.
template <class T>
FL_HD T pow_(T x, T y) {
  return ::pow(x, y);
}

// erf within 8.6e-8 [1.1e-7]: x + x p(x^2) up to |x| = 1, and 1 - e^-t(|x|) beyond, both fitted for the least largest
// error.
FL_HD float erf_(float x) {
  if constexpr (detail::kLibrary<float>) return ::erff(x);
  const float a = at_most_(abs_(x), 3.95f), u = a * a;  // 1 - erf(3.95) is below half a unit of 1
  float p = fma_(7.8891193e-5f, u, -8.0208411e-4f);
  p = fma_(p, u, 5.1895352e-3f);
  p = fma_(p, u, -2.6854444e-2f);
  p = fma_(p, u, 0.112836003f);
  p = fma_(p, u, -0.37612626f);
  p = fma_(p, u, 0.128379166f);
  float t = fma_(-1.8557486e-4f, a, 2.9396154e-3f);
  t = fma_(t, a, -2.180535e-2f);
  t = fma_(t, a, 0.103037433f);
  t = fma_(t, a, 0.6382256f);
  t = fma_(t, a, 1.12704008f);
  t = fma_(t, a, 3.5370931e-4f);
  const float far = 1.0f - exp_(-t);
  return a < 1.0f ? fma_(x, p, x) : (x < 0.0f ? -far : far);
}
FL_HD double erf_(double x) { return ::erf(x); }

// The rest by the C library.
#define FL_LIBRARY_FUNCTION(name)                       \
  FL_HD float name##_(float x) { return ::name##f(x); } \
  FL_HD double name##_(double x) { return ::name(x); }
FL_LIBRARY_FUNCTION(sin)
FL_LIBRARY_FUNCTION(cos)
FL_LIBRARY_FUNCTION(tan)
FL_LIBRARY_FUNCTION(asin)
FL_LIBRARY_FUNCTION(acos)
FL_LIBRARY_FUNCTION(atan)
FL_LIBRARY_FUNCTION(sinh)
FL_LIBRARY_FUNCTION(cosh)
FL_LIBRARY_FUNCTION(asinh)
FL_LIBRARY_FUNCTION(acosh)
FL_LIBRARY_FUNCTION(atanh)
FL_LIBRARY_FUNCTION(erfc)
FL_LIBRARY_FUNCTION(lgamma)
#undef FL_LIBRARY_FUNCTION
FL_HD float atan2_(float y, float x) { return ::atan2f(y, x); }
FL_HD double atan2_(double y, double x) { return ::atan2(y, x); }
FL_HD float fmod_(float a, float b) { return ::fmodf(a, b); }
FL_HD double fmod_(double a, double b) { return ::fmod(a, b); }

// What is left of a / b, with the sign of b, as torch.remainder.
template <class T>
FL_HD T remainder_(T a, T b) {
  const T rest = fmod_(a, b);
  return rest != T(0) && (b < T(0)) != (rest < T(0)) ? rest + b : rest;
}

// a / b rounded down, as torch.floor_divide: by what is left, since the rounded quotient may be the next whole number.
template <class T>
FL_HD T floor_div_(T a, T b) {
  if (b == T(0)) return a / b;
  const T rest = fmod_(a, b), whole = (a - rest) / b;  // but for rounding
  const T quotient = rest != T(0) && (b < T(0)) != (rest < T(0)) ? whole - T(1) : whole;
  if (quotient == T(0)) return a / b * T(0);  // with the sign of the exact one
  const T down = floor_(quotient);
  return quotient - down > T(0.5) ? down + T(1) : down;
}
