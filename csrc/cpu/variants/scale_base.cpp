// The loop of scale_ in the "base" instruction set.
#include "cpu/target_base.h"

#include "cpu/scale.inl"
