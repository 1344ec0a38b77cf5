// The hot loops of the overlap family, compiled once per instruction set (namespace FL_ISA).
// Positions are worked on in tiles that stay in the first cache: all classes of a tile at once for softmax.
#include "overlap.h"

namespace fused_losses::FL_ISA {

#include "../math.h"
#include "convert.h"

constexpr int64_t kTileValues = 8192;  // classes x positions of a tile
constexpr int64_t kTileMost = 1024, kTileLeast = 16;

template <class A>
constexpr Dtype kTileDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// Row c of a tile: the target of class c at each of n positions, and whether the position counts for it.
// indexed: t holds class numbers, -1 where ignored; else the dense target, ignored where equal to `ignore`.
template <class A, bool kIndexed, bool kIgnoring>
struct Region {
  A c, ignore;
  FL_HD A target(A t) const { return kIndexed ? (t == c ? A(1) : A(0)) : (kIgnoring && t == ignore ? A(0) : t); }
  FL_HD bool counts(A t) const { return !kIgnoring || (kIndexed ? t >= A(0) : t != ignore); }
};

// Adds the sums of one row. p: activated input; t: as Region says.
template <class A, bool kSquared, class R>
void add_row(const R region, const A* __restrict p, const A* __restrict t, const int64_t n, double* sums) {
  A I = 0, P = 0, G = 0;
#pragma omp simd reduction(+ : I, P, G)
  for (int64_t i = 0; i < n; ++i) {
    const A g = region.target(t[i]);
    const A q = region.counts(t[i]) ? p[i] : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
}

// d[i] = derivative with respect to p[i]; 0 where the position does not count.
template <class A, bool kSquared, class R>
void row_derivative(const R region, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                    A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A slope = by_I * region.target(t[i]) + (kSquared ? 2 * by_P * p[i] : by_P);
    d[i] = region.counts(t[i]) ? slope : A(0);
  }
}

template <class A>
void sigmoid_row(const A* __restrict x, A* __restrict p, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = sigmoid_terms(x[i]).p;
}

// p = sigmoid(x), slope = p (1 - p) without cancellation.
template <class A>
void sigmoid_slope_row(const A* __restrict x, A* __restrict p, A* __restrict slope, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto s = sigmoid_terms(x[i]);
    p[i] = s.p;
    slope[i] = s.p * s.q;
  }
}

template <class A>
void multiply_row(const A* __restrict a, A* __restrict b, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) b[i] *= a[i];
}

template <class A>
void max_row(const A* __restrict x, A* __restrict most, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) most[i] = max_(most[i], x[i]);
}

template <class A>
void exp_row(const A* __restrict x, const A* __restrict most, A* __restrict e, A* __restrict sum, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    e[i] = exp_(x[i] - most[i]);
    sum[i] += e[i];
  }
}

template <class A>
void invert_row(A* __restrict v, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) v[i] = A(1) / v[i];
}

// inner += p d: the term that softmax's Jacobian takes from every class.
template <class A>
void inner_row(const A* __restrict p, const A* __restrict d, A* __restrict inner, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) inner[i] += p[i] != A(0) ? p[i] * d[i] : p[i];
}

template <class A>
void softmax_pull_row(const A* __restrict p, const A* __restrict inner, A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = p[i] * (d[i] - inner[i]);
}

// Zero where nothing of the position counts: its logits, NaN included, are not read.
template <class A>
void keep_row(const A* __restrict counted, A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) d[i] = counted[i] != A(0) ? d[i] : A(0);
}

// One tile's memory, for `rows` classes of up to `width` positions.
template <class A>
struct Tile {
  int64_t rows, width;
  A *values, *slopes;                  // [rows, width]
  A *target, *most, *sum, *counted;    // [width]
  A *memory;

  explicit Tile(int64_t rows) : rows(rows) {
    width = kTileValues / (rows > 0 ? rows : 1) / kTileLeast * kTileLeast;
    width = width < kTileLeast ? kTileLeast : width > kTileMost ? kTileMost : width;
    memory = static_cast<A*>(::operator new((3 * rows + 4) * width * sizeof(A), std::align_val_t(64)));
    values = memory;
    slopes = values + rows * width;
    targets = slopes + rows * width;
    target = targets + rows * width;
    most = target + width;
    sum = most + width;
    counted = sum + width;
  }
  ~Tile() { ::operator delete(memory, std::align_val_t(64)); }
  Tile(const Tile&) = delete;
  A* targets;                          // [rows, width], dense targets
};

template <class A>
const A* read_row(const void* data, Dtype dtype, int64_t at, int64_t n, A* buffer) {
  if (dtype == kTileDtype<A>) return static_cast<const A*>(data) + at;
  load_block(data, dtype, at, n, buffer);
  return buffer;
}

template <class A>
void write_row(const A* d, void* data, Dtype dtype, int64_t at, int64_t n) {
  if (dtype == kTileDtype<A>) {
    std::memcpy(static_cast<A*>(data) + at, d, n * sizeof(A));
  } else {
    store_block(d, data, dtype, at, n);
  }
}

// Class numbers of n positions, -1 where ignored; returns the first that is not a class, or -1.
template <class A, class I>
int64_t read_classes(const I* __restrict from, int64_t n, int64_t classes, bool ignoring, double ignore, A* to) {
  int bad = 0;
  const int64_t skip = ignoring ? static_cast<int64_t>(ignore) : -1;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(from[i]);
    const bool ignored = ignoring && c == skip, valid = c >= 0 && c < classes;
    to[i] = ignored ? A(-1) : static_cast<A>(c);
    bad |= !ignored && !valid;
  }
  if (!bad) return -1;
  int64_t i = 0;
  while ((ignoring && static_cast<int64_t>(from[i]) == skip) ||
         (static_cast<int64_t>(from[i]) >= 0 && static_cast<int64_t>(from[i]) < classes)) {
    ++i;
  }
  return i;
}

template <class A>
int64_t load_classes(const OverlapTask& task, int64_t at, int64_t n, A* to) {
  const auto read = [&](auto from) {
    return read_classes(from + at, n, task.classes, task.ignoring, task.ignore_index, to);
  };
  switch (task.target_dtype) {
    case Dtype::kUInt8: return read(static_cast<const uint8_t*>(task.target));
    case Dtype::kInt32: return read(static_cast<const int32_t*>(task.target));
    default: return read(static_cast<const int64_t*>(task.target));
  }
}

// values = softmax over the tile's classes; x[c] are its rows.
template <class A>
void softmax_tile(const OverlapTask& task, int64_t sample, int64_t at, int64_t n, Tile<A>* tile) {
  const int64_t C = task.classes, S = task.positions, width = tile->width;
  const auto row = [&](int64_t c) {
    return read_row(task.input, task.input_dtype, (sample * C + c) * S + at, n, tile->values + c * width);
  };
  std::memcpy(tile->most, row(0), n * sizeof(A));
  for (int64_t c = 1; c < C; ++c) max_row(row(c), tile->most, n);
  for (int64_t i = 0; i < n; ++i) tile->sum[i] = A(0);
  for (int64_t c = 0; c < C; ++c) exp_row(row(c), tile->most, tile->slopes + c * width, tile->sum, n);
  invert_row(tile->sum, n);
  for (int64_t c = 0; c < C; ++c) multiply_row(tile->sum, tile->slopes + c * width, n);
  A* p = tile->slopes;
  tile->slopes = tile->values;
  tile->values = p;
}

// Calls with_region(Region) for class c.
template <class A, class Run>
void with_region(const OverlapTask& task, int64_t c, const Run& run) {
  const A number = static_cast<A>(c), ignore = static_cast<A>(task.ignore_index);
  if (task.indexed) {
    if (task.ignoring) return run(Region<A, true, true>{number, ignore});
    return run(Region<A, true, false>{number, ignore});
  }
  if (task.ignoring) return run(Region<A, false, true>{number, ignore});
  return run(Region<A, false, false>{number, ignore});
}

// The target row of class c for positions at .. at + n.
template <class A>
const A* target_row(const OverlapTask& task, int64_t sample, int64_t c, int64_t at, int64_t n, Tile<A>* tile) {
  if (task.indexed) return tile->target;
  return read_row(task.target, task.target_dtype, (sample * task.classes + c) * task.positions + at, n,
                  tile->targets + (c % tile->rows) * tile->width);
}

template <class A>
int64_t overlap_sums(const OverlapTask& task, int64_t sample, int64_t first, int64_t last, int64_t begin, int64_t end,
                     double* sums) {
  Tile<A> tile(task.activation == Activation::kSoftmax ? task.classes : 1);
  for (int64_t k = 0; k < 3 * (last - first); ++k) sums[k] = 0;
  for (int64_t at = begin; at < end; at += tile.width) {
    const int64_t n = tile.width < end - at ? tile.width : end - at;
    if (task.indexed) {
      const int64_t bad = load_classes(task, sample * task.positions + at, n, tile.target);
      if (bad >= 0) return at + bad;
    }
    if (task.activation == Activation::kSoftmax) softmax_tile(task, sample, at, n, &tile);
    for (int64_t c = first; c < last; ++c) {
      const A* p = tile.values + c * tile.width;
      if (task.activation != Activation::kSoftmax) {
        const A* x = read_row(task.input, task.input_dtype, (sample * task.classes + c) * task.positions + at, n,
                              tile.values);
        p = x;
        if (task.activation == Activation::kSigmoid) {
          sigmoid_row(x, tile.slopes, n);
          p = tile.slopes;
        }
      }
      const A* t = target_row(task, sample, c, at, n, &tile);
      with_region<A>(task, c, [&](auto region) {
        if (task.squared) {
          add_row<A, true>(region, p, t, n, sums + 3 * (c - first));
        } else {
          add_row<A, false>(region, p, t, n, sums + 3 * (c - first));
        }
      });
    }
  }
  return -1;
}

// d = the derivative with respect to p of class c.
template <class A>
void derivative(const OverlapTask& task, int64_t c, const A* p, const A* t, double by_I, double by_P, A* d, int64_t n) {
  with_region<A>(task, c, [&](auto region) {
    if (task.squared) {
      row_derivative<A, true>(region, p, t, static_cast<A>(by_I), static_cast<A>(by_P), d, n);
    } else {
      row_derivative<A, false>(region, p, t, static_cast<A>(by_I), static_cast<A>(by_P), d, n);
    }
  });
}

template <class A>
void softmax_gradient(const OverlapTask& task, int64_t sample, int64_t at, int64_t n, const double* by_I,
                      const double* by_P, Tile<A>* tile) {
  const int64_t C = task.classes, S = task.positions, width = tile->width;
  softmax_tile(task, sample, at, n, tile);
  A* inner = tile->sum;
  for (int64_t i = 0; i < n; ++i) inner[i] = A(0);
  for (int64_t i = 0; i < n; ++i) tile->counted[i] = task.indexed && tile->target[i] >= A(0) ? A(1) : A(0);
  for (int64_t c = 0; c < C; ++c) {
    const A *p = tile->values + c * width, *t = target_row(task, sample, c, at, n, tile);
    A* d = tile->slopes + c * width;
    derivative(task, c, p, t, by_I[c], by_P[c], d, n);
    inner_row(p, d, inner, n);
    if (task.ignoring && !task.indexed) {
      const A ignore = static_cast<A>(task.ignore_index);
      for (int64_t i = 0; i < n; ++i) tile->counted[i] = t[i] != ignore ? A(1) : tile->counted[i];
    }
  }
  for (int64_t c = 0; c < C; ++c) {
    A* d = tile->slopes + c * width;
    softmax_pull_row(tile->values + c * width, inner, d, n);
    if (task.ignoring) keep_row(tile->counted, d, n);
    write_row(d, task.gradient, task.input_dtype, (sample * C + c) * S + at, n);
  }
}

template <class A>
void overlap_gradient(const OverlapTask& task, int64_t sample, int64_t first, int64_t last, int64_t begin, int64_t end,
                      const double* by_I, const double* by_P) {
  const bool softmax = task.activation == Activation::kSoftmax;
  Tile<A> tile(softmax ? task.classes : 1);
  for (int64_t at = begin; at < end; at += tile.width) {
    const int64_t n = tile.width < end - at ? tile.width : end - at;
    if (task.indexed) load_classes(task, sample * task.positions + at, n, tile.target);
    if (softmax) {
      softmax_gradient(task, sample, at, n, by_I, by_P, &tile);
      continue;
    }
    for (int64_t c = first; c < last; ++c) {
      const int64_t offset = (sample * task.classes + c) * task.positions + at;
      const A* x = read_row(task.input, task.input_dtype, offset, n, tile.values);
      const A* t = target_row(task, sample, c, at, n, &tile);
      A* d = tile.slopes;
      if (task.activation == Activation::kSigmoid) {
        A *p = tile.most, *slope = tile.sum;
        sigmoid_slope_row(x, p, slope, n);
        derivative(task, c, p, t, by_I[c - first], by_P[c - first], d, n);
        multiply_row(slope, d, n);
        if (task.ignoring) {  // NaN in an ignored logit must not pass through its slope
          for (int64_t i = 0; i < n; ++i) {
            const bool ignored = task.indexed ? t[i] < A(0) : t[i] == static_cast<A>(task.ignore_index);
            d[i] = ignored ? A(0) : d[i];
          }
        }
      } else {
        derivative(task, c, x, t, by_I[c - first], by_P[c - first], d, n);
      }
      write_row(d, task.gradient, task.input_dtype, offset, n);
    }
  }
}

extern const OverlapLoops overlap_loops = {{overlap_sums<float>, overlap_sums<double>},
                                           {overlap_gradient<float>, overlap_gradient<double>}};

}  // namespace fused_losses::FL_ISA
