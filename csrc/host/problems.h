// What a driver and its kernels see of a call: plain pointers, sizes and numbers, one `Problem` for each family. The
// host layer makes them from tensors; free of torch and of CUDA. "accumulation dtype": float64 for float64, else
// float32.
#pragma once

#include <cstdint>
#include <limits>

#include "math/dtype.h"

namespace fused_losses {

// Where the losses of the items (elements, rows, regions, lists, ...) go and what they and the gradients are multiplied
// by: factor / denominator, and the gradients by the incoming one too.
struct Results {
  void* losses = nullptr;          // a loss for each item, accumulation dtype; null: not wanted
  void* total = nullptr;           // [1] accumulation dtype: the reduced loss; null: not wanted
  const void* incoming = nullptr;  // accumulation dtype: [1], or one for each item with `per_item`; null: 1
  bool per_item = false;
  double factor = 1;
  double gradient_factor = 1;  // of the gradients alone
  double denominator = 1;
  bool counts = false;  // the driver finds the denominator: the number, or the weight, of the items that count
  const double* counted = nullptr;  // [1] the denominator where an earlier run has found it; then `counts` is false
};

// One operand of an elementwise loss. Element i of the input's flat order reads data[(i / inner) % period], or data[i]
// where the period is 0.
struct Operand {
  const void* data = nullptr;  // null: not given
  Dtype dtype = Dtype::kFloat32;
  int64_t period = 0, inner = 1;

  explicit operator bool() const { return data != nullptr; }
};

// The target of what is ignored, where targets are made of class indices.
constexpr int kIgnoredTarget = -1;

struct ElementwiseProblem {
  int64_t n = 0;
  Operand input, target;        // [n]; the target may be class indices instead
  int64_t classes = 0;          // C of class indices [n / (C S), S], to an input [n / (C S), C, S]; else 0
  int64_t positions = 0;        // S
  Operand weight, pos_weight;   // broadcast to [n], any dtype
  Operand third, fourth;        // [n] of a loss of more than two tensors
  void* grad_input = nullptr;   // [n] dtype of the input; may be the input's own memory
  void* grad_target = nullptr;  // [n] dtype of the target
  void* grad_third = nullptr;   // [n] dtype of the third
  void* grad_fourth = nullptr;  // [n] dtype of the fourth
  Results results;
};

// Sums over regions: the positions of one class in one sample, or with `batch` in all samples. kept: the classes that
// count, the last ones; each has a loss, or all of a row together one.
struct OverlapProblem {
  int64_t samples = 0, classes = 0, positions = 0;  // B, C, S
  int64_t rows = 0, kept = 0;                       // B or with `batch` 1; C'
  int64_t per_row = 0;                              // losses of a row: kept or 1
  const void* input = nullptr;                      // [B, C, S]
  const void* target = nullptr;                     // [B, C, S] of any dtype, or [B, S] with `class_index`
  const void* weight = nullptr;                     // [kept] of any dtype; null: not given
  const void* class_weight = nullptr;               // [C] of any dtype, of a second term; null: not given
  Dtype input_dtype = Dtype::kFloat32, target_dtype = Dtype::kFloat32, weight_dtype = Dtype::kFloat32;
  Dtype class_weight_dtype = Dtype::kFloat32;
  bool class_index = false;           // the target holds the class of each position
  bool counts_weights = false;        // the mean of the second term divides by the weights of the positions' classes
  bool backward = false;              // writes no results: reads the saved sums and count, and writes the gradient
  void* sums = nullptr;               // [rows, C, 3] accumulation dtype: I, P, G
  void* count = nullptr;              // [1] accumulation dtype: what the mean of a second term divides by
  const void* saved_sums = nullptr;   // as `sums`
  const void* saved_count = nullptr;  // as `count`
  void* gradient = nullptr;           // [B, C, S] dtype of the input; may be the input's own memory
  Results results;                    // `counts` is of the second term; the denominator of the overlap is known
};

// Rows of terms, each summed over its `length` elements; the loss of a row is a function of its sum and its label.
struct RowSumsProblem {
  static constexpr int kOperands = 4;

  int64_t rows = 1, length = 1;
  Operand operands[kOperands];      // [rows, length]; one that is not given reads as 0
  void* gradients[kOperands] = {};  // [rows, length] dtype of the operand; null: not wanted
  Operand labels;                   // [rows]
  Results results;
};

// One softmax, and one loss, for each position [outer, inner].
struct SoftmaxProblem {
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::min();  // no index is ignored

  int64_t outer = 1, classes = 0, inner = 1;
  const void* input = nullptr;   // [outer, classes, inner] logits
  const void* target = nullptr;  // [outer, inner] with `class_index`, else as the input: class probabilities or logits
  const void* weight = nullptr;  // [classes]; null: not given
  Dtype input_dtype = Dtype::kFloat32, target_dtype = Dtype::kFloat32, weight_dtype = Dtype::kFloat32;
  bool class_index = false;      // the target holds the class of each position
  int64_t ignore_index = kNone;  // such positions do not count
  double label_smoothing = 0;    // against classes
  double z_loss = 0;             // against classes: of the square of each position's log sum of exponentials
  void* grad_input = nullptr;    // as input, whose own memory it may be
  void* grad_target = nullptr;   // as target, of logits
  Results results;               // `counts`: the positions, or the weights of their classes

  constexpr int64_t positions() const { return outer * inner; }
  constexpr bool ignoring() const { return ignore_index != kNone; }
  constexpr bool ignores(int64_t class_index) const { return ignoring() && class_index == ignore_index; }
};

// A tile of the similarities of embeddings, rows of one set and columns of another or the same. "logit": scale times
// the similarity plus bias.
struct PairsProblem {
  int64_t rows = 0, columns = 0, first = 0;  // row i is, or belongs to, column first + i
  Dtype dtype = Dtype::kFloat32;             // of everything here: the accumulation dtype
  void* tile = nullptr;                      // [rows, columns] similarities, which become their gradient
  const int64_t* row_labels = nullptr;       // [rows], null: no labels
  const int64_t* column_labels = nullptr;    // [columns]
  const int32_t* row_groups = nullptr;       // as the labels, numbered by the driver where it has use for that
  const int32_t* column_groups = nullptr;
  const void *scale = nullptr, *bias = nullptr;  // [1]; null: 1 and 0
  void* row_statistics = nullptr;                // [rows, the loss's number of them]
  void* column_statistics = nullptr;             // [columns, that number], or [columns] log sums of exponentials
  int64_t merged_from = 0;                       // the rows are merged into the columns from this one on:
  void* column_max = nullptr;                    // [columns] running: the largest logit
  double* column_sums = nullptr;                 // [columns, the loss's number of them] and the sums below it
  const void* known_max = nullptr;               // [rows] as columns of earlier tiles; null: of none
  const double* known_sums = nullptr;            // [rows, that number]
  void* losses = nullptr;                        // [rows]
  void* scalars = nullptr;                       // [rows, 2] the sums of the gradients of scale and of bias of a row
  Results results;                               // of the gradients; `counts`: the rows that count
};

// A labelled set of embeddings, and for each row, an anchor, the farthest row of its label and the nearest of another.
// A tile has the rows [first, first + rows). "chosen": both rows' numbers, -1 where the anchor lacks one and counts
// not; the factors of (anchor - row) in the gradient by the anchor.
struct ExtremesProblem {
  int64_t rows = 0, columns = 0, first = 0, features = 0;
  Dtype dtype = Dtype::kFloat32;    // the accumulation dtype
  Dtype x_dtype = Dtype::kFloat32;  // of the embeddings as the products read them
  const void* x = nullptr;          // [columns, features]
  void* norms = nullptr;            // [columns] squared
  const void* tile = nullptr;       // [rows, columns] the column's squared norm less twice the product with the row
  const int64_t* labels = nullptr;  // [columns]
  const int32_t* groups = nullptr;  // as the labels, numbered by the driver where it has use for that
  void* chosen = nullptr;           // [columns, 4]
  void* losses = nullptr;           // [columns]
  void* gradient = nullptr;         // [columns, features] in the accumulation dtype
  Results results;                  // `counts`: the anchors that count
};

// Lists of items: the loss of a list comes from all pairs of its items.
struct RankingProblem {
  int64_t lists = 0, n = 0;
  Operand scores, relevance;      // [lists, n]
  const uint8_t* mask = nullptr;  // [lists, n] 0: no item; null: all are
  void* gradient = nullptr;       // [lists, n] dtype of the scores, whose own memory it may be
  Results results;
};

// Sentences as distributions over tokens, against one reference each.
struct SequenceProblem {
  int64_t batch = 0, steps = 0, classes = 0, places = 0;
  Operand logits;            // [batch, steps, classes]
  Operand target;            // [batch, places] class indices
  Operand logits_lengths;    // [batch] how many steps count; not given: all
  Operand target_lengths;    // [batch] how many places count; not given: all
  void* gradient = nullptr;  // as the logits, whose own memory it may be
  Results results;
};

// Rows and what they are over their norms. "rows", "norms", "incoming" are in the accumulation dtype.
struct UnitRows {
  int64_t count = 0, length = 0;
  Dtype dtype = Dtype::kFloat32;   // of the input and its gradient
  const void* input = nullptr;     // [count, length] of the forward
  void* rows = nullptr;            // [count, length] written by the forward, read by the backward
  void* norms = nullptr;           // [count] likewise
  const void* incoming = nullptr;  // [count, length] of the backward, as is
  void* gradient = nullptr;        // [count, length]
};

}  // namespace fused_losses
