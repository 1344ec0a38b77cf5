// The softmax family: one softmax for each position, of an input (N, C, ...) against class indices (N, ...) or class
// probabilities, or of logits against those of a target along any dimension.
#pragma once

#include "host/call.h"

namespace fused_losses {

// Whether the target of a softmax loss holds logits.
constexpr bool compares_logits(LossId id) {
  switch (id) {
#define FL_CASE(op, ...) case LossId::op:
    FL_SOFTMAX_PAIR_LOSSES(FL_CASE)
#undef FL_CASE
    return true;
    default:
      return false;
  }
}

// A target of class indices or, without `problem->class_index`, probabilities, and what goes with it; the number of
// classes is known and the shape of the target checked.
inline void read_classes(const char* op, const Options& options, const Tensor& target, const OptionalTensor& weight,
                         SoftmaxProblem* problem) {
  problem->target = target.const_data_ptr();
  problem->target_dtype = dtype_of(target);
  if (problem->class_index && is_floating(problem->target_dtype)) {
    refuse(op, "class indices of dtype uint8, int32 or int64, got a floating dtype");
  }
  if (weight) {
    if (weight->dim() != 1 || weight->numel() != problem->classes) {
      refuse(op, "weight of shape (", problem->classes, ",), got ", shape_text(*weight));
    }
    problem->weight = weight->const_data_ptr();
    problem->weight_dtype = dtype_of(*weight);
  }
  const double ignore_index = options.ignore_index;  // no int64: equal to no class
  constexpr double kLimit = 9223372036854775808.0;
  problem->ignore_index =
      ignore_index >= -kLimit && ignore_index < kLimit ? static_cast<int64_t>(ignore_index) : SoftmaxProblem::kNone;
  problem->label_smoothing = options.label_smoothing;
}

// Device: also `static void run(LossId, const Options&, const SoftmaxProblem&, const Tensor& like)`.
template <class Device>
class SoftmaxCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kInput, kTarget, kWeight };

 public:
  static constexpr bool kInPlace = true;

  explicit SoftmaxCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    read_input();
    if (compares_logits(a.id)) {
      check_same_shape(a.op(), "target", *a.tensors[kTarget], a.first());
      check_floating(a.op(), "target", *a.tensors[kTarget]);
    } else {
      read_classes();
    }
    this->set_factors(&problem_.results, problem_.positions());
    problem_.results.counts = a.reduction == Reduction::kMean && problem_.class_index;
  }

  std::vector<Tensor> make_results() {
    return {this->new_result(&problem_.results, shape_.data(), static_cast<int64_t>(shape_.size()))};
  }

  void make_gradients(std::vector<Tensor>* out) {
    this->add_gradient(kInput, &problem_.grad_input, out);
    if (compares_logits(a.id)) this->add_gradient(kTarget, &problem_.grad_target, out);
  }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], problem_.positions()); }

  void write_gradient_to(void* data) { problem_.grad_input = data; }

  void run() { Device::run(a.id, a.options, problem_, a.first()); }

 private:
  SoftmaxProblem problem_;
  std::vector<int64_t> shape_;  // of the losses: the input's without the classes

  // Which dimension holds the classes.
  int64_t class_dimension() const {
    const int64_t dims = a.first().dim();
    if (dims == 0) refuse(a.op(), "input with at least one dimension, got a tensor without any");
    if (!compares_logits(a.id)) return dims > 1 ? 1 : 0;
    if (!(a.options.dim >= 0 && a.options.dim < static_cast<double>(dims))) {
      refuse(a.op(), "dim in [0, ", dims, "), got ", a.options.dim);
    }
    return static_cast<int64_t>(a.options.dim);
  }

  void read_input() {
    const Tensor &input = a.first(), &target = *a.tensors[kTarget];
    const int64_t dim = class_dimension();
    problem_.classes = input.size(dim);
    for (int64_t d = 0; d < input.dim(); ++d) {
      if (d == dim) continue;
      (d < dim ? problem_.outer : problem_.inner) *= input.size(d);
      shape_.push_back(input.size(d));
    }
    problem_.input = input.const_data_ptr();
    problem_.input_dtype = dtype_of(input);
    problem_.target = target.const_data_ptr();
    problem_.target_dtype = dtype_of(target);
  }

  // A target of class indices or probabilities, and what goes with it.
  void read_classes() {
    const Tensor& target = *a.tensors[kTarget];
    problem_.class_index = target.dim() < a.first().dim();
    if (problem_.class_index) {
      if (!target.sizes().equals(shape_)) {
        refuse(a.op(), "target of the input's shape ", shape_text(a.first()), " or of that without the classes, got ",
               shape_text(target));
      }
    } else {
      check_same_shape(a.op(), "target", target, a.first());
    }
    fused_losses::read_classes(a.op(), a.options, target, a.tensors[kWeight], &problem_);
  }
};

}  // namespace fused_losses
