// The overlap loops of the "base" instruction set.
#include "cpu/target_base.h"

#include "cpu/overlap.inl"
