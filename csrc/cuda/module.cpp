// The Python module `_C_cuda`: build facts; loading it registers the CUDA kernels of torch.ops.fused_losses.
#include "host/python.h"

#include <string>
#include <vector>

namespace fused_losses {

std::vector<int> cuda_architectures();  // build_facts.cu
int cuda_toolkit();

namespace {

std::string version(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

python::Facts build_info() {
  std::vector<std::string> architectures;
  for (const int a : cuda_architectures()) architectures.push_back(version(a / 100, a / 10 % 10));
  return {{"toolkit", version(cuda_toolkit() / 1000, cuda_toolkit() / 10 % 100)}, {"architectures", architectures}};
}

PyMethodDef methods[] = {python::method<build_info>("build_info", "How this library was built."), {}};
PyModuleDef definition;

}  // namespace
}  // namespace fused_losses

PyMODINIT_FUNC PyInit__C_cuda() {
  using namespace fused_losses;
  return python::module(definition, "_C_cuda",
                        "Build facts of the CUDA kernels of fused_losses; the ops are in torch.ops.fused_losses.",
                        methods);
}
