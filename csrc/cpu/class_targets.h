// The targets of elements whose positions have class indices: 1 in the row of the class, 0 in others, kIgnoredTarget
// where the position is ignored. Included by elementwise_loops.h.

constexpr int64_t kFewPositions = 16;  // rows of fewer are filled from their classes, longer ones row by row

// Targets of n neighbours in the row of class c; false where a class is none.
template <class A, class I>
bool class_row(const I* __restrict y, const int64_t n, const int64_t c, const int64_t classes, const bool ignoring,
               const int64_t ignored_class, A* __restrict to) {
  int wrong = 0;
#pragma omp simd reduction(| : wrong)
  for (int64_t i = 0; i < n; ++i) {
    const int64_t given = static_cast<int64_t>(y[i]);
    const bool ignored = ignoring & (given == ignored_class);
    to[i] = ignored ? A(kIgnoredTarget) : (given == c ? A(1) : A(0));
    wrong |= ((given < 0) | (given >= classes)) ? !ignored : 0;
  }
  return wrong == 0;
}

// Elements [at, at + n) of the input's order, from rows of at least kFewPositions; y: all classes.
template <class A, class I>
bool long_rows(const ElementwiseTask& task, const I* y, const int64_t at, const int64_t n, A* to) {
  const int64_t C = task.classes, S = task.positions;
  bool valid = true;
  for (int64_t i = 0; i < n;) {
    const int64_t row = (at + i) / S, position = (at + i) % S, left = S - position, run = left < n - i ? left : n - i;
    valid &= class_row(y + row / C * S + position, run, row % C, C, task.ignoring, task.ignored_class, to + i);
    i += run;
  }
  return valid;
}

// The same from shorter rows: zeros, and what the positions of the samples in question set.
template <class A, class I>
bool short_rows(const ElementwiseTask& task, const I* y, const int64_t at, const int64_t n, A* to) {
  const int64_t C = task.classes, S = task.positions, size = C * S;
  std::memset(to, 0, n * sizeof(A));
  const auto set = [&](int64_t element, A value) {
    if (element >= at && element < at + n) to[element - at] = value;
  };
  bool valid = true;
  for (int64_t sample = at / size; sample * size < at + n; ++sample) {
    for (int64_t s = 0; s < S; ++s) {
      const int64_t c = static_cast<int64_t>(y[sample * S + s]), first = sample * size + s;
      if (task.ignoring && c == task.ignored_class) {
        for (int64_t k = 0; k < C; ++k) set(first + k * S, A(kIgnoredTarget));
      } else if (c < 0 || c >= C) {
        valid = false;
      } else {
        set(first + c * S, A(1));
      }
    }
  }
  return valid;
}

// Writes the targets of elements [at, at + n) to buffer; false where a class is none.
template <class A>
bool class_targets(const ElementwiseTask& task, const int64_t at, const int64_t n, A* buffer) {
  const auto from = [&](const auto* y) {
    return task.positions < kFewPositions ? short_rows(task, y, at, n, buffer) : long_rows(task, y, at, n, buffer);
  };
  return with_integers(task.target.data, task.target.dtype, from);
}
