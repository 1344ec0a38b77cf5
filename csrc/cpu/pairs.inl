// The hot loops of the pairs family, compiled once per instruction set (namespace FL_ISA).
// A row is read once from memory: its sum first, then its gradients while it is still in the cache.
#include "pairs.h"

namespace fused_losses::FL_ISA {

#include "../numerics.h"
#include "convert.h"
#include "../losses/terms.h"
#include "stream.h"
#include "../losses/binary.h"
#include "../losses/distance.h"
#include "../losses/vae.h"

constexpr int64_t kPairBlock = 1024;

template <class A>
constexpr Dtype kPairDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// n elements of up to four operands: returns the sum of their terms; writes grad[k] = coefficient * derivative for the
// operands of the bit mask kGrads.
template <class F, class A, unsigned kGrads>
A pairs_block(const F f, const A* __restrict a, const A* __restrict b, const A* __restrict c, const A* __restrict d,
              const A coefficient, A* __restrict ga, A* __restrict gb, A* __restrict gc, A* __restrict gd,
              const int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const RowTerms<A> r = f(a[i], b[i], F::kOperands > 2 ? c[i] : A(0), F::kOperands > 2 ? d[i] : A(0));
    sum += r.value;
    if constexpr ((kGrads & 1) != 0) ga[i] = coefficient * r.grad[0];
    if constexpr ((kGrads & 2) != 0) gb[i] = coefficient * r.grad[1];
    if constexpr ((kGrads & 4) != 0) gc[i] = coefficient * r.grad[2];
    if constexpr ((kGrads & 8) != 0) gd[i] = coefficient * r.grad[3];
  }
  return sum;
}

// float16 holds up to 65504: a larger finite gradient is stored as that.
template <class A>
void saturate_pairs(A* __restrict values, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] = max_(min_(values[i], A(65504)), A(-65504));
}

// The part of one row (or, for a linear loss, of the flat order) a block works on, converted where need be.
template <class A>
struct PairBuffers {
  alignas(64) A in[4][kPairBlock];
  alignas(64) A out[4][kPairBlock];
};

// Elements [begin, end): sum of the terms; with kGrads the gradients are written.
template <class F, class A, unsigned kGrads>
double pairs_range(const F f, const PairsTask& task, A coefficient, int64_t begin, int64_t end,
                   PairBuffers<A>* buffers) {
  const bool stream = task.stream && waits_for_memory(F::kWork);
  double sum = 0;
  for (int64_t at = begin; at < end; at += kPairBlock) {
    const int64_t n = kPairBlock < end - at ? kPairBlock : end - at;
    const A* in[4];
    A* out[4];
    for (int k = 0; k < 4; ++k) {
      in[k] = buffers->in[k];
      if (k < F::kOperands && task.operand[k]) {
        if (task.operand_dtype[k] == kPairDtype<A>) {
          in[k] = static_cast<const A*>(task.operand[k]) + at;
        } else {
          load_block(task.operand[k], task.operand_dtype[k], at, n, buffers->in[k]);
        }
      }
      const bool direct = (kGrads >> k & 1) && task.grad[k] && !stream && task.operand_dtype[k] == kPairDtype<A>;
      out[k] = direct ? static_cast<A*>(task.grad[k]) + at : buffers->out[k];
    }
    sum += pairs_block<F, A, kGrads>(f, in[0], in[1], in[2], in[3], coefficient, out[0], out[1], out[2], out[3], n);
    for (int k = 0; k < F::kOperands; ++k) {
      if (!((kGrads >> k & 1) && task.grad[k] && out[k] == buffers->out[k])) continue;
      if (F::kSaturates && task.operand_dtype[k] == Dtype::kFloat16) saturate_pairs(buffers->out[k], n);
      write_block(buffers->out[k], task.grad[k], task.operand_dtype[k], at, n, stream);
    }
  }
  return sum;
}

template <class A>
A pairs_value(const void* data, Dtype dtype, int64_t i) {
  A value;
  load_block(data, dtype, i, 1, &value);
  return value;
}

template <class F, class A, unsigned kGrads>
double pairs_rows(const F f, const PairsTask& task, int64_t begin, int64_t end) {
  PairBuffers<A> buffers;
  for (int k = 0; k < F::kOperands; ++k) {  // a missing operand reads zeros
    if (!task.operand[k]) std::memset(buffers.in[k], 0, sizeof(buffers.in[k]));
  }
  if (task.flat) {
    const A coefficient = static_cast<A>(task.scale) * f.finish(A(0), A(0)).coefficient;
    return pairs_range<F, A, kGrads>(f, task, coefficient, begin, end, &buffers);
  }
  double total = 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row * task.length, last = first + task.length;
    const A y = task.target ? pairs_value<A>(task.target, task.target_dtype, row) : A(0);
    A scale = static_cast<A>(task.scale);
    if (task.incoming) scale *= static_cast<const A*>(task.incoming)[row];
    RowLoss<A> result;
    if constexpr (F::kLinear || kGrads == 0) {
      const A coefficient = scale * f.finish(A(0), y).coefficient;
      result = f.finish(static_cast<A>(pairs_range<F, A, kGrads>(f, task, coefficient, first, last, &buffers)), y);
    } else {
      result = f.finish(static_cast<A>(pairs_range<F, A, 0>(f, task, A(1), first, last, &buffers)), y);
      pairs_range<F, A, kGrads>(f, task, scale * result.coefficient, first, last, &buffers);
    }
    if (task.loss) static_cast<A*>(task.loss)[row] = result.loss;
    total += result.loss;
  }
  return total;
}

template <template <class> class Functor, class A>
double pairs_loop(const PairsTask& task, int64_t begin, int64_t end) {
  unsigned given = 0, grads = 0;
  for (int k = 0; k < 4; ++k) {
    given |= (task.operand[k] != nullptr) << k;
    grads |= (task.grad[k] != nullptr) << k;
  }
  const double total = Functor<A>::with(task.options, given, [&](auto f) -> double {
    using F = decltype(f);
    if (grads == 0) return pairs_rows<F, A, 0>(f, task, begin, end);
    if constexpr (F::kOperands > 2) {
      if (grads >> 2) return pairs_rows<F, A, 15>(f, task, begin, end);
    }
    return pairs_rows<F, A, 3>(f, task, begin, end);  // a gradient not wanted goes to a buffer in the cache
  });
  if (task.stream) finish_streams();
  return total;
}

template <template <class> class Functor>
constexpr PairsEntry pairs_entry() {
  return {{pairs_loop<Functor, float>, pairs_loop<Functor, double>}, Functor<float>::kLinear};
}

#define FL_ENTRY(op, Functor) pairs_entry<Functor>(),
extern const PairsEntry pairs_loops[] = {FL_ROW_SUMS(FL_ENTRY)};
#undef FL_ENTRY

}  // namespace fused_losses::FL_ISA
