// Deterministic sums: thread -> warp -> block by shuffles, blocks by the last block to finish, always in the same
// order.
#pragma once

#include "cuda/launch.cuh"

namespace fused_losses::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

template <class A>
__device__ __forceinline__ A warp_sum(A x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

template <class A>
__device__ __forceinline__ A warp_max(A x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(kFullWarp, x, offset);
    x = (other > x || other != other) ? other : x;  // NaN wins
  }
  return x;
}

// Sum over the block's threads, known to all of them. shared: [32] values, free again after the call.
template <class A>
__device__ __forceinline__ A block_sum(A x, A* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_sum(lane < warps ? shared[lane] : A(0));
  __syncthreads();
  return x;
}

// As block_sum, the largest; NaN wins.
template <class A>
__device__ __forceinline__ A block_max(A x, A* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  x = warp_max(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = warp_max(lane < warps ? shared[lane] : shared[0]);
  __syncthreads();
  return x;
}

// The grid's sum of `x` over all threads. True in thread 0 of the last block to finish, which then holds it in *total;
// the partial sums are added in block order, so the bits do not depend on which block that is.
// partial: [gridDim.x] workspace; finished: zero before the launch and after it.
__device__ __forceinline__ bool grid_sum(double x, double* partial, unsigned* finished, double* total) {
  FL_SHARED(double, shared, [32]);
  FL_SHARED(bool, last, );
  x = block_sum(x, shared);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = x;
    __threadfence();
    last = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return false;
  __threadfence();
  double sum = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += __ldcg(partial + b);
  *total = block_sum(sum, shared);
  return threadIdx.x == 0;
}

// Workspace of grid_sum for one launch.
struct GridSum {
  GridSum(const Launch& launch, const Tensor& like, int grid)
      : partial(new_tensor(like, {grid}, Dtype::kFloat64)), finished(block_counter(launch, like, &keep)) {}

  double* data() { return static_cast<double*>(partial.mutable_data_ptr()); }

  Tensor keep, partial;
  unsigned* finished;
};

}  // namespace fused_losses::cuda
