// The loops of the linear family, compiled once per instruction set (namespace FL_ISA).
#include "cpu/linear.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "formulas/softcap.h"

template <class A>
void cap_values(A* __restrict x, const SoftCap<A> f, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = f(x[i]);
}

template <class A>
void cap_slopes(const A* __restrict y, A* __restrict gradient, const SoftCap<A> f, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) gradient[i] *= f.slope(y[i]);
}

inline void cap_range(void* data, Dtype dtype, double softcap, int64_t begin, int64_t end) {
  if (dtype == Dtype::kFloat64) {
    cap_values(static_cast<double*>(data) + begin, SoftCap<double>(softcap), end - begin);
  } else {
    cap_values(static_cast<float*>(data) + begin, SoftCap<float>(softcap), end - begin);
  }
}

inline void cap_gradient_range(const void* capped, Dtype dtype, double softcap, void* gradient, int64_t begin,
                               int64_t end) {
  if (dtype == Dtype::kFloat64) {
    cap_slopes(static_cast<const double*>(capped) + begin, static_cast<double*>(gradient) + begin,
               SoftCap<double>(softcap), end - begin);
  } else {
    cap_slopes(static_cast<const float*>(capped) + begin, static_cast<float*>(gradient) + begin,
               SoftCap<float>(softcap), end - begin);
  }
}

extern const SoftCapLoops soft_cap_loops = {cap_range, cap_gradient_range};

}  // namespace fused_losses::FL_ISA
