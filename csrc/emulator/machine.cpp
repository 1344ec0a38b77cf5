// The scheduler of the emulated device: gives every thread its turns and finds what cannot go on.
#include "emulator/machine.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <stdexcept>

#include "emulator/fiber.h"
#include "emulator/tracker.h"

// void fused_losses_switch(void** save, void* to)
asm(R"(
.text
.globl fused_losses_switch
.hidden fused_losses_switch
.type fused_losses_switch, @function
fused_losses_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fused_losses_switch, .-fused_losses_switch
)");

namespace fused_losses::emulator {
namespace {

constexpr int kLanes = 32, kMostThreads = 1024;
constexpr size_t kGap = 64, kGaps = 32 * kGap;  // between variables in shared memory: belongs to nobody
constexpr int kUnwritten = 0xff;                // every floating type reads a NaN from bytes of this

std::mutex one_kernel_at_a_time;
std::map<const void*, int64_t> allowed_shared;
std::set<unsigned*> counters;  // of the running kernel
uintptr_t streams = 1;

Stacks stacks;
void* scheduler_stack_pointer;
std::string error;  // of the running kernel
std::mt19937_64 random_numbers;

std::string at(const Site& site) {
  const std::string file = site.file_name();
  const size_t folder = file.find("csrc/");
  return (folder == std::string::npos ? file : file.substr(folder)) + ":" + std::to_string(site.line());
}

bool same(const Site& a, const Site& b) {
  if (a.line() != b.line()) return false;
  return a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name());
}

std::string place(const Thread& thread) {
  return "block " + std::to_string(thread.block->index.x) + ", thread " + std::to_string(thread.index.x);
}

std::string kernel_name() {
  const std::string name = name_of(current.kernel);
  return name.substr(0, name.find(" at "));
}

// The turn of a warp: its lanes that can go on do so once, in this order.
struct Turn {
  const int *next, *end;  // lanes
  Thread* first;          // of the warp

  Thread* take() {
    while (next != end) {
      Thread* thread = first + *next++;
      if (thread->state == State::kReady) return thread;
    }
    return nullptr;
  }
} turn;

// The running thread stops here; the next lane goes on, or the scheduler. A switch to the scheduler in between would
// double the time of a shuffle.
void stop() {
  Thread* self = running;
  running = turn.take();
  fused_losses_switch(&self->stack_pointer, running ? running->stack_pointer : scheduler_stack_pointer);
}

// Of the last launch, whose memory is used again.
std::span<Block> blocks_for(size_t count) {
  static std::vector<Block> kept;
  if (kept.size() < count) kept.resize(count);
  for (Block& block : kept) block.shared.resize(kSharedPerBlockOptin + kGaps);
  return {kept.data(), count};
}

void start_thread() {
  resume_tracking();
  current.call(current.arguments);
  pause_tracking();
  Thread& self = *running;
  Block& block = *self.block;
  self.state = State::kDone;
  ++block.done;
  Warp& warp = block.warps[self.index.x / kLanes];
  const unsigned lane = 1u << self.index.x % kLanes;
  warp.done |= lane;
  if (block.at_barrier > 0) fail("a thread has returned while others wait at the barrier of " + at(block.site));
  if (warp.waiting && (warp.mask & lane)) fail("a lane has returned while others wait for it at " + at(warp.site));
  stop();
}

// The blocks that are resident, and the turns they get.
class Grid {
 public:
  Grid() : blocks_(blocks_for(std::min<size_t>(settings.resident_blocks, current.grid.x))) {
    stacks.reserve(blocks_.size() * current.threads.x);
    random_numbers.seed(settings.seed);
    waiting_.resize(current.grid.x);
    std::iota(waiting_.rbegin(), waiting_.rend(), 0u);  // taken from the back
    arrange(waiting_);
    for (size_t slot = 0; slot < blocks_.size(); ++slot) start(slot);
    warps_.resize((current.threads.x + kLanes - 1) / kLanes);
  }

  void run() {
    for (size_t left = blocks_.size(); left > 0;) {
      for (size_t slot = 0; slot < blocks_.size(); ++slot) {
        Block& block = blocks_[slot];
        if (finished(block)) continue;
        advance(block);
        if (!finished(block)) continue;
        if (waiting_.empty()) {
          --left;
        } else {
          start(slot);
        }
      }
    }
  }

 private:
  static bool finished(const Block& block) { return block.done == static_cast<int>(block.threads.size()); }

  template <class Items>
  static void arrange(Items& items) {
    if (settings.order == Order::kBackward) std::ranges::reverse(items);
    if (settings.order == Order::kRandom) std::ranges::shuffle(items, random_numbers);
  }

  // The next block, in place of the finished one.
  void start(size_t slot) {
    Block& block = blocks_[slot];
    block.index = {waiting_.back(), 0, 0};
    waiting_.pop_back();
    block.threads.assign(current.threads.x, Thread{});
    std::memset(block.shared.data(), kUnwritten, static_cast<size_t>(current.dynamic_shared));
    block.warps.assign((current.threads.x + kLanes - 1) / kLanes, Warp{});
    block.variables.clear();
    block.shared_used = static_cast<size_t>(current.dynamic_shared);
    block.epoch = 0;
    block.at_barrier = block.done = 0;
    track_block(block, block.shared.data(), static_cast<size_t>(current.dynamic_shared));
    for (unsigned i = 0; i < current.threads.x; ++i) {
      Thread& thread = block.threads[i];
      thread.index = {i, 0, 0};
      thread.block = &block;
      block.warps[i / kLanes].lanes |= 1u << i % kLanes;
      thread.stack_pointer = stacks.fresh(slot * current.threads.x + i, &start_thread);
    }
  }

  // One turn of a block: each of its warps goes as far as it can; in random order one warp goes one step.
  void advance(Block& block) {
    std::iota(warps_.begin(), warps_.end(), 0);
    arrange(warps_);
    bool any = false;
    for (const int warp : warps_) {
      while (step(block, warp)) {
        any = true;
        if (settings.order == Order::kRandom) return;
      }
    }
    if (!any) report_deadlock(block);
  }

  // Lets each lane of a warp that can go on do so once; whether there was one.
  bool step(Block& block, int warp) {
    const int first = warp * kLanes, count = std::min<int>(kLanes, static_cast<int>(block.threads.size()) - first);
    lanes_.resize(count);
    std::iota(lanes_.begin(), lanes_.end(), 0);
    arrange(lanes_);
    turn = {lanes_.data(), lanes_.data() + count, &block.threads[first]};
    running = turn.take();
    if (!running) return false;
    fused_losses_switch(&scheduler_stack_pointer, running->stack_pointer);
    if (!error.empty()) throw std::runtime_error(error);
    return true;
  }

  [[noreturn]] static void report_deadlock(const Block& block) {
    std::string text;
    for (const State state : {State::kAtShuffle, State::kAtBarrier}) {
      const auto waiting = std::ranges::find(block.threads, state, &Thread::state);
      if (waiting == block.threads.end()) continue;
      text += (text.empty() ? "" : "; ") + place(*waiting) +
              (state == State::kAtShuffle ? " waits for its warp at " : " waits for its block at ") + at(waiting->site);
    }
    throw std::runtime_error("deadlock in kernel " + kernel_name() + ": " + text);
  }

  std::span<Block> blocks_;
  std::vector<unsigned> waiting_;
  std::vector<int> lanes_, warps_;
};

void check_configuration() {
  const auto refuse = [](const std::string& what) {
    throw std::runtime_error("launch of kernel " + kernel_name() + ": " + what);
  };
  if (current.grid.x < 1 || current.grid.x > 0x7fffffffu) refuse("a grid of " + std::to_string(current.grid.x));
  if (current.threads.x < 1 || current.threads.x > kMostThreads)
    refuse("blocks of " + std::to_string(current.threads.x) + " threads");
}

int64_t shared_limit() {
  const auto found = allowed_shared.find(current.kernel);
  return found == allowed_shared.end() ? kSharedPerBlock : kSharedPerBlockOptin;
}

}  // namespace

void run(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(one_kernel_at_a_time);
  current = launch;
  error.clear();
  counters.clear();
  try {
    check_configuration();
    track_launch(launch.arguments, launch.argument_bytes);
    Grid().run();
    for (const unsigned* counter : counters) {
      if (*counter != 0)
        throw std::runtime_error("kernel " + kernel_name() + " leaves a counter at " + std::to_string(*counter) +
                                 " instead of 0");
    }
  } catch (...) {
    ++streams;
    running = nullptr;
    throw;
  }
}

void allow_shared(const void* kernel, int64_t bytes) {
  if (bytes > kSharedPerBlockOptin) throw std::runtime_error("more shared memory than a block can have");
  allowed_shared[kernel] = bytes;
}

void fail(const std::string& what) {
  pause_tracking();
  error = what + ", in kernel " + kernel_name() + ", " + place(*running);
  turn.next = turn.end;
  stop();
  __builtin_unreachable();  // a thread that failed gets no other turn
}

void fail(const char* what, const Site& site) {
  pause_tracking();
  fail(std::string(what) + " at " + at(site));
}

void barrier(const Site& site) {
  const Untracked untracked;
  Thread& self = *running;
  Block& block = *self.block;
  if (block.done > 0) fail("a barrier after another thread of the block has returned", site);
  if (block.at_barrier > 0 && !same(site, block.site))
    fail("a barrier in divergent code: here at " + at(site) + ", another thread at " + at(block.site));
  self.site = block.site = site;
  self.state = State::kAtBarrier;
  if (++block.at_barrier < static_cast<int>(block.threads.size())) return stop();
  for (Thread& thread : block.threads) thread.state = State::kReady;
  block.at_barrier = 0;
  ++block.epoch;
}

uint64_t shuffle(unsigned mask, uint64_t value, unsigned source, const Site& site) {
  const Untracked untracked;
  Thread& self = *running;
  const unsigned lane = self.index.x % kLanes;
  Thread* const lanes = &self - lane;
  Warp& warp = self.block->warps[self.index.x / kLanes];
  if (!(mask >> lane & 1) || !(mask >> source & 1)) fail("a shuffle with a lane outside its mask", site);
  if (mask & ~warp.lanes) fail("a shuffle with lanes that do not exist", site);
  if (mask & warp.done) fail("a shuffle with a lane that has returned", site);
  if (warp.waiting && (warp.mask != mask || !same(site, warp.site)))
    fail("a shuffle in divergent code: here at " + at(site) + ", another lane at " + at(warp.site));
  self.site = warp.site = site;
  self.given = value;
  self.source = source;
  self.state = State::kAtShuffle;
  warp.mask = mask;
  warp.waiting |= 1u << lane;
  if (warp.waiting != mask) {
    stop();
    return self.taken;
  }
  for (unsigned l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    lanes[l].taken = lanes[lanes[l].source].given;
    lanes[l].state = State::kReady;
  }
  warp.waiting = 0;
  return self.taken;
}

void warp_barrier(const Site& site) {
  pause_tracking();
  shuffle(0xffffffffu, 0, running->index.x % kLanes, site);
  pause_tracking();
  ++running->warp_epoch;
  resume_tracking();
}

unsigned atomic_increment(unsigned* address, unsigned limit) {
  const Untracked untracked;
  if (settings.order == Order::kRandom) stop();  // other blocks in between
  const unsigned before = *address;
  *address = before >= limit ? 0 : before + 1;
  counters.insert(address);
  track_atomic(address);
  return before;
}

void fence() {
  const Untracked untracked;
  track_fence();
}

void* shared_variable(const void* key, size_t bytes) {
  const Untracked untracked;
  Block& block = *running->block;
  for (const SharedVariable& known : block.variables) {
    if (known.key == key) return block.shared.data() + known.offset;
  }
  const size_t offset = (block.shared_used + kGap + 15) / 16 * 16, gaps = kGap * (block.variables.size() + 1);
  if (static_cast<int64_t>(offset + bytes - gaps) > shared_limit() || offset + bytes > block.shared.size())
    fail("more shared memory than the launch may have");
  block.variables.push_back({key, offset, bytes});
  block.shared_used = offset + bytes;
  std::memset(block.shared.data() + offset, kUnwritten, bytes);
  track_shared(block.shared.data() + offset, bytes);
  return block.shared.data() + offset;
}

void* dynamic_shared() {
  const Untracked untracked;
  return running->block->shared.data();
}

void copy_pack(void* to, const void* from) {
  const Untracked untracked;
  const auto odd = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; };
  const char* const code = static_cast<const char*>(__builtin_return_address(0));
  if (odd(to) || odd(from))
    fail(std::string("a misaligned ") + (odd(to) ? "write" : "read") + " of 16 bytes by " + name_of(code - 1));
  track_access(from, 16, false, code);
  track_access(to, 16, true, code);
  std::memcpy(to, from, 16);
}

void make_unwritten(void* data, size_t bytes) {
  std::memset(data, kUnwritten, bytes);
  track_memory(data, bytes, false);
}

void* stream() { return reinterpret_cast<void*>(streams); }

bool on_a_stack(const void* address) { return stacks.contains(address); }

}  // namespace fused_losses::emulator
