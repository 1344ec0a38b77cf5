// The whitened family on the CPU: the row-sums family's loops on chunks of whitened rows.
#include "host/whitened.h"

#include "cpu/product.h"
#include "cpu/row_sums_driver.h"

namespace fused_losses {
namespace {

struct CpuWhitened : CpuProducts {
  static constexpr int64_t kTileBytes = 2 << 20;  // what one kernel leaves is in a cache for the next

  static void run(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor&) {
    run_row_sums(functor, options, problem);
  }

  static void centre(const Matrix& rows, const Matrix& mean, const Matrix& to) {
    if (dtype_of(to.owner) == Dtype::kFloat64) {
      centre_rows<double>(rows, mean, to);
    } else {
      centre_rows<float>(rows, mean, to);
    }
  }

 private:
  template <class A>
  static void centre_rows(const Matrix& rows, const Matrix& mean, const Matrix& to) {
    const A *from = static_cast<const A*>(rows.data()), *middle = static_cast<const A*>(mean.data());
    A* out = static_cast<A*>(to.data());
    const int64_t length = rows.columns;
    parallel(rows.rows, length, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t k = 0; k < length; ++k) out[row * length + k] = from[row * length + k] - middle[k];
      }
    });
  }
};

}  // namespace

FL_CPU_LIBRARY(m) { register_whitened<CpuWhitened>(m); }

}  // namespace fused_losses
