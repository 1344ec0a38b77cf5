// Bridges for drivers that the host layer does not serve yet.
#pragma once

#include "cpu/device.h"
#include "host/check.h"
#include "host/tensor.h"

namespace fused_losses {

inline Tensor new_scalar(const Tensor& like) { return new_tensor(like, {}, accumulation_dtype(dtype_of(like))); }
inline void set_scalar(Tensor& t, double value) { store_scalar(value, t.mutable_data_ptr(), dtype_of(t)); }
inline double scalar_value(const Tensor& t) { return load_scalar(t.const_data_ptr(), dtype_of(t)); }
inline Tensor new_output(const Tensor& t) {
  const auto sizes = t.sizes();
  return CpuDevice::output(t, sizes.data(), t.dim(), dtype_of(t));
}

}  // namespace fused_losses
