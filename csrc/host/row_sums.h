// The row-sums family: rows of terms summed over their last dimensions, a loss of each sum. vae_loss is two of them.
#pragma once

#include "host/call.h"

namespace fused_losses {

// The functors of the family, terms of vae_loss among them.
enum class RowSums : int {
#define FL_ENUMERATE(op, ...) op,
  FL_ROW_SUMS(FL_ENUMERATE)
#undef FL_ENUMERATE
};

// How the tensors of a call make up a Problem: the first `operands` of them are its operands, then there may be labels.
// The rows are the first dimension, or all dimensions but the last.
struct RowSumsLayout {
  size_t operands;
  bool labels;
  bool last_dim_only;
};

constexpr RowSumsLayout layout_of(RowSums functor) {
  switch (functor) {
#ifdef FL_CUSTOM
#define FL_LAYOUT(op, labels) \
  case RowSums::op:           \
    return {4, labels, false};
    FL_CUSTOM_LAYOUTS(FL_LAYOUT)
#undef FL_LAYOUT
#else
    case RowSums::contrastive_loss:
      return {2, true, false};
    case RowSums::gaussian_kl:
      return {4, false, true};
#endif
    default:
      return {1, false, false};
  }
}

// Sizes and operands of a Problem whose rows are the first `lead` dimensions.
inline RowSumsProblem row_sums_problem(const char* op, std::initializer_list<const OptionalTensor*> operands,
                                       int64_t lead) {
  RowSumsProblem problem;
  const Tensor& first = **operands.begin()[0];
  if (first.dim() < 1) refuse(op, "tensors with at least one dimension, got none");
  for (int64_t d = 0; d < first.dim(); ++d) (d < lead ? problem.rows : problem.length) *= first.size(d);
  size_t k = 0;
  for (const OptionalTensor* operand : operands) {
    if (*operand) {
      check_same_shape(op, "all operands", **operand, first);
      problem.operands[k] = {(*operand)->const_data_ptr(), dtype_of(**operand)};
    }
    ++k;
  }
  return problem;
}

// One label for each row.
inline Operand row_labels(const char* op, const Tensor& labels, int64_t rows) {
  if (labels.dim() != 1 || labels.size(0) != rows) {
    refuse(op, "target of shape (", rows, ",), got ", shape_text(labels));
  }
  return {labels.const_data_ptr(), dtype_of(labels)};
}

// Device: also `static void run(RowSums, const Options&, RowSumsProblem&, const Tensor& like)`.
template <class Device, RowSums functor>
class RowSumsCall : Call<Device> {
  using Call<Device>::a;
  static constexpr RowSumsLayout kLayout = layout_of(functor);

 public:
  static constexpr bool kInPlace = false;

  explicit RowSumsCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor& first = a.first();
    lead_ = kLayout.last_dim_only ? first.dim() - 1 : 1;
    const OptionalTensor none;
    const auto operand = [&](size_t k) { return k < kLayout.operands ? &a.tensors[k] : &none; };
    problem_ = row_sums_problem(a.op(), {operand(0), operand(1), operand(2), operand(3)}, lead_);
    if (kLayout.labels) {
      problem_.labels = row_labels(a.op(), *a.tensors[kLayout.operands], problem_.rows);
    }
    this->set_factors(&problem_.results, problem_.rows);
  }

  std::vector<Tensor> make_results() { return {this->new_result(&problem_.results, a.first().sizes().data(), lead_)}; }

  void make_gradients(std::vector<Tensor>* out) {
    for (size_t k = 0; k < kLayout.operands; ++k) this->add_gradient(k, &problem_.gradients[k], out);
  }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], problem_.rows); }

  void write_gradient_to(void* data) { problem_.gradients[0] = data; }

  void run() { Device::run(functor, a.options, problem_, a.first()); }

 private:
  RowSumsProblem problem_;
  int64_t lead_;
};

#ifndef FL_CUSTOM

// vae_loss: a reconstruction term and beta times the Gaussian divergence, sample by sample; its losses are the total
// and both terms, its gradients those of the total. Device: also `static void add_scaled(const Tensor& a, double
// factor, const Tensor& b, const Tensor& to)`.
template <class Device>
class VaeCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kReconstruction, kTarget, kMu, kLogvar };

 public:
  static constexpr bool kInPlace = false;

  explicit VaeCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    reconstruction_ = row_sums_problem(a.op(), {&a.tensors[kReconstruction], &a.tensors[kTarget]}, 1);
    divergence_ = row_sums_problem(a.op(), {&a.tensors[kMu], &a.tensors[kLogvar]}, 1);
    if (divergence_.rows != reconstruction_.rows) {
      refuse(a.op(), "mu of shape (", reconstruction_.rows, ", ...), got ", shape_text(*a.tensors[kMu]));
    }
    check_same_dtype(a.op(), "mu", *a.tensors[kMu], a.first());
    this->set_factors(&reconstruction_.results, reconstruction_.rows);
    this->set_factors(&divergence_.results, divergence_.rows);
    divergence_.results.gradient_factor = a.options.beta;
  }

  std::vector<Tensor> make_results() {
    const int64_t rows = reconstruction_.rows;
    const Tensor reconstruction = this->new_result(&reconstruction_.results, &rows, 1);
    const Tensor divergence = this->new_result(&divergence_.results, &rows, 1);
    losses_ = {new_like(reconstruction), reconstruction, divergence};
    return losses_;
  }

  void make_gradients(std::vector<Tensor>* out) {
    this->add_gradient(kReconstruction, &reconstruction_.gradients[0], out);
    this->add_gradient(kMu, &divergence_.gradients[0], out);
    this->add_gradient(kLogvar, &divergence_.gradients[1], out);
  }

  // Each term receives its own incoming gradient and its share of the total's.
  void read_incoming_gradients() {
    const Tensor &total = a.incoming[0], reconstruction = new_like(total), divergence = new_like(total);
    for (const Tensor& term : a.incoming) {
      check_same_shape(a.op(), "incoming gradients", term, total);
      this->check_incoming_dtype(term);
    }
    Device::add_scaled(a.incoming[1], 1, total, reconstruction);
    Device::add_scaled(a.incoming[2], a.options.beta, total, divergence);
    this->read_incoming(&reconstruction_.results, reconstruction, reconstruction_.rows);
    this->read_incoming(&divergence_.results, divergence, divergence_.rows);
    divergence_.results.gradient_factor = 1;
    incoming_ = {reconstruction, divergence};
  }

  void write_gradient_to(void* data) { reconstruction_.gradients[0] = data; }

  void run() {
    const RowSumsProblem &r = reconstruction_, &d = divergence_;
    const bool losses = !losses_.empty();
    if (losses || r.gradients[0]) Device::run(term(), a.options, reconstruction_, a.first());
    if (losses || d.gradients[0] || d.gradients[1]) {
      Device::run(RowSums::gaussian_kl, a.options, divergence_, *a.tensors[kMu]);
    }
    if (losses) Device::add_scaled(losses_[1], a.options.beta, losses_[2], losses_[0]);
  }

 private:
  RowSumsProblem reconstruction_, divergence_;
  std::vector<Tensor> losses_, incoming_;

  RowSums term() const {
    if (a.options.likelihood == 0) return RowSums::vae_bernoulli;
    return a.options.likelihood == 1 ? RowSums::vae_bernoulli_logits : RowSums::vae_gaussian;
  }
};

#endif  // FL_CUSTOM

// Every op of the family for the devices of `m`.
template <class Device, class Library>
void register_row_sums(Library& m) {
#define FL_REGISTER(op, ...) register_loss<RowSumsCall<Device, RowSums::op>, LossId::op>(m);
#ifdef FL_CUSTOM
  FL_ROW_SUMS(FL_REGISTER)
#else
  FL_CONTRASTIVE_LOSSES(FL_REGISTER)
  FL_GAUSSIAN_LOSSES(FL_REGISTER)
  register_loss<VaeCall<Device>, LossId::vae_loss>(m);
#endif
#undef FL_REGISTER
}

}  // namespace fused_losses
