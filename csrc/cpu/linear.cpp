// The linear family on the CPU: the softmax family's loops on tiles of logits.
#include "cpu/linear.h"

#include "cpu/product.h"
#include "cpu/softmax.h"
#include "host/log_sums.h"

namespace fused_losses {
namespace {

struct CpuLinear : CpuProducts {
  static void run(LossId id, const Options& options, const SoftmaxProblem& problem, const Tensor&) {
    run_softmax(id, options, problem);
  }

  static void count(const char* op, const SoftmaxProblem& problem, const Tensor&, double* denominator) {
    check_class_indices(op, problem);
    if (denominator) *denominator = count_classes(problem, true);
  }

  static void cap(const Matrix& logits, double softcap) {
    void* data = logits.data();
    const Dtype dtype = dtype_of(logits.owner);
    parallel(logits.rows * logits.columns, 4,
             [&](int64_t begin, int64_t end) { loops().cap(data, dtype, softcap, begin, end); });
  }

  static void cap_gradient(const Matrix& capped, double softcap, const Matrix& gradient) {
    const void* data = capped.data();
    void* to = gradient.data();
    const Dtype dtype = dtype_of(capped.owner);
    parallel(capped.rows * capped.columns, 1,
             [&](int64_t begin, int64_t end) { loops().gradient(data, dtype, softcap, to, begin, end); });
  }

 private:
  static const SoftCapLoops& loops() { return FL_FOR_ISA(soft_cap_loops); }
};

}  // namespace

FL_CPU_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<LinearCall<CpuLinear, LossId::op>, LossId::op>(m);
  FL_LINEAR_LOSSES(FL_REGISTER)
  FL_RETRIEVAL_LOSSES(FL_REGISTER)
  FL_DISTILLATION_LOSSES(FL_REGISTER)
#undef FL_REGISTER
  m.impl("linear_log_sums", TORCH_BOX(&linear_log_sums<CpuLinear>));
}

}  // namespace fused_losses
