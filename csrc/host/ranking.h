// The ranking family: one loss for each list of scores and relevances (B, n), some of whose places may hold no item.
#pragma once

#include "host/call.h"

namespace fused_losses {

// Device: also `static void run(LossId, const Options&, const RankingProblem&, const Tensor& like)`.
template <class Device>
class RankingCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kScores, kRelevance, kMask };

 public:
  static constexpr bool kInPlace = true;

  explicit RankingCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor &scores = a.first(), &relevance = *a.tensors[kRelevance];
    if (scores.dim() != 2) refuse(a.op(), "scores of shape (B, n), got ", shape_text(scores));
    check_same_shape(a.op(), "relevance", relevance, scores);
    problem_.lists = scores.size(0);
    problem_.n = scores.size(1);
    problem_.scores = {scores.const_data_ptr(), dtype_of(scores)};
    problem_.relevance = {relevance.const_data_ptr(), dtype_of(relevance)};
    if (const OptionalTensor& mask = a.tensors[kMask]) {
      check_same_shape(a.op(), "mask", *mask, scores);
      if (dtype_of(*mask) != Dtype::kUInt8) refuse(a.op(), "mask of dtype bool, got another");
      problem_.mask = static_cast<const uint8_t*>(mask->const_data_ptr());
    }
    this->set_factors(&problem_.results, problem_.lists);
  }

  std::vector<Tensor> make_results() { return {this->new_result(&problem_.results, &problem_.lists, 1)}; }

  void make_gradients(std::vector<Tensor>* out) { this->add_gradient(kScores, &problem_.gradient, out); }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], problem_.lists); }

  void write_gradient_to(void* data) { problem_.gradient = data; }

  void run() { Device::run(a.id, a.options, problem_, a.first()); }

 private:
  RankingProblem problem_;
};

}  // namespace fused_losses
