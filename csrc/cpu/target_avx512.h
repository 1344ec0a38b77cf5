// Opens the target of the "avx512" loops: everything included after this is compiled for it, in namespace avx512.
#pragma once

#include "cpu/loop_headers.h"

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define FL_ISA avx512
#define FL_HAS_FMA 1
#define FL_HAS_AVX2 1
#define FL_HAS_AVX512 1
