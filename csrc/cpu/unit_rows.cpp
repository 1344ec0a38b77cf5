// Unit rows on the CPU.
#include "cpu/unit_rows.h"

#include "cpu/device.h"
#include "host/unit_rows.h"

namespace fused_losses {
namespace {

struct CpuUnitRows : CpuDevice {
  static void unit_rows(const UnitRows& task, const Tensor&) { run(task, FL_FOR_ISA(unit_rows_loops).forward); }
  static void unit_rows_gradient(const UnitRows& task, const Tensor&) {
    run(task, FL_FOR_ISA(unit_rows_loops).backward);
  }

 private:
  template <class Loop>
  static void run(const UnitRows& task, const Loop& loop) {
    parallel(task.count, task.length, [&](int64_t begin, int64_t end) { loop(task, begin, end); });
  }
};

}  // namespace

FL_CPU_LIBRARY(m) { register_unit_rows<CpuUnitRows>(m); }

}  // namespace fused_losses
