// The linear family on CUDA: the softmax family's kernels on tiles of logits, all launches of a call from here.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "cuda/softmax.h"
#include "host/log_sums.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/softcap.h"

#include "cuda/product.cuh"

template <class A>
__global__ void __launch_bounds__(kThreads) cap_kernel(A* x, SoftCap<A> f, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    x[i] = f(x[i]);
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads) cap_gradient_kernel(const A* y, A* gradient, SoftCap<A> f, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    gradient[i] *= f.slope(y[i]);
  }
}

struct CudaLinear : CudaProducts {
  static void run(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
    run_softmax(id, options, problem, like);
  }

  // The kernels find an index out of range.
  static void count(const char*, const SoftmaxProblem& problem, const Tensor& like, double* denominator) {
    if (denominator) count_classes(problem, like, denominator);
  }

  static void cap(const Matrix& logits, double softcap) {
    const int64_t n = logits.rows * logits.columns;
    const Launch launch(logits.owner);
    with_floating(dtype_of(logits.owner), [&](auto tag) {
      using A = Accumulation<decltype(tag)>;
      launch(cap_kernel<A>, launch.grid(n, kThreads), kThreads, 0, static_cast<A*>(logits.data()), SoftCap<A>(softcap),
             n);
    });
  }

  static void cap_gradient(const Matrix& capped, double softcap, const Matrix& gradient) {
    const int64_t n = capped.rows * capped.columns;
    const Launch launch(capped.owner);
    with_floating(dtype_of(capped.owner), [&](auto tag) {
      using A = Accumulation<decltype(tag)>;
      launch(cap_gradient_kernel<A>, launch.grid(n, kThreads), kThreads, 0, static_cast<const A*>(capped.data()),
             static_cast<A*>(gradient.data()), SoftCap<A>(softcap), n);
    });
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<LinearCall<CudaLinear, LossId::op>, LossId::op>(m);
  FL_LINEAR_LOSSES(FL_REGISTER)
  FL_RETRIEVAL_LOSSES(FL_REGISTER)
  FL_DISTILLATION_LOSSES(FL_REGISTER)
#undef FL_REGISTER
  m.impl("linear_log_sums", TORCH_BOX(&linear_log_sums<CudaLinear>));
}

}  // namespace fused_losses::cuda
