// Opens the target of the "avx2" loops: everything included after this is compiled for it, in namespace avx2.
#pragma once

#include "cpu/loop_headers.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define FL_ISA avx2
#define FL_HAS_FMA 1
#define FL_HAS_AVX2 1
