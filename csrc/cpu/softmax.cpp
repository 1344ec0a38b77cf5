// The CPU driver of the softmax family: chunks of positions, one pass over memory for loss and gradient.
#include "cpu/softmax.h"

#include "cpu/device.h"
#include "cpu/scratch.h"
#include "host/softmax.h"

namespace fused_losses {
namespace {

// The weights of the classes as the loops read them.
struct ClassWeights {
  std::vector<double> doubles;
  std::vector<float> floats;

  // [padded_classes] in the accumulation dtype, ones where none are given; null where the loops need none.
  const void* read(const SoftmaxProblem& problem, Dtype dtype) {
    if (!problem.weight && problem.class_index && problem.label_smoothing == 0) return nullptr;
    return dtype == Dtype::kFloat64 ? read(problem, &doubles) : read(problem, &floats);
  }

 private:
  template <class A>
  static const void* read(const SoftmaxProblem& problem, std::vector<A>* out) {
    out->assign(padded_classes(problem.classes), A(0));
    if (problem.weight) {
      read_values(problem.weight, problem.weight_dtype, 0, problem.classes, out->data());
    } else {
      std::fill_n(out->begin(), problem.classes, A(1));
    }
    return out->data();
  }
};

// Positions of which one partial sum is kept: whole groups where the loops gather several outer indices.
int64_t chunk_size(const SoftmaxProblem& problem) {
  int64_t n = kChunk / (problem.classes > 0 ? problem.classes : 1);
  if (runs_as_rows(problem.classes, problem.inner)) return n > 0 ? n : 1;
  const int64_t lanes = tile_lanes(problem.classes);
  if (n < lanes) n = lanes;
  return problem.inner < kGatherInner ? n / problem.inner * problem.inner : n;
}

// The sum of the losses of all positions, chunks added in order.
double sum_of_losses(const SoftmaxTask& task, SoftmaxLoop loop, Dtype dtype) {
  const int64_t positions = task.positions();
  if (positions == 0) return 0;
  const int64_t size = chunk_size(task), chunks = (positions + size - 1) / size;
  const int64_t bytes = scratch_size(task.classes, task.inner) * element_size(dtype);
  std::vector<double> partial(chunks);
  parallel(chunks, positions / chunks * (task.classes + 1), [&](int64_t first, int64_t last) {
    Scratch space;  // touched only where values pass through it
    void* scratch = space.at_least(bytes);
    for (int64_t c = first; c < last; ++c) {
      partial[c] = loop(task, c * size, c + 1 < chunks ? (c + 1) * size : positions, scratch);
    }
  });
  double sum = 0;
  for (const double p : partial) sum += p;
  return sum;
}

struct CpuSoftmax : CpuDevice {
  static void run(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor&) {
    run_softmax(id, options, problem);
  }
};

}  // namespace

double count_classes(const SoftmaxProblem& problem, bool weighted) {
  std::vector<double> weight;
  if (weighted && problem.weight) {
    weight.resize(problem.classes);
    read_values(problem.weight, problem.weight_dtype, 0, problem.classes, weight.data());
  }
  const auto run = FL_FOR_ISA(counted);
  const double* weights = weighted && problem.weight ? weight.data() : nullptr;
  return chunked_sum(problem.positions(), [&](int64_t b, int64_t e) { return run(problem, weights, b, e); });
}

[[noreturn]] void refuse_class_of(const char* op, const SoftmaxProblem& problem, int64_t position) {
  refuse_class_index(op, problem.target, problem.target_dtype, position, problem.classes,
                     problem.ignoring() ? &problem.ignore_index : nullptr);
}

void check_class_indices(const char* op, const SoftmaxProblem& problem) {
  const int64_t positions = problem.positions();
  for (int64_t i = 0; i < positions; ++i) {
    const int64_t y = integer_at(problem.target, problem.target_dtype, i);
    if ((y < 0 || y >= problem.classes) && !problem.ignores(y)) refuse_class_of(op, problem, i);
  }
}

void run_softmax(LossId id, const Options& options, const SoftmaxProblem& problem) {
  const SoftmaxEntry& entry = FL_FOR_ISA(softmax_loops)[loss_of(id).place];
  const Dtype dtype = accumulation_dtype(problem.input_dtype);
  SoftmaxTask task{problem};
  ClassWeights weights;
  const int64_t positions = problem.positions();
  std::atomic<int64_t> invalid{positions};
  task.options = &options;
  task.invalid = &invalid;
  task.class_weight = entry.pair ? nullptr : weights.read(problem, dtype);
  if (task.results.counts) task.results.denominator = count_classes(problem, entry.weighted_mean);
  if (task.results.counted) task.results.denominator = *task.results.counted;
  task.scale = gradient_scale(task.results, dtype);
  const double sum = sum_of_losses(task, entry.run[dtype == Dtype::kFloat64], dtype);
  if (invalid < positions) refuse_class_of(loss_of(id).name, problem, invalid);
  store_total(task.results, dtype, sum);
}

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<SoftmaxCall<CpuSoftmax>, LossId::op>(m);
  FL_SOFTMAX_LOSSES(FL_REGISTER)
  FL_SOFTMAX_PAIR_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
