// What the CPU driver of the extremes family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <cstdint>

#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

struct ExtremesTask : ExtremesProblem {
  const Options* options = nullptr;
  double factor = 1;  // of the gradient
  // Who chose a row: entries [begins[k], begins[k + 1]) are 2 anchor, or 2 anchor + 1 where it is the negative.
  const int64_t *begins = nullptr, *entries = nullptr;
};

// Rows [begin, end): of the tile their choice and loss; of all rows their gradient.
using ExtremesLoop = void (*)(const ExtremesTask&, int64_t begin, int64_t end);

struct ExtremesLoops {
  ExtremesLoop norms[2], choose[2], gradient[2];  // by accumulation dtype: float, double
};

namespace base {
extern const ExtremesLoops extremes_loops;
}
namespace avx2 {
extern const ExtremesLoops extremes_loops;
}
namespace avx512 {
extern const ExtremesLoops extremes_loops;
}

}  // namespace fused_losses
