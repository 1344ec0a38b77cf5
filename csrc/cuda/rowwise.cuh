// The row-wise family on CUDA: one softmax for each row, its loss, and the gradient from the same reading of the row.
//
// - Up to 1 K classes a warp keeps a row in registers; up to what shared memory holds, a block; a longer row against
//   class indices is split over blocks in two launches, any other is read again by its block.
// - Classes that are not the last dimension: a thread per position, neighbours in memory side by side.
// - One launch adds the losses up and writes the scalar (reduce.cuh); the number of rows that count, where indices may
//   be ignored or weighted, is a launch before it and stays on the device.
// Included inside the anonymous namespace of each row-wise .cu, after math.h and the formulas.

enum class Target { kIndex, kMixture, kLogits };

constexpr int kMostThreads = 512;

// Pointers of one call; null where not given or not wanted. Positions are [outer, inner].
struct Operands {
  int64_t outer, classes, inner;
  const void *input, *target;  // [outer, classes, inner]; class indices: [outer, inner]
  Dtype target_dtype, weight_dtype;
  bool indices;
  const void* weight;  // [classes]
  int64_t ignore_index;
  double smoothing;
  const void* incoming;  // [outer, inner], or one element with `incoming_scalar`; accumulation dtype
  bool incoming_scalar;
  double factor;                   // 1 / denominator where it is known on the host
  const double* denominator;       // else the denominator
  void* loss;                      // [outer, inner] accumulation dtype, for "none"
  void* total;                     // [1] accumulation dtype, for the other reductions
  void *grad_input, *grad_target;  // as input, as target
  double* partial;                 // workspace of grid_sum
  unsigned* finished;
  void* split;  // [positions, splits] Running: softmaxes of the parts of a long row
  int splits;

  __host__ __device__ int64_t positions() const { return outer * inner; }
};

template <class A>
__device__ __forceinline__ A row_scale(const Operands& o, int64_t row) {
  double scale = o.denominator ? 1.0 / *o.denominator : o.factor;
  if (o.incoming) scale *= static_cast<const A*>(o.incoming)[o.incoming_scalar ? 0 : row];
  return static_cast<A>(scale);
}

// All losses added up and divided, by the last block to finish.
template <class A>
__device__ __forceinline__ void write_total(const Operands& o, double sum) {
  if (o.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) {
    *static_cast<A*>(o.total) = static_cast<A>(o.denominator ? total / *o.denominator : total * o.factor);
  }
}

// Classes of each part of a row split in `splits`, whole packs.
template <int kSize>
__device__ __forceinline__ int64_t split_width(int64_t classes, int splits) {
  return (classes + int64_t{splits} * kSize - 1) / (int64_t{splits} * kSize) * kSize;
}

template <class A>
__device__ __forceinline__ A class_weight(const Operands& o, int64_t c) {
  return o.weight ? load_any<A>(o.weight, o.weight_dtype, c) : A(1);
}

// The class of a row, or -1 where the row does not count.
__device__ __forceinline__ int64_t class_of(const Operands& o, int64_t row) {
  const int64_t y = load_index(o.target, o.target_dtype, row);
  if (y == o.ignore_index) return -1;
  CUDA_KERNEL_ASSERT(y >= 0 && y < o.classes && "class index in [0, classes) or ignore_index");
  return y;
}

// Writes the values derived from each of the row's: to[at * step] = value(class, x).
template <class A, class T, class Row, class Value>
__device__ __forceinline__ void write_row(const Row& row, T* to, int64_t step, const Value& value) {
  row.each([&](int, int64_t at, const auto& x) {
    auto out = x;
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.v[i] = narrow<T>(value(at + i, widen<A>(x.v[i])));
    store_values<T, kSize>(to + at * step, out);
  });
}

// The gradient against class y: scale slope (delta - p).
template <class A, class T, class Row>
__device__ __forceinline__ void write_index_gradient(const Row& row, T* to, int64_t step, const Softmax<A>& s,
                                                     int64_t y, A slope) {
  const A factor = -slope * s.inverse;
  write_row<A>(row, to, step, [&](int64_t c, A x) {
    const A g = exp_<ExpPolicy<T>>((x - s.peak) * s.rate) * factor;
    return c == y ? g + slope : g;
  });
}

template <class F, class A>
__device__ __forceinline__ ClassTerms<A> index_terms(const F& f, const Operands& o, const Softmax<A>& s, A x,
                                                     int64_t y) {
  const A u = (x - s.peak) - s.log_sum, w = class_weight<A>(o, y);
  const ClassTerms<A> t = f(u, exp_(u));
  return {w == A(0) ? A(0) : w * t.loss, w * t.slope};
}

// One row against class indices or a mixture of classes; returns its loss.
template <Target kTarget, class F, class T, class Threads, class Row>
__device__ __forceinline__ Accumulation<T> class_row(const F& f, const Operands& o, const Row& row, const T* x,
                                                     int64_t position, int64_t base, int64_t step) {
  using A = Accumulation<T>;
  T* to = o.grad_input ? static_cast<T*>(o.grad_input) + base : nullptr;
  const int64_t y = o.indices ? class_of(o, position) : int64_t{-1};
  if (o.indices && y < 0) {
    if (to) write_row<A>(row, to, step, [](int64_t, A) { return A(0); });
    return A(0);
  }
  const Softmax<A> s = row_softmax<A, T, Threads>(row, A(1));
  const A scale = row_scale<A>(o, position);
  if constexpr (kTarget == Target::kIndex) {
    const ClassTerms<A> t = index_terms(f, o, s, widen<A>(x[y * step]), y);
    if (to) write_index_gradient<A>(row, to, step, s, y, scale * t.slope);
    return t.loss;
  } else {
    const A kept = static_cast<A>(1 - o.smoothing), spread = static_cast<A>(o.smoothing / o.classes);
    const auto share = [&](int64_t c) {
      const A given = o.indices ? A(c == y) : load_any<A>(o.target, o.target_dtype, base + c * step);
      return (kept * given + spread) * class_weight<A>(o, c);
    };
    A loss = 0, slope = 0;
    row.each([&](int, int64_t at, const auto& values) {
      constexpr int kSize = sizeof(values.v) / sizeof(values.v[0]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const A u = (widen<A>(values.v[i]) - s.peak) - s.log_sum, part = share(at + i);
        const ClassTerms<A> t = f(u, exp_<ExpPolicy<T>>(u));
        loss += part == A(0) ? A(0) : part * t.loss;
        slope += part * t.slope;
      }
    });
    loss = Threads::sum(loss);
    slope = Threads::sum(slope);
    if (to) {
      write_row<A>(row, to, step, [&](int64_t c, A v) {
        const A u = (v - s.peak) - s.log_sum, p = exp_<ExpPolicy<T>>(u);
        return scale * (share(c) * f(u, p).slope - p * slope);
      });
    }
    return loss;
  }
}

// One row against logits z of its own dtype or another.
template <class F, class T, class Threads, class Row, class OtherRow>
__device__ __forceinline__ Accumulation<T> logits_row(const F& f, const Operands& o, const Row& row,
                                                      const OtherRow& other, int64_t position, int64_t base,
                                                      int64_t step) {
  using A = Accumulation<T>;
  const Softmax<A> s = row_softmax<A, T, Threads>(row, f.rate), r = row_softmax<A, T, Threads>(other, f.rate);
  const auto terms = [&](A x, A z, A* p, A* q) {
    const A u = (x - s.peak) * s.rate - s.log_sum, v = (z - r.peak) * r.rate - r.log_sum;
    *p = exp_<ExpPolicy<T>>(u);
    *q = exp_<ExpPolicy<T>>(v);
    return f(u, *p, v, *q);
  };
  A loss = 0, slope_x = 0, slope_z = 0, p, q;
  row.each([&](int slot, int64_t at, const auto& x) {
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
    const auto z = other.get(slot, at);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const PairTerms<A> t = terms(widen<A>(x.v[i]), widen<A>(z.v[i]), &p, &q);
      loss += t.loss;
      slope_x += t.slope_input;
      slope_z += t.slope_target;
    }
  });
  loss = Threads::sum(loss);
  if (!o.grad_input && !o.grad_target) return loss;
  slope_x = Threads::sum(slope_x);
  slope_z = Threads::sum(slope_z);
  const A scale = row_scale<A>(o, position) * f.rate;
  row.each([&](int slot, int64_t at, const auto& x) {
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
    const auto z = other.get(slot, at);
    auto grad_x = x;
    auto grad_z = z;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const PairTerms<A> t = terms(widen<A>(x.v[i]), widen<A>(z.v[i]), &p, &q);
      grad_x.v[i] = narrow<T>(scale * (t.slope_input - p * slope_x));
      using Z = std::remove_reference_t<decltype(grad_z.v[i])>;
      grad_z.v[i] = narrow<Z>(scale * (t.slope_target - q * slope_z));
    }
    if (o.grad_input) store_values<T, kSize>(static_cast<T*>(o.grad_input) + base + at * step, grad_x);
    if (o.grad_target) OtherRow::store(o.grad_target, o.target_dtype, base + at * step, grad_z);
  });
  return loss;
}

template <Target kTarget, class F, class T, class Threads, class Row, class OtherRow>
__global__ void __launch_bounds__(kMostThreads) rowwise_kernel(const F f, const Operands o) {
  using A = Accumulation<T>;
  extern __shared__ __align__(16) unsigned char space[];
  T* shared = reinterpret_cast<T*>(space);
  double sum = 0;
  for (int64_t position = Threads::first(); position < o.positions(); position += Threads::teams()) {
    const int64_t step = o.inner, base = position / step * step * o.classes + position % step;
    const Row row(o.input, Dtype{}, base, step, o.classes, shared);
    A loss;
    if constexpr (kTarget == Target::kLogits) {
      const OtherRow other(o.target, o.target_dtype, base, step, o.classes, shared + o.classes);
      loss = logits_row<F, T, Threads>(f, o, row, other, position, base, step);
    } else {
      loss = class_row<kTarget, F, T, Threads>(f, o, row, static_cast<const T*>(o.input) + base, position, base, step);
    }
    if (Threads::rank() == 0) {
      if (o.loss) static_cast<A*>(o.loss)[position] = loss;
      sum += loss;
    }
  }
  write_total<A>(o, sum);
}

// ---- A long row split over blocks: its parts' softmaxes first, then the gradient of each part. ----

template <class T, int kSize>
__device__ __forceinline__ GlobalRow<T, kSize, 0, Team<0>> row_part(const Operands& o, int64_t part, int64_t* begin) {
  const int64_t row = part / o.splits, width = split_width<kSize>(o.classes, o.splits);
  *begin = part % o.splits * width;
  const int64_t left = o.classes - *begin, length = left < width ? (left > 0 ? left : 0) : width;
  return {o.input, Dtype{}, row * o.classes + *begin, 1, length, nullptr};
}

template <class T, int kSize>
__global__ void __launch_bounds__(kMostThreads) split_softmax_kernel(const Operands o) {
  using A = Accumulation<T>;
  int64_t begin;
  for (int64_t part = blockIdx.x; part < o.positions() * o.splits; part += gridDim.x) {
    const Running<A> running = running_softmax<A, T, Team<0>>(row_part<T, kSize>(o, part, &begin), A(1));
    if (threadIdx.x == 0) static_cast<Running<A>*>(o.split)[part] = running;
  }
}

template <class F, class T, int kSize>
__global__ void __launch_bounds__(kMostThreads) split_index_kernel(const F f, const Operands o) {
  using A = Accumulation<T>;
  double sum = 0;
  for (int64_t part = blockIdx.x; part < o.positions() * o.splits; part += gridDim.x) {
    const int64_t position = part / o.splits, y = class_of(o, position);
    int64_t begin;
    const auto row = row_part<T, kSize>(o, part, &begin);
    T* to = o.grad_input ? static_cast<T*>(o.grad_input) + position * o.classes + begin : nullptr;
    A loss = 0;
    if (y < 0) {
      if (to) write_row<A>(row, to, 1, [](int64_t, A) { return A(0); });
    } else {
      const Running<A>* parts = static_cast<const Running<A>*>(o.split) + position * o.splits;
      A peak = -infinity_<A>(), total = 0;
      for (int i = 0; i < o.splits; ++i) peak = parts[i].peak > peak ? parts[i].peak : peak;
      for (int i = 0; i < o.splits; ++i) {
        const Running<A> one = parts[i];
        total += one.peak == -infinity_<A>() ? one.sum : one.sum * exp_(one.peak - peak);
      }
      const Softmax<A> s = finish_softmax(A(1), peak, total);
      const T* x = static_cast<const T*>(o.input) + position * o.classes;
      const ClassTerms<A> t = index_terms(f, o, s, widen<A>(x[y]), y);
      if (to) write_index_gradient<A>(row, to, 1, s, y - begin, row_scale<A>(o, position) * t.slope);
      loss = t.loss;
    }
    if (threadIdx.x == 0 && part % o.splits == 0) {
      if (o.loss) static_cast<A*>(o.loss)[position] = loss;
      sum += loss;
    }
  }
  write_total<A>(o, sum);
}

// *denominator = the number of rows that count, or the sum of their classes' weights.
template <class A, bool kWeighted>
__global__ void __launch_bounds__(kMostThreads) denominator_kernel(const Operands o, double* denominator) {
  double sum = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < o.positions();
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t y = class_of(o, i);
    sum += y < 0 ? A(0) : kWeighted ? class_weight<A>(o, y) : A(1);
  }
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) *denominator = total;
}

// ---- Launching ----

// The device's most shared memory for one block, less what the kernels declare themselves.
inline int64_t shared_bytes(int device) {
  static int known[64] = {};
  int& bytes = known[device & 63];
  if (bytes == 0) STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  constexpr int64_t kOwn = 2048, kTwoBlocks = 100 * 1024;  // at least two blocks of a large multiprocessor
  return bytes - kOwn < kTwoBlocks ? bytes - kOwn : kTwoBlocks;
}

template <Target kTarget, class F, class T>
struct RowwiseLaunch {
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
    const auto kernel = rowwise_kernel<kTarget, F, T, Threads, Row, OtherRow>;
    if (bytes > 48 * 1024) {
      STD_CUDA_CHECK(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    }
    kernel<<<grid, threads, bytes, launch.stream()>>>(f, o);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
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
    split_softmax_kernel<T, kSize><<<grid, kMostThreads, 0, launch.stream()>>>(o);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    split_index_kernel<F, T, kSize><<<grid, kMostThreads, 0, launch.stream()>>>(f, o);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
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
    const int64_t dims = input.dim(), dim = logits ? static_cast<int64_t>(options[1]) : dims > 1 ? 1 : 0;
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
    o.ignore_index = logits ? 0 : static_cast<int64_t>(options[0]);
    o.smoothing = logits ? 0 : options[1];
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
      kernel<<<grid, kThreads, 0, launch.stream()>>>(o, value);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    o.denominator = value;
  } else if (reduction == Reduction::kMean) {
    o.factor = 1.0 / static_cast<double>(o.positions());
  }
  with_floating(dtype_of(input), [&](auto tag) {
    using T = decltype(tag);
    Functor<Accumulation<T>>::with(options.data(), [&](auto f) {
      using F = decltype(f);
      if constexpr (kLogits) {
        RowwiseLaunch<Target::kLogits, F, T>{launch, input, o, f}.run();
      } else if (o.indices && o.smoothing == 0) {
        RowwiseLaunch<Target::kIndex, F, T>{launch, input, o, f}.run();
      } else {
        RowwiseLaunch<Target::kMixture, F, T>{launch, input, o, f}.run();
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
