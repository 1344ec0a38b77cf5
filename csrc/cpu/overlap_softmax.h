// The overlap losses with a softmax, in the ratio, the second term or both: all classes of a tile's positions at once.
// Included by overlap_loops.h.

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
  A* const predicted;    // [classes, width]: of the ratio, p or in the sums a sigmoid
  OverlapRows<A> t;      // the class indices for every class, or the dense target

  OverlapSoftmaxTile(const OverlapSpan& span, bool kept, OverlapTile<A>* memory)
      : span(span),
        task(span.task),
        tile(*memory),
        n(span.n),
        kept(kept),
        x(tile.values),
        p(task.options.has_second() && !kept ? tile.probabilities : x),
        predicted(task.options.softmax() ? p : tile.sigmoids) {
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
    for (int64_t c = 0; predicted != p && c < task.classes; ++c) sigmoid_row(row(x, c), row(predicted, c), n);
    const auto add = [&](auto squared) {
      if (task.class_index) return add_class_sums<squared()>(sums);
      for (int64_t c = 0; c < task.classes; ++c) {
        softmax_sums_row<A, squared()>(dense(), row(predicted, c), t.row(c), n, sums + kRegionSums * c);
        sums[kRegionSums * c + 3] += any_counts(task, dense(), t.row(c), n);
      }
    };
    if (task.options.squared) return add(std::true_type{});
    add(std::false_type{});
  }

  void add_terms(double* second) const {
    if (!task.options.second_softmax()) return add_element_terms(second);
    with_class_term<A>(task, [&](auto term) {
      if (of_own_class()) {
        own_class();
        return term_row(term, tile.log, tile.share, keep(), n, second);
      }
      for (int64_t c = 0; c < task.classes; ++c) {
        one_class(c);
        term_row(term, tile.log, tile.share, keep(), n, second);
      }
    });
    if (!task.counts_weights) {
      second[1] += count_row(keep(), n);
      return;
    }
    weight_row(task.class_weights, tile.class_index, tile.share, n);
    second[1] += sum_row(tile.share, n);
  }

  void write_gradient(const double* by_I, const double* by_P) const {
    add_inner(by_I, by_P);
    for (int64_t c = 0; c < task.classes; ++c) {
      A* d = gradient_row(span, c, tile.share);
      const auto write = [&](auto added) {
        with_target<A>(task, c, [&](auto target, auto squared) {
          const A by_intersection = static_cast<A>(by_I[c]), by_prediction = static_cast<A>(by_P[c]);
          if (task.options.softmax()) {
            softmax_gradient_row<A, squared(), added()>(target, row(p, c), t.row(c), by_intersection, by_prediction,
                                                        tile.inner, tile.slope, keep(), d, n);
          } else if constexpr (added() != Added::kNothing) {
            sigmoid_gradient_row<A, squared(), added()>(target, row(x, c), row(p, c), t.row(c), by_intersection,
                                                        by_prediction, tile.inner, tile.slope, keep(), d, n);
          }
        });
      };
      if (!task.options.has_second()) {
        write(std::integral_constant<Added, Added::kNothing>{});
      } else if (of_own_class()) {
        write(std::integral_constant<Added, Added::kOwnClass>{});
      } else {
        class_slopes(c);
        write(std::integral_constant<Added, Added::kEachClass>{});
      }
      write_row(span, c, d, tile.share);
    }
  }

 private:
  A* row(A* of, int64_t c) const { return of + c * tile.width; }
  const A* keep() const { return task.class_index ? tile.class_index : tile.keep; }
  ClassTarget<A, false> dense() const { return {A(0), static_cast<A>(task.options.ignore_index)}; }

  // Whether the second term of a position is of its own class alone.
  bool of_own_class() const {
    return task.class_index && task.options.label_smoothing == 0 && task.options.second_softmax();
  }

  void compute_probabilities() const {
    const int64_t C = task.classes;
    std::memcpy(tile.row_max, x, n * sizeof(A));
    int64_t c = 1;
    for (; c + 4 <= C; c += 4) max_rows(row(x, c), tile.width, tile.row_max, n);
    for (; c < C; ++c) max_row(row(x, c), tile.row_max, n);
    fill_row(A(0), tile.inverse, n);
    for (c = 0; c < C; ++c) exp_row(row(x, c), tile.row_max, row(p, c), tile.inverse, n);
    invert_row(tile.inverse, n);
    if (task.options.second_softmax()) log_of_row(tile.inverse, tile.log_inverse, n);
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
      softmax_class_sums4<A, kSquared>(static_cast<A>(c), row(predicted, c), tile.width, y, n, sums + kRegionSums * c);
    }
    for (; c < C; ++c)
      softmax_class_sums<A, kSquared>(static_cast<A>(c), row(predicted, c), y, n, sums + kRegionSums * c);
    count_classes(y, n, C, tile.counts, sums);
    const double any = any_counts(task, ClassTarget<A, true>{}, y, n);
    for (c = 0; c < C; ++c) sums[kRegionSums * c + 3] += any;
  }

  // log p of each position's own class (0 where the logits are gone: only cross-entropy, which does without, keeps p),
  // and its share of the target.
  void own_class() const {
    if (task.class_weights) {
      weight_row(task.class_weights, tile.class_index, tile.share, n);
    } else {
      fill_row(A(1), tile.share, n);
    }
    if (kept) return fill_row(A(0), tile.log, n);
    pick_row(x, tile.width, tile.class_index, tile.slope, n);
    log_row(tile.slope, tile.row_max, tile.log_inverse, tile.log, n);
  }

  // The same of class c, of any target.
  void one_class(int64_t c) const {
    const SecondTarget<A> second(task, c);
    if (task.class_index) {
      share_row(ClassTarget<A, true>{static_cast<A>(c), A(0)}, second, t.row(c), tile.share, n);
    } else {
      share_row(dense(), second, t.row(c), tile.share, n);
    }
    if (kept) return fill_row(A(0), tile.log, n);
    log_row(row(x, c), tile.row_max, tile.log_inverse, tile.log, n);
  }

  // Sets slope to the derivative of the second term with respect to log p of the class that own_class or one_class set.
  void term_slopes() const {
    with_class_term<A>(task, [&](auto term) {
      term_slope_row(term, tile.log, tile.share, keep(), static_cast<A>(task.second_scale), tile.slope, n);
    });
  }

  // Sets slope to what the second term adds to the gradient of class c, before the softmax's Jacobian.
  void class_slopes(int64_t c) const {
    if (task.options.second_softmax()) {
      one_class(c);
      return term_slopes();
    }
    with_elements(c, [&](auto target, auto term) {
      element_slope_row(target, SecondTarget<A>(task, c), term, row(x, c), t.row(c), static_cast<A>(task.second_scale),
                        tile.slope, n);
    });
  }

  void add_element_terms(double* second) const {
    for (int64_t c = 0; c < task.classes; ++c) {
      with_elements(c, [&](auto target, auto term) {
        element_term_row(target, SecondTarget<A>(task, c), term, row(x, c), t.row(c), n, second);
      });
    }
  }

  // Calls run(target of class c, second term of an element).
  template <class Run>
  void with_elements(int64_t c, const Run& run) const {
    with_element_term<A>(task, [&](auto, auto term) {
      if constexpr (!std::is_same_v<decltype(term), NoTerm<A>>) {
        if (task.class_index) return run(ClassTarget<A, true>{static_cast<A>(c), A(0)}, term);
        run(dense(), term);
      }
    });
  }

  // inner: what the softmax takes from the gradient of every class. Leaves the slopes of the own class in `slope`.
  void add_inner(const double* by_I, const double* by_P) const {
    fill_row(A(0), tile.inner, n);
    if (of_own_class()) {
      own_class();
      term_slopes();
      add_to_row(tile.slope, tile.inner, n);
    }
    for (int64_t c = 0; c < task.classes; ++c) {
      if (task.options.softmax()) {
        with_target<A>(task, c, [&](auto target, auto squared) {
          softmax_inner_row<A, squared()>(target, row(p, c), t.row(c), static_cast<A>(by_I[c]), static_cast<A>(by_P[c]),
                                          tile.inner, n);
        });
      }
      if (task.options.second_softmax() && !of_own_class()) {
        class_slopes(c);
        add_to_row(tile.slope, tile.inner, n);
      }
    }
  }
};
