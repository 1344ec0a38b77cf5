// What lies between the sums and the gradient of the overlap family: partial sums added, the ratios, the loss.
// Included by overlap.cu after overlap.cuh.

// What `finish` reads and writes; null where not given or not wanted. A row is a class of a sample, or with `batch` a
// class of all samples.
struct Finish {
  int64_t samples, classes, chunks, kept;
  bool batch, ignoring;
  int team;
  const double* partial;  // [B, C, chunks, 3]; null in the backward, where `sums` is read
  void* sums;             // [rows, 3] accumulation dtype
  const void* weight;     // [kept]
  Dtype weight_dtype;
  const void* incoming;  // [rows without background], or one element with `incoming_scalar`
  bool incoming_scalar;
  double denominator;  // of the mean, else 1
  double overlap_weight, second_weight;
  void* loss;            // [rows without background] accumulation dtype, for "none"
  void* total;           // [1] accumulation dtype, for the other reductions
  const double* second;  // [2]: sum of the second terms, the count their mean divides by
  bool second_mean;
  void* coefficients;     // [rows] Coefficients
  double* total_partial;  // workspace of grid_sum
  unsigned* finished;
};

template <class F, class A>
__global__ void __launch_bounds__(kThreads) finish_kernel(const F ratio, const Finish o) {
  FL_SHARED(double, shared, [32]);
  const int lane = threadIdx.x % o.team, teams = kThreads / o.team;
  const int64_t rows = (o.batch ? 1 : o.samples) * o.classes;
  A* sums = static_cast<A*>(o.sums);
  double losses = 0;
  for (int64_t row = int64_t{blockIdx.x} * teams + threadIdx.x / o.team; row < rows;
       row += int64_t{gridDim.x} * teams) {
    double s[3] = {0, 0, 0};
    if (o.partial) {
      const int64_t n = (o.batch ? o.samples : 1) * o.chunks, step = o.batch ? o.classes * o.chunks : 0;
#pragma unroll 4
      for (int64_t i = lane; i < n; i += o.team) {
        const double* from = o.partial + 3 * (row * o.chunks + i / o.chunks * step + i % o.chunks);
        for (int j = 0; j < 3; ++j) s[j] += from[j];
      }
      for (int j = 0; j < 3; ++j) s[j] = team_sum(s[j], o.team, shared);
    } else {
      for (int j = 0; j < 3; ++j) s[j] = sums[3 * row + j];
    }
    if (lane != 0) continue;
    if (o.partial) {
      for (int j = 0; j < 3; ++j) sums[3 * row + j] = static_cast<A>(s[j]);
    }
    const int64_t k = row % o.classes - (o.classes - o.kept), at = row / o.classes * o.kept + k;
    OverlapLoss result{0, 0, 0};  // the background left out: no loss, and no gradient even where its sums are NaN
    double factor = 0;
    if (k >= 0) {
      result = overlap_loss(ratio, s[0], s[1], s[2], o.ignoring);
      const double w = o.weight ? load_any<double>(o.weight, o.weight_dtype, k) : 1.0;
      losses += w * result.loss;
      if (o.loss) static_cast<A*>(o.loss)[at] = static_cast<A>(w * result.loss);
      factor = w * o.overlap_weight / o.denominator;
      if (o.incoming) factor *= static_cast<const A*>(o.incoming)[o.incoming_scalar ? 0 : at];
    }
    if (o.coefficients) {
      static_cast<Coefficients<A>*>(o.coefficients)[row] = {static_cast<A>(factor * result.by_I),
                                                            static_cast<A>(factor * result.by_P)};
    }
  }
  if (o.total == nullptr) return;
  double total;
  if (!grid_sum(losses, o.total_partial, o.finished, &total)) return;
  total *= o.overlap_weight / o.denominator;
  if (o.second) total += o.second_weight * o.second[0] / (o.second_mean ? o.second[1] : 1.0);
  *static_cast<A*>(o.total) = static_cast<A>(total);
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
