// The hot loops of the overlap family, compiled once per instruction set (namespace FL_ISA).
// Positions are worked on in tiles that stay in the first cache: all classes of a tile at once for softmax.
#include "cpu/overlap.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/classification.h"
#include "formulas/compound.h"

#include "cpu/overlap_rows.h"

constexpr int64_t kTileValues = 4096;  // classes x positions of a tile
constexpr int64_t kTileMost = 1024, kTileLeast = 16;
constexpr int kLanes = 4;  // counters of a class

template <class A>
constexpr Dtype kTileDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// One tile's memory, for `rows` classes of up to `width` positions, no more than there are.
template <class A>
struct Tile {
  int64_t rows, width;
  A *memory, *values, *probabilities, *targets;                  // [rows, width]; values and targets where converted
  A *classes, *most, *inverse, *inner, *keep, *log, *share, *u;  // [width]
  int32_t* counts;                                               // as count_classes wants it

  Tile(int64_t rows, int64_t positions) : rows(rows) {
    width = kTileValues / (rows > 0 ? rows : 1) / kTileLeast * kTileLeast;
    const int64_t needed = (positions + kTileLeast - 1) / kTileLeast * kTileLeast;
    for (const int64_t limit : {kTileMost, needed}) width = width > limit ? limit : width;
    width = width < kTileLeast ? kTileLeast : width;
    const int64_t size = (3 * rows + 8) * width, counters = kLanes * (rows + 1);
    memory = static_cast<A*>(::operator new(size * sizeof(A) + counters * sizeof(int32_t), std::align_val_t(64)));
    counts = reinterpret_cast<int32_t*>(memory + size);
    std::memset(counts, 0, counters * sizeof(int32_t));
    A* next = memory;
    for (A** part : {&values, &probabilities, &targets}) {
      *part = next;
      next += rows * width;
    }
    for (A** part : {&classes, &most, &inverse, &inner, &keep, &log, &share, &u}) {
      *part = next;
      next += width;
    }
  }
  ~Tile() { ::operator delete(memory, std::align_val_t(64)); }
  Tile(const Tile&) = delete;
};

// Rows of one operand in a tile: in place where it is stored as A, else converted.
template <class A>
struct Rows {
  const A* data;
  int64_t step;
  const A* row(int64_t c) const { return data + c * step; }
};

// Classes [first, last) of n positions from `at`; buffer [last - first, width].
template <class A>
Rows<A> read_rows(const OverlapTask& task, const void* data, Dtype dtype, int64_t sample, int64_t first, int64_t last,
                  int64_t at, int64_t n, A* buffer, int64_t width) {
  const int64_t offset = (sample * task.classes + first) * task.positions + at;
  if (dtype == kTileDtype<A>) return {static_cast<const A*>(data) + offset, task.positions};
  for (int64_t c = 0; c < last - first; ++c)
    load_block(data, dtype, offset + c * task.positions, n, buffer + c * width);
  return {buffer, width};
}

// Where a row of gradients is computed, and where task.keeps its probabilities before: at its place, or in `buffer`,
// from which `write_row` stores it, where that place has another dtype or is the input's.
template <class A>
A* gradient_row(const OverlapTask& task, int64_t offset, A* buffer) {
  const bool fits = task.gradient && task.gradient != task.input && task.input_dtype == kTileDtype<A>;
  return fits ? static_cast<A*>(task.gradient) + offset : buffer;
}

template <class A>
void write_row(const OverlapTask& task, const A* d, const A* buffer, int64_t offset, int64_t n) {
  if (d == buffer) store_block(d, task.gradient, task.input_dtype, offset, n);
}

// Class numbers of n positions, -1 where ignored; returns the first that is not a class, or -1.
template <class A, class I>
int64_t read_classes(const I* __restrict from, int64_t n, int64_t classes, bool ignoring, double ignore, A* to) {
  // The vector loop knows 32 bits; what does not fit them is left to the other.
  const int64_t skip = ignoring ? static_cast<int64_t>(ignore) : -1;
  const int32_t narrow_skip = static_cast<int32_t>(skip);
  int32_t low = 0, high = 0, wide = skip != narrow_skip;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : wide)
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = static_cast<int32_t>(from[i]), counted = ignoring && c == narrow_skip ? 0 : c;
    wide |= static_cast<I>(c) != from[i];
    low = counted < low ? counted : low;
    high = counted > high ? counted : high;
    to[i] = ignoring && c == narrow_skip ? A(-1) : static_cast<A>(c);
  }
  if (!wide && low >= 0 && high < classes) return -1;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(from[i]);
    const bool ignored = ignoring && c == skip;
    if (!ignored && (c < 0 || c >= classes)) return i;
    to[i] = ignored ? A(-1) : static_cast<A>(c);
  }
  return -1;
}

// Adds the positions of each class to its G. counts [kLanes * (classes + 1)]: zeros, before and after; kLanes counters
// take turns, so that neighbours of one class do not wait for each other, and the last class is the ignored one.
template <class A>
void count_classes(const A* __restrict t, const int64_t n, const int64_t classes, int32_t* __restrict counts,
                   double* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = static_cast<int32_t>(t[i]);
    ++counts[(c < 0 ? classes : c) * kLanes + i % kLanes];
  }
  for (int64_t c = 0; c <= classes; ++c) {
    for (int k = 0; k < kLanes; ++k) {
      if (c < classes) sums[3 * c + 2] += counts[c * kLanes + k];
      counts[c * kLanes + k] = 0;
    }
  }
}

template <class A>
int64_t load_classes(const OverlapTask& task, int64_t at, int64_t n, A* to) {
  const auto read = [&](auto from) {
    return read_classes(from + at, n, task.classes, task.options.ignoring, task.options.ignore_index, to);
  };
  switch (task.target_dtype) {
    case Dtype::kUInt8:
      return read(static_cast<const uint8_t*>(task.target));
    case Dtype::kInt32:
      return read(static_cast<const int32_t*>(task.target));
    default:
      return read(static_cast<const int64_t*>(task.target));
  }
}

// Calls run(Region, squared as a constant) for class c.
template <class A, class Run>
void with_region(const OverlapTask& task, int64_t c, const Run& run) {
  const A number = static_cast<A>(c), ignore = static_cast<A>(task.options.ignore_index);
  const auto with_squared = [&](auto region) {
    if (task.options.squared) return run(region, std::true_type{});
    run(region, std::false_type{});
  };
  if (task.class_index) return with_squared(Region<A, true>{number, ignore});
  with_squared(Region<A, false>{number, ignore});
}

// Calls run(sigmoid as a constant, second term of an element).
template <class A, class Run>
void with_element_term(const OverlapTask& task, const Run& run) {
  if (task.options.activation == Activation::kNone) return run(std::false_type{}, NoTerm<A>{});
  switch (task.options.second) {
    case SecondTerm::kNone:
      return run(std::true_type{}, NoTerm<A>{});
    case SecondTerm::kCrossEntropy:
      return run(std::true_type{}, BinaryCrossEntropyWithLogits<A>(Options()));
    case SecondTerm::kFocal:
      SigmoidFocal<A>::with(focal_options(task.options.gamma, task.options.alpha, false),
                            [&](auto term) { run(std::true_type{}, term); });
  }
}

// Calls run(second term of a class).
template <class A, class Run>
void with_class_term(const OverlapTask& task, const Run& run) {
  if (task.options.second == SecondTerm::kCrossEntropy) return run(CrossEntropy<A>(Options()));
  SoftmaxFocal<A>::with(focal_options(task.options.gamma, task.options.alpha, true), run);
}

// One tile of a softmax: its logits x and the targets t; fills p, keep and, where it has to compute p, most and
// inverse. Logits and kept probabilities are copied first: rows a power of two apart would push each other out of the
// caches.
template <class A>
struct SoftmaxTile {
  const OverlapTask& task;
  Tile<A>& tile;
  const int64_t n;
  const bool kept;       // the probabilities are in the gradient, where the sums left them
  A *const x, *const p;  // [classes, width]; one memory unless there is a second term, which needs both
  Rows<A> t;             // the class numbers for every class with `indexed`

  SoftmaxTile(const OverlapTask& task, int64_t sample, int64_t at, int64_t n, bool kept, Tile<A>* memory)
      : task(task), tile(*memory), n(n), kept(kept), x(tile.values), p(has_second() && !kept ? tile.probabilities : x) {
    const int64_t C = task.classes, offset = sample * C * task.positions + at;
    const void* from = kept ? task.gradient : task.input;
    for (int64_t c = 0; c < C; ++c) {
      load_block(from, task.input_dtype, offset + c * task.positions, n, x + c * tile.width);
    }
    if (task.class_index) {
      t = {tile.classes, 0};
    } else {
      t = read_rows(task, task.target, task.target_dtype, sample, 0, C, at, n, tile.targets, tile.width);
    }
    if (!kept) probabilities(offset);
    if (task.class_index) return;
    fill_row(task.options.ignoring ? A(-1) : A(0), tile.keep, n);
    for (int64_t c = 0; task.options.ignoring && c < C; ++c) {
      keep_row(Region<A, false>{A(0), static_cast<A>(task.options.ignore_index)}, t.row(c), tile.keep, n);
    }
  }

  bool has_second() const { return task.options.second != SecondTerm::kNone; }
  A* row(A* of, int64_t c) const { return of + c * tile.width; }
  const A* keep() const { return task.class_index ? tile.classes : tile.keep; }

  void probabilities(int64_t offset) const {
    const int64_t C = task.classes;
    std::memcpy(tile.most, x, n * sizeof(A));
    int64_t c = 1;
    for (; c + 4 <= C; c += 4) max_rows(row(x, c), tile.width, tile.most, n);
    for (; c < C; ++c) max_row(row(x, c), tile.most, n);
    fill_row(A(0), tile.inverse, n);
    for (c = 0; c < C; ++c) exp_row(row(x, c), tile.most, row(p, c), tile.inverse, n);
    invert_row(tile.inverse, n);
    for (c = 0; c < C; ++c) {
      A* copy = task.keeps ? static_cast<A*>(task.gradient) + offset + c * task.positions : nullptr;
      normalise_row(tile.inverse, row(p, c), copy, n);
    }
  }

  // log p of each position's own class (0 where the logits are gone: only cross-entropy, which does without, keeps p),
  // and its share of the target, 1.
  void own_class() const {
    fill_row(A(1), tile.share, n);
    if (kept) return fill_row(A(0), tile.log, n);
    pick_row(x, tile.width, tile.classes, tile.u, n);
    log_row(tile.u, tile.most, tile.inverse, tile.log, n);
  }

  // The same of class c of a dense target.
  void one_class(int64_t c) const {
    log_row(row(x, c), tile.most, tile.inverse, tile.log, n);
    share_row(static_cast<A>(task.options.ignore_index), t.row(c), tile.share, n);
  }

  void add_sums(double* sums) const {
    const int64_t C = task.classes;
    const auto add = [&](auto squared) {
      if (task.class_index) {
        int64_t c = 0;
        for (; c + 4 <= C; c += 4)
          softmax_class_sums4<A, squared()>(static_cast<A>(c), row(p, c), tile.width, tile.classes, n, sums + 3 * c);
        for (; c < C; ++c)
          softmax_class_sums<A, squared()>(static_cast<A>(c), row(p, c), tile.classes, n, sums + 3 * c);
        return count_classes(tile.classes, n, C, tile.counts, sums);
      }
      const Region<A, false> region{A(0), static_cast<A>(task.options.ignore_index)};
      for (int64_t c = 0; c < C; ++c) softmax_sums_row<A, squared()>(region, row(p, c), t.row(c), n, sums + 3 * c);
    };
    if (task.options.squared) return add(std::true_type{});
    add(std::false_type{});
  }

  void add_terms(double* second) const {
    with_class_term<A>(task, [&](auto term) {
      if (task.class_index) {
        own_class();
        return term_row(term, tile.log, tile.share, keep(), n, second);
      }
      for (int64_t c = 0; c < task.classes; ++c) {
        one_class(c);
        term_row(term, tile.log, tile.share, keep(), n, second);
      }
    });
    second[1] += count_row(keep(), n);
  }

  // Sets u to the derivative of the second term with respect to log p of the class that own_class or one_class set.
  void term_slopes() const {
    with_class_term<A>(task, [&](auto term) {
      term_slope_row(term, tile.log, tile.share, keep(), static_cast<A>(task.second_scale), tile.u, n);
    });
  }

  void write_gradient(int64_t offset, const double* by_I, const double* by_P) const {
    const int64_t C = task.classes;
    const bool second = has_second();
    fill_row(A(0), tile.inner, n);
    if (second && task.class_index) {
      own_class();
      term_slopes();
      add_to_row(tile.u, tile.inner, n);
    }
    for (int64_t c = 0; c < C; ++c) {
      with_region<A>(task, c, [&](auto region, auto squared) {
        softmax_inner_row<A, squared()>(region, row(p, c), t.row(c), static_cast<A>(by_I[c]), static_cast<A>(by_P[c]),
                                        tile.inner, n);
      });
      if (second && !task.class_index) {
        one_class(c);
        term_slopes();
        add_to_row(tile.u, tile.inner, n);
      }
    }
    for (int64_t c = 0; c < C; ++c) {
      const int64_t to = offset + c * task.positions;
      A* d = gradient_row(task, to, tile.share);
      if (second && !task.class_index) {
        one_class(c);
        term_slopes();
      }
      with_region<A>(task, c, [&](auto region, auto squared) {
        const auto write = [&](auto with_second) {
          softmax_gradient_row<A, squared(), with_second()>(region, row(p, c), t.row(c), static_cast<A>(by_I[c]),
                                                            static_cast<A>(by_P[c]), tile.inner, tile.u, keep(), d, n);
        };
        if (second) return write(std::true_type{});
        write(std::false_type{});
      });
      write_row(task, d, tile.share, to, n);
    }
  }
};

template <class A>
int64_t overlap_sums(const OverlapTask& task, int64_t sample, int64_t first, int64_t last, int64_t begin, int64_t end,
                     double* sums, double* second) {
  const bool softmax = task.options.activation == Activation::kSoftmax;
  Tile<A> tile(softmax ? task.classes : 1, end - begin);
  for (int64_t k = 0; k < 3 * (last - first); ++k) sums[k] = 0;
  second[0] = second[1] = 0;
  for (int64_t at = begin; at < end; at += tile.width) {
    const int64_t n = tile.width < end - at ? tile.width : end - at;
    if (task.class_index) {
      const int64_t bad = load_classes(task, sample * task.positions + at, n, tile.classes);
      if (bad >= 0) return at + bad;
    }
    if (softmax) {
      const SoftmaxTile<A> all(task, sample, at, n, false, &tile);
      all.add_sums(sums);
      if (all.has_second()) all.add_terms(second);
      continue;
    }
    for (int64_t c = first; c < last; ++c) {
      const A* x = read_rows(task, task.input, task.input_dtype, sample, c, c + 1, at, n, tile.values, 0).data;
      const A* t = tile.classes;
      if (!task.class_index) {
        t = read_rows(task, task.target, task.target_dtype, sample, c, c + 1, at, n, tile.targets, 0).data;
      }
      const int64_t offset = (sample * task.classes + c) * task.positions + at;
      A* kept = task.keeps ? gradient_row(task, offset, tile.probabilities) : tile.probabilities;
      with_element_term<A>(task, [&](auto sigmoid, auto term) {
        if (sigmoid()) exp_minus_abs_row(x, kept, n);
        with_region<A>(task, c, [&](auto region, auto squared) {
          element_sums_row<A, sigmoid(), squared()>(region, term, x, kept, t, n, sums + 3 * (c - first), second);
        });
      });
    }
  }
  return -1;
}

template <class A>
void overlap_gradient(const OverlapTask& task, int64_t sample, int64_t first, int64_t last, int64_t begin, int64_t end,
                      const double* by_I, const double* by_P) {
  const bool softmax = task.options.activation == Activation::kSoftmax;
  Tile<A> tile(softmax ? task.classes : 1, end - begin);
  for (int64_t at = begin; at < end; at += tile.width) {
    const int64_t n = tile.width < end - at ? tile.width : end - at;
    if (task.class_index) load_classes(task, sample * task.positions + at, n, tile.classes);
    if (softmax) {
      const int64_t offset = sample * task.classes * task.positions + at;
      SoftmaxTile<A>(task, sample, at, n, task.keeps, &tile).write_gradient(offset, by_I, by_P);
      continue;
    }
    for (int64_t c = first; c < last; ++c) {
      const int64_t offset = (sample * task.classes + c) * task.positions + at;
      const A* x = read_rows(task, task.input, task.input_dtype, sample, c, c + 1, at, n, tile.values, 0).data;
      const A* t = tile.classes;
      if (!task.class_index) {
        t = read_rows(task, task.target, task.target_dtype, sample, c, c + 1, at, n, tile.targets, 0).data;
      }
      A* d = gradient_row(task, offset, tile.probabilities);
      A* kept = task.keeps ? d : tile.probabilities;
      with_element_term<A>(task, [&](auto sigmoid, auto term) {
        if (sigmoid() && !task.keeps) smaller_probability_row(x, kept, n);
        with_region<A>(task, c, [&](auto region, auto squared) {
          element_gradient_row<A, sigmoid(), squared()>(region, term, x, kept, t, static_cast<A>(by_I[c - first]),
                                                        static_cast<A>(by_P[c - first]),
                                                        static_cast<A>(task.second_scale), d, n);
        });
      });
      write_row(task, d, tile.probabilities, offset, n);
    }
  }
}

extern const OverlapLoops overlap_loops = {{overlap_sums<float>, overlap_sums<double>},
                                           {overlap_gradient<float>, overlap_gradient<double>}};

}  // namespace fused_losses::FL_ISA
