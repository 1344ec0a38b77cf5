// The choice of the instruction set, and values of any dtype for the drivers.
#include "cpu/device.h"
#include "cpu/isa.h"

#include "cpu/loop_headers.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fused_losses {
namespace base {
#include "math/numerics.h"
#include "math/convert.h"
}  // namespace base

namespace {

constexpr const char* kNames[] = {"default", "avx2", "avx512"};

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);  // a name that Clang does not know
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return Isa::kAvx512;
    }
    return Isa::kAvx2;
  }
#endif
  return Isa::kDefault;
}

// The named set, or the best the CPU has if it lacks that one; false for an unknown name.
bool parse(const std::string& name, Isa* isa) {
  for (int i = 0; i < 3; ++i) {
    if (name == kNames[i]) {
      const Isa best = best_isa();
      *isa = static_cast<Isa>(i) < best ? static_cast<Isa>(i) : best;
      return true;
    }
  }
  return false;
}

Isa automatic_isa() {
  Isa isa = best_isa();
  for (const char* variable : {"FUSED_LOSSES_CPU_ISA", "ATEN_CPU_CAPABILITY"}) {
    const char* name = std::getenv(variable);
    if (name && parse(name, &isa)) return isa;
  }
  return isa;
}

std::atomic<int>& current() {
  static std::atomic<int> isa{static_cast<int>(automatic_isa())};
  return isa;
}

}  // namespace

Isa active_isa() { return static_cast<Isa>(current().load(std::memory_order_relaxed)); }

Isa set_isa(const std::string& name) {
  Isa isa = automatic_isa();
  if (!name.empty() && !parse(name, &isa)) {
    throw std::invalid_argument("set_cpu_isa: expected \"default\", \"avx2\", \"avx512\" or \"\", got \"" + name +
                                "\"");
  }
  current() = static_cast<int>(isa);
  return isa;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

std::vector<std::string> supported_isas() {
  return std::vector<std::string>(kNames, kNames + static_cast<int>(best_isa()) + 1);
}

void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, float* out) {
  base::load_block(data, dtype, begin, n, out);
}

void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, double* out) {
  base::load_block(data, dtype, begin, n, out);
}

}  // namespace fused_losses
