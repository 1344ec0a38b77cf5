// The second term of the compounds: of an element under sigmoid, of a class under softmax, from u = log p. Included by
// overlap_loops.h.

// In place of a second term of an element.
template <class A>
struct NoTerm {
  FL_HD Terms<A> operator()(A, A, A) const { return {A(0), A(0), A(0)}; }
};

// What the second term sees of the target of one class: g smoothed, and the weight of the class.
template <class A>
struct SecondTarget {
  A keep, shift, weight;

  SecondTarget(const OverlapTask& task, int64_t c)
      : keep(static_cast<A>(1 - task.options.label_smoothing)),
        shift(static_cast<A>(task.options.label_smoothing / (task.options.second_softmax() ? task.classes : 2))),
        weight(task.class_weights ? static_cast<A>(task.class_weights[c]) : A(1)) {}

  FL_HD A operator()(A g) const { return g * keep + shift; }
};

// Calls run(sigmoid as a constant, second term of an element).
template <class A, class Run>
void with_element_term(const OverlapTask& task, const Run& run) {
  if (task.options.activation == Activation::kNone) return run(std::false_type{}, NoTerm<A>{});
  switch (task.options.second) {
    case SecondTerm::kNone:
      return run(std::true_type{}, NoTerm<A>{});
    case SecondTerm::kCrossEntropy:
      return run(std::true_type{}, BinaryCrossEntropyWithLogits<A>(Options()));
    case SecondTerm::kFocal:
      SigmoidFocal<A>::with(focal_options(task.options.gamma, task.options.alpha, false),
                            [&](auto term) { run(std::true_type{}, term); });
  }
}

// Calls run(second term of a class).
template <class A, class Run>
void with_class_term(const OverlapTask& task, const Run& run) {
  if (task.options.second == SecondTerm::kCrossEntropy) return run(CrossEntropy<A>(Options()));
  SoftmaxFocal<A>::with(focal_options(task.options.gamma, task.options.alpha, true), run);
}

// The logit of each position's class; x [classes, step].
template <class A>
void pick_row(const A* __restrict x, const int64_t step, const A* __restrict classes, A* __restrict to,
              const int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(classes[i]);
    to[i] = x[(c < 0 ? 0 : c) * step + i];
  }
}

template <class A>
void log_of_row(const A* __restrict v, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = log_(v[i]);
}

// u = x - row_max + log_inverse
template <class A>
void log_row(const A* __restrict x, const A* __restrict row_max, const A* __restrict log_inverse, A* __restrict u,
             const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) u[i] = (x[i] - row_max[i]) + log_inverse[i];
}

// Sums of the term of one class, times its share of the target, over the positions to keep.
template <class A, class Term>
void term_row(const Term term, const A* __restrict u, const A* __restrict share, const A* __restrict keep,
              const int64_t n, double* second) {
  A loss = 0;
#pragma omp simd reduction(+ : loss)
  for (int64_t i = 0; i < n; ++i) {
    const A value = times_(share[i], term(u[i], exp_(u[i])).loss);
    loss += keep[i] >= A(0) ? value : A(0);
  }
  second[0] += loss;
}

// by_log = scale times the derivative of the term, times the share of the target.
template <class A, class Term>
void term_slope_row(const Term term, const A* __restrict u, const A* __restrict share, const A* __restrict keep,
                    const A scale, A* __restrict by_log, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = scale * share[i] * term(u[i], exp_(u[i])).slope;
    by_log[i] = keep[i] >= A(0) ? value : A(0);
  }
}

// The share of a class in the second term of each position, 0 where it does not count.
template <class A, class Target>
void share_row(const Target target, const SecondTarget<A> second, const A* __restrict t, A* __restrict share,
               const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) share[i] = target.counts(t[i]) ? second.weight * second(target.target(t[i])) : A(0);
}

// The weight of each position's class; classes: -1 where ignored.
template <class A>
void weight_row(const double* weights, const A* __restrict classes, A* __restrict to, const int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(classes[i]);
    to[i] = c < 0 ? A(0) : static_cast<A>(weights[c]);
  }
}

// Sums of the term of an element of one class, and the number of those that count. e: exp_minus_abs(x).
template <class A, class Target, class Term>
void element_term_row(const Target target, const SecondTarget<A> share, const Term term, const A* __restrict x,
                      const A* __restrict e, const A* __restrict t, const int64_t n, double* second) {
  A loss = 0, count = 0;
#pragma omp simd reduction(+ : loss, count)
  for (int64_t i = 0; i < n; ++i) {
    const A value = term.terms(x[i], e[i], share(target.target(t[i])), A(1)).loss;
    loss += target.counts(t[i]) ? value : A(0);
    count += target.counts(t[i]) ? A(1) : A(0);
  }
  second[0] += share.weight * loss;
  second[1] += count;
}

// by_logit = scale times its derivative.
template <class A, class Target, class Term>
void element_slope_row(const Target target, const SecondTarget<A> share, const Term term, const A* __restrict x,
                       const A* __restrict e, const A* __restrict t, const A scale, A* __restrict by_logit,
                       const int64_t n) {
  const A factor = scale * share.weight;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const A value = factor * term.terms(x[i], e[i], share(target.target(t[i])), A(1)).grad_input;
    by_logit[i] = target.counts(t[i]) ? value : A(0);
  }
}

template <class A>
void add_to_row(const A* __restrict a, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += a[i];
}

template <class A>
double count_row(const A* __restrict keep, const int64_t n) {
  A count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) count += keep[i] >= A(0) ? A(1) : A(0);
  return count;
}
