// The row-wise losses against class indices or class probabilities on CUDA; kernels in rowwise.cuh, their choice in
// rowwise_launch.cuh.
#include <vector>

#include "../losses.h"
#include "pack.cuh"
#include "reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "../numerics.h"
#include "../losses/terms.h"
#include "../losses/classification.h"
#include "../losses/divergence.h"

#include "rows.cuh"
#include "rowwise.cuh"
#include "rowwise_launch.cuh"

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CUDA, m) {
#define FL_REGISTER(op, Functor)             \
  m.impl(#op, TORCH_BOX(&forward<Functor>)); \
  m.impl(#op "_backward", TORCH_BOX(&backward<Functor>));
  FL_ROWWISE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
