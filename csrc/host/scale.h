// What scale_ takes on every device.
#pragma once

#include "host/check.h"

namespace fused_losses {

inline void check_scale(const Tensor& gradient, const Tensor& grad_output) {
  constexpr const char* kName = "scale_";
  check_floating(kName, "gradient", gradient);
  if (!gradient.is_contiguous()) refuse(kName, "a contiguous gradient, got a strided one");
  if (grad_output.numel() != 1 || dtype_of(grad_output) != accumulation_dtype(dtype_of(gradient))) {
    refuse(kName, "grad_output of one element in the accumulation dtype, got ", shape_text(grad_output));
  }
  check_device(kName, "grad_output", grad_output, gradient);
}

}  // namespace fused_losses
