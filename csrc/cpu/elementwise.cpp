// The CPU driver of the elementwise family: chunks of elements, loss and gradient in one pass.
#include "cpu/elementwise.h"

#include "cpu/device.h"
#include "host/elementwise.h"

namespace fused_losses {
namespace {

// A broadcast operand in the accumulation dtype; holds the converted values.
struct Broadcast {
  std::vector<double> doubles;
  std::vector<float> floats;

  // Alone, a short run would be copied piece by piece: repeated, it is read in long ones.
  void convert(Dtype dtype, Operand* operand) {
    if (operand->period == 0) return;
    const int64_t n = operand->period, copies = operand->inner == 1 && n < kLongRun ? kLongRun / n : 1;
    operand->data = dtype == Dtype::kFloat64 ? read(*operand, copies, &doubles) : read(*operand, copies, &floats);
    operand->dtype = dtype;
    operand->period = n * copies;
  }

 private:
  static constexpr int64_t kLongRun = 512;

  template <class A>
  static const void* read(const Operand& operand, int64_t copies, std::vector<A>* out) {
    const int64_t n = operand.period;
    out->resize(n * copies);
    read_values(operand.data, operand.dtype, 0, n, out->data());
    for (int64_t i = n; i < n * copies; ++i) (*out)[i] = (*out)[i - n];
    return out->data();
  }
};

// How many class indices of `task` are not ignored, for all classes.
double count_classes(const ElementwiseTask& task) {
  const auto from = [&](const auto* y) {
    return chunked_sum(task.n / task.classes, [&](int64_t begin, int64_t end) -> double {
      int64_t count = 0;
      for (int64_t i = begin; i < end; ++i) count += static_cast<int64_t>(y[i]) != task.ignored_class;
      return static_cast<double>(count * task.classes);
    });
  };
  if (task.target.dtype == Dtype::kUInt8) return from(static_cast<const uint8_t*>(task.target.data));
  if (task.target.dtype == Dtype::kInt32) return from(static_cast<const int32_t*>(task.target.data));
  return from(static_cast<const int64_t*>(task.target.data));
}

// Sum over all elements of part(begin, end). With class indices the rows of all classes follow each other for some
// positions at a time, whose classes then stay in the caches.
template <class Part>
double sum_elements(const ElementwiseTask& task, const Part& part) {
  constexpr int64_t kPositions = 4096;
  const int64_t S = task.positions, C = task.classes, tiles = (S + kPositions - 1) / kPositions;
  if (tiles <= 1) return chunked_sum(task.n, part);
  return chunked_sum(task.n / (C * S) * tiles, C * kPositions, [&](int64_t first, int64_t last) {
    double sum = 0;
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % tiles * kPositions, stop = begin + kPositions, end = stop < S ? stop : S;
      for (int64_t c = 0; c < C; ++c) {
        const int64_t row = (i / tiles * C + c) * S;
        sum += part(row + begin, row + end);
      }
    }
    return sum;
  });
}

// Names the first class index that is no class.
[[noreturn]] void refuse_class(LossId id, const ElementwiseTask& task) {
  const auto at = [&](int64_t i) { return integer_at(task.target.data, task.target.dtype, i); };
  const auto allowed = [&](int64_t y) {
    return (y >= 0 && y < task.classes) || (task.ignoring && y == task.ignored_class);
  };
  int64_t i = 0;
  while (allowed(at(i))) ++i;
  refuse_class_index(loss_of(id).name, task.target.data, task.target.dtype, i, task.classes,
                     task.ignoring ? &task.ignored_class : nullptr);
}

[[noreturn]] void refuse_element(LossId id, const ElementwiseEntry& entry, const ElementwiseTask& task, int64_t at) {
  double input = 0, target = 0;
  read_values(task.input.data, task.input.dtype, at, 1, &input);
  read_values(task.target.data, task.target.dtype, at, 1, &target);
  const char* op = loss_of(id).name;
  if (entry.valid_input && !entry.valid_input(input)) refuse_value(op, input, at, entry.expected_input);
  if (!task.mask) refuse_value(op, target, at, entry.expected_target);
  refuse_value(op, target, at, "an integer target to be 0, 1 or ignore_index");
}

struct CpuElementwise : CpuDevice {
  static void run(LossId id, const Options& options, const ElementwiseProblem& problem, const Tensor&) {
    const ElementwiseEntry& entry = FL_FOR_ISA(elementwise_loops)[loss_of(id).place];
    const Dtype dtype = accumulation_dtype(problem.input.dtype);
    const bool wide = dtype == Dtype::kFloat64;
    ElementwiseTask task{problem};
    Results& results = task.results;
    Broadcast weight, pos_weight;
    weight.convert(dtype, &task.weight);
    pos_weight.convert(dtype, &task.pos_weight);
    std::atomic<int64_t> invalid{problem.n};
    Options known = options;
    task.options = &known;
    task.invalid = &invalid;
    task.mask = entry.mask && !is_floating(task.target.dtype) && !task.classes;
    if (task.classes) {
      task.ignoring = options.ignores();
      task.ignored_class = task.ignoring ? static_cast<int64_t>(options.ignore_index) : 0;
      known.ignore_index = task.ignoring ? kIgnoredTarget : kNoIndex;
    }
    if (results.counts && task.classes) {
      if (task.ignoring) results.denominator = count_classes(task);
    } else if (results.counts && (entry.counts_weights ? bool(task.weight) : entry.count[wide] && options.ignores())) {
      results.denominator = chunked_sum(task.n, [&](int64_t b, int64_t e) { return entry.count[wide](task, b, e); });
    }
    if (results.per_item) task.incoming = {results.incoming, dtype};
    task.scale = gradient_scale(results, dtype);
    const int64_t input_bytes = element_size(task.input.dtype), target_bytes = element_size(task.target.dtype);
    task.non_temporal =
        exceeds_caches(task.n * (input_bytes * (task.grad_input ? 2 : 1) + target_bytes * (task.grad_target ? 2 : 1)));
    const double sum = sum_elements(task, [&](int64_t b, int64_t e) { return entry.run[wide](task, b, e); });
    if (invalid < task.n && task.classes) refuse_class(id, task);
    if (invalid < task.n) refuse_element(id, entry, task, invalid);
    store_total(results, dtype, sum);
  }
};

}  // namespace

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<ElementwiseCall<CpuElementwise>, LossId::op>(m);
  FL_ELEMENTWISE_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
