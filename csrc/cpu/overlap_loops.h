// The hot loops of the overlap family, compiled once per instruction set (namespace FL_ISA): sums, then gradient, tile
// by tile of positions.
#include "cpu/overlap.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/classification.h"
#include "formulas/compound.h"

#include "cpu/lanes.h"
#include "cpu/overlap_tile.h"
#include "cpu/class_indices.h"
#include "cpu/overlap_targets.h"
#include "cpu/overlap_second.h"
#include "cpu/overlap_elements.h"
#include "cpu/overlap_blocks.h"
#include "cpu/overlap_softmax_rows.h"
#include "cpu/overlap_softmax.h"

// Calls run(span, tile) for each tile of positions [begin, end).
template <class A, class Run>
void each_tile(const OverlapTask& task, OverlapPart part, Scratch* scratch, const Run& run) {
  OverlapTile<A> tile(task.options.joint() ? task.classes : 1, part.end - part.begin, scratch);
  for (int64_t at = part.begin; at < part.end; at += tile.width) {
    const int64_t n = tile.width < part.end - at ? tile.width : part.end - at;
    run(OverlapSpan{task, part.sample, part.first, part.last, at, n, part.keeps}, &tile);
  }
}

// Whether the span's target is one; its class indices are read.
template <class A>
bool target_of(const OverlapSpan& span, OverlapTile<A>* tile) {
  return span.task.class_index ? load_classes(span, tile->class_index) : span.task.checked || is_target(span);
}

template <class A>
bool overlap_sums(const OverlapTask& task, OverlapPart part, Scratch* scratch, double* sums, double* second) {
  for (int64_t k = 0; k < kRegionSums * (part.last - part.first); ++k) sums[k] = 0;
  second[0] = second[1] = 0;
  bool valid = true;
  each_tile<A>(task, part, scratch, [&](const OverlapSpan& span, OverlapTile<A>* tile) {
    valid = valid && target_of(span, tile);
    if (!valid || part.first == part.last) return;
    if (task.options.joint()) {
      if (span.at == part.begin) tile->clear_sums();
      const OverlapSoftmaxTile<A> all(span, false, tile);
      all.add_sums(sums);
      if (task.options.has_second()) all.add_terms(second);
      if (tile->pending >= kMostPending || span.at + span.n == part.end) tile->flush(sums);
      return;
    }
    for (int64_t c = part.first; c < part.last; ++c) {
      OverlapElementTile<A>(span, c, tile).add_sums(sums + kRegionSums * (c - part.first), second);
    }
  });
  return valid;
}

template <class A>
bool overlap_gradient(const OverlapTask& task, OverlapPart part, Scratch* scratch, const double* by_I,
                      const double* by_P) {
  bool valid = true;
  each_tile<A>(task, part, scratch, [&](const OverlapSpan& span, OverlapTile<A>* tile) {
    valid = valid && target_of(span, tile);
    if (!valid || part.first == part.last) return;
    if (task.options.joint()) return OverlapSoftmaxTile<A>(span, span.keeps, tile).write_gradient(by_I, by_P);
    for (int64_t c = part.first; c < part.last; ++c) {
      const int64_t k = c - part.first;
      OverlapElementTile<A>(span, c, tile).write_gradient(static_cast<A>(by_I[k]), static_cast<A>(by_P[k]));
    }
  });
  return valid;
}

extern const OverlapLoops overlap_loops = {{overlap_sums<float>, overlap_sums<double>},
                                           {overlap_gradient<float>, overlap_gradient<double>}};

}  // namespace fused_losses::FL_ISA
