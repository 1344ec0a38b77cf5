// CUDA as a device of the host layer: outputs, and what the kernels do with a call's Results, which live in device
// memory.
#pragma once

#include "cuda/launch.cuh"
#include "host/problems.h"

namespace fused_losses::cuda {

struct CudaDevice {
  static Tensor output(const Tensor& like, const int64_t* shape, int64_t dims, Dtype dtype) {
    return new_tensor(like, shape, dims, dtype);
  }
};

// The factor of every gradient but the incoming gradient of each item. counted: the denominator that a kernel found
// (null: the host's); A: the accumulation type, S: that of the result.
template <class S, class A = S>
__device__ __forceinline__ S gradient_scale(const Results& results, const double* counted) {
  double scale = results.factor * results.gradient_factor / (counted ? *counted : results.denominator);
  if (results.incoming && !results.per_item) scale *= *static_cast<const A*>(results.incoming);
  return static_cast<S>(scale);
}

// The reduced loss from the sum of the items' losses.
template <class A>
__device__ __forceinline__ void store_total(const Results& results, const double* counted, double sum) {
  *static_cast<A*>(results.total) = static_cast<A>(results.factor * sum / (counted ? *counted : results.denominator));
}

}  // namespace fused_losses::cuda
