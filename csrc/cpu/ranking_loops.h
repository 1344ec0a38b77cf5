// The hot loops of the ranking family, compiled once per instruction set (namespace FL_ISA).
// One division for each pair, and one exponential where it cannot be had from the two items' own; a row's pairs stay in
// the first-level cache.
#include "cpu/ranking.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "formulas/ranking.h"

inline void odds_of(const float* __restrict score, const double middle, const double rate, float* __restrict odds,
                    const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) odds[i] = static_cast<float>(exp_((static_cast<double>(score[i]) - middle) * rate));
}

// Sum of the steps of n items over item i, x being their scores or odds; with kSlope their slopes are kept.
template <class Step, class A, bool kSlope>
A step_row(const Step step, const A x_i, const A* __restrict x, A* __restrict slope, const int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    const SmoothStep<A> of_pair = step(x_i, x[j]);
    sum += of_pair.value;
    if constexpr (kSlope) slope[j] = of_pair.slope;
  }
  return sum;
}

// gradient += coefficient * slope; returns the sum of the slopes.
template <class A>
A spread_row(const A coefficient, const A* __restrict slope, A* __restrict gradient, const int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    gradient[j] += coefficient * slope[j];
    sum += slope[j];
  }
  return sum;
}

// The pairs of item i with n items of smaller gain: returns the sum of their losses and of their slopes.
template <class F, class A, bool kGradient>
PairLoss<A> pair_row(const F f, const A s_i, const A gain_i, const A discount_i, const A* __restrict score,
                     const A* __restrict gain, const A* __restrict discount, A* __restrict gradient, const int64_t n) {
  A value = 0, slope = 0;
#pragma omp simd reduction(+ : value, slope)
  for (int64_t j = 0; j < n; ++j) {
    const PairLoss<A> pair = f(s_i, gain_i, discount_i, score[j], gain[j], discount[j]);
    value += pair.value;
    if constexpr (kGradient) {
      slope += pair.slope;
      gradient[j] += pair.slope;
    }
  }
  return {value, slope};
}

// The item itself is left out rather than subtracted: its lead would be NaN for an infinite score.
template <bool kGradient, class F, class Step, class A>
double smooth_rows(const F f, const Step of_pair, const A* x, const RankedList<A>& list, int64_t first, int64_t step) {
  double total = 0;
  for (int64_t r = first; r < list.rows; r += step) {
    const int64_t i = list.row[r], after = i + 1, rest = list.items - after;
    const A rank = A(1) + step_row<Step, A, kGradient>(of_pair, x[i], x, list.slope, i) +
                   step_row<Step, A, kGradient>(of_pair, x[i], x + after, list.slope + after, rest);
    const DiscountedGain<A> term = f.at(list.gain[i], rank);
    total += term.value;
    if constexpr (kGradient) {
      const A coefficient = term.fall / list.ideal;
      const A own = spread_row(coefficient, list.slope, list.gradient, i) +
                    spread_row(coefficient, list.slope + after, list.gradient + after, rest);
      list.gradient[i] -= coefficient * own;
    }
  }
  return total;
}

template <bool kGradient, class F, class A>
double smooth_rows(const F f, const RankedList<A>& list, int64_t first, int64_t step) {
  if (!list.odds) return smooth_rows<kGradient>(f, f, list.score, list, first, step);
  return smooth_rows<kGradient>(
      f, [f](A odds_i, A odds_j) { return f.of_odds(odds_i, odds_j); }, list.odds, list, first, step);
}

template <bool kGradient, class F, class A>
double pair_rows(const F f, const RankedList<A>& list, int64_t first, int64_t step) {
  double total = 0;
  for (int64_t i = first; i < list.rows; i += step) {
    const int64_t from = list.below[i];
    A* gradient = kGradient ? list.gradient + from : nullptr;
    const PairLoss<A> row =
        pair_row<F, A, kGradient>(f, list.score[i], list.gain[i], list.discount[i], list.score + from, list.gain + from,
                                  list.discount + from, gradient, list.items - from);
    total += row.value;
    if constexpr (kGradient) list.gradient[i] -= row.slope;
  }
  return total;
}

template <template <class> class Functor, class A>
double ranking_loop(const RankedList<A>& list, const Options& options, int64_t first, int64_t step) {
  using F = Functor<A>;
  const F f(options);
  if constexpr (F::kSmoothRanks) {
    return list.gradient ? smooth_rows<true>(f, list, first, step) : smooth_rows<false>(f, list, first, step);
  } else {
    return list.gradient ? pair_rows<true>(f, list, first, step) : pair_rows<false>(f, list, first, step);
  }
}

#define FL_ENTRY(op, Functor, ...) \
  {ranking_loop<Functor, float>, ranking_loop<Functor, double>, odds_of, Functor<float>::kSmoothRanks},
extern const RankingEntry ranking_loops[] = {FL_RANKING_LOSSES(FL_ENTRY)};
#undef FL_ENTRY

}  // namespace fused_losses::FL_ISA
