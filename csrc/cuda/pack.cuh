// 16-byte packs and typed loads: the only place where the kernels touch global memory element by element.
#pragma once

#include <iterator>

#include "cuda/launch.cuh"

namespace fused_losses::cuda {

template <class A>
__device__ __forceinline__ A widen(float x) {
  return static_cast<A>(x);
}
template <class A>
__device__ __forceinline__ A widen(double x) {
  return static_cast<A>(x);
}
template <class A>
__device__ __forceinline__ A widen(__half x) {
  return static_cast<A>(__half2float(x));
}
template <class A>
__device__ __forceinline__ A widen(__nv_bfloat16 x) {
  return static_cast<A>(__bfloat162float(x));
}
template <class A, class Integer>
__device__ __forceinline__ std::enable_if_t<std::is_integral_v<Integer>, A> widen(Integer x) {
  return static_cast<A>(x);
}

template <class T, class A>
__device__ __forceinline__ T narrow(A x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(static_cast<float>(x));
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

// run(pointer) with `data` as what it is. The switch is the same for all threads.
template <class Run>
__device__ __forceinline__ auto with_typed(const void* data, Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::kFloat64:
      return run(static_cast<const double*>(data));
    case Dtype::kFloat16:
      return run(static_cast<const __half*>(data));
    case Dtype::kBFloat16:
      return run(static_cast<const __nv_bfloat16*>(data));
    case Dtype::kUInt8:
      return run(static_cast<const uint8_t*>(data));
    case Dtype::kInt32:
      return run(static_cast<const int32_t*>(data));
    case Dtype::kInt64:
      return run(static_cast<const int64_t*>(data));
    default:
      return run(static_cast<const float*>(data));
  }
}

// Element i of an array of any dtype.
template <class A>
__device__ __forceinline__ A load_any(const void* data, Dtype dtype, int64_t i) {
  return with_typed(data, dtype, [&](const auto* from) { return widen<A>(from[i]); });
}

// The elements from `at` on, as many as `values` has room for: one switch for all. kAligned: `data` to 16 bytes, `at`
// to kSize elements.
template <bool kAligned, class A, int kSize>
__device__ __forceinline__ void load_any_values(const void* data, Dtype dtype, int64_t at, A (&values)[kSize]) {
  with_typed(data, dtype, [&](const auto* from) {
    using U = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    constexpr size_t kBytes = kSize * sizeof(U);
    struct alignas(kBytes < 16 ? kBytes : 16) Chunk {
      U values[kSize];
    } chunk;
    if constexpr (kAligned) {
      chunk = *reinterpret_cast<const Chunk*>(from + at);
    } else {
#pragma unroll
      for (int k = 0; k < kSize; ++k) chunk.values[k] = from[at + k];
    }
#pragma unroll
    for (int k = 0; k < kSize; ++k) values[k] = widen<A>(chunk.values[k]);
  });
}

template <class A>
__device__ __forceinline__ void store_any(void* data, Dtype dtype, int64_t i, A x) {
  switch (dtype) {
    case Dtype::kFloat64:
      static_cast<double*>(data)[i] = x;
      return;
    case Dtype::kFloat16:
      static_cast<__half*>(data)[i] = narrow<__half>(x);
      return;
    case Dtype::kBFloat16:
      static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(x);
      return;
    default:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      return;
  }
}

// 16 bytes of T, loaded and stored at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(from);
  return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
}

// run(at, values) for the values of load at at, at + stride, ... below end, four or one at a time. Four loads are on
// their way before the first of their values is used: a test of the end between them would have each wait for the one
// before.
template <class Load, class Run>
__device__ __forceinline__ void each_few(int64_t begin, int64_t end, int64_t stride, const Load& load, const Run& run) {
  constexpr int kAhead = 4;
  using Value = decltype(load(begin));
  int64_t at = begin;
  for (; at + (kAhead - 1) * stride < end; at += kAhead * stride) {
    Value values[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) values[i] = load(at + i * stride);
    run(at, values);
  }
  for (; at < end; at += stride) {
    const Value values[1] = {load(at)};
    run(at, values);
  }
}

// run(at, load(at)) for at = begin, begin + stride, ... below end, as each_few.
template <class Load, class Run>
__device__ __forceinline__ void each_ahead(int64_t begin, int64_t end, int64_t stride, const Load& load,
                                           const Run& run) {
  each_few(begin, end, stride, load, [&](int64_t at, const auto& values) {
#pragma unroll
    for (size_t i = 0; i < std::size(values); ++i) run(at + static_cast<int64_t>(i) * stride, values[i]);
  });
}

// Whether packs of 16 bytes may be read and written at each of the pointers; null pointers do not matter.
template <class... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace fused_losses::cuda
