// Rows divided by their norms, in front of the losses that compare embeddings: one pass forward and one backward.
#pragma once

#include <tuple>
#include <vector>

#include "host/call.h"
#include "host/problems.h"

namespace fused_losses {

// Device: static Tensor output(like, shape, dims, dtype)
//         static void unit_rows(const UnitRows&, const Tensor& like)             writes `rows` and `norms`
//         static void unit_rows_gradient(const UnitRows&, const Tensor& like)    reads these, writes `gradient`
template <class Device>
struct UnitRowsCall {
  // input: (..., D). Returns the rows and their norms (..., 1), in the accumulation dtype.
  static std::tuple<Tensor, Tensor> forward(Tensor input) {
    UnitRows task = task_of(&input);
    const Dtype sums = accumulation_dtype(task.dtype);
    const auto sizes = input.sizes();
    std::vector<int64_t> shape(sizes.begin(), sizes.end());
    const auto dims = static_cast<int64_t>(shape.size());
    Tensor rows = Device::output(input, shape.data(), dims, sums);
    shape.back() = 1;
    Tensor norms = new_tensor(input, shape.data(), dims, sums);
    task.input = input.const_data_ptr();
    task.rows = rows.mutable_data_ptr();
    task.norms = norms.mutable_data_ptr();
    if (task.count > 0) Device::unit_rows(task, input);
    return {rows, norms};
  }

  // The gradient of the input from that of its rows; rows, norms: what the forward returned.
  static Tensor backward(Tensor grad_output, Tensor rows, Tensor norms, Tensor input) {
    UnitRows task = task_of(&input);
    const Dtype sums = accumulation_dtype(task.dtype);
    for (Tensor* t : {&grad_output, &rows}) check_same_shape(kBackward, t == &rows ? "rows" : "grad_output", *t, input);
    if (norms.numel() != task.count) refuse(kBackward, task.count, " norms, got ", shape_text(norms));
    for (Tensor* t : {&grad_output, &rows, &norms}) {
      if (dtype_of(*t) != sums) refuse(kBackward, "every tensor but input in the accumulation dtype, got another");
      check_device(kBackward, "every tensor", *t, input);
      *t = detail::contiguous(*t);
    }
    const auto sizes = input.sizes();
    Tensor gradient = Device::output(input, sizes.data(), static_cast<int64_t>(sizes.size()), task.dtype);
    task.incoming = grad_output.const_data_ptr();
    task.rows = rows.mutable_data_ptr();
    task.norms = norms.mutable_data_ptr();
    task.gradient = gradient.mutable_data_ptr();
    if (task.count > 0) Device::unit_rows_gradient(task, input);
    return gradient;
  }

 private:
  static constexpr const char *kForward = "unit_rows", *kBackward = "unit_rows_backward";

  static UnitRows task_of(Tensor* input) {
    check_floating(kForward, "input", *input);
    if (input->dim() == 0) refuse(kForward, "input of one dimension at least, got none");
    *input = detail::contiguous(*input);
    UnitRows task{};
    task.dtype = dtype_of(*input);
    task.length = input->size(input->dim() - 1);
    task.count = 1;
    for (int64_t d = 0; d + 1 < input->dim(); ++d) task.count *= input->size(d);
    return task;
  }
};

template <class Device, class Library>
void register_unit_rows(Library& m) {
  m.impl("unit_rows", TORCH_BOX(&UnitRowsCall<Device>::forward));
  m.impl("unit_rows_backward", TORCH_BOX(&UnitRowsCall<Device>::backward));
}

}  // namespace fused_losses
