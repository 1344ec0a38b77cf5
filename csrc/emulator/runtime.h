// What the .cu files include in place of the CUDA runtime when they compile for the CPU: qualifiers, indices, barriers
// and shuffles, intrinsics (by the exact functions), the few calls of the runtime API, and the launch.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>

#include "emulator/half.h"
#include "emulator/machine.h"
#include "emulator/tracker.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (::fused_losses::emulator::thread_index())
#define blockIdx (::fused_losses::emulator::block_index())
#define blockDim (::fused_losses::emulator::current_threads())
#define gridDim (::fused_losses::emulator::current_grid())

#define FL_SHARED(type, name, extent)  \
  using name##_of_block = type extent; \
  static const char name##_key = 0;    \
  name##_of_block& name =              \
      *static_cast<name##_of_block*>(::fused_losses::emulator::shared_variable(&name##_key, sizeof(name##_of_block)))
#define FL_DYNAMIC_SHARED(name) \
  unsigned char* name = static_cast<unsigned char*>(::fused_losses::emulator::dynamic_shared())

#ifdef FL_CUSTOM
#define FL_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(fused_losses_custom_emulated, CPU, m)
#else
#define FL_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(fused_losses_emulated, CPU, m)
#endif

#undef CUDA_KERNEL_ASSERT
#define CUDA_KERNEL_ASSERT(condition) \
  if (!(condition)) ::fused_losses::emulator::fail("assertion `" #condition "` failed", std::source_location::current())

inline void __syncthreads(const std::source_location& site = std::source_location::current()) {
  fused_losses::emulator::barrier(site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T x, int by, const std::source_location& site = std::source_location::current()) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &x, sizeof(T));
  const unsigned lane = threadIdx.x % 32;
  word = fused_losses::emulator::shuffle(mask, word, lane ^ static_cast<unsigned>(by), site);
  std::memcpy(&x, &word, sizeof(T));
  return x;
}

inline void __syncwarp(const std::source_location& site = std::source_location::current()) {
  fused_losses::emulator::warp_barrier(site);
}

inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return fused_losses::emulator::atomic_increment(address, limit);
}
inline void __threadfence() { fused_losses::emulator::fence(); }

template <class T>
T __ldcg(const T* from) {
  return *from;
}

inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }

// 16 bytes that are read and written at once, at an address that must be a multiple of 16.
struct alignas(16) uint4 {
  unsigned x, y, z, w;
  uint4() = default;
  uint4(const uint4&) = delete;
  uint4& operator=(const uint4& other) {
    fused_losses::emulator::copy_pack(this, &other);
    return *this;
  }
};

// The runtime API, as far as launchers use it. There is one stream.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };

#undef STD_CUDA_CHECK
#define STD_CUDA_CHECK(call) static_cast<void>(call)

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
  *id = reinterpret_cast<uintptr_t>(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel kernel, cudaFuncAttribute, int bytes) {
  fused_losses::emulator::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
  return cudaSuccess;
}

namespace fused_losses::cuda {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
};

constexpr size_t kCounters = 1024;
inline unsigned* first_counter() {
  static unsigned counters[kCounters];
  return counters;
}

constexpr int64_t kTileBytes = 24 << 10;  // small losses have several tiles

inline void library_product(const torch::stable::Tensor& a, const torch::stable::Tensor& b, double factor, bool add,
                            const torch::stable::Tensor& out) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), add ? 1 : 0, factor));
}

inline void library_product_of_halves(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                                      const torch::stable::Tensor& out) {
  using torch::headeronly::ScalarType;
  library_product(torch::stable::to(a, ScalarType::Float), torch::stable::to(b, ScalarType::Float), 1, false, out);
}

inline cudaStream_t current_stream(int) { return emulator::stream(); }

template <cudaDeviceAttr kAttribute>
int device_attribute(int) {
  return kAttribute == cudaDevAttrMultiProcessorCount ? emulator::settings.multiprocessors
                                                      : static_cast<int>(emulator::kSharedPerBlockOptin);
}

template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), int64_t grid, int64_t threads, int64_t bytes, cudaStream_t,
                   const Arguments&... arguments) {
  static_assert((0 + ... + sizeof(Parameters)) <= 4096, "the parameters of a kernel take 4 KiB at most");
  struct Prepared {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  } call{kernel, {arguments...}};
  emulator::Launch launch{};
  launch.kernel = reinterpret_cast<const void*>(kernel);
  launch.call = [](void* data) {
    auto* c = static_cast<Prepared*>(data);
    std::apply(c->kernel, c->parameters);
  };
  launch.arguments = &call;
  launch.argument_bytes = sizeof(call);
  launch.grid = {static_cast<unsigned>(grid), 1, 1};
  launch.threads = {static_cast<unsigned>(threads), 1, 1};
  launch.dynamic_shared = bytes;
  emulator::run(launch);
}

}  // namespace fused_losses::cuda
