// A CUDA device on the CPU: every thread of a block is a fiber, a few blocks are resident at a time, and barriers and
// shuffles are the points where one thread stops and another goes on. What hangs or is undefined on a GPU (divergent
// barriers, exited lanes, deadlock, too much shared memory) is an error that names kernel, block, thread and line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

namespace fused_losses::emulator {

using Site = std::source_location;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// In what order resident blocks, their warps and the lanes of a warp get their turns, and blocks become resident.
enum class Order { kForward, kBackward, kRandom };

struct Settings {
  int multiprocessors = 4;
  int resident_blocks = 1;
  Order order = Order::kForward;
  uint64_t seed = 0;
};
inline Settings settings;

enum class State : uint8_t { kReady, kAtShuffle, kAtBarrier, kDone };

struct Block;

struct Thread {
  Index index;
  Block* block;
  State state;
  void* stack_pointer;
  Site site;              // where it waits
  uint64_t given, taken;  // by a shuffle
  unsigned source;        // the lane it takes from
  // What orders its accesses with those of other threads (tracker.h): fences so far, the barriers before the last,
  // warp barriers so far.
  unsigned fences, fence_epoch, warp_epoch;
};

// A variable in shared memory, known by the address of a static of its declaration.
struct SharedVariable {
  const void* key;
  size_t offset, bytes;
};

// Lanes as bits.
struct Warp {
  unsigned lanes, done, waiting, mask;  // mask: what the waiting lanes wait for, at `site`
  Site site;
};

struct Block {
  Index index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  std::vector<SharedVariable> variables;
  size_t shared_used;
  unsigned epoch;        // barriers completed
  int at_barrier, done;  // threads
  Site site;             // where those at the barrier wait
};

struct Launch {
  const void* kernel;
  void (*call)(void* arguments);
  void* arguments;
  size_t argument_bytes;
  Index grid, threads;
  int64_t dynamic_shared;
};

inline Thread* running = nullptr;  // null outside kernels
inline Launch current{};

// What a kernel reads of the machine: no access to the call's memory.
#ifdef FL_TRACKED
#define FL_MACHINE __attribute__((no_sanitize("thread"), noinline)) inline
#else
#define FL_MACHINE inline
#endif
FL_MACHINE Index thread_index() { return running->index; }
FL_MACHINE Index block_index() { return running->block->index; }
FL_MACHINE Index current_threads() { return current.threads; }
FL_MACHINE Index current_grid() { return current.grid; }

// Runs all blocks; throws std::runtime_error at the first thing that a GPU would not forgive.
void run(const Launch& launch);

// The most dynamic shared memory that launches of `kernel` may have.
void allow_shared(const void* kernel, int64_t bytes);
constexpr int64_t kSharedPerBlock = 48 * 1024, kSharedPerBlockOptin = 227 * 1024;

// Device functions; called by the running thread.
void barrier(const Site& site);
void warp_barrier(const Site& site);
uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, const Site& site);
unsigned atomic_increment(unsigned* address, unsigned limit);
void fence();
void* shared_variable(const void* key, size_t bytes);
void* dynamic_shared();
bool on_a_stack(const void* address);
void copy_pack(void* to, const void* from);  // 16 bytes
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail(const char* what, const Site& site);

// Fresh memory of a call: of unwritten bytes, which read as NaN in every floating type.
void make_unwritten(void* data, size_t bytes);

// A handle that changes after an error: the counters of a stream that was left halfway are not used again.
void* stream();

// The function at an address of this library, with file and line where it has debug information, innermost first:
// by addr2line, which comes with the compiler.
std::string name_of(const void* address);

}  // namespace fused_losses::emulator
