// Schemas of all ops, generated from the table of losses, and the pybind11 module `_C`: build facts, instruction set.
// pybind11 as torch 2.11 ships it refuses to be included under a stable-ABI target; it includes nothing of torch.
#pragma push_macro("TORCH_TARGET_VERSION")
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#pragma pop_macro("TORCH_TARGET_VERSION")
#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cpu/memory.h"
#include "host/schemas.h"
#include "host/tile.h"

namespace py = pybind11;

namespace fused_losses {

STABLE_TORCH_LIBRARY(fused_losses, m) {
  // Multiplies a gradient in place by the incoming scalar; does nothing where that is 1.
  m.def("scale_(Tensor(a!) gradient, Tensor grad_output) -> ()");
  define_losses(m);
}

namespace {

py::list losses() {
  py::list all;
  for (const Loss& loss : kLosses) {
    py::dict facts;
    facts["name"] = loss.name;
    facts["family"] = loss.family;
    facts["arguments"] = loss.arguments;
    facts["incoming"] = loss.incoming;
    facts["differentiable"] = loss.differentiable;
    facts["options"] = std::string(loss.options.text());
    all.append(facts);
  }
  return all;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = "gcc " __VERSION__;
  info["cxx_standard"] = static_cast<int64_t>(__cplusplus);
  info["torch"] = std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) + "." +
                  std::to_string(TORCH_VERSION_PATCH);
  info["stable_abi_target"] =
      std::to_string(TORCH_TARGET_VERSION >> 56) + "." + std::to_string(TORCH_TARGET_VERSION >> 48 & 0xff);
  return info;
}

}  // namespace
}  // namespace fused_losses

PYBIND11_MODULE(_C, m) {
  using namespace fused_losses;
  m.doc() = "Build facts and the instruction-set override of fused_losses; the ops are in torch.ops.fused_losses.";
  m.def("build_info", &build_info, "How this library was built.");
  m.def("losses", &losses, "The rows of the table of losses, in its order.");
  m.def("cpu_isa", [] { return std::string(isa_name(active_isa())); }, "The instruction set the CPU loops use.");
  m.def(
      "set_cpu_isa", [](const std::string& name) { return std::string(isa_name(set_isa(name))); }, py::arg("name"),
      "Use \"default\", \"avx2\" or \"avx512\" (or the best this CPU has below it), \"\" for automatic; returns it.");
  m.def("set_non_temporal_above", &set_non_temporal_above, py::arg("bytes"),
        "CPU calls that touch more write their gradients by non-temporal stores; negative for automatic. Returns the "
        "former.");
  m.def(
      "set_tile_bytes", [](int64_t bytes) { return chosen_tile_bytes.exchange(bytes); }, py::arg("bytes"),
      "Losses with a product in them keep this much of it on the CPU; 0 for automatic. Returns the former.");
  m.def("cpu_isas", &supported_isas, "The instruction sets this CPU supports.");
}
