// scale_: hands a stored gradient over, multiplied in place by the incoming scalar unless that is 1.
#include "cpu/scale.h"

#include "cpu/device.h"
#include "host/scale.h"

namespace fused_losses {
namespace {

void scale_(Tensor gradient, Tensor grad_output) {
  check_scale(gradient, grad_output);
  const double factor = load_scalar(grad_output.const_data_ptr(), dtype_of(grad_output));
  if (factor == 1) return;
  const auto run = FL_FOR_ISA(scale_range);
  void* data = gradient.mutable_data_ptr();
  const Dtype dtype = dtype_of(gradient);
  parallel(gradient.numel(), 1, [&](int64_t begin, int64_t end) { run(data, dtype, factor, begin, end); });
}

}  // namespace

FL_CPU_LIBRARY(m) { m.impl("scale_", TORCH_BOX(&scale_)); }

}  // namespace fused_losses
