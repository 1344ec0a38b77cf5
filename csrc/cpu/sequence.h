// What the driver of the sequence family hands to the hot loops.
#pragma once

#include <cstdint>

#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

// A Problem with what one call adds to it. Arrays of A are of the accumulation dtype. Places beyond a reference's
// length and steps beyond a sentence's are not touched.
struct SequenceTask : SequenceProblem {
  const Options* options;
  int64_t orders;                   // n-grams counted: min(max_order, steps, places)
  const int64_t* sentence_length;   // [batch]
  const int64_t* reference_length;  // [batch]
  const int64_t* token;             // [batch, places]
  const int64_t* same;              // [batch, places] first place of that token
  const int64_t* count;  // [batch, orders, places] how often the n-gram that starts there stands in the reference
  void* softmax;         // [batch, steps, 2] A: row maximum and 1 / sum of the exponentials
  void* probability;     // [batch, steps, places] A: of the reference's token
  void* by_probability;  // the same shape: derivative of the result by it; null without gradient
  double scale = 1;      // of every gradient, beside the incoming gradient of each sample
};

// Reads the rows (sample, step) [begin, end): softmax and probability.
using SequenceRead = void (*)(const SequenceTask&, int64_t begin, int64_t end);
// The loss of one sample from its probabilities; fills by_probability. scratch: [(2 * orders + 1) * places] A.
using SequenceMatch = double (*)(const SequenceTask&, int64_t sample, void* scratch);
// Writes the gradients of the rows [begin, end).
using SequenceWrite = void (*)(const SequenceTask&, int64_t begin, int64_t end);

struct SequenceEntry {
  SequenceRead read[2];  // by accumulation dtype: float, double
  SequenceMatch match[2];
  SequenceWrite write[2];
};

namespace base {
extern const SequenceEntry sequence_loops;
}
namespace avx2 {
extern const SequenceEntry sequence_loops;
}
namespace avx512 {
extern const SequenceEntry sequence_loops;
}

}  // namespace fused_losses
