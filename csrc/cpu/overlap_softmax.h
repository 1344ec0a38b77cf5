// The overlap losses with a softmax, p = exp(x - row_max) * inverse: all classes of a tile's positions at once.
// Included by overlap_loops.h.

template <class A>
void fill_row(const A value, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// The largest logit so far; a NaN may be passed over here, since its own exponential is NaN too.
template <class A>
void max_row(const A* __restrict x, A* __restrict row_max, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], m = row_max[i];
    row_max[i] = a > m ? a : m;
  }
}

// As max_row for four rows `step` apart.
template <class A>
void max_rows(const A* __restrict x, const int64_t step, A* __restrict row_max, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A a = x[i], b = x[i + step], c = x[i + 2 * step], d = x[i + 3 * step], m = row_max[i];
    const A ab = a > b ? a : b, cd = c > d ? c : d, all = ab > cd ? ab : cd;
    row_max[i] = all > m ? all : m;
  }
}

// e may be x.
template <class A>
void exp_row(const A* x, const A* __restrict row_max, A* e, A* __restrict sum, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = detail::exp_minus(row_max[i] - x[i]);
    e[i] = value;
    sum[i] += value;
  }
}

template <class A>
void invert_row(A* __restrict v, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) v[i] = A(1) / v[i];
}

// p *= inverse, and a copy of it to `kept` where that is wanted.
template <class A>
void normalise_row(const A* __restrict inverse, A* __restrict p, A* __restrict kept, const int64_t n) {
  if (!kept) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) p[i] *= inverse[i];
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = p[i] * inverse[i];
    p[i] = value;
    kept[i] = value;
  }
}

template <class A, bool kSquared, class Target>
void softmax_sums_row(const Target target, const A* __restrict p, const A* __restrict t, const int64_t n,
                      double* sums) {
  A I = 0, P = 0, G = 0;
#pragma omp simd reduction(+ : I, P, G)
  for (int64_t i = 0; i < n; ++i) {
    const A g = target.target(t[i]), q = target.counts(t[i]) ? p[i] : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
}

// I and P of four classes from c, class indices t: p of each `step` further on. Four at once hide the latency of the
// additions; the positions of each class (G) are counted apart, by count_classes.
template <class A, bool kSquared>
void softmax_class_sums4(const A c, const A* __restrict p, const int64_t step, const A* __restrict t, const int64_t n,
                         double* sums) {
  A I0 = 0, I1 = 0, I2 = 0, I3 = 0, P0 = 0, P1 = 0, P2 = 0, P3 = 0;
#pragma omp simd reduction(+ : I0, I1, I2, I3, P0, P1, P2, P3)
  for (int64_t i = 0; i < n; ++i) {
    const A y = t[i];
    const A p0 = p[i], p1 = p[i + step], p2 = p[i + 2 * step], p3 = p[i + 3 * step];
    const auto add = [y](A q, A number, A* own, A* all) {
      *own += y == number ? q : A(0);
      const A counted = y >= A(0) ? q : A(0);
      *all += kSquared ? counted * counted : counted;
    };
    add(p0, c, &I0, &P0);
    add(p1, c + A(1), &I1, &P1);
    add(p2, c + A(2), &I2, &P2);
    add(p3, c + A(3), &I3, &P3);
  }
  const A own[4] = {I0, I1, I2, I3}, all[4] = {P0, P1, P2, P3};
  for (int k = 0; k < 4; ++k) {
    sums[kRegionSums * k] += own[k];
    sums[kRegionSums * k + 1] += all[k];
  }
}

// The same of one class.
template <class A, bool kSquared>
void softmax_class_sums(const A c, const A* __restrict p, const A* __restrict t, const int64_t n, double* sums) {
  A I = 0, P = 0;
#pragma omp simd reduction(+ : I, P)
  for (int64_t i = 0; i < n; ++i) {
    const A q = t[i] >= A(0) ? p[i] : A(0);
    I += t[i] == c ? q : A(0);
    P += kSquared ? q * q : q;
  }
  sums[0] += I;
  sums[1] += P;
}

// The derivative of the overlap with respect to p. With class indices a position counts for all classes or for none,
// and then its whole gradient is set to 0.
template <class A, bool kSquared, class Target>
FL_HD A by_probability(const Target& target, A p, A t, A by_I, A by_P) {
  const A slope = by_I * target.target(t) + (kSquared ? 2 * by_P * p : by_P);
  return Target::kClassIndex || target.counts(t) ? slope : A(0);
}

// inner += p d: the term that softmax's Jacobian takes from every class.
template <class A, bool kSquared, class Target>
void softmax_inner_row(const Target target, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                       A* __restrict inner, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) inner[i] += p[i] * by_probability<A, kSquared>(target, p[i], t[i], by_I, by_P);
}

// by_log: derivative of the second term with respect to log p, of class t[i] with class indices, else of this class.
// keep: negative where nothing of the position counts; its logits, NaN included, are not read.
template <class A, bool kSquared, bool kSecond, class Target>
void softmax_gradient_row(const Target target, const A* __restrict p, const A* __restrict t, const A by_I, const A by_P,
                          const A* __restrict inner, const A* __restrict by_log, const A* __restrict keep,
                          A* __restrict d, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    A value = p[i] * (by_probability<A, kSquared>(target, p[i], t[i], by_I, by_P) - inner[i]);
    if constexpr (kSecond) value += !Target::kClassIndex || t[i] == target.c ? by_log[i] : A(0);
    d[i] = keep[i] >= A(0) ? value : A(0);
  }
}

// keep = 0 where this class counts.
template <class A, class Target>
void keep_row(const Target target, const A* __restrict t, A* __restrict keep, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) keep[i] = target.counts(t[i]) ? A(0) : keep[i];
}

// All classes of a tile: its logits x and targets t; fills p, keep and, where it has to compute p, row_max and inverse.
// Logits and kept probabilities are copied first: rows a power of two apart would push each other out of the caches.
template <class A>
struct OverlapSoftmaxTile {
  const OverlapSpan& span;
  const OverlapTask& task;
  OverlapTile<A>& tile;
  const int64_t n;
  const bool kept;       // the probabilities are in the gradient, where the sums left them
  A *const x, *const p;  // [classes, width]; one memory unless there is a second term, which needs both
  OverlapRows<A> t;      // the class indices for every class, or the dense target

  OverlapSoftmaxTile(const OverlapSpan& span, bool kept, OverlapTile<A>* memory)
      : span(span),
        task(span.task),
        tile(*memory),
        n(span.n),
        kept(kept),
        x(tile.values),
        p(task.options.has_second() && !kept ? tile.probabilities : x) {
    const void* from = kept ? task.gradient : task.input;
    for (int64_t c = 0; c < task.classes; ++c) load_block(from, task.input_dtype, span.offset(c), n, row(x, c));
    if (!kept) compute_probabilities();
    if (task.class_index) {
      t = {tile.class_index, 0};
      return;
    }
    t = read_rows(span, task.target, task.target_dtype, tile.targets, tile.width);
    fill_row(task.options.ignoring ? A(-1) : A(0), tile.keep, n);
    for (int64_t c = 0; task.options.ignoring && c < task.classes; ++c) keep_row(dense(), t.row(c), tile.keep, n);
  }

  // I, P, G and whether anything counts, of each class.
  void add_sums(double* sums) const {
    const auto add = [&](auto squared) {
      if (task.class_index) return add_class_sums<squared()>(sums);
      for (int64_t c = 0; c < task.classes; ++c) {
        softmax_sums_row<A, squared()>(dense(), row(p, c), t.row(c), n, sums + kRegionSums * c);
        sums[kRegionSums * c + 3] += any_counts(task, dense(), t.row(c), n);
      }
    };
    if (task.options.squared) return add(std::true_type{});
    add(std::false_type{});
  }

  void add_terms(double* second) const {
    with_class_term<A>(task, [&](auto term) {
      if (task.class_index) {
        own_class();
        return term_row(term, tile.log, tile.share, keep(), n, second);
      }
      for (int64_t c = 0; c < task.classes; ++c) {
        one_class(c);
        term_row(term, tile.log, tile.share, keep(), n, second);
      }
    });
    second[1] += count_row(keep(), n);
  }

  void write_gradient(const double* by_I, const double* by_P) const {
    const bool second = task.options.has_second(), each_class = second && !task.class_index;
    add_inner(by_I, by_P);
    for (int64_t c = 0; c < task.classes; ++c) {
      A* d = gradient_row(span, c, tile.share);
      if (each_class) class_slopes(c);
      with_target<A>(task, c, [&](auto target, auto squared) {
        const auto write = [&](auto with_second) {
          softmax_gradient_row<A, squared(), with_second()>(target, row(p, c), t.row(c), static_cast<A>(by_I[c]),
                                                            static_cast<A>(by_P[c]), tile.inner, tile.slope, keep(), d,
                                                            n);
        };
        if (second) return write(std::true_type{});
        write(std::false_type{});
      });
      write_row(span, c, d, tile.share);
    }
  }

 private:
  A* row(A* of, int64_t c) const { return of + c * tile.width; }
  const A* keep() const { return task.class_index ? tile.class_index : tile.keep; }
  ClassTarget<A, false> dense() const { return {A(0), static_cast<A>(task.options.ignore_index)}; }

  void compute_probabilities() const {
    const int64_t C = task.classes;
    std::memcpy(tile.row_max, x, n * sizeof(A));
    int64_t c = 1;
    for (; c + 4 <= C; c += 4) max_rows(row(x, c), tile.width, tile.row_max, n);
    for (; c < C; ++c) max_row(row(x, c), tile.row_max, n);
    fill_row(A(0), tile.inverse, n);
    for (c = 0; c < C; ++c) exp_row(row(x, c), tile.row_max, row(p, c), tile.inverse, n);
    invert_row(tile.inverse, n);
    for (c = 0; c < C; ++c) {
      A* copy = span.keeps ? static_cast<A*>(task.gradient) + span.offset(c) : nullptr;
      normalise_row(tile.inverse, row(p, c), copy, n);
    }
  }

  template <bool kSquared>
  void add_class_sums(double* sums) const {
    const int64_t C = task.classes;
    const A* y = tile.class_index;
    int64_t c = 0;
    for (; c + 4 <= C; c += 4) {
      softmax_class_sums4<A, kSquared>(static_cast<A>(c), row(p, c), tile.width, y, n, sums + kRegionSums * c);
    }
    for (; c < C; ++c) softmax_class_sums<A, kSquared>(static_cast<A>(c), row(p, c), y, n, sums + kRegionSums * c);
    count_classes(y, n, C, tile.counts, sums);
    const double any = any_counts(task, ClassTarget<A, true>{}, y, n);
    for (c = 0; c < C; ++c) sums[kRegionSums * c + 3] += any;
  }

  // log p of each position's own class (0 where the logits are gone: only cross-entropy, which does without, keeps p),
  // and its share of the target, 1.
  void own_class() const {
    fill_row(A(1), tile.share, n);
    if (kept) return fill_row(A(0), tile.log, n);
    pick_row(x, tile.width, tile.class_index, tile.slope, n);
    log_row(tile.slope, tile.row_max, tile.inverse, tile.log, n);
  }

  // The same of class c of a dense target.
  void one_class(int64_t c) const {
    log_row(row(x, c), tile.row_max, tile.inverse, tile.log, n);
    share_row(static_cast<A>(task.options.ignore_index), t.row(c), tile.share, n);
  }

  // Sets slope to the derivative of the second term with respect to log p of the class that own_class or one_class set.
  void term_slopes() const {
    with_class_term<A>(task, [&](auto term) {
      term_slope_row(term, tile.log, tile.share, keep(), static_cast<A>(task.second_scale), tile.slope, n);
    });
  }

  void class_slopes(int64_t c) const {
    one_class(c);
    term_slopes();
  }

  // inner: what the softmax takes from the gradient of every class. Leaves the slopes of class indices in `slope`.
  void add_inner(const double* by_I, const double* by_P) const {
    const bool second = task.options.has_second();
    fill_row(A(0), tile.inner, n);
    if (second && task.class_index) {
      own_class();
      term_slopes();
      add_to_row(tile.slope, tile.inner, n);
    }
    for (int64_t c = 0; c < task.classes; ++c) {
      with_target<A>(task, c, [&](auto target, auto squared) {
        softmax_inner_row<A, squared()>(target, row(p, c), t.row(c), static_cast<A>(by_I[c]), static_cast<A>(by_P[c]),
                                        tile.inner, n);
      });
      if (second && !task.class_index) {
        class_slopes(c);
        add_to_row(tile.slope, tile.inner, n);
      }
    }
  }
};
