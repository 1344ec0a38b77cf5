// The loop of scale_, compiled once per instruction set (namespace FL_ISA).
#include "cpu/scale.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"

template <class A>
void scale_values(A* data, const A factor, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) data[i] *= factor;
}

inline void scale_any(void* data, Dtype dtype, double factor, int64_t begin, int64_t end) {
  if (dtype == Dtype::kFloat32)
    return scale_values(static_cast<float*>(data) + begin, static_cast<float>(factor), end - begin);
  if (dtype == Dtype::kFloat64) return scale_values(static_cast<double*>(data) + begin, factor, end - begin);
  constexpr int64_t kBlock = 512;
  float buffer[kBlock];
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = kBlock < end - at ? kBlock : end - at;
    load_block(data, dtype, at, n, buffer);
    scale_values(buffer, static_cast<float>(factor), n);
    store_block(buffer, data, dtype, at, n);
  }
}

extern const ScaleLoop scale_range = scale_any;

}  // namespace fused_losses::FL_ISA
