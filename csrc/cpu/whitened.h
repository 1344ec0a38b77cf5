// The loops of the whitened family in each instruction set: the inverse of its factor, and products of many rows with a
// triangle, which the library takes for a square.
#pragma once

#include <cstdint>

namespace fused_losses {

// Columns of an inverse that one piece of work makes.
constexpr int64_t kInverseBlock = 32;
// Columns of a product that are made together.
constexpr int64_t kPanel = 16;

constexpr int64_t panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

struct WhitenedLoops {
  // The columns [first, first + kInverseBlock) of the inverse of a lower triangular [n, n], entries above whose
  // diagonal are not read. columns: [n, kInverseBlock], 64-byte aligned, what they are before they are rounded.
  void (*inverse)(const double* factor, float* inverse, int64_t n, int64_t first, double* columns);

  // Columns of a lower triangular [n, n], or with `transposed` of its transpose, zeros where there are none; packed:
  // [panels(n), n, kPanel].
  void (*pack)(const float* triangle, int64_t n, bool transposed, float* packed);

  // out[i] = rows[i] B of the `count` rows, [count, n] each; packed: B as `pack` makes it.
  void (*product)(const float* rows, int64_t count, int64_t n, const float* packed, bool transposed, float* out);

  // sum[j, k] += a_ij b_ik over the `count` rows, for j in [first, last) and, in whole panels, k <= j. sum: [n,
  // panels(n) kPanel].
  void (*outer)(const float* a, const float* b, int64_t count, int64_t n, int64_t first, int64_t last, float* sum);
};

namespace base {
extern const WhitenedLoops whitened_loops;
}
namespace avx2 {
extern const WhitenedLoops whitened_loops;
}
namespace avx512 {
extern const WhitenedLoops whitened_loops;
}

}  // namespace fused_losses
