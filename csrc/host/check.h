// The wording of refusals that only a kernel can make: "<op>: expected <what>, got <value> at flat index <i>".
#pragma once

#include <cmath>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <stdexcept>

namespace fused_losses {

// Throws; whole numbers are printed with all their digits.
template <class... What>
[[noreturn]] void refuse(const char* op, double given, int64_t index, const What&... expected) {
  std::ostringstream message;
  message << op << ": expected ";
  (message << ... << expected);
  message << ", got ";
  if (given == std::trunc(given) && std::fabs(given) < 9e18) {
    message << static_cast<int64_t>(given);
  } else {
    message << std::setprecision(9) << given;
  }
  message << " at flat index " << index;
  throw std::runtime_error(message.str());  // not STD_TORCH_CHECK, which puts file and line before it
}

}  // namespace fused_losses
