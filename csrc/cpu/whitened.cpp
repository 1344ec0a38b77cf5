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

// Where a call of the library takes longer than the products it makes.
constexpr int64_t kFewProducts = 64 << 10;

template <class A>
A dot(const A* __restrict a, const A* __restrict b, int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

template <class A>
void subtract_multiple(A by, const A* __restrict from, A* __restrict to, int64_t n) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) to[k] -= by * from[k];
}

// x = L⁻¹ x or, from the last element on, x L⁻¹, of a lower triangular [n, n].
template <class A>
void solve_row(const A* factor, int64_t n, bool upper, A* x) {
  for (int64_t j = 0; j < n; ++j) {
    const int64_t i = upper ? n - 1 - j : j;
    const A* row = factor + i * n;
    x[i] = (upper ? x[i] : x[i] - dot(row, x, i)) / row[i];
    if (upper) subtract_multiple(x[i], row, x, i);
  }
}

// to[k] -= the sum of column k, of `count` rows of `stride` elements, for the first n <= kPanel columns.
template <class A>
void subtract_columns(const A* rows, int64_t count, int64_t stride, int64_t n, A* to) {
  constexpr int64_t kBlock = 64;  // rows of one partial sum: few digits are lost
  for (int64_t i = 0; i < count; i += kBlock) {
    A sum[kPanel] = {};
    for (int64_t r = i; r < count && r < i + kBlock; ++r) {
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) sum[k] += rows[r * stride + k];
    }
    for (int64_t k = 0; k < n; ++k) to[k] -= sum[k];
  }
}

struct CpuWhitened : CpuProducts {
  static constexpr int64_t kTileBytes = 2 << 20;  // what one kernel leaves is in a cache for the next

  static void solve(const Matrix& factor, const Matrix& rows, bool upper, const Matrix& out) {
    const int64_t n = factor.rows;
    if (rows.rows * n * n > kFewProducts) return solve_by_library(factor, rows, upper, out);
    with_dtype(out, [&](auto zero) {
      using A = decltype(zero);
      A* x = static_cast<A*>(out.data());
      if (x != rows.data()) std::memcpy(x, rows.data(), rows.rows * n * sizeof(A));
      for (int64_t row = 0; row < rows.rows; ++row) {
        solve_row(static_cast<const A*>(factor.data()), n, upper, x + row * n);
      }
    });
  }

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

  static Tensor prepare(const Matrix& triangle, bool transposed) {
    const int64_t n = triangle.rows;
    const Matrix packed = new_matrix(triangle.owner, panels(n), kPanel * n, Dtype::kFloat32);
    loops().pack(static_cast<const float*>(triangle.data()), n, transposed, static_cast<float*>(packed.data()));
    return packed.owner;
  }

  static void multiply_by_triangle(const Matrix& rows, const Tensor& prepared, bool transposed, const Matrix& out) {
    loops().product(static_cast<const float*>(rows.data()), rows.rows, rows.columns,
                    static_cast<const float*>(prepared.const_data_ptr()), transposed, static_cast<float*>(out.data()));
  }

  template <class Work>
  static void by_groups(int64_t n, int64_t columns, const Work& work) {
    const int64_t most =
        std::max<int64_t>(kGroupBytes / (std::max<int64_t>(columns, 1) * sizeof(float)) / kWholeTiles, 1) * kWholeTiles;
    const int64_t groups = (n + most - 1) / most;
    parallel(groups, most * columns * columns / kProductsForOne, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(i * most, std::min(most, n - i * most));
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

  static void add_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum) {
    const int64_t n = sum.rows;
    if (rows.rows * n * n > kFewProducts) return multiply(transposed(gradient), view(rows), -1, add, view(sum));
    with_dtype(sum, [&](auto zero) {
      using A = decltype(zero);
      const A *a = static_cast<const A*>(gradient.data()), *b = static_cast<const A*>(rows.data());
      A* to = static_cast<A*>(sum.data());
      if (!add) std::memset(to, 0, n * n * sizeof(A));
      for (int64_t i = 0; i < rows.rows; ++i) {
        for (int64_t j = 0; j < n; ++j) subtract_multiple(a[i * n + j], b + i * n, to + j * n, n);
      }
    });
  }

  static void add_columns(const Matrix& gradient, bool add, const Matrix& sum) {
    const int64_t n = sum.columns;
    with_dtype(sum, [&](auto zero) {
      using A = decltype(zero);
      const A* from = static_cast<const A*>(gradient.data());
      A* to = static_cast<A*>(sum.data());
      if (!add) std::memset(to, 0, n * sizeof(A));
      parallel(panels(n), gradient.rows * kPanel, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin * kPanel; k < std::min(end * kPanel, n); k += kPanel) {
          subtract_columns(from + k, gradient.rows, n, std::min(kPanel, n - k), to + k);
        }
      });
    });
  }

  static void keep_lower_triangle(const Tensor& t) {
    const int64_t n = t.size(0), bytes = element_size(dtype_of(t));
    char* to = static_cast<char*>(t.mutable_data_ptr());
    for (int64_t i = 0; i < n; ++i) std::memset(to + (i * n + i + 1) * bytes, 0, (n - i - 1) * bytes);
  }

  static void centre(const Matrix& rows, const Matrix& mean, const Matrix& to) {
    with_dtype(to, [&](auto zero) {
      using A = decltype(zero);
      const A *from = static_cast<const A*>(rows.data()), *middle = static_cast<const A*>(mean.data());
      A* out = static_cast<A*>(to.data());
      const int64_t length = rows.columns;
      parallel(rows.rows, length, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          for (int64_t k = 0; k < length; ++k) out[row * length + k] = from[row * length + k] - middle[k];
        }
      });
    });
  }

 private:
  static constexpr int64_t kProductsForOne = 32;    // as much work as an element of other losses
  static constexpr int64_t kGroupBytes = 64 << 10;  // of each of a group's matrices: x, z, and its gradients
  static constexpr int64_t kWholeTiles = 84;        // rows: tiles of 14, 6 and 3
  static constexpr int64_t kStrip = 84, kPartRows = 512, kMostParts = 16;

  static const WhitenedLoops& loops() { return FL_FOR_ISA(whitened_loops); }

  // run(a zero of the matrix's dtype), which is one of accumulation.
  template <class Run>
  static void with_dtype(const Matrix& m, const Run& run) {
    if (dtype_of(m.owner) == Dtype::kFloat64) {
      run(0.0);
    } else {
      run(0.0f);
    }
  }
};

}  // namespace

FL_CPU_LIBRARY(m) { register_whitened<CpuWhitened>(m); }

}  // namespace fused_losses
