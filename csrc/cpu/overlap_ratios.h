// What lies between the sums and the gradient of the overlap family on the CPU: the ratio of each region, the losses,
// the coefficients of the gradient. Included by overlap.cpp after the formulas.

// The loss of a region from its I, P and G; counts: anything in it does.
using RegionLoss = OverlapLoss (*)(const Options&, const double* sums, bool counts);

template <class F>
OverlapLoss region_loss(const Options& options, const double* sums, bool counts) {
  return overlap_loss(F(options), sums[0], sums[1], sums[2], counts);
}

constexpr RegionLoss kRegionLosses[] = {// in the order of the table of losses
#define FL_ENTRY(op, Functor, ...) region_loss<Functor>,
                                        FL_OVERLAP_LOSSES(FL_ENTRY)
#undef FL_ENTRY
#define FL_ENTRY(...) region_loss<Dice>,
                                            FL_COMPOUND_LOSSES(FL_ENTRY)
#undef FL_ENTRY
};

// Every class of every row has sums and coefficients, the background too; it has a loss, or with `micro` its row has.
class OverlapRatios {
 public:
  OverlapRatios(LossId id, const Options& options, const OverlapTask& task)
      : region_loss_(kRegionLosses[loss_of(id).place]),
        options_(options),
        task_(task),
        dtype_(accumulation_dtype(task.input_dtype)),
        count_(task.rows * task.classes),
        denominator_(task.results.denominator),
        memory_(count_ * (kRegionSums + 3) + task.rows * task.per_row),
        sums_(memory_.data()),
        by_I_(sums_ + count_ * kRegionSums),
        by_P_(by_I_ + count_),
        denominators_(by_P_ + count_),
        losses_(denominators_ + count_) {
    if (!task_.weight) return;
    weights_.resize(task_.kept);
    read_values(task_.weight, task_.weight_dtype, 0, task_.kept, weights_.data());
  }

  int64_t count() const { return count_; }
  double* sums(int64_t region) { return sums_ + region * kRegionSums; }
  const double* by_I(int64_t region) const { return by_I_ + region; }
  const double* by_P(int64_t region) const { return by_P_ + region; }
  double denominator(int64_t region) const { return denominators_[region]; }

  // Whether the mean is over the regions with a target alone, so that no loss is known before all sums are.
  bool skips() const { return task_.options.absent == Absent::kSkip && task_.results.counts; }

  // Starts from the sums that a forward saved.
  void read_saved_sums() {
    for (int64_t at = 0; at < count_; ++at) {
      read_values(task_.saved_sums, dtype_, at * 3, 3, sums(at));
      sums(at)[3] = 1;  // where nothing counts there is no gradient, whatever the coefficients
    }
  }

  // Losses and coefficients of the regions [begin, end), whole rows with `micro`, from their sums. The background left
  // out has no loss, and no gradient even where its sums are NaN.
  void find(int64_t begin, int64_t end) {
    if (skips()) denominator_ = std::max<double>(1, static_cast<double>(count_present()));
    if (begin == end) return;
    const int64_t C = task_.classes;
    std::fill(denominators_ + begin, denominators_ + end, INFINITY);
    if (task_.options.micro) {
      for (int64_t r = begin / C; r * C < end; ++r) find_row(r);
      return;
    }
    const double scale = gradient_scale();
    for (int64_t at = begin; at < end; ++at) {
      const int64_t k = at % C - (C - task_.kept), item = at / C * task_.kept + k;
      if (k < 0) continue;
      const OverlapLoss found = loss_of_sums(sums(at));
      losses_[item] = weight(k) * found.loss;
      set_coefficients(at, found, scale * incoming(item) * weight(k));
    }
  }

  // Stores the losses and sums; returns the overlap's part of the reduced loss.
  double store() const {
    double sum = 0;
    for (int64_t item = 0; item < task_.rows * task_.per_row; ++item) {
      sum += losses_[item];
      if (task_.results.losses) store_scalar(losses_[item], task_.results.losses, dtype_, item);
    }
    for (int64_t at = 0; at < count_; ++at) {
      for (int k = 0; k < 3; ++k) store_scalar(sums_[at * kRegionSums + k], task_.sums, dtype_, at * 3 + k);
    }
    return sum * task_.options.overlap_weight / denominator_;
  }

 private:
  const RegionLoss region_loss_;
  const Options& options_;
  const OverlapTask& task_;
  const Dtype dtype_;                 // of sums and losses
  const int64_t count_;               // rows x C
  double denominator_;                // of the mean
  std::vector<double> weights_;       // [kept], or empty
  std::vector<double> memory_;        // of the following
  double* const sums_;                // [rows, C, kRegionSums]
  double *const by_I_, *const by_P_;  // [rows, C]
  double* const denominators_;        // [rows, C]: of the ratios, infinite where nothing depends on them
  double* const losses_;              // [rows, per_row] weighted

  double weight(int64_t k) const { return weights_.empty() ? 1 : weights_[k]; }
  int64_t first_kept(int64_t r) const { return (r + 1) * task_.classes - task_.kept; }
  double incoming(int64_t item) const {
    return task_.results.per_item ? load_scalar(task_.results.incoming, dtype_, item) : 1;
  }
  double gradient_scale() const {
    const double scale = fused_losses::gradient_scale(task_.results, dtype_) * task_.options.overlap_weight;
    return scale * task_.results.denominator / denominator_;
  }

  OverlapLoss loss_of_sums(const double* sums) const {
    const bool empty = task_.samples * task_.positions == 0;  // nothing is there that could be ignored
    const bool left_out = task_.options.absent != Absent::kCount && sums[2] == 0;
    const bool counts = (sums[3] > 0 || empty) && !left_out;
    OverlapLoss found = region_loss_(options_, sums, counts);
    if (!counts) found.denominator = INFINITY;
    return found;
  }

  void set_coefficients(int64_t at, const OverlapLoss& found, double scale) {
    by_I_[at] = scale * found.by_I;
    by_P_[at] = scale * found.by_P;
    denominators_[at] = found.denominator;
  }

  // I, P and G of a row, each class times its weight.
  void pool_classes(int64_t r, double* pooled) const {
    std::fill_n(pooled, kRegionSums, 0.0);
    for (int64_t k = 0; k < task_.kept; ++k) {
      const double* of = sums_ + (first_kept(r) + k) * kRegionSums;
      for (int j = 0; j < 3; ++j) pooled[j] += weight(k) * of[j];
      pooled[3] += of[3];
    }
  }

  // A row whose classes are summed first.
  void find_row(int64_t r) {
    double pooled[kRegionSums];
    pool_classes(r, pooled);
    const OverlapLoss found = loss_of_sums(pooled);
    losses_[r] = found.loss;
    const double scale = gradient_scale() * incoming(r);
    for (int64_t k = 0; k < task_.kept; ++k) set_coefficients(first_kept(r) + k, found, scale * weight(k));
  }

  // How many losses are of something that has a target.
  int64_t count_present() const {
    int64_t present = 0;
    double pooled[kRegionSums];
    for (int64_t r = 0; r < task_.rows; ++r) {
      if (task_.options.micro) pool_classes(r, pooled);
      for (int64_t k = 0; k < task_.per_row; ++k) {
        present += (task_.options.micro ? pooled : sums_ + (first_kept(r) + k) * kRegionSums)[2] != 0;
      }
    }
    return present;
  }
};
