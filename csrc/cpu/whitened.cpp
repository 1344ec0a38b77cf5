// The whitened family on the CPU: the row-sums family's loops on chunks of whitened rows.
#include "cpu/whitened.h"

#include <algorithm>
#include <cstring>

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
    parallel(blocks, n * n * kInverseBlock / 4, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      double* columns = static_cast<double*>(scratch.at_least(n * kInverseBlock * sizeof(double)));
      for (int64_t i = begin; i < end; ++i) {  // long columns and short ones in turns
        loops().inverse(from, to, n, (i % 2 ? blocks - 1 - i / 2 : i / 2) * kInverseBlock, columns);
      }
    });
  }

  static void multiply_by_triangle(const Matrix& rows, const Matrix& triangle, bool transposed, const Matrix& out) {
    const int64_t n = triangle.rows;
    const float *from = static_cast<const float*>(rows.data()), *by = static_cast<const float*>(triangle.data());
    float* to = static_cast<float*>(out.data());
    Scratch scratch;
    float* packed = static_cast<float*>(scratch.at_least(panels(n) * kPanel * n * sizeof(float)));
    loops().pack(by, n, transposed, packed);
    parallel(rows.rows, n * n / kProductsForOne, [&](int64_t begin, int64_t end) {
      loops().product(from + begin * n, end - begin, n, packed, transposed, to + begin * n);
    });
  }

  // By parts of the rows, which are the same for any number of threads.
  static void add_outer_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum) {
    const int64_t n = sum.rows, width = panels(n) * kPanel, strips = (n + kStrip - 1) / kStrip;
    const int64_t parts = std::clamp<int64_t>(rows.rows / kPartRows, 1, kMostParts);
    const float *a = static_cast<const float*>(gradient.data()), *b = static_cast<const float*>(rows.data());
    Scratch scratch;
    float* of_parts = static_cast<float*>(scratch.at_least(parts * n * width * sizeof(float)));
    parallel(parts * strips, rows.rows / parts * n * kStrip / kProductsForOne, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t part = item / strips, first = item % strips * kStrip, last = std::min(first + kStrip, n);
        const int64_t row = rows.rows * part / parts, next = rows.rows * (part + 1) / parts;
        float* of_part = of_parts + part * n * width;
        std::memset(of_part + first * width, 0, (last - first) * width * sizeof(float));
        loops().outer(a + row * n, b + row * n, next - row, n, first, last, of_part);
      }
    });
    float* to = static_cast<float*>(sum.data());
    parallel(n, n * parts, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        for (int64_t k = 0; k <= j; ++k) {
          float all = 0;
          for (int64_t part = 0; part < parts; ++part) all += of_parts[(part * n + j) * width + k];
          const float value = (add ? to[j * n + k] : 0) - all;
          to[j * n + k] = to[k * n + j] = value;
        }
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
  static constexpr int64_t kProductsForOne = 32;  // as much work as an element of other losses
  static constexpr int64_t kStrip = 84, kPartRows = 512, kMostParts = 16;

  static const WhitenedLoops& loops() { return FL_FOR_ISA(whitened_loops); }

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
