// The pybind11 module of the emulated device; loading it registers the kernels of torch.ops.fused_losses_emulated,
// whose schemas the tests define.
// pybind11 as torch 2.11 ships it refuses to be included under a stable-ABI target; it includes nothing of torch.
#pragma push_macro("TORCH_TARGET_VERSION")
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#pragma pop_macro("TORCH_TARGET_VERSION")
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "emulator/machine.h"
#include "emulator/tracker.h"

namespace py = pybind11;

// The linker puts this in place of torch's function (--wrap): whatever an op allocates starts unwritten.
extern "C" {
AOTITorchError __real_aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t,
                                               AtenTensorHandle*);

AOTITorchError __wrap_aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides,
                                               int32_t dtype, int32_t device_type, int32_t device_index,
                                               AtenTensorHandle* made) {
  const AOTITorchError status =
      __real_aoti_torch_empty_strided(dims, sizes, strides, dtype, device_type, device_index, made);
  void* data = nullptr;
  int64_t bytes = 0;
  if (status == AOTI_TORCH_SUCCESS && aoti_torch_get_data_ptr(*made, &data) == AOTI_TORCH_SUCCESS &&
      aoti_torch_get_storage_size(*made, &bytes) == AOTI_TORCH_SUCCESS && bytes > 0)
    fused_losses::emulator::make_unwritten(data, static_cast<size_t>(bytes));
  return status;
}
}

namespace fused_losses::emulator {
namespace {

Order order_of(const std::string& name) {
  if (name == "forward") return Order::kForward;
  if (name == "backward") return Order::kBackward;
  if (name == "random") return Order::kRandom;
  throw std::invalid_argument("order: expected forward, backward or random, got " + name);
}

void configure(int multiprocessors, int resident_blocks, const std::string& order, uint64_t seed) {
  if (multiprocessors < 1 || resident_blocks < 1)
    throw std::invalid_argument("expected at least one multiprocessor and one resident block");
  settings = {multiprocessors, resident_blocks, order_of(order), seed};
}

}  // namespace
}  // namespace fused_losses::emulator

PYBIND11_MODULE(FL_MODULE, m) {
  using namespace fused_losses::emulator;
  m.doc() = "The CUDA kernels of fused_losses on the CPU; the ops are in torch.ops.fused_losses_emulated.";
  m.def("configure", &configure, py::arg("multiprocessors") = 4, py::arg("resident_blocks") = 1,
        py::arg("order") = "forward", py::arg("seed") = 0,
        "The emulated device: how many multiprocessors it has, how many blocks run at a time, and whose turn it is: "
        "\"forward\", \"backward\" or \"random\".");
#ifdef FL_TRACKED
  m.attr("tracked") = true;
#else
  m.attr("tracked") = false;
#endif
  m.def(
      "begin_call",
      [](const std::vector<std::pair<uintptr_t, size_t>>& memory) {
        track_call();
        for (const auto& [data, bytes] : memory) track_memory(reinterpret_cast<const void*>(data), bytes, true);
      },
      py::arg("memory"),
      "A tracking build lets the kernels touch this memory (address, bytes) and what the op allocates.");
}
