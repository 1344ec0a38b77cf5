// The whitened family: a loss of ||z||² for each row, z = L⁻¹ (x - mean), made a chunk of rows at a time. Between the
// library's products, or its triangular solves, run the kernels of the row-sums family.
#pragma once

#include "host/product.h"
#include "host/row_sums.h"

namespace fused_losses {

// out = A⁻¹ B, A triangular.
inline void solve_triangular(const Tensor& a, const Tensor& b, bool upper, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(a), from(b), from(upper), from(true), from(false), from(out)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linalg_solve_triangular", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // owned, and of no more use
}

// Entries above the diagonal become 0.
inline void keep_lower_triangle_by_library(const Tensor& t) {
  using torch::stable::detail::from;
  std::array<StableIValue, 2> stack{from(t), from(int64_t{0})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::tril_", "", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

// `t` in another dtype, as a matrix.
inline Matrix in_dtype(const Tensor& t, int64_t rows, int64_t columns, Dtype dtype) {
  const Matrix given = matrix_of(t, rows, columns);
  if (dtype_of(t) == dtype) return given;
  const Matrix made = new_matrix(t, rows, columns, dtype);
  copy(view(given), view(made));
  return made;
}

// The library's inverse of a lower triangular matrix in float64, in the dtype of `inverse`.
inline void invert_by_library(const Matrix& factor, const Matrix& inverse) {
  const int64_t size = factor.rows;
  const Matrix identity = new_matrix(factor.owner, size, size, Dtype::kFloat64);
  const Matrix found = new_matrix(factor.owner, size, size, Dtype::kFloat64);
  TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(identity.owner.get()));
  torch::stable::fill_(strided_view(identity, size, 1, size + 1, 1), 1.0);
  solve_triangular(view(factor), view(identity), false, transposed(found));
  copy(transposed(found), view(inverse));
}

// The library's L⁻¹ r, or with `upper` r L⁻¹, of each row r.
inline void solve_by_library(const Matrix& factor, const Matrix& rows, bool upper, const Matrix& out) {
  solve_triangular(upper ? transposed(factor) : view(factor), transposed(rows), upper, transposed(out));
}

// L⁻¹ applied to rows: for many rows in float32 by a product with the inverse, which is computed in float64 and so the
// more accurate way; else by a triangular solve. Entries above the diagonal are never read.
template <class Device>
class InverseFactor {
 public:
  // whitens, unwhitens: what it will be asked for.
  InverseFactor(const Tensor& factor, int64_t rows, Dtype dtype, bool whitens, bool unwhitens) {
    const int64_t size = factor.size(0);
    inverts_ = dtype == Dtype::kFloat32 && Device::inverts(rows, size);
    matrix_ = inverts_ ? new_matrix(factor, size, size, dtype) : in_dtype(factor, size, size, dtype);
    if (!inverts_) return;
    Device::invert(in_dtype(factor, size, size, Dtype::kFloat64), matrix_);
    if (whitens) upper_ = Device::prepare(matrix_, true);
    if (unwhitens) lower_ = Device::prepare(matrix_, false);
  }

  bool inverts() const { return inverts_; }

  // out = L⁻¹ r of each row r.
  void whiten(const Matrix& rows, const Matrix& out) const {
    if (inverts_) {
      Device::multiply_by_triangle(rows, *upper_, true, out);
    } else {
      solve(rows, false, out);
    }
  }

  // out = r L⁻¹ of each row r; out may be the rows where nothing is inverted.
  void unwhiten(const Matrix& rows, const Matrix& out) const {
    if (inverts_) {
      Device::multiply_by_triangle(rows, *lower_, false, out);
    } else {
      solve(rows, true, out);
    }
  }

  // m L⁻¹ and L⁻ᵀ m, of an inverse that is there.
  Matrix product_with(const Matrix& m) const { return product(m, view(m), view(matrix_)); }
  Matrix transposed_with(const Matrix& m) const { return product(m, transposed(matrix_), view(m)); }

 private:
  Matrix matrix_;                 // L⁻¹, or L
  OptionalTensor lower_, upper_;  // L⁻¹ and its transpose, prepared
  bool inverts_ = false;

  static Matrix product(const Matrix& like, const Tensor& a, const Tensor& b) {
    const Matrix out = new_matrix(like.owner, like.rows, like.columns, dtype_of(like.owner));
    Device::multiply(a, b, 1, false, view(out));
    return out;
  }

  void solve(const Matrix& rows, bool upper, const Matrix& out) const {
    if (rows.rows != 0 && rows.columns != 0) Device::solve(matrix_, rows, upper, out);
  }
};

// Device: also
//   static bool inverts(int64_t rows, int64_t size): where the inverse and its products are faster than solves
//   static void invert(const Matrix& factor, const Matrix& inverse), of a factor in float64, rounded to float32
//   static void solve(const Matrix& factor, const Matrix& rows, bool upper, const Matrix& out), as solve_by_library
//   static Tensor prepare(const Matrix& triangle, bool transposed): a lower triangle, which has zeros above its
//       diagonal, or its transpose, in float32, as the next wants it
//   static void multiply_by_triangle(const Matrix& rows, const Tensor& prepared, bool transposed, const Matrix& out)
//   static void by_groups(int64_t n, int64_t columns, const Work& work): work(first, rows) for all of n rows in parts;
//       what one step of it leaves of a part is in a cache for the next
//   static void add_outer_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum): sum = -Σ
//       gᵀ r (+ sum) of gradients that are multiples of their rows, so that it is symmetric; in float32
//   static void add_products(const Matrix& gradient, const Matrix& rows, bool add, const Matrix& sum): the same of any
//   static void add_columns(const Matrix& gradient, bool add, const Matrix& sum): sum = -Σ g (+ sum)
//   static void keep_lower_triangle(const Tensor& t), as keep_lower_triangle_by_library
//   static void centre(const Matrix& rows, const Matrix& mean, const Matrix& to)
//   static void run(RowSums, const Options&, const RowSumsProblem&, const Tensor& like)
//   and the products of host/linear.h
template <class Device, RowSums functor>
class WhitenedCall : Call<Device> {
  using Call<Device>::a;
  static constexpr bool kLabels = functor == RowSums::mahalanobis_loss;
  enum : size_t { kInput, kTarget, kMean = 1 + kLabels, kFactor };

 public:
  static constexpr bool kInPlace = false;

  explicit WhitenedCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor& x = a.first();
    if (x.dim() != 2) refuse(a.op(), "input of shape (N, D), got ", shape_text(x));
    problem_.rows = x.size(0);
    problem_.length = x.size(1);
    const Tensor &mean = *a.tensors[kMean], &factor = *a.tensors[kFactor];
    if (mean.dim() != 1 || mean.size(0) != problem_.length) {
      refuse(a.op(), "mean of shape (", problem_.length, ",), got ", shape_text(mean));
    }
    if (factor.dim() != 2 || factor.size(0) != problem_.length || factor.size(1) != problem_.length) {
      refuse(a.op(), "scale_tril of shape (", problem_.length, ", ", problem_.length, "), got ", shape_text(factor));
    }
    check_floating(a.op(), "mean", mean);
    check_floating(a.op(), "scale_tril", factor);
    if constexpr (kLabels) problem_.labels = row_labels(a.op(), *a.tensors[kTarget], problem_.rows);
    this->set_factors(&problem_.results, problem_.rows);
  }

  // A loss for each row is differentiated later, and from the whitened rows.
  std::vector<Tensor> make_results() {
    Tensor result = this->new_result(&problem_.results, &problem_.rows, 1);
    const bool each = a.reduction == Reduction::kNone;
    losses_ = each ? result : new_tensor(a.first(), {problem_.rows}, dtype_);
    problem_.results.losses = losses_->mutable_data_ptr();
    const Tensor kept = new_tensor(a.first(), {each ? problem_.rows : 0, columns()}, dtype_);
    if (each) whitened_ = kept;
    return {result, kept};
  }

  void make_gradients(std::vector<Tensor>* out) {
    for (const size_t position : {size_t{kInput}, size_t{kMean}, size_t{kFactor}}) {
      void* data = nullptr;
      this->add_gradient(position, &data, out);
      if (data) gradients_[position] = out->back();
    }
  }

  void read_incoming_gradients() {
    this->read_incoming(&problem_.results, a.incoming[0], problem_.rows);
    if (a.reduction != Reduction::kNone) return;
    check_same_shape(a.op(), "the whitened rows", a.incoming[1], a.first());
    if (dtype_of(a.incoming[1]) != dtype_) refuse(a.op(), "whitened rows in the accumulation dtype, got another");
    whitened_ = a.incoming[1];
    known_ = true;
  }

  void write_gradient_to(void* data) {
    const Tensor& x = a.first();
    gradients_[kInput] = torch::stable::from_blob(data, x.sizes(), x.strides(), x.device(), x.scalar_type());
  }

  void run() {
    const Matrix mean = in_dtype(*a.tensors[kMean], 1, columns(), dtype_);
    const bool to_input = gradients_[kInput].has_value();
    const InverseFactor<Device> inverse(*a.tensors[kFactor], problem_.rows, dtype_, !known_, to_input);
    const bool writes = gradients_[kInput] || gradients_[kMean] || gradients_[kFactor];
    const int64_t most = tile_rows<Device>(problem_.rows, 2 * columns() * element_size(dtype_));
    Blocks input(a.first(), problem_.rows, columns(), dtype_, most);
    const Matrix buffer = new_matrix(a.first(), most, columns(), dtype_);
    const Matrix whitened =
        whitened_ ? matrix_of(*whitened_, problem_.rows, columns()) : new_matrix(a.first(), most, columns(), dtype_);
    GradientSum<Device> of_input;
    if (gradients_[kInput]) of_input = {*gradients_[kInput], problem_.rows, columns(), most, nullptr};
    for (int64_t begin = 0; begin < problem_.rows; begin += most) {
      const int64_t n = std::min(most, problem_.rows - begin);
      const Matrix x = known_ ? Matrix() : input.block(begin, n), z = whitened.part(whitened_ ? begin : 0, n);
      const Matrix gradient = buffer.part(0, n), of_rows = of_input ? of_input.rows(begin, n) : gradient;
      const auto work = [&](int64_t first, int64_t rows) {
        const Matrix some = gradient.part(first, rows);
        if (!known_) {
          Device::centre(x.part(first, rows), mean, some);
          inverse.whiten(some, z.part(first, rows));
        }
        Device::run(functor, a.options, chunk(begin + first, z.part(first, rows), writes ? &some : nullptr), a.first());
        if (writes && (of_input || !inverse.inverts())) inverse.unwhiten(some, of_rows.part(first, rows));
      };
      if (inverse.inverts()) {
        Device::by_groups(n, columns(), work);
      } else {
        work(0, n);  // the library's solves
      }
      if (!writes) continue;
      add_shared_gradients(inverse.inverts() ? gradient : of_rows, z, begin == 0, inverse.inverts());
      if (of_input) of_input.finish(begin, n);
    }
    finish_shared_gradients(inverse);
    if (problem_.results.total) Device::reduce(*losses_, problem_.results);
  }

 private:
  RowSumsProblem problem_;  // of all rows; a chunk's is a part of it
  Dtype dtype_ = accumulation_dtype(dtype_of(a.first()));
  OptionalTensor losses_, whitened_;
  bool known_ = false;  // the whitened rows are
  std::array<OptionalTensor, kMostTensors> gradients_;
  Matrix of_mean_, of_factor_;  // sums over the chunks; L⁻¹ is applied to them at the end where it is known

  int64_t columns() const { return problem_.length; }

  RowSumsProblem chunk(int64_t begin, const Matrix& whitened, const Matrix* gradient) const {
    RowSumsProblem part = problem_;
    part.rows = whitened.rows;
    part.operands[0] = {whitened.data(), dtype_};
    part.gradients[0] = gradient ? gradient->data() : nullptr;
    part.labels.data = element(problem_.labels.data, begin, problem_.labels.dtype);
    part.results = results_from(problem_.results, begin, dtype_);
    return part;
  }

  // Adds the part of the mean's and the factor's gradient that comes from rows z and their gradients g: -Σ g and -Σ gᵀ
  // z.
  void add_shared_gradients(const Matrix& gradient, const Matrix& whitened, bool first, bool inverts) {
    if (gradients_[kMean]) {
      if (first) of_mean_ = sum_of(*gradients_[kMean], 1, inverts);
      Device::add_columns(gradient, !first, of_mean_);
    }
    if (gradients_[kFactor]) {
      if (first) of_factor_ = sum_of(*gradients_[kFactor], columns(), inverts);
      if (inverts) {
        Device::add_outer_products(gradient, whitened, !first, of_factor_);
      } else {
        Device::add_products(gradient, whitened, !first, of_factor_);
      }
    }
  }

  // A sum over chunks, in the result's own memory where it needs nothing but to be added up.
  Matrix sum_of(const Tensor& result, int64_t rows, bool inverts) const {
    const bool own = !inverts && dtype_of(result) == dtype_;
    return own ? matrix_of(result, rows, columns()) : new_matrix(result, rows, columns(), dtype_);
  }

  void finish_shared_gradients(const InverseFactor<Device>& inverse) {
    for (const size_t position : {size_t{kMean}, size_t{kFactor}}) {
      if (!gradients_[position]) continue;
      const Tensor& result = *gradients_[position];
      if (problem_.rows == 0) {
        TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(result.get()));
        continue;
      }
      Matrix sum = position == kMean ? of_mean_ : of_factor_;
      if (inverse.inverts()) sum = position == kMean ? inverse.product_with(sum) : inverse.transposed_with(sum);
      const Matrix to = matrix_of(result, sum.rows, columns());
      if (sum.data() != to.data()) copy(view(sum), view(to));
      if (position == kFactor) Device::keep_lower_triangle(result);
    }
  }
};

// Every op of the family for the devices of `m`.
template <class Device, class Library>
void register_whitened(Library& m) {
#define FL_REGISTER(op, ...) register_loss<WhitenedCall<Device, RowSums::op>, LossId::op>(m);
  FL_WHITENED_LOSSES(FL_REGISTER)
  FL_LABELLED_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses
