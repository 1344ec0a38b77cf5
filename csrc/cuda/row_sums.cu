// The row-sums family on CUDA: a warp (or, for long rows, a block) sums a row and writes its gradients from the cache.
//
// - Operands are read once from device memory: the second sweep of a row finds it in L1 or L2.
// - A linear loss that is reduced needs one sweep only, over the flat order.
// - 16-byte packs where every operand has the input's dtype, is aligned, and the row is a whole number of packs.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "cuda/row_sums.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/vae.h"
#include "formulas/custom.h"

#include "cuda/row_sums.cuh"

template <class F, class T, bool kWrite>
void launch_kernel(const Launch& launch, const F& f, RowSumsOperands o, const Tensor& like, bool flat) {
  const bool wide = o.length > kWarpRow;
  const int64_t per_block = wide ? 1 : kThreads / 32;
  const int grid =
      flat ? launch.grid(o.rows * o.length, int64_t{kThreads} * Pack<T>::kSize) : launch.grid(o.rows, per_block);
  GridSum workspace(launch, like, grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  if (flat) {
    launch(flat_kernel<F, T, kWrite>, grid, kThreads, 0, f, o);
  } else if (wide) {
    launch(rows_kernel<F, T, kThreads, kWrite>, grid, kThreads, 0, f, o);
  } else {
    launch(rows_kernel<F, T, 32, kWrite>, grid, kThreads, 0, f, o);
  }
}

template <template <class> class Functor>
void run_functor(const Options& options, const RowSumsProblem& problem, const Tensor& like) {
  const Launch launch(like);
  RowSumsOperands o{problem};
  unsigned given = 0;
  bool write = false, same = true;
  for (int k = 0; k < RowSumsProblem::kOperands; ++k) {
    if (!o.operands[k]) continue;
    given |= 1u << k;
    same = same && o.operands[k].dtype == o.operands[0].dtype;
    write = write || o.gradients[k] != nullptr;
  }
  const bool flat = Functor<float>::kLinear && !o.results.losses && !o.results.per_item;
  with_floating(o.operands[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t whole = flat ? o.rows * o.length : o.length;
    o.packed = same && whole % Pack<T>::kSize == 0 && aligned(o.operands[0].data, o.operands[1].data) &&
               aligned(o.operands[2].data, o.operands[3].data) &&
               aligned(o.gradients[0], o.gradients[1], o.gradients[2], o.gradients[3]);
    Functor<Accumulation<T>>::with(options, given, [&](auto f) {
      using F = decltype(f);
      if (write) {
        launch_kernel<F, T, true>(launch, f, o, like, flat);
      } else {
        launch_kernel<F, T, false>(launch, f, o, like, flat);
      }
      return 0;
    });
  });
}

// to[i] = a[i] + factor b[i]
template <class A>
__global__ void __launch_bounds__(kThreads) add_scaled_kernel(const A* a, double factor, const A* b, A* to, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = a[i] + static_cast<A>(factor) * b[i];
  }
}

struct CudaRowSums : CudaDevice {
  static void run(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor& like) {
    switch (functor) {
#define FL_RUN(name, Functor, ...) \
  case RowSums::name:              \
    return run_functor<Functor>(options, problem, like);
      FL_ROW_SUMS(FL_RUN)
#undef FL_RUN
    }
  }

  static void add_scaled(const Tensor& a, double factor, const Tensor& b, const Tensor& to) {
    const Launch launch(a);
    with_floating(dtype_of(a), [&](auto tag) {
      using A = Accumulation<decltype(tag)>;
      launch(add_scaled_kernel<A>, launch.grid(a.numel(), kThreads), kThreads, 0,
             static_cast<const A*>(a.const_data_ptr()), factor, static_cast<const A*>(b.const_data_ptr()),
             static_cast<A*>(to.mutable_data_ptr()), a.numel());
    });
  }
};

}  // namespace

void run_row_sums(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor& like) {
  CudaRowSums::run(functor, options, problem, like);
}

FL_CUDA_LIBRARY(m) { register_row_sums<CudaRowSums>(m); }

}  // namespace fused_losses::cuda
