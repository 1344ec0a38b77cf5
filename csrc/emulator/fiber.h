// Fibers for x86-64: a stack each, and a switch that saves what the ABI lets a callee keep.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#ifndef __x86_64__
#error "the emulator's context switch is written for x86-64"
#endif

// Pushes the callee-saved registers, stores the stack pointer in *save and continues where `to` was stored.
extern "C" void fused_losses_switch(void** save, void* to);

namespace fused_losses::emulator {

// Stacks of equal size in one mapping, each above a page that must not be touched. Their tops are spread over the sets
// of a cache, in which equal places of stacks a power of two apart would push each other out.
class Stacks {
 public:
  static constexpr size_t kBytes = 68 * 1024, kGuard = 4096, kSpread = 512;

  void reserve(size_t count) {
    if (count <= count_) return;
    if (base_) munmap(base_, count_ * kBytes);
    void* mapped =
        mmap(nullptr, count * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(mapped);
    count_ = count;
    for (size_t i = 0; i < count; ++i) mprotect(base_ + i * kBytes, kGuard, PROT_NONE);
  }

  bool contains(const void* address) const {
    const char* at = static_cast<const char*>(address);
    return at >= base_ && at < base_ + count_ * kBytes;
  }

  // The stack pointer of a fiber that will start at `entry`, which must not return.
  void* fresh(size_t index, void (*entry)()) const {
    void** top = reinterpret_cast<void**>(base_ + (index + 1) * kBytes - index * kSpread % kGuard);
    *--top = nullptr;  // the return address of `entry`: keeps its frame aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    return top - 6;  // room for the registers that the switch pops
  }

 private:
  char* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace fused_losses::emulator
