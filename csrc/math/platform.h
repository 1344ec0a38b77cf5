// FL_HD marks what both the CPU loops and the CUDA kernels inline; FL_DEVICE_CODE is defined while device code
// compiles.
#pragma once

#ifdef __CUDACC__
#define FL_HD __host__ __device__ __forceinline__
#else
#define FL_HD inline __attribute__((always_inline))
#endif

#ifdef __CUDA_ARCH__
#define FL_DEVICE_CODE 1
#endif
