// The CPU driver of the row-sums family, for losses that make the rows themselves.
#pragma once

#include "host/row_sums.h"

namespace fused_losses {

void run_row_sums(RowSums functor, const Options& options, const RowSumsProblem& problem);

}  // namespace fused_losses
