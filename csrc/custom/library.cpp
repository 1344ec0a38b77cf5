// A library of custom losses: the drivers of their families, compiled for a table of its own (custom_losses.h) in one
// translation unit; the hot loops are compiled as everywhere. Loading it defines and registers its ops.
#include "cpu/isa.cpp"
#include "cpu/memory.cpp"
#include "host/schemas.h"
#ifdef FL_HAS_ELEMENTWISE
#include "cpu/elementwise.cpp"
#endif
#ifdef FL_HAS_SOFTMAX
#include "cpu/softmax.cpp"
#endif
#ifdef FL_HAS_OVERLAP
#define FL_FORMULAS "overlap_formulas.h"
#include "cpu/overlap.cpp"
#endif
#ifdef FL_HAS_ROW_SUMS
#include "cpu/row_sums.cpp"
#endif

FL_LIBRARY_FRAGMENT(FL_NAMESPACE, m) { fused_losses::define_losses(m); }

// As set_isa: what `_C` uses is told to the library when it is loaded.
extern "C" __attribute__((visibility("default"))) void fused_losses_set_isa(const char* name) {
  fused_losses::set_isa(name);
}
