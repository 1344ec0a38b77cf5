// The pybind11 module `_C_cuda`: build facts; loading it registers the CUDA kernels of torch.ops.fused_losses.
// pybind11 as torch 2.11 ships it refuses to be included under a stable-ABI target; it includes nothing of torch.
#pragma push_macro("TORCH_TARGET_VERSION")
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#pragma pop_macro("TORCH_TARGET_VERSION")

#include <string>
#include <vector>

namespace py = pybind11;

namespace fused_losses {

std::vector<int> cuda_architectures();  // build_facts.cu
int cuda_toolkit();

namespace {

std::string version(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

py::dict build_info() {
  std::vector<std::string> architectures;
  for (const int a : cuda_architectures()) architectures.push_back(version(a / 100, a / 10 % 10));
  py::dict info;
  info["toolkit"] = version(cuda_toolkit() / 1000, cuda_toolkit() / 10 % 100);
  info["architectures"] = architectures;
  return info;
}

}  // namespace
}  // namespace fused_losses

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "Build facts of the CUDA kernels of fused_losses; the ops are in torch.ops.fused_losses.";
  m.def("build_info", &fused_losses::build_info, "How this library was built.");
}
