// The products of CUDA as a device of the losses that have one in them, and the kernels around them: sums of products
// of halves, casts of gradients, the total of the losses. Included inside the anonymous namespace of a .cu that
// includes results.cuh, reduce.cuh, pack.cuh and host/product.h.

// out[i, j] = factor product[i, j] (+ out[i, j]); product: [rows, columns], out: rows `stride` apart.
__global__ void __launch_bounds__(kThreads) add_product_kernel(const float* product, float factor, bool add, float* out,
                                                               int64_t rows, int64_t columns, int64_t stride) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < rows * columns;
       i += int64_t{gridDim.x} * blockDim.x) {
    float* to = out + i / columns * stride + i % columns;
    const float value = factor * product[i];
    *to = add ? *to + value : value;
  }
}

// to[i] = sum[i] times the factor of the gradients; a sum of 0 stays 0 where nothing counts and the factor is infinite.
template <class T>
__global__ void __launch_bounds__(kThreads)
    store_kernel(const Accumulation<T>* sum, const Results results, T* to, int64_t n) {
  using A = Accumulation<T>;
  const A scale = gradient_scale<A>(results, results.counted);
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    to[i] = narrow<T>(sum[i] == A(0) ? A(0) : sum[i] * scale);
  }
}

// The total of n losses.
template <class A>
__global__ void __launch_bounds__(kThreads)
    total_kernel(const A* losses, int64_t n, const Results results, double* partial, unsigned* finished) {
  double sum = 0, total;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    sum += losses[i];
  }
  if (grid_sum(sum, partial, finished, &total)) store_total<A>(results, results.counted, total);
}

struct CudaProducts : CudaDevice {
  static constexpr int64_t kTileBytes = fused_losses::cuda::kTileBytes, kLeastRows = 64;

  // Halves as they are, into float32; but a float16 gradient times an incoming one of each row may underflow.
  static Dtype product_dtype(Dtype dtype, const Results& results) {
    return dtype == Dtype::kFloat16 && results.per_item ? Dtype::kFloat32 : dtype;
  }

  static void multiply(const Tensor& a, const Tensor& b, double factor, bool add, const Tensor& out) {
    if (dtype_of(a) == dtype_of(out)) return library_product(a, b, factor, add, out);
    const int64_t rows = out.size(0), columns = out.size(1);
    if (!add && factor == 1) return library_product_of_halves(a, b, out);
    const Tensor product = new_tensor(out, {rows, columns}, Dtype::kFloat32);
    library_product_of_halves(a, b, product);
    const Launch launch(out);
    launch(add_product_kernel, launch.grid(rows * columns, kThreads), kThreads, 0,
           static_cast<const float*>(product.const_data_ptr()), static_cast<float>(factor), add,
           static_cast<float*>(out.mutable_data_ptr()), rows, columns, out.stride(0));
  }

  static void store(const Matrix& sum, const Results* scale, const Matrix& to) {
    const Launch launch(to.owner);
    const int64_t n = to.rows * to.columns;
    with_floating(dtype_of(to.owner), [&](auto tag) {
      using T = decltype(tag);
      launch(store_kernel<T>, launch.grid(n, kThreads), kThreads, 0, static_cast<const Accumulation<T>*>(sum.data()),
             scale ? *scale : Results{}, static_cast<T*>(to.data()), n);
    });
  }

  static void reduce(const Tensor& losses, const Results& results) {
    const Launch launch(losses);
    with_floating(dtype_of(losses), [&](auto tag) {
      using A = Accumulation<decltype(tag)>;
      const int grid = launch.grid(losses.numel(), 4 * kThreads);
      GridSum sum(launch, losses, grid);
      launch(total_kernel<A>, grid, kThreads, 0, static_cast<const A*>(losses.const_data_ptr()), losses.numel(),
             results, sum.data(), sum.finished);
    });
  }
};
