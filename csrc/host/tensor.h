// torch::stable::Tensor as the drivers see it: dtype, allocation, option and reduction arguments.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "losses.h"
#include "math/dtype.h"

// As torch's macros, of a namespace that is itself a macro.
#define FL_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
#define FL_LIBRARY_FRAGMENT(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)

namespace fused_losses {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionList = std::vector<double>;

enum class Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2, kBatchMean = 3 };

// torch's number of each dtype, in the order of Dtype and bool last; asked for once, since every one is a call of
// torch.
inline const std::array<int32_t, 8>& dtype_codes() {
  static const std::array<int32_t, 8> codes = {
      aoti_torch_dtype_float32(), aoti_torch_dtype_float64(), aoti_torch_dtype_float16(), aoti_torch_dtype_bfloat16(),
      aoti_torch_dtype_uint8(),   aoti_torch_dtype_int32(),   aoti_torch_dtype_int64(),   aoti_torch_dtype_bool()};
  return codes;
}

inline int32_t dtype_code(const Tensor& t) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  return code;
}

inline Dtype dtype_of(const Tensor& t) {
  const auto& codes = dtype_codes();
  const size_t place = std::find(codes.begin(), codes.end(), dtype_code(t)) - codes.begin();
  STD_TORCH_CHECK(place < codes.size(), "fused_losses: expected a floating, bool, uint8, int32 or int64 tensor");
  return place + 1 == codes.size() ? Dtype::kUInt8 : static_cast<Dtype>(place);
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
  const int32_t code = dtype_codes()[static_cast<size_t>(dtype)];
  int32_t device_type = 0, device_index = 0;
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
