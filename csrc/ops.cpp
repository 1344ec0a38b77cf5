// Schemas of all ops, generated from the table of losses, and the Python module `_C`: build facts, instruction set.
#include "host/python.h"

#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cpu/memory.h"
#include "host/schemas.h"
#include "host/tile.h"

namespace fused_losses {

STABLE_TORCH_LIBRARY(fused_losses, m) {
  // Multiplies a gradient in place by the incoming scalar; does nothing where that is 1.
  m.def("scale_(Tensor(a!) gradient, Tensor grad_output) -> ()");
  // Of each row of logits, a tile of them at a time: the logarithm of the sum of exponentials, and one logit. [N, 2]
  m.def(
      "linear_log_sums(Tensor input, Tensor linear_weight, Tensor class_index, Tensor? linear_bias, float softcap) -> "
      "Tensor");
  // Rows over their norms, and the norms, in the accumulation dtype; and the gradient of what was divided.
  m.def("unit_rows(Tensor input) -> (Tensor, Tensor)");
  m.def("unit_rows_backward(Tensor grad_output, Tensor rows, Tensor norms, Tensor input) -> Tensor");
  define_losses(m);
}

namespace {

using python::Facts;

std::vector<Facts> losses() {
  std::vector<Facts> all;
  for (const Loss& loss : kLosses)
    all.push_back({{"name", loss.name},
                   {"family", loss.family},
                   {"arguments", loss.arguments},
                   {"incoming", loss.incoming},
                   {"differentiable", loss.differentiable},
                   {"options", std::string(loss.options.text())}});
  return all;
}

Facts build_info() {
  const auto version = [](auto... numbers) {
    std::string text;
    ((text += (text.empty() ? "" : ".") + std::to_string(numbers)), ...);
    return text;
  };
  return {{"compiler", "gcc " __VERSION__},
          {"cxx_standard", static_cast<int64_t>(__cplusplus)},
          {"torch", version(TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH)},
          {"stable_abi_target", version(TORCH_TARGET_VERSION >> 56, TORCH_TARGET_VERSION >> 48 & 0xff)}};
}

std::string cpu_isa() { return isa_name(active_isa()); }
std::string set_cpu_isa(const std::string& name) { return isa_name(set_isa(name)); }
int64_t set_tile_bytes(int64_t bytes) { return chosen_tile_bytes.exchange(bytes); }

PyMethodDef methods[] = {
    python::method<build_info>("build_info", "How this library was built."),
    python::method<losses>("losses", "The rows of the table of losses, in its order."),
    python::method<cpu_isa>("cpu_isa", "The instruction set the CPU loops use."),
    python::method<supported_isas>("cpu_isas", "The instruction sets this CPU supports."),
    python::method<set_cpu_isa>(
        "set_cpu_isa",
        "Use \"default\", \"avx2\" or \"avx512\" (or the best this CPU has below it), \"\" for automatic; returns it."),
    python::method<set_non_temporal_above>(
        "set_non_temporal_above",
        "CPU calls that touch more bytes write their gradients by non-temporal stores; negative for automatic. Returns "
        "the former."),
    python::method<set_tile_bytes>(
        "set_tile_bytes",
        "Losses with a product in them keep this much of it on the CPU; 0 for automatic. Returns the former."),
    {}};
PyModuleDef definition;

}  // namespace
}  // namespace fused_losses

PyMODINIT_FUNC PyInit__C() {
  using namespace fused_losses;
  return python::module(
      definition, "_C",
      "Build facts and the instruction-set override of fused_losses; the ops are in torch.ops.fused_losses.", methods);
}
