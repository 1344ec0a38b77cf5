// What every launcher needs from torch and the device: current stream, device guard, grid size, launch, workspace.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <type_traits>
#include <utility>

#include "cuda/runtime.cuh"
#include "math/dtype.h"
#include "math/platform.h"
#include "host/tensor.h"

namespace fused_losses::cuda {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 2048 / kThreads;  // full occupancy at <= 32 registers; more registers: the rest waits

// Makes the device of `t` current for a launch and names its stream.
class Launch {
 public:
  explicit Launch(const Tensor& t)
      : guard_(t.get_device_index()), device_(t.get_device_index()), stream_(current_stream(device_)) {}

  // Launches `kernel` there. bytes: of dynamic shared memory.
  template <class Kernel, class... Arguments>
  void operator()(Kernel kernel, int grid, int threads, int64_t bytes, const Arguments&... arguments) const {
    launch_kernel(kernel, grid, threads, bytes, stream_, arguments...);
  }

  cudaStream_t stream() const { return stream_; }
  int device() const { return device_; }

  // Blocks of a persistent grid for `items` independent pieces of work, `per_block` of them at a time.
  int grid(int64_t items, int64_t per_block, int blocks_per_sm = kBlocksPerSm) const {
    const int64_t wanted = (items + per_block - 1) / per_block, most = int64_t{multiprocessors()} * blocks_per_sm;
    return static_cast<int>(wanted < 1 ? 1 : wanted < most ? wanted : most);
  }

  int multiprocessors() const { return device_attribute<cudaDevAttrMultiProcessorCount>(device_); }

 private:
  DeviceGuard guard_;
  int device_;
  cudaStream_t stream_;
};

// A counter of finished blocks that is zero before and after each kernel using it: atomicInc wraps it. One per device
// and stream, since kernels of one stream do not overlap, in the code's own memory: what torch allocates during a
// warm-up belongs to the graph that comes of it. Inside a capture, or where all are taken, a fresh one, zeroed before
// the kernel. The stream is known by its id: a handle may be that of every thread's own stream, or be given to another.
[[maybe_unused]] static unsigned* block_counter(const Launch& launch, const Tensor& like, Tensor* keep) {
  const auto fresh = [&] {
    *keep = new_tensor(like, {1}, Dtype::kInt32);
    auto* counter = static_cast<unsigned*>(keep->mutable_data_ptr());
    STD_CUDA_CHECK(cudaMemsetAsync(counter, 0, sizeof(unsigned), launch.stream()));
    return counter;
  };
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  STD_CUDA_CHECK(cudaStreamIsCapturing(launch.stream(), &capturing));
  if (capturing != cudaStreamCaptureStatusNone) return fresh();
  unsigned long long stream_id = 0;
  STD_CUDA_CHECK(cudaStreamGetId(launch.stream(), &stream_id));
  static auto& counters = *new std::map<std::pair<int, unsigned long long>, unsigned*>;  // outlives CUDA
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::pair key(launch.device(), stream_id);
  const auto found = counters.find(key);
  if (found != counters.end()) return found->second;
  if (counters.size() == kCounters) return fresh();
  return counters.emplace(key, first_counter() + counters.size()).first->second;
}

// Calls run(T{}) with the storage type of a floating dtype.
template <class Run>
void with_floating(Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::kFloat64:
      return run(double{});
    case Dtype::kFloat16:
      return run(__half{});
    case Dtype::kBFloat16:
      return run(__nv_bfloat16{});
    default:
      return run(float{});
  }
}

template <class T>
using Accumulation = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace fused_losses::cuda
