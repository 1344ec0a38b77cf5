// What runs a Problem of the row-sums family on CUDA, for its ops and for losses that make the rows themselves.
#pragma once

#include "host/row_sums.h"

namespace fused_losses::cuda {

// On the current stream of the device of `like`.
void run_row_sums(RowSums functor, const Options& options, const RowSumsProblem& problem, const Tensor& like);

}  // namespace fused_losses::cuda
