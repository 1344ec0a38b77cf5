// The overlap family and its compounds: a ratio of sums for each class, from an input (B, C, ...) and a target of that
// shape, or of class indices (B, ...); a compound adds a second term on the same logits.
#pragma once

#include "host/call.h"
#include "host/overlap_options.h"

namespace fused_losses {

// Device: also `static void run(LossId, const Options&, const OverlapProblem&, const Tensor& like)`.
template <class Device>
class OverlapCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kInput, kTarget, kWeight, kClassWeight };
  enum : size_t { kGradOutput, kSavedSums, kSavedCount };  // of `a.incoming`

 public:
  static constexpr bool kInPlace = true;

  explicit OverlapCall(Arguments arguments) : Call<Device>(std::move(arguments)), options_(a.id, a.options) {
    check_options();
    read_input();
    read_target();
    read_weights();
    Results& results = problem_.results;
    this->set_factors(&results, problem_.rows * problem_.per_row);
    results.counts = a.reduction == Reduction::kMean;
#ifdef FL_CUSTOM
    a.options.count = static_cast<double>(problem_.positions * (options_.batch ? problem_.samples : 1));
#endif
  }

  // The losses, then what the backward starts from.
  std::vector<Tensor> make_results() {
    const int64_t shape[] = {problem_.rows, problem_.per_row};
    const int skipped = options_.batch ? 1 : 0, dims = 2 - skipped - (options_.micro ? 1 : 0);
    std::vector<Tensor> out = {this->new_result(&problem_.results, shape + skipped, dims)};
    const Dtype dtype = accumulation_dtype(problem_.input_dtype);
    out.push_back(new_tensor(a.first(), {problem_.rows, problem_.classes, 3}, dtype));
    problem_.sums = out.back().mutable_data_ptr();
    if (options_.has_second()) {
      out.push_back(new_tensor(a.first(), {1}, dtype));
      problem_.count = out.back().mutable_data_ptr();
    }
    return out;
  }

  void make_gradients(std::vector<Tensor>* out) { this->add_gradient(kInput, &problem_.gradient, out); }

  void read_incoming_gradients() {
    this->read_incoming(&problem_.results, a.incoming[kGradOutput], problem_.rows * problem_.per_row);
    problem_.backward = true;
    problem_.saved_sums = saved("the sums that the forward saved", kSavedSums, problem_.rows * problem_.classes * 3);
    if (options_.has_second()) problem_.saved_count = saved("the count that the forward saved", kSavedCount, 1);
  }

  void write_gradient_to(void* data) { problem_.gradient = data; }

  void run() { Device::run(a.id, a.options, problem_, a.first()); }

 private:
  const OverlapOptions options_;
  OverlapProblem problem_;

  void check_options() const {
    check_choice("activation", a.options.activation, options_.has_second() ? 1 : 0, 2);
    check_choice("average", a.options.average, 0, 1);
    check_choice("absent", a.options.absent, 0, 2);
    check_choice("focal_activation", a.options.focal_activation, 0, 2);
    const bool reduces = a.reduction == Reduction::kMean || a.reduction == Reduction::kSum;
    if (!reduces && (options_.has_second() || a.reduction != Reduction::kNone)) {
      refuse(a.op(), options_.has_second() ? "reduction 1 or 2" : "reduction in [0, 2]", ", got ",
             static_cast<int64_t>(a.reduction));
    }
  }

  // One of the whole numbers `first` to `last`.
  void check_choice(const char* name, double given, int first, int last) const {
    const bool inside = given >= first && given <= last;  // NaN is not
    if (!inside || given != static_cast<int>(given)) refuse(a.op(), name, " in [", first, ", ", last, "], got ", given);
  }

  void read_input() {
    const Tensor& input = a.first();
    if (input.dim() < 2) refuse(a.op(), "input of shape (B, C, ...), got ", shape_text(input));
    problem_.samples = input.size(0);
    problem_.classes = input.size(1);
    problem_.positions = 1;
    for (int64_t d = 2; d < input.dim(); ++d) problem_.positions *= input.size(d);
    problem_.rows = options_.batch ? 1 : problem_.samples;
    problem_.kept = problem_.classes - (options_.background ? 0 : 1);
    if (problem_.kept < 1 && !options_.background) {
      refuse(a.op(), "at least 2 classes without the background, got ", problem_.classes);
    }
    problem_.per_row = options_.micro ? 1 : problem_.kept;
    problem_.input = input.const_data_ptr();
    problem_.input_dtype = dtype_of(input);
  }

  void read_target() {
    const Tensor &input = a.first(), &target = *a.tensors[kTarget];
    const Dtype dtype = dtype_of(target);
    problem_.class_index = target.dim() < input.dim();
    if (problem_.class_index) {
      check_shape_without_classes(a.op(), input, target);
      if (is_floating(dtype)) refuse(a.op(), "class indices of an integer dtype, got a floating tensor");
    } else {
      check_same_shape(a.op(), "target", target, input);
    }
    problem_.target = target.const_data_ptr();
    problem_.target_dtype = dtype;
  }

  void read_weights() {
    read_weight("weight", kWeight, problem_.kept, &problem_.weight, &problem_.weight_dtype);
    read_weight("class_weight", kClassWeight, problem_.classes, &problem_.class_weight, &problem_.class_weight_dtype);
    problem_.counts_weights = problem_.class_weight && problem_.class_index && options_.second_softmax() &&
                              options_.second == SecondTerm::kCrossEntropy;
  }

  void read_weight(const char* name, size_t position, int64_t classes, const void** data, Dtype* dtype) const {
    const OptionalTensor& weight = a.tensors[position];
    if (!weight) return;
    if (weight->dim() != 1 || weight->size(0) != classes) {
      refuse(a.op(), name, " of shape (", classes, ",), got ", shape_text(*weight));
    }
    *data = weight->const_data_ptr();
    *dtype = dtype_of(*weight);
  }

  const void* saved(const char* what, size_t position, int64_t elements) const {
    const Tensor& t = a.incoming[position];
    if (t.numel() != elements || dtype_of(t) != accumulation_dtype(problem_.input_dtype)) {
      refuse(a.op(), what, ", ", elements, " elements of the accumulation dtype, got ", shape_text(t));
    }
    return t.const_data_ptr();
  }
};

}  // namespace fused_losses
