// Gradients written by non-temporal stores. Included inside each instruction set's namespace after convert.h and
// contract.h, without include guard.

// Whether a loss of this much work for each element waits for memory, so that non-temporal stores of its gradients pay
// although they pass through a buffer; measured with AVX-512 and AVX2.
constexpr bool waits_for_memory(Work work) {
#if defined(FL_HAS_AVX512)
  return work <= kExponential;
#elif defined(__SSE2__)
  return work == kFew;
#else
  return false;  // no such stores
#endif
}

// Copies by non-temporal stores where `to` starts at a whole vector; needs finish_non_temporal() before another thread
// reads it.
inline void copy_non_temporal(const void* from, void* to, int64_t bytes) {
#if defined(FL_HAS_AVX512)
  using Vector = __m512i;
#elif defined(FL_HAS_AVX2)
  using Vector = __m256i;
#elif defined(__SSE2__)
  using Vector = __m128i;
#endif
  int64_t i = 0;
#if defined(__SSE2__)
  constexpr int64_t kStep = sizeof(Vector);
  const char* in = static_cast<const char*>(from);
  char* out = static_cast<char*>(to);
  for (; reinterpret_cast<uintptr_t>(to) % kStep == 0 && i + kStep <= bytes; i += kStep) {
#if defined(FL_HAS_AVX512)
    _mm512_stream_si512(reinterpret_cast<Vector*>(out + i), _mm512_loadu_si512(in + i));
#elif defined(FL_HAS_AVX2)
    _mm256_stream_si256(reinterpret_cast<Vector*>(out + i),
                        _mm256_loadu_si256(reinterpret_cast<const Vector*>(in + i)));
#else
    _mm_stream_si128(reinterpret_cast<Vector*>(out + i), _mm_loadu_si128(reinterpret_cast<const Vector*>(in + i)));
#endif
  }
#endif
  std::memcpy(static_cast<char*>(to) + i, static_cast<const char*>(from) + i, static_cast<size_t>(bytes - i));
}

// Orders what this thread copied before what it does next.
inline void finish_non_temporal() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// store_block, by non-temporal stores where they are asked for and nothing has to be converted.
template <class A>
void write_block(const A* in, void* dest, Dtype dtype, int64_t offset, int64_t n, bool non_temporal) {
  constexpr int64_t kSize = sizeof(A);
  if (!non_temporal || element_size(dtype) != kSize) return store_block(in, dest, dtype, offset, n);
  copy_non_temporal(in, static_cast<char*>(dest) + offset * kSize, n * kSize);
}

// Before a block of a float16 gradient is written, where the loss wants it.
template <class A>
void saturate(A* __restrict values, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] = saturated(values[i]);
}
