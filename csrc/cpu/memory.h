// How the CPU drivers write large outputs: huge pages under them, and gradients past the caches.
#pragma once

#include <cstdint>

#include "host/tensor.h"

namespace fused_losses {

// Asks for huge pages under a large fresh output, before it is touched: faulting its pages in costs more than the
// kernel.
void expect_large_writes(void* data, int64_t bytes);

// A new output like `t` for a kernel that writes all of it.
inline Tensor new_output(const Tensor& t) {
  Tensor out = new_like(t);
  expect_large_writes(out.mutable_data_ptr(), t.numel() * element_size(dtype_of(t)));
  return out;
}

// Whether a call that reads and writes `touched` bytes, each once, streams its gradients to memory: what exceeds the
// last cache is gone from it before anyone reads it, and an ordinary store reads every line before it writes it.
bool streams(int64_t touched);
// The bytes above which calls do; negative for automatic, the size of the last cache. Returns what was set before.
int64_t set_stream_above(int64_t bytes);

}  // namespace fused_losses
