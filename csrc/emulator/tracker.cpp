// The checks of a tracking build. The compiler calls the functions named __tsan_* before every access
// (-fsanitize=thread without its library), and the shadow of each byte remembers who last wrote and who last read it.
#ifdef FL_TRACKED

#include "emulator/tracker.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/machine.h"

#define FL_UNTRACKED __attribute__((no_sanitize("thread")))

namespace fused_losses::emulator {
namespace {

constexpr uint32_t kMany = 0xffffffffu;

// The access of a thread: what it did before it in program order is told by its fences and its block's barriers.
struct Access {
  uint32_t launch = 0, block = 0, thread = 0, epoch = 0, warp_epoch = 0, fences = 0;
  bool several = false;  // as did other lanes of its warp
};

struct Byte {
  Access write, read;  // launch 0: by nobody
  bool written = false;
};

struct Memory {
  uintptr_t begin, end;
  const char* what;
  bool read_only;
  std::vector<Byte> bytes;
};

// An atomic that other blocks may see, by its block: what its thread did before its last fence, and what the block did
// before the barrier before that fence.
struct Publication {
  uint32_t number, thread, fences, fence_epoch;
};

// The last atomic of a block: it has seen the publications up to `number`.
struct Acquisition {
  uint32_t number, thread, fences, epoch;
};

std::map<uintptr_t, Memory> memories;  // by begin; they do not overlap
Memory* last_found = nullptr;
std::unordered_map<uint32_t, Publication> published;
std::unordered_map<uint32_t, Acquisition> acquired;
uint32_t launches = 0, publications = 0;
uintptr_t parameters = 0;

void forget(uintptr_t begin, uintptr_t end) {
  memories.erase(memories.lower_bound(begin), memories.lower_bound(end));
  last_found = nullptr;
}

void add(const void* data, size_t size, const char* what, bool written, bool read_only) {
  uintptr_t begin = reinterpret_cast<uintptr_t>(data), end = begin + size;
  if (size == 0) return;
  for (auto it = memories.begin(); it != memories.end();) {  // two views of one tensor are one memory
    if (it->second.begin < end && begin < it->second.end) {
      begin = std::min(begin, it->second.begin);
      end = std::max(end, it->second.end);
      it = memories.erase(it);
    } else {
      ++it;
    }
  }
  Memory memory{begin, end, what, read_only, std::vector<Byte>(end - begin)};
  if (written) {
    for (Byte& byte : memory.bytes) byte.written = true;
  }
  memories[begin] = std::move(memory);
  last_found = nullptr;
}

Memory* find(uintptr_t at) {
  if (last_found && at >= last_found->begin && at < last_found->end) return last_found;
  auto next = memories.upper_bound(at);
  if (next == memories.begin()) return nullptr;
  Memory& memory = std::prev(next)->second;
  return at < memory.end ? last_found = &memory : nullptr;
}

// Constants of this library.
bool in_this_library(const void* address) {
  Dl_info here, there;
  return dladdr(reinterpret_cast<const void*>(&add), &here) && dladdr(address, &there) &&
         here.dli_fbase == there.dli_fbase;
}

// Whether the running thread is known to come after an access of another one.
bool ordered(const Access& before) {
  const Thread& now = *running;
  const uint32_t block = now.block->index.x;
  if (before.launch != launches) return true;
  if (before.block == block) {
    if (before.epoch < now.block->epoch || (before.thread == now.index.x && !before.several)) return true;
    return before.thread / 32 == now.index.x / 32 && before.warp_epoch < now.warp_epoch;
  }
  const auto theirs = published.find(before.block);
  const auto ours = acquired.find(block);
  if (theirs == published.end() || ours == acquired.end()) return false;
  const Publication& p = theirs->second;
  const Acquisition& a = ours->second;
  const bool released = p.thread == before.thread ? before.fences < p.fences : before.epoch < p.fence_epoch;
  const bool seen = now.index.x == a.thread ? now.fences > a.fences : now.fence_epoch > a.epoch;
  return p.number <= a.number && released && seen;
}

std::string who(const Access& access) {
  if (access.block == kMany) return "threads of several blocks";
  const std::string block = " of block " + std::to_string(access.block);
  if (access.thread == kMany) return "several threads" + block;
  return (access.several ? "the warp of thread " : "thread ") + std::to_string(access.thread) + block;
}

// The readers of a byte since what came before all of them, `self` the last.
Access joined(const Access& before, Access self) {
  if (before.launch != self.launch) return self;
  if (before.block != self.block) {
    self.block = self.thread = kMany;
  } else if (before.epoch == self.epoch) {
    const bool warp = before.thread / 32 == self.thread / 32;
    self.several = warp && before.warp_epoch == self.warp_epoch && (before.several || before.thread != self.thread);
    if (!warp) self.thread = kMany;
  }
  return self;
}

// What is wrong with an access to one byte, or null.
const char* fault(Byte& byte, bool write, Access* other) {
  const Thread& now = *running;
  const Access self{launches, now.block->index.x, now.index.x, now.block->epoch, now.warp_epoch, now.fences, false};
  *other = byte.write;
  if (byte.write.launch && !ordered(byte.write)) return write ? "written by both" : "written before";
  if (!write) {
    if (!byte.written) return "read before anybody has written it";
    byte.read = joined(byte.read, self);
    return nullptr;
  }
  *other = byte.read;
  if (byte.read.launch && !ordered(byte.read)) return "read before";
  byte.write = self;
  byte.written = true;
  return nullptr;
}

void check(uintptr_t at, size_t size, bool write, const void* code) {
  const void* address = reinterpret_cast<const void*>(at);
  const auto report = [&](const std::string& what) {
    fail(what + " in a " + (write ? "write" : "read") + " of " + std::to_string(size) + " bytes by " +
         name_of(static_cast<const char*>(code) - 1));
  };
  Memory* memory = find(at);
  if (!memory) {
    if (on_a_stack(address) || (!write && in_this_library(address))) return;
    report("memory that the call does not own");
  }
  if (at + size > memory->end) report(std::string("beyond the end of ") + memory->what);
  if (write && memory->read_only) report("memory that may only be read");
  Access other;
  for (size_t i = 0; i < size; ++i) {
    const char* wrong = fault(memory->bytes[at - memory->begin + i], write, &other);
    if (!wrong) continue;
    const bool unwritten = !memory->bytes[at - memory->begin + i].written;
    report(std::string(unwritten ? "" : "race: ") + memory->what + " " + wrong +
           (unwritten ? "" : " by " + who(other) + " with no barrier or fence between,"));
  }
}

}  // namespace

void track_call() {
  memories.clear();
  last_found = nullptr;
}

void track_memory(const void* data, size_t bytes, bool written) {
  add(data, bytes, written ? "a given tensor" : "a tensor made by the op", written, false);
}

void track_library(const void* data, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  Memory* memory = find(begin);
  if (!memory) return;  // the library's own
  const size_t first = begin - memory->begin, last = std::min(first + bytes, memory->bytes.size());
  for (size_t i = first; i < last; ++i) memory->bytes[i] = {{}, {}, true};
}

void track_launch(const void* data, size_t bytes) {
  ++launches;
  publications = 0;
  published.clear();
  acquired.clear();
  if (parameters) forget(parameters, parameters + 1);
  parameters = reinterpret_cast<uintptr_t>(data);
  add(data, bytes, "the kernel's parameters", true, true);
}

void track_block(const Block& block, void* dynamic_shared, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block.shared.data());
  forget(begin, begin + block.shared.size());
  add(dynamic_shared, bytes, "dynamic shared memory", false, false);
}

void track_shared(void* data, size_t bytes) { add(data, bytes, "shared memory", false, false); }

void track_fence() {
  ++running->fences;
  running->fence_epoch = running->block->epoch;
}

void track_atomic(const void*) {
  const Thread& now = *running;
  published[now.block->index.x] = {++publications, now.index.x, now.fences, now.fence_epoch};
  acquired[now.block->index.x] = {publications, now.index.x, now.fences, now.block->epoch};
}

void track_access(const void* data, size_t bytes, bool write, const void* code) {
  check(reinterpret_cast<uintptr_t>(data), bytes, write, code);
}

FL_UNTRACKED static void hook(const void* data, size_t bytes, size_t alignment, bool write, const void* code) {
  if (!tracking) return;
  tracking = false;
  if (reinterpret_cast<uintptr_t>(data) % alignment != 0) {
    fail("a misaligned " + std::string(write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes by " +
         name_of(static_cast<const char*>(code) - 1));
  }
  track_access(data, bytes, write, code);
  tracking = true;
}

}  // namespace fused_losses::emulator

#define FL_HOOK(name, size, alignment, write)                                                \
  extern "C" FL_UNTRACKED void name(void* data) {                                            \
    fused_losses::emulator::hook(data, size, alignment, write, __builtin_return_address(0)); \
  }
#define FL_HOOKS(size)                                   \
  FL_HOOK(__tsan_read##size, size, size, false)          \
  FL_HOOK(__tsan_write##size, size, size, true)          \
  FL_HOOK(__tsan_unaligned_read##size, size, 1, false)   \
  FL_HOOK(__tsan_unaligned_write##size, size, 1, true)   \
  FL_HOOK(__tsan_volatile_read##size, size, size, false) \
  FL_HOOK(__tsan_volatile_write##size, size, size, true)
FL_HOOKS(1)
FL_HOOKS(2)
FL_HOOKS(4)
FL_HOOKS(8)
FL_HOOKS(16)

extern "C" {
FL_UNTRACKED void __tsan_read_range(void* data, size_t bytes) {
  fused_losses::emulator::hook(data, bytes, 1, false, __builtin_return_address(0));
}
FL_UNTRACKED void __tsan_write_range(void* data, size_t bytes) {
  fused_losses::emulator::hook(data, bytes, 1, true, __builtin_return_address(0));
}
FL_UNTRACKED void __tsan_init() {}
FL_UNTRACKED void __tsan_func_entry(void*) {}
FL_UNTRACKED void __tsan_func_exit() {}
FL_UNTRACKED void __tsan_vptr_update(void**, void*) {}
FL_UNTRACKED void __tsan_vptr_read(void**) {}
// Atomics of the host code: guards of function statics, reference counts.
FL_UNTRACKED char __tsan_atomic8_load(const volatile char* data, int) {
  return __atomic_load_n(data, __ATOMIC_SEQ_CST);
}
FL_UNTRACKED int __tsan_atomic32_load(const volatile int* data, int) { return __atomic_load_n(data, __ATOMIC_SEQ_CST); }
FL_UNTRACKED long __tsan_atomic64_load(const volatile long* data, int) {
  return __atomic_load_n(data, __ATOMIC_SEQ_CST);
}
FL_UNTRACKED int __tsan_atomic32_fetch_add(volatile int* data, int by, int) {
  return __atomic_fetch_add(data, by, __ATOMIC_SEQ_CST);
}
}

#endif
