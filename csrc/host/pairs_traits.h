// What the host layer knows of each all-pairs loss. Free of torch, so that the kernels can compare it with their
// formulas.
#pragma once

#include "losses.h"

namespace fused_losses {

constexpr bool compares_two_sets(LossId id) { return id == LossId::clip_loss || id == LossId::siglip_loss; }

// What a loss keeps of its rows; as in formulas/pairs.h.
struct PairsTraits {
  int64_t statistics;
  bool columns, counts;
};
consteval PairsTraits pairs_traits(LossId id) {
  switch (id) {
    case LossId::clip_loss:
      return {2, true, false};
    case LossId::siglip_loss:
      return {0, false, false};
    case LossId::multi_similarity_loss:
      return {4, false, false};
    default:
      return {2, false, true};
  }
}

}  // namespace fused_losses
