// The hot loops of the all-pairs family, compiled once per instruction set (namespace FL_ISA): rows of similarities
// read for their statistics, then turned into their gradient.
#include "cpu/all_pairs.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/pairs.h"

// A row as the loops read it: n similarities, the column `own`, and the group of each column.
template <class A>
struct PairsRow {
  const A* x;
  const int32_t* groups;  // null: none
  int32_t n, own, group;
  A scale, bias;
};

template <class A>
struct Extremes {
  A low, high;
};

template <class F, class A>
Extremes<A> pairs_extremes(const F f, const A* __restrict x, const int32_t* __restrict groups, const PairsRow<A> row) {
  A low = infinity_<A>(), high = -infinity_<A>();
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int32_t j = 0; j < row.n; ++j) {
    const A s = fma_(row.scale, x[j], row.bias);
    const bool own = j == row.own, same = F::kLabels ? groups[j] == row.group : own;
    if constexpr (F::kLow) low = f.in_low(own, same) && s < low ? s : low;
    high = f.in_high(own, same) && s > high ? s : high;
  }
  return {low, high};
}

template <class F, class A>
PairSums3<A> pairs_sums(const F f, const A* __restrict x, const int32_t* __restrict groups, const PairsRow<A> row,
                        const A low, const A high, const int32_t begin, const int32_t end) {
  A a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
  for (int32_t j = begin; j < end; ++j) {
    const A s = fma_(row.scale, x[j], row.bias);
    const bool own = j == row.own, same = F::kLabels ? groups[j] == row.group : own;
    const PairSums3<A> t = f.terms(s, own, same, low, high);
    a += t.a;
    b += t.b;
    c += t.c;
  }
  return {a, b, c};
}

// Sums of a long row in parts, added in float64.
template <class F, class A>
PairSums3<A> pairs_sums(const F f, const PairsRow<A> row, const Extremes<A> of) {
  constexpr int32_t kPart = 4096;
  double a = 0, b = 0, c = 0;
  for (int32_t at = 0; at < row.n; at += kPart) {
    const int32_t end = row.n - at < kPart ? row.n : at + kPart;
    const PairSums3<A> t = pairs_sums(f, row.x, row.groups, row, of.low, of.high, at, end);
    a += t.a;
    b += t.b;
    c += t.c;
  }
  return {static_cast<A>(a), static_cast<A>(b), static_cast<A>(c)};
}

// x becomes `factor` times the derivative by the similarity. columns: [n, kStatistics], or [n].
template <class F, class A>
PairSums3<A> pairs_gradient(const F f, A* __restrict x, const int32_t* __restrict groups, const PairsRow<A> row,
                            const A* __restrict statistics, const A* __restrict columns, const A factor) {
  constexpr int kStep = F::kColumns ? 1 : F::kStatistics;
  A of_scale = 0, of_bias = 0;
#pragma omp simd reduction(+ : of_scale, of_bias)
  for (int32_t j = 0; j < row.n; ++j) {
    const A s = fma_(row.scale, x[j], row.bias);
    const bool own = j == row.own, same = F::kLabels ? groups[j] == row.group : own;
    const A g = f.gradient(s, own, same, statistics, columns + int64_t{j} * kStep);
    of_scale += g * x[j];
    of_bias += g;
    x[j] = g * factor;
  }
  return {of_scale, of_bias, A(0)};
}

template <class A>
PairsRow<A> pairs_row(const PairsTask& task, int64_t i) {
  return {static_cast<const A*>(task.tile) + i * task.columns,
          task.column_groups,
          static_cast<int32_t>(task.columns),
          static_cast<int32_t>(task.first + i),
          task.row_groups ? task.row_groups[i] : 0,
          task.scale ? *static_cast<const A*>(task.scale) : A(1),
          task.bias ? *static_cast<const A*>(task.bias) : A(0)};
}

template <template <class> class Functor, class A>
void statistics_of_rows(const PairsTask& task, int64_t begin, int64_t end) {
  using F = Functor<A>;
  const F f(*task.options);
  for (int64_t i = begin; i < end; ++i) {
    const PairsRow<A> row = pairs_row<A>(task, i);
    const Extremes<A> of = F::kStatistics > 0 ? pairs_extremes(f, row.x, row.groups, row) : Extremes<A>{};
    A statistics[F::kStatistics + 1];
    static_cast<A*>(task.losses)[i] = f.finish(of.low, of.high, pairs_sums(f, row, of), statistics);
    A* to = static_cast<A*>(task.row_statistics) + i * F::kStatistics;
    for (int k = 0; k < F::kStatistics; ++k) to[k] = statistics[k];
  }
}

template <template <class> class Functor, class A>
void gradient_of_rows(const PairsTask& task, int64_t begin, int64_t end) {
  using F = Functor<A>;
  const F f(*task.options);
  const A* columns = static_cast<const A*>(task.column_statistics);
  A* scalars = static_cast<A*>(task.scalars);
  for (int64_t i = begin; i < end; ++i) {
    const PairsRow<A> row = pairs_row<A>(task, i);
    const A* statistics = static_cast<const A*>(task.row_statistics) + i * F::kStatistics;
    const PairSums3<A> sums = pairs_gradient(f, static_cast<A*>(task.tile) + i * task.columns, row.groups, row,
                                             statistics, columns, static_cast<A>(task.factor) * row.scale);
    scalars[2 * i] = sums.a;
    scalars[2 * i + 1] = sums.b;
  }
}

template <class A>
void column_maximum(const A* __restrict x, A* __restrict most, const A scale, const A bias, const int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const A s = fma_(scale, x[j], bias);
    most[j] = s > most[j] ? s : most[j];
  }
}

template <class A>
void column_exponentials(const A* __restrict x, const A* __restrict most, A* __restrict sum, const A scale,
                         const A bias, const int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) sum[j] += exp_(fma_(scale, x[j], bias) - finite_shift(most[j]));
}

template <class A>
void merge_columns(const PairsTask& task, int64_t begin, int64_t end) {
  const PairsRow<A> row = pairs_row<A>(task, 0);
  A* known = static_cast<A*>(task.column_max);
  double* column_sum = task.column_sum;
  for (int64_t at = begin; at < end; at += kColumnBlock) {
    const int64_t n = kColumnBlock < end - at ? kColumnBlock : end - at;
    A most[kColumnBlock], sum[kColumnBlock] = {};
    for (int64_t j = 0; j < n; ++j) most[j] = known[at + j];
    for (int64_t i = 0; i < task.rows; ++i) column_maximum(row.x + i * task.columns + at, most, row.scale, row.bias, n);
    for (int64_t i = 0; i < task.rows; ++i) {
      column_exponentials(row.x + i * task.columns + at, most, sum, row.scale, row.bias, n);
    }
    for (int64_t j = 0; j < n; ++j) {
      const A shrunk = exp_(finite_shift(known[at + j]) - finite_shift(most[j]));
      const double before = column_sum[at + j] == 0 ? 0 : column_sum[at + j] * shrunk;
      column_sum[at + j] = before + sum[j];
      known[at + j] = most[j];
    }
  }
}

template <LossId id, template <class> class Functor>
constexpr PairsEntry pairs_entry() {
  using F = Functor<float>;
  static_assert(F::kStatistics == pairs_traits(id).statistics && F::kColumns == pairs_traits(id).columns &&
                F::kCounts == pairs_traits(id).counts);
  return {{statistics_of_rows<Functor, float>, statistics_of_rows<Functor, double>},
          {gradient_of_rows<Functor, float>, gradient_of_rows<Functor, double>}};
}

#define FL_ENTRY(op, Functor, ...) pairs_entry<LossId::op, Functor>(),
const PairsEntry pairs_entries[] = {FL_ALL_PAIRS(FL_ENTRY)};
#undef FL_ENTRY

extern const PairsLoops pairs_loops = {pairs_entries, {merge_columns<float>, merge_columns<double>}};

}  // namespace fused_losses::FL_ISA
