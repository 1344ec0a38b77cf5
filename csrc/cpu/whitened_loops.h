// The loops of the whitened family, compiled once per instruction set (namespace FL_ISA).
#include "cpu/whitened.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "cpu/lanes.h"

// X row by row from L X = 1: X_i = (1_i - sum of L_ik X_k over k < i) / L_ii, zero above the block's first row.
inline void invert_columns(const double* factor, float* inverse, int64_t n, int64_t first, double* columns) {
  using V = Line<double>;
  constexpr int kVectors = kInverseBlock / V::kLanes;
  const int64_t width = kInverseBlock < n - first ? kInverseBlock : n - first;
  for (int64_t i = 0; i < first; ++i) std::memset(inverse + i * n + first, 0, width * sizeof(float));
  for (int64_t i = first; i < n; ++i) {
    V sum[kVectors];
    for (V& s : sum) s = 0.0;
    for (int64_t k = first; k < i; ++k) {
      const V by = factor[i * n + k];
      for (int v = 0; v < kVectors; ++v) sum[v] += by * V::load(columns + k * kInverseBlock + v * V::kLanes);
    }
    double* row = columns + i * kInverseBlock;
    for (int v = 0; v < kVectors; ++v) sum[v].store(row + v * V::kLanes);
    const double scale = 1 / factor[i * n + i];
    for (int64_t c = 0; c < kInverseBlock; ++c) row[c] = ((i == first + c ? 1.0 : 0.0) - row[c]) * scale;
    for (int64_t c = 0; c < width; ++c) inverse[i * n + first + c] = static_cast<float>(row[c]);
  }
}

// Rows that share what is loaded of a panel: with the panel's own, as many sums as there are registers for.
#if defined(FL_HAS_AVX512)
constexpr int kTileRows = 14;
#elif defined(FL_HAS_AVX2) || defined(FL_HAS_NEON)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 3;
#endif
constexpr int64_t kRowGroup = 16 * kTileRows;  // rows that stay in a cache while panels pass
constexpr int64_t kOuterRows = 64;

using Panel = Line<float>;
static_assert(Panel::kLanes == kPanel);

// store(r, sum of a[r a_row + k a_step] panel[k] over k in [from, to)) for r < kRows. Indices are constants from the
// start, so that no sum is ever in memory.
template <int... r, class Store>
FL_HD void tile_of_products(std::integer_sequence<int, r...>, const float* a, int64_t a_row, int64_t a_step,
                            const float* panel, int64_t panel_step, int64_t from, int64_t to, const Store& store) {
  Panel sum[] = {(void(r), Panel(0.0f))...};
  for (int64_t k = from; k < to; ++k) {
    const Panel b = Panel::load(panel + k * panel_step);
    ((sum[r] += Panel(a[r * a_row + k * a_step]) * b), ...);
  }
  (store(r, sum[r]), ...);
}

// run(0, 1, ... below rows as a sequence of constants) for 1 <= rows, kMost at most.
template <int kMost = kTileRows, class Run>
FL_HD void with_rows(int64_t rows, const Run& run) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return with_rows<kMost - 1>(rows, run);
  }
  run(std::make_integer_sequence<int, kMost>());
}

inline void pack_triangle(const float* triangle, int64_t n, bool transposed, float* packed) {
  for (int64_t p = 0; p < panels(n); ++p) {
    for (int64_t k = 0; k < n; ++k, packed += kPanel) {
      for (int64_t c = 0; c < kPanel; ++c) {
        const int64_t column = p * kPanel + c;
        packed[c] = column >= n ? 0 : transposed ? triangle[column * n + k] : triangle[k * n + column];
      }
    }
  }
}

inline void multiply_by_triangle(const float* rows, int64_t count, int64_t n, const float* packed, bool transposed,
                                 float* out) {
  for (int64_t group = 0; group < count; group += kRowGroup) {
    const int64_t end = group + kRowGroup < count ? group + kRowGroup : count;
    for (int64_t column = 0; column < n; column += kPanel) {
      const float* panel = packed + column * n;
      const int64_t width = kPanel < n - column ? kPanel : n - column;
      const int64_t from = transposed ? 0 : column, to = transposed ? column + width : n;
      for (int64_t i = group; i < end; i += kTileRows) {
        with_rows(end - i, [&](auto tile) {
          tile_of_products(tile, rows + i * n, n, 1, panel, kPanel, from, to, [&](int r, const Panel& sum) {
            float* to_row = out + (i + r) * n + column;
            if (width == kPanel) {
              sum.store(to_row);
            } else {
              store_lanes<float, false>(sum, to_row, width);
            }
          });
        });
      }
    }
  }
}

inline void add_outer_products(const float* a, const float* b, int64_t count, int64_t n, int64_t first, int64_t last,
                               float* sum) {
  const int64_t whole = n / kPanel * kPanel;
  alignas(64) float rest[kOuterRows * kPanel] = {};  // the last columns of b, filled up
  for (int64_t i = 0; i < count; i += kOuterRows) {
    const int64_t rows = kOuterRows < count - i ? kOuterRows : count - i;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = whole; c < n; ++c) rest[r * kPanel + c - whole] = b[(i + r) * n + c];
    }
    for (int64_t j = first; j < last; j += kTileRows) {
      for (int64_t column = 0; column < n && column < j + kTileRows; column += kPanel) {
        const bool direct = column < whole;
        const float* panel = direct ? b + i * n + column : rest;
        with_rows(last - j, [&](auto tile) {
          const int64_t step = direct ? n : kPanel;
          tile_of_products(tile, a + i * n + j, 1, n, panel, step, 0, rows, [&](int r, const Panel& part) {
            float* to = sum + (j + r) * panels(n) * kPanel + column;
            (Panel::load(to) + part).store(to);
          });
        });
      }
    }
  }
}

extern const WhitenedLoops whitened_loops = {invert_columns, pack_triangle, multiply_by_triangle, add_outer_products};

}  // namespace fused_losses::FL_ISA
