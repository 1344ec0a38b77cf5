// What runs a Problem of the softmax family on CUDA, for its ops and for losses that make the logits themselves.
#pragma once

#include "host/softmax.h"

namespace fused_losses::cuda {

// *denominator, on the device, becomes what the mean of a cross-entropy against class indices divides by.
void count_classes(const SoftmaxProblem& problem, const Tensor& like, double* denominator);

void run_class_softmax(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like);
void run_logits_softmax(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like);

// On the current stream of the device of `like`. The gradient may replace the logits: grad_input may be the input.
inline void run_softmax(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
  return (compares_logits(id) ? run_logits_softmax : run_class_softmax)(id, options, problem, like);
}

}  // namespace fused_losses::cuda
