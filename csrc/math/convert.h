// Blocks of any element type to and from float or double. Included inside each instruction set's namespace, without
// include guard; the intrinsics come before the target pragma. FL_HAS_AVX512, FL_HAS_AVX2 and FL_HAS_NEON say what the
// target has. Offsets and lengths count elements.

namespace detail {

// IEEE half to float, exact; NaN stays NaN. Integer and select operations only, which gcc vectorises for SSE2.
FL_HD float half_to_float(uint16_t h) {
  const uint32_t shifted = (h & 0x7fffu) << 13, exponent = shifted & 0x0f800000u;
  const uint32_t rebased = shifted + 0x38000000u;
  const float denormal = from_bits(rebased + 0x00800000u) - 6.10351562e-05f;
  const uint32_t normal = exponent == 0x0f800000u ? rebased + 0x38000000u : rebased;
  const uint32_t magnitude = exponent == 0 ? static_cast<uint32_t>(bits(denormal)) : normal;
  return from_bits(magnitude | (h & 0x8000u) << 16);
}

// Float to IEEE half: nearest even, overflow to infinity, gradual underflow, NaN to the quiet NaN.
FL_HD uint16_t float_to_half(float x) {
  const uint32_t u = static_cast<uint32_t>(bits(x)), magnitude = u & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t denormal = static_cast<uint32_t>(bits(from_bits(magnitude) + 0.5f)) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
  return static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | (u & 0x80000000u) >> 16);
}

FL_HD float bfloat16_to_float(uint16_t h) { return from_bits(static_cast<uint32_t>(h) << 16); }

// Nearest even, overflow to infinity, NaN to the quiet NaN.
FL_HD uint16_t float_to_bfloat16(float x) {
  const uint32_t u = static_cast<uint32_t>(bits(x));
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <class From, class A>
void widen(const From* __restrict in, int64_t n, A* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<A>(in[i]);
}

inline void load_bfloat16(const uint16_t* __restrict in, int64_t n, float* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = bfloat16_to_float(in[i]);
}

inline void store_bfloat16(const float* __restrict in, int64_t n, uint16_t* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = float_to_bfloat16(in[i]);
}

inline void load_half(const uint16_t* __restrict in, int64_t n, float* __restrict out) {
  int64_t i = 0;
#if defined(FL_HAS_AVX512)  // the maskz forms, because the plain ones read an uninitialised register in gcc 12's view
  for (; i + 16 <= n; i += 16)
    _mm512_storeu_ps(out + i,
                     _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i))));
#elif defined(FL_HAS_AVX2)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
#elif defined(FL_HAS_NEON)
  for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + i))));
#else
#pragma omp simd
  for (i = 0; i < n; ++i) out[i] = half_to_float(in[i]);
#endif
  for (; i < n; ++i) out[i] = half_to_float(in[i]);
}

inline void store_half(const float* __restrict in, int64_t n, uint16_t* __restrict out) {
  int64_t i = 0;
#if defined(FL_HAS_AVX512)
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(FL_HAS_AVX2)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(FL_HAS_NEON)
  for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in + i))));
#else
#pragma omp simd
  for (i = 0; i < n; ++i) out[i] = float_to_half(in[i]);
#endif
  for (; i < n; ++i) out[i] = float_to_half(in[i]);
}

constexpr int64_t kThrough = 256;  // doubles pass to and from half precision through a float buffer of this length

}  // namespace detail

// out[i] = source[offset + i] for i < n; integers and bool become their value.
template <class A>
void load_block(const void* source, Dtype dtype, int64_t offset, int64_t n, A* out) {
  if (n == 0) return;  // an empty tensor has no memory
  const char* from = static_cast<const char*>(source) + offset * element_size(dtype);
  switch (dtype) {
    case Dtype::kFloat32:
      if constexpr (std::is_same_v<A, float>) {
        std::memcpy(out, from, static_cast<size_t>(n) * sizeof(float));
      } else {
        detail::widen(reinterpret_cast<const float*>(from), n, out);
      }
      return;
    case Dtype::kFloat64:
      if constexpr (std::is_same_v<A, double>) {
        std::memcpy(out, from, static_cast<size_t>(n) * sizeof(double));
      } else {
        detail::widen(reinterpret_cast<const double*>(from), n, out);
      }
      return;
    case Dtype::kFloat16:
    case Dtype::kBFloat16: {
      const auto* halves = reinterpret_cast<const uint16_t*>(from);
      const auto load = dtype == Dtype::kFloat16 ? detail::load_half : detail::load_bfloat16;
      if constexpr (std::is_same_v<A, float>) {
        load(halves, n, out);
      } else {
        float buffer[detail::kThrough];
        for (int64_t at = 0; at < n; at += detail::kThrough) {
          const int64_t part = n - at < detail::kThrough ? n - at : detail::kThrough;
          load(halves + at, part, buffer);
          detail::widen(buffer, part, out + at);
        }
      }
      return;
    }
    case Dtype::kUInt8:
      return detail::widen(reinterpret_cast<const uint8_t*>(from), n, out);
    case Dtype::kInt32:
      return detail::widen(reinterpret_cast<const int32_t*>(from), n, out);
    case Dtype::kInt64:
      return detail::widen(reinterpret_cast<const int64_t*>(from), n, out);
  }
}

// dest[offset + i] = in[i] for i < n, rounded to the nearest even. Writes floating point types only.
template <class A>
void store_block(const A* in, void* dest, Dtype dtype, int64_t offset, int64_t n) {
  if (n == 0) return;
  char* to = static_cast<char*>(dest) + offset * element_size(dtype);
  switch (dtype) {
    case Dtype::kFloat32:
      if constexpr (std::is_same_v<A, float>) {
        std::memcpy(to, in, static_cast<size_t>(n) * sizeof(float));
      } else {
        detail::widen(in, n, reinterpret_cast<float*>(to));
      }
      return;
    case Dtype::kFloat64:
      if constexpr (std::is_same_v<A, double>) {
        std::memcpy(to, in, static_cast<size_t>(n) * sizeof(double));
      } else {
        detail::widen(in, n, reinterpret_cast<double*>(to));
      }
      return;
    case Dtype::kFloat16:
    case Dtype::kBFloat16: {
      auto* halves = reinterpret_cast<uint16_t*>(to);
      const auto store = dtype == Dtype::kFloat16 ? detail::store_half : detail::store_bfloat16;
      if constexpr (std::is_same_v<A, float>) {
        store(in, n, halves);
      } else {
        float buffer[detail::kThrough];
        for (int64_t at = 0; at < n; at += detail::kThrough) {
          const int64_t part = n - at < detail::kThrough ? n - at : detail::kThrough;
          detail::widen(in + at, part, buffer);
          store(buffer, part, halves + at);
        }
      }
      return;
    }
    default:
      return;
  }
}
