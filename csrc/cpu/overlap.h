// What the driver of the overlap family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/scratch.h"
#include "host/overlap_options.h"
#include "host/problems.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct OverlapTask : OverlapProblem {
  OverlapOptions options;
  double second_scale = 0;                // factor of the second term's gradient
  const double* class_weights = nullptr;  // [C], of the second term; null: not given
  bool checked = false;                   // the sums of this call have seen the whole target
};

// Positions [begin, end) of one sample, of which the classes [first, last). keeps: the sums leave the probabilities in
// the gradient, which is computed from them.
struct OverlapPart {
  int64_t sample, first, last, begin, end;
  bool keeps;
};

// Sums of each class of a part, [last - first, kRegionSums]; second[2]: the second terms, and the number of elements
// (softmax: positions, or their weights) that count for their mean. False, and no sums, where a class index or a mask's
// value is none.
using OverlapSums = bool (*)(const OverlapTask&, OverlapPart, Scratch*, double* sums, double* second);
// Writes the gradient of a part: with p the activated input, by_I[c] g + by_P[c] (2 p with `squared`) pulled back
// through the activation, and second_scale times the second term's. by_I, by_P [last - first]. False as for the sums.
using OverlapGradient = bool (*)(const OverlapTask&, OverlapPart, Scratch*, const double* by_I, const double* by_P);

struct OverlapLoops {
  OverlapSums sums[2];  // by accumulation dtype: float, double
  OverlapGradient gradient[2];
};

namespace base {
extern const OverlapLoops overlap_loops;
}
namespace avx2 {
extern const OverlapLoops overlap_loops;
}
namespace avx512 {
extern const OverlapLoops overlap_loops;
}

}  // namespace fused_losses
