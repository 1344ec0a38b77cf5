// What a tracking build (FL_TRACKED) checks at every access of a kernel: that the memory belongs to the call and has
// been written, that the address is aligned, and that accesses of two threads to one byte, one of them a write, are
// ordered by a barrier of their block or by fences around an atomic. Empty functions in any other build.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fused_losses::emulator {

struct Block;

#ifdef FL_TRACKED
inline bool tracking = false;
__attribute__((no_sanitize("thread"))) inline void resume_tracking() { tracking = true; }
__attribute__((no_sanitize("thread"))) inline void pause_tracking() { tracking = false; }

// What a kernel may touch: memory of the call (its tensors), of a launch (its parameters), of a block (shared).
void track_call();
void track_memory(const void* data, size_t bytes, bool written);
void track_library(const void* data, size_t bytes);  // the library has written there
void track_launch(const void* parameters, size_t bytes);
void track_block(const Block& block, void* dynamic_shared, size_t bytes);
void track_shared(void* data, size_t bytes);

void track_access(const void* data, size_t bytes, bool write, const void* code);
void track_fence();
void track_atomic(const void* counter);
#else
inline void resume_tracking() {}
inline void pause_tracking() {}
inline void track_call() {}
inline void track_memory(const void*, size_t, bool) {}
inline void track_library(const void*, size_t) {}
inline void track_launch(const void*, size_t) {}
inline void track_block(const Block&, void*, size_t) {}
inline void track_shared(void*, size_t) {}
inline void track_access(const void*, size_t, bool, const void*) {}
inline void track_fence() {}
inline void track_atomic(const void*) {}
#endif

// Code of the emulator itself that a kernel's thread runs.
struct Untracked {
  Untracked() { pause_tracking(); }
  ~Untracked() { resume_tracking(); }
};

}  // namespace fused_losses::emulator
