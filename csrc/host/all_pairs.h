// The all-pairs family: similarities of the rows of two sets of embeddings, or of one set with itself, a tile at a
// time.
//
// A loss reads its rows once for their statistics (and CLIP those of the columns) and a second time, when all are
// known, for the gradient of the similarities, in place. Four products forward and backward of two sets, three of one;
// one less where all similarities fit into the memory of one tile, which is then kept between the two. Two of one set
// whose loss `mirrors`: a tile has no columns before its own rows, and counts for its rows and for its columns; among
// its own rows a pair is one number, too, whichever comes first, as a product need not have it.
//
// Many processes: each has some rows, row i being column `first` + i, and all columns. The forward gives the statistics
// of its rows, [rows, kStatistics], and for CLIP the log sums of the columns over its rows, [columns]; merged over the
// processes (those of rows side by side, the log sums by their logarithm of the sum of exponentials) they are what the
// backward takes. It gives the whole gradient of the rows, and of a second set this process's part of it, which are to
// be added up. See fused_losses/chunked/contrastive.py.
#pragma once

#include <cmath>
#include <memory>

#include "host/call.h"
#include "host/pairs_traits.h"
#include "host/product.h"

namespace fused_losses {

// Device: as for the linear family; also
//   static constexpr int64_t kKeptBytes                          of similarities that are kept for the second reading
//   static std::shared_ptr<void> prepare(PairsProblem*)          labels as the kernels read them
//   static void mirror(const Matrix& square)             what is above its diagonal, below it
//   static void statistics(LossId, const Options&, const PairsProblem&, const Tensor& like)
//   static void columns(LossId, const Options&, const PairsProblem&, const Tensor& like, bool first)   rows merged in
//   static void finish_columns(const PairsProblem&, const Tensor& like)              their log sums; losses of all rows
//   static void gradient(LossId, const Options&, const PairsProblem&, const Tensor& like)
//   static void count(const Matrix& statistics, double* counted)                     rows whose statistic 1 is not 0
//   static void reduce_scalars(const Tensor& scalars, const Results&, void* scale, void* bias)
template <class Device, LossId id>
class AllPairsCall : Call<Device> {
  using Call<Device>::a;
  enum : size_t { kX, kY, kScale, kBias, kLabels = 1, kAll = 2, kAllLabels = 3 };
  static constexpr bool kTwoSets = compares_two_sets(id);
  static constexpr PairsTraits kTraits = pairs_traits(id);

 public:
  static constexpr bool kInPlace = false;

  explicit AllPairsCall(Arguments arguments) : Call<Device>(std::move(arguments)) {
    this->check_reduces_all();
    const Tensor& x = a.first();
    if (x.dim() != 2) refuse(a.op(), "embeddings of shape (N, D), got ", shape_text(x));
    const Tensor& y = others();
    if (y.dim() != 2 || y.size(1) != x.size(1)) {
      refuse(a.op(), "embeddings of shape (M, ", x.size(1), "), got ", shape_text(y));
    }
    check_same_dtype(a.op(), "all embeddings", y, x);
    dtype_ = accumulation_dtype(dtype_of(x));
    problem_.rows = x.size(0);
    problem_.columns = y.size(0);
    problem_.dtype = dtype_;
    const double first = a.options.first, most = static_cast<double>(problem_.columns - problem_.rows);
    if (!(first >= 0 && first <= most)) {
      refuse(a.op(), "as many columns as rows from first ", first, " on, got ", problem_.columns, " for ",
             problem_.rows);
    }
    problem_.first = static_cast<int64_t>(first);
    if constexpr (kTwoSets) {
      problem_.scale = scalar(kScale, "logit_scale");
      problem_.bias = scalar(kBias, "logit_bias");
    } else {
      read_labels();
    }
    this->set_factors(&problem_.results, problem_.columns);
    problem_.results.counts = kTraits.counts && a.reduction == Reduction::kMean;
  }

  std::vector<Tensor> make_results() {
    std::vector<Tensor> out{this->new_result(&problem_.results, nullptr, 0)};
    losses_ = new_tensor(a.first(), {problem_.rows}, dtype_);
    problem_.losses = losses_->mutable_data_ptr();
    if (kTraits.statistics > 0) {
      rows_ = new_tensor(a.first(), {problem_.rows, kTraits.statistics}, dtype_);
      out.push_back(*rows_);
    }
    if (kTraits.columns) {
      columns_ = new_tensor(a.first(), {problem_.columns}, dtype_);
      out.push_back(*columns_);
    }
    return out;
  }

  void make_gradients(std::vector<Tensor>* out) {
    for (size_t position = 0; position < (kTwoSets ? 4 : 1); ++position) {
      void* data = nullptr;
      this->add_gradient(position, &data, out);
      if (data) gradients_[position] = out->back();
    }
    if (losses_ && kTraits.statistics > 0 && problem_.rows != problem_.columns && wants_any()) {
      refuse(a.op(), "gradients of a part of the rows in the backward alone, got them in the forward");
    }
  }

  void read_incoming_gradients() {
    this->read_incoming(&problem_.results, a.incoming[0], 1);
    const int64_t known = kTwoSets ? problem_.rows : problem_.columns;
    if (kTraits.statistics > 0) rows_ = saved(1, known, kTraits.statistics);
    if (kTraits.columns) columns_ = saved(2, problem_.columns, 1);
  }

  void write_gradient_to(void* data) {
    const Tensor& x = a.first();
    gradients_[kX] = torch::stable::from_blob(data, x.sizes(), x.strides(), x.device(), x.scalar_type());
  }

  void run() {
    const std::shared_ptr<void> labels = kTwoSets ? nullptr : Device::prepare(&problem_);
    const Tensor counted = new_tensor(a.first(), {1}, Dtype::kFloat64);
    const bool writes = wants_any(), forward = losses_.has_value(), two_readings = kTraits.statistics > 0;
    Dtype product = Device::product_dtype(dtype_of(a.first()), problem_.results);
    Tiles tiles = make_tiles(product, writes, two_readings && forward);
    Blocks x(a.first(), problem_.rows, a.first().size(1), product, tiles.most);
    Blocks y(others(), problem_.columns, a.first().size(1), product, panel_rows());
    const bool kept = forward && writes && tiles.most >= problem_.rows;
    Tensor column_max, column_sums;
    if (forward && merges()) {
      column_max = new_tensor(a.first(), {problem_.columns}, dtype_);
      column_sums = new_tensor(a.first(), {problem_.columns, kTraits.column_sums}, Dtype::kFloat64);
      problem_.column_max = column_max.mutable_data_ptr();
      problem_.column_sums = static_cast<double*>(column_sums.mutable_data_ptr());
    }
    if (forward && two_readings) {
      each_chunk(tiles, [&](const Chunk& chunk) {
        multiply(&x, &y, chunk);
        Device::statistics(id, a.options, chunk.problem, a.first());
        if (!merges() || chunk.problem.merged_from == chunk.problem.columns) return;
        Device::columns(id, a.options, chunk.problem, a.first(), chunk.row == 0);
      });
      if (kTraits.columns && problem_.rows > 0) Device::finish_columns(whole(), a.first());
      if (kTraits.columns && problem_.rows == 0) torch::stable::fill_(*columns_, -INFINITY);  // of no row
    }
    if (problem_.results.counts && two_readings) count(counted);
    if (writes || !two_readings) gradients(&x, &y, tiles, writes, kept && two_readings, forward);
    if (forward) Device::reduce(*losses_, problem_.results);
  }

 private:
  static constexpr int64_t kMirrored = 8;  // tiles of a set at least, where they are more than one
  static constexpr int64_t kAligned = 16;  // elements, on which the rows of a product should begin

  struct Tiles {
    int64_t most;
    Tensor tile, factor;
    Dtype product;
  };

  // A tile of similarities, its problem, and which of all rows and columns are its first.
  struct Chunk {
    int64_t row, column;
    PairsProblem problem;
    Matrix tile;
  };

  PairsProblem problem_;  // of all rows; a chunk's is a part of it
  Dtype dtype_ = Dtype::kFloat32;
  OptionalTensor losses_, rows_, columns_;
  std::array<OptionalTensor, kMostTensors> gradients_;

  // One set whose pairs are read once for both of their rows; in one process, which has both.
  bool mirrors() const { return kTraits.mirrors && !a.tensors[kAll]; }
  bool merges() const { return kTraits.columns || mirrors(); }

  bool wants_any() const {
    return std::any_of(gradients_.begin(), gradients_.end(), [](const OptionalTensor& t) { return t.has_value(); });
  }

  const Tensor& others() const {
    if (kTwoSets) return *a.tensors[kY];
    return a.tensors[kAll] ? *a.tensors[kAll] : a.first();
  }

  double product_factor() const {
    return id == LossId::nt_xent_loss || id == LossId::sup_con_loss ? 1 / a.options.temperature : 1;
  }

  const void* scalar(size_t position, const char* name) const {
    const OptionalTensor& t = a.tensors[position];
    if (!t) return nullptr;
    if (t->numel() != 1 || dtype_of(*t) != dtype_) {
      refuse(a.op(), name, " of one element in the accumulation dtype, got ", shape_text(*t));
    }
    return t->const_data_ptr();
  }

  void read_labels() {
    const Tensor& rows = *a.tensors[kLabels];
    const Tensor& columns = a.tensors[kAllLabels] ? *a.tensors[kAllLabels] : rows;
    const int64_t lengths[] = {problem_.rows, problem_.columns};
    const Tensor* labels[] = {&rows, &columns};
    for (int i = 0; i < 2; ++i) {
      if (labels[i]->dim() != 1 || labels[i]->size(0) != lengths[i] || dtype_of(*labels[i]) != Dtype::kInt64) {
        refuse(a.op(), "labels of shape (", lengths[i], ",) and dtype int64, got ", shape_text(*labels[i]));
      }
    }
    problem_.row_labels = static_cast<const int64_t*>(rows.const_data_ptr());
    problem_.column_labels = static_cast<const int64_t*>(columns.const_data_ptr());
  }

  Tensor saved(size_t position, int64_t rows, int64_t columns) const {
    const Tensor& t = a.incoming[position];
    if (t.numel() != rows * columns || dtype_of(t) != dtype_) {
      refuse(a.op(), "saved statistics of ", rows * columns, " elements in the accumulation dtype, got ",
             shape_text(t));
    }
    return t;
  }

  int64_t panel_rows() const {
    return std::max<int64_t>((2 << 20) / (4 * std::max<int64_t>(a.first().size(1), 1)), 64);
  }

  Tiles make_tiles(Dtype product, bool writes, bool keeps) const {
    const bool casts = writes && product != dtype_;
    const int64_t row_bytes = problem_.columns * element_size(dtype_) * (1 + casts);
    Tiles tiles{tile_rows<Device>(problem_.rows, row_bytes), {}, {}, product};
    if (mirrors() && tiles.most < problem_.rows) {  // the more tiles, the fewer pairs that are read twice
      tiles.most = std::min(tiles.most, (problem_.rows + kMirrored - 1) / kMirrored);
      if (tiles.most > kAligned && chosen_tile_bytes.load() == 0) tiles.most -= tiles.most % kAligned;
    } else if (keeps && chosen_tile_bytes.load() == 0 && row_bytes * problem_.rows <= Device::kKeptBytes) {
      tiles.most = std::max<int64_t>(problem_.rows, 1);
    }
    tiles.tile = new_tensor(a.first(), {tiles.most, problem_.columns}, dtype_);
    tiles.factor = casts ? new_tensor(a.first(), {tiles.most, problem_.columns}, product) : tiles.tile;
    return tiles;
  }

  void* at(const OptionalTensor& t, int64_t element) const {
    return t ? static_cast<char*>(t->mutable_data_ptr()) + element * element_size(dtype_) : nullptr;
  }

  // The problem of all rows, its statistics where they are.
  PairsProblem whole() const {
    PairsProblem part = problem_;
    part.row_statistics = at(rows_, known_from() * kTraits.statistics);
    part.column_statistics = kTwoSets ? at(columns_, 0) : at(rows_, 0);
    return part;
  }

  // Where the first row's statistics are: those of one set given to a backward are of all columns.
  int64_t known_from() const { return !kTwoSets && !losses_ ? problem_.first : 0; }

  template <class Run>
  void each_chunk(const Tiles& tiles, const Run& run) {
    const PairsProblem all = whole();
    for (int64_t begin = 0; begin < problem_.rows; begin += tiles.most) {
      const int64_t n = std::min(tiles.most, problem_.rows - begin), column = mirrors() ? begin : 0;
      Chunk chunk{begin, column, from_column(all, column), matrix_of(tiles.tile, n, problem_.columns - column)};
      PairsProblem& part = chunk.problem;
      part.rows = n;
      part.first += begin;
      part.merged_from = mirrors() ? n : 0;
      part.tile = chunk.tile.data();
      part.row_statistics = at(rows_, (known_from() + begin) * kTraits.statistics);
      part.losses = at(losses_, begin);
      if (part.row_labels) part.row_labels += begin;
      if (part.row_groups) part.row_groups += begin;
      run(chunk);
    }
  }

  // The problem without the columns before this one; which in a loss that mirrors is the chunk's first row.
  PairsProblem from_column(PairsProblem part, int64_t column) const {
    if (!mirrors()) return part;
    part.first -= column;
    part.columns -= column;
    part.column_labels += column;
    if (part.column_groups) part.column_groups += column;
    part.column_statistics = element(part.column_statistics, column * kTraits.statistics, dtype_);
    if (!part.column_max) return part;
    part.column_max = element(part.column_max, column, dtype_);
    part.column_sums += column * kTraits.column_sums;
    if (column == 0) return part;
    part.known_max = part.column_max;
    part.known_sums = part.column_sums;
    return part;
  }

  void multiply(Blocks* x, Blocks* y, const Chunk& chunk) {
    const Matrix rows = x->block(chunk.row, chunk.tile.rows);
    each_panel(y, chunk, chunk.tile, [&](const Matrix& others, const Matrix& part, bool) {
      Device::multiply(view(rows), transposed(others), product_factor(), false, view(part));
    });
    if (mirrors()) Device::mirror(chunk.tile.part(0, chunk.tile.rows, 0, chunk.tile.rows));
  }

  // Calls run(rows of y, their columns of the tile, whether they are the first) block by block.
  template <class Run>
  static void each_panel(Blocks* y, const Chunk& chunk, const Matrix& tile, const Run& run) {
    for (int64_t at = chunk.column; at < y->rows(); at += y->most()) {
      const int64_t m = std::min(y->most(), y->rows() - at);
      run(y->block(at, m), tile.part(0, tile.rows, at - chunk.column, m), at == chunk.column);
    }
  }

  // The anchors that count, of all processes where their statistics are known.
  void count(const Tensor& counted) {
    double* value = static_cast<double*>(counted.mutable_data_ptr());
    Device::count(matrix_of(*rows_, rows_->numel() / std::max<int64_t>(kTraits.statistics, 1), kTraits.statistics),
                  value);
    problem_.results.counts = false;
    problem_.results.counted = value;
  }

  // The second reading, or the only one: kept: the tile holds the similarities of all rows.
  void gradients(Blocks* x, Blocks* y, const Tiles& tiles, bool writes, bool kept, bool forward) {
    const Results whole = problem_.results;
    const bool casts = tiles.product != dtype_;
    if (casts) {
      problem_.results = {};
    }
    const Results* scale = casts ? &whole : nullptr;
    GradientSum<Device> of_rows, of_columns;  // one sum where a pair is read for both
    if (!mirrors()) of_rows = sum_of(kX, tiles.most, scale);
    if (kTwoSets || mirrors()) of_columns = sum_of(kTwoSets ? kY : kX, problem_.columns, scale);
    const Tensor scalars = new_tensor(a.first(), {problem_.rows, 2}, dtype_);
    each_chunk(tiles, [&](Chunk chunk) {
      if (!kept) multiply(x, y, chunk);
      chunk.problem.scalars = at(scalars, chunk.row * 2);
      if (kTraits.statistics == 0 && forward) Device::statistics(id, a.options, chunk.problem, a.first());
      if (!writes) return;
      Device::gradient(id, a.options, chunk.problem, a.first());
      const Matrix& tile = chunk.tile;
      const Matrix gradient = casts ? matrix_of(tiles.factor, tile.rows, tile.columns) : tile;
      if (casts) copy(view(tile), view(gradient));
      add_products(x, y, chunk, gradient, mirrors() ? &of_columns : &of_rows, &of_columns);
      if (of_rows) of_rows.finish(chunk.row, tile.rows);
    });
    if (of_columns) of_columns.finish_all(problem_.rows == 0);
    problem_.results = whole;
    if (!kTwoSets || (!gradients_[kScale] && !gradients_[kBias])) return;
    Results of_scalars = whole;
    if (problem_.columns == 0) of_scalars.denominator = 1;  // the gradient of no pair is 0, not 0 / 0
    Device::reduce_scalars(scalars, of_scalars, at(gradients_[kScale], 0), at(gradients_[kBias], 0));
  }

  // What the gradient of a chunk's similarities adds to those of its rows and of its columns, its own rows but once.
  void add_products(Blocks* x, Blocks* y, const Chunk& chunk, const Matrix& gradient, GradientSum<Device>* of_rows,
                    GradientSum<Device>* of_columns) const {
    const int64_t n = gradient.rows, own = mirrors() ? n : 0, rest = gradient.columns - own;
    const bool first = chunk.row == 0;
    if (*of_rows) {
      each_panel(y, chunk, gradient, [&](const Matrix& others, const Matrix& part, bool begins) {
        of_rows->add(view(part), view(others), product_factor(), chunk.row, n, begins && (first || !mirrors()));
      });
    }
    if (!*of_columns || rest == 0) return;
    const Matrix rows = x->block(chunk.row, n);
    of_columns->add(transposed(gradient.part(0, n, own, rest)), view(rows), product_factor(), chunk.column + own, rest,
                    first);
  }

  GradientSum<Device> sum_of(size_t position, int64_t window, const Results* scale) {
    if (!gradients_[position]) return {};
    const Tensor& t = *gradients_[position];
    return {t, t.size(0), t.size(1), window, scale};
  }
};

}  // namespace fused_losses
