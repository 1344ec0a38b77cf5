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
    Extremes<A> of = F::kStatistics > 0 ? pairs_extremes(f, row.x, row.groups, row) : Extremes<A>{};
    const A known = F::kMirrors && task.known_max ? static_cast<const A*>(task.known_max)[i] : -infinity_<A>();
    of.high = known > of.high ? known : of.high;
    PairSums3<A> sums = pairs_sums(f, row, of);
    if constexpr (F::kMirrors) {
      if (task.known_max) sums = with_known(sums, task.known_sums + i * F::kColumnSums, known, of.high);
    }
    A statistics[F::kStatistics + 1];
    static_cast<A*>(task.losses)[i] = f.finish(of.low, of.high, sums, statistics);
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

// Row i merged into the maxima of n columns from `at` on.
template <class F, class A>
void column_maximum(const F f, const PairsRow<A> row, const int64_t at, A* __restrict most, const int32_t n) {
  const A* __restrict x = row.x + at;
  const int32_t* __restrict groups = row.groups + (F::kLabels ? at : 0);
#pragma omp simd
  for (int32_t j = 0; j < n; ++j) {
    const A s = fma_(row.scale, x[j], row.bias);
    const bool same = F::kLabels && groups[j] == row.group;
    most[j] = f.in_high(false, same) && s > most[j] ? s : most[j];
  }
}

// And into their sums below those maxima, [kColumnSums, kColumnBlock].
template <class F, class A>
void column_sums(const F f, const PairsRow<A> row, const int64_t at, const A* __restrict most, A* __restrict sums,
                 const int32_t n) {
  const A* __restrict x = row.x + at;
  const int32_t* __restrict groups = row.groups + (F::kLabels ? at : 0);
#pragma omp simd
  for (int32_t j = 0; j < n; ++j) {
    const A s = fma_(row.scale, x[j], row.bias);
    const bool same = F::kLabels && groups[j] == row.group;
    const PairSums3<A> t = f.terms(s, false, same, A(0), most[j]);
    sums[j] += t.a;
    if constexpr (F::kColumnSums > 1) {
      sums[kColumnBlock + j] += t.b;
      sums[2 * kColumnBlock + j] += t.c;
    }
  }
}

// The pair of a row with itself is no matter here: it is not among these columns, or its row's part in the sums is not
// asked for.
template <template <class> class Functor, class A>
void merge_columns(const PairsTask& task, int64_t begin, int64_t end) {
  using F = Functor<A>;
  constexpr int kSums = F::kColumnSums;
  const F f(*task.options);
  A* known = static_cast<A*>(task.column_max);
  for (int64_t at = begin; at < end; at += kColumnBlock) {
    const int32_t n = static_cast<int32_t>(kColumnBlock < end - at ? kColumnBlock : end - at);
    A most[kColumnBlock], sums[kSums * kColumnBlock] = {};
    for (int32_t j = 0; j < n; ++j) most[j] = task.first_merge ? -infinity_<A>() : known[at + j];
    for (int64_t i = 0; i < task.rows; ++i) column_maximum(f, pairs_row<A>(task, i), at, most, n);
    for (int64_t i = 0; i < task.rows; ++i) column_sums(f, pairs_row<A>(task, i), at, most, sums, n);
    for (int32_t j = 0; j < n; ++j) {
      double* to = task.column_sums + (at + j) * kSums;
      for (int k = 0; k < kSums; ++k) {
        const double before = task.first_merge ? 0 : k == 0 ? below(most[j], to[k], known[at + j]) : to[k];
        to[k] = before + sums[k * kColumnBlock + j];
      }
      known[at + j] = most[j];
    }
  }
}

template <template <class> class Functor, class A>
constexpr PairsLoop column_loop() {
  if constexpr (Functor<A>::kColumnSums > 0) return merge_columns<Functor, A>;
  return nullptr;
}

template <LossId id, template <class> class Functor>
constexpr PairsEntry pairs_entry() {
  static_assert(has_traits<Functor>(id));
  return {{statistics_of_rows<Functor, float>, statistics_of_rows<Functor, double>},
          {gradient_of_rows<Functor, float>, gradient_of_rows<Functor, double>},
          {column_loop<Functor, float>(), column_loop<Functor, double>()}};
}

#define FL_ENTRY(op, Functor, ...) pairs_entry<LossId::op, Functor>(),
const PairsEntry pairs_entries[] = {FL_ALL_PAIRS(FL_ENTRY)};
#undef FL_ENTRY

extern const PairsLoops pairs_loops = {pairs_entries};

}  // namespace fused_losses::FL_ISA
