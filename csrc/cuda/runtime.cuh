// All that the kernels and their launchers take from the CUDA runtime. No other file includes a CUDA header, declares
// shared memory, writes <<<>>> or names a dispatch key, so that the same sources compile for the emulator of the CPU.
#pragma once

#ifdef FL_EMULATED

#include "emulator/runtime.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdint>

// A variable of a block: FL_SHARED(double, sums, [32]); the extent is empty for a single value.
#define FL_SHARED(type, name, extent) __shared__ type name extent

// The bytes a launch asked for, on a 16-byte boundary: unsigned char name[].
#define FL_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Registers the kernels of the ops: FL_CUDA_LIBRARY(m) { m.impl(...); }
#define FL_CUDA_LIBRARY(m) FL_LIBRARY_IMPL(FL_NAMESPACE, CUDA, m)

namespace fused_losses::cuda {

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Asked of the driver once per device: the query costs more than a small kernel.
template <cudaDeviceAttr kAttribute>
int device_attribute(int device) {
  static int known[64] = {};
  int& value = known[device & 63];
  if (value == 0) STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, kAttribute, device));
  return value;
}

// Of each translation unit and device; zero when the code is loaded.
constexpr size_t kCounters = 1024;
[[maybe_unused]] static __device__ unsigned counters_of_blocks[kCounters];

// On the current device.
[[maybe_unused]] static unsigned* first_counter() {
  void* first = nullptr;
  STD_CUDA_CHECK(cudaGetSymbolAddress(&first, counters_of_blocks));
  return static_cast<unsigned*>(first);
}

constexpr int64_t kTileBytes = 24 << 20;  // of a product between its kernels: half of an L2 cache

// out = factor a b (+ out), all of one dtype.
inline void library_product(const torch::stable::Tensor& a, const torch::stable::Tensor& b, double factor, bool add,
                            const torch::stable::Tensor& out) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_addmm_out(out.get(), out.get(), a.get(), b.get(), add ? 1 : 0, factor));
}

// out = a b of two matrices of halves, summed and kept in float32.
inline void library_product_of_halves(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                                      const torch::stable::Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(a), from(b), from(torch::headeronly::ScalarType::Float), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<torch::stable::Tensor>(stack[0]);  // owned, and of no more use
}

// bytes: of dynamic shared memory.
template <class... Parameters, class... Arguments>
void launch_kernel(void (*kernel)(Parameters...), int grid, int threads, int64_t bytes, cudaStream_t stream,
                   const Arguments&... arguments) {
  kernel<<<grid, threads, bytes, stream>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace fused_losses::cuda

#endif
