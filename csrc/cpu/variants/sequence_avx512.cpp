// The sequence loops of the "avx512" instruction set.
#include "cpu/target_avx512.h"

#include "cpu/sequence.inl"
