// Which kernel of softmax.cuh runs a Problem, and its workspace. Included after softmax.cuh.

constexpr int64_t kOwnShared = 2048;  // more than what the kernels declare themselves

// The device's most shared memory for one block, less the kernels' own.
inline int64_t shared_bytes(int device) {
  return device_attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(device) - kOwnShared;
}

template <Target kTarget, class F, class T>
struct SoftmaxLaunch {
  using A = Accumulation<T>;
  static constexpr int kPack = std::is_same_v<T, double> ? 1 : 16 / sizeof(T);
  const Launch& launch;
  const Tensor& like;
  SoftmaxOperands o;
  const F& f;

  void use(GridSum* workspace) {
    o.partial = workspace->data();
    o.finished = workspace->finished;
  }

  template <class Threads, class Row, class OtherRow>
  void go(int64_t items, int64_t per_block, int threads, int64_t bytes = 0) {
    const int grid = launch.grid(items, per_block, 2048 / threads);
    GridSum workspace(launch, like, grid);
    use(&workspace);
    const auto kernel = softmax_kernel<kTarget, F, T, Threads, Row, OtherRow>;
    if (bytes + kOwnShared > 48 * 1024) {  // what a launch may have without asking, the kernel's own included
      // All there is, not what this call needs: another thread may launch the same kernel with more.
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_bytes(launch.device()))));
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
    const Dtype dtype = accumulation_dtype(o.input_dtype);
    Tensor parts = new_tensor(like, {rows * o.splits * 2}, dtype), class_logits = new_tensor(like, {rows}, dtype);
    o.split = parts.mutable_data_ptr();
    o.class_logits = class_logits.mutable_data_ptr();
    GridSum workspace(launch, like, grid);
    use(&workspace);
    launch(split_softmax_kernel<T, kSize>, grid, kMostThreads, 0, o);
    launch(split_index_kernel<F, T, kSize>, grid, kMostThreads, 0, f, o);
  }

  void run() {
    const int64_t rows = o.positions(), n = o.classes;
    constexpr int kWarps = kThreads / 32;
    constexpr bool kLogits = kTarget == Target::kLogits;
    if constexpr (kLogits) {
      if (o.target_dtype != o.input_dtype) {  // one dtype for both is the case worth tuning
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
      if constexpr (kTarget == Target::kClassIndex) {
        if (packed) return split<kPack>();
      }
      if (packed) return same<Team<0>, GlobalRow, kPack, 0>(rows, 1, threads);
    }
    if constexpr (kTarget == Target::kClassIndex) return split<1>();
    return same<Team<0>, GlobalRow, 1, 0>(rows, 1, threads);
  }
};

// Finds the denominator that the data says, which stays on the device.
template <template <class> class Functor>
void count_positions(const Launch& launch, const Tensor& like, SoftmaxOperands o, double* denominator) {
  const int grid = launch.grid(o.positions(), kThreads);
  GridSum workspace(launch, like, grid);
  o.partial = workspace.data();
  o.finished = workspace.finished;
  const auto kernel = o.input_dtype == Dtype::kFloat64 ? denominator_kernel<double, Functor<double>::kWeightedMean>
                                                       : denominator_kernel<float, Functor<float>::kWeightedMean>;
  launch(kernel, grid, kThreads, 0, o, denominator);
}

template <template <class> class Functor>
void run_loss(const Options& options, const SoftmaxProblem& problem, const Tensor& like) {
  const Launch launch(like);
  SoftmaxOperands o{problem};
  o.denominator = o.results.counted;
  constexpr bool kLogits = Functor<float>::kPair;
  Tensor denominator;
  if constexpr (!kLogits) {
    if (o.results.counts) {
      denominator = new_tensor(like, {1}, Dtype::kFloat64);
      double* value = static_cast<double*>(denominator.mutable_data_ptr());
      count_positions<Functor>(launch, like, o, value);
      o.denominator = value;
    }
  }
  with_floating(o.input_dtype, [&](auto tag) {
    using T = decltype(tag);
    Functor<Accumulation<T>>::with(options, [&](auto f) {
      using F = decltype(f);
      if constexpr (kLogits) {
        SoftmaxLaunch<Target::kLogits, F, T>{launch, like, o, f}.run();
      } else if (o.class_index && o.label_smoothing == 0) {
        SoftmaxLaunch<Target::kClassIndex, F, T>{launch, like, o, f}.run();
      } else {
        SoftmaxLaunch<Target::kMixture, F, T>{launch, like, o, f}.run();
      }
      return 0;
    });
  });
}
