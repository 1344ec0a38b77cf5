// The CPU driver of the row-sums family: chunks of whole rows, or of elements where a reduced loss is linear in them.
#include "cpu/row_sums.h"

#include "cpu/device.h"
#include "cpu/row_sums_driver.h"

namespace fused_losses {
namespace {

int64_t touched_bytes(const RowSumsProblem& problem) {
  int64_t bytes = 0;
  for (int k = 0; k < RowSumsProblem::kOperands; ++k) {
    if (!problem.operands[k]) continue;
    bytes += problem.rows * problem.length * element_size(problem.operands[k].dtype) * (problem.gradients[k] ? 2 : 1);
  }
  return bytes;
}

struct CpuRowSums : CpuDevice {
  static void run(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor&) {
    run_row_sums(functor, options, problem);
  }

  static void add_scaled(const Tensor& a, double factor, const Tensor& b, const Tensor& to) {
    const Dtype dtype = dtype_of(a);
    for (int64_t i = 0, n = a.numel(); i < n; ++i) {
      const double sum = load_scalar(a.const_data_ptr(), dtype, i) + factor * load_scalar(b.const_data_ptr(), dtype, i);
      store_scalar(sum, to.mutable_data_ptr(), dtype, i);
    }
  }
};

// Names the reconstruction or the target of vae_loss, alone in this family in looking at values, at flat index `at`.
[[noreturn]] void refuse_element(const RowSumsProblem& problem, int64_t at) {
  double values[2];
  for (int k = 0; k < 2; ++k) read_values(problem.operands[k].data, problem.operands[k].dtype, at, 1, &values[k]);
  const bool of_target = !(values[0] < 0 || values[0] > 1);
  refuse_value("vae_loss", values[of_target], at, of_target ? "target in [0, 1]" : "reconstruction in [0, 1]");
}

}  // namespace

void run_row_sums(RowSums functor, const Options& options, const RowSumsProblem& problem) {
  const RowSumsEntry& entry = FL_FOR_ISA(row_sums_loops)[static_cast<int>(functor)];
  const Dtype dtype = accumulation_dtype(problem.operands[0].dtype);
  const auto loop = entry.run[dtype == Dtype::kFloat64];
  RowSumsTask task{problem};
  task.options = &options;
  task.flat = entry.linear && !task.results.losses && !task.results.per_item;
  task.non_temporal = exceeds_caches(touched_bytes(problem));
  task.scale = gradient_scale(task.results, dtype);
  std::atomic<int64_t> invalid{task.rows * task.length};
  task.invalid = &invalid;
  const auto part = [&](int64_t begin, int64_t end) { return loop(task, begin, end); };
  const double sum = task.flat ? chunked_sum(task.rows * task.length, part) : chunked_sum(task.rows, task.length, part);
  if (invalid < task.rows * task.length) refuse_element(task, invalid);
  store_total(task.results, dtype, sum);
}

FL_CPU_LIBRARY(m) { register_row_sums<CpuRowSums>(m); }

}  // namespace fused_losses
