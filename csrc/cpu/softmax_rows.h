// Row-wise loops over one contiguous row, classes in the vector lanes. Included by softmax_loops.h in each namespace.

// Exponentials of a row in blocks of kRowBlock, each shifted by its own row_max so that the row is read once:
// p = e * factor[block], log p = rate (x - row_max) - log_sum.
template <class A>
struct RowSoftmax {
  A row_max, log_sum;
  A* factor;  // [blocks]
};

// What is known of the row after the one worked on.
template <class A>
struct NextRow {
  const A* values = nullptr;  // null: nothing, or not where it can be read yet
  A block_max = 0;            // of its first block, with `known`
  bool known = false;
};

// space: [2 * blocks]. e: [n], or null where the exponentials are not needed. next: what the call before found about
// this row, replaced by what this one finds about the row at next->values. kPrefetch: as row_exp.
template <bool kPrefetch, class A>
RowSoftmax<A> row_softmax(const A* x, A* e, const int64_t n, const A rate, A* space, NextRow<A>* next) {
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock;
  const auto length = [n](int64_t b) { return n - b * kRowBlock < kRowBlock ? n - b * kRowBlock : kRowBlock; };
  A* block_max = space;
  A* sums = space + blocks;
  A row_max = -infinity_<A>();
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t at = b * kRowBlock, part = length(b);
    const bool last = b + 1 == blocks;
    block_max[b] = next->known ? next->block_max : maximum(x + at, part);
    const A shift = block_max[b] == -infinity_<A>() ? A(0) : block_max[b];
    const A* following = last ? next->values : x + at + part;
    next->known = following && length(last ? 0 : b + 1) == part;
    const auto run = next->known ? (e ? row_exp<A, true, true, kPrefetch> : row_exp<A, false, true, kPrefetch>)
                                 : (e ? row_exp<A, true, false, kPrefetch> : row_exp<A, false, false, kPrefetch>);
    sums[b] = run(x + at, e ? e + at : nullptr, rate, shift, following, &next->block_max, part);
    row_max = block_max[b] > row_max ? block_max[b] : row_max;
  }
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const A part = sums[b];
    sums[b] = block_max[b] == -infinity_<A>() ? A(0) : exp_((block_max[b] - row_max) * rate);
    sum += part == A(0) ? 0.0 : static_cast<double>(part) * sums[b];
  }
  const A total = static_cast<A>(sum), inverse = A(1) / total;
  for (int64_t b = 0; b < blocks; ++b) sums[b] *= inverse;
  return {row_max, log_(total), sums};
}

template <class A>
void row_scale(A* __restrict values, const A factor, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] *= factor;
}

// Class index y; z: the weight of the row's normaliser. e: the exponentials, replaced by the gradient; null without
// one.
template <class F, class A>
A index_row(const F f, const A* x, A* e, A* space, const int64_t n, const int64_t y, const A w, const A z,
            const A scale, NextRow<A>* next) {
  const RowSoftmax<A> s = row_softmax<false>(x, e, n, A(1), space, next);
  const A u = (x[y] - s.row_max) - s.log_sum;
  const ClassTerms<A> t = f(u, exp_(u)), normaliser = normaliser_terms(z, s.row_max + s.log_sum);
  if (e) {
    const A slope = scale * w * t.slope, pull = scale * normaliser.slope - slope;
    for (int64_t b = 0, at = 0; at < n; ++b, at += kRowBlock) {
      row_scale(e + at, pull * s.factor[b], n - at < kRowBlock ? n - at : kRowBlock);
    }
    e[y] += slope;
  }
  return times_(w, t.loss) + normaliser.loss;
}

// A target that is a mixture of classes: class c has the share (stretch y[c] + base) w[c].
template <class A>
struct Mixture {
  const A* y;  // read only with kTarget
  const A* w;
  A stretch, base;
};

template <class A>
struct RowSums {
  A loss, slope;
};

template <class F, class A, bool kTarget>
RowSums<A> mixture_sums(const F f, const A* __restrict x, const A* __restrict e, const A* __restrict y,
                        const A* __restrict w, const A stretch, const A base, const A row_max, const A log_sum,
                        const A factor, const int64_t n) {
  A loss = 0, slope = 0;
#pragma omp simd reduction(+ : loss, slope)
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w[i];
    const ClassTerms<A> t = f((x[i] - row_max) - log_sum, e[i] * factor);
    loss += times_(share, t.loss);
    slope += share * t.slope;
  }
  return {loss, slope};
}

// e becomes the gradient; total: the sum of the slopes.
template <class F, class A, bool kTarget>
void mixture_gradient(const F f, const A* __restrict x, A* __restrict e, const A* __restrict y, const A* __restrict w,
                      const A stretch, const A base, const A row_max, const A log_sum, const A factor, const A total,
                      const A scale, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A share = (kTarget ? fma_(stretch, y[i], base) : base) * w[i];
    const A p = e[i] * factor;
    const ClassTerms<A> t = f((x[i] - row_max) - log_sum, p);
    e[i] = scale * (share * t.slope - p * total);
  }
}

// As index_row for a mixture, to which class `extra` (if not negative) adds `extra_share`, its weight included.
template <bool kTarget, class F, class A>
A mixture_row(const F f, const A* x, A* e, A* space, const int64_t n, const Mixture<A> m, const int64_t extra,
              const A extra_share, const A z, const bool gradient, const A scale, NextRow<A>* next) {
  const RowSoftmax<A> s = row_softmax<false>(x, e, n, A(1), space, next);
  double loss = 0, slope = 0;
  const auto blocks = [n](const auto& run) {
    for (int64_t b = 0, at = 0; at < n; ++b, at += kRowBlock) run(b, at, n - at < kRowBlock ? n - at : kRowBlock);
  };
  blocks([&](int64_t b, int64_t at, int64_t part) {
    const RowSums<A> sums = mixture_sums<F, A, kTarget>(f, x + at, e + at, kTarget ? m.y + at : nullptr, m.w + at,
                                                        m.stretch, m.base, s.row_max, s.log_sum, s.factor[b], part);
    loss += sums.loss;
    slope += sums.slope;
  });
  A extra_slope = 0;
  if (extra >= 0 && extra_share != A(0)) {
    const A u = (x[extra] - s.row_max) - s.log_sum;
    const ClassTerms<A> t = f(u, exp_(u));
    extra_slope = extra_share * t.slope;
    loss += extra_share * t.loss;
    slope += extra_slope;
  }
  const ClassTerms<A> normaliser = normaliser_terms(z, s.row_max + s.log_sum);
  loss += normaliser.loss;
  slope -= normaliser.slope;
  if (gradient) {
    const A total = static_cast<A>(slope);
    blocks([&](int64_t b, int64_t at, int64_t part) {
      mixture_gradient<F, A, kTarget>(f, x + at, e + at, kTarget ? m.y + at : nullptr, m.w + at, m.stretch, m.base,
                                      s.row_max, s.log_sum, s.factor[b], total, scale, part);
    });
    if (extra >= 0) e[extra] += scale * extra_slope;
  }
  return static_cast<A>(loss);
}

template <class A>
struct PairSums {
  A loss, slope_x, slope_z;
};

// kKeep: ez becomes the slope of the input, for pair_gradient_kept. No sum of slopes that is known or not needed.
template <class F, class A, bool kKeep>
PairSums<A> pair_sums(const F f, const A* __restrict x, const A* __restrict ex, const A row_max_x, const A log_sum_x,
                      const A factor_x, const A* __restrict z, A* __restrict ez, const A row_max_z, const A log_sum_z,
                      const A factor_z, const int64_t n) {
  A loss = 0, slope_x = 0, slope_z = 0;
#pragma omp simd reduction(+ : loss, slope_x, slope_z)
  for (int64_t i = 0; i < n; ++i) {
    const PairTerms<A> t = f((x[i] - row_max_x) * f.rate - log_sum_x, ex[i] * factor_x,
                             (z[i] - row_max_z) * f.rate - log_sum_z, ez[i] * factor_z);
    loss += t.loss;
    if constexpr (!F::kKnownSlope) slope_x += t.slope_input;
    if constexpr (!(kKeep && F::kKnownSlope)) slope_z += t.slope_target;
    if constexpr (kKeep) ez[i] = t.slope_input;
  }
  return {loss, slope_x, slope_z};
}

// ex becomes the gradient of the input, the only one asked for, from the slopes that pair_sums kept.
template <class A>
void pair_gradient_kept(A* __restrict ex, const A* __restrict slope, const A share, const A scale, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) ex[i] = scale * (slope[i] - ex[i] * share);
}

// ex becomes the gradient of the input with kX, ez that of the target with kZ.
template <class F, class A, bool kX, bool kZ>
void pair_gradient(const F f, const A* __restrict x, A* __restrict ex, const A row_max_x, const A log_sum_x,
                   const A factor_x, const A total_x, const A* __restrict z, A* __restrict ez, const A row_max_z,
                   const A log_sum_z, const A factor_z, const A total_z, const A scale, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A p = ex[i] * factor_x, q = ez[i] * factor_z;
    const PairTerms<A> t = f((x[i] - row_max_x) * f.rate - log_sum_x, p, (z[i] - row_max_z) * f.rate - log_sum_z, q);
    if constexpr (kX) ex[i] = scale * (t.slope_input - p * total_x);
    if constexpr (kZ) ez[i] = scale * (t.slope_target - q * total_z);
  }
}

// Logits x and z; ex and ez: [n], replaced by the gradients asked for.
template <class F, class A>
A pair_row(const F f, const A* x, A* ex, const A* z, A* ez, A* space, const int64_t n, const bool grad_x,
           const bool grad_z, const A scale, NextRow<A>* next) {
  const RowSoftmax<A> s = row_softmax<true>(x, ex, n, f.rate, space, &next[0]);
  const RowSoftmax<A> r = row_softmax<true>(z, ez, n, f.rate, space + 2 * (n / kRowBlock + 1), &next[1]);
  const bool keep = grad_x && !grad_z;
  const auto blocks = [n](const auto& run) {
    for (int64_t b = 0, at = 0; at < n; ++b, at += kRowBlock) run(b, at, n - at < kRowBlock ? n - at : kRowBlock);
  };
  const auto sums = keep ? pair_sums<F, A, true> : pair_sums<F, A, false>;
  double loss = 0, slope_x = 0, slope_z = 0;
  blocks([&](int64_t b, int64_t at, int64_t part) {
    const PairSums<A> of = sums(f, x + at, ex + at, s.row_max, s.log_sum, s.factor[b], z + at, ez + at, r.row_max,
                                r.log_sum, r.factor[b], part);
    loss += of.loss;
    slope_x += of.slope_x;
    slope_z += of.slope_z;
  });
  if constexpr (F::kKnownSlope) slope_x = f.slope_of_all();
  const A total_x = static_cast<A>(slope_x), total_z = static_cast<A>(slope_z), factor = scale * f.slope();
  if (keep) {
    blocks([&](int64_t b, int64_t at, int64_t part) {
      pair_gradient_kept(ex + at, ez + at, s.factor[b] * total_x, factor, part);
    });
  } else if (grad_z) {
    const auto run = grad_x ? pair_gradient<F, A, true, true> : pair_gradient<F, A, false, true>;
    blocks([&](int64_t b, int64_t at, int64_t part) {
      run(f, x + at, ex + at, s.row_max, s.log_sum, s.factor[b], total_x, z + at, ez + at, r.row_max, r.log_sum,
          r.factor[b], total_z, factor, part);
    });
  }
  return f.loss_of(static_cast<A>(loss));
}
