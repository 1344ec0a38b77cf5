// The hot loops of the softmax family, compiled once per instruction set (namespace FL_ISA): which logits, targets and
// gradients are used in place and which pass through scratch, row by row or tile by tile.
#include "cpu/softmax.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/contract.h"
#include "formulas/classification.h"
#include "formulas/divergence.h"
#include "formulas/custom.h"

#include "cpu/lanes.h"
#include "cpu/class_indices.h"
#include "cpu/lowest.h"
#include "cpu/transpose.h"
#include "cpu/softmax_rows.h"
#include "cpu/softmax_tiles.h"

template <class A>
constexpr Dtype kDtypeOf = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// The class of a position, or -1 where it does not count; a class out of range is noted and does not count.
inline int64_t class_of(const SoftmaxTask& task, int64_t position) {
  const int64_t y = integer_at(task.target, task.target_dtype, position);
  if (task.ignores(y)) return -1;
  if (y >= 0 && y < task.classes) return y;
  note_lowest(task.invalid, position);
  return -1;
}

// Those of n positions from `at`.
template <class Index>
void classes_of(const SoftmaxTask& task, int64_t at, int64_t n, Index* y) {
  const bool valid = with_integers(task.target, task.target_dtype, [&](const auto* from) {
    return read_classes(from + at, n, task.classes, task.ignoring(), task.ignore_index, y);
  });
  for (int64_t i = 0; !valid && i < n; ++i) y[i] = static_cast<Index>(class_of(task, at + i));
}

// The factor of a position's gradient.
template <class A>
A scale_of(const SoftmaxTask& task, int64_t position) {
  const A scale = static_cast<A>(task.scale);
  return task.results.per_item ? scale * static_cast<const A*>(task.results.incoming)[position] : scale;
}

// The scratch arrays of one thread: rows or tiles by number, then the statistics of a row's blocks.
template <class A>
struct SoftmaxScratch {
  A* data;
  int64_t stride;

  A* array(int i) const { return data + i * stride; }
  A* blocks() const { return data + kScratchArrays * stride; }
};

enum ScratchArray : int { kInput, kExp, kTarget, kTargetExp, kRaw };

// ---- Rows ----

// A row of n values in place where it can be, else in `buffer`, filled up to `padded`.
template <class A>
const A* row_values(const void* data, Dtype dtype, int64_t offset, int64_t n, int64_t padded, A fill, A* buffer) {
  if (dtype == kDtypeOf<A> && padded == n) return static_cast<const A*>(data) + offset;
  load_block(data, dtype, offset, n, buffer);
  for (int64_t i = n; i < padded; ++i) buffer[i] = fill;
  return buffer;
}

template <class A>
A* row_output(void* data, Dtype dtype, int64_t offset, bool direct, A* buffer) {
  return data && direct && dtype == kDtypeOf<A> ? static_cast<A*>(data) + offset : buffer;
}

template <class A>
void row_store(const A* values, const A* buffer, void* data, Dtype dtype, int64_t offset, int64_t n) {
  if (data && values == buffer) store_block(values, data, dtype, offset, n);
}

// The logits of row r, filled up to n; *next: those of the row after it, where they can be read in place.
template <class A>
const A* logits_of_row(const SoftmaxTask& task, const void* data, Dtype dtype, int64_t r, int64_t n, bool last,
                       A* buffer, NextRow<A>* next) {
  const A* row = row_values(data, dtype, r * task.classes, task.classes, n, -infinity_<A>(), buffer);
  next->values = row != buffer && !last ? row + n : nullptr;
  return row;
}

// Row r against class indices or probabilities. e: [n], which becomes the gradient; returns the loss.
template <class F, class A>
A class_row(const F f, const SoftmaxTask& task, int64_t r, int64_t n, bool last, A* e, const SoftmaxScratch<A> scratch,
            NextRow<A>* next) {
  const int64_t classes = task.classes;
  const bool gradient = task.grad_input != nullptr;
  const int64_t y = task.class_index ? class_of(task, r) : 0;
  if (y < 0) {
    for (int64_t i = 0; gradient && i < classes; ++i) e[i] = 0;
    next->known = false;
    return 0;
  }
  const A* x = logits_of_row(task, task.input, task.input_dtype, r, n, last, scratch.array(kInput), next);
  const A* w = static_cast<const A*>(task.class_weight);
  const A scale = scale_of<A>(task, r), z = static_cast<A>(task.z_loss);
  const A kept = static_cast<A>(1 - task.label_smoothing), spread = static_cast<A>(task.label_smoothing / classes);
  if (!task.class_index) {
    const A* given = row_values(task.target, task.target_dtype, r * classes, classes, n, A(0), scratch.array(kTarget));
    const Mixture<A> mixture{given, w, kept, spread};
    return mixture_row<true>(f, x, e, scratch.blocks(), n, mixture, int64_t{-1}, A(0), z, gradient, scale, next);
  }
  if (task.label_smoothing != 0) {
    const Mixture<A> mixture{nullptr, w, kept, spread};
    return mixture_row<false>(f, x, e, scratch.blocks(), n, mixture, y, kept * w[y], z, gradient, scale, next);
  }
  return index_row(f, x, gradient ? e : nullptr, scratch.blocks(), n, y, w ? w[y] : A(1), z, scale, next);
}

template <class F, class A>
double softmax_rows(const F f, const SoftmaxTask& task, int64_t begin, int64_t end, const SoftmaxScratch<A> scratch) {
  const int64_t classes = task.classes;
  // Logits of -inf fill a short row up to whole vectors: the scalar rest of three loops costs more than copying it.
  const int64_t n = F::kFills && classes < kPaddedBelow ? padded_classes(classes) : classes;
  // The loops' pointers do not alias: a gradient that replaces the logits passes through scratch.
  const bool whole = n == classes, direct = whole && task.grad_input != task.input;
  A* losses = static_cast<A*>(task.results.losses);
  A *e_buffer = scratch.array(kExp), *ez_buffer = scratch.array(kTargetExp);
  double sum = 0;
  NextRow<A> next[2];  // of the input, of the target
  for (int64_t r = begin; r < end; ++r) {
    const int64_t offset = r * classes;
    const bool last = r + 1 == end;
    A* e = row_output(task.grad_input, task.input_dtype, offset, direct, e_buffer);
    A loss;
    if constexpr (F::kPair) {
      A* ez = row_output(task.grad_target, task.target_dtype, offset, whole, ez_buffer);
      const A* x = logits_of_row(task, task.input, task.input_dtype, r, n, last, scratch.array(kInput), &next[0]);
      const A* z = logits_of_row(task, task.target, task.target_dtype, r, n, last, scratch.array(kTarget), &next[1]);
      loss = pair_row(f, x, e, z, ez, scratch.blocks(), n, task.grad_input != nullptr, task.grad_target != nullptr,
                      scale_of<A>(task, r), next);
      row_store(ez, ez_buffer, task.grad_target, task.target_dtype, offset, classes);
    } else {
      loss = class_row(f, task, r, n, last, e, scratch, next);
    }
    row_store(e, e_buffer, task.grad_input, task.input_dtype, offset, classes);
    if (losses) losses[r] = loss;
    sum += static_cast<double>(loss);
  }
  return sum;
}

// ---- Tiles ----

// Positions [at, at + n) of [outer, classes, inner] as a tile: inside one outer index, or whole outer indices.
struct Span {
  int64_t at, n, classes, inner;

  bool gathered() const { return inner < kGatherInner; }
  int64_t offset() const { return gathered() ? at * classes : at / inner * classes * inner + at % inner; }
};

// values[(o, c, k)] <-> tile[c, (o, k)] for `outer` whole outer indices.
template <class A>
void gather(const A* __restrict values, int64_t outer, int64_t classes, int64_t inner, A* __restrict tile,
            int64_t step) {
  if (inner == 1) return transpose(values, classes, tile, step, outer, classes);
  for (int64_t o = 0; o < outer; ++o, values += classes * inner, tile += inner) {
    for (int64_t c = 0; c < classes; ++c) {
      for (int64_t k = 0; k < inner; ++k) tile[c * step + k] = values[c * inner + k];
    }
  }
}

template <class A>
void scatter(const A* __restrict tile, int64_t step, int64_t outer, int64_t classes, int64_t inner,
             A* __restrict values) {
  if (inner == 1) return transpose(tile, step, values, classes, classes, outer);
  for (int64_t o = 0; o < outer; ++o, values += classes * inner, tile += inner) {
    for (int64_t c = 0; c < classes; ++c) {
      for (int64_t k = 0; k < inner; ++k) values[c * inner + k] = tile[c * step + k];
    }
  }
}

// Copies the span into `tile`. Not used in place: rows a power of two apart would share the same few cache sets.
template <class A>
SoftmaxTile<const A> tile_values(const void* data, Dtype dtype, const Span s, A* tile, A* raw, int64_t lanes) {
  const int64_t offset = s.offset();
  if (s.gathered()) {
    const bool in_place = dtype == kDtypeOf<A>;
    if (!in_place) load_block(data, dtype, offset, s.n * s.classes, raw);
    gather(in_place ? static_cast<const A*>(data) + offset : raw, s.n / s.inner, s.classes, s.inner, tile, lanes);
  } else {
    for (int64_t c = 0; c < s.classes; ++c) load_block(data, dtype, offset + c * s.inner, s.n, tile + c * lanes);
  }
  return {tile, lanes};
}

template <class A>
void tile_store(const SoftmaxTile<A> tile, void* data, Dtype dtype, const Span s, A* raw) {
  if (!data) return;
  const int64_t offset = s.offset();
  if (s.gathered()) {
    const bool in_place = dtype == kDtypeOf<A>;
    A* to = in_place ? static_cast<A*>(data) + offset : raw;
    scatter(tile.data, tile.step, s.n / s.inner, s.classes, s.inner, to);
    if (!in_place) store_block(raw, data, dtype, offset, s.n * s.classes);
  } else {
    for (int64_t c = 0; c < s.classes; ++c) {
      store_block(tile.data + c * tile.step, data, dtype, offset + c * s.inner, s.n);
    }
  }
}

// The rows of a tile where they lie in memory as A, which may be const; null where they are of another dtype or
// gathered.
template <class A, class Void>
SoftmaxTile<A> rows_in_memory(Void* data, Dtype dtype, const Span s) {
  if (!data || dtype != kDtypeOf<std::remove_const_t<A>> || s.gathered()) return {nullptr, 0};
  return {static_cast<A*>(data) + s.offset(), s.inner};
}

// The rows that are asked for beside those of a tile e; its own where there are too many, or none in memory.
template <class A>
SoftmaxAhead<A> rows_ahead(const void* logits, Dtype dtype, const void* gradient, const Span s,
                           const SoftmaxTile<A> e) {
  const auto x = rows_in_memory<const A>(logits, dtype, s), d = rows_in_memory<const A>(gradient, dtype, s);
  if (!x.data || s.classes > kMostAhead) return {e.data, e.data, e.step};
  return {x.data + s.n, d.data ? d.data : x.data, s.inner};
}

// Where the gradient of a tile is computed: at its place, if it has whole lines there, or in `tile`, from which
// tile_store brings it there.
template <class A>
SoftmaxTile<A> tile_output(const SoftmaxTask& task, const Span s, const SoftmaxTile<A> tile) {
  if (!task.grad_input) return {nullptr, 0};
  const SoftmaxTile<A> rows = rows_in_memory<A>(task.grad_input, task.input_dtype, s);
  return rows.data && s.n % Line<A>::kLanes == 0 ? rows : tile;
}

template <class F, class A>
void class_tile(const F f, const SoftmaxTask& task, const Span span, const SoftmaxScratch<A> scratch, int64_t step,
                SoftmaxLanes<A>* lanes, A* __restrict scale) {
  const int64_t n = span.n, classes = task.classes;
  const SoftmaxTile<const A> x =
      tile_values(task.input, task.input_dtype, span, scratch.array(kInput), scratch.array(kRaw), step);
  const SoftmaxTile<A> e{scratch.array(kExp), step};
  const SoftmaxAhead<A> ahead = rows_ahead(task.input, task.input_dtype, task.grad_input, span, e);
  const A* w = static_cast<const A*>(task.class_weight);
  const A kept = static_cast<A>(1 - task.label_smoothing), spread = static_cast<A>(task.label_smoothing / classes);
  const A z = static_cast<A>(task.z_loss);
  if (!task.class_index) {
    const SoftmaxTile<const A> y =
        tile_values(task.target, task.target_dtype, span, scratch.array(kTarget), scratch.array(kRaw), step);
    const ClassIndex<A>* no_extra = nullptr;
    const A* no_share = nullptr;
    mixture_tile<true>(f, x, e, y, w, kept, spread, classes, ahead, lanes, no_extra, no_share, z,
                       task.grad_input != nullptr, scale, n);
  } else {
    alignas(64) ClassIndex<A> y[kMaxLanes];
    alignas(64) A share[kMaxLanes];
    classes_of(task, span.at, n, y);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      share[i] = y[i] < 0 ? A(0) : A(1);
      scale[i] = y[i] < 0 ? A(0) : scale[i];
    }
    for (int64_t i = 0; w && i < n; ++i) share[i] = y[i] < 0 ? A(0) : w[y[i]];
    if (task.label_smoothing != 0) {
      for (int64_t i = 0; i < n; ++i) share[i] *= kept;
      mixture_tile<false>(f, x, e, SoftmaxTile<const A>{nullptr, 0}, w, kept, spread, classes, ahead, lanes, y, share,
                          z, task.grad_input != nullptr, scale, n);
    } else {
      const SoftmaxTile<A> to = tile_output(task, span, e);
      index_tile(f, x, e, to, classes, ahead, lanes, y, share, z, scale, n);
      if (to.data != e.data) return;
    }
  }
  tile_store(e, task.grad_input, task.input_dtype, span, scratch.array(kRaw));
}

template <class F, class A>
double softmax_tiles(const F f, const SoftmaxTask& task, int64_t begin, int64_t end, const SoftmaxScratch<A> scratch) {
  const int64_t step = tile_lanes(task.classes);
  const int64_t most = task.inner < kGatherInner ? step / task.inner * task.inner : step;
  A* losses = static_cast<A*>(task.results.losses);
  SoftmaxLanes<A> lanes;
  alignas(64) A scale[kMaxLanes];
  double sum = 0;
  for (int64_t at = begin, n = 0; at < end; at += n) {
    n = most < end - at ? most : end - at;
    if (task.inner >= kGatherInner && task.inner - at % task.inner < n) n = task.inner - at % task.inner;
    const Span span{at, n, task.classes, task.inner};
    for (int64_t i = 0; i < n; ++i) scale[i] = scale_of<A>(task, at + i);
    if constexpr (F::kPair) {
      SoftmaxLanes<A> target_lanes;
      A* raw = scratch.array(kRaw);
      const SoftmaxTile<const A> x = tile_values(task.input, task.input_dtype, span, scratch.array(kInput), raw, step);
      const SoftmaxTile<const A> z =
          tile_values(task.target, task.target_dtype, span, scratch.array(kTarget), raw, step);
      const SoftmaxTile<A> ex{scratch.array(kExp), step};
      const SoftmaxTile<A> ez{scratch.array(kTargetExp), step};
      const auto x_ahead = rows_ahead(task.input, task.input_dtype, task.grad_input, span, ex);
      const auto z_ahead = rows_ahead(task.target, task.target_dtype, task.grad_target, span, ez);
      pair_tile(f, x, ex, z, ez, task.classes, x_ahead, z_ahead, &lanes, &target_lanes, task.grad_input != nullptr,
                task.grad_target != nullptr, scale, n);
      tile_store(ex, task.grad_input, task.input_dtype, span, raw);
      tile_store(ez, task.grad_target, task.target_dtype, span, raw);
    } else {
      class_tile(f, task, span, scratch, step, &lanes, scale);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(lanes.loss[i]);
    if (losses) std::memcpy(losses + at, lanes.loss, static_cast<size_t>(n) * sizeof(A));
  }
  return sum;
}

template <template <class> class Functor, class A>
double softmax_loop(const SoftmaxTask& task, int64_t begin, int64_t end, void* scratch) {
  return Functor<A>::with(*task.options, [&](auto f) -> double {
    using F = decltype(f);
    const SoftmaxScratch<A> arrays{static_cast<A*>(scratch), scratch_stride(task.classes, task.inner)};
    if (runs_as_rows(task.classes, task.inner)) return softmax_rows<F, A>(f, task, begin, end, arrays);
    return softmax_tiles<F, A>(f, task, begin, end, arrays);
  });
}

template <template <class> class Functor>
constexpr SoftmaxEntry softmax_entry() {
  SoftmaxEntry entry{{softmax_loop<Functor, float>, softmax_loop<Functor, double>}, Functor<float>::kPair, false};
  if constexpr (!Functor<float>::kPair) entry.weighted_mean = Functor<float>::kWeightedMean;
  return entry;
}

double counted(const SoftmaxProblem& problem, const double* weight, int64_t begin, int64_t end) {
  const int64_t ignored_class = problem.ignore_index;
  return with_integers(problem.target, problem.target_dtype, [&](const auto* y) {
    if (!weight && !problem.ignoring()) return static_cast<double>(end - begin);
    if (!weight) {
      int64_t count = 0;
#pragma omp simd reduction(+ : count)
      for (int64_t i = begin; i < end; ++i) count += static_cast<int64_t>(y[i]) != ignored_class;
      return static_cast<double>(count);
    }
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = static_cast<int64_t>(y[i]);
      if (!problem.ignores(c) && c >= 0 && c < problem.classes) sum += weight[c];
    }
    return sum;
  });
}

#define FL_ENTRY(op, Functor, ...) softmax_entry<Functor>(),
extern const SoftmaxEntry softmax_loops[] = {FL_SOFTMAX_LOSSES(FL_ENTRY) FL_SOFTMAX_PAIR_LOSSES(FL_ENTRY)};
#undef FL_ENTRY

}  // namespace fused_losses::FL_ISA
