// The loop of scale_ in each instruction set.
#pragma once

#include <cstdint>

#include "math/dtype.h"

namespace fused_losses {

// data[begin, end) *= factor in the accumulation dtype.
using ScaleLoop = void (*)(void* data, Dtype dtype, double factor, int64_t begin, int64_t end);

namespace base {
extern const ScaleLoop scale_range;
}
namespace avx2 {
extern const ScaleLoop scale_range;
}
namespace avx512 {
extern const ScaleLoop scale_range;
}

}  // namespace fused_losses
