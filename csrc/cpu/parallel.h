// The parallel loop and the ordered sum that every CPU driver uses.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <vector>

namespace fused_losses {

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

}  // namespace fused_losses
