// What the tensor side of the row-sums family hands to the hot loops: rows of terms summed over their last dimension.
#pragma once

#include <cstdint>

#include "math/dtype.h"
#include "losses.h"

namespace fused_losses {

// One call. Element j of row i of operand k is operand[k][i * length + j], in operand_dtype[k]; a missing one is 0.
struct RowSumsTask {
  const void* operand[4] = {};  // [rows, length]
  Dtype operand_dtype[4] = {};
  void* grad[4] = {};            // [rows, length] dtype of the operand; null where not wanted
  const void* target = nullptr;  // [rows] any dtype, for losses that have one
  Dtype target_dtype = Dtype::kFloat32;
  const void* incoming = nullptr;  // [rows] accumulation dtype: gradient of a loss that was not reduced
  void* loss = nullptr;            // [rows] accumulation dtype, for "none"
  int64_t length = 0;
  bool flat = false;    // a reduced linear loss: begin and end count elements, not rows
  bool stream = false;  // gradients may go past the caches
  double scale = 1;     // incoming scalar gradient / denominator
  const Options* options = nullptr;
};

// Runs rows [begin, end) and returns the sum of their losses.
using RowSumsLoop = double (*)(const RowSumsTask&, int64_t begin, int64_t end);

struct RowSumsEntry {
  RowSumsLoop run[2];  // by accumulation dtype: float, double
  bool linear;         // the loss is a sum over elements: rows may be cut anywhere when it is reduced
};

#define FL_ENUMERATE(op, Functor, ...) op,
enum class RowSumsOp : int { FL_ROW_SUMS(FL_ENUMERATE) kCount };
#undef FL_ENUMERATE

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
