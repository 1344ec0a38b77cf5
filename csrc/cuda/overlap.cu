// The overlap family and its compounds on CUDA: sums of each class, a ratio of each, then the gradient.
//
// - Three launches: sums by chunk, `finish` (adds them in fixed order, ratios in double, loss and coefficients of the
//   gradient), gradient. A softmax that is not in registers and a compound's second term take one more each.
// - The backward starts at `finish`, from the saved sums.
#include <vector>

#include "losses.h"
#include "host/overlap_options.h"
#include "cuda/pack.cuh"
#include "cuda/reduce.cuh"

namespace fused_losses::cuda {
namespace {

#include "math/numerics.h"
#include "formulas/contract.h"
#include "formulas/binary.h"
#include "formulas/classification.h"
#include "formulas/compound.h"
#include "formulas/overlap.h"

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

// One call, forward or backward.
template <class F>
class Call {
 public:
  Call(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const Options& options,
       Reduction reduction)
      : input_(input),
        launch_(input),
        options_(options, F::kSecond),
        ratio_(options),
        reduction_(reduction),
        dtype_(dtype_of(input)),
        accumulation_(accumulation_dtype(dtype_)) {
    o_.samples = input.size(0);
    o_.classes = input.size(1);
    o_.positions = 1;
    for (int64_t d = 2; d < input.dim(); ++d) o_.positions *= input.size(d);
    o_.input = input.const_data_ptr();
    o_.target = target.const_data_ptr();
    o_.target_dtype = dtype_of(target);
    o_.indexed = target.dim() < input.dim();
    o_.squared = options_.squared;
    o_.batch = options_.batch;
    o_.ignoring = options_.ignoring;
    o_.activation = options_.activation;
    o_.ignored_value = options_.ignore_index;
    o_.ignored_class = options_.ignoring ? static_cast<int64_t>(options_.ignore_index) : 0;
    o_.second_weight = options_.second_weight;
    const bool softmax = options_.activation == Activation::kSoftmax;
    in_registers_ = softmax && o_.indexed && o_.classes <= kMostClasses && dtype_ != Dtype::kFloat64;
    swept_ = softmax && !in_registers_;
    rows_ = (o_.batch ? 1 : o_.samples) * o_.classes;
    f_.samples = o_.samples;
    f_.classes = o_.classes;
    f_.kept = o_.classes - (options_.background ? 0 : 1);
    f_.batch = o_.batch;
    f_.ignoring = o_.ignoring;
    f_.sums = nullptr;
    f_.overlap_weight = options_.overlap_weight;
    f_.second_weight = options_.second_weight;
    f_.denominator = reduction == Reduction::kMean ? static_cast<double>((o_.batch ? 1 : o_.samples) * f_.kept) : 1.0;
    f_.second_mean = reduction == Reduction::kMean;
    if (weight) {
      f_.weight = weight->const_data_ptr();
      f_.weight_dtype = dtype_of(*weight);
    }
    choose_chunks();
  }

  std::vector<Tensor> forward(int64_t gradients) {
    std::vector<Tensor> out;
    if (reduction_ != Reduction::kNone) {
      out.push_back(new_scalar(input_));
      f_.total = out[0].mutable_data_ptr();
    } else {
      out.push_back(o_.batch ? new_tensor(input_, {f_.kept}, accumulation_)
                             : new_tensor(input_, {o_.samples, f_.kept}, accumulation_));
      f_.loss = out[0].mutable_data_ptr();
    }
    out.push_back(new_tensor(input_, {o_.batch ? 1 : o_.samples, o_.classes, 3}, accumulation_));
    f_.sums = out[1].mutable_data_ptr();
    if (kSecond) out.push_back(new_tensor(input_, {1}, accumulation_));
    if (wants(gradients, 0)) out.push_back(new_like(input_));
    const Tensor partial = new_tensor(input_, {o_.samples * o_.classes * o_.chunks * 3}, Dtype::kFloat64);
    o_.partial = static_cast<double*>(partial.mutable_data_ptr());
    f_.partial = o_.partial;
    f_.chunks = o_.chunks;
    with_floating(dtype_, [&](auto tag) {
      using T = decltype(tag);
      sums<T>(kSecond ? &out[2] : nullptr);
      finish<T>(wants(gradients, 0));
      if (wants(gradients, 0)) gradient<T>(&out.back(), kSecond ? &out[2] : nullptr);
    });
    return out;
  }

  std::vector<Tensor> backward(const Tensor& grad_output, const Tensor& saved, const Tensor* count, int64_t gradients) {
    if (!wants(gradients, 0)) return {};
    std::vector<Tensor> out = {new_like(input_)};
    f_.sums = const_cast<void*>(saved.const_data_ptr());  // only read, since there is no `partial`
    f_.incoming = grad_output.const_data_ptr();
    f_.incoming_scalar = reduction_ != Reduction::kNone;
    o_.incoming = f_.incoming;
    with_floating(dtype_, [&](auto tag) {
      using T = decltype(tag);
      if (swept_) peaks<T>(SecondTerm::kNone, nullptr);
      finish<T>(true);
      gradient<T>(&out[0], count);
    });
    return out;
  }

 private:
  static constexpr bool kSecond = F::kSecond != SecondTerm::kNone;

  // Chunks of a row such that the items fill the device a few times, no smaller than what repays adding them up.
  void choose_chunks() {
    const int64_t S = o_.positions, apart = in_registers_ ? o_.samples : o_.samples * o_.classes;
    const int64_t least = in_registers_ ? 4 * kSoftmaxThreads : 8 * kThreads;
    const int64_t wanted = int64_t{launch_.multiprocessors()} * (in_registers_ ? 16 : 4 * kBlocksPerSm);
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
  int register_blocks() const { return blocks(o_.samples * o_.chunks, 1); }
  int position_blocks() const { return launch_.grid(o_.samples * o_.positions, kThreads); }

  template <class A>
  AnySecondTerm<A> second(SecondTerm kind) const {
    return {kind, options_.gamma, options_.alpha};
  }

  // Whether the element kernels may read the target in packs of the input's dtype; sets `packed`.
  template <class T>
  bool packs(const void* gradient) {
    const bool same = !o_.indexed && o_.target_dtype == dtype_;
    o_.packed = o_.positions % Pack<T>::kSize == 0 && aligned(o_.input, gradient) && (!same || aligned(o_.target));
    return same && o_.packed;
  }

  template <class T>
  void peaks(SecondTerm kind, double* second_partial) {
    peaks_ = new_tensor(input_, {o_.samples * o_.positions * 2}, accumulation_);
    o_.peaks = peaks_.mutable_data_ptr();
    o_.second_partial = second_partial;
    launch_(softmax_peak_kernel<T>, position_blocks(), kThreads, 0, o_, second<Accumulation<T>>(kind));
  }

  // All sums; with a second term also its total and count.
  template <class T>
  void sums(Tensor* count) {
    using A = Accumulation<T>;
    const int grid = in_registers_ ? register_blocks() : swept_ ? position_blocks() : element_blocks();
    Tensor partial;
    if (kSecond) {
      partial = new_tensor(input_, {int64_t{grid} * 2}, Dtype::kFloat64);
      o_.second_partial = static_cast<double*>(partial.mutable_data_ptr());
    }
    if (swept_) peaks<T>(F::kSecond, o_.second_partial);
    if (in_registers_) {
      with_register_kernels<T>(o_.classes, [&](auto sums_kernel, auto) {
        launch_(sums_kernel, grid, kSoftmaxThreads, 0, o_, second<A>(F::kSecond));
      });
    } else {
      const bool same = packs<T>(nullptr);
      const auto run = [&](auto sums_kernel, auto) {
        launch_(sums_kernel, element_blocks(), kThreads, 0, o_, second<A>(F::kSecond));
      };
      if (kSecond && !swept_) {
        with_element_kernels<T, kSecond>(same, run);
      } else {
        with_element_kernels<T, false>(same, run);
      }
    }
    if (!kSecond) return;
    second_ = new_tensor(input_, {2}, Dtype::kFloat64);
    f_.second = static_cast<double*>(second_.mutable_data_ptr());
    launch_(second_kernel<A>, 1, kThreads, 0, o_.second_partial, grid, static_cast<double*>(second_.mutable_data_ptr()),
            static_cast<A*>(count->mutable_data_ptr()));
  }

  template <class T>
  void finish(bool with_gradient) {
    using A = Accumulation<T>;
    const int64_t parts = f_.partial ? (o_.batch ? o_.samples : 1) * o_.chunks : 1;
    f_.team = parts == 1 ? 1 : parts <= 1024 ? 32 : kThreads;
    const int grid = launch_.grid(rows_, kThreads / f_.team);
    if (with_gradient) {
      coefficients_ = new_tensor(input_, {rows_ * 2}, accumulation_);
      f_.coefficients = coefficients_.mutable_data_ptr();
      o_.coefficients = f_.coefficients;
    }
    GridSum workspace(launch_, input_, grid);
    f_.total_partial = workspace.data();
    f_.finished = workspace.finished;
    launch_(finish_kernel<typename F::Ratio, A>, grid, kThreads, 0, ratio_, f_);
  }

  template <class T>
  void gradient(Tensor* to, const Tensor* count) {
    using A = Accumulation<T>;
    o_.gradient = to->mutable_data_ptr();
    o_.count = count && reduction_ == Reduction::kMean ? count->const_data_ptr() : nullptr;
    const auto run = [&](auto kernel, int grid, int threads) {
      launch_(kernel, grid, threads, 0, o_, second<A>(F::kSecond));
    };
    if (in_registers_) {
      with_register_kernels<T>(o_.classes, [&](auto, auto kernel) { run(kernel, register_blocks(), kSoftmaxThreads); });
    } else if (swept_) {
      run(softmax_gradient_kernel<T>, position_blocks(), kThreads);
    } else {
      with_element_kernels<T, kSecond>(packs<T>(o_.gradient),
                                       [&](auto, auto kernel) { run(kernel, element_blocks(), kThreads); });
    }
  }

  const Tensor& input_;
  const Launch launch_;
  const OverlapOptions options_;
  const typename F::Ratio ratio_;
  const Reduction reduction_;
  const Dtype dtype_, accumulation_;
  Operands o_{};
  Finish f_{};
  bool in_registers_, swept_;
  int64_t rows_;
  Tensor peaks_, coefficients_, second_;  // workspaces of the call
};

// The boxed entry points.

template <class Functor, SecondTerm kTerm>
struct OverlapKind {
  using Ratio = Functor;
  static constexpr SecondTerm kSecond = kTerm;
};

template <class F>
std::vector<Tensor> forward(Tensor input, Tensor target, OptionalTensor weight, Options options, int64_t reduction,
                            int64_t gradients) {
  return Call<F>(input, target, weight, options, static_cast<Reduction>(reduction)).forward(gradients);
}

template <class F>
std::vector<Tensor> backward(Tensor grad_output, Tensor sums, Tensor input, Tensor target, OptionalTensor weight,
                             Options options, int64_t reduction, int64_t gradients) {
  return Call<F>(input, target, weight, options, static_cast<Reduction>(reduction))
      .backward(grad_output, sums, nullptr, gradients);
}

template <class F>
std::vector<Tensor> compound_backward(Tensor grad_output, Tensor sums, Tensor count, Tensor input, Tensor target,
                                      OptionalTensor weight, Options options, int64_t reduction, int64_t gradients) {
  return Call<F>(input, target, weight, options, static_cast<Reduction>(reduction))
      .backward(grad_output, sums, &count, gradients);
}

}  // namespace

FL_CUDA_LIBRARY(m) {
#define FL_REGISTER(op, Functor, ...)                                                                    \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<OverlapKind<Functor, SecondTerm::kNone>>>::call))); \
  m.impl(#op "_backward", TORCH_BOX((&Named<LossId::op, &backward<OverlapKind<Functor, SecondTerm::kNone>>>::call)));
  FL_OVERLAP_LOSSES(FL_REGISTER)
#undef FL_REGISTER
#define FL_REGISTER(op, second, ...)                                                                   \
  m.impl(#op, TORCH_BOX((&Named<LossId::op, &forward<OverlapKind<Dice, SecondTerm::second>>>::call))); \
  m.impl(#op "_backward",                                                                              \
         TORCH_BOX((&Named<LossId::op, &compound_backward<OverlapKind<Dice, SecondTerm::second>>>::call)));
  FL_COMPOUND_LOSSES(FL_REGISTER)
#undef FL_REGISTER
}

}  // namespace fused_losses::cuda
