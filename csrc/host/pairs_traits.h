// What the host layer knows of each all-pairs loss. Free of torch, so that the kernels can compare it with their
// formulas.
#pragma once

#include "losses.h"

namespace fused_losses {

constexpr bool compares_two_sets(LossId id) { return id == LossId::clip_loss || id == LossId::siglip_loss; }

// What a loss keeps of its rows; as in formulas/pairs.h.
struct PairsTraits {
  int64_t statistics, column_sums;
  bool columns, counts, mirrors;
};
constexpr PairsTraits pairs_traits(LossId id) {
  switch (id) {
    case LossId::clip_loss:
      return {2, 1, true, false, false};
    case LossId::siglip_loss:
      return {0, 0, false, false, false};
    case LossId::multi_similarity_loss:
      return {4, 0, false, false, false};
    default:
      return {2, 3, false, true, true};
  }
}

// Whether the formula of a loss keeps what is said of it here.
template <template <class> class Functor>
constexpr bool has_traits(LossId id) {
  using F = Functor<float>;
  const PairsTraits traits = pairs_traits(id);
  return F::kStatistics == traits.statistics && F::kColumnSums == traits.column_sums && F::kColumns == traits.columns &&
         F::kCounts == traits.counts && F::kMirrors == traits.mirrors;
}

}  // namespace fused_losses
