// Matrices of the losses whose logits are a product of two of their tensors: views, blocks in the dtype of the
// products, gradients as sums over tiles. The products are the library's (`Device::multiply`); between them one fused
// kernel works on a tile of the logits, of which there is never more.
#pragma once

#include <algorithm>

#include "host/check.h"
#include "host/problems.h"
#include "host/tensor.h"
#include "host/tile.h"

namespace fused_losses {

// Rows of `columns` elements, `stride` apart, from element `offset` of a contiguous tensor on.
struct Matrix {
  Tensor owner;
  int64_t rows = 0, columns = 0, stride = 0, offset = 0;

  Matrix part(int64_t row, int64_t n_rows, int64_t column, int64_t n_columns) const {
    return {owner, n_rows, n_columns, stride, offset + row * stride + column};
  }
  Matrix part(int64_t row, int64_t n_rows) const { return part(row, n_rows, 0, columns); }

  void* data() const { return static_cast<char*>(owner.mutable_data_ptr()) + offset * element_size(dtype_of(owner)); }
};

inline Matrix matrix_of(const Tensor& contiguous, int64_t rows, int64_t columns) {
  return {contiguous, rows, columns, columns, 0};
}

inline Matrix new_matrix(const Tensor& like, int64_t rows, int64_t columns, Dtype dtype) {
  return matrix_of(new_tensor(like, {rows, columns}, dtype), rows, columns);
}

// A tensor of the matrix's memory, outside autograd.
inline Tensor strided_view(const Matrix& m, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row_step, column_step};
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(m.owner.get(), 2, sizes, strides, m.offset, &made));
  return Tensor(made);
}
inline Tensor view(const Matrix& m) { return strided_view(m, m.rows, m.columns, m.stride, 1); }
inline Tensor transposed(const Matrix& m) { return strided_view(m, m.columns, m.rows, 1, m.stride); }

inline void copy(const Tensor& from, const Tensor& to) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.get(), from.get(), 0));
}

// Element `at` of an array; null stays null.
inline void* element(const void* data, int64_t at, Dtype dtype) {
  return data ? static_cast<char*>(const_cast<void*>(data)) + at * element_size(dtype) : nullptr;
}

// What a chunk that begins with item `begin` makes of its losses, without the total of all. dtype: of accumulation.
inline Results results_from(const Results& whole, int64_t begin, Dtype dtype) {
  Results part = whole;
  part.total = nullptr;
  part.losses = element(whole.losses, begin, dtype);
  if (whole.per_item) part.incoming = element(whole.incoming, begin, dtype);
  return part;
}

// A factor of the products in blocks of its rows: the tensor itself, or copies in another dtype, one at a time.
class Blocks {
 public:
  Blocks() = default;
  // most: rows of a block; without a copy the whole may be one.
  Blocks(const Tensor& t, int64_t rows, int64_t columns, Dtype dtype, int64_t most)
      : source_(matrix_of(t, rows, columns)), most_(rows) {
    if (dtype_of(t) == dtype) return;
    most_ = std::max<int64_t>(std::min(most, rows), 1);
    copy_ = new_matrix(t, most_, columns, dtype);
    copies_ = true;
  }

  int64_t rows() const { return source_.rows; }
  int64_t columns() const { return source_.columns; }
  int64_t most() const { return most_; }

  // Valid until other rows are asked for.
  Matrix block(int64_t begin, int64_t n) {
    const Matrix part = source_.part(begin, n);
    if (!copies_) return part;
    const Matrix made = copy_.part(0, n);
    if (held_ != begin || held_rows_ != n) copy(view(part), view(made));
    held_ = begin;
    held_rows_ = n;
    return made;
  }

 private:
  Matrix source_, copy_;
  int64_t most_ = 0, held_ = -1, held_rows_ = 0;
  bool copies_ = false;
};

// The gradient of a factor, summed over tiles in the accumulation dtype: in the result's own memory where that has this
// dtype, else in a window of its rows that is cast once.
template <class Device>
class GradientSum {
 public:
  GradientSum() = default;  // not wanted
  // scale: what the sum is multiplied by when it is cast; null: nothing is left to do.
  GradientSum(const Tensor& result, int64_t rows, int64_t columns, int64_t window, const Results* scale)
      : result_(matrix_of(result, rows, columns)), wanted_(true), window_(std::max<int64_t>(window, 1)), scale_(scale) {
    const Dtype dtype = dtype_of(result), sums = accumulation_dtype(dtype);
    apart_ = dtype != sums;
    if (apart_) sum_ = new_matrix(result, std::min(window, rows), columns, sums);
  }

  explicit operator bool() const { return wanted_; }

  // Rows [begin, begin + n), all in one window, += factor a b; = where they are `fresh`.
  void add(const Tensor& a, const Tensor& b, double factor, int64_t begin, int64_t n, bool fresh) {
    Device::multiply(a, b, factor, !fresh, view(rows(begin, n)));
  }

  // Where the sum of these rows, all in one window, is or will be.
  Matrix rows(int64_t begin, int64_t n) const {
    return apart_ ? sum_.part(begin % window_, n) : result_.part(begin, n);
  }

  // Rows [begin, begin + n), all in one window, are complete.
  void finish(int64_t begin, int64_t n) {
    if (apart_ || scale_) Device::store(rows(begin, n), scale_, result_.part(begin, n));
  }

  // All rows are, which are one window; empty: nothing was added.
  void finish_all(bool empty) {
    if (empty) {
      TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(result_.owner.get()));
    } else {
      finish(0, result_.rows);
    }
  }

 private:
  Matrix result_, sum_;
  bool wanted_ = false, apart_ = false;
  int64_t window_ = 1;
  const Results* scale_ = nullptr;
};

}  // namespace fused_losses
