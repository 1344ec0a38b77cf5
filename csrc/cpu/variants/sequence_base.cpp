// The sequence loops of the "base" instruction set.
#include "cpu/target_base.h"

#include "cpu/sequence.inl"
