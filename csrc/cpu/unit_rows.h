// The loops of unit rows in each instruction set.
#pragma once

#include <cstdint>

#include "host/problems.h"

namespace fused_losses {

// The rows [begin, end).
struct UnitRowsLoops {
  void (*forward)(const UnitRows&, int64_t begin, int64_t end);
  void (*backward)(const UnitRows&, int64_t begin, int64_t end);
};

namespace base {
extern const UnitRowsLoops unit_rows_loops;
}
namespace avx2 {
extern const UnitRowsLoops unit_rows_loops;
}
namespace avx512 {
extern const UnitRowsLoops unit_rows_loops;
}

}  // namespace fused_losses
