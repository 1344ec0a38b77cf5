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
#include "formulas/custom.h"

#include "cpu/overlap_ratios.h"

// How a problem is cut. A group has sums of its own and can be worked on alone: a sample, or a class of a sample where
// neither the activation, the target nor the ratio ties the classes together. Its positions are cut into chunks.
struct OverlapGroups {
  int64_t of_problem, classes, positions;  // C, classes of a group, S
  int64_t count, chunk, chunks;            // groups; positions of a chunk, chunks of a group

  OverlapGroups(const OverlapProblem& problem, const OverlapOptions& options)
      : of_problem(problem.classes), positions(problem.positions) {
    constexpr int64_t kElements = 64 * 1024, kFewestPositions = 1024;  // of a chunk
    const bool apart = !options.joint() && !problem.class_index && !options.micro;
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

// One call, forward or backward.
class OverlapRun {
 public:
  OverlapRun(LossId id, const Options& options, const OverlapProblem& problem)
      : id_(id),
        task_{problem, OverlapOptions(id, options)},
        groups_(problem, task_.options),
        loops_(FL_FOR_ISA(overlap_loops)),
        dtype_(accumulation_dtype(problem.input_dtype)),
        wide_(groups_.count, dtype_ == Dtype::kFloat64),
        ratios_(id, options, task_),
        parts_(groups_.count * groups_.chunks * part_size()) {
    if (task_.class_weight) {
      class_weights_.resize(task_.classes);
      read_values(task_.class_weight, task_.class_weight_dtype, 0, task_.classes, class_weights_.data());
      task_.class_weights = class_weights_.data();
    }
    set_second_scale(countable());
  }

  void forward() {
    keeps_ = keeps_probabilities();
    const bool at_once = works_on_groups_at_once();
    if (at_once) {
      parallel(groups_.count, groups_.classes * groups_.positions, [&](int64_t begin, int64_t end) {
        Scratch scratch;
        for (int64_t g = begin; g < end; ++g) run_group(g, &scratch);
      });
    } else {
      each_chunk([&](int64_t g, int64_t c, Scratch* scratch) { sum_chunk(g, c, scratch); });
    }
    if (invalid_) refuse_target();
    task_.checked = true;
    if (!at_once) {
      for (int64_t g = 0; g < groups_.count; ++g) add_parts(g);
      ratios_.find(0, ratios_.count());
      sum_again();
    }
    add_seconds();
    if (!at_once && task_.gradient) write_gradients();
    store_results();
  }

  // Starts from the sums that the forward saved.
  void backward() {
    ratios_.read_saved_sums();
    if (task_.saved_count) set_second_scale(load_scalar(task_.saved_count, dtype_));
    ratios_.find(0, ratios_.count());
    sum_again();
    if (!invalid_) write_gradients();
    if (invalid_) refuse_target();
  }

 private:
  const LossId id_;
  OverlapTask task_;
  const OverlapGroups groups_;
  const OverlapLoops& loops_;
  const Dtype dtype_;   // of sums and losses
  bool keeps_ = false;  // the sums leave the probabilities in the gradient
  std::vector<double> class_weights_;
  std::vector<char> wide_;                    // [groups]: computed in float64
  OverlapRatios ratios_;                      // of the sums of all parts
  std::vector<double> parts_;                 // [groups, chunks, part_size()]: sums, then the two of the second term
  double second_sum_ = 0, second_count_ = 1;  // the second terms, and what their mean divides by
  std::atomic<bool> invalid_{false};          // something in the target is neither a class nor ignored

  int64_t part_size() const { return groups_.classes * kRegionSums + 2; }
  double* part(int64_t g, int64_t c) { return &parts_[(g * groups_.chunks + c) * part_size()]; }
  int64_t region(int64_t g) const {
    return (task_.options.batch ? 0 : groups_.sample(g)) * task_.classes + groups_.first(g);
  }

  // What the second term's mean divides by where nothing is ignored.
  double countable() const {
    return static_cast<double>(task_.samples * (task_.options.second_softmax() ? 1 : task_.classes) * task_.positions);
  }

  // They are kept where there is a gradient of their dtype to keep them in; a second term after softmax needs more, but
  // for the cross-entropy, whose slope is 1 whatever the logits.
  bool keeps_probabilities() const {
    const OverlapOptions& options = task_.options;
    return task_.gradient && task_.gradient != task_.input && options.activation != Activation::kNone &&
           task_.input_dtype == dtype_ &&
           (!options.joint() || !options.has_second() || options.second == SecondTerm::kCrossEntropy);
  }

  // Whether a group's gradient follows its sums: nothing but them is needed, and there are groups for all threads.
  bool works_on_groups_at_once() const {
    // Whether what the means divide by is known before any sum.
    const bool counted = !task_.options.has_second() || !(task_.options.ignoring || task_.counts_weights);
    return !task_.options.batch && task_.gradient && counted && !ratios_.skips() &&
           (groups_.chunks == 1 || groups_.count >= 2 * torch::stable::get_num_threads());
  }

  void set_second_scale(double count) {
    second_count_ = count != 0 ? count : 1;
    const Results& results = task_.results;
    const double incoming = results.incoming && !results.per_item ? load_scalar(results.incoming, dtype_) : 1;
    task_.second_scale = task_.options.second_weight * results.factor * incoming / second_denominator();
  }

  double second_denominator() const { return task_.results.counts ? second_count_ : 1; }

  template <class Run>
  void each_chunk(const Run& run) {
    const int64_t chunks = groups_.chunks, cost = groups_.classes * groups_.positions / chunks;
    parallel(groups_.count * chunks, cost, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t i = begin; i < end; ++i) run(i / chunks, i % chunks, &scratch);
    });
  }

  // Sums, losses and gradient of a group that has its regions to itself.
  void run_group(int64_t g, Scratch* scratch) {
    sum_group(g, scratch);
    if (invalid_) return;
    if (dtype_ != Dtype::kFloat64 && underflows(g)) {
      wide_[g] = true;
      clear_sums(g);
      sum_group(g, scratch);
    }
    for (int64_t c = 0; c < groups_.chunks; ++c) write_gradient(g, c, scratch);
  }

  void sum_group(int64_t g, Scratch* scratch) {
    for (int64_t c = 0; c < groups_.chunks; ++c) sum_chunk(g, c, scratch);
    add_parts(g);
    ratios_.find(region(g), region(g) + groups_.classes);
  }

  // Sums what underflows once more, in float64; the groups that share a region (`batch`) go together.
  void sum_again() {
    if (dtype_ == Dtype::kFloat64) return;
    for (int64_t g = 0; g < groups_.count; ++g) wide_[g] = underflows(g);
    if (std::none_of(wide_.begin(), wide_.end(), [](char wide) { return wide != 0; })) return;
    each_chunk([&](int64_t g, int64_t c, Scratch* scratch) {
      if (wide_[g]) sum_chunk(g, c, scratch);
    });
    for (int64_t g = 0; g < groups_.count; ++g) {
      if (wide_[g]) clear_sums(g);
    }
    for (int64_t g = 0; g < groups_.count; ++g) {
      if (wide_[g]) add_parts(g);
    }
    ratios_.find(0, ratios_.count());
  }

  bool underflows(int64_t g) const {
    for (int64_t at = region(g); at < region(g) + groups_.classes; ++at) {
      if (std::fabs(ratios_.denominator(at)) < kSmallestInFloat) return true;
    }
    return false;
  }

  // Probabilities are kept in the gradient's own dtype.
  OverlapPart piece(int64_t g, int64_t c) const {
    const int64_t first = groups_.first(g);
    return {groups_.sample(g), first,          first + groups_.classes,
            c * groups_.chunk, groups_.end(c), keeps_ && (!wide_[g] || dtype_ == Dtype::kFloat64)};
  }

  void sum_chunk(int64_t g, int64_t c, Scratch* scratch) {
    double *sums = part(g, c), *second = sums + groups_.classes * kRegionSums;
    if (!loops_.sums[wide_[g] != 0](task_, piece(g, c), scratch, sums, second)) invalid_ = true;
  }

  void write_gradient(int64_t g, int64_t c, Scratch* scratch) {
    const double *by_I = ratios_.by_I(region(g)), *by_P = ratios_.by_P(region(g));
    if (!loops_.gradient[wide_[g] != 0](task_, piece(g, c), scratch, by_I, by_P)) invalid_ = true;
  }

  void write_gradients() {
    each_chunk([&](int64_t g, int64_t c, Scratch* scratch) { write_gradient(g, c, scratch); });
  }

  // Adds the sums of the chunks of a group, in order.
  void add_parts(int64_t g) {
    double* sums = ratios_.sums(region(g));
    for (int64_t c = 0; c < groups_.chunks; ++c) {
      for (int64_t k = 0; k < groups_.classes * kRegionSums; ++k) sums[k] += part(g, c)[k];
    }
  }

  void clear_sums(int64_t g) { std::fill_n(ratios_.sums(region(g)), groups_.classes * kRegionSums, 0.0); }

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

  void store_results() const {
    const Results& results = task_.results;
    double total = ratios_.store();
    if (task_.count) store_scalar(second_count_, task_.count, dtype_);
    if (!results.total) return;
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

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<OverlapCall<CpuOverlap>, LossId::op>(m);
  FL_OVERLAP_LOSSES(FL_REGISTER)
  FL_COMPOUND_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
