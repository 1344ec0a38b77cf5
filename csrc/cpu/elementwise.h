// What the tensor side of the elementwise family hands to the hot loops, and the table of loops of each instruction
// set.
#pragma once

#include <atomic>
#include <cstdint>

#include "math/dtype.h"
#include "losses.h"

namespace fused_losses {

// Where one operand's values come from. Element i of the input's flat order reads data[(i / inner) % period], or
// data[i] when period is 0.
struct Source {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t period = 0;
  int64_t inner = 1;

  explicit operator bool() const { return data != nullptr; }
};

// One call: operands, outputs (null where not wanted) and the factor of every gradient.
struct ElementwiseTask {
  Source input, target, weight, pos_weight;
  Source incoming;  // gradient of a loss that was not reduced
  const Options* options;
  bool stream = false;            // gradients may go past the caches
  double scale = 1;               // incoming scalar gradient / denominator
  void* loss = nullptr;           // [n] accumulation dtype
  void* grad_input = nullptr;     // [n] dtype of input
  void* grad_target = nullptr;    // [n] dtype of target
  std::atomic<int64_t>* invalid;  // lowest index of a target outside the loss's domain
};

// Runs elements [begin, end) and returns the sum of their weighted losses.
using ElementwiseLoop = double (*)(const ElementwiseTask&, int64_t begin, int64_t end);
// Returns how much elements [begin, end) add to the denominator of the mean; null where that is their number.
using ElementwiseCount = double (*)(const ElementwiseTask&, int64_t begin, int64_t end);

struct ElementwiseEntry {
  ElementwiseLoop run[2];  // by accumulation dtype: float, double
  ElementwiseCount count[2];
  bool counts_weights;          // the denominator is the sum of the weights
  const char* expected_target;  // what a target must be, or null where any will do
};

#define FL_ENUMERATE(op, Functor, ...) op,
enum class ElementwiseOp : int { FL_ELEMENTWISE_LOSSES(FL_ENUMERATE) kCount };
#undef FL_ENUMERATE

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
