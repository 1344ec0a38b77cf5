// FL_HD marks what both the CPU loops and the CUDA kernels inline. FL_CUDA is defined in the CUDA sources and
// FL_DEVICE_CODE while their device code compiles; both where they compile for the emulator (FL_EMULATED).
#pragma once

#if defined(__CUDACC__) || defined(FL_EMULATED)
#define FL_CUDA 1
#endif

#ifdef __CUDACC__
#define FL_HD __host__ __device__ __forceinline__
#else
#define FL_HD inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__) || defined(FL_EMULATED)
#define FL_DEVICE_CODE 1
#endif
