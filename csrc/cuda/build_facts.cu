// What nvcc knows of this build, for the module beside it.
#include <cuda_runtime_api.h>

#include <vector>

namespace fused_losses {

// Compute capabilities times 100, in ascending order.
std::vector<int> cuda_architectures() { return {__CUDA_ARCH_LIST__}; }

// Version of the toolkit: 1000 * major + 10 * minor.
int cuda_toolkit() { return CUDART_VERSION; }

}  // namespace fused_losses
