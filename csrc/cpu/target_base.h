// Opens the target of the "base" loops: everything included after this is compiled for it, in namespace base.
#pragma once

#include "cpu/loop_headers.h"

#define FL_ISA base
#if defined(__aarch64__)
#define FL_HAS_FMA 1
#define FL_HAS_NEON 1
#endif
