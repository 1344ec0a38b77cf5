// The softmax of the overlap losses over blocks of positions, one in each lane of a vector, all classes of a block
// before the next: every logit and every probability is read once. Included by overlap_loops.h.

// Whether there is code for fixed numbers of classes: where the registers hold a block.
#if defined(FL_HAS_AVX512)
template <class A>
constexpr bool kInRegisters = std::is_same_v<A, float>;
#else
template <class A>
constexpr bool kInRegisters = false;
#endif

// Calls run(class) for each of kClasses, one after the other without a loop, or where that is 0 of `classes`.
template <int kClasses, class Run>
FL_HD void each_class(const int64_t first, const int64_t classes, const Run& run) {
  if constexpr (kClasses != 0) {
#pragma GCC unroll 32
    for (int64_t c = first; c < kClasses; ++c) run(c);
  } else {
#pragma GCC unroll 2
    for (int64_t c = first; c < classes; ++c) run(c);
  }
}

// How far ahead of a block the rows of as many classes are asked for; 0 is of no effect.
template <class A>
FL_HD int64_t positions_ahead(const int64_t classes) {
  return classes > kMostAhead ? 0 : kLinesAhead * Line<A>::kLanes;
}

// Adds q = p where a position counts to the sums of a class, `sums` of kBlockSums vectors: I, P and, with a dense
// target, G. Class indices are counted apart, by count_classes.
template <class A, bool kSquared, class Target>
FL_HD void add_lanes(const Target target, const Line<A> p, const Line<A> t, Line<A>* sums) {
  using V = Line<A>;
  const V q = select_(target.counts(t), p, V(0));
  if constexpr (Target::kClassIndex) {
    sums[0] += select_(t == target.c, q, V(0));
  } else {
    const V g = target.target(t);
    sums[0] += q * g;
    sums[2] += kSquared ? g * g : g;
  }
  sums[1] += kSquared ? q * q : q;
}

// What softmax_blocks does with the probabilities beside storing them: nothing, or the sums of their classes. `at`
// begins the block of n positions from i; `add` takes p of class c, 0 in lanes without a position.
struct NoBlockSums {
  struct Block {
    template <class V>
    FL_HD void add(int64_t, V) const {}
  };
  template <bool kWhole>
  FL_HD Block at(int64_t, int64_t) const {
    return {};
  }
};

template <class A, bool kSquared, bool kClassIndex>
struct BlockSums {
  OverlapRows<const A> t;  // the class indices for every class, or the dense target
  A ignore;
  Line<A>* sums;  // [classes, kBlockSums]

  template <bool kWhole>
  struct Block {
    const BlockSums& of;
    int64_t i, n;
    Line<A> class_index;

    FL_HD void add(int64_t c, Line<A> p) const {
      const ClassTarget<Line<A>, kClassIndex> target{static_cast<A>(c), of.ignore};
      const Line<A> t = kClassIndex ? class_index : load_lanes<A, kWhole>(of.t.row(c) + i, n, A(0));
      add_lanes<A, kSquared>(target, p, t, of.sums + kBlockSums * c);
    }
  };
  template <bool kWhole>
  FL_HD Block<kWhole> at(int64_t i, int64_t n) const {
    return {*this, i, n, load_lanes<A, kWhole>(t.row(0) + i, n, A(-1))};
  }
};

// p = exp(x - row_max) * inverse of n positions into the rows `to`, row_max and inverse into `maxima` and `inverses`
// where those are given, p also into `sums`. A NaN may be passed over by the maximum, since its own exponential is NaN
// too. kClasses: as many, held in registers; 0: any number, in `memory` [classes].
template <int kClasses, class A, class Sums>
void softmax_blocks(const OverlapRows<const A> x, const int64_t classes, const int64_t n, const OverlapRows<A> to,
                    A* const maxima, A* const inverses, const Sums sums, Line<A>* const memory) {
  using V = Line<A>;
  const int64_t ahead = positions_ahead<A>(classes);
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    constexpr bool kWhole = whole();
    constexpr int kCount = kWhole ? kClasses : 0;
    V registers[kCount ? kCount : 1];
    V* const e = kCount ? registers : memory;
    V row_max = load_lanes<A, kWhole>(x.row(0) + i, count, A(0)), sum = A(0);
    e[0] = row_max;
    each_class<kCount>(1, classes, [&](int64_t c) {
      e[c] = load_lanes<A, kWhole>(x.row(c) + i, count, A(0));
      row_max = select_(e[c] > row_max, e[c], row_max);
      __builtin_prefetch(x.row(c) + i + ahead, 0, 3);
    });
    each_class<kCount>(0, classes, [&](int64_t c) {
      e[c] = detail::exp_minus(row_max - e[c]);
      sum += e[c];
    });
    V inverse = V(1) / sum;
    if (maxima) store_lanes<A, kWhole>(row_max, maxima + i, count);
    if (inverses) store_lanes<A, kWhole>(inverse, inverses + i, count);
    if (!kWhole) inverse = load_lanes<A, false>(reinterpret_cast<const A*>(&inverse), count, A(0));
    const auto block = sums.template at<kWhole>(i, count);
    each_class<kCount>(0, classes, [&](int64_t c) {
      const V p = e[c] * inverse;
      if (to.data) {
        __builtin_prefetch(to.row(c) + i + ahead, 1, 3);
        store_lanes<A, kWhole>(p, to.row(c) + i, count);
      }
      block.add(c, p);
    });
  });
}

// The sums of probabilities that are in rows.
template <class A, class Sums>
void sum_blocks(const OverlapRows<const A> p, const int64_t classes, const int64_t n, const Sums sums) {
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    const auto block = sums.template at<whole()>(i, count);
    for (int64_t c = 0; c < classes; ++c) block.add(c, load_lanes<A, whole()>(p.row(c) + i, count, A(0)));
  });
}

// The derivative of the overlap with respect to p. With class indices a position counts for all classes or for none,
// and then its whole gradient is set to 0.
template <class A, bool kSquared, class Target>
FL_HD A by_probability(const Target& target, A p, A t, A by_I, A by_P) {
  const A slope = by_I * target.target(t) + (kSquared ? A(2) * by_P * p : by_P);
  if constexpr (Target::kClassIndex) return slope;
  return select_(target.counts(t), slope, A(0));
}

// What a second term adds to the gradient of a class: nothing, something where the position is of that class, or
// something everywhere.
enum class Added { kNothing, kOwnClass, kEachClass };

// What softmax_gradient_blocks reads.
template <class A>
struct BlockGradient {
  OverlapRows<const A> p, t;   // probabilities; class indices for every class, or the dense target
  A ignore;                    // in a dense target
  const A *by_I, *by_P;        // [classes]
  const A* inner;              // what the second term takes from the gradient of every class; null: nothing
  OverlapRows<const A> added;  // derivative of the second term with respect to log p, or without its softmax to the
                               // logit: of the position's own class in every row, or of each class
  const A* keep;               // negative where nothing of the position counts: its logits may be NaN
};

// d = p (by_probability - inner) + added, with inner the sum of p by_probability over the classes; d may be p. kClasses
// as above; memory [2, classes].
template <int kClasses, class A, bool kSquared, bool kClassIndex, Added kAdded>
void softmax_gradient_blocks(const BlockGradient<A> of, const int64_t classes, const int64_t n, const OverlapRows<A> d,
                             Line<A>* const memory) {
  using V = Line<A>;
  const int64_t ahead = positions_ahead<A>(classes);
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    constexpr bool kWhole = whole();
    const auto load = [&](const A* row) { return load_lanes<A, kWhole>(row + i, count, A(0)); };
    constexpr int kCount = kWhole ? kClasses : 0;
    V registers[kCount ? kCount : 1];
    V *const p = kCount ? registers : memory, *const slopes = memory + classes;
    const V keep = load(of.keep), class_index = load(of.t.row(0));
    V inner = A(0), own = A(0);
    if (of.inner) inner = load(of.inner);
    if constexpr (kAdded == Added::kOwnClass) own = load(of.added.row(0));
    const auto slope = [&](int64_t c) {
      const ClassTarget<V, kClassIndex> target{static_cast<A>(c), of.ignore};
      return by_probability<V, kSquared>(target, p[c], kClassIndex ? class_index : load(of.t.row(c)), V(of.by_I[c]),
                                         V(of.by_P[c]));
    };
    each_class<kCount>(0, classes, [&](int64_t c) {
      p[c] = load(of.p.row(c));
      __builtin_prefetch(of.p.row(c) + i + ahead, 1, 3);
      const V d = slope(c);
      if constexpr (!kClassIndex) slopes[c] = d;
      inner += p[c] * d;
    });
    each_class<kCount>(0, classes, [&](int64_t c) {
      V by_p;
      if constexpr (kClassIndex)
        by_p = slope(c);
      else
        by_p = slopes[c];
      V value = p[c] * (by_p - inner);
      if constexpr (kAdded == Added::kOwnClass) value += select_(class_index == V(static_cast<A>(c)), own, V(0));
      if constexpr (kAdded == Added::kEachClass) value += load(of.added.row(c));
      store_lanes<A, kWhole>(select_(keep >= V(0), value, V(0)), d.row(c) + i, count);
    });
  });
}
