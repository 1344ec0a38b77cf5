// What the driver of the overlap family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <cstdint>

#include "host/overlap_options.h"
#include "host/problems.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct OverlapTask : OverlapProblem {
  OverlapOptions options;
  bool keeps = false;       // the sums leave the probabilities in the gradient, which is computed from them
  double second_scale = 0;  // factor of the second term's gradient
};

// Sums over positions [begin, end) of one sample: sums[3 * c + {0, 1, 2}] = I, P, G of class c in [first, last);
// second[2]: the second terms, and the number of elements (softmax: positions) that count for their mean.
// Returns the lowest position whose class index is not a class, or -1.
using OverlapSums = int64_t (*)(const OverlapTask&, int64_t sample, int64_t first, int64_t last, int64_t begin,
                                int64_t end, double* sums, double* second);
// Writes the gradient at positions [begin, end) of one sample: with p the activated input, by_I[c] g + by_P[c] (2 p
// with `squared`) pulled back through the activation, and second_scale times the second term's.
using OverlapGradient = void (*)(const OverlapTask&, int64_t sample, int64_t first, int64_t last, int64_t begin,
                                 int64_t end, const double* by_I, const double* by_P);

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
