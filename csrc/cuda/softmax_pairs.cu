// The losses against the softmax of a second tensor on CUDA; kernels in softmax.cuh, their choice in
// softmax_launch.cuh.
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

}  // namespace

void run_logits_softmax(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
  switch (id) {
#define FL_RUN(op, Functor, ...) \
  case LossId::op:               \
    return run_loss<Functor>(options, problem, like);
    FL_SOFTMAX_PAIR_LOSSES(FL_RUN)
#undef FL_RUN
    default:
      return;
  }
}

}  // namespace fused_losses::cuda
