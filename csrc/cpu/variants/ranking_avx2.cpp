// The ranking loops of the "avx2" instruction set.
#include "cpu/target_avx2.h"

#include "cpu/ranking.inl"
