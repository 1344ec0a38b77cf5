// The CPU driver of the softmax family, what it hands to its hot loops, and their table, one for each instruction set.
#pragma once

#include <atomic>
#include <cstdint>

#include "host/problems.h"
#include "losses.h"

namespace fused_losses {

// A Problem with what one call adds to it.
struct SoftmaxTask : SoftmaxProblem {
  const Options* options;
  const void* class_weight;       // [padded_classes] accumulation dtype, or null: ones, against class indices
  double scale = 1;               // of every gradient, beside its position's incoming one
  std::atomic<int64_t>* invalid;  // lowest flat index of a class index out of range
};

// Runs a Problem; rows complete in it (inner 1) may be a tile that holds the logits and receives their gradient.
void run_softmax(LossId id, const Options& options, const SoftmaxProblem& problem);

// What the class indices of a Problem add up to in the denominator of its mean: their number, or the sum of their
// weights.
double count_classes(const SoftmaxProblem& problem, bool weighted);
// Refuses a class index out of range in the name of `op`.
void check_class_indices(const char* op, const SoftmaxProblem& problem);

// Rows are run one by one with classes in the vector lanes; everything else in tiles [classes, lanes] of positions.
constexpr int64_t kRowBlock = 4096;     // classes of a row that share one shift of their exponentials
constexpr int64_t kFewClasses = 32;     // rows of fewer are run as tiles
constexpr int64_t kPaddedBelow = 2048;  // shorter rows are filled up to whole vectors
constexpr int64_t kMaxLanes = 256;
constexpr int64_t kGatherInner = 16;  // a smaller inner dimension is gathered from several outer ones

constexpr int64_t padded_classes(int64_t classes) { return (classes + 15) / 16 * 16; }

constexpr bool runs_as_rows(int64_t classes, int64_t inner) { return inner == 1 && classes >= kFewClasses; }

// Positions of a tile: at least one cache line, at most what keeps a tile in L2.
constexpr int64_t tile_lanes(int64_t classes) {
  const int64_t lanes = (int64_t{1} << 15) / (classes > 0 ? classes : 1) / 16 * 16;
  return lanes < 16 ? 16 : lanes < kMaxLanes ? lanes : kMaxLanes;
}

// Elements of one scratch array: a row or a tile, and those of all of them (with the statistics of a row's blocks).
constexpr int64_t scratch_stride(int64_t classes, int64_t inner) {
  const int64_t lanes = runs_as_rows(classes, inner) ? 1 : tile_lanes(classes);
  return (classes * lanes + 31) / 16 * 16;
}
constexpr int kScratchArrays = 5;
constexpr int64_t scratch_size(int64_t classes, int64_t inner) {
  return kScratchArrays * scratch_stride(classes, inner) + 4 * (classes / kRowBlock + 1);
}

// Runs positions [begin, end), whole groups of `inner` where that is below kGatherInner, and returns the sum of their
// losses. scratch: [scratch_size] of the accumulation dtype, 64-byte aligned.
using SoftmaxLoop = double (*)(const SoftmaxTask&, int64_t begin, int64_t end, void* scratch);

struct SoftmaxEntry {
  SoftmaxLoop run[2];  // by accumulation dtype: float, double
  bool pair;           // the target holds logits and has a gradient
  bool weighted_mean;  // the mean over class indices divides by the sum of the weights
};

// What the positions [begin, end) of class indices add to the denominator of the mean: the weights of their classes,
// ones where null. Indices out of range are left to the loops.
namespace base {
extern const SoftmaxEntry softmax_loops[];
double counted(const SoftmaxProblem& problem, const double* weight, int64_t begin, int64_t end);
}  // namespace base
namespace avx2 {
extern const SoftmaxEntry softmax_loops[];
double counted(const SoftmaxProblem& problem, const double* weight, int64_t begin, int64_t end);
}  // namespace avx2
namespace avx512 {
extern const SoftmaxEntry softmax_loops[];
double counted(const SoftmaxProblem& problem, const double* weight, int64_t begin, int64_t end);
}  // namespace avx512

}  // namespace fused_losses
