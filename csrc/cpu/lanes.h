// Loops over a row by whole vectors, its rest in one that is filled up: an element has the same bits wherever its row
// begins. Included inside each instruction set's namespace after numerics.h.

// n values from `from` in the first lanes, `rest` in the others; n is the number of lanes where kWhole.
template <class A, bool kWhole>
FL_HD Line<A> load_lanes(const A* from, const int64_t n, const A rest) {
  if constexpr (kWhole) return Line<A>::load(from);
  A all[Line<A>::kLanes];
  for (int k = 0; k < Line<A>::kLanes; ++k) all[k] = k < n ? from[k] : rest;
  return Line<A>::load(all);
}

template <class A, bool kWhole>
FL_HD void store_lanes(const Line<A> v, A* to, const int64_t n) {
  if constexpr (kWhole) return v.store(to);
  A all[Line<A>::kLanes];
  v.store(all);
  for (int64_t k = 0; k < n; ++k) to[k] = all[k];
}

// Calls run(first position, how many, whether they fill a vector as a constant) for each block of n positions.
template <class A, class Run>
FL_HD void each_block(const int64_t n, const Run& run) {
  constexpr int64_t kLanes = Line<A>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) run(i, kLanes, std::true_type{});
  if (i < n) run(i, n - i, std::false_type{});
}

// Rows that are worked on together are asked for ahead: the hardware does not follow so many. More than these push each
// other out of the caches where they are a power of two apart.
constexpr int64_t kMostAhead = 16, kLinesAhead = 4;

// The largest of n values; NaN may be passed over.
template <class A>
A maximum(const A* x, const int64_t n) {
  Line<A> found = -infinity_<A>();
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    found = larger_(load_lanes<A, whole()>(x + i, count, -infinity_<A>()), found);
  });
  return found.largest();
}

// Sum of e = exp(rate (x - shift)), shift >= x; e is written only with kStore. kAhead: *next_max becomes the maximum of
// `next`, the values worked on after these: finding it costs nothing beside the exponentials. kPrefetch: what lies
// behind those, as many, is asked for, where rows of two arrays are read in turns and the hardware begins anew with
// each.
template <class A, bool kStore, bool kAhead, bool kPrefetch>
A row_exp(const A* x, A* e, const A rate, const A shift, const A* next, A* next_max, const int64_t n) {
  Line<A> sum = A(0), found = -infinity_<A>();
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    const auto load = [&](const A* row) { return load_lanes<A, whole()>(row + i, count, -infinity_<A>()); };
    if constexpr (kAhead) {
      found = larger_(load(next), found);
      if constexpr (kPrefetch) __builtin_prefetch(next + i + n, 0, 2);
    }
    const Line<A> value = detail::exp_minus((shift - load(x)) * rate);
    sum += value;
    if constexpr (kStore) store_lanes<A, whole()>(value, e + i, count);
  });
  if constexpr (kAhead) *next_max = found.largest();
  return sum.sum();
}

// to = f(from), a number or vector at a time.
template <class A, class F>
FL_HD void map_row(const A* from, A* to, const int64_t n, const F& f) {
  each_block<A>(n, [&](int64_t i, int64_t count, auto whole) {
    store_lanes<A, whole()>(f(load_lanes<A, whole()>(from + i, count, A(0))), to + i, count);
  });
}
