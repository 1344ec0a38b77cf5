// The CPU driver of the overlap family and its compounds: sums of every region, a ratio of each, then the gradient,
// while the sample is still in the cache where that is possible.
#include "cpu/overlap.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/device.h"
#include "host/overlap.h"
#include "math/platform.h"

namespace fused_losses {
namespace {

using std::pow;
#include "formulas/overlap.h"

// The loss of a region from its I, P and G; counts: anything in it does.
using RegionLoss = OverlapLoss (*)(const Options&, const double* sums, bool counts);

template <class F>
OverlapLoss region_loss(const Options& options, const double* sums, bool counts) {
  return overlap_loss(F(options), sums[0], sums[1], sums[2], counts);
}

constexpr RegionLoss kRegionLosses[] = {// in the order of the table of losses
#define FL_ENTRY(op, Functor, ...) region_loss<Functor>,
                                        FL_OVERLAP_LOSSES(FL_ENTRY)
#undef FL_ENTRY
#define FL_ENTRY(...) region_loss<Dice>,
                                            FL_COMPOUND_LOSSES(FL_ENTRY)
#undef FL_ENTRY
};

// How a problem is cut. A group has sums of its own and can be worked on alone: a sample, or a class of a sample where
// neither the activation nor the target ties the classes together. Its positions are cut into chunks.
struct OverlapGroups {
  int64_t of_problem, classes, positions;  // C, classes of a group, S
  int64_t count, chunk, chunks;            // groups; positions of a chunk, chunks of a group

  OverlapGroups(const OverlapProblem& problem, const OverlapOptions& options)
      : of_problem(problem.classes), positions(problem.positions) {
    constexpr int64_t kElements = 64 * 1024, kFewestPositions = 1024;  // of a chunk
    const bool apart = !options.softmax() && !problem.class_index;
    classes = apart ? 1 : of_problem;
    count = apart ? problem.samples * of_problem : problem.samples;
    chunk = kElements / (classes > 0 ? classes : 1);
    if (chunk < kFewestPositions) chunk = kFewestPositions;
    chunks = positions > 0 ? (positions + chunk - 1) / chunk : 1;
  }

  int64_t sample(int64_t group) const { return classes == 1 ? group / of_problem : group; }
  int64_t first(int64_t group) const { return classes == 1 ? group % of_problem : 0; }
  int64_t end(int64_t c) const { return c + 1 < chunks ? (c + 1) * chunk : positions; }
};

// A smaller denominator makes float32 lose sums to underflow and coefficients of the gradient to overflow, although
// their products are in range: what has one is computed in float64.
constexpr double kSmallestInFloat = 1e-12;

// One call, forward or backward. Every class of every row has sums and coefficients, the background too.
class OverlapRun {
 public:
  OverlapRun(LossId id, const Options& options, const OverlapProblem& problem)
      : id_(id),
        options_(options),
        task_{problem, OverlapOptions(id, options)},
        groups_(problem, task_.options),
        loops_(for_isa(base::overlap_loops, avx2::overlap_loops, avx512::overlap_loops)),
        dtype_(accumulation_dtype(problem.input_dtype)),
        region_count_(problem.rows * problem.classes),
        wide_(groups_.count, dtype_ == Dtype::kFloat64),
        memory_(region_count_ * (kRegionSums + 4) + groups_.count * groups_.chunks * part_size()),
        sums_(memory_.data()),
        losses_(sums_ + region_count_ * kRegionSums),
        by_I_(losses_ + region_count_),
        by_P_(by_I_ + region_count_),
        denominators_(by_P_ + region_count_),
        parts_(denominators_ + region_count_) {
    if (task_.weight) {
      weights_.resize(task_.kept);
      read_values(task_.weight, task_.weight_dtype, 0, task_.kept, weights_.data());
    }
    set_second_scale(countable());
  }

  void forward() {
    keeps_ = keeps_probabilities();
    const bool at_once = works_on_groups_at_once();
    if (at_once) {
      parallel(groups_.count, groups_.classes * groups_.positions, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) run_group(g);
      });
    } else {
      each_chunk([&](int64_t g, int64_t c) { sum_chunk(g, c); });
    }
    if (invalid_) refuse_target();
    if (!at_once) {
      for (int64_t g = 0; g < groups_.count; ++g) add_parts(g);
      find_losses(0, region_count_);
      sum_again();
    }
    add_seconds();
    if (!at_once && task_.gradient) each_chunk([&](int64_t g, int64_t c) { write_gradient(g, c); });
    store_results();
  }

  // Starts from the sums that the forward saved.
  void backward() {
    for (int64_t at = 0; at < region_count_; ++at) {
      double* sums = &sums_[at * kRegionSums];
      read_values(task_.saved_sums, dtype_, at * 3, 3, sums);
      sums[3] = 1;  // where nothing counts there is no gradient, whatever the coefficients
    }
    if (task_.saved_count) set_second_scale(load_scalar(task_.saved_count, dtype_));
    find_losses(0, region_count_);
    sum_again();
    each_chunk([&](int64_t g, int64_t c) { write_gradient(g, c); });
  }

 private:
  const LossId id_;
  const Options& options_;
  OverlapTask task_;
  const OverlapGroups groups_;
  const OverlapLoops& loops_;
  const Dtype dtype_;                                 // of sums and losses
  const int64_t region_count_;                        // rows x C
  bool keeps_ = false;                                // the sums leave the probabilities in the gradient
  std::vector<char> wide_;                            // [groups]: computed in float64
  std::vector<double> weights_;                       // [kept], or empty
  std::vector<double> memory_;                        // of the following
  double* const sums_;                                // [rows, C, kRegionSums]
  double *const losses_, *const by_I_, *const by_P_;  // [rows, C]: weighted; coefficients of the gradient
  double* const denominators_;                // [rows, C]: of the ratios, infinite where nothing depends on them
  double* const parts_;                       // [groups, chunks, part_size()]: sums, then the two of the second term
  double second_sum_ = 0, second_count_ = 1;  // the second terms, and what their mean divides by
  std::atomic<bool> invalid_{false};          // something in the target is neither a class nor ignored

  int64_t part_size() const { return groups_.classes * kRegionSums + 2; }
  double* part(int64_t g, int64_t c) { return &parts_[(g * groups_.chunks + c) * part_size()]; }
  int64_t region(int64_t g) const {
    return (task_.options.batch ? 0 : groups_.sample(g)) * task_.classes + groups_.first(g);
  }

  // What the second term's mean divides by where nothing is ignored.
  double countable() const {
    return static_cast<double>(task_.samples * (task_.options.softmax() ? 1 : task_.classes) * task_.positions);
  }

  // They are kept where there is a gradient of their dtype to keep them in; a second term after softmax needs more, but
  // for the cross-entropy of class indices, whose slope is 1 whatever the logits.
  bool keeps_probabilities() const {
    const OverlapOptions& options = task_.options;
    return task_.gradient && task_.gradient != task_.input && options.activation != Activation::kNone &&
           task_.input_dtype == dtype_ &&
           (!options.softmax() || !options.has_second() ||
            (options.second == SecondTerm::kCrossEntropy && task_.class_index));
  }

  // Whether a group's gradient follows its sums: nothing but them is needed, and there are groups for all threads.
  bool works_on_groups_at_once() const {
    const bool counted = !task_.options.has_second() || !task_.options.ignoring;  // before any sum
    return !task_.options.batch && task_.gradient && counted &&
           (groups_.chunks == 1 || groups_.count >= 2 * torch::stable::get_num_threads());
  }

  void set_second_scale(double count) {
    second_count_ = count > 1 ? count : 1;
    const Results& results = task_.results;
    const double incoming = results.incoming && !results.per_item ? load_scalar(results.incoming, dtype_) : 1;
    task_.second_scale = task_.options.second_weight * results.factor * incoming / second_denominator();
  }

  double second_denominator() const { return task_.results.counts ? second_count_ : 1; }

  template <class Run>
  void each_chunk(const Run& run) {
    const int64_t chunks = groups_.chunks, cost = groups_.classes * groups_.positions / chunks;
    parallel(groups_.count * chunks, cost, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) run(i / chunks, i % chunks);
    });
  }

  // Sums, losses and gradient of a group that has its regions to itself.
  void run_group(int64_t g) {
    sum_group(g);
    if (invalid_) return;
    if (dtype_ != Dtype::kFloat64 && underflows(g)) {
      wide_[g] = true;
      clear_sums(g);
      sum_group(g);
    }
    for (int64_t c = 0; c < groups_.chunks; ++c) write_gradient(g, c);
  }

  void sum_group(int64_t g) {
    for (int64_t c = 0; c < groups_.chunks; ++c) sum_chunk(g, c);
    add_parts(g);
    find_losses(region(g), region(g) + groups_.classes);
  }

  // Sums what underflows once more, in float64; the groups that share a region (`batch`) go together.
  void sum_again() {
    if (dtype_ == Dtype::kFloat64) return;
    for (int64_t g = 0; g < groups_.count; ++g) wide_[g] = underflows(g);
    if (std::none_of(wide_.begin(), wide_.end(), [](char wide) { return wide != 0; })) return;
    each_chunk([&](int64_t g, int64_t c) {
      if (wide_[g]) sum_chunk(g, c);
    });
    for (int64_t g = 0; g < groups_.count; ++g) {
      if (wide_[g]) clear_sums(g);
    }
    for (int64_t g = 0; g < groups_.count; ++g) {
      if (wide_[g]) add_parts(g);
    }
    find_losses(0, region_count_);
  }

  bool underflows(int64_t g) const {
    const double* of = denominators_ + region(g);
    return std::any_of(of, of + groups_.classes, [](double d) { return std::fabs(d) < kSmallestInFloat; });
  }

  // Probabilities are kept in the gradient's own dtype.
  OverlapPart piece(int64_t g, int64_t c) const {
    const int64_t first = groups_.first(g);
    return {groups_.sample(g), first,          first + groups_.classes,
            c * groups_.chunk, groups_.end(c), keeps_ && (!wide_[g] || dtype_ == Dtype::kFloat64)};
  }

  void sum_chunk(int64_t g, int64_t c) {
    double* sums = part(g, c);
    if (!loops_.sums[wide_[g] != 0](task_, piece(g, c), sums, sums + groups_.classes * kRegionSums)) invalid_ = true;
  }

  void write_gradient(int64_t g, int64_t c) {
    loops_.gradient[wide_[g] != 0](task_, piece(g, c), &by_I_[region(g)], &by_P_[region(g)]);
  }

  // Adds the sums of the chunks of a group, in order.
  void add_parts(int64_t g) {
    double* sums = &sums_[region(g) * kRegionSums];
    for (int64_t c = 0; c < groups_.chunks; ++c) {
      for (int64_t k = 0; k < groups_.classes * kRegionSums; ++k) sums[k] += part(g, c)[k];
    }
  }

  void clear_sums(int64_t g) { std::fill_n(sums_ + region(g) * kRegionSums, groups_.classes * kRegionSums, 0.0); }

  void add_seconds() {
    double count = 0;
    for (int64_t i = 1; i <= groups_.count * groups_.chunks; ++i) {
      second_sum_ += parts_[i * part_size() - 2];
      count += parts_[i * part_size() - 1];
    }
    set_second_scale(count);
  }

  // Names the first value of the target that is neither a class (in a mask: 0 or 1) nor ignored.
  [[noreturn]] void refuse_target() const {
    const OverlapOptions& options = task_.options;
    const int64_t ignored = options.ignoring ? static_cast<int64_t>(options.ignore_index) : 0;
    const int64_t classes = task_.class_index ? task_.classes : 2;
    const int64_t n = task_.samples * task_.positions * (task_.class_index ? 1 : task_.classes);
    int64_t at = 0;
    for (; at + 1 < n; ++at) {
      const int64_t y = integer_at(task_.target, task_.target_dtype, at);
      if (!(options.ignoring && y == ignored) && (y < 0 || y >= classes)) break;
    }
    const char* op = loss_of(id_).name;
    if (task_.class_index) {
      refuse_class_index(op, task_.target, task_.target_dtype, at, classes, options.ignoring ? &ignored : nullptr);
    }
    const auto given = static_cast<double>(integer_at(task_.target, task_.target_dtype, at));
    refuse_value(op, given, at, "an integer target to be 0, 1 or ignore_index");
  }

  // Losses and coefficients of the regions [begin, end), from their sums. The background left out has no loss, and no
  // gradient even where its sums are NaN.
  void find_losses(int64_t begin, int64_t end) {
    const Results& results = task_.results;
    const double scale = gradient_scale(results, dtype_) * task_.options.overlap_weight;
    const int64_t dropped = task_.classes - task_.kept;
    const bool empty = task_.samples * task_.positions == 0;  // nothing is there that could be ignored
    for (int64_t at = begin; at < end; ++at) {
      const int64_t r = at / task_.classes, k = at % task_.classes - dropped;
      denominators_[at] = INFINITY;
      if (k < 0) continue;
      const double* sums = &sums_[at * kRegionSums];
      const bool counts = sums[3] > 0 || empty;
      const OverlapLoss found = kRegionLosses[loss_of(id_).place](options_, sums, counts);
      const double weight = weights_.empty() ? 1 : weights_[k];
      const double incoming = results.per_item ? load_scalar(results.incoming, dtype_, r * task_.kept + k) : 1;
      losses_[at] = weight * found.loss;
      by_I_[at] = scale * incoming * weight * found.by_I;
      by_P_[at] = scale * incoming * weight * found.by_P;
      if (counts) denominators_[at] = found.denominator;
    }
  }

  void store_results() const {
    const Results& results = task_.results;
    double sum = 0;
    for (int64_t r = 0; r < task_.rows; ++r) {
      for (int64_t k = 0; k < task_.kept; ++k) {
        const double loss = losses_[(r + 1) * task_.classes - task_.kept + k];
        sum += loss;
        if (results.losses) store_scalar(loss, results.losses, dtype_, r * task_.kept + k);
      }
    }
    for (int64_t at = 0; at < region_count_; ++at) {
      for (int k = 0; k < 3; ++k) store_scalar(sums_[at * kRegionSums + k], task_.sums, dtype_, at * 3 + k);
    }
    if (task_.count) store_scalar(second_count_, task_.count, dtype_);
    if (!results.total) return;
    double total = sum * task_.options.overlap_weight / results.denominator;
    if (task_.options.has_second()) total += task_.options.second_weight * second_sum_ / second_denominator();
    store_scalar(results.factor * total, results.total, dtype_);
  }
};

struct CpuOverlap : CpuDevice {
  static void run(LossId id, const Options& options, const OverlapProblem& problem, const Tensor&) {
    OverlapRun call(id, options, problem);
    if (problem.backward) return call.backward();
    call.forward();
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fused_losses, CPU, m) {
#define FL_REGISTER(op, ...) register_loss<OverlapCall<CpuOverlap>, LossId::op>(m);
  FL_OVERLAP_LOSSES(FL_REGISTER)
  FL_COMPOUND_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
