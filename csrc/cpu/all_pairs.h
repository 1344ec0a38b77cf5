// What the CPU driver of the all-pairs family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <cstdint>

#include "host/pairs_traits.h"
#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct PairsTask : PairsProblem {
  const Options* options;
  double factor = 1;         // of every gradient
  bool first_merge = false;  // into the columns, of which nothing is known
};

constexpr int64_t kColumnBlock = 512;  // columns that a thread merges the rows of a chunk for

// Rows [begin, end): their losses and statistics; the gradient of their similarities in place. Columns [begin, end):
// the logits' running maximum and the sums below it, over the rows of the tile too; null in a loss without them.
using PairsLoop = void (*)(const PairsTask&, int64_t begin, int64_t end);

struct PairsEntry {
  PairsLoop statistics[2], gradient[2], columns[2];  // by accumulation dtype: float, double
};
struct PairsLoops {
  const PairsEntry* entries;
};

namespace base {
extern const PairsLoops pairs_loops;
}
namespace avx2 {
extern const PairsLoops pairs_loops;
}
namespace avx512 {
extern const PairsLoops pairs_loops;
}

}  // namespace fused_losses
