// Which instruction set the loops of this process use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fused_losses {

enum class Isa : int { kDefault = 0, kAvx2 = 1, kAvx512 = 2 };

// The best the CPU has, unless FUSED_LOSSES_CPU_ISA, else ATEN_CPU_CAPABILITY, or `set_isa` asks for less.
Isa active_isa();
// "default", "avx2", "avx512", or "" for automatic; returns the one now in use. std::invalid_argument otherwise.
Isa set_isa(const std::string& name);
const char* isa_name(Isa isa);
std::vector<std::string> supported_isas();

// The entry of a table of loops that exists once per instruction set.
template <class Table>
const auto& for_isa(const Table& base, const Table& avx2, const Table& avx512) {
  const Isa isa = active_isa();
  return isa == Isa::kAvx512 ? avx512 : isa == Isa::kAvx2 ? avx2 : base;
}

// Its value of the name `table`; a library compiled for one instruction set has that one alone.
#if defined(FL_ONLY_ISA)
#define FL_FOR_ISA(table) FL_ONLY_ISA::table
#elif defined(__x86_64__)
#define FL_FOR_ISA(table) for_isa(base::table, avx2::table, avx512::table)
#else
#define FL_FOR_ISA(table) base::table
#endif

}  // namespace fused_losses
