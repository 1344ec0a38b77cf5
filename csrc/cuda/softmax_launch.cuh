// Which kernel of softmax.cuh runs a call, its workspace, and the ops. Included after softmax.cuh.

constexpr int64_t kOwnShared = 2048;  // more than what the kernels declare themselves

// The device's most shared memory for one block, less the kernels' own.
inline int64_t shared_bytes(int device) {
  const int64_t bytes = device_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(device);
  constexpr int64_t kTwoBlocks = 100 * 1024;  // at least two blocks of a large multiprocessor
  return bytes - kOwnShared < kTwoBlocks ? bytes - kOwnShared : kTwoBlocks;
}

template <Target kTarget, class F, class T>
struct SoftmaxLaunch {
  using A = Accumulation<T>;
  static constexpr int kPack = std::is_same_v<T, double> ? 1 : 16 / sizeof(T);
  const Launch& launch;
  const Tensor& input;
  Operands o;
  const F& f;

  void sums(int grid, GridSum* workspace) {
    o.partial = workspace->data();
    o.finished = workspace->finished;
  }

  template <class Threads, class Row, class OtherRow>
  void go(int64_t items, int64_t per_block, int threads, int64_t bytes = 0) {
    const int grid = launch.grid(items, per_block, 2048 / threads);
    GridSum workspace(launch, input, grid);
    sums(grid, &workspace);
    const auto kernel = softmax_kernel<kTarget, F, T, Threads, Row, OtherRow>;
    if (bytes + kOwnShared > 48 * 1024) {  // what a launch may have without asking, the kernel's own included
      STD_CUDA_CHECK(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    }
    launch(kernel, grid, threads, bytes, f, o);
  }

  template <class Threads, template <class, int, int, class> class Row, int kSize, int kPacks>
  void same(int64_t items, int64_t per_block, int threads, int64_t bytes = 0) {
    using One = Row<T, kSize, kPacks, Threads>;
    go<Threads, One, One>(items, per_block, threads, bytes);
  }

  template <int kSize>
  void split() {
    const int64_t rows = o.positions();
    int64_t splits = (2 * launch.multiprocessors() * (2048 / kMostThreads) + rows - 1) / rows;
    const int64_t useful = o.classes / 4096;  // a part is worth a block
    splits = splits < useful ? splits : useful;
    o.splits = static_cast<int>(splits < 1 ? 1 : splits < 64 ? splits : 64);
    const int grid = launch.grid(rows * o.splits, 1, 2048 / kMostThreads);
    Tensor parts = new_tensor(input, {rows * o.splits * 2}, accumulation_dtype(dtype_of(input)));
    o.split = parts.mutable_data_ptr();
    GridSum workspace(launch, input, grid);
    sums(grid, &workspace);
    launch(split_softmax_kernel<T, kSize>, grid, kMostThreads, 0, o);
    launch(split_index_kernel<F, T, kSize>, grid, kMostThreads, 0, f, o);
  }

  void run() {
    const int64_t rows = o.positions(), n = o.classes;
    constexpr int kWarps = kThreads / 32;
    constexpr bool kLogits = kTarget == Target::kLogits;
    if constexpr (kLogits) {
      if (o.target_dtype != dtype_of(input)) {  // one dtype for both is the case worth tuning
        using Block = Team<0>;
        using Single = Team<1>;
        if (o.inner > 1) {
          return go<Single, GlobalRow<T, 1, 0, Single>, AnyRow<A, 1, 0, Single>>(rows, kThreads, kThreads);
        }
        return go<Block, GlobalRow<T, 1, 0, Block>, AnyRow<A, 1, 0, Block>>(rows, 1, kThreads);
      }
    }
    if (rows == 0 || o.inner > 1 || n <= 16) return same<Team<1>, GlobalRow, 1, 0>(rows, kThreads, kThreads);
    const bool packed =
        kPack > 1 && n % kPack == 0 && aligned(o.input, o.grad_input) && (!kLogits || aligned(o.target, o.grad_target));
    if (n <= 1024) {
      if constexpr (kPack > 1) {
        if (packed && n <= 32 * kPack) return same<Team<32>, RegisterRow, kPack, 1>(rows, kWarps, kThreads);
        if (packed) return same<Team<32>, RegisterRow, kPack, 1024 / 32 / kPack>(rows, kWarps, kThreads);
      }
      return same<Team<32>, GlobalRow, 1, 0>(rows, kWarps, kThreads);
    }
    const int threads = n <= 2048 ? 128 : n <= 8192 ? 256 : kMostThreads;
    if constexpr (kPack > 1) {
      const int64_t bytes = n * static_cast<int64_t>(sizeof(T)) * (kLogits ? 2 : 1);
      if (packed && bytes <= shared_bytes(launch.device()))
        return same<Team<0>, SharedRow, kPack, 0>(rows, 1, threads, bytes);
      if constexpr (kTarget == Target::kIndex) {
        if (packed) return split<kPack>();
      }
      if (packed) return same<Team<0>, GlobalRow, kPack, 0>(rows, 1, threads);
    }
    if constexpr (kTarget == Target::kIndex) return split<1>();
    return same<Team<0>, GlobalRow, 1, 0>(rows, 1, threads);
  }
};

// Sizes, pointers and outputs of one call.
struct Call {
  Operands o{};
  std::vector<int64_t> shape;  // of the losses

  Call(const Tensor& input, const Tensor& target, const OptionalTensor& weight, const Options& options, bool logits) {
    const int64_t dims = input.dim(), dim = logits ? static_cast<int64_t>(options.dim) : dims > 1 ? 1 : 0;
    o.outer = o.inner = 1;
    o.classes = input.size(dim);
    for (int64_t d = 0; d < dims; ++d) {
      if (d == dim) continue;
      (d < dim ? o.outer : o.inner) *= input.size(d);
      shape.push_back(input.size(d));
    }
    o.input = input.const_data_ptr();
    o.target = target.const_data_ptr();
    o.target_dtype = dtype_of(target);
    o.indices = !logits && target.dim() < dims;
    if (weight && !logits) {
      o.weight = weight->const_data_ptr();
      o.weight_dtype = dtype_of(*weight);
    }
    o.ignore_index = logits ? 0 : static_cast<int64_t>(options.ignore_index);
    o.smoothing = logits ? 0 : options.label_smoothing;
    o.factor = 1;
  }

  std::vector<Tensor> gradient_outputs(const Tensor& input, const Tensor& target, int64_t gradients, bool logits,
                                       std::vector<Tensor> out) {
    if (wants(gradients, 0)) {
      out.push_back(new_like(input));
      o.grad_input = out.back().mutable_data_ptr();
    }
    if (logits && wants(gradients, 1)) {
      out.push_back(new_like(target));
      o.grad_target = out.back().mutable_data_ptr();
    }
    return out;
  }
};

// Launches one call, forward or backward.
template <template <class> class Functor>
void run(Operands o, const Tensor& input, const Options& options, Reduction reduction) {
  const Launch launch(input);
  constexpr bool kLogits = Functor<float>::kPair;
  Tensor denominator;
  if (reduction == Reduction::kBatchMean) o.factor = 1.0 / static_cast<double>(input.size(0));
  if (reduction == Reduction::kMean && o.indices) {
    denominator = new_tensor(input, {1}, Dtype::kFloat64);
    double* value = static_cast<double*>(denominator.mutable_data_ptr());
    const int grid = launch.grid(o.positions(), kThreads);
    GridSum workspace(launch, input, grid);
    o.partial = workspace.data();
    o.finished = workspace.finished;
    if constexpr (!kLogits) {
      const auto kernel = dtype_of(input) == Dtype::kFloat64
                              ? denominator_kernel<double, Functor<double>::kWeightedMean>
                              : denominator_kernel<float, Functor<float>::kWeightedMean>;
      launch(kernel, grid, kThreads, 0, o, value);
    }
    o.denominator = value;
  } else if (reduction == Reduction::kMean) {
    o.factor = 1.0 / static_cast<double>(o.positions());
  }
  with_floating(dtype_of(input), [&](auto tag) {
    using T = decltype(tag);
    Functor<Accumulation<T>>::with(options, [&](auto f) {
      using F = decltype(f);
      if constexpr (kLogits) {
        SoftmaxLaunch<Target::kLogits, F, T>{launch, input, o, f}.run();
      } else if (o.indices && o.smoothing == 0) {
        SoftmaxLaunch<Target::kIndex, F, T>{launch, input, o, f}.run();
      } else {
        SoftmaxLaunch<Target::kMixture, F, T>{launch, input, o, f}.run();
      }
      return 0;
    });
  });
}

template <template <class> class Functor>
std::vector<Tensor> forward(Tensor input, Tensor target, OptionalTensor weight, Options options, int64_t reduction,
                            int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(input, target, weight, options, Functor<float>::kPair);
  std::vector<Tensor> out;
  if (reduce == Reduction::kNone) {
    out.push_back(new_tensor(input, call.shape.data(), call.shape.size(), accumulation_dtype(dtype_of(input))));
    call.o.loss = out[0].mutable_data_ptr();
  } else {
    out.push_back(new_scalar(input));
    call.o.total = out[0].mutable_data_ptr();
    out = call.gradient_outputs(input, target, gradients, Functor<float>::kPair, std::move(out));
  }
  run<Functor>(call.o, input, options, reduce);
  return out;
}

template <template <class> class Functor>
std::vector<Tensor> backward(Tensor grad_output, Tensor input, Tensor target, OptionalTensor weight, Options options,
                             int64_t reduction, int64_t gradients) {
  const auto reduce = static_cast<Reduction>(reduction);
  Call call(input, target, weight, options, Functor<float>::kPair);
  call.o.incoming = grad_output.const_data_ptr();
  call.o.incoming_scalar = reduce != Reduction::kNone;
  std::vector<Tensor> out = call.gradient_outputs(input, target, gradients, Functor<float>::kPair, {});
  run<Functor>(call.o, input, options, reduce);
  return out;
}
