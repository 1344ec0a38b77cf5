// The loop of scale_ in the "avx2" instruction set.
#include "cpu/target_avx2.h"

#include "cpu/scale.inl"
