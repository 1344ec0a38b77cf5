// The schemas of the ops of a table of losses.
#pragma once

#include <string>

#include "host/tensor.h"

namespace fused_losses {

// Defines the three ops of every loss in the table with the library `m`. The first has an overload for exported
// programs, to which Python gives a derivative: one of the op itself would be asked at every call.
template <class Library>
void define_losses(Library& m) {
  const std::string call = ", float[] options, int reduction, int gradients) -> Tensor[]";
  for (const Loss& loss : kLosses) {
    const std::string name = loss.name, arguments = loss.arguments, incoming = loss.incoming;
    for (const char* overload : {"", ".exported"}) m.def((name + overload + "(" + arguments + call).c_str());
    m.def((name + "_backward(" + incoming + ", " + arguments + call).c_str());
    m.def((name + "_into(Tensor(a!) gradient, " + arguments + ", float[] options, float factor) -> Tensor").c_str());
  }
}

}  // namespace fused_losses
