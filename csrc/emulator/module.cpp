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
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "emulator/machine.h"
#include "emulator/tracker.h"

namespace py = pybind11;

namespace {

// What the library has written into a matrix or a contiguous tensor the kernels may read.
void library_wrote(AtenTensorHandle tensor) {
  void* data = nullptr;
  int64_t dims = 0, count = 0;
  int64_t *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  aoti_torch_get_data_ptr(tensor, &data);
  aoti_torch_get_dim(tensor, &dims);
  aoti_torch_get_sizes(tensor, &sizes);
  aoti_torch_get_strides(tensor, &strides);
  aoti_torch_get_dtype(tensor, &dtype);
  aoti_torch_get_numel(tensor, &count);
  const size_t item = aoti_torch_dtype_element_size(dtype);
  const int64_t run = dims == 2 ? sizes[strides[0] == 1 ? 0 : 1] : count, runs = run ? count / run : 0;
  const int64_t step = dims == 2 ? strides[strides[0] == 1 ? 1 : 0] : 0;
  for (int64_t i = 0; i < runs; ++i) {
    char* row = static_cast<char*>(data) + static_cast<size_t>(i * step) * item;
    fused_losses::emulator::track_library(row, static_cast<size_t>(run) * item);
  }
}

}  // namespace

// The linker puts these in place of torch's functions (--wrap): whatever an op allocates starts unwritten, and what the
// library writes is written.
extern "C" {
AOTITorchError __real_aoti_torch_copy_(AtenTensorHandle, AtenTensorHandle, int32_t);

AOTITorchError __wrap_aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from, int32_t non_blocking) {
  const AOTITorchError status = __real_aoti_torch_copy_(to, from, non_blocking);
  library_wrote(to);
  return status;
}

AOTITorchError __real_aoti_torch_cpu_addmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle,
                                               double, double);

AOTITorchError __wrap_aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle added, AtenTensorHandle a,
                                               AtenTensorHandle b, double beta, double alpha) {
  const AOTITorchError status = __real_aoti_torch_cpu_addmm_out(out, added, a, b, beta, alpha);
  library_wrote(out);
  return status;
}

AOTITorchError __real_torch_call_dispatcher(const char*, const char*, uint64_t*, uint64_t);

// The library's ops that are called so return the one tensor they write.
AOTITorchError __wrap_torch_call_dispatcher(const char* op, const char* overload, uint64_t* stack, uint64_t version) {
  const AOTITorchError status = __real_torch_call_dispatcher(op, overload, stack, version);
  const std::string_view name = op;
  if (status == AOTI_TORCH_SUCCESS && name.substr(0, 6) == "aten::" &&
      (name.back() == '_' || !std::strcmp(overload, "out")))
    library_wrote(reinterpret_cast<AtenTensorHandle>(stack[0]));
  return status;
}

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
