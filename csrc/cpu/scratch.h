// The working memory of the CPU drivers.
#pragma once

#include <cstdint>
#include <memory>

namespace fused_losses {

// Memory of one thread, 64-byte aligned and not initialised; asked for once a piece of work, allocated where a piece
// needs more than all before it, and not at all for a small one.
class Scratch {
 public:
  void* at_least(int64_t bytes) {
    if (bytes <= kSmall) return small_;
    if (bytes > size_) {
      large_.reset(new char[bytes + kAlignment]);
      size_ = bytes;
    }
    return large_.get() + (kAlignment - reinterpret_cast<uintptr_t>(large_.get()) % kAlignment);
  }

 private:
  static constexpr int64_t kSmall = 8 * 1024, kAlignment = 64;
  alignas(kAlignment) char small_[kSmall];
  std::unique_ptr<char[]> large_;
  int64_t size_ = 0;
};

}  // namespace fused_losses
