// Which instruction set the loops of this process use, and the parallel loop and scalars every CPU driver shares.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "host/tensor.h"

namespace fused_losses {

enum class Isa : int { kDefault = 0, kAvx2 = 1, kAvx512 = 2 };

// The best the CPU has, unless FUSED_LOSSES_CPU_ISA, else ATEN_CPU_CAPABILITY, or `set_isa` asks for less.
Isa active_isa();
// "default", "avx2", "avx512", or "" for automatic; returns the one now in use. std::invalid_argument otherwise.
Isa set_isa(const std::string& name);
const char* isa_name(Isa isa);
std::vector<std::string> supported_isas();

// The entry of a table of loops that exists once per instruction set.
template <class Table>
const auto& for_isa(const Table& base, const Table& avx2, const Table& avx512) {
  const Isa isa = active_isa();
  return isa == Isa::kAvx512 ? avx512 : isa == Isa::kAvx2 ? avx2 : base;
}

constexpr int64_t kChunk = 16 * 1024;             // elements for which one partial sum is kept
constexpr int64_t kParallelElements = 64 * 1024;  // below this a fork costs more than it saves

// run(begin, end) over parts of [0, n), `cost` elements of work each; the parts depend on the threads, so a result must
// not depend on where a part ends.
template <class Run>
void parallel(int64_t n, int64_t cost, const Run& run) {
  if (n <= 1 || n * cost <= kParallelElements) {
    if (n > 0) run(int64_t{0}, n);
    return;
  }
  const int64_t grain = kParallelElements / 2 / (cost > 0 ? cost : 1);
  torch::stable::parallel_for(0, n, grain > 0 ? grain : 1, run);
}

// Sum over [0, n) of part(begin, end), items of `cost` elements, in chunks of about kChunk elements added in order: the
// same bits for any number of threads.
template <class Part>
double chunked_sum(int64_t n, int64_t cost, const Part& part) {
  const int64_t chunk = cost >= kChunk ? 1 : kChunk / (cost > 0 ? cost : 1);
  if (n <= chunk) return n > 0 ? part(int64_t{0}, n) : 0.0;
  const int64_t chunks = (n + chunk - 1) / chunk;
  std::vector<double> partial(chunks);
  parallel(chunks, chunk * cost, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) partial[c] = part(c * chunk, c + 1 < chunks ? (c + 1) * chunk : n);
  });
  double sum = 0;
  for (const double p : partial) sum += p;
  return sum;
}

template <class Part>
double chunked_sum(int64_t n, const Part& part) {
  return chunked_sum(n, 1, part);
}

// A new scalar of the accumulation dtype of `like`, unset.
Tensor new_scalar(const Tensor& like);
void set_scalar(Tensor& t, double value);
// The value of a tensor of one float32 or float64 element.
double scalar_value(const Tensor& t);
// n values of any dtype as float or double; for small operands, not for hot loops.
void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, float* out);
void read_values(const void* data, Dtype dtype, int64_t begin, int64_t n, double* out);

}  // namespace fused_losses
