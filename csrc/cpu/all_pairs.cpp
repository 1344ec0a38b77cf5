// The all-pairs family on the CPU: rows of a tile in parallel, columns of a chunk in blocks.
#include "cpu/all_pairs.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "cpu/groups.h"
#include "cpu/product.h"
#include "host/all_pairs.h"

namespace fused_losses {
namespace {

const PairsLoops& loops() { return FL_FOR_ISA(pairs_loops); }

constexpr int64_t kMirrorBlock = 32;

// What is above the diagonal of n x n elements, below it: square by square through a buffer, since rows a power of two
// apart push each other out of a cache that is read column by column.
template <class A>
void mirror_square(A* x, int64_t n, int64_t stride) {
  parallel((n + kMirrorBlock - 1) / kMirrorBlock, kMirrorBlock * n / 2, [&](int64_t begin, int64_t end) {
    A square[kMirrorBlock][kMirrorBlock + 1];
    for (int64_t row = begin * kMirrorBlock; row < std::min(end * kMirrorBlock, n); row += kMirrorBlock) {
      const int64_t rows = std::min(kMirrorBlock, n - row);
      for (int64_t column = 0; column <= row; column += kMirrorBlock) {
        const int64_t columns = std::min(kMirrorBlock, n - column);
        for (int64_t j = 0; j < columns; ++j) {
          for (int64_t i = 0; i < rows; ++i) square[j][i] = x[(column + j) * stride + row + i];
        }
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t last = std::min(columns, row + i - column);  // before the diagonal
          for (int64_t j = 0; j < last; ++j) x[(row + i) * stride + column + j] = square[j][i];
        }
      }
    }
  });
}

struct CpuAllPairs : CpuProducts {
  static constexpr int64_t kKeptBytes = 64 << 20;

  static std::shared_ptr<void> prepare(PairsProblem* problem) {
    auto groups =
        std::make_shared<Groups>(problem->row_labels, problem->rows, problem->column_labels, problem->columns);
    problem->row_groups = groups->rows.data();
    problem->column_groups = groups->columns.data();
    return groups;
  }

  static void mirror(const Matrix& square) {
    if (dtype_of(square.owner) == Dtype::kFloat64) {
      mirror_square(static_cast<double*>(square.data()), square.rows, square.stride);
    } else {
      mirror_square(static_cast<float*>(square.data()), square.rows, square.stride);
    }
  }

  static void statistics(LossId id, const Options& options, const PairsProblem& problem, const Tensor&) {
    run(loops().entries[loss_of(id).place].statistics, options, problem);
  }

  static void gradient(LossId id, const Options& options, const PairsProblem& problem, const Tensor&) {
    run(loops().entries[loss_of(id).place].gradient, options, problem);
  }

  static void columns(LossId id, const Options& options, const PairsProblem& problem, const Tensor&, bool first) {
    PairsTask task{problem};
    task.options = &options;
    task.first_merge = first;
    const PairsLoop loop = loops().entries[loss_of(id).place].columns[problem.dtype == Dtype::kFloat64];
    const int64_t from = problem.merged_from, blocks = (problem.columns - from + kColumnBlock - 1) / kColumnBlock;
    parallel(blocks, problem.rows * kColumnBlock * 2, [&](int64_t begin, int64_t end) {
      loop(task, from + begin * kColumnBlock, std::min(from + end * kColumnBlock, problem.columns));
    });
  }

  // The losses become the mean of both cross-entropies.
  static void finish_columns(const PairsProblem& problem, const Tensor&) {
    const Dtype dtype = problem.dtype;
    for (int64_t j = 0; j < problem.columns; ++j) {
      const double most = load_scalar(problem.column_max, dtype, j);
      const double log_sum = (std::isfinite(most) ? most : 0) + std::log(problem.column_sums[j]);
      store_scalar(log_sum, problem.column_statistics, dtype, j);
    }
    for (int64_t i = 0; i < problem.rows; ++i) {
      const double own = load_scalar(problem.row_statistics, dtype, 2 * i + 1);
      const double other = load_scalar(problem.column_statistics, dtype, problem.first + i) - own;
      store_scalar(0.5 * (load_scalar(problem.losses, dtype, i) + other), problem.losses, dtype, i);
    }
  }

  static void count(const Matrix& statistics, double* counted) {
    *counted = 0;
    const Dtype dtype = dtype_of(statistics.owner);
    for (int64_t i = 0; i < statistics.rows; ++i) {
      *counted += load_scalar(statistics.data(), dtype, i * statistics.columns + 1) != 0;
    }
  }

  static void reduce_scalars(const Tensor& scalars, const Results& results, void* scale, void* bias) {
    const Dtype dtype = dtype_of(scalars);
    const double factor = gradient_scale(results, dtype);
    double sums[2] = {};
    for (int64_t i = 0, n = scalars.numel(); i < n; ++i) {
      sums[i % 2] += load_scalar(scalars.const_data_ptr(), dtype, i);
    }
    if (scale) store_scalar(factor * sums[0], scale, dtype);
    if (bias) store_scalar(factor * sums[1], bias, dtype);
  }

 private:
  static void run(const PairsLoop (&by_dtype)[2], const Options& options, const PairsProblem& problem) {
    const PairsLoop loop = by_dtype[problem.dtype == Dtype::kFloat64];
    PairsTask task{problem};
    task.options = &options;
    if (task.results.counted) task.results.denominator = *task.results.counted;
    task.factor = task.results.denominator == 0 ? 0 : gradient_scale(task.results, problem.dtype);  // nothing counts
    parallel(problem.rows, problem.columns * 4, [&](int64_t begin, int64_t end) { loop(task, begin, end); });
  }
};

}  // namespace

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<AllPairsCall<CpuAllPairs, LossId::op>, LossId::op>(m);
  FL_ALL_PAIRS(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
