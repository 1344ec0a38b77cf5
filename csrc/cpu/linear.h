// The loops of the linear family in each instruction set: the soft cap of logits.
#pragma once

#include <cstdint>

#include "math/dtype.h"

namespace fused_losses {

// data[begin, end) of float32 or float64: capped in place; gradient[begin, end) times the slope at the capped values.
struct SoftCapLoops {
  void (*cap)(void* data, Dtype dtype, double softcap, int64_t begin, int64_t end);
  void (*gradient)(const void* capped, Dtype dtype, double softcap, void* gradient, int64_t begin, int64_t end);
};

namespace base {
extern const SoftCapLoops soft_cap_loops;
}
namespace avx2 {
extern const SoftCapLoops soft_cap_loops;
}
namespace avx512 {
extern const SoftCapLoops soft_cap_loops;
}

}  // namespace fused_losses
