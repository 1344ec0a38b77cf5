// The CPU driver of the overlap family and its compounds: sums of every region, a ratio of each, then the gradient,
// while the sample is still in the cache where that is possible.
#include "cpu/overlap.h"

#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/device.h"
#include "host/overlap.h"
#include "math/platform.h"

namespace fused_losses {
namespace {

#include "cpu/lowest.h"
using std::pow;
#include "formulas/overlap.h"

// The loss of a region from its sums.
using RegionLoss = OverlapLoss (*)(const Options&, double I, double P, double G, bool ignoring);

template <class F>
OverlapLoss region_loss(const Options& options, double I, double P, double G, bool ignoring) {
  return overlap_loss(F(options), I, P, G, ignoring);
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
        wide_(dtype_ == Dtype::kFloat64),
        sums_(problem.rows * problem.classes * 3),
        losses_(problem.rows * problem.classes),
        by_I_(losses_),
        by_P_(losses_) {
    if (task_.weight) {
      weights_.resize(task_.kept);
      read_values(task_.weight, task_.weight_dtype, 0, task_.kept, weights_.data());
    }
  }

  void forward() {
    second_count_ = countable();
    set_second_scale();
    task_.keeps = keeps_probabilities();
    parts_.resize(groups_.count * groups_.chunks * part_size());
    const bool at_once = works_on_groups_at_once();
    if (at_once) {
      parallel(groups_.count, groups_.classes * groups_.positions, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) run_group(g);
      });
    } else {
      each_chunk([&](int64_t g, int64_t c) { sum_chunk(g, c); });
    }
    check_classes();
    add_seconds();
    if (!at_once) {
      for (int64_t g = 0; g < groups_.count; ++g) add_parts(g);
      for (int64_t r = 0; r < task_.rows; ++r) finish(r, 0, task_.classes);
      set_second_scale();
      if (task_.gradient) each_chunk([&](int64_t g, int64_t c) { write_gradient(g, c); });
    }
    store_results();
  }

  // Starts from the sums that the forward saved.
  void backward() {
    read_values(task_.saved_sums, dtype_, 0, static_cast<int64_t>(sums_.size()), sums_.data());
    if (task_.saved_count) second_count_ = load_scalar(task_.saved_count, dtype_);
    for (int64_t r = 0; r < task_.rows; ++r) finish(r, 0, task_.classes);
    set_second_scale();
    each_chunk([&](int64_t g, int64_t c) { write_gradient(g, c); });
  }

 private:
  const LossId id_;
  const Options& options_;
  OverlapTask task_;
  const OverlapGroups groups_;
  const OverlapLoops& loops_;
  const Dtype dtype_;  // of sums and losses
  const bool wide_;
  std::vector<double> sums_;                  // [rows, C, 3]: I, P, G
  std::vector<double> losses_, by_I_, by_P_;  // [rows, C]: weighted; coefficients of the gradient
  std::vector<double> weights_;               // [kept], or empty
  std::vector<double> parts_;                 // [groups, chunks, part_size()]: sums, then the two of the second term
  double second_sum_ = 0, second_count_ = 1;  // the second terms, and what their mean divides by
  std::atomic<int64_t> invalid_{INT64_MAX};   // lowest index in [B, S] of what is not a class

  int64_t part_size() const { return groups_.classes * 3 + 2; }
  int64_t row(int64_t group) const { return task_.options.batch ? 0 : groups_.sample(group); }
  int64_t region(int64_t group) const { return row(group) * task_.classes + groups_.first(group); }

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

  void set_second_scale() {
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

  void run_group(int64_t g) {
    for (int64_t c = 0; c < groups_.chunks; ++c) sum_chunk(g, c);
    if (invalid_ != INT64_MAX) return;
    add_parts(g);
    finish(row(g), groups_.first(g), groups_.first(g) + groups_.classes);
    for (int64_t c = 0; c < groups_.chunks; ++c) write_gradient(g, c);
  }

  void sum_chunk(int64_t g, int64_t c) {
    double* part = &parts_[(g * groups_.chunks + c) * part_size()];
    const int64_t first = groups_.first(g), sample = groups_.sample(g);
    const int64_t wrong = loops_.sums[wide_](task_, sample, first, first + groups_.classes, c * groups_.chunk,
                                             groups_.end(c), part, part + 3 * groups_.classes);
    if (wrong >= 0) note_lowest(&invalid_, sample * task_.positions + wrong);
  }

  void write_gradient(int64_t g, int64_t c) {
    const int64_t first = groups_.first(g), at = region(g);
    loops_.gradient[wide_](task_, groups_.sample(g), first, first + groups_.classes, c * groups_.chunk, groups_.end(c),
                           &by_I_[at], &by_P_[at]);
  }

  // Adds the sums of the chunks of a group, in order.
  void add_parts(int64_t g) {
    double* sums = &sums_[region(g) * 3];
    for (int64_t c = 0; c < groups_.chunks; ++c) {
      const double* part = &parts_[(g * groups_.chunks + c) * part_size()];
      for (int64_t k = 0; k < groups_.classes * 3; ++k) sums[k] += part[k];
    }
  }

  void add_seconds() {
    double count = 0;
    for (size_t end = part_size(); end <= parts_.size(); end += part_size()) {
      second_sum_ += parts_[end - 2];
      count += parts_[end - 1];
    }
    second_count_ = count > 1 ? count : 1;
  }

  void check_classes() const {
    const int64_t at = invalid_;
    if (at == INT64_MAX) return;
    const OverlapOptions& options = task_.options;
    const int64_t ignored = options.ignoring ? static_cast<int64_t>(options.ignore_index) : 0;
    refuse_class_index(loss_of(id_).name, task_.target, task_.target_dtype, at, task_.classes,
                       options.ignoring ? &ignored : nullptr);
  }

  // Loss and coefficients of classes [from, to) of row r, from their sums. The background left out has no loss, and no
  // gradient even where its sums are NaN.
  void finish(int64_t r, int64_t from, int64_t to) {
    const Results& results = task_.results;
    const double scale = gradient_scale(results, dtype_) * task_.options.overlap_weight;
    const int64_t dropped = task_.classes - task_.kept;
    for (int64_t c = from > dropped ? from : dropped; c < to; ++c) {
      const int64_t at = r * task_.classes + c, k = c - dropped;
      const double* s = &sums_[at * 3];
      const OverlapLoss found = kRegionLosses[loss_of(id_).place](options_, s[0], s[1], s[2], task_.options.ignoring);
      const double weight = weights_.empty() ? 1 : weights_[k];
      const double incoming = results.per_item ? load_scalar(results.incoming, dtype_, r * task_.kept + k) : 1;
      losses_[at] = weight * found.loss;
      by_I_[at] = scale * incoming * weight * found.by_I;
      by_P_[at] = scale * incoming * weight * found.by_P;
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
    for (size_t i = 0; i < sums_.size(); ++i) store_scalar(sums_[i], task_.sums, dtype_, static_cast<int64_t>(i));
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
