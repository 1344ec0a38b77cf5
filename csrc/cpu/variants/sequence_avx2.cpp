// The sequence loops of the "avx2" instruction set.
#include "cpu/target_avx2.h"

#include "cpu/sequence.inl"
