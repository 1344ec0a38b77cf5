// The linear family: rows of logits = input linear_weightᵀ + linear_bias, made a chunk of rows at a time, and a loss of
// their softmax: three products forward and backward, in one pass. The kernels are those of the softmax family, in
// place on the tile.
//
// A process that holds a part of the rows runs this as it is: the rows are independent, and a gradient of the shared
// tensors is the sum of the processes'. One that holds a part of the classes gives `elsewhere`, [rows]: for each row
// the logarithm of the sum of the exponentials of the other processes' logits, which is the logit of one more class,
// the last, of which no gradient is given.
#pragma once

#include "host/product.h"
#include "host/softmax.h"

namespace fused_losses {

// Where the tensors of a loss are among its op's; kNowhere: it has none.
struct LinearLayout {
  static constexpr size_t kNowhere = kMostTensors;
  LossId kernel;  // of the softmax family
  size_t target, bias, weight, teacher_input, teacher_weight, teacher_bias, elsewhere;
};

constexpr LinearLayout linear_layout(LossId id) {
  constexpr size_t none = LinearLayout::kNowhere;
  switch (id) {
    case LossId::linear_cross_entropy:
      return {LossId::cross_entropy, 2, 3, 4, none, none, none, 5};
    case LossId::linear_kl_div:
      return {LossId::kl_div_with_logits, none, 4, none, 2, 3, 5, none};
    case LossId::linear_js_div:
      return {LossId::js_div_with_logits, none, 4, none, 2, 3, 5, none};
    default:
      return {LossId::cross_entropy, 2, none, none, none, none, none, none};
  }
}

// Logits of a chunk of rows: factor x wᵀ + bias, and the gradients of the three from that of the logits.
template <class Device>
class LinearLogits {
 public:
  LinearLogits() = default;
  // dtype: of the products; most: rows of a chunk.
  LinearLogits(const Tensor& x, int64_t rows, const Tensor& w, const OptionalTensor& bias, Dtype dtype, int64_t most,
               double factor)
      : x_(x, rows, w.size(1), dtype, most),
        w_(w, w.size(0), w.size(1), dtype, panel_rows(w.size(1))),
        factor_(factor) {
    if (!bias) return;
    bias_ = new_matrix(w, 1, w.size(0), accumulation_dtype(dtype));
    copy(view(matrix_of(*bias, 1, w.size(0))), view(bias_));
    has_bias_ = true;
  }

  // tile: its first columns are the logits.
  void write(int64_t begin, int64_t n, const Matrix& tile) {
    const Matrix x = x_.block(begin, n);
    if (has_bias_) copy(strided_view(bias_, n, w_.rows(), 0, 1), view(tile.part(0, n, 0, w_.rows())));
    each_panel([&](int64_t at, int64_t m) {
      Device::multiply(view(x), transposed(w_.block(at, m)), factor_, has_bias_, view(tile.part(0, n, at, m)));
    });
  }

  // tile: the gradient of the logits of rows [begin, begin + n), in the dtype of the products; first: of all chunks.
  void add_gradients(int64_t begin, int64_t n, const Matrix& tile, bool first, GradientSum<Device>* grad_x,
                     GradientSum<Device>* grad_w, GradientSum<Device>* grad_bias) {
    const Matrix x = x_.block(begin, n);
    each_panel([&](int64_t at, int64_t m) {
      const Matrix part = tile.part(0, n, at, m);
      if (*grad_x) grad_x->add(view(part), view(w_.block(at, m)), factor_, begin, n, at == 0);
      if (*grad_w) grad_w->add(transposed(part), view(x), factor_, at, m, first);
    });
    const Matrix all = tile.part(0, n, 0, w_.rows());
    if (*grad_bias) grad_bias->add(transposed(all), view(ones(n, tile)), 1, 0, w_.rows(), first);
  }

 private:
  Blocks x_, w_;
  Matrix bias_, ones_;
  double factor_ = 1;
  bool has_bias_ = false;

  // Rows of a panel of the weight where it is copied: what stays in a cache.
  static int64_t panel_rows(int64_t columns) {
    return std::max<int64_t>((2 << 20) / (4 * std::max<int64_t>(columns, 1)), 64);
  }

  template <class Run>
  void each_panel(const Run& run) {
    for (int64_t at = 0; at < w_.rows(); at += w_.most()) run(at, std::min(w_.most(), w_.rows() - at));
  }

  const Matrix& ones(int64_t n, const Matrix& tile) {
    if (ones_.rows != n) {
      ones_ = new_matrix(tile.owner, n, 1, dtype_of(tile.owner));
      torch::stable::fill_(ones_.owner, 1.0);
    }
    return ones_;
  }
};

// Device: also
//   static constexpr int64_t kTileBytes, kLeastRows;    of a tile, and the rows it has whatever their length
//   static Dtype product_dtype(Dtype, const Results&)   of the factors of the products of tensors of a dtype
//   static void multiply(const Tensor& a, const Tensor& b, double factor, bool add, const Tensor& out)
//   static void store(const Matrix& sum, const Results* scale, const Matrix& to)   casts, times the gradients' factor
//   static void run(LossId, const Options&, const SoftmaxProblem&, const Tensor& like)
//   static void count(const char* op, const SoftmaxProblem&, const Tensor& like, double* denominator)
//       the class indices of a whole problem, which it may check; the denominator where that is not null
//   static void cap(const Matrix& logits, double softcap)
//   static void cap_gradient(const Matrix& capped, double softcap, const Matrix& gradient)
//   static void reduce(const Tensor& losses, const Results&)   writes the total
template <class Device, LossId id>
class LinearCall : Call<Device> {
  using Call<Device>::a;
  static constexpr LinearLayout kLayout = linear_layout(id);
  static constexpr bool kPair = kLayout.teacher_input != LinearLayout::kNowhere;
  enum : size_t { kInput, kWeight };

 public:
  static constexpr bool kInPlace = false;

  explicit LinearCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    const Tensor& x = a.first();
    if (x.dim() < 1) refuse(a.op(), "input of shape (..., D), got ()");
    for (int64_t d = 0; d + 1 < x.dim(); ++d) shape_.push_back(x.size(d));
    for (const int64_t size : shape_) rows_ *= size;
    check_factors(x, *a.tensors[kWeight], tensor(kLayout.bias), "linear_weight");
    problem_.classes = a.tensors[kWeight]->size(0) + (tensor(kLayout.elsewhere) ? 1 : 0);
    problem_.outer = rows_;
    problem_.input_dtype = problem_.target_dtype = accumulation_dtype(dtype_of(x));
    if constexpr (kPair) {
      read_teacher();
    } else {
      read_target();
    }
    this->set_factors(&problem_.results, rows_);
    problem_.results.counts = a.reduction == Reduction::kMean && problem_.class_index;
  }

  std::vector<Tensor> make_results() {
    Tensor result = this->new_result(&problem_.results, shape_.data(), static_cast<int64_t>(shape_.size()));
    losses_ = problem_.results.losses ? result : new_tensor(a.first(), {rows_}, problem_.input_dtype);
    problem_.results.losses = losses_->mutable_data_ptr();
    return {result};
  }

  void make_gradients(std::vector<Tensor>* out) {
    for (const size_t position : {size_t{kInput}, size_t{kWeight}, kLayout.bias}) {
      void* data = nullptr;
      if (position < kMostTensors) this->add_gradient(position, &data, out);
      if (data) gradients_[position] = out->back();
    }
  }

  void read_incoming_gradients() { this->read_incoming(&problem_.results, a.incoming[0], rows_); }

  void write_gradient_to(void* data) {
    const Tensor& x = a.first();
    gradients_[kInput] = torch::stable::from_blob(data, x.sizes(), x.strides(), x.device(), x.scalar_type());
  }

  void run() {
    const Tensor denominator = count_classes();
    const Results whole = problem_.results;
    const Tiles tiles(*this);
    // Where the products take halves, the factor of the gradients is applied to their sums: it may underflow in halves.
    const Results* scale = tiles.casts() ? &whole : nullptr;
    if (scale) problem_.results = unscaled(whole);
    LinearLogits<Device> logits(a.first(), rows_, *a.tensors[kWeight], tensor(kLayout.bias), tiles.product, tiles.most,
                                logit_factor());
    LinearLogits<Device> teacher;
    if constexpr (kPair) {
      teacher = {*a.tensors[kLayout.teacher_input],
                 rows_,
                 *a.tensors[kLayout.teacher_weight],
                 tensor(kLayout.teacher_bias),
                 tiles.product,
                 tiles.most,
                 1};
    }
    const int64_t classes = a.tensors[kWeight]->size(0);
    GradientSum<Device> grad_x = sum_of(kInput, rows_, a.first().size(-1), tiles.most, scale),
                        grad_w = sum_of(kWeight, classes, a.first().size(-1), classes, scale),
                        grad_bias = sum_of(kLayout.bias, classes, 1, classes, scale);
    for (int64_t begin = 0; begin < rows_; begin += tiles.most) {
      const int64_t n = std::min(tiles.most, rows_ - begin);
      logits.write(begin, n, tiles.logits.part(0, n));
      if constexpr (kPair) teacher.write(begin, n, tiles.teacher.part(0, n));
      run_chunk(begin, n, tiles);
      if (!tiles.writes) continue;
      logits.add_gradients(begin, n, tiles.factor.part(0, n), begin == 0, &grad_x, &grad_w, &grad_bias);
      if (grad_x) grad_x.finish(begin, n);
    }
    if (grad_x && classes == 0) grad_x.finish_all(true);  // no product wrote it
    for (GradientSum<Device>* shared : {&grad_w, &grad_bias}) {
      if (*shared) shared->finish_all(rows_ == 0);
    }
    if (whole.total) Device::reduce(*losses_, whole);
  }

 private:
  SoftmaxProblem problem_;  // of all rows; a chunk's is a part of it
  int64_t rows_ = 1;
  std::vector<int64_t> shape_;  // of the losses
  OptionalTensor losses_;
  std::array<OptionalTensor, kMostTensors> gradients_;

  // The tiles of a chunk, `most` rows of `classes` each. gradient: of the logits, whose tile it is where it can be;
  // factor: the same in the dtype of the products.
  struct Tiles {
    explicit Tiles(const LinearCall& call)
        : accumulation(call.problem_.input_dtype),
          product(Device::product_dtype(dtype_of(call.a.first()), call.problem_.results)),
          capped(call.a.options.softcap != 0) {
      for (const OptionalTensor& gradient : call.gradients_) writes = writes || gradient;
      const int64_t classes = call.problem_.classes;
      const int64_t count = 1 + kPair + (writes && capped) + (writes && casts());
      most = tile_rows<Device>(call.rows_, count * classes * element_size(accumulation));
      const auto made = [&](Dtype dtype) { return new_matrix(call.a.first(), most, classes, dtype); };
      logits = made(accumulation);
      if (kPair) teacher = made(accumulation);
      gradient = writes && capped ? made(accumulation) : logits;
      factor = writes && casts() ? made(product) : gradient;
    }

    bool casts() const { return product != accumulation; }

    Dtype accumulation, product;
    bool capped, writes = false;
    int64_t most = 0;
    Matrix logits, teacher, gradient, factor;
  };

  OptionalTensor tensor(size_t position) const {
    return position < kMostTensors ? a.tensors[position] : OptionalTensor();
  }

  double logit_factor() const { return id == LossId::info_nce_loss ? 1 / a.options.temperature : 1; }

  GradientSum<Device> sum_of(size_t position, int64_t rows, int64_t columns, int64_t window, const Results* scale) {
    if (position >= kMostTensors || !gradients_[position]) return {};
    return {*gradients_[position], rows, columns, window, scale};
  }

  // Rows x and a weight (V, D) and bias (V,) that fit them, in one dtype.
  void check_factors(const Tensor& x, const Tensor& w, const OptionalTensor& bias, const char* name) const {
    if (w.dim() != 2 || w.size(1) != x.size(-1)) {
      refuse(a.op(), name, " of shape (V, ", x.size(-1), "), got ", shape_text(w));
    }
    check_same_dtype(a.op(), name, w, a.first());
    if (!bias) return;
    if (bias->dim() != 1 || bias->size(0) != w.size(0)) {
      refuse(a.op(), "a bias of shape (", w.size(0), ",), got ", shape_text(*bias));
    }
    check_same_dtype(a.op(), "a bias", *bias, a.first());
  }

  void read_teacher() {
    const Tensor &x = *a.tensors[kLayout.teacher_input], &w = *a.tensors[kLayout.teacher_weight];
    bool same = x.dim() == a.first().dim();
    for (size_t d = 0; same && d < shape_.size(); ++d) same = x.size(static_cast<int64_t>(d)) == shape_[d];
    if (!same) refuse(a.op(), "teacher_input with the leading dimensions of input, got ", shape_text(x));
    check_same_dtype(a.op(), "teacher_input", x, a.first());
    check_factors(x, w, tensor(kLayout.teacher_bias), "teacher_weight");
    if (w.size(0) != problem_.classes) {
      refuse(a.op(), "teacher_weight of shape (", problem_.classes, ", ...), got ", shape_text(w));
    }
  }

  void read_target() {
    const Tensor& target = *a.tensors[kLayout.target];
    problem_.class_index = target.dim() < a.first().dim();
    std::vector<int64_t> shape = shape_;
    if (!problem_.class_index) shape.push_back(problem_.classes);
    if (!target.sizes().equals(shape)) {
      refuse(a.op(), "target of the input's shape without its last dimension, or with ", problem_.classes,
             " probabilities there, got ", shape_text(target));
    }
    read_classes(a.op(), a.options, target, tensor(kLayout.weight), &problem_);
    problem_.z_loss = a.options.z_loss;
    const OptionalTensor elsewhere = tensor(kLayout.elsewhere);
    if (!elsewhere) return;
    if (!problem_.class_index || elsewhere->numel() != rows_ || dtype_of(*elsewhere) != problem_.input_dtype) {
      refuse(a.op(), "class indices, and elsewhere of ", rows_, " elements in the accumulation dtype, got ",
             shape_text(*elsewhere));
    }
  }

  // Looks at the class indices of all rows, and leaves the denominator of their mean where the problem needs it.
  Tensor count_classes() {
    Tensor denominator = new_tensor(a.first(), {1}, Dtype::kFloat64);
    if (!problem_.class_index) return denominator;
    double* value = problem_.results.counts ? static_cast<double*>(denominator.mutable_data_ptr()) : nullptr;
    Device::count(a.op(), problem_, a.first(), value);
    problem_.results.counts = false;
    problem_.results.counted = value;
    return denominator;
  }

  // What leaves the gradients without their common factor.
  static Results unscaled(const Results& whole) {
    Results results;
    results.losses = whole.losses;
    if (whole.per_item) {
      results.incoming = whole.incoming;
      results.per_item = true;
    }
    return results;
  }

  // From the logits of rows [begin, begin + n) to their losses and the gradient of the logits, as a factor of products.
  void run_chunk(int64_t begin, int64_t n, const Tiles& tiles) {
    const Matrix logits = tiles.logits.part(0, n), gradient = tiles.gradient.part(0, n);
    const double softcap = a.options.softcap;
    if (tiles.capped) Device::cap(logits, softcap);
    if (const OptionalTensor elsewhere = tensor(kLayout.elsewhere)) {
      const Matrix column = matrix_of(*elsewhere, rows_, 1).part(begin, n);
      copy(view(column), view(logits.part(0, n, problem_.classes - 1, 1)));
    }
    Device::run(kLayout.kernel, a.options, chunk(begin, n, tiles), a.first());
    if (!tiles.writes) return;
    if (tiles.capped) Device::cap_gradient(logits, softcap, gradient);
    if (tiles.casts()) copy(view(gradient), view(tiles.factor.part(0, n)));
  }

  SoftmaxProblem chunk(int64_t begin, int64_t n, const Tiles& tiles) const {
    SoftmaxProblem part = problem_;
    part.outer = n;
    part.input = tiles.logits.data();
    part.grad_input = tiles.writes ? tiles.gradient.data() : nullptr;
    part.target =
        kPair ? tiles.teacher.data()
              : element(problem_.target, begin * (problem_.class_index ? 1 : problem_.classes), problem_.target_dtype);
    part.results = results_from(problem_.results, begin, problem_.input_dtype);
    return part;
  }
};

}  // namespace fused_losses
