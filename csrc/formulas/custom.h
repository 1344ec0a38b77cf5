// The formulas of a family in a library of custom losses: the header FL_FORMULAS, which the generated translation unit
// names. Included after those of the library, without include guard.
#ifdef FL_FORMULAS
#include FL_FORMULAS
#endif
