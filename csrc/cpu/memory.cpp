#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

namespace fused_losses {
namespace {

constexpr int64_t kHugePage = 2 << 20, kLarge = 32 << 20;

std::atomic<int64_t> non_temporal_above{-1};

int64_t last_level_cache() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  static const int64_t found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  static const int64_t found = 0;
#endif
  return found > 0 ? found : kLarge;
}

}  // namespace

void expect_large_writes(void* data, int64_t bytes) {
  if (bytes < kLarge) return;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
#ifdef MADV_HUGEPAGE
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice only: may fail
#endif
}

bool exceeds_caches(int64_t touched) {
  const int64_t above = non_temporal_above.load(std::memory_order_relaxed);
  return touched > (above < 0 ? last_level_cache() : above);
}

int64_t set_non_temporal_above(int64_t bytes) { return non_temporal_above.exchange(bytes); }

}  // namespace fused_losses
