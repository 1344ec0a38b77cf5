// The whitened family on CUDA: the row-sums family's kernels on chunks of whitened rows, all launches of a call from
// here.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "cuda/row_sums.h"
#include "host/whitened.h"

namespace fused_losses::cuda {
namespace {

#include "cuda/product.cuh"

// to[i, k] = rows[i, k] - mean[k]
template <class A>
__global__ void __launch_bounds__(kThreads)
    centre_kernel(const A* rows, const A* mean, A* to, int64_t n, int64_t length) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = rows[i] - mean[i % length];
  }
}

struct CudaWhitened : CudaProducts {
  static constexpr auto run = run_row_sums;
  static constexpr auto invert = invert_by_library;
  static constexpr auto solve = solve_by_library;
  static constexpr auto keep_lower_triangle = keep_lower_triangle_by_library;

  // As measured on CPUs, with the library's inverse.
  static bool inverts(int64_t rows, int64_t size) { return size <= 512 && rows >= 4 * size; }

  static Tensor prepare(const Matrix& triangle, bool transposed) {
    return transposed ? fused_losses::transposed(triangle) : view(triangle);
  }

  static void multiply_by_triangle(const Matrix& rows, const Tensor& prepared, bool, const Matrix& out) {
    multiply(view(rows), prepared, 1, false, view(out));
  }

  template <class Work>
  static void by_groups(int64_t n, int64_t, const Work& work) {
    work(0, n);
  }

  static void add_outer_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum) {
    add_products(gradient, rows, add, sum);
  }

  static void add_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum) {
    multiply(transposed(gradient), view(rows), -1, add, view(sum));
  }

  static void add_columns(const Matrix& gradient, bool add, const Matrix& sum) {
    const Matrix ones = new_matrix(gradient.owner, 1, gradient.rows, dtype_of(gradient.owner));
    torch::stable::fill_(ones.owner, 1.0);
    multiply(view(ones), view(gradient), -1, add, view(sum));
  }

  static void centre(const Matrix& rows, const Matrix& mean, const Matrix& to) {
    const int64_t n = rows.rows * rows.columns;
    const Launch launch(to.owner);
    with_floating(dtype_of(to.owner), [&](auto tag) {
      using A = Accumulation<decltype(tag)>;
      launch(centre_kernel<A>, launch.grid(n, kThreads), kThreads, 0, static_cast<const A*>(rows.data()),
             static_cast<const A*>(mean.data()), static_cast<A*>(to.data()), n, rows.columns);
    });
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) { register_whitened<CudaWhitened>(m); }

}  // namespace fused_losses::cuda
