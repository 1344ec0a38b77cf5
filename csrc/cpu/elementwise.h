// What the driver of the elementwise family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <atomic>
#include <cstdint>

#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct ElementwiseTask : ElementwiseProblem {
  const Options* options;
  Operand incoming;           // gradient of each loss, where they are not reduced
  double scale = 1;           // of every gradient, beside it
  bool non_temporal = false;  // gradients may bypass the caches
  bool mask = false;          // the target holds integers that must be 0, 1 or ignored
  bool ignoring = false;      // of class indices
  int64_t ignored_class = 0;
  std::atomic<int64_t>* invalid;  // lowest index of a value outside the loss's domain
};

// Runs elements [begin, end) and returns the sum of their weighted losses.
using ElementwiseLoop = double (*)(const ElementwiseTask&, int64_t begin, int64_t end);
// Returns how much elements [begin, end) add to the denominator of the mean; null where that is their number.
using ElementwiseCount = double (*)(const ElementwiseTask&, int64_t begin, int64_t end);

struct ElementwiseEntry {
  ElementwiseLoop run[2];  // by accumulation dtype: float, double
  ElementwiseCount count[2];
  bool counts_weights;                           // the denominator is the sum of the weights
  bool mask;                                     // an integer target is a mask
  const char *expected_input, *expected_target;  // what they must be, or null where any will do
  bool (*valid_input)(double);                   // or null
};

namespace base {
extern const ElementwiseEntry elementwise_loops[];
}
namespace avx2 {
extern const ElementwiseEntry elementwise_loops[];
}
namespace avx512 {
extern const ElementwiseEntry elementwise_loops[];
}

}  // namespace fused_losses
