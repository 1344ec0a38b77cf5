// All formulas of the elementwise family. Included after contract.h, without include guard.
#ifdef FL_CUSTOM
#include "custom_formulas.h"
#else
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/divergence.h"
#include "formulas/regression.h"
#endif
