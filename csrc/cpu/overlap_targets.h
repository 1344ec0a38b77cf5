// The targets of the overlap family: class indices or dense values, their ranges, and what is ignored. Included by
// overlap_loops.h.

// The target of class c and whether a position counts for it.
// kClassIndex: t holds class indices, -1 where ignored; else the dense target, ignored where equal to `ignore` (NaN:
// never). A: a number or a vector.
template <class A, bool kClassIndex_>
struct ClassTarget {
  static constexpr bool kClassIndex = kClassIndex_;
  A c, ignore;
  FL_HD A target(A t) const { return kClassIndex ? select_(t == c, A(1), A(0)) : select_(t == ignore, A(0), t); }
  FL_HD auto counts(A t) const { return kClassIndex ? t >= A(0) : t != ignore; }
};

// Calls run(ClassTarget, squared as a constant) for class c.
template <class A, class Run>
void with_target(const OverlapTask& task, int64_t c, const Run& run) {
  const A number = static_cast<A>(c), ignore = static_cast<A>(task.options.ignore_index);
  const auto with_squared = [&](auto target) {
    if (task.options.squared) return run(target, std::true_type{});
    run(target, std::false_type{});
  };
  if (task.class_index) return with_squared(ClassTarget<A, true>{number, ignore});
  with_squared(ClassTarget<A, false>{number, ignore});
}

template <class A>
bool load_classes(const OverlapSpan& span, A* to) {
  const OverlapTask& task = span.task;
  const bool ignoring = task.options.ignoring;
  const int64_t ignored_class = ignoring ? static_cast<int64_t>(task.options.ignore_index) : 0;
  return with_integers(task.target, task.target_dtype, [&](const auto* from) {
    return read_classes(from + span.position(), span.n, task.classes, ignoring, ignored_class, to);
  });
}

// Whether all of n values of a mask are 0, 1 or ignored.
template <class I>
bool is_mask(const I* __restrict from, const int64_t n, const bool ignoring, const double ignore) {
  const int64_t whole = ignoring && ignore > -9e18 && ignore < 9e18 ? static_cast<int64_t>(ignore) : 0;
  const I skip = static_cast<I>(whole) == ignore ? static_cast<I>(whole) : I(0);
  int wrong = 0;
#pragma omp simd reduction(| : wrong)
  for (int64_t i = 0; i < n; ++i) wrong |= (from[i] != I(0)) & (from[i] != I(1)) & (from[i] != skip);
  return wrong == 0;
}

// Whether the dense target of the span's classes is what it has to be: any floating number, or else a mask.
inline bool is_target(const OverlapSpan& span) {
  const OverlapTask& task = span.task;
  if (is_floating(task.target_dtype)) return true;
  return with_integers(task.target, task.target_dtype, [&](const auto* from) {
    bool valid = true;
    for (int64_t c = span.first; c < span.last; ++c) {
      valid &= is_mask(from + span.offset(c), span.n, task.options.ignoring, task.options.ignore_index);
    }
    return valid;
  });
}

// 1 where any of n positions counts for the class, or where all do because nothing is ignored.
template <class A, class Target>
double any_counts(const OverlapTask& task, const Target target, const A* t, const int64_t n) {
  if (!task.options.ignoring) return 1;
  for (int64_t i = 0; i < n; ++i) {
    if (target.counts(t[i])) return 1;
  }
  return 0;
}

// Adds the positions of each class to its G. counts [kCounters * (classes + 1)]: zeros, before and after; neighbours of
// one class use different counters, so that they do not wait for each other, and the last class is the ignored one.
template <class A>
void count_classes(const A* __restrict t, const int64_t n, const int64_t classes, int32_t* __restrict counts,
                   double* sums) {
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = static_cast<int32_t>(t[i]);
    ++counts[(c < 0 ? classes : c) * kCounters + i % kCounters];
  }
  for (int64_t c = 0; c <= classes; ++c) {
    for (int k = 0; k < kCounters; ++k) {
      if (c < classes) sums[kRegionSums * c + 2] += counts[c * kCounters + k];
      counts[c * kCounters + k] = 0;
    }
  }
}
