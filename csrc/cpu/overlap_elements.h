// The overlap losses without an activation or with a sigmoid: every element on its own. Included by overlap_loops.h.
// Under sigmoid the smaller of p and q = 1 - p is kept, negative where it is q: neither loses digits to the other.

// e: exp_minus_abs(x).
template <class A>
FL_HD A smaller_probability(A x, A e) {
  const A smaller = e / (A(1) + e);
  return x > A(0) ? -smaller : smaller;
}

template <class A>
FL_HD A probability_of(A kept) {
  using detail::bits;
  return bits(kept) < 0 ? A(1) + kept : kept;
}

template <class A>
void exp_minus_abs_row(const A* x, A* e, const int64_t n) {
  map_row(x, e, n, [](auto v) { return exp_minus_abs(v); });
}

template <class A>
void smaller_probability_row(const A* __restrict x, const A* __restrict e, A* __restrict kept, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) kept[i] = smaller_probability(x[i], e[i]);
}

// kept: exp_minus_abs(x), which becomes the smaller probability; not used without a sigmoid.
template <class A, bool kSigmoid, bool kSquared, class Target, class Term>
void element_sums_row(const Target target, const Term term, const SecondTarget<A> share, const A* __restrict x,
                      A* __restrict kept, const A* __restrict t, const int64_t n, double* sums, double* second) {
  A I = 0, P = 0, G = 0, loss = 0, count = 0;
#pragma omp simd reduction(+ : I, P, G, loss, count)
  for (int64_t i = 0; i < n; ++i) {
    const A g = target.target(t[i]);
    const bool counts = target.counts(t[i]);
    A p = x[i];
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) {
      const A value = term.terms(x[i], kept[i], share(g), A(1)).loss;
      loss += counts ? value : A(0);
      count += counts ? A(1) : A(0);
    }
    if constexpr (kSigmoid) {
      kept[i] = smaller_probability(x[i], kept[i]);
      p = probability_of(kept[i]);
    }
    const A q = counts ? p : A(0);
    I += q * g;
    P += kSquared ? q * q : q;
    G += kSquared ? g * g : g;
  }
  sums[0] += I;
  sums[1] += P;
  sums[2] += G;
  second[0] += share.weight * loss;
  second[1] += count;
}

// d = gradient with respect to x: of the overlap through p, and scale times the term's. kept: as element_sums_row left
// it, d itself or other memory; x is read only without a sigmoid or with a term, e, exp_minus_abs(x), with a term.
template <class A, bool kSigmoid, bool kSquared, class Target, class Term>
void element_gradient_row(const Target target, const Term term, const SecondTarget<A> share, const A* __restrict x,
                          const A* __restrict e, const A* kept, const A* __restrict t, const A by_I, const A by_P,
                          const A scale, A* d, const int64_t n) {
  const A factor = scale * share.weight;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A g = target.target(t[i]);
    A value;
    if constexpr (kSigmoid) {
      const A smaller = abs_(kept[i]), p = probability_of(kept[i]);
      value = smaller * (A(1) - smaller) * (by_I * g + (kSquared ? 2 * by_P * p : by_P));
    } else {
      value = by_I * g + (kSquared ? 2 * by_P * x[i] : by_P);
    }
    if constexpr (!std::is_same_v<Term, NoTerm<A>>) value += factor * term.terms(x[i], e[i], share(g), A(1)).grad_input;
    d[i] = target.counts(t[i]) ? value : A(0);
  }
}

// One class of a tile: its logits x (or probabilities, without a sigmoid) and targets t.
template <class A>
struct OverlapElementTile {
  const OverlapSpan span;
  OverlapTile<A>& tile;
  const A *const x, *const t;  // [n]; t: class indices, or the dense target

  OverlapElementTile(const OverlapSpan& all, int64_t c, OverlapTile<A>* memory)
      : span{all.task, all.sample, c, c + 1, all.at, all.n, all.keeps},
        tile(*memory),
        x(read_rows(span, span.task.input, span.task.input_dtype, tile.values, 0).data),
        t(span.task.class_index ? tile.class_index
                                : read_rows(span, span.task.target, span.task.target_dtype, tile.targets, 0).data) {}

  void add_sums(double* sums, double* second) const {
    const OverlapTask& task = span.task;
    A* kept = span.keeps ? gradient_row(span, span.first, tile.probabilities) : tile.probabilities;
    with_element_term<A>(task, [&](auto sigmoid, auto term) {
      if (sigmoid()) exp_minus_abs_row(x, kept, span.n);
      with_target<A>(task, span.first, [&](auto target, auto squared) {
        element_sums_row<A, sigmoid(), squared()>(target, term, {task, span.first}, x, kept, t, span.n, sums, second);
        sums[3] += any_counts(task, target, t, span.n);
      });
    });
  }

  void write_gradient(A by_I, A by_P) const {
    const OverlapTask& task = span.task;
    A* d = gradient_row(span, span.first, tile.probabilities);
    A *kept = span.keeps ? d : tile.probabilities, *e = tile.extra;
    with_element_term<A>(task, [&](auto sigmoid, auto term) {
      if (sigmoid() && (task.options.has_second() || !span.keeps)) exp_minus_abs_row(x, e, span.n);
      if (sigmoid() && !span.keeps) smaller_probability_row(x, e, kept, span.n);
      with_target<A>(task, span.first, [&](auto target, auto squared) {
        element_gradient_row<A, sigmoid(), squared()>(target, term, {task, span.first}, x, e, kept, t, by_I, by_P,
                                                      static_cast<A>(task.second_scale), d, span.n);
      });
    });
    write_row(span, span.first, d, tile.probabilities);
  }
};
