// torch::stable::Tensor as the drivers see it: dtype, allocation, option and reduction arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "losses.h"
#include "math/dtype.h"

namespace fused_losses {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionList = std::vector<double>;

enum class Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2, kBatchMean = 3 };

inline Dtype dtype_of(const Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Bool:
    case ScalarType::Byte:
      return Dtype::kUInt8;
    case ScalarType::Int:
      return Dtype::kInt32;
    case ScalarType::Long:
      return Dtype::kInt64;
    default:
      STD_TORCH_CHECK(false, "fused_losses: expected a floating, bool, uint8, int32 or int64 tensor");
      __builtin_unreachable();
  }
}

// float64 for float64, else float32: the dtype of sums and losses.
inline Dtype accumulation_dtype(Dtype d) { return d == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32; }

// A new contiguous tensor of `shape` on the device of `like`, contents undefined.
inline Tensor new_tensor(const Tensor& like, const int64_t* shape, int64_t dims, Dtype dtype) {
  std::vector<int64_t> strides(dims);
  for (int64_t d = dims - 1, step = 1; d >= 0; --d) {
    strides[d] = step;
    step *= shape[d] > 1 ? shape[d] : 1;
  }
  int32_t code = 0, device_type = 0, device_index = 0;
  switch (dtype) {
    case Dtype::kFloat32:
      code = aoti_torch_dtype_float32();
      break;
    case Dtype::kFloat64:
      code = aoti_torch_dtype_float64();
      break;
    case Dtype::kFloat16:
      code = aoti_torch_dtype_float16();
      break;
    case Dtype::kBFloat16:
      code = aoti_torch_dtype_bfloat16();
      break;
    case Dtype::kUInt8:
      code = aoti_torch_dtype_uint8();
      break;
    case Dtype::kInt32:
      code = aoti_torch_dtype_int32();
      break;
    case Dtype::kInt64:
      code = aoti_torch_dtype_int64();
      break;
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, shape, strides.data(), code, device_type, device_index, &made));
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> shape, Dtype dtype) {
  return new_tensor(like, shape.begin(), static_cast<int64_t>(shape.size()), dtype);
}

// As `like`, contiguous, with its shape and dtype.
inline Tensor new_like(const Tensor& like) {
  const auto sizes = like.sizes();
  return new_tensor(like, sizes.data(), static_cast<int64_t>(sizes.size()), dtype_of(like));
}

}  // namespace fused_losses
