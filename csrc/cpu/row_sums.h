// What the driver of the row-sums family hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <atomic>
#include <cstdint>

#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct RowSumsTask : RowSumsProblem {
  const Options* options;
  bool flat = false;                        // a reduced linear loss: begin and end count elements, not rows
  bool non_temporal = false;                // gradients may bypass the caches
  double scale = 1;                         // of every gradient, beside the incoming gradient of each row
  std::atomic<int64_t>* invalid = nullptr;  // lowest index of an element outside the loss's domain
};

// Runs rows [begin, end) and returns the sum of their losses.
using RowSumsLoop = double (*)(const RowSumsTask&, int64_t begin, int64_t end);

struct RowSumsEntry {
  RowSumsLoop run[2];  // by accumulation dtype: float, double
  bool linear;         // the loss is a sum over elements: rows may be cut anywhere when it is reduced
};

namespace base {
extern const RowSumsEntry row_sums_loops[];
}
namespace avx2 {
extern const RowSumsEntry row_sums_loops[];
}
namespace avx512 {
extern const RowSumsEntry row_sums_loops[];
}

}  // namespace fused_losses
