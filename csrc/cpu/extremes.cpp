// The extremes family on the CPU: rows of a tile in parallel; the gradient by the rows it is of, each of which knows
// who chose it.
#include "cpu/extremes.h"

#include <memory>
#include <vector>

#include "cpu/groups.h"
#include "cpu/product.h"
#include "host/extremes.h"

namespace fused_losses {
namespace {

const ExtremesLoops& loops() { return FL_FOR_ISA(extremes_loops); }

struct CpuExtremes : CpuProducts {
  static std::shared_ptr<void> prepare(ExtremesProblem* problem) {
    auto groups = std::make_shared<Groups>(nullptr, 0, problem->labels, problem->columns);
    problem->groups = groups->columns.data();
    return groups;
  }

  static void norms(const ExtremesProblem& problem, const Tensor&) {
    run(loops().norms, {problem}, problem.columns, problem.features);
  }

  static void choose(LossId, const Options& options, const ExtremesProblem& problem, const Tensor&) {
    run(loops().choose, {problem, &options}, problem.rows, 2 * problem.columns);
  }

  static void count(const ExtremesProblem& problem, const Tensor&, double* counted) {
    *counted = 0;
    for (int64_t i = 0; i < problem.columns; ++i) *counted += load_scalar(problem.chosen, problem.dtype, 4 * i) >= 0;
  }

  static void gradient(const ExtremesProblem& problem, const Tensor&) {
    check_choices(problem);
    ExtremesTask task{problem};
    if (task.results.counted) task.results.denominator = *task.results.counted;
    task.factor = task.results.denominator == 0 ? 0 : gradient_scale(task.results, problem.dtype);  // nothing counts
    const std::vector<int64_t> begins = entries_before(problem), entries = entries_by_row(problem, begins);
    task.begins = begins.data();
    task.entries = entries.data();
    run(loops().gradient, task, problem.columns, 4 * problem.features);
  }

 private:
  static void run(const ExtremesLoop (&by_dtype)[2], const ExtremesTask& task, int64_t rows, int64_t cost) {
    const ExtremesLoop loop = by_dtype[task.dtype == Dtype::kFloat64];
    parallel(rows, cost, [&](int64_t begin, int64_t end) { loop(task, begin, end); });
  }

  // Those that a forward saved are rows, both of them or, where an anchor has none, -1.
  static void check_choices(const ExtremesProblem& problem) {
    for (int64_t i = 0; i < problem.columns; ++i) {
      const double rows[] = {load_scalar(problem.chosen, problem.dtype, 4 * i),
                             load_scalar(problem.chosen, problem.dtype, 4 * i + 1)};
      for (const double row : rows) {
        const bool valid = rows[0] == -1 ? row == -1 : row >= 0 && row < static_cast<double>(problem.columns);
        if (!valid) refuse("triplet_batch_hard_loss", "saved rows in [0, ", problem.columns, ") or -1, got ", row);
      }
    }
  }

  // Calls visit(row, entry) for every choice, in the order of the anchors.
  template <class Visit>
  static void each_choice(const ExtremesProblem& problem, const Visit& visit) {
    for (int64_t i = 0; i < problem.columns; ++i) {
      for (int64_t which = 0; which < 2; ++which) {
        const double row = load_scalar(problem.chosen, problem.dtype, 4 * i + which);
        if (row >= 0) visit(static_cast<int64_t>(row), 2 * i + which);
      }
    }
  }

  static std::vector<int64_t> entries_before(const ExtremesProblem& problem) {
    std::vector<int64_t> begins(problem.columns + 1);
    each_choice(problem, [&](int64_t row, int64_t) { ++begins[row + 1]; });
    for (int64_t k = 0; k < problem.columns; ++k) begins[k + 1] += begins[k];
    return begins;
  }

  static std::vector<int64_t> entries_by_row(const ExtremesProblem& problem, std::vector<int64_t> next) {
    std::vector<int64_t> entries(next.back());
    each_choice(problem, [&](int64_t row, int64_t entry) { entries[next[row]++] = entry; });
    return entries;
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, ...) register_loss<ExtremesCall<CpuExtremes, LossId::op>, LossId::op>(m);
  FL_EXTREMES_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
