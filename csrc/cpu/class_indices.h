// Class indices of any integer dtype in as many bits as the values beside them, checked on the way. Included inside
// each instruction set's namespace, without include guard.

// Calls run(data as a pointer to its type) for an integer dtype.
template <class Run>
auto with_integers(const void* data, Dtype dtype, const Run& run) {
  if (dtype == Dtype::kUInt8) return run(static_cast<const uint8_t*>(data));
  if (dtype == Dtype::kInt32) return run(static_cast<const int32_t*>(data));
  return run(static_cast<const int64_t*>(data));
}

// Class indices of n positions, -1 where ignored; false where one is not a class.
template <class To, class I>
bool read_classes(const I* __restrict from, const int64_t n, const int64_t classes, const bool ignoring,
                  const int64_t ignored_class, To* __restrict to) {
  // The vector loop knows 32 bits; what does not fit them is left to the other.
  const int32_t skip = static_cast<int32_t>(ignored_class);
  const bool skips = ignoring && skip == ignored_class;
  int32_t low = 0, high = 0, wide = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : wide)
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = static_cast<int32_t>(from[i]), counted = skips && c == skip ? 0 : c;
    wide |= static_cast<I>(c) != from[i];
    low = counted < low ? counted : low;
    high = counted > high ? counted : high;
    to[i] = skips && c == skip ? To(-1) : static_cast<To>(c);
  }
  if (!wide && low >= 0 && high < classes) return true;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t c = static_cast<int64_t>(from[i]);
    const bool ignored = ignoring && c == ignored_class;
    if (!ignored && (c < 0 || c >= classes)) return false;
    to[i] = ignored ? To(-1) : static_cast<To>(c);
  }
  return true;
}
