// Checks of the arguments of a compiled op, one sentence each. Python has checked what a user gives; this is for
// whoever calls an op directly or runs an exported program: nothing out of bounds is ever read.
#pragma once

#include <cmath>
#include <cstdint>
#include <iomanip>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "host/tensor.h"

namespace fused_losses {

// Throws "<op>: expected ..."; not STD_TORCH_CHECK, which puts file and line before it.
template <class... What>
[[noreturn]] void refuse(const char* op, const What&... what) {
  std::ostringstream message;
  message << op << ": expected ";
  (message << ... << what);
  throw std::runtime_error(message.str());
}

// As `refuse`, of a value that only a kernel can find: "..., got <value> at flat index <i>", whole numbers with all
// their digits.
template <class... What>
[[noreturn]] void refuse_value(const char* op, double given, int64_t index, const What&... expected) {
  std::ostringstream value;
  if (given == std::trunc(given) && std::fabs(given) < 9e18) {
    value << static_cast<int64_t>(given);
  } else {
    value << std::setprecision(9) << given;
  }
  refuse(op, expected..., ", got ", value.str(), " at flat index ", index);
}

// As `refuse_value`, of a class outside [0, classes) at flat index `index` of `target`. ignore_index: null for none.
[[noreturn]] inline void refuse_class_index(const char* op, const void* target, Dtype dtype, int64_t index,
                                            int64_t classes, const int64_t* ignore_index) {
  std::ostringstream message;
  message << op << ": expected class index in [0, " << classes << ")";
  if (ignore_index) message << " or ignore_index " << *ignore_index;
  message << ", got " << integer_at(target, dtype, index) << " at flat index " << index;
  throw std::out_of_range(message.str());
}

inline std::string shape_text(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < t.dim(); ++d) text << (d > 0 ? ", " : "") << t.size(d);
  text << (t.dim() == 1 ? ",)" : ")");
  return text.str();
}

inline bool same_shape(const Tensor& a, const Tensor& b) { return a.sizes().equals(b.sizes()); }

inline void check_same_shape(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  if (!same_shape(t, like)) refuse(op, name, " of shape ", shape_text(like), ", got ", shape_text(t));
}

// Whether two contiguous tensors have memory in common.
inline bool overlap(const Tensor& a, const Tensor& b) {
  const auto begin = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()); };
  const auto end = [&](const Tensor& t) { return begin(t) + t.numel() * element_size(dtype_of(t)); };
  return begin(a) < end(b) && begin(b) < end(a);
}

// A target (B, ...) for an input (B, C, ...).
inline void check_shape_without_classes(const char* op, const Tensor& input, const Tensor& target) {
  bool matches = input.dim() >= 2 && target.dim() == input.dim() - 1 && target.size(0) == input.size(0);
  for (int64_t d = 1; matches && d < target.dim(); ++d) matches = target.size(d) == input.size(d + 1);
  if (matches) return;
  refuse(op, "target of shape ", shape_text(input), ", or that without its second dimension, got ", shape_text(target));
}

inline void check_floating(const char* op, const char* name, const Tensor& t) {
  if (!is_floating(dtype_of(t))) refuse(op, name, " of a floating dtype, got an integer or bool tensor");
}

inline void check_same_dtype(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  if (dtype_code(t) != dtype_code(like)) refuse(op, name, " of the dtype of the first tensor, got another");
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  std::array<int32_t, 2> type{}, index{};
  size_t k = 0;
  for (const Tensor* given : {&t, &like}) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(given->get(), &type[k]));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(given->get(), &index[k++]));
  }
  if (type[0] != type[1] || index[0] != index[1]) refuse(op, name, " on the device of the first tensor, got another");
}

}  // namespace fused_losses
