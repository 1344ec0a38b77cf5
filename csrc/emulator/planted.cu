// Kernels with one planted defect each, marked where the emulator has to find it: they test the emulator itself.

#include <stdexcept>
#include <string>

#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace fused_losses::cuda {
namespace {

constexpr int kBlocks = 4;

// data: [n]; partial: [blocks], unwritten; finished: zero.
struct Given {
  float* data;
  int64_t n;
  double* partial;
  unsigned* finished;
};

__device__ __forceinline__ int64_t thread_index() { return blockIdx.x * int64_t{blockDim.x} + threadIdx.x; }

// Needs a value without writing it: none of them is 2.
__device__ __forceinline__ void keep(const Given& g, float x) {
  if (x == 2) g.data[0] = x;
}

__global__ void __launch_bounds__(kThreads) no_defect(const Given g) {
  const int64_t i = thread_index();
  double total;
  if (grid_sum(i < g.n ? g.data[i] : 0.0, g.partial, g.finished, &total)) g.data[0] = static_cast<float>(total);
}

__global__ void __launch_bounds__(kThreads) divergent_barrier(const Given) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    __syncthreads();  // defect: divergent_barrier
  }
}

__global__ void __launch_bounds__(kThreads) exited_thread(const Given) {
  if (threadIdx.x == 70) return;
  __syncthreads();  // defect: exited_thread
}

__global__ void __launch_bounds__(kThreads) exited_lane(const Given g) {
  if (threadIdx.x == 70) return;
  keep(g, __shfl_xor_sync(kFullWarp, 1.0f, 1));  // defect: exited_lane
}

__global__ void __launch_bounds__(kThreads) divergent_shuffle(const Given g) {
  float x = 1;
  if (threadIdx.x % 2 == 0) {
    x = __shfl_xor_sync(kFullWarp, x, 2);
  } else {
    x = __shfl_xor_sync(kFullWarp, x, 2);  // defect: divergent_shuffle
  }
  keep(g, x);
}

__global__ void __launch_bounds__(kThreads) deadlock(const Given g) {
  if (threadIdx.x / 32 == 2 && threadIdx.x != 70) keep(g, warp_sum(1.0f));
  __syncthreads();  // defect: deadlock
}

__global__ void __launch_bounds__(kThreads) failed_assertion(const Given g) {
  CUDA_KERNEL_ASSERT(thread_index() < g.n && "an index below n");  // defect: failed_assertion
}

__global__ void __launch_bounds__(kThreads) too_much_shared(const Given g) {
  FL_SHARED(double, sums, [48 * 128 + 1]);
  sums[threadIdx.x] = 0;
  g.data[0] = static_cast<float>(sums[0]);
}

__global__ void __launch_bounds__(kThreads) misaligned_pack(const Given g) {
  if (threadIdx.x > 0) return;
  Pack<float> x = load_pack(g.data + 4 * blockIdx.x);
  store_pack(g.data + 4 * blockIdx.x + 1, x);  // defect: misaligned_pack
}

// The sum of a block in its first thread, without the barrier between writing and reading the warps' sums.
__global__ void __launch_bounds__(kThreads) no_barrier(const Given g) {
  FL_SHARED(float, sums, [kThreads / 32]);
  const float x = warp_sum(1.0f);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  float total = 0;
  if (threadIdx.x == kThreads - 1) {
    for (int w = 0; w < kThreads / 32; ++w) total += sums[w];  // defect: no_barrier
    g.data[blockIdx.x] = total;
  }
}

// A value that goes to the next lane through shared memory: right with the warp barrier between.
template <bool kBarrier>
__device__ __forceinline__ void hand_to_the_next_lane(const Given& g) {
  FL_SHARED(float, handed, [kThreads]);
  handed[threadIdx.x] = 1;
  if (kBarrier) __syncwarp();
  if (threadIdx.x % 32 > 0) keep(g, handed[threadIdx.x - 1]);  // defect: no_warp_barrier
}
__global__ void __launch_bounds__(kThreads) warp_barrier(const Given g) { hand_to_the_next_lane<true>(g); }
__global__ void __launch_bounds__(kThreads) no_warp_barrier(const Given g) { hand_to_the_next_lane<false>(g); }

// grid_sum, without the fence before (kFirst) or after (else) the counter.
template <bool kFirst>
__device__ __forceinline__ void sum_without_fence(const Given& g) {
  FL_SHARED(bool, last, );
  if (threadIdx.x == 0) {
    g.partial[blockIdx.x] = 1;
    if (!kFirst) __threadfence();
    last = atomicInc(g.finished, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 1) return;
  if (kFirst) __threadfence();
  double sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += g.partial[b];  // defect: no_fence
  g.data[0] = static_cast<float>(sum);
}
__global__ void __launch_bounds__(kThreads) no_first_fence(const Given g) { sum_without_fence<true>(g); }
__global__ void __launch_bounds__(kThreads) no_second_fence(const Given g) { sum_without_fence<false>(g); }

__global__ void __launch_bounds__(kThreads) off_by_one(const Given g) {
  for (int64_t i = thread_index(); i <= g.n; i += int64_t{gridDim.x} * blockDim.x) {
    g.data[i] = 0;  // defect: off_by_one
  }
}

__global__ void __launch_bounds__(kThreads) shared_off_by_one(const Given g) {
  FL_SHARED(float, copy, [kThreads]);
  copy[threadIdx.x] = 1;
  __syncthreads();
  keep(g, copy[threadIdx.x + 1]);  // defect: shared_off_by_one
}

__global__ void __launch_bounds__(kThreads) unwritten_workspace(const Given g) {
  if (threadIdx.x == 0 && blockIdx.x > 0) g.partial[blockIdx.x] = 1;
  if (threadIdx.x == 0) g.data[blockIdx.x] = static_cast<float>(g.partial[blockIdx.x]);  // defect: unwritten_workspace
}

__global__ void __launch_bounds__(kThreads) unwritten_shared(const Given g) {
  FL_SHARED(float, sums, [32]);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = 1;
  __syncthreads();
  if (threadIdx.x < 32) g.data[threadIdx.x] = sums[threadIdx.x];  // defect: unwritten_shared
}

__global__ void __launch_bounds__(kThreads) same_element(const Given g) {
  g.data[thread_index() / 2 % g.n] = 1;  // defect: same_element
}

}  // namespace

void run_planted(std::string name, Tensor data) {
  const Launch launch(data);
  GridSum workspace(launch, data, kBlocks);
  const Given given{static_cast<float*>(data.mutable_data_ptr()), data.numel(), workspace.data(), workspace.finished};
#define FL_PLANTED(kernel) \
  if (name == #kernel) return launch(kernel, kBlocks, kThreads, 0, given);
  FL_PLANTED(no_defect)
  FL_PLANTED(divergent_barrier)
  FL_PLANTED(exited_thread)
  FL_PLANTED(exited_lane)
  FL_PLANTED(divergent_shuffle)
  FL_PLANTED(deadlock)
  FL_PLANTED(failed_assertion)
  FL_PLANTED(too_much_shared)
  FL_PLANTED(misaligned_pack)
  FL_PLANTED(no_barrier)
  FL_PLANTED(warp_barrier)
  FL_PLANTED(no_warp_barrier)
  FL_PLANTED(no_first_fence)
  FL_PLANTED(no_second_fence)
  FL_PLANTED(off_by_one)
  FL_PLANTED(shared_off_by_one)
  FL_PLANTED(unwritten_workspace)
  FL_PLANTED(unwritten_shared)
  FL_PLANTED(same_element)
#undef FL_PLANTED
  throw std::runtime_error("no kernel is called " + name);
}

FL_CUDA_LIBRARY(m) { m.impl("planted", TORCH_BOX(&run_planted)); }

}  // namespace fused_losses::cuda
