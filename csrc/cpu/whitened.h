// The inverse of the whitened family's factor in each instruction set.
#pragma once

#include <cstdint>

namespace fused_losses {

// Columns of an inverse that one piece of work makes.
constexpr int64_t kInverseBlock = 32;

// The columns [first, first + kInverseBlock) of the inverse of a lower triangular [n, n], entries above whose diagonal
// are not read. columns: [n, kInverseBlock], 64-byte aligned, what they are before they are rounded.
using InverseLoop = void (*)(const double* factor, float* inverse, int64_t n, int64_t first, double* columns);

namespace base {
extern const InverseLoop inverse_columns;
}
namespace avx2 {
extern const InverseLoop inverse_columns;
}
namespace avx512 {
extern const InverseLoop inverse_columns;
}

}  // namespace fused_losses
