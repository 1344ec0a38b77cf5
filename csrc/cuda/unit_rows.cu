// Unit rows on CUDA: a warp for each row, a block where rows are long.
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/unit_rows.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/unit_row.h"

#include "cuda/rows.cuh"

constexpr int64_t kWarpRow = 4096;  // elements of a row, above which a block takes it

// kSize values of the accumulation dtype, as many as a pack of T has: one pack or two.
template <class A, int kSize>
__device__ __forceinline__ Values<A, kSize> load_sums(const A* from) {
  constexpr int kPart = kSize < Pack<A>::kSize ? 1 : Pack<A>::kSize;
  Values<A, kSize> all;
#pragma unroll
  for (int p = 0; p < kSize; p += kPart) {
    const Values<A, kPart> part = load_values<A, kPart>(from + p);
#pragma unroll
    for (int i = 0; i < kPart; ++i) all.v[p + i] = part.v[i];
  }
  return all;
}

template <class A, int kSize>
__device__ __forceinline__ void store_sums(A* to, const Values<A, kSize>& all) {
  constexpr int kPart = kSize < Pack<A>::kSize ? 1 : Pack<A>::kSize;
#pragma unroll
  for (int p = 0; p < kSize; p += kPart) {
    Values<A, kPart> part;
#pragma unroll
    for (int i = 0; i < kPart; ++i) part.v[i] = all.v[p + i];
    store_values<A, kPart>(to + p, part);
  }
}

template <class T, int kSize, class Threads>
__global__ void __launch_bounds__(kThreads) unit_rows_kernel(const UnitRows task) {
  using A = Accumulation<T>;
  for (int64_t r = Threads::first(); r < task.count; r += Threads::teams()) {
    const T* x = static_cast<const T*>(task.input) + r * task.length;
    A* u = static_cast<A*>(task.rows) + r * task.length;
    const auto load = [&](int64_t at) { return load_values<T, kSize>(x + at); };
    A squares = 0;
    Threads::template each<kSize>(task.length, load, [&](int64_t, const auto& values) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) squares += widen<A>(values.v[i]) * widen<A>(values.v[i]);
    });
    const A norm = sqrt_(Threads::sum(squares));
    if (Threads::rank() == 0) static_cast<A*>(task.norms)[r] = norm;
    const UnitRow<A> row(norm);
    Threads::template each<kSize>(task.length, load, [&](int64_t at, const auto& values) {
      Values<A, kSize> out;
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.v[i] = row.value(widen<A>(values.v[i]));
      store_sums<A, kSize>(u + at, out);
    });
  }
}

template <class T, int kSize, class Threads>
__global__ void __launch_bounds__(kThreads) unit_rows_gradient_kernel(const UnitRows task) {
  using A = Accumulation<T>;
  struct Both {
    Values<A, kSize> g, u;
  };
  for (int64_t r = Threads::first(); r < task.count; r += Threads::teams()) {
    const A *g = static_cast<const A*>(task.incoming) + r * task.length,
            *u = static_cast<const A*>(task.rows) + r * task.length;
    T* to = static_cast<T*>(task.gradient) + r * task.length;
    const auto load = [&](int64_t at) { return Both{load_sums<A, kSize>(g + at), load_sums<A, kSize>(u + at)}; };
    A along = 0;
    Threads::template each<kSize>(task.length, load, [&](int64_t, const Both& both) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) along += both.g.v[i] * both.u.v[i];
    });
    along = Threads::sum(along);
    const UnitRow<A> row(static_cast<const A*>(task.norms)[r]);
    Threads::template each<kSize>(task.length, load, [&](int64_t at, const Both& both) {
      Values<T, kSize> out;
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.v[i] = narrow<T>(row.gradient(both.g.v[i], both.u.v[i], along));
      store_values<T, kSize>(to + at, out);
    });
  }
}

// run(T{}, kSize, Team): of the task's dtype, as packs where all its rows lie on them, by a warp or a block.
template <class Run>
void with_threads(const UnitRows& task, const Run& run) {
  const bool packed = aligned(task.input, task.rows, task.incoming, task.gradient);
  with_floating(task.dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kPack = Pack<T>::kSize;
    const auto by_size = [&](auto size) {
      if (task.length > kWarpRow) return run(tag, size, Team<0>());
      run(tag, size, Team<32>());
    };
    if (packed && task.length % kPack == 0) return by_size(std::integral_constant<int, kPack>());
    by_size(std::integral_constant<int, 1>());
  });
}

template <class Threads>
int grid_of(const UnitRows& task, const Launch& launch) {
  return launch.grid(task.count, std::is_same_v<Threads, Team<0>> ? 1 : kThreads / 32);
}

struct CudaUnitRows : CudaDevice {
  static void unit_rows(const UnitRows& task, const Tensor& like) {
    const Launch launch(like);
    with_threads(task, [&](auto tag, auto size, auto threads) {
      using Threads = decltype(threads);
      launch(unit_rows_kernel<decltype(tag), size(), Threads>, grid_of<Threads>(task, launch), kThreads, 0, task);
    });
  }

  static void unit_rows_gradient(const UnitRows& task, const Tensor& like) {
    const Launch launch(like);
    with_threads(task, [&](auto tag, auto size, auto threads) {
      using Threads = decltype(threads);
      launch(unit_rows_gradient_kernel<decltype(tag), size(), Threads>, grid_of<Threads>(task, launch), kThreads, 0,
             task);
    });
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) { register_unit_rows<CudaUnitRows>(m); }

}  // namespace fused_losses::cuda
