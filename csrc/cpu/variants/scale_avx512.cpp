// The loop of scale_ in the "avx512" instruction set.
#include "cpu/target_avx512.h"

#include "cpu/scale.inl"
