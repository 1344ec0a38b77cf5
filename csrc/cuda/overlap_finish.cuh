// What lies between the sums and the gradient of the overlap family: partial sums added, the ratios, the loss.
// Included by overlap.cu after overlap.cuh.

// The sums of row `row` of [rows, C], of all chunks (with `batch` of all samples), known to the team's first thread.
template <class A>
__device__ __forceinline__ void sums_of_row(const OverlapOperands& o, int64_t row, int team, double* shared,
                                            double* s) {
  const int lane = threadIdx.x % team;
  if (o.backward) {
    for (int j = 0; j < 3; ++j) s[j] = static_cast<const A*>(o.saved_sums)[3 * row + j];
    s[3] = 1;  // where nothing counts there is no gradient, whatever the coefficients
    return;
  }
  const int64_t n = (o.batch ? o.samples : 1) * o.chunks, step = o.batch ? o.classes * o.chunks : 0;
  for (int j = 0; j < kRegionSums; ++j) s[j] = 0;
#pragma unroll 4
  for (int64_t i = lane; i < n; i += team) {
    const double* from = o.partial + kRegionSums * (row * o.chunks + i / o.chunks * step + i % o.chunks);
    for (int j = 0; j < kRegionSums; ++j) s[j] += from[j];
  }
  for (int j = 0; j < kRegionSums; ++j) s[j] = team_sum(s[j], team, shared);
  if (lane != 0) return;
  for (int j = 0; j < 3; ++j) static_cast<A*>(o.sums)[3 * row + j] = static_cast<A>(s[j]);
}

// The coefficients of a region's gradient, which `factor` multiplies.
template <class A>
__device__ __forceinline__ Coefficients<A> coefficients_of(const OverlapLoss& found, double factor) {
  const double size = fabs(found.denominator);
  const bool scales = std::is_same_v<A, float> && size < 0x1p-40 && size > 0;
  const int inverse = scales ? -ilogb(size) : 0, exponent = inverse < 126 ? inverse : 126;
  return {static_cast<A>(ldexp(factor * found.by_I, -exponent)), static_cast<A>(ldexp(factor * found.by_P, -exponent)),
          static_cast<A>(ldexp(1.0, exponent))};
}

// team: threads that share a row. total_partial, finished: workspace of grid_sum.
template <class F, class A>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const F ratio, const OverlapOperands o, int team, double* total_partial, unsigned* finished) {
  FL_SHARED(double, shared, [32]);
  const Results& results = o.results;
  const bool empty = o.samples * o.positions == 0;  // nothing is there that could be ignored
  double scale = results.factor / results.denominator;
  if (results.incoming && !results.per_item) scale *= *static_cast<const A*>(results.incoming);
  const int teams = kThreads / team;
  double losses = 0, s[kRegionSums];
  for (int64_t row = int64_t{blockIdx.x} * teams + threadIdx.x / team; row < o.rows * o.classes;
       row += int64_t{gridDim.x} * teams) {
    sums_of_row<A>(o, row, team, shared, s);
    if (threadIdx.x % team != 0) continue;
    const int64_t k = row % o.classes - (o.classes - o.kept), at = row / o.classes * o.kept + k;
    OverlapLoss found{};  // the background left out: no loss, and no gradient even where its sums are NaN
    double factor = 0;
    if (k >= 0) {
      found = overlap_loss(ratio, s[0], s[1], s[2], s[3] > 0 || empty);
      const double weight = o.weight ? load_any<double>(o.weight, o.weight_dtype, k) : 1.0;
      losses += weight * found.loss;
      if (results.losses) static_cast<A*>(results.losses)[at] = static_cast<A>(weight * found.loss);
      factor = scale * weight * o.overlap_weight;
      if (results.per_item) factor *= static_cast<const A*>(results.incoming)[at];
    }
    if (o.coefficients) static_cast<Coefficients<A>*>(o.coefficients)[row] = coefficients_of<A>(found, factor);
  }
  if (results.total == nullptr) return;
  double total;
  if (!grid_sum(losses, total_partial, finished, &total)) return;
  total *= o.overlap_weight / results.denominator;
  if (o.second) total += o.second_weight * o.second[0] / (results.counts ? o.second[1] : 1.0);
  *static_cast<A*>(results.total) = static_cast<A>(results.factor * total);
}

// The second terms of all blocks and the number they are averaged over, at least 1. One block.
template <class A>
__global__ void __launch_bounds__(kThreads) second_kernel(const double* partial, int blocks, double* second, A* count) {
  FL_SHARED(double, shared, [32]);
  double sum = 0, counted = 0;
  for (int64_t b = threadIdx.x; b < blocks; b += kThreads) {
    sum += partial[2 * b];
    counted += partial[2 * b + 1];
  }
  sum = block_sum(sum, shared);
  counted = block_sum(counted, shared);
  if (threadIdx.x != 0) return;
  counted = counted > 1 ? counted : 1;
  second[0] = sum;
  second[1] = counted;
  *count = static_cast<A>(counted);
}
