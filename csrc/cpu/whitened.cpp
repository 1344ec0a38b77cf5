// The whitened family on the CPU: the row-sums family's loops on chunks of whitened rows.
#include "cpu/whitened.h"

#include "cpu/isa.h"
#include "cpu/product.h"
#include "cpu/row_sums_driver.h"
#include "cpu/scratch.h"
#include "host/whitened.h"

namespace fused_losses {
namespace {

struct CpuWhitened : CpuProducts {
  static constexpr int64_t kTileBytes = 2 << 20;  // what one kernel leaves is in a cache for the next

  static constexpr auto solve = solve_by_library;

  // As measured: an inverse of 512 takes as long as the solves of 2 000 rows, one of 8 as those of 32.
  static bool inverts(int64_t rows, int64_t size) {
    return size <= 512 && rows >= 32 && rows >= (size <= 256 ? 1 : 4) * size;
  }

  static void invert(const Matrix& factor, const Matrix& inverse) {
    const double* from = static_cast<const double*>(factor.data());
    float* to = static_cast<float*>(inverse.data());
    const int64_t n = factor.rows, blocks = (n + kInverseBlock - 1) / kInverseBlock;
    const auto loop = FL_FOR_ISA(inverse_columns);
    parallel(blocks, n * n * kInverseBlock / 4, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      double* columns = static_cast<double*>(scratch.at_least(n * kInverseBlock * sizeof(double)));
      for (int64_t i = begin; i < end; ++i) {  // long columns and short ones in turns
        loop(from, to, n, (i % 2 ? blocks - 1 - i / 2 : i / 2) * kInverseBlock, columns);
      }
    });
  }

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
