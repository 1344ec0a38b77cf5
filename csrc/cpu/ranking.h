// What the driver of the ranking family hands to the hot loops: the items of one list that count.
#pragma once

#include <cstdint>

#include "losses.h"

namespace fused_losses {

// One list. With smooth ranks: its real items in the order of the input, and the rows whose discounted gain counts.
// Else: the items that take part in pairs, by falling gain, every one of them a row.
template <class A>
struct RankedList {
  int64_t items;
  const A* score;        // [items]
  const A* odds;         // [items] with smooth ranks, see ApproxNDCG; null: not within the range of A
  const A* gain;         // [items]
  const A* discount;     // [items] of the current ranks; null with smooth ranks
  const int64_t* below;  // [items] the first item of smaller gain; null with smooth ranks
  const int64_t* row;    // [rows] items; null: all
  int64_t rows;
  A ideal;      // IDCG@k, not 0
  A* slope;     // [items] scratch of this call
  A* gradient;  // [items] added to, without the loss's rate (and 1 / ideal for pairs); null: not wanted
};

// Runs the rows first, first + step, ... and returns the sum of their discounted gains or pair losses.
template <class A>
using RankingLoop = double (*)(const RankedList<A>&, const Options& options, int64_t first, int64_t step);

// odds[i] = e^((score[i] - middle) rate) of n items, in float64 before it is rounded.
using OddsLoop = void (*)(const float* score, double middle, double rate, float* odds, int64_t n);

struct RankingEntry {
  RankingLoop<float> narrow;
  RankingLoop<double> wide;
  OddsLoop odds;
  bool smooth_ranks;
};

namespace base {
extern const RankingEntry ranking_loops[];
}
namespace avx2 {
extern const RankingEntry ranking_loops[];
}
namespace avx512 {
extern const RankingEntry ranking_loops[];
}

}  // namespace fused_losses
