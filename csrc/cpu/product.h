// The products of the CPU as a device of the losses that have one in them, and the sums of their losses.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "cpu/device.h"
#include "host/product.h"

namespace fused_losses {

struct CpuProducts : CpuDevice {
  static constexpr int64_t kTileBytes = 32 << 20, kLeastRows = 64;

  // Halves are converted block by block: their sums would be rounded to halves.
  static Dtype product_dtype(Dtype dtype, const Results&) { return accumulation_dtype(dtype); }

  static void multiply(const Tensor& a, const Tensor& b, double factor, bool add, const Tensor& out) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), add ? 1 : 0, factor));
  }

  static void store(const Matrix& sum, const Results*, const Matrix& to) { copy(view(sum), view(to)); }

  // The total of all losses, in chunks added in order.
  static void reduce(const Tensor& losses, const Results& results) {
    const Dtype dtype = dtype_of(losses);
    Results whole = results;
    if (whole.counted) whole.denominator = *whole.counted;
    store_total(whole, dtype, chunked_sum(losses.numel(), [&](int64_t begin, int64_t end) {
                  double sum = 0;
                  for (int64_t i = begin; i < end; ++i) sum += load_scalar(losses.const_data_ptr(), dtype, i);
                  return sum;
                }));
  }
};

}  // namespace fused_losses
