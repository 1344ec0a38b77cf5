// scale_ on CUDA: multiplies a stored gradient in place by the incoming scalar, which never leaves the device.
#include "cuda/pack.cuh"
#include "host/scale.h"

namespace fused_losses::cuda {
namespace {

// gradient: [n]; factor: [1] in the accumulation dtype. Where the factor is 1 nothing is read or written.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(T* gradient, const Accumulation<T>* factor, int64_t n, bool packed) {
  using A = Accumulation<T>;
  constexpr int kPack = Pack<T>::kSize;
  const A by = *factor;
  if (by == A(1)) return;
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, threads = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = packed ? n / kPack : 0;
  for (int64_t p = thread; p < packs; p += threads) {
    Pack<T> values = load_pack(gradient + p * kPack);
#pragma unroll
    for (int k = 0; k < kPack; ++k) values.values[k] = narrow<T>(widen<A>(values.values[k]) * by);
    store_pack(gradient + p * kPack, values);
  }
  for (int64_t i = packs * kPack + thread; i < n; i += threads) gradient[i] = narrow<T>(widen<A>(gradient[i]) * by);
}

void scale_(Tensor gradient, Tensor grad_output) {
  check_scale(gradient, grad_output);
  const Launch launch(gradient);
  const int64_t n = gradient.numel();
  with_floating(dtype_of(gradient), [&](auto tag) {
    using T = decltype(tag);
    T* data = static_cast<T*>(gradient.mutable_data_ptr());
    const auto* factor = static_cast<const Accumulation<T>*>(grad_output.const_data_ptr());
    const int grid = launch.grid(n, int64_t{kThreads} * Pack<T>::kSize);
    launch(scale_kernel<T>, grid, kThreads, 0, data, factor, n, aligned(data));
  });
}

}  // namespace

FL_CUDA_LIBRARY(m) { m.impl("scale_", TORCH_BOX(&scale_)); }

}  // namespace fused_losses::cuda
