// The hot loops of the extremes family, compiled once per instruction set (namespace FL_ISA): a row of squared
// distances searched for its two extremes, and the rows that a gradient touches.
#include "cpu/extremes.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/triplet.h"

// What a row of a tile holds of one kind of pair. bad: a NaN among them, which is chosen.
template <class A>
struct Extreme {
  A value;
  bool bad, any;
};

// The largest, or with kLeast the smallest, of the columns of the label `group`, or of the others; `own` is neither.
template <bool kLeast, class A>
Extreme<A> extreme_of(const A* __restrict x, const int32_t* __restrict groups, const int32_t group, const int32_t own,
                      const int32_t n) {
  A most = -infinity_<A>();
  int bad = 0, any = 0;
#pragma omp simd reduction(max : most) reduction(| : bad, any)
  for (int32_t j = 0; j < n; ++j) {
    const bool here = kLeast ? groups[j] != group : groups[j] == group && j != own;
    const A value = kLeast ? -x[j] : x[j];
    most = here && value > most ? value : most;
    bad |= here && x[j] != x[j];
    any |= here;
  }
  return {kLeast ? -most : most, bad != 0, any != 0};
}

// The first column that is the extreme.
template <bool kLeast, class A>
int32_t place_of(const A* x, const int32_t* groups, int32_t group, int32_t own, const Extreme<A> extreme) {
  for (int32_t j = 0;; ++j) {
    const bool here = kLeast ? groups[j] != group : groups[j] == group && j != own;
    if (here && (extreme.bad ? x[j] != x[j] : x[j] == extreme.value)) return j;
  }
}

template <class A>
A squared_distance(const A* __restrict a, const A* __restrict b, const int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; ++d) {
    const A difference = a[d] - b[d];
    sum += static_cast<double>(difference) * static_cast<double>(difference);
  }
  return static_cast<A>(sum);
}

template <class A>
void add_difference(A* __restrict to, const A* __restrict a, const A* __restrict b, const A factor, const int64_t n) {
#pragma omp simd
  for (int64_t d = 0; d < n; ++d) to[d] += factor * (a[d] - b[d]);
}

template <class A>
void scale_row(A* __restrict x, const A factor, const int64_t n) {
#pragma omp simd
  for (int64_t d = 0; d < n; ++d) x[d] *= factor;
}

template <class A>
const A* embedding(const ExtremesTask& task, int64_t i) {
  return static_cast<const A*>(task.x) + i * task.features;
}

template <class A>
double squared_norm(const A* __restrict x, const int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < n; ++d) sum += static_cast<double>(x[d]) * static_cast<double>(x[d]);
  return sum;
}

template <class A>
void norms_of_rows(const ExtremesTask& task, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    static_cast<A*>(task.norms)[i] = static_cast<A>(squared_norm(embedding<A>(task, i), task.features));
  }
}

template <class A>
void choose_of_rows(const ExtremesTask& task, int64_t begin, int64_t end) {
  const BatchHard<A> f(*task.options);
  const int32_t n = static_cast<int32_t>(task.columns);
  for (int64_t row = begin; row < end; ++row) {
    const int32_t i = static_cast<int32_t>(task.first + row), group = task.groups[i];
    const A* x = static_cast<const A*>(task.tile) + row * task.columns;
    A* chosen = static_cast<A*>(task.chosen) + int64_t{i} * 4;
    A& loss = static_cast<A*>(task.losses)[i];
    const Extreme<A> far = extreme_of<false>(x, task.groups, group, i, n);
    const Extreme<A> near = extreme_of<true>(x, task.groups, group, i, n);
    loss = chosen[2] = chosen[3] = A(0);
    chosen[0] = chosen[1] = A(-1);
    if (!far.any || !near.any) continue;
    const int32_t positive = place_of<false>(x, task.groups, group, i, far);
    const int32_t negative = place_of<true>(x, task.groups, group, i, near);
    const A* anchor = embedding<A>(task, i);
    const TripletTerms<A> terms = f(squared_distance(anchor, embedding<A>(task, positive), task.features),
                                    squared_distance(anchor, embedding<A>(task, negative), task.features));
    loss = terms.loss;
    chosen[0] = static_cast<A>(positive);
    chosen[1] = static_cast<A>(negative);
    chosen[2] = terms.positive;
    chosen[3] = terms.negative;
  }
}

template <class A>
void gradient_of_rows(const ExtremesTask& task, int64_t begin, int64_t end) {
  const A* chosen = static_cast<const A*>(task.chosen);
  for (int64_t k = begin; k < end; ++k) {
    A* to = static_cast<A*>(task.gradient) + k * task.features;
    for (int64_t d = 0; d < task.features; ++d) to[d] = A(0);
    for (int which = 0; which < 2 && chosen[4 * k] >= A(0); ++which) {
      const int64_t other = static_cast<int64_t>(chosen[4 * k + which]);
      add_difference(to, embedding<A>(task, k), embedding<A>(task, other), chosen[4 * k + 2 + which], task.features);
    }
    for (int64_t e = task.begins[k]; e < task.begins[k + 1]; ++e) {
      const int64_t anchor = task.entries[e] / 2, which = task.entries[e] % 2;
      add_difference(to, embedding<A>(task, k), embedding<A>(task, anchor), chosen[4 * anchor + 2 + which],
                     task.features);
    }
    scale_row(to, static_cast<A>(task.factor), task.features);
  }
}

extern const ExtremesLoops extremes_loops = {{norms_of_rows<float>, norms_of_rows<double>},
                                             {choose_of_rows<float>, choose_of_rows<double>},
                                             {gradient_of_rows<float>, gradient_of_rows<double>}};

}  // namespace fused_losses::FL_ISA
