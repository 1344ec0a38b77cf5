// The sequence family: one loss for each sentence of logits (B, T, V) against a reference (B, U) of class indices.
#pragma once

#include "host/call.h"

namespace fused_losses {

// Device: also `static void run(LossId, const Options&, const SequenceProblem&, const Tensor& like)`.
template <class Device>
class SequenceCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kLogits, kTarget, kLogitsLengths, kTargetLengths };

 public:
  static constexpr bool kInPlace = true;

  explicit SequenceCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor &logits = a.first(), &target = *a.tensors[kTarget];
    if (logits.dim() != 3) refuse(a.op(), "logits of shape (B, T, V), got ", shape_text(logits));
    problem_.batch = logits.size(0);
    problem_.steps = logits.size(1);
    problem_.classes = logits.size(2);
    if (target.dim() != 2 || target.size(0) != problem_.batch) {
      refuse(a.op(), "target of shape (", problem_.batch, ", U), got ", shape_text(target));
    }
    problem_.places = target.size(1);
    problem_.logits = {logits.const_data_ptr(), dtype_of(logits)};
    problem_.target = integers("target", target);
    problem_.logits_lengths = lengths("logits_lengths", a.tensors[kLogitsLengths]);
    problem_.target_lengths = lengths("target_lengths", a.tensors[kTargetLengths]);
    const double max_order = a.options.max_order;
    if (!(max_order >= 1 && max_order <= 0x1p53)) refuse(a.op(), "max_order in [1, 2**53], got ", max_order);
    this->set_factors(&problem_.results, problem_.batch);
  }

  std::vector<Tensor> make_results() { return {this->new_result(&problem_.results, &problem_.batch, 1)}; }

  void make_gradients(std::vector<Tensor>* out) { this->add_gradient(kLogits, &problem_.gradient, out); }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], problem_.batch); }

  void write_gradient_to(void* data) { problem_.gradient = data; }

  void run() { Device::run(a.id, a.options, problem_, a.first()); }

 private:
  SequenceProblem problem_;

  Operand integers(const char* name, const Tensor& t) const {
    if (is_floating(dtype_of(t))) refuse(a.op(), name, " of an integer dtype, got a floating one");
    return {t.const_data_ptr(), dtype_of(t)};
  }

  Operand lengths(const char* name, const OptionalTensor& t) const {
    if (!t) return {};
    if (t->dim() != 1 || t->size(0) != problem_.batch) {
      refuse(a.op(), name, " of shape (", problem_.batch, ",), got ", shape_text(*t));
    }
    return integers(name, *t);
  }
};

}  // namespace fused_losses
