// Everything the loops need from outside, included before the target pragma: a template of a standard header compiled
// for one instruction set must not be merged by the linker into another's code.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#define FL_HAS_FMA 1  // of every 64-bit ARM
#define FL_HAS_NEON 1
#endif

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/scratch.h"
#include "math/dtype.h"
#include "losses.h"
#include "math/platform.h"
