// The overlap family and its compounds on CUDA: sums of each class, a ratio of each, then the gradient.
//
// - Three launches: sums by chunk, `finish` (adds them in fixed order, ratios in double, loss and coefficients of the
//   gradient), gradient. A softmax that is not in registers, a compound's second term, classes summed before the
//   ratio and a mean over what has a target take one more each, the last two over [B, C] sums alone.
// - The backward starts at `finish`, from the saved sums.
#include <vector>

#include "losses.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"
#include "cuda/results.cuh"
#include "host/overlap.h"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/classification.h"
#include "formulas/compound.h"
#include "formulas/overlap.h"
#include "formulas/custom.h"

#include "cuda/overlap.cuh"
#include "cuda/overlap_softmax.cuh"
#include "cuda/overlap_finish.cuh"

constexpr int kLargestGrid = 1 << 30;

template <class T, bool kSecond, class Run>
void with_element_kernels(bool same, const Run& run) {
  if constexpr (!std::is_same_v<T, double>) {
    if (same) return run(element_sums_kernel<T, true, kSecond>, element_gradient_kernel<T, true, kSecond>);
  }
  run(element_sums_kernel<T, false, kSecond>, element_gradient_kernel<T, false, kSecond>);
}

template <class T, class Run>
void with_register_kernels(int64_t classes, const Run& run) {
  if constexpr (!std::is_same_v<T, double>) {
    if (classes <= 4) return run(register_sums_kernel<T, 4>, register_gradient_kernel<T, 4>);
    if (classes <= 8) return run(register_sums_kernel<T, 8>, register_gradient_kernel<T, 8>);
    if (classes <= 16) return run(register_sums_kernel<T, 16>, register_gradient_kernel<T, 16>);
    run(register_sums_kernel<T, kMostClasses>, register_gradient_kernel<T, kMostClasses>);
  }
}

// One call, forward or backward: its workspaces and its launches.
template <class Ratio, SecondTerm kSecondTerm>
class OverlapLaunches {
 public:
  OverlapLaunches(LossId id, const Options& options, const OverlapProblem& problem, const Tensor& like)
      : like_(like), launch_(like), options_(id, options), ratio_(options), o_{problem} {
    o_.squared = options_.squared;
    o_.batch = options_.batch;
    o_.ignoring = options_.ignoring;
    o_.activation = options_.activation;
    o_.micro = options_.micro;
    o_.second_softmax = options_.second_softmax();
    o_.absent = options_.absent;
    o_.ignored_value = options_.ignore_index;
    o_.ignored_class = options_.ignoring ? static_cast<int64_t>(options_.ignore_index) : 0;
    o_.overlap_weight = options_.overlap_weight;
    o_.second_weight = options_.second_weight;
    in_registers_ =
        options_.softmax() && o_.class_index && o_.classes <= kMostClasses && o_.input_dtype != Dtype::kFloat64;
    o_.paired = o_.positions % 2 == 0 && aligned(o_.input, o_.gradient);
    swept_ = options_.joint() && !in_registers_;
    of_all_classes_ = kSecond && (!options_.second_softmax() || options_.label_smoothing != 0);
    choose_chunks();
  }

  void run() {
    with_floating(o_.input_dtype, [&](auto tag) {
      using T = decltype(tag);
      if (!o_.backward) {
        sums<T>();
      } else if (sweeps_gradient()) {
        softmax_rows<T>(SecondTerm::kNone, nullptr);
      }
      finish<T>();
      if (o_.gradient) gradient<T>();
    });
  }

 private:
  static constexpr bool kSecond = kSecondTerm != SecondTerm::kNone;

  const Tensor& like_;
  const Launch launch_;
  const OverlapOptions options_;
  const Ratio ratio_;
  OverlapOperands o_;
  bool in_registers_, swept_;
  bool of_all_classes_;  // the second term of a position reads all its classes
  // Workspaces, in use until the last launch.
  Tensor partial_, softmax_rows_, coefficients_, second_partial_, second_, class_sums_, present_;

  Tensor workspace(int64_t elements, Dtype dtype) const { return new_tensor(like_, {elements}, dtype); }
  Dtype accumulation() const { return accumulation_dtype(o_.input_dtype); }

  // Whether the gradient reads the classes of a position one after the other.
  bool sweeps_gradient() const { return swept_ || (in_registers_ && of_all_classes_); }

  // Chunks of a row such that the items fill the device a few times, no smaller than what repays adding them up. The
  // sums of all classes are a block's largest expense where it holds them in registers: there each block has one chunk.
  void choose_chunks() {
    const int64_t S = o_.positions, apart = in_registers_ ? o_.samples : o_.samples * o_.classes;
    const int64_t least = in_registers_ ? 4 * kSoftmaxThreads : 8 * kThreads;
    const int64_t wanted = int64_t{launch_.multiprocessors()} * (in_registers_ ? kRegisterBlocks : 4 * kBlocksPerSm);
    const int64_t chunks = apart > 0 && wanted > apart ? wanted / apart : 1;
    const int64_t even = ((S + chunks - 1) / chunks + least - 1) / least * least;
    const int64_t most = in_registers_ ? kMostCounted * kSoftmaxThreads / least * least : even;
    o_.chunk = even < least ? least : even > most ? most : even;
    o_.chunks = S > 0 ? (S + o_.chunk - 1) / o_.chunk : 1;
    o_.team = S <= 16 ? 1 : S <= 1024 ? 32 : kThreads;
  }

  static int blocks(int64_t items, int64_t per_block) {
    const int64_t wanted = (items + per_block - 1) / per_block;
    return static_cast<int>(wanted < 1 ? 1 : wanted < kLargestGrid ? wanted : kLargestGrid);
  }

  int element_blocks() const { return blocks(o_.samples * o_.classes * o_.chunks, kThreads / o_.team); }
  int register_blocks() const { return launch_.grid(o_.samples * o_.chunks, 1, 2048 / kSoftmaxThreads); }
  int position_blocks() const { return launch_.grid(o_.samples * o_.positions, kThreads); }

  template <class A>
  AnySecondTerm<A> second(SecondTerm kind) const {
    const double spread = options_.second_softmax() ? static_cast<double>(o_.classes) : 2;
    return {kind, options_.gamma, options_.alpha, options_.label_smoothing, spread};
  }

  // Whether the element kernels may read the target in packs of the input's dtype; sets `packed`.
  template <class T>
  bool packs(const void* gradient) {
    const bool same = !o_.class_index && o_.target_dtype == o_.input_dtype;
    o_.packed = o_.positions % Pack<T>::kSize == 0 && aligned(o_.input, gradient) && (!same || aligned(o_.target));
    return same && o_.packed;
  }

  void make_softmax_rows() {
    softmax_rows_ = workspace(o_.samples * o_.positions * 2, accumulation());
    o_.softmax_rows = softmax_rows_.mutable_data_ptr();
  }

  template <class T>
  void softmax_rows(SecondTerm kind, double* second_partial) {
    make_softmax_rows();
    o_.second_partial = second_partial;
    launch_(softmax_rows_kernel<T>, position_blocks(), kThreads, 0, o_, second<Accumulation<T>>(kind));
  }

  // All sums; with a second term also its total and count.
  template <class T>
  void sums() {
    using A = Accumulation<T>;
    const int grid = in_registers_ ? register_blocks() : swept_ ? position_blocks() : element_blocks();
    partial_ = workspace(o_.samples * o_.classes * o_.chunks * kRegionSums, Dtype::kFloat64);
    o_.partial = static_cast<double*>(partial_.mutable_data_ptr());
    if (kSecond) {
      second_partial_ = workspace(int64_t{grid} * 2, Dtype::kFloat64);
      o_.second_partial = static_cast<double*>(second_partial_.mutable_data_ptr());
    }
    if (swept_) softmax_rows<T>(kSecondTerm, o_.second_partial);
    if (in_registers_) {
      if (of_all_classes_) make_softmax_rows();
      with_register_kernels<T>(o_.classes, [&](auto sums_kernel, auto) {
        launch_(sums_kernel, grid, kSoftmaxThreads, 0, o_, second<A>(kSecondTerm));
      });
    } else {
      const bool same = packs<T>(nullptr);
      const auto run = [&](auto sums_kernel, auto) {
        launch_(sums_kernel, element_blocks(), kThreads, 0, o_, second<A>(kSecondTerm));
      };
      if (kSecond && !swept_) {
        with_element_kernels<T, kSecond>(same, run);
      } else {
        with_element_kernels<T, false>(same, run);
      }
    }
    if (!kSecond) return;
    second_ = workspace(2, Dtype::kFloat64);
    o_.second = static_cast<double*>(second_.mutable_data_ptr());
    launch_(second_kernel<A>, 1, kThreads, 0, o_.second_partial, grid, o_.second, static_cast<A*>(o_.count));
  }

  // Threads that add the chunks of a row of [rows, C].
  int row_team() const {
    const int64_t parts = o_.backward || o_.class_sums ? 1 : (o_.batch ? o_.samples : 1) * o_.chunks;
    return parts == 1 ? 1 : parts <= 1024 ? 32 : kThreads;
  }

  template <class A>
  void class_sums() {
    if (o_.backward) return;  // the forward saved them
    class_sums_ = workspace(o_.rows * o_.classes * kRegionSums, Dtype::kFloat64);
    auto* sums = static_cast<double*>(class_sums_.mutable_data_ptr());
    const int team = row_team();
    launch_(class_sums_kernel<A>, launch_.grid(o_.rows * o_.classes, kThreads / team), kThreads, 0, o_, team, sums);
    o_.class_sums = sums;
  }

  template <class T>
  void finish() {
    using A = Accumulation<T>;
    const int64_t rows = o_.rows * o_.classes;
    const bool skips = options_.absent == Absent::kSkip && o_.results.counts;
    if (o_.micro || skips) class_sums<A>();
    if (skips) {
      present_ = workspace(1, Dtype::kFloat64);
      auto* present = static_cast<double*>(present_.mutable_data_ptr());
      launch_(present_kernel<A>, 1, kThreads, 0, o_, present);
      o_.present = present;
    }
    const int team = o_.micro ? 32 : row_team();
    const int grid = launch_.grid(o_.micro ? o_.rows : rows, kThreads / team);
    if (o_.gradient) {
      coefficients_ = workspace(rows * 4, accumulation());
      o_.coefficients = coefficients_.mutable_data_ptr();
    }
    GridSum sum(launch_, like_, grid);
    launch_(finish_kernel<Ratio, A>, grid, kThreads, 0, ratio_, o_, team, sum.data(), sum.finished);
  }

  template <class T>
  void gradient() {
    const auto run = [&](auto kernel, int grid, int threads) {
      launch_(kernel, grid, threads, 0, o_, second<Accumulation<T>>(kSecondTerm));
    };
    if (sweeps_gradient()) {
      run(softmax_gradient_kernel<T>, position_blocks(), kThreads);
    } else if (in_registers_) {
      o_.chunk = 4 * kSoftmaxThreads;  // nothing is added up
      o_.chunks = (o_.positions + o_.chunk - 1) / o_.chunk;
      with_register_kernels<T>(o_.classes, [&](auto, auto kernel) { run(kernel, register_blocks(), kSoftmaxThreads); });
    } else {
      with_element_kernels<T, kSecond>(packs<T>(o_.gradient),
                                       [&](auto, auto kernel) { run(kernel, element_blocks(), kThreads); });
    }
  }
};

struct CudaOverlap : CudaDevice {
  static void run(LossId id, const Options& options, const OverlapProblem& problem, const Tensor& like) {
    switch (id) {
#define FL_RUN(op, Functor, ...) \
  case LossId::op:               \
    return OverlapLaunches<Functor, SecondTerm::kNone>(id, options, problem, like).run();
      FL_OVERLAP_LOSSES(FL_RUN)
#undef FL_RUN
#define FL_RUN(op, term, ...) \
  case LossId::op:            \
    return OverlapLaunches<Dice, SecondTerm::term>(id, options, problem, like).run();
      FL_COMPOUND_LOSSES(FL_RUN)
#undef FL_RUN
      default:
        return;
    }
  }
};

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, ...) register_loss<OverlapCall<CudaOverlap>, LossId::op>(m);
  FL_OVERLAP_LOSSES(FL_REGISTER)
  FL_COMPOUND_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
