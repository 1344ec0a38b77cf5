// The extremes family: each row of a labelled set against all others, of which its loss takes the farthest of its label
// and the nearest of another. Squared distances are a tile of a product at a time, which only chooses; the distances of
// the chosen rows come from the rows themselves. One product; the gradient touches three rows an anchor and needs none.
#pragma once

#include "host/call.h"
#include "host/product.h"

namespace fused_losses {

// Device: as for the linear family; also
//   static std::shared_ptr<void> prepare(ExtremesProblem*)         labels as the kernels read them
//   static void norms(const ExtremesProblem&, const Tensor& like)
//   static void choose(LossId, const Options&, const ExtremesProblem&, const Tensor& like)   of a tile's rows
//   static void count(const ExtremesProblem&, const Tensor& like, double* counted)           anchors that count
//   static void gradient(const ExtremesProblem&, const Tensor& like)                         of all rows
template <class Device, LossId id>
class ExtremesCall : Call<Device> {
  using Call<Device>::a;
  static constexpr int64_t kStatistics = 4, kMostRows = 1 << 24;  // row numbers are kept as floats

 public:
  static constexpr bool kInPlace = false;

  explicit ExtremesCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    this->check_reduces_all();
    const Tensor& x = a.first();
    if (x.dim() != 2) refuse(a.op(), "features of shape (N, D), got ", shape_text(x));
    problem_.columns = x.size(0);
    problem_.features = x.size(1);
    if (problem_.columns >= kMostRows) refuse(a.op(), "fewer than 2**24 rows, got ", problem_.columns);
    const Tensor& labels = *a.tensors[1];
    if (labels.dim() != 1 || labels.size(0) != problem_.columns || dtype_of(labels) != Dtype::kInt64) {
      refuse(a.op(), "labels of shape (", problem_.columns, ",) and dtype int64, got ", shape_text(labels));
    }
    problem_.labels = static_cast<const int64_t*>(labels.const_data_ptr());
    problem_.dtype = accumulation_dtype(dtype_of(x));
    this->set_factors(&problem_.results, problem_.columns);
  }

  std::vector<Tensor> make_results() {
    std::vector<Tensor> out{this->new_result(&problem_.results, nullptr, 0)};
    losses_ = new_tensor(a.first(), {problem_.columns}, problem_.dtype);
    problem_.losses = losses_->mutable_data_ptr();
    out.push_back(new_tensor(a.first(), {problem_.columns, kStatistics}, problem_.dtype));
    problem_.chosen = out.back().mutable_data_ptr();
    return out;
  }

  void make_gradients(std::vector<Tensor>* out) {
    void* data = nullptr;
    this->add_gradient(0, &data, out);
    if (data) gradient_ = out->back();
  }

  void read_incoming_gradients() {
    this->read_incoming(&problem_.results, a.incoming[0], 1);
    const Tensor& chosen = a.incoming[1];
    if (chosen.numel() != problem_.columns * kStatistics || dtype_of(chosen) != problem_.dtype) {
      refuse(a.op(), "saved rows of ", problem_.columns * kStatistics, " elements in the accumulation dtype, got ",
             shape_text(chosen));
    }
    problem_.chosen = chosen.mutable_data_ptr();
  }

  void write_gradient_to(void* data) {
    const Tensor& x = a.first();
    gradient_ = torch::stable::from_blob(data, x.sizes(), x.strides(), x.device(), x.scalar_type());
  }

  void run() {
    const Tensor& x = a.first();
    const Tensor counted = new_tensor(x, {1}, Dtype::kFloat64);
    const Matrix rows = as_read();
    problem_.x = rows.data();
    problem_.x_dtype = dtype_of(rows.owner);
    if (losses_) choose(rows);
    if (a.reduction == Reduction::kMean) {
      double* value = static_cast<double*>(counted.mutable_data_ptr());
      Device::count(problem_, x, value);
      problem_.results.counted = value;
    }
    if (gradient_) write_gradient();
    if (losses_) Device::reduce(*losses_, problem_.results);
  }

 private:
  ExtremesProblem problem_;
  OptionalTensor losses_, gradient_;

  // The embeddings in the dtype of the products.
  Matrix as_read() const {
    const Dtype dtype = dtype_of(a.first()), product = Device::product_dtype(dtype, problem_.results);
    const Matrix given = matrix_of(a.first(), problem_.columns, problem_.features);
    if (product == dtype) return given;
    const Matrix made = new_matrix(a.first(), problem_.columns, problem_.features, product);
    copy(view(given), view(made));
    return made;
  }

  void choose(const Matrix& rows) {
    const int64_t n = problem_.columns;
    const std::shared_ptr<void> labels = Device::prepare(&problem_);
    const Matrix norms = new_matrix(a.first(), 1, n, problem_.dtype);
    problem_.norms = norms.data();
    Device::norms(problem_, a.first());
    const int64_t most = tile_rows<Device>(n, n * element_size(problem_.dtype));
    const Matrix tiles = new_matrix(a.first(), most, n, problem_.dtype);
    for (int64_t begin = 0; begin < n; begin += most) {
      const Matrix tile = tiles.part(0, std::min(most, n - begin));
      copy(strided_view(norms, tile.rows, n, 0, 1), view(tile));
      Device::multiply(view(rows.part(begin, tile.rows)), transposed(rows), -2, true, view(tile));
      problem_.first = begin;
      problem_.rows = tile.rows;
      problem_.tile = tile.data();
      Device::choose(id, a.options, problem_, a.first());
    }
  }

  void write_gradient() {
    const Matrix result = matrix_of(*gradient_, problem_.columns, problem_.features);
    const bool casts = dtype_of(*gradient_) != problem_.dtype;
    const Matrix sum = casts ? new_matrix(a.first(), problem_.columns, problem_.features, problem_.dtype) : result;
    problem_.gradient = sum.data();
    Device::gradient(problem_, a.first());
    if (casts) copy(view(sum), view(result));
  }
};

}  // namespace fused_losses
