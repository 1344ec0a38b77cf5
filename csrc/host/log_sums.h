// Statistics of rows of logits = input linear_weightᵀ + linear_bias, which are never all there: for classes that are
// spread over processes, whose sums are merged before any gradient.
#pragma once

#include "host/linear.h"

namespace fused_losses {

// The op `name` of aten writes its result for `in` and `more` into the last of `more`.
template <class... More>
void call_into(const char* name, const Tensor& in, const More&... more) {
  using torch::stable::detail::from;
  std::array<StableIValue, 1 + sizeof...(More)> stack{from(in), from(more)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // owned, and of no more use
}

// input: [rows, D]; class_index: [rows] int64, each in [0, V). Returns [rows, 2]: the logarithm of the sum of
// exponentials, and the logit of the class.
template <class Device>
Tensor linear_log_sums(Tensor input, Tensor linear_weight, Tensor class_index, OptionalTensor linear_bias,
                       double softcap) {
  constexpr const char* kOp = "linear_log_sums";
  check_floating(kOp, "input", input);
  if (input.dim() != 2 || linear_weight.dim() != 2 || linear_weight.size(1) != input.size(1)) {
    refuse(kOp, "input of shape (N, D) and linear_weight of shape (V, D), got ", shape_text(input), " and ",
           shape_text(linear_weight));
  }
  const int64_t rows = input.size(0), classes = linear_weight.size(0);
  if (class_index.numel() != rows || dtype_of(class_index) != Dtype::kInt64) {
    refuse(kOp, "class_index of ", rows, " int64 elements, got ", shape_text(class_index));
  }
  if (linear_bias && linear_bias->numel() != classes) {
    refuse(kOp, "linear_bias of shape (", classes, ",), got ", shape_text(*linear_bias));
  }
  for (Tensor* t : {&input, &linear_weight, &class_index}) *t = detail::contiguous(*t);
  if (linear_bias) {
    linear_bias = detail::contiguous(*linear_bias);
    check_device(kOp, "every tensor", *linear_bias, input);
    check_same_dtype(kOp, "linear_bias", *linear_bias, input);
  }
  check_device(kOp, "every tensor", linear_weight, input);
  check_device(kOp, "every tensor", class_index, input);
  check_same_dtype(kOp, "linear_weight", linear_weight, input);
  const Dtype sums = accumulation_dtype(dtype_of(input));
  const int64_t most = tile_rows<Device>(rows, classes * element_size(sums));
  const Matrix tile = new_matrix(input, most, classes, sums), result = new_matrix(input, rows, 2, sums);
  LinearLogits<Device> logits(input, rows, linear_weight, linear_bias,
                              Device::product_dtype(dtype_of(input), Results{}), most, 1);
  for (int64_t begin = 0; begin < rows; begin += most) {
    const int64_t n = std::min(most, rows - begin);
    const Matrix part = tile.part(0, n);
    logits.write(begin, n, part);
    if (softcap != 0) Device::cap(part, softcap);
    call_into("aten::logsumexp", view(part), std::vector<int64_t>{1}, true, view(result.part(begin, n, 0, 1)));
    call_into("aten::gather", view(part), int64_t{1}, view(matrix_of(class_index, rows, 1).part(begin, n)), false,
              view(result.part(begin, n, 1, 1)));
  }
  return result.owner;
}

}  // namespace fused_losses
