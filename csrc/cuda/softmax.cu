// The softmax family's ops on CUDA, and the losses against class indices or class probabilities; kernels in
// softmax.cuh, their choice in softmax_launch.cuh.
#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "cuda/softmax.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/classification.h"
#include "formulas/divergence.h"
#include "formulas/custom.h"

#include "cuda/rows.cuh"
#include "cuda/softmax.cuh"
#include "cuda/softmax_launch.cuh"

struct CudaSoftmax : CudaDevice {
  static void run(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
    run_softmax(id, options, problem, like);
  }
};

}  // namespace

void count_classes(const SoftmaxProblem& problem, const Tensor& like, double* denominator) {
  count_positions<CrossEntropy>(Launch(like), like, SoftmaxOperands{problem}, denominator);
}

void run_class_softmax(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
  switch (id) {
#define FL_RUN(op, Functor, ...) \
  case LossId::op:               \
    return run_loss<Functor>(options, problem, like);
    FL_SOFTMAX_LOSSES(FL_RUN)
#undef FL_RUN
    default:
      return;
  }
}

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<SoftmaxCall<CudaSoftmax>, LossId::op>(m);
  FL_SOFTMAX_LOSSES(FL_REGISTER)
  FL_SOFTMAX_PAIR_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
