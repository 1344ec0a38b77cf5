// The overlap losses with a softmax, in the ratio, the second term or both: all classes of a tile's positions at once.
// Included by overlap_loops.h.

// All classes of a tile: its logits x and targets t.
template <class A>
struct OverlapSoftmaxTile {
  const OverlapSpan& span;
  const OverlapTask& task;
  OverlapTile<A>& tile;
  const int64_t n;
  const bool kept;  // p is there already: the sums left it
  const OverlapRows<const A> x;
  const OverlapRows<A> p;  // in the gradient's memory where the sums leave them there
  OverlapRows<const A> t;  // the class indices for every class, or the dense target

  OverlapSoftmaxTile(const OverlapSpan& span, bool kept, OverlapTile<A>* memory)
      : span(span),
        task(span.task),
        tile(*memory),
        n(span.n),
        kept(kept),
        x(read_rows(span, task.input, task.input_dtype, tile.values, tile.width)),
        p(span.keeps ? OverlapRows<A>{static_cast<A*>(task.gradient) + span.offset(0), task.positions}
                     : OverlapRows<A>{tile.probabilities, tile.width}) {
    if (task.class_index) {
      t = {tile.class_index, 0};
      return;
    }
    t = read_rows(span, task.target, task.target_dtype, tile.targets, tile.width);
    fill_row(task.options.ignoring ? A(-1) : A(0), tile.keep, n);
    for (int64_t c = 0; task.options.ignoring && c < task.classes; ++c) keep_row(dense(), t.row(c), tile.keep, n);
  }

  // I, P, G, of which the last positions' stay in the tile, and whether anything counts, of each class.
  void add_sums(double* sums) const {
    const OverlapRows<A> kept = {span.keeps ? p.data : nullptr, p.step};
    with_block_sums([&](auto block_sums) {
      if (task.options.softmax()) return softmax(kept, block_sums);
      softmax(kept, NoBlockSums());
      const OverlapRows<const A> sigmoids = {tile.extra, tile.width};
      for (int64_t c = 0; c < task.classes; ++c) sigmoid_row(x.row(c), tile.extra + c * tile.width, n);
      sum_blocks(sigmoids, task.classes, n, block_sums);
    });
    tile.pending += n;
    if (!task.class_index) {
      for (int64_t c = 0; c < task.classes; ++c) {
        sums[kRegionSums * c + 3] += any_counts(task, dense(), t.row(c), n);
      }
      return;
    }
    count_classes(t.data, n, task.classes, tile.counts, sums);
    const double any = any_counts(task, ClassTarget<A, true>{}, t.data, n);
    for (int64_t c = 0; c < task.classes; ++c) sums[kRegionSums * c + 3] += any;
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
    if (!kept) softmax(p, NoBlockSums());
    for (int64_t c = 0; c < task.classes; ++c) {
      tile.by_I[c] = static_cast<A>(by_I[c]);
      tile.by_P[c] = static_cast<A>(by_P[c]);
    }
    if (!task.options.has_second()) return write<Added::kNothing>(nullptr, {});
    const A* inner = task.options.second_softmax() ? tile.inner : nullptr;
    if (of_own_class()) {
      own_class();
      term_slopes(tile.slope);
      return write<Added::kOwnClass>(tile.slope, {tile.slope, 0});
    }
    fill_row(A(0), tile.inner, n);
    for (int64_t c = 0; c < task.classes; ++c) {
      A* slope = tile.extra + c * tile.width;
      class_slopes(c, slope);
      if (inner) add_to_row(slope, tile.inner, n);
    }
    write<Added::kEachClass>(inner, {tile.extra, tile.width});
  }

 private:
  const A* keep() const { return task.class_index ? tile.class_index : tile.keep; }
  ClassTarget<A, false> dense() const { return {A(0), static_cast<A>(task.options.ignore_index)}; }

  // Whether the second term of a position is of its own class alone.
  bool of_own_class() const {
    return task.class_index && task.options.label_smoothing == 0 && task.options.second_softmax();
  }

  // Calls run(BlockSums of this tile).
  template <class Run>
  void with_block_sums(const Run& run) const {
    const A ignore = static_cast<A>(task.options.ignore_index);
    if (task.class_index && task.options.squared) return run(BlockSums<A, true, true>{t, ignore, tile.sums});
    if (task.class_index) return run(BlockSums<A, false, true>{t, ignore, tile.sums});
    if (task.options.squared) return run(BlockSums<A, true, false>{t, ignore, tile.sums});
    run(BlockSums<A, false, false>{t, ignore, tile.sums});
  }

  // Calls run(number of classes as a constant, 0 for those without code of their own).
  template <class Run>
  void with_classes(const Run& run) const {
    if constexpr (kInRegisters<A>) {
      if (task.classes == 16) return run(std::integral_constant<int, 16>{});
    }
    run(std::integral_constant<int, 0>{});
  }

  // The probabilities, and for a second term of them what their logarithms come from.
  template <class Sums>
  void softmax(const OverlapRows<A> to, const Sums sums) const {
    const bool logs = task.options.second_softmax();
    with_classes([&](auto classes) {
      softmax_blocks<classes()>(x, task.classes, n, to, logs ? tile.row_max : nullptr, logs ? tile.inverse : nullptr,
                                sums, tile.block);
    });
    if (logs) log_of_row(tile.inverse, tile.log_inverse, n);
  }

  // inner and added as in BlockGradient.
  template <Added kAdded>
  void write(const A* inner, const OverlapRows<const A> added) const {
    const A ignore = static_cast<A>(task.options.ignore_index);
    const BlockGradient<A> of = {{p.data, p.step}, t, ignore, tile.by_I, tile.by_P, inner, added, keep()};
    if (!task.options.softmax()) return write_sigmoid<kAdded>(of);
    const bool fits = task.input_dtype == kTileDtype<A>;
    const OverlapRows<A> d = {fits ? static_cast<A*>(task.gradient) + span.offset(0) : tile.values,
                              fits ? task.positions : tile.width};
    with_target<A>(task, 0, [&](auto target, auto squared) {
      with_classes([&](auto classes) {
        softmax_gradient_blocks<classes(), A, squared(), decltype(target)::kClassIndex, kAdded>(of, task.classes, n, d,
                                                                                                tile.block);
      });
    });
    if (fits) return;
    for (int64_t c = 0; c < task.classes; ++c) {
      store_block(d.row(c), task.gradient, task.input_dtype, span.offset(c), n);
    }
  }

  // The same where the ratio has a sigmoid.
  template <Added kAdded>
  void write_sigmoid(const BlockGradient<A> of) const {
    if (!of.inner) fill_row(A(0), tile.inner, n);
    for (int64_t c = 0; c < task.classes; ++c) {
      A* d = gradient_row(span, c, tile.share);
      with_target<A>(task, c, [&](auto target, auto squared) {
        sigmoid_gradient_row<A, squared(), kAdded>(target, x.row(c), of.p.row(c), t.row(c), of.by_I[c], of.by_P[c],
                                                   of.inner ? of.inner : tile.inner, of.added.row(c), of.keep, d, n);
      });
      write_row(span, c, d, tile.share);
    }
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
    pick_row(x.data, x.step, tile.class_index, tile.slope, n);
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
    log_row(x.row(c), tile.row_max, tile.log_inverse, tile.log, n);
  }

  // The derivative of the second term with respect to log p of the class that own_class or one_class set.
  void term_slopes(A* slope) const {
    with_class_term<A>(task, [&](auto term) {
      term_slope_row(term, tile.log, tile.share, keep(), static_cast<A>(task.second_scale), slope, n);
    });
  }

  // What the second term adds to the gradient of class c, before the softmax's Jacobian.
  void class_slopes(int64_t c, A* slope) const {
    if (task.options.second_softmax()) {
      one_class(c);
      return term_slopes(slope);
    }
    with_elements(c, [&](auto target, auto term) {
      element_slope_row(target, SecondTarget<A>(task, c), term, x.row(c), tile.log, t.row(c),
                        static_cast<A>(task.second_scale), slope, n);
    });
  }

  void add_element_terms(double* second) const {
    for (int64_t c = 0; c < task.classes; ++c) {
      with_elements(c, [&](auto target, auto term) {
        element_term_row(target, SecondTarget<A>(task, c), term, x.row(c), tile.log, t.row(c), n, second);
      });
    }
  }

  // Calls run(target of class c, second term of an element), with exp_minus_abs of the logits in tile.log.
  template <class Run>
  void with_elements(int64_t c, const Run& run) const {
    exp_minus_abs_row(x.row(c), tile.log, n);
    with_element_term<A>(task, [&](auto, auto term) {
      if constexpr (!std::is_same_v<decltype(term), NoTerm<A>>) {
        if (task.class_index) return run(ClassTarget<A, true>{static_cast<A>(c), A(0)}, term);
        run(dense(), term);
      }
    });
  }
};
