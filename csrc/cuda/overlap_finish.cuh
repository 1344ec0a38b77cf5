// What lies between the sums and the gradient of the overlap family: partial sums added, the ratios, the loss.
// Included by overlap.cu after overlap.cuh.

// The sums of row `row` of [rows, C], where they are known: saved by the forward or in class_sums.
template <class A>
__device__ __forceinline__ void known_sums(const OverlapOperands& o, int64_t row, double* s) {
  for (int j = 0; j < 3; ++j) {
    s[j] = o.backward ? static_cast<const A*>(o.saved_sums)[3 * row + j] : o.class_sums[kRegionSums * row + j];
  }
  s[3] = o.backward ? 1 : o.class_sums[kRegionSums * row + 3];  // in the backward no coefficient is of what is ignored
}

// The same from all chunks (with `batch` of all samples), known to the team's first thread.
template <class A>
__device__ __forceinline__ void sums_of_row(const OverlapOperands& o, int64_t row, int team, double* shared,
                                            double* s) {
  const int lane = threadIdx.x % team;
  if (o.backward || o.class_sums) return known_sums<A>(o, row, s);
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

// The sums of every class of every row, to `to`.
template <class A>
__global__ void __launch_bounds__(kThreads) class_sums_kernel(const OverlapOperands o, int team, double* to) {
  FL_SHARED(double, shared, [32]);
  const int teams = kThreads / team;
  double s[kRegionSums];
  for (int64_t row = int64_t{blockIdx.x} * teams + threadIdx.x / team; row < o.rows * o.classes;
       row += int64_t{gridDim.x} * teams) {
    sums_of_row<A>(o, row, team, shared, s);
    if (threadIdx.x % team != 0) continue;
    for (int j = 0; j < kRegionSums; ++j) to[kRegionSums * row + j] = s[j];
  }
}

__device__ __forceinline__ double weight_of(const OverlapOperands& o, int64_t k) {
  return o.weight ? load_any<double>(o.weight, o.weight_dtype, k) : 1.0;
}

// I, P and G of a row, each class times its weight; lanes of a warp, each from class `lane`, have a part each.
template <class A>
__device__ __forceinline__ void pool_classes(const OverlapOperands& o, int64_t r, int lane, int lanes, double* s) {
  double of[kRegionSums];
  for (int j = 0; j < kRegionSums; ++j) s[j] = 0;
  for (int64_t k = lane; k < o.kept; k += lanes) {
    known_sums<A>(o, (r + 1) * o.classes - o.kept + k, of);
    const double weight = weight_of(o, k);
    for (int j = 0; j < 3; ++j) s[j] += weight * of[j];
    s[3] += of[3];
  }
}

// How many losses are of something that has a target, at least 1. One block.
template <class A>
__global__ void __launch_bounds__(kThreads) present_kernel(const OverlapOperands o, double* present) {
  FL_SHARED(double, shared, [32]);
  double count = 0, s[kRegionSums];
  for (int64_t item = threadIdx.x; item < o.rows * o.per_row; item += kThreads) {
    if (o.micro) {
      pool_classes<A>(o, item, 0, 1, s);
    } else {
      known_sums<A>(o, item / o.kept * o.classes + (o.classes - o.kept) + item % o.kept, s);
    }
    count += s[2] != 0 ? 1.0 : 0.0;
  }
  count = block_sum(count, shared);
  if (threadIdx.x == 0) *present = count > 1 ? count : 1;
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

template <class F>
__device__ __forceinline__ OverlapLoss loss_of_sums(const F& ratio, const OverlapOperands& o, const double* s) {
  const bool empty = o.samples * o.positions == 0;  // nothing is there that could be ignored
  const bool left_out = o.absent != Absent::kCount && s[2] == 0;
  return overlap_loss(ratio, s[0], s[1], s[2], (s[3] > 0 || empty) && !left_out);
}

template <class A>
__device__ __forceinline__ void store_loss(const OverlapOperands& o, int64_t item, double loss) {
  if (o.results.losses) static_cast<A*>(o.results.losses)[item] = static_cast<A>(loss);
}

// The factor of the gradient of loss `item`.
template <class A>
__device__ __forceinline__ double gradient_factor(const OverlapOperands& o, double scale, int64_t item) {
  return scale * o.overlap_weight * (o.results.per_item ? static_cast<const A*>(o.results.incoming)[item] : A(1));
}

template <class A>
__device__ __forceinline__ void store_coefficients(const OverlapOperands& o, int64_t row, const OverlapLoss& found,
                                                   double factor) {
  if (o.coefficients) static_cast<Coefficients<A>*>(o.coefficients)[row] = coefficients_of<A>(found, factor);
}

// The weighted loss of class row % C, whose sums are s, and its coefficients.
template <class F, class A>
__device__ __forceinline__ double finish_class(const F& ratio, const OverlapOperands& o, int64_t row, double scale,
                                               const double* s) {
  const int64_t k = row % o.classes - (o.classes - o.kept), item = row / o.classes * o.kept + k;
  OverlapLoss found{};  // the background left out: no loss, and no gradient even where its sums are NaN
  double weight = 0;
  if (k >= 0) {
    found = loss_of_sums(ratio, o, s);
    weight = weight_of(o, k);
    store_loss<A>(o, item, weight * found.loss);
    scale = gradient_factor<A>(o, scale, item);
  }
  store_coefficients<A>(o, row, found, scale * weight);
  return weight * found.loss;
}

// The same of all classes of row r, summed before the ratio; by a warp, whose first lane has the loss.
template <class F, class A>
__device__ __forceinline__ double finish_row(const F& ratio, const OverlapOperands& o, int64_t r, double scale) {
  const int lane = threadIdx.x % 32;
  double s[kRegionSums];
  pool_classes<A>(o, r, lane, 32, s);
  for (int j = 0; j < kRegionSums; ++j) s[j] = warp_sum(s[j]);
  const OverlapLoss found = loss_of_sums(ratio, o, s);
  if (lane == 0) store_loss<A>(o, r, found.loss);
  scale = gradient_factor<A>(o, scale, r);
  for (int64_t c = lane; c < o.classes; c += 32) {
    const int64_t k = c - (o.classes - o.kept);
    store_coefficients<A>(o, r * o.classes + c, k < 0 ? OverlapLoss{} : found, k < 0 ? 0 : scale * weight_of(o, k));
  }
  return lane == 0 ? found.loss : 0;
}

// team: threads that share a row of [rows, C], with `micro` a row of [rows]. total_partial, finished: workspace of
// grid_sum.
template <class F, class A>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const F ratio, const OverlapOperands o, int team, double* total_partial, unsigned* finished) {
  FL_SHARED(double, shared, [32]);
  const Results& results = o.results;
  const double denominator = o.present ? *o.present : results.denominator;
  double scale = results.factor / denominator;
  if (results.incoming && !results.per_item) scale *= *static_cast<const A*>(results.incoming);
  const int teams = kThreads / team;
  double losses = 0, s[kRegionSums];
  for (int64_t row = int64_t{blockIdx.x} * teams + threadIdx.x / team; row < o.rows * (o.micro ? 1 : o.classes);
       row += int64_t{gridDim.x} * teams) {
    if (o.micro) {
      losses += finish_row<F, A>(ratio, o, row, scale);
      continue;
    }
    sums_of_row<A>(o, row, team, shared, s);
    if (threadIdx.x % team == 0) losses += finish_class<F, A>(ratio, o, row, scale, s);
  }
  if (results.total == nullptr) return;
  double total;
  if (!grid_sum(losses, total_partial, finished, &total)) return;
  total *= o.overlap_weight / denominator;
  if (o.second) total += o.second_weight * o.second[0] / (results.counts ? o.second[1] : 1.0);
  *static_cast<A*>(results.total) = static_cast<A>(results.factor * total);
}

// The second terms of all blocks and the number or weight they are averaged over, 1 for 0. One block.
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
  counted = counted != 0 ? counted : 1;
  second[0] = sum;
  second[1] = counted;
  *count = static_cast<A>(counted);
}
