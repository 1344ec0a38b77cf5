// The CPU driver of the ranking family: orders the items of each list, runs its pairs, puts the gradients back.
#include "cpu/ranking.h"

#include "cpu/device.h"
#include "host/ranking.h"
#include "cpu/loop_headers.h"

#include <algorithm>

namespace fused_losses {
namespace base {
#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/ranking.h"
}  // namespace base

namespace {

// A single list this long is cut into a fixed number of slices of its rows, so that few lists occupy all threads.
constexpr int64_t kSlicedItems = 1024, kSlices = 16;

// Scores no further apart, over the temperature, have odds whose sums and products float32 holds: e^-40 to e^40.
constexpr double kOddsSpan = 80;

template <class A>
constexpr Dtype kListDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// One call of one loss, forward or backward.
struct RankingRun {
  const RankingProblem& problem;
  const RankingEntry& entry;
  const Options& options;
  int64_t n, cutoff;
  double rate;   // of the score differences
  double scale;  // of every gradient, beside the incoming gradient of each list

  RankingRun(const RankingProblem& problem, const RankingEntry& entry, const Options& options)
      : problem(problem),
        entry(entry),
        options(options),
        n(problem.n),
        cutoff(options.k > 0 && options.k < static_cast<double>(n) ? static_cast<int64_t>(options.k) : n),
        rate(entry.smooth_ranks ? 1 / options.temperature : options.sigma),
        scale(gradient_scale(problem.results, accumulation_dtype(problem.scores.dtype))) {}
};

// The items of one list and everything computed for them; made once for each thread.
template <class A>
struct List {
  struct Key {
    A value;
    int64_t item;
  };

  const RankingRun& call;
  const A* discounts;  // [n + 1] by rank
  int64_t items = 0;
  std::vector<A> score, odds, gain, discount, slope, gradient, all;
  std::vector<int64_t> place, row, below, rank;  // place: position in the input
  std::vector<Key> keys;
  A ideal = 0;

  List(const RankingRun& call, const A* discounts)
      : call(call), discounts(discounts), score(call.n), gain(call.n), all(call.n), place(call.n), row(call.n) {
    keys.reserve(call.n);
    if (call.problem.gradient) gradient.resize(call.n);
    if (call.problem.gradient || call.entry.smooth_ranks) slope.resize(call.n);
    if (!call.entry.smooth_ranks) below.resize(call.n);
    if (!call.entry.smooth_ranks || call.cutoff < call.n) rank.resize(call.n), discount.resize(call.n);
  }

  // By falling value, equal ones in the order of the input.
  void sort_keys() {
    std::sort(keys.begin(), keys.end(),
              [](const Key& a, const Key& b) { return a.value > b.value || (a.value == b.value && a.item < b.item); });
  }

  void read(int64_t list) {
    const int64_t n = call.n, at = list * n;
    base::load_block(call.problem.scores.data, call.problem.scores.dtype, at, n, score.data());
    base::load_block(call.problem.relevance.data, call.problem.relevance.dtype, at, n, gain.data());
    items = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (call.problem.mask && !call.problem.mask[at + i]) continue;
      score[items] = score[i];
      gain[items] = base::gain_of(gain[i]);
      place[items++] = i;
    }
  }

  // IDCG@k; NaN with a NaN gain. Leaves the items that have a gain in `keys`, by falling gain.
  void order_by_gain() {
    keys.clear();
    for (int64_t i = 0; i < items; ++i) {
      if (gain[i] == gain[i]) keys.push_back({gain[i], i});
    }
    sort_keys();
    double sum = 0;
    const int64_t best = std::min<int64_t>(call.cutoff, static_cast<int64_t>(keys.size()));
    for (int64_t i = 0; i < best; ++i) sum += static_cast<double>(keys[i].value) * discounts[i + 1];
    ideal = static_cast<int64_t>(keys.size()) < items ? std::numeric_limits<A>::quiet_NaN() : static_cast<A>(sum);
  }

  // The current ranks; a NaN score ranks first and is above no other.
  void rank_scores() {
    keys.clear();
    for (int64_t i = 0; i < items; ++i) {
      if (score[i] == score[i]) {
        keys.push_back({score[i], i});
      } else {
        rank[i] = 1;
      }
    }
    sort_keys();
    for (size_t i = 0; i < keys.size(); ++i) rank[keys[i].item] = static_cast<int64_t>(i) + 1;
  }

  // The odds of the items, all finite; null where they lie too far apart. In float64 pairs take the exponential.
  const A* read_odds() {
    if constexpr (std::is_same_v<A, float>) {
      const auto [least, most] = std::minmax_element(score.data(), score.data() + items);
      const double low = *least, high = *most;
      if (!((high - low) * call.rate <= kOddsSpan)) return nullptr;
      odds.resize(call.n);
      call.entry.odds(score.data(), (low + high) / 2, call.rate, odds.data(), items);
      return odds.data();
    }
    return nullptr;
  }

  // Smooth ranks: only the rows with a gain and within the cut-off count, but those without one too where a score or
  // the ideal is not finite.
  RankedList<A> smooth() {
    bool finite = std::isfinite(ideal);
    for (int64_t i = 0; i < items; ++i) finite = finite && std::isfinite(score[i]);
    if (call.cutoff < call.n) rank_scores();
    int64_t rows = 0;
    for (int64_t i = 0; i < items; ++i) {
      if (finite && gain[i] == A(0)) continue;
      if (call.cutoff < call.n && rank[i] > call.cutoff) continue;
      row[rows++] = i;
    }
    const A* odds = finite ? read_odds() : nullptr;
    return {items, score.data(), odds, gain.data(), nullptr, nullptr, row.data(), rows, ideal, slope.data(), nullptr};
  }

  // Pairs: the items within the cut-off, ordered by gain.
  RankedList<A> paired() {
    std::vector<Key>& by_gain = keys;
    int64_t count = 0;
    for (const Key& key : by_gain) row[count++] = key.item;  // ranking reuses the keys
    rank_scores();
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (rank[row[i]] <= call.cutoff) row[kept++] = row[i];
    }
    permute(&score, kept);
    permute(&gain, kept);
    for (int64_t i = 0; i < kept; ++i) discount[i] = discounts[rank[row[i]]];
    for (int64_t i = 0; i < kept; ++i) row[i] = place[row[i]];
    std::swap(row, place);
    for (int64_t i = kept, next = kept; i-- > 0;) {
      if (i + 1 < kept && gain[i] > gain[i + 1]) next = i + 1;
      below[i] = next;
    }
    items = kept;
    return {kept,    score.data(), nullptr, gain.data(),  discount.data(), below.data(),
            nullptr, kept,         ideal,   slope.data(), nullptr};
  }

  // values[i] = values[row[i]]
  void permute(std::vector<A>* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) all[i] = (*values)[row[i]];
    std::swap(*values, all);
  }

  double loop(const RankedList<A>& ranked, int64_t first, int64_t step) const {
    if constexpr (std::is_same_v<A, double>) {
      return call.entry.wide(ranked, call.options, first, step);
    } else {
      return call.entry.narrow(ranked, call.options, first, step);
    }
  }

  // The sum over the rows of a long list: slice s has the rows s, s + kSlices, ... and a gradient of its own.
  double run_slices(const RankedList<A>& ranked) {
    std::vector<double> sums(kSlices);
    std::vector<A> slopes(kSlices * items), gradients(ranked.gradient ? kSlices * items : 0);
    parallel(kSlices, items * items / kSlices, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        RankedList<A> slice = ranked;
        slice.slope = slopes.data() + s * items;
        if (ranked.gradient) slice.gradient = gradients.data() + s * items;
        sums[s] = loop(slice, s, kSlices);
      }
    });
    double sum = 0;
    for (int64_t s = 0; s < kSlices; ++s) {
      sum += sums[s];
      for (int64_t i = 0; ranked.gradient && i < items; ++i) gradient[i] += gradients[s * items + i];
    }
    return sum;
  }

  double run(int64_t list, bool sliced) {
    read(list);
    order_by_gain();
    double result = 0;
    std::fill(gradient.begin(), gradient.end(), A(0));
    if (!(ideal == A(0))) {
      RankedList<A> ranked = call.entry.smooth_ranks ? smooth() : paired();
      if (call.problem.gradient) ranked.gradient = gradient.data();
      const double sum = sliced ? run_slices(ranked) : loop(ranked, 0, 1);
      result = call.entry.smooth_ranks ? 1 - sum / ideal : sum / ideal;
    }
    if (call.problem.results.losses) static_cast<A*>(call.problem.results.losses)[list] = static_cast<A>(result);
    if (call.problem.gradient) write(list);
    return result;
  }

  void write(int64_t list) {
    const int64_t n = call.n;
    double factor = call.scale * call.rate;
    if (call.problem.results.per_item) factor *= static_cast<const A*>(call.problem.results.incoming)[list];
    if (!call.entry.smooth_ranks) factor /= ideal;
    const bool empty = ideal == A(0);
    std::fill(all.begin(), all.end(), A(0));
    for (int64_t i = 0; i < items && !empty; ++i) all[place[i]] = static_cast<A>(factor * gradient[i]);
    base::store_block(all.data(), call.problem.gradient, call.problem.scores.dtype, list * n, n);
  }
};

template <class A>
double run_lists(const RankingRun& call) {
  std::vector<A> discounts(call.n + 1);
  for (int64_t rank = 1; rank <= call.n; ++rank) discounts[rank] = A(1) / std::log2(static_cast<A>(rank + 1));
  std::vector<double> losses(call.problem.lists);
  if (call.problem.lists < kSlices && call.n >= kSlicedItems) {
    List<A> list(call, discounts.data());
    for (int64_t b = 0; b < call.problem.lists; ++b) losses[b] = list.run(b, true);
  } else {
    parallel(call.problem.lists, call.n * call.n, [&](int64_t begin, int64_t end) {
      List<A> list(call, discounts.data());
      for (int64_t b = begin; b < end; ++b) losses[b] = list.run(b, false);
    });
  }
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

struct CpuRanking : CpuDevice {
  static void run(LossId id, const Options& options, const RankingProblem& problem, const Tensor&) {
    const RankingEntry& entry = FL_FOR_ISA(ranking_loops)[loss_of(id).place];
    const RankingRun call(problem, entry, options);
    const Dtype dtype = accumulation_dtype(problem.scores.dtype);
    store_total(problem.results, dtype, dtype == Dtype::kFloat64 ? run_lists<double>(call) : run_lists<float>(call));
  }
};

}  // namespace

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<RankingCall<CpuRanking>, LossId::op>(m);
  FL_RANKING_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
