// The elementwise family: one loss for each element, from an input and a target of one shape, or up to four tensors.
#pragma once

#include "host/call.h"

namespace fused_losses {

// Device: also `static void run(LossId, const Options&, ElementwiseProblem&, const Tensor& like)`.
template <class Device>
class ElementwiseCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kInput, kTarget, kWeight, kPosWeight, kThird, kFourth };

 public:
  static constexpr bool kInPlace = true;

  explicit ElementwiseCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor &input = a.first(), &target = a.tensors[kTarget] ? *a.tensors[kTarget] : input;
    problem_.n = input.numel();
    if (takes_class_index(a.id) && target.dim() + 1 == input.dim()) {
      read_classes(input, target);
    } else {
      check_same_shape(a.op(), "target", target, input);
    }
    problem_.input = {input.const_data_ptr(), dtype_of(input)};
    problem_.target = {target.const_data_ptr(), dtype_of(target)};
    problem_.weight = broadcast("weight", a.tensors[kWeight]);
    problem_.pos_weight = broadcast("pos_weight", a.tensors[kPosWeight]);
    problem_.third = another("third", a.tensors[kThird]);
    problem_.fourth = another("fourth", a.tensors[kFourth]);
    Results& results = problem_.results;
    this->set_factors(&results, problem_.n);
    results.counts = a.reduction == Reduction::kMean;
  }

  std::vector<Tensor> make_results() {
    return {this->new_result(&problem_.results, a.first().sizes().data(), a.first().dim())};
  }

  void make_gradients(std::vector<Tensor>* out) {
    this->add_gradient(kInput, &problem_.grad_input, out);
    this->add_gradient(kTarget, &problem_.grad_target, out);
    this->add_gradient(kThird, &problem_.grad_third, out);
    this->add_gradient(kFourth, &problem_.grad_fourth, out);
  }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], problem_.n); }

  void write_gradient_to(void* data) { problem_.grad_input = data; }

  void run() { Device::run(a.id, a.options, problem_, a.first()); }

 private:
  ElementwiseProblem problem_;

  // A tensor of the input's shape.
  Operand another(const char* name, const OptionalTensor& t) const {
    if (!t) return {};
    check_same_shape(a.op(), name, *t, a.first());
    return {t->const_data_ptr(), dtype_of(*t)};
  }

  void read_classes(const Tensor& input, const Tensor& target) {
    check_shape_without_classes(a.op(), input, target);
    if (is_floating(dtype_of(target))) refuse(a.op(), "class indices of an integer dtype, got a floating tensor");
    problem_.classes = input.size(1);
    problem_.positions = 1;
    for (int64_t d = 2; d < input.dim(); ++d) problem_.positions *= input.size(d);
  }

  // `t` broadcast to the input from the last dimension: all of it, one element, or one run of equal dimensions.
  Operand broadcast(const char* name, const OptionalTensor& t) const {
    if (!t) return {};
    const Tensor& input = a.first();
    const int64_t skipped = input.dim() - t->dim();
    int64_t inner = 1, run = 1, d = t->dim() - 1;
    const auto matches = [&] { return skipped >= 0 && t->size(d) == input.size(skipped + d); };
    for (; d >= 0 && t->size(d) == 1; --d) inner *= skipped >= 0 ? input.size(skipped + d) : 1;
    for (; d >= 0 && matches(); --d) run *= t->size(d);
    if (skipped < 0 || run != t->numel()) {
      refuse(a.op(), name, " that broadcasts to shape ", shape_text(input), " by one run of its dimensions, got ",
             shape_text(*t));
    }
    const bool whole = t->numel() == input.numel();
    return {t->const_data_ptr(), dtype_of(*t), whole ? 0 : t->numel(), whole ? 1 : inner};
  }
};

}  // namespace fused_losses
