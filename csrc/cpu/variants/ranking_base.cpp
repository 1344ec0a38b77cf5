// The ranking loops of the "base" instruction set.
#include "cpu/target_base.h"

#include "cpu/ranking.inl"
