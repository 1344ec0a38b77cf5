// The CPU driver of the row-sums family: chunks of whole rows, or of elements where a reduced loss is linear in them.
#include "cpu/row_sums.h"

#include "cpu/device.h"
#include "cpu/product.h"
#include "host/row_sums.h"
#include "host/whitened.h"

namespace fused_losses {
namespace {

struct CpuRowSums : CpuDevice {
  static void run(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor&) {
    const RowSumsEntry& entry =
        FL_FOR_ISA(row_sums_loops)[static_cast<int>(functor)];
    const Dtype dtype = accumulation_dtype(problem.operands[0].dtype);
    const auto loop = entry.run[dtype == Dtype::kFloat64];
    RowSumsTask task{problem};
    task.options = &options;
    task.flat = entry.linear && !task.results.losses && !task.results.per_item;
    task.non_temporal = exceeds_caches(touched_bytes(problem));
    task.scale = gradient_scale(task.results, dtype);
    const auto part = [&](int64_t begin, int64_t end) { return loop(task, begin, end); };
    const double sum =
        task.flat ? chunked_sum(task.rows * task.length, part) : chunked_sum(task.rows, task.length, part);
    store_total(task.results, dtype, sum);
  }

  static void add_scaled(const Tensor& a, double factor, const Tensor& b, const Tensor& to) {
    const Dtype dtype = dtype_of(a);
    for (int64_t i = 0, n = a.numel(); i < n; ++i) {
      const double sum = load_scalar(a.const_data_ptr(), dtype, i) + factor * load_scalar(b.const_data_ptr(), dtype, i);
      store_scalar(sum, to.mutable_data_ptr(), dtype, i);
    }
  }

 private:
  static int64_t touched_bytes(const RowSumsProblem& problem) {
    int64_t bytes = 0;
    for (int k = 0; k < RowSumsProblem::kOperands; ++k) {
      if (!problem.operands[k]) continue;
      bytes += problem.rows * problem.length * element_size(problem.operands[k].dtype) * (problem.gradients[k] ? 2 : 1);
    }
    return bytes;
  }
};

struct CpuWhitened : CpuProducts {
  static constexpr int64_t kTileBytes = 2 << 20;  // what one kernel leaves is in a cache for the next

  static constexpr auto run = CpuRowSums::run;

  static void centre(const Matrix& rows, const Matrix& mean, const Matrix& to) {
    if (dtype_of(to.owner) == Dtype::kFloat64) {
      centre_rows<double>(rows, mean, to);
    } else {
      centre_rows<float>(rows, mean, to);
    }
  }

  static void written_by_library(const Matrix&) {}

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

FL_CPU_LIBRARY(m) {
  register_row_sums<CpuRowSums>(m);
  register_whitened<CpuWhitened>(m);
}

}  // namespace fused_losses
