// Row-wise loops over a tile [classes, lanes] of positions, positions in the vector lanes. Included by softmax_loops.h.
// Row c of a tile begins at data + c * step. Exponential tiles are replaced by gradients in place, or these are written
// to memory of their own.

template <class A>
struct SoftmaxTile {
  A* data;
  int64_t step;
};

// Rows like those of a tile that are asked for while its exponentials are computed: the logits of the positions after
// it and the memory of its gradient.
template <class A>
struct SoftmaxAhead {
  const A *logits, *gradient;
  int64_t step;
};

// What is known of each position of a tile.
template <class A>
struct SoftmaxLanes {
  // p = e * factor, log p = rate (x - row_max) - log_sum
  alignas(64) A row_max[kMaxLanes], log_sum[kMaxLanes], factor[kMaxLanes];
  alignas(64) A below[kMaxLanes];  // rate (row_max - x) of the position's own class, 0 where it has none
  alignas(64) A loss[kMaxLanes], slope[kMaxLanes];
};

// The integers of class indices beside values of A. More classes than they can tell apart are more than a tile can
// hold.
template <class A>
using ClassIndex = typename Line<A>::Int;

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

// Calls run(first position) for each line of a tile; its last may lie beyond n, where a tile has memory, too.
template <class A, class Run>
FL_HD void each_line(const int64_t n, const Run& run) {
  for (int64_t i = 0; i < n; i += Line<A>::kLanes) run(i);
}

// Exponentials e, where kStore, and what belongs to them, of one line of positions after the other, so that a
// position's statistics stay in registers. y: the class of each position, -1 for none, read with kOwn.
template <bool kStore, bool kOwn, class A>
void tile_softmax(const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const int64_t classes, const A rate,
                  const SoftmaxAhead<A> ahead, const ClassIndex<A>* y, SoftmaxLanes<A>* lanes, const int64_t n) {
  using V = Line<A>;
  if (classes == 0) lanes_fill(lanes->factor, A(0), n);
  each_line<A>(n, [&](int64_t i) {
    const auto logit = [&](int64_t c) { return V::load(x.data + c * x.step + i); };
    V row_max = -infinity_<A>();
    for (int64_t c = 0; c < classes; ++c) row_max = larger_(logit(c), row_max);
    row_max = select_(row_max == V(-infinity_<A>()), V(0), row_max);
    V below = A(0);
    double total[V::kLanes];
    for (int k = 0; classes > kFlush && k < V::kLanes; ++k) total[k] = 0;
    for (int64_t from = 0, to; from < classes; from = to) {
      to = from + kFlush < classes ? from + kFlush : classes;
      V sum = A(0);
      for (int64_t c = from; c < to; ++c) {
        const V distance = (row_max - logit(c)) * rate, v = detail::exp_minus(distance);
        sum += v;
        __builtin_prefetch(ahead.logits + c * ahead.step + i, 0, 2);
        if constexpr (kStore) __builtin_prefetch(ahead.gradient + c * ahead.step + i, 1, 3);
        if constexpr (kOwn) below = select_(V::equal(y + i, static_cast<ClassIndex<A>>(c)), distance, below);
        if constexpr (kStore) v.store(e.data + c * e.step + i);
      }
      sum.store(lanes->factor + i);
      if (classes > kFlush) lanes_flush(lanes->factor + i, total, V::kLanes);
    }
    if (classes > kFlush) lanes_narrow(total, lanes->factor + i, V::kLanes);
    row_max.store(lanes->row_max + i);
    if constexpr (kOwn) below.store(lanes->below + i);
  });
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    lanes->log_sum[i] = log_(lanes->factor[i]);
    lanes->factor[i] = A(1) / lanes->factor[i];
  }
}

// Loss and slope of the own class y of each position, of which it has `share`; 0 where there is none.
template <class F, class A>
void lanes_own(const F f, const A* __restrict below, const A* __restrict log_sum, const A* __restrict share,
               const ClassIndex<A>* __restrict y, A* __restrict loss, A* __restrict slope, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A v = -below[i] - log_sum[i];
    const ClassTerms<A> t = f(v, exp_(v));
    loss[i] = y[i] < 0 ? A(0) : times_(share[i], t.loss);
    slope[i] = y[i] < 0 ? A(0) : share[i] * t.slope;
  }
}

// The gradient `to`, which may be e: e factor, where that is not 0, and of a position's own class `own` more.
template <class A>
void tile_gradient(const SoftmaxTile<A> e, const SoftmaxTile<A> to, const int64_t classes, const ClassIndex<A>* y,
                   const A* factor, const A* own, const int64_t n) {
  using V = Line<A>;
  for (int64_t c = 0; c < classes; ++c) {
    const A* from = e.data + c * e.step;
    A* d = to.data + c * to.step;
    each_line<A>(n, [&](int64_t i) {
      const V multiplier = V::load(factor + i);
      const V all = select_(multiplier != V(0), V::load(from + i) * multiplier, V(0));
      const V more = select_(V::equal(y + i, static_cast<ClassIndex<A>>(c)), V::load(own + i), V(0));
      (all + more).store(d + i);
    });
  }
}

// y: class of each position, -1 where it does not count; share: [n] weights of the classes, 0 where it does not count;
// z: the weight of the normaliser of those that count; scale: [n] factors of the gradients; to: their memory, or null.
template <class F, class A>
void index_tile(const F f, const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const SoftmaxTile<A> to,
                const int64_t classes, const SoftmaxAhead<A> ahead, SoftmaxLanes<A>* lanes,
                const ClassIndex<A>* __restrict y, const A* __restrict share, const A z, const A* __restrict scale,
                const int64_t n) {
  (to.data ? tile_softmax<true, true, A> : tile_softmax<false, true, A>)(x, e, classes, A(1), ahead, y, lanes, n);
  lanes_own(f, lanes->below, lanes->log_sum, share, y, lanes->loss, lanes->slope, n);
  alignas(64) A pull[kMaxLanes] = {}, own[kMaxLanes];
  for (int64_t i = 0; z != A(0) && i < n; ++i) {
    const ClassTerms<A> normaliser = normaliser_terms(z, lanes->row_max[i] + lanes->log_sum[i]);
    lanes->loss[i] += y[i] < 0 ? A(0) : normaliser.loss;
    pull[i] = scale[i] * normaliser.slope;
  }
  if (!to.data) return;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    own[i] = y[i] < 0 ? A(0) : scale[i] * lanes->slope[i];  // the scale may be infinite
    lanes->factor[i] = y[i] < 0 ? A(0) : (pull[i] - own[i]) * lanes->factor[i];
  }
  tile_gradient(e, to, classes, y, lanes->factor, own, n);
}

template <class F, class A, bool kTarget>
void lanes_mixture_sums(const F f, const A* __restrict x, const A* __restrict e, const A* __restrict y, const A stretch,
                        const A base, const A w, const A* __restrict row_max, const A* __restrict log_sum,
                        const A* __restrict factor, A* __restrict loss, A* __restrict slope, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w;
    const ClassTerms<A> t = f((x[i] - row_max[i]) - log_sum[i], e[i] * factor[i]);
    loss[i] += times_(share, t.loss);
    slope[i] += share * t.slope;
  }
}

template <class F, class A, bool kTarget>
void lanes_mixture_gradient(const F f, const A* __restrict x, A* __restrict e, const A* __restrict y, const A stretch,
                            const A base, const A w, const A* __restrict row_max, const A* __restrict log_sum,
                            const A* __restrict factor, const A* __restrict slope, const A* __restrict scale,
                            const ClassIndex<A>* __restrict extra, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w;
    const A p = e[i] * factor[i];
    const ClassTerms<A> t = f((x[i] - row_max[i]) - log_sum[i], p);
    const A gradient = scale[i] * (share * t.slope - p * slope[i]);
    e[i] = !kTarget && extra[i] < 0 ? A(0) : gradient;
  }
}

// As index_tile for a mixture: class c has the share (stretch y + base) w[c] of a target y or, without kTarget, base
// w[c], to which class extra[i] adds extra_share[i], its weight included; where that is negative, the position does not
// count.
template <bool kTarget, class F, class A>
void mixture_tile(const F f, const SoftmaxTile<const A> x, const SoftmaxTile<A> e, const SoftmaxTile<const A> y,
                  const A* w, const A stretch, const A base, const int64_t classes, const SoftmaxAhead<A> ahead,
                  SoftmaxLanes<A>* lanes, const ClassIndex<A>* __restrict extra, const A* __restrict extra_share,
                  const A z, const bool gradient, const A* __restrict scale, const int64_t n) {
  tile_softmax<true, !kTarget>(x, e, classes, A(1), ahead, extra, lanes, n);
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
    alignas(64) A loss[kMaxLanes];
    lanes_own(f, lanes->below, lanes->log_sum, extra_share, extra, loss, slope, n);
    for (int64_t i = 0; i < n; ++i) {
      lanes->loss[i] = extra[i] < 0 ? A(0) : lanes->loss[i] + loss[i];
      lanes->slope[i] += slope[i];
    }
  }
  if (!gradient) return;
  for (int64_t c = 0; c < classes; ++c) {
    lanes_mixture_gradient<F, A, kTarget>(f, x.data + c * x.step, e.data + c * e.step,
                                          kTarget ? y.data + c * y.step : nullptr, stretch, base, w[c], lanes->row_max,
                                          lanes->log_sum, lanes->factor, lanes->slope, scale, extra, n);
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
               const SoftmaxTile<A> ez, const int64_t classes, const SoftmaxAhead<A> x_ahead,
               const SoftmaxAhead<A> z_ahead, SoftmaxLanes<A>* s, SoftmaxLanes<A>* r, const bool grad_x,
               const bool grad_z, const A* __restrict scale, const int64_t n) {
  const ClassIndex<A>* none = nullptr;
  tile_softmax<true, false>(x, ex, classes, f.rate, x_ahead, none, s, n);
  tile_softmax<true, false>(z, ez, classes, f.rate, z_ahead, none, r, n);
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
