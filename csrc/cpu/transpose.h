// Rows to columns. Included inside each instruction set's namespace, without include guard.

// to[c, r] = from[r, c] of at least 4 rows and columns, by blocks of 4 x 4, the last of which lie over those before.
template <class A>
void transpose_blocks(const A* from, const int64_t from_step, A* to, const int64_t to_step, const int64_t rows,
                      const int64_t columns) {
  typedef A Four __attribute__((vector_size(4 * sizeof(A))));
  for (int64_t r = 0; r < rows; r += 4) {
    if (r > rows - 4) r = rows - 4;
    for (int64_t c = 0; c < columns; c += 4) {
      if (c > columns - 4) c = columns - 4;
      // By memcpy: Clang takes a reference to an unaligned vector for one to an aligned vector.
      Four row[4], column[4];
      for (int k = 0; k < 4; ++k) std::memcpy(&row[k], from + (r + k) * from_step + c, sizeof(Four));
      const Four low02 = __builtin_shufflevector(row[0], row[2], 0, 4, 1, 5);
      const Four low13 = __builtin_shufflevector(row[1], row[3], 0, 4, 1, 5);
      const Four high02 = __builtin_shufflevector(row[0], row[2], 2, 6, 3, 7);
      const Four high13 = __builtin_shufflevector(row[1], row[3], 2, 6, 3, 7);
      column[0] = __builtin_shufflevector(low02, low13, 0, 4, 1, 5);
      column[1] = __builtin_shufflevector(low02, low13, 2, 6, 3, 7);
      column[2] = __builtin_shufflevector(high02, high13, 0, 4, 1, 5);
      column[3] = __builtin_shufflevector(high02, high13, 2, 6, 3, 7);
      for (int k = 0; k < 4; ++k) std::memcpy(to + (c + k) * to_step + r, &column[k], sizeof(Four));
    }
  }
}

// to[c, r] = from[r, c]
template <class A>
void transpose(const A* from, const int64_t from_step, A* to, const int64_t to_step, const int64_t rows,
               const int64_t columns) {
  if (rows >= 4 && columns >= 4) return transpose_blocks(from, from_step, to, to_step, rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * to_step + r] = from[r * from_step + c];
  }
}
