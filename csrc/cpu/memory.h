// How the CPU drivers write large outputs: huge pages under them, and non-temporal stores.
#pragma once

#include <cstdint>

namespace fused_losses {

// Asks for huge pages under a large fresh output, before it is touched: faulting its pages in costs more than the
// kernel.
void expect_large_writes(void* data, int64_t bytes);

// Whether a call that reads and writes `touched` bytes, each once, writes its gradients by non-temporal stores: what
// exceeds the last-level cache is gone from it before anyone reads it, and an ordinary store reads every line first.
bool exceeds_caches(int64_t touched);
// The bytes above which calls do; negative for automatic, the size of that cache. Returns what was set before.
int64_t set_non_temporal_above(int64_t bytes);

}  // namespace fused_losses
