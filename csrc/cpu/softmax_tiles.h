// Row-wise loops over a tile [classes, lanes] of positions, positions in the vector lanes. Included by softmax_loops.h.
// Row c of a tile begins at data + c * step. Exponential tiles are replaced by gradients in place.

template <class A>
struct SoftmaxTile {
  A* data;
  int64_t step;
};

// What is known of each position of a tile.
template <class A>
struct SoftmaxLanes {
  alignas(64) A row_max[kMaxLanes], log_sum[kMaxLanes],
      factor[kMaxLanes];  // p = e * factor, log p = rate (x - row_max) - log_sum
  alignas(64) A loss[kMaxLanes], slope[kMaxLanes];
};

template <class A>
void lanes_fill(A* __restrict out, const A value, const int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = value;
}

// Sums over classes are kept in the accumulation dtype for kFlush classes, then added to doubles: a float sum over
// 100 000 classes would lose four digits.
constexpr int64_t kFlush = 64;

template <class A>
void lanes_flush(A* __restrict part, double* __restrict total, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    total[i] += part[i];
    part[i] = 0;
  }
}

inline bool flushes(int64_t c, int64_t classes) { return c % kFlush == kFlush - 1 || c == classes - 1; }

template <class A>
void lanes_narrow(const double* __restrict total, A* __restrict out, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<A>(total[i]);
}

template <class A>
void lanes_max(const A* __restrict x, A* __restrict row_max, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) row_max[i] = x[i] > row_max[i] ? x[i] : row_max[i];
}

template <class A, bool kStore>
void lanes_exp(const A* x, A* e, const A rate, const A* row_max, A* sum, const int64_t n) {
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    const auto load = [&](const A* row) { return load_lanes<A, whole()>(row + i, count, A(0)); };
    const Line<A> v = detail::exp_minus((load(row_max) - load(x)) * rate);
    store_lanes<A, whole()>(load(sum) + v, sum + i, count);
    if constexpr (kStore) store_lanes<A, whole()>(v, e + i, count);
  });
}

template <class A>
void lanes_logarithm(const A* __restrict sum, A* __restrict log_sum, A* __restrict factor, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    log_sum[i] = log_(sum[i]);
    factor[i] = A(1) / sum[i];
  }
}

// e.data null: the exponentials are not stored.
template <class A>
void tile_softmax(const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const int64_t classes, const A rate,
                  SoftmaxLanes<A>* lanes, const int64_t n) {
  A *row_max = lanes->row_max, *sum = lanes->factor;
  alignas(64) double total[kMaxLanes] = {};
  lanes_fill(row_max, -infinity_<A>(), n);
  for (int64_t c = 0; c < classes; ++c) lanes_max(x.data + c * x.step, row_max, n);
  for (int64_t i = 0; i < n; ++i) row_max[i] = row_max[i] == -infinity_<A>() ? A(0) : row_max[i];
  lanes_fill(sum, A(0), n);
  for (int64_t c = 0; c < classes; ++c) {
    if (e.data) {
      lanes_exp<A, true>(x.data + c * x.step, e.data + c * e.step, rate, row_max, sum, n);
    } else {
      lanes_exp<A, false>(x.data + c * x.step, nullptr, rate, row_max, sum, n);
    }
    if (flushes(c, classes)) lanes_flush(sum, total, n);
  }
  alignas(64) A sums[kMaxLanes];
  lanes_narrow(total, sums, n);
  lanes_logarithm(sums, lanes->log_sum, lanes->factor, n);
}

// Loss and slope of one class of each lane: u holds its shifted logit and becomes nothing of use afterwards.
template <class F, class A>
void lanes_index(const F f, const A* __restrict u, const A* __restrict log_sum, const A* __restrict share,
                 A* __restrict loss, A* __restrict slope, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A v = u[i] - log_sum[i];
    const ClassTerms<A> t = f(v, exp_(v));
    loss[i] = share[i] == A(0) ? A(0) : share[i] * t.loss;
    slope[i] = share[i] == A(0) ? A(0) : share[i] * t.slope;
  }
}

template <class A>
void lanes_scale(A* __restrict e, const A* __restrict factor, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) e[i] = factor[i] == A(0) ? A(0) : e[i] * factor[i];
}

// Class indices y, -1 where the position does not count; share: [n] weights of the classes, 0 where it does not count;
// z: the weight of the normaliser of those that count; scale: [n] factors of the gradients.
template <class F, class A>
void index_tile(const F f, const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const int64_t classes,
                SoftmaxLanes<A>* lanes, const int64_t* __restrict y, const A* __restrict share, const A z,
                const A* __restrict scale, const int64_t n) {
  tile_softmax(x, e, classes, A(1), lanes, n);
  alignas(64) A u[kMaxLanes] = {};
  for (int64_t i = 0; i < n; ++i) u[i] = y[i] < 0 ? A(0) : x.data[y[i] * x.step + i] - lanes->row_max[i];
  lanes_index(f, u, lanes->log_sum, share, lanes->loss, lanes->slope, n);
  alignas(64) A pull[kMaxLanes] = {};
  for (int64_t i = 0; z != A(0) && i < n; ++i) {
    const ClassTerms<A> normaliser = normaliser_terms(z, lanes->row_max[i] + lanes->log_sum[i]);
    lanes->loss[i] += y[i] < 0 ? A(0) : normaliser.loss;
    pull[i] = scale[i] * normaliser.slope;
  }
  if (!e.data) return;
  for (int64_t i = 0; i < n; ++i) {
    u[i] = share[i] == A(0) ? A(0) : scale[i] * lanes->slope[i];
    lanes->factor[i] = y[i] < 0 ? A(0) : (pull[i] - u[i]) * lanes->factor[i];
  }
  for (int64_t c = 0; c < classes; ++c) lanes_scale(e.data + c * e.step, lanes->factor, n);
  for (int64_t i = 0; i < n; ++i) {
    if (y[i] >= 0) e.data[y[i] * e.step + i] += u[i];
  }
}

template <class F, class A, bool kTarget>
void lanes_mixture_sums(const F f, const A* __restrict x, const A* __restrict e, const A* __restrict y, const A stretch,
                        const A base, const A w, const A* __restrict row_max, const A* __restrict log_sum,
                        const A* __restrict factor, A* __restrict loss, A* __restrict slope, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w;
    const ClassTerms<A> t = f((x[i] - row_max[i]) - log_sum[i], e[i] * factor[i]);
    loss[i] += share == A(0) ? A(0) : share * t.loss;
    slope[i] += share * t.slope;
  }
}

template <class F, class A, bool kTarget>
void lanes_mixture_gradient(const F f, const A* __restrict x, A* __restrict e, const A* __restrict y, const A stretch,
                            const A base, const A w, const A* __restrict row_max, const A* __restrict log_sum,
                            const A* __restrict factor, const A* __restrict slope, const A* __restrict scale,
                            const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w;
    const A p = e[i] * factor[i];
    const ClassTerms<A> t = f((x[i] - row_max[i]) - log_sum[i], p);
    const A gradient = scale[i] * (share * t.slope - p * slope[i]);
    e[i] = scale[i] == A(0) ? A(0) : gradient;
  }
}

// As index_tile for a mixture: class c has the share (stretch y + base) w[c], to which class extra[i] (if not negative)
// adds extra_share[i], its weight included. scale: 0 where a position does not count.
template <bool kTarget, class F, class A>
void mixture_tile(const F f, const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const SoftmaxTile<const A> y,
                  const A* w, const A stretch, const A base, const int64_t classes, SoftmaxLanes<A>* lanes,
                  const int64_t* __restrict extra, const A* __restrict extra_share, const A z, const bool gradient,
                  const A* __restrict scale, const int64_t n) {
  tile_softmax(x, e, classes, A(1), lanes, n);
  lanes_fill(lanes->loss, A(0), n);
  lanes_fill(lanes->slope, A(0), n);
  alignas(64) double loss_total[kMaxLanes] = {}, slope_total[kMaxLanes] = {};
  for (int64_t c = 0; c < classes; ++c) {
    lanes_mixture_sums<F, A, kTarget>(f, x.data + c * x.step, e.data + c * e.step,
                                      kTarget ? y.data + c * y.step : nullptr, stretch, base, w[c], lanes->row_max,
                                      lanes->log_sum, lanes->factor, lanes->loss, lanes->slope, n);
    if (!flushes(c, classes)) continue;
    lanes_flush(lanes->loss, loss_total, n);
    lanes_flush(lanes->slope, slope_total, n);
  }
  lanes_narrow(loss_total, lanes->loss, n);
  lanes_narrow(slope_total, lanes->slope, n);
  for (int64_t i = 0; z != A(0) && i < n; ++i) {
    const ClassTerms<A> normaliser = normaliser_terms(z, lanes->row_max[i] + lanes->log_sum[i]);
    lanes->loss[i] += normaliser.loss;
    lanes->slope[i] -= normaliser.slope;
  }
  alignas(64) A slope[kMaxLanes];
  if (extra) {
    alignas(64) A u[kMaxLanes] = {}, loss[kMaxLanes];
    for (int64_t i = 0; i < n; ++i) u[i] = extra[i] < 0 ? A(0) : x.data[extra[i] * x.step + i] - lanes->row_max[i];
    lanes_index(f, u, lanes->log_sum, extra_share, loss, slope, n);
    for (int64_t i = 0; i < n; ++i) {
      lanes->loss[i] = extra[i] < 0 ? A(0) : lanes->loss[i] + loss[i];
      lanes->slope[i] += slope[i];
    }
  }
  if (!gradient) return;
  for (int64_t c = 0; c < classes; ++c) {
    lanes_mixture_gradient<F, A, kTarget>(f, x.data + c * x.step, e.data + c * e.step,
                                          kTarget ? y.data + c * y.step : nullptr, stretch, base, w[c], lanes->row_max,
                                          lanes->log_sum, lanes->factor, lanes->slope, scale, n);
  }
  if (!extra) return;
  for (int64_t i = 0; i < n; ++i) {
    if (extra[i] >= 0) e.data[extra[i] * e.step + i] += scale[i] * slope[i];
  }
}

template <class F, class A>
void lanes_pair_sums(const F f, const A* __restrict x, const A* __restrict ex, const A* __restrict z,
                     const A* __restrict ez, const SoftmaxLanes<A>* __restrict s, const SoftmaxLanes<A>* __restrict r,
                     A* __restrict loss, A* __restrict slope_x, A* __restrict slope_z, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const PairTerms<A> t = f((x[i] - s->row_max[i]) * f.rate - s->log_sum[i], ex[i] * s->factor[i],
                             (z[i] - r->row_max[i]) * f.rate - r->log_sum[i], ez[i] * r->factor[i]);
    loss[i] += t.loss;
    slope_x[i] += t.slope_input;
    slope_z[i] += t.slope_target;
  }
}

template <class F, class A, bool kX, bool kZ>
void lanes_pair_gradient(const F f, const A* __restrict x, A* __restrict ex, const A* __restrict z, A* __restrict ez,
                         const SoftmaxLanes<A>* __restrict s, const SoftmaxLanes<A>* __restrict r,
                         const A* __restrict scale, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A p = ex[i] * s->factor[i], q = ez[i] * r->factor[i], factor = scale[i] * f.slope();
    const PairTerms<A> t =
        f((x[i] - s->row_max[i]) * f.rate - s->log_sum[i], p, (z[i] - r->row_max[i]) * f.rate - r->log_sum[i], q);
    if constexpr (kX) ex[i] = factor * (t.slope_input - p * s->slope[i]);
    if constexpr (kZ) ez[i] = factor * (t.slope_target - q * r->slope[i]);
  }
}

// Logits x and z; their losses are left in s->loss.
template <class F, class A>
void pair_tile(const F f, const SoftmaxTile<const A> x, const SoftmaxTile<A> ex, const SoftmaxTile<const A> z,
               const SoftmaxTile<A> ez, const int64_t classes, SoftmaxLanes<A>* s, SoftmaxLanes<A>* r,
               const bool grad_x, const bool grad_z, const A* __restrict scale, const int64_t n) {
  tile_softmax(x, ex, classes, f.rate, s, n);
  tile_softmax(z, ez, classes, f.rate, r, n);
  alignas(64) A loss[kMaxLanes], slope_x[kMaxLanes], slope_z[kMaxLanes];
  lanes_fill(loss, A(0), n);
  lanes_fill(slope_x, A(0), n);
  lanes_fill(slope_z, A(0), n);
  alignas(64) double loss_total[kMaxLanes] = {}, x_total[kMaxLanes] = {}, z_total[kMaxLanes] = {};
  for (int64_t c = 0; c < classes; ++c) {
    lanes_pair_sums(f, x.data + c * x.step, ex.data + c * ex.step, z.data + c * z.step, ez.data + c * ez.step, s, r,
                    loss, slope_x, slope_z, n);
    if (!flushes(c, classes)) continue;
    lanes_flush(loss, loss_total, n);
    lanes_flush(slope_x, x_total, n);
    lanes_flush(slope_z, z_total, n);
  }
  lanes_narrow(loss_total, s->loss, n);
  for (int64_t i = 0; i < n; ++i) s->loss[i] = f.loss_of(s->loss[i]);
  lanes_narrow(x_total, s->slope, n);
  lanes_narrow(z_total, r->slope, n);
  if (!grad_x && !grad_z) return;
  const auto run = grad_x && grad_z ? lanes_pair_gradient<F, A, true, true>
                   : grad_x         ? lanes_pair_gradient<F, A, true, false>
                                    : lanes_pair_gradient<F, A, false, true>;
  for (int64_t c = 0; c < classes; ++c) {
    run(f, x.data + c * x.step, ex.data + c * ex.step, z.data + c * z.step, ez.data + c * ez.step, s, r, scale, n);
  }
}
