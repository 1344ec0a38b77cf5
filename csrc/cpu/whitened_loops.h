// The inverse of the whitened family's factor, compiled once per instruction set (namespace FL_ISA).
#include "cpu/whitened.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"

// X row by row from L X = 1: X_i = (1_i - sum of L_ik X_k over k < i) / L_ii, zero above the block's first row.
inline void invert_columns(const double* factor, float* inverse, int64_t n, int64_t first, double* columns) {
  using V = Line<double>;
  constexpr int kVectors = kInverseBlock / V::kLanes;
  const int64_t width = kInverseBlock < n - first ? kInverseBlock : n - first;
  for (int64_t i = 0; i < first; ++i) std::memset(inverse + i * n + first, 0, width * sizeof(float));
  for (int64_t i = first; i < n; ++i) {
    V sum[kVectors];
    for (V& s : sum) s = 0.0;
    for (int64_t k = first; k < i; ++k) {
      const V by = factor[i * n + k];
      for (int v = 0; v < kVectors; ++v) sum[v] += by * V::load(columns + k * kInverseBlock + v * V::kLanes);
    }
    double* row = columns + i * kInverseBlock;
    for (int v = 0; v < kVectors; ++v) sum[v].store(row + v * V::kLanes);
    const double scale = 1 / factor[i * n + i];
    for (int64_t c = 0; c < kInverseBlock; ++c) row[c] = ((i == first + c ? 1.0 : 0.0) - row[c]) * scale;
    for (int64_t c = 0; c < width; ++c) inverse[i * n + first + c] = static_cast<float>(row[c]);
  }
}

extern const InverseLoop inverse_columns = invert_columns;

}  // namespace fused_losses::FL_ISA
