// The softmax losses against class indices or class probabilities on CUDA; kernels in softmax.cuh, their choice in
// softmax_launch.cuh.
#include <vector>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/classification.h"
#include "formulas/divergence.h"

#include "cuda/rows.cuh"
#include "cuda/softmax.cuh"
#include "cuda/softmax_launch.cuh"

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, Functor, ...)                                    \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<Functor>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &backward<Functor>>::call)));
  FL_SOFTMAX_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
