// The CPU as a device of the host layer: outputs, and the scalars of a call's Results, which live in host memory.
#pragma once

#include "cpu/isa.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "host/problems.h"
#include "host/tensor.h"

// Registers the CPU kernels of the ops: FL_CPU_LIBRARY(m) { m.impl(...); }
#define FL_CPU_LIBRARY(m) FL_LIBRARY_IMPL(FL_NAMESPACE, CPU, m)

namespace fused_losses {

struct CpuDevice {
  static Tensor output(const Tensor& like, const int64_t* shape, int64_t dims, Dtype dtype) {
    Tensor out = new_tensor(like, shape, dims, dtype);
    expect_large_writes(out.mutable_data_ptr(), out.numel() * element_size(dtype));
    return out;
  }
};

// n values of any dtype as float or double; for small operands, not for hot loops.
void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, float* out);
void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, double* out);

// Value i of a float32 or float64 array.
inline double load_scalar(const void* data, Dtype dtype, int64_t i = 0) {
  return dtype == Dtype::kFloat64 ? static_cast<const double*>(data)[i] : static_cast<const float*>(data)[i];
}

inline void store_scalar(double value, void* data, Dtype dtype, int64_t i = 0) {
  if (dtype == Dtype::kFloat64) {
    static_cast<double*>(data)[i] = value;
  } else {
    static_cast<float*>(data)[i] = static_cast<float>(value);
  }
}

// The factor of every gradient, but for the incoming gradient of each item. dtype: the accumulation dtype.
inline double gradient_scale(const Results& results, Dtype dtype) {
  const double scale = results.factor * results.gradient_factor / results.denominator;
  return results.incoming && !results.per_item ? scale * load_scalar(results.incoming, dtype) : scale;
}

// The reduced loss from the sum of the items' losses.
inline void store_total(const Results& results, Dtype dtype, double sum) {
  if (results.total) store_scalar(results.factor * sum / results.denominator, results.total, dtype);
}

}  // namespace fused_losses
