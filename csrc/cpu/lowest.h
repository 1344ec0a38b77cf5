// Where a call's first wrong value is. Included inside each instruction set's namespace, without include guard.

// Lowers *lowest to `index`: whichever thread meets which value first, the first of all is named.
inline void note_lowest(std::atomic<int64_t>* lowest, int64_t index) {
  int64_t known = lowest->load();
  while (index < known && !lowest->compare_exchange_weak(known, index)) {
  }
}
