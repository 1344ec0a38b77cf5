// Opens the target of the "avx2" loops: everything included after this is compiled for it, in namespace avx2.
#pragma once

#include "cpu/loop_headers.h"

#pragma GCC target("avx2,fma,f16c")
#define FL_ISA avx2
#define FL_HAS_FMA 1
#define FL_HAS_F16C 1
