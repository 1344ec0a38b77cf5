// The softmax family on CUDA: one softmax for each row, its loss, and the gradient from the same reading of the row.
//
// - Up to 1 K classes a warp keeps a row in registers; up to what shared memory holds, a block; a longer row against
//   class indices is split over blocks in two launches, any other is read again by its block.
// - Classes that are not the last dimension: a thread per position, neighbours in memory side by side.
// - One launch adds the losses up and writes the scalar (reduce.cuh); the number of rows that count, where indices may
//   be ignored or weighted, is a launch before it and stays on the device.
// Included inside the anonymous namespace of each softmax .cu, after numerics.h and the formulas.

enum class Target { kClassIndex, kMixture, kLogits };

constexpr int kMostThreads = 512;

// A Problem with what one launch adds to it.
struct SoftmaxOperands : SoftmaxProblem {
  const double* denominator;  // where the data says it, else null
  double* partial;            // workspace of grid_sum
  unsigned* finished;
  void* split;         // [positions, splits] Running: softmaxes of the parts of a long row
  void* class_logits;  // [positions] accumulation dtype: the logits of the target classes of rows that are split
  int splits;
};

// The factor of a position's gradient.
template <class A>
__device__ __forceinline__ A row_scale(const SoftmaxOperands& o, int64_t position) {
  const A scale = gradient_scale<A>(o.results, o.denominator);
  return o.results.per_item ? scale * static_cast<const A*>(o.results.incoming)[position] : scale;
}

// All losses added up, by the last block to finish.
template <class A>
__device__ __forceinline__ void write_total(const SoftmaxOperands& o, double sum) {
  if (o.results.total == nullptr) return;
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) store_total<A>(o.results, o.denominator, total);
}

// Classes of each part of a row split in `splits`, whole packs.
template <int kSize>
__device__ __forceinline__ int64_t split_width(int64_t classes, int splits) {
  return (classes + int64_t{splits} * kSize - 1) / (int64_t{splits} * kSize) * kSize;
}

template <class A>
__device__ __forceinline__ A class_weight(const SoftmaxOperands& o, int64_t c) {
  return o.weight ? load_any<A>(o.weight, o.weight_dtype, c) : A(1);
}

// The class of a row, or -1 where the row does not count.
__device__ __forceinline__ int64_t class_of(const SoftmaxOperands& o, int64_t row) {
  const int64_t y = integer_at(o.target, o.target_dtype, row);
  if (o.ignores(y)) return -1;
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

// The gradient against class y: slope (delta - p) + pull p, p from exponential(slot, i, x) = exp(x - row_max).
template <class A, class T, class Row, class Exponential>
__device__ __forceinline__ void write_index_gradient(const Row& row, T* to, int64_t step, A inverse, int64_t y, A slope,
                                                     A pull, const Exponential& exponential) {
  const A factor = (pull - slope) * inverse;
  row.each([&](int slot, int64_t at, const auto& x) {
    auto out = x;
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
    const int here = y >= at && y < at + kSize ? static_cast<int>(y - at) : -1;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const A g = exponential(slot, i, widen<A>(x.v[i])) * factor;
      out.v[i] = narrow<T>(i == here ? g + slope : g);
    }
    store_values<T, kSize>(to + at * step, out);
  });
}

template <class A>
__device__ __forceinline__ ClassTerms<A> row_normaliser(const SoftmaxOperands& o, const Softmax<A>& s) {
  return normaliser_terms(static_cast<A>(o.z_loss), s.row_max + s.log_sum);
}

template <class F, class A>
__device__ __forceinline__ ClassTerms<A> index_terms(const F& f, const SoftmaxOperands& o, const Softmax<A>& s, A x,
                                                     int64_t y) {
  const A u = (x - s.row_max) - s.log_sum, w = class_weight<A>(o, y);
  const ClassTerms<A> t = f(u, exp_(u));
  return {times_(w, t.loss), w * t.slope};
}

// One row against class indices or a mixture of classes; returns its loss.
template <Target kTarget, class F, class T, class Threads, class Row>
__device__ __forceinline__ Accumulation<T> class_row(const F& f, const SoftmaxOperands& o, const Row& row, const T* x,
                                                     int64_t position, int64_t base, int64_t step) {
  using A = Accumulation<T>;
  T* to = o.grad_input ? static_cast<T*>(o.grad_input) + base : nullptr;
  const int64_t y = o.class_index ? class_of(o, position) : int64_t{-1};
  if (o.class_index && y < 0) {
    if (to) write_row<A>(row, to, step, [](int64_t, A) { return A(0); });
    return A(0);
  }
  A class_logit = 0;  // read before another thread of the row may write the gradient there
  if constexpr (kTarget == Target::kClassIndex) {
    class_logit = widen<A>(x[y * step]);
    Threads::finish_reads();
  }
  constexpr bool kKeeps = kTarget == Target::kClassIndex && Row::kSlots > 0;
  A kept[kKeeps ? Row::kSlots : 1][kKeeps ? Row::kValues : 1];  // exponentials
  Softmax<A> s;
  if constexpr (kKeeps) {
    const Running<A> r = held_softmax<A, T, Threads>(row, A(1), [&](int slot, int i, A e) { kept[slot][i] = e; });
    s = finish_softmax(A(1), r.row_max, r.sum);
  } else {
    s = row_softmax<A, T, Threads>(row, A(1));
  }
  const A scale = row_scale<A>(o, position);
  const ClassTerms<A> normaliser = row_normaliser(o, s);
  if constexpr (kTarget == Target::kClassIndex) {
    const ClassTerms<A> t = index_terms(f, o, s, class_logit, y);
    if (to) {
      write_index_gradient<A>(row, to, step, s.inverse, y, scale * t.slope, scale * normaliser.slope,
                              [&](int slot, int i, A x) {
                                if constexpr (kKeeps) return kept[slot][i];
                                return exp_<ExpPolicy<T>>(x - s.row_max);
                              });
    }
    return t.loss + normaliser.loss;
  } else {
    const A kept = static_cast<A>(1 - o.label_smoothing), spread = static_cast<A>(o.label_smoothing / o.classes);
    const auto share = [&](int64_t c) {
      const A given = o.class_index ? A(c == y) : load_any<A>(o.target, o.target_dtype, base + c * step);
      return (kept * given + spread) * class_weight<A>(o, c);
    };
    A loss = 0, slope = 0;
    row.each([&](int, int64_t at, const auto& values) {
      constexpr int kSize = sizeof(values.v) / sizeof(values.v[0]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const A u = (widen<A>(values.v[i]) - s.row_max) - s.log_sum, part = share(at + i);
        const ClassTerms<A> t = f(u, exp_<ExpPolicy<T>>(u));
        loss += times_(part, t.loss);
        slope += part * t.slope;
      }
    });
    loss = Threads::sum(loss) + normaliser.loss;
    slope = Threads::sum(slope) - normaliser.slope;
    if (to) {
      write_row<A>(row, to, step, [&](int64_t c, A v) {
        const A u = (v - s.row_max) - s.log_sum, p = exp_<ExpPolicy<T>>(u);
        return scale * (share(c) * f(u, p).slope - p * slope);
      });
    }
    return loss;
  }
}

// One row against logits z of its own dtype or another.
template <class F, class T, class Threads, class Row, class OtherRow>
__device__ __forceinline__ Accumulation<T> logits_row(const F& f, const SoftmaxOperands& o, const Row& row,
                                                      const OtherRow& other, int64_t position, int64_t base,
                                                      int64_t step) {
  using A = Accumulation<T>;
  const Softmax<A> s = row_softmax<A, T, Threads>(row, f.rate), r = row_softmax<A, T, Threads>(other, f.rate);
  const auto terms = [&](A x, A z, A* p, A* q) {
    const A u = (x - s.row_max) * s.rate - s.log_sum, v = (z - r.row_max) * r.rate - r.log_sum;
    *p = exp_<ExpPolicy<T>>(u);
    *q = exp_<ExpPolicy<T>>(v);
    return f(u, *p, v, *q);
  };
  A loss = 0, slope_x = 0, slope_z = 0, p, q;
  if constexpr (F::kKnownSlope) {  // the gradient of the input in the pass of the loss
    if (!o.grad_target) {
      const A scale = row_scale<A>(o, position) * f.slope();
      each_of_both<Threads>(row, other, [&](int64_t at, const auto& x, const auto& z) {
        constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
        auto grad = x;
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          const PairTerms<A> t = terms(widen<A>(x.v[i]), widen<A>(z.v[i]), &p, &q);
          loss += t.loss;
          grad.v[i] = narrow<T>(scale * (t.slope_input - p * f.slope_of_all()));
        }
        if (o.grad_input) store_values<T, kSize>(static_cast<T*>(o.grad_input) + base + at * step, grad);
      });
      return f.loss_of(Threads::sum(loss));
    }
  }
  each_of_both<Threads>(row, other, [&](int64_t at, const auto& x, const auto& z) {
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const PairTerms<A> t = terms(widen<A>(x.v[i]), widen<A>(z.v[i]), &p, &q);
      loss += t.loss;
      slope_x += t.slope_input;
      slope_z += t.slope_target;
    }
  });
  loss = f.loss_of(Threads::sum(loss));
  if (!o.grad_input && !o.grad_target) return loss;
  slope_x = Threads::sum(slope_x);
  slope_z = Threads::sum(slope_z);
  const A scale = row_scale<A>(o, position) * f.slope();
  each_of_both<Threads>(row, other, [&](int64_t at, const auto& x, const auto& z) {
    constexpr int kSize = sizeof(x.v) / sizeof(x.v[0]);
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
__global__ void __launch_bounds__(kMostThreads) softmax_kernel(const F f, const SoftmaxOperands o) {
  using A = Accumulation<T>;
  FL_DYNAMIC_SHARED(space);
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
      if (o.results.losses) static_cast<A*>(o.results.losses)[position] = loss;
      sum += loss;
    }
  }
  write_total<A>(o, sum);
}

// ---- A long row split over blocks: its parts' softmaxes first, then the gradient of each part. ----

template <class T, int kSize>
__device__ __forceinline__ GlobalRow<T, kSize, 0, Team<0>> row_part(const SoftmaxOperands& o, int64_t part,
                                                                    int64_t* begin) {
  const int64_t row = part / o.splits, width = split_width<kSize>(o.classes, o.splits);
  *begin = part % o.splits * width;
  const int64_t left = o.classes - *begin, length = left < width ? (left > 0 ? left : 0) : width;
  return {o.input, Dtype{}, row * o.classes + *begin, 1, length, nullptr};
}

template <class T, int kSize>
__global__ void __launch_bounds__(kMostThreads) split_softmax_kernel(const SoftmaxOperands o) {
  using A = Accumulation<T>;
  int64_t begin;
  for (int64_t part = blockIdx.x; part < o.positions() * o.splits; part += gridDim.x) {
    const Running<A> running = running_softmax<A, T, Team<0>>(row_part<T, kSize>(o, part, &begin), A(1));
    if (threadIdx.x != 0) continue;
    static_cast<Running<A>*>(o.split)[part] = running;
    const int64_t position = part / o.splits, y = part % o.splits == 0 ? class_of(o, position) : -1;
    if (y < 0) continue;
    const T* x = static_cast<const T*>(o.input) + position * o.classes;
    static_cast<A*>(o.class_logits)[position] = widen<A>(x[y]);
  }
}

// The softmax of a row from those of its parts; every warp does it for itself.
template <class A>
__device__ __forceinline__ Softmax<A> merged_softmax(const Running<A>* parts, int splits) {
  A row_max = -infinity_<A>(), sum = 0;
  for (int i = threadIdx.x % 32; i < splits; i += 32) row_max = parts[i].row_max > row_max ? parts[i].row_max : row_max;
  row_max = warp_max(row_max);
  for (int i = threadIdx.x % 32; i < splits; i += 32) {
    const Running<A> part = parts[i];
    sum += part.row_max == -infinity_<A>() ? part.sum : part.sum * exp_(part.row_max - row_max);
  }
  return finish_softmax(A(1), row_max, warp_sum(sum));
}

template <class F, class T, int kSize>
__global__ void __launch_bounds__(kMostThreads) split_index_kernel(const F f, const SoftmaxOperands o) {
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
      const Softmax<A> s = merged_softmax(static_cast<const Running<A>*>(o.split) + position * o.splits, o.splits);
      const ClassTerms<A> t = index_terms(f, o, s, static_cast<const A*>(o.class_logits)[position], y);
      const ClassTerms<A> normaliser = row_normaliser(o, s);
      const A scale = row_scale<A>(o, position);
      if (to) {
        write_index_gradient<A>(row, to, 1, s.inverse, y - begin, scale * t.slope, scale * normaliser.slope,
                                [&](int, int, A x) { return exp_<ExpPolicy<T>>(x - s.row_max); });
      }
      loss = t.loss + normaliser.loss;
    }
    if (threadIdx.x == 0 && part % o.splits == 0) {
      if (o.results.losses) static_cast<A*>(o.results.losses)[position] = loss;
      sum += loss;
    }
  }
  write_total<A>(o, sum);
}

// *denominator = the number of rows that count, or the sum of their classes' weights.
template <class A, bool kWeighted>
__global__ void __launch_bounds__(kMostThreads) denominator_kernel(const SoftmaxOperands o, double* denominator) {
  double sum = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < o.positions();
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t y = class_of(o, i);
    sum += y < 0 ? A(0) : kWeighted ? class_weight<A>(o, y) : A(1);
  }
  double total;
  if (grid_sum(sum, o.partial, o.finished, &total)) *denominator = total;
}
