// The element types kernels read and write, and their sizes. Free of torch, so that the hot loops can include it.
#pragma once

#include <cstdint>

#include "math/platform.h"

namespace fused_losses {

// bool tensors count as kUInt8: both hold one byte, 0 or 1 for bool.
enum class Dtype : int { kFloat32, kFloat64, kFloat16, kBFloat16, kUInt8, kInt32, kInt64 };

// Bytes per element.
constexpr int64_t element_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
    case Dtype::kInt64:
      return 8;
    case Dtype::kFloat32:
    case Dtype::kInt32:
      return 4;
    case Dtype::kFloat16:
    case Dtype::kBFloat16:
      return 2;
    case Dtype::kUInt8:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(Dtype dtype) {
  return dtype == Dtype::kFloat32 || dtype == Dtype::kFloat64 || dtype == Dtype::kFloat16 || dtype == Dtype::kBFloat16;
}

// Element i of an array of uint8, int32 or int64.
FL_HD int64_t integer_at(const void* data, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::kUInt8:
      return static_cast<const uint8_t*>(data)[i];
    case Dtype::kInt32:
      return static_cast<const int32_t*>(data)[i];
    default:
      return static_cast<const int64_t*>(data)[i];
  }
}

}  // namespace fused_losses
