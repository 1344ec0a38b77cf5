// The hot loops of the row-sums family, compiled once per instruction set (namespace FL_ISA).
// A row is read once from memory: its sum first, then its gradients while it is still in the cache.
#include "cpu/lowest.h"
#include "cpu/row_sums.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/contract.h"
#include "cpu/streaming.h"
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/vae.h"
#include "formulas/custom.h"

constexpr int64_t kRowSumsBlock = 1024;
constexpr int64_t kBlockedRow = 32;  // rows up to this length are worked on by the block

template <class A>
constexpr Dtype kRowSumsDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// n elements of up to four operands: returns the sum of their terms; writes grad[k] = coefficient * derivative for the
// operands of the bit mask kGrads.
template <class F, class A, unsigned kGrads>
A row_sums_block(const F f, const A* __restrict a, const A* __restrict b, const A* __restrict c, const A* __restrict d,
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

// The part of one row (or, for a linear loss, of the flat order) a block works on, converted where need be.
template <class A>
struct RowSumsBuffers {
  alignas(64) A in[4][kRowSumsBlock];
  alignas(64) A out[4][kRowSumsBlock];
};

// Where elements [at, at + n) of the operands are read and their gradients computed: in place, or in the buffers.
template <class F, class A, unsigned kGrads>
struct RowSumsSpan {
  const RowSumsTask& task;
  const int64_t at, n;
  RowSumsBuffers<A>* const buffers;
  const bool non_temporal;
  const A* in[4];
  A* out[4];

  RowSumsSpan(const RowSumsTask& task, int64_t at, int64_t n, RowSumsBuffers<A>* buffers)
      : task(task), at(at), n(n), buffers(buffers), non_temporal(task.non_temporal && waits_for_memory(F::kWork)) {
    for (int k = 0; k < 4; ++k) {
      in[k] = buffers->in[k];
      if (k < F::kOperands && task.operands[k].data) {
        if (task.operands[k].dtype == kRowSumsDtype<A>) {
          in[k] = static_cast<const A*>(task.operands[k].data) + at;
        } else {
          load_block(task.operands[k].data, task.operands[k].dtype, at, n, buffers->in[k]);
        }
      }
      const bool direct = wanted(k) && !non_temporal && task.operands[k].dtype == kRowSumsDtype<A>;
      out[k] = direct ? static_cast<A*>(task.gradients[k]) + at : buffers->out[k];
    }
  }

  bool wanted(int k) const { return (kGrads >> k & 1) && task.gradients[k]; }

  // The sum of the terms, or with kWrites their gradients too.
  template <unsigned kWrites>
  A run(const F f, A coefficient) const {
    return row_sums_block<F, A, kWrites>(f, in[0], in[1], in[2], in[3], coefficient, out[0], out[1], out[2], out[3], n);
  }

  // Notes the first element that is not valid, where the sum of the terms tells of one, or of NaN.
  void look(A sum) const {
    if constexpr (F::kChecks) {
      if (sum >= A(0)) return;
      for (int64_t i = 0; i < n; ++i) {
        if (!F::valid(in[0][i], in[1][i])) return note_lowest(task.invalid, at + i);
      }
    }
  }

  void write() const {
    for (int k = 0; k < F::kOperands; ++k) {
      if (!wanted(k) || out[k] != buffers->out[k]) continue;
      if (F::kSaturates && task.operands[k].dtype == Dtype::kFloat16) saturate(buffers->out[k], n);
      write_block(buffers->out[k], task.gradients[k], task.operands[k].dtype, at, n, non_temporal);
    }
  }
};

// Elements [begin, end): sum of the terms; with kGrads the gradients are written.
template <class F, class A, unsigned kGrads>
double row_sums_range(const F f, const RowSumsTask& task, A coefficient, int64_t begin, int64_t end,
                      RowSumsBuffers<A>* buffers) {
  double sum = 0;
  for (int64_t at = begin; at < end; at += kRowSumsBlock) {
    const int64_t n = kRowSumsBlock < end - at ? kRowSumsBlock : end - at;
    const RowSumsSpan<F, A, kGrads> s(task, at, n, buffers);
    const A part = s.template run<kGrads>(f, coefficient);
    s.look(part);
    sum += part;
    s.write();
  }
  return sum;
}

template <class A>
A row_sums_value(const void* data, Dtype dtype, int64_t i) {
  A value;
  load_block(data, dtype, i, 1, &value);
  return value;
}

// ---- Rows too short for a loop of their own: whole rows of a block at once. ----

// The terms of n elements.
template <class F, class A>
void element_terms(const F f, const A* __restrict a, const A* __restrict b, const A* __restrict c,
                   const A* __restrict d, A* __restrict values, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    values[i] = f(a[i], b[i], F::kOperands > 2 ? c[i] : A(0), F::kOperands > 2 ? d[i] : A(0)).value;
  }
}

// values [rows, length] summed along its rows; returns the sum of all.
template <class A>
A sum_short_rows(const A* __restrict values, const int64_t length, A* __restrict sums, const int64_t rows) {
  A all = 0;
  for (int64_t r = 0; r < rows; ++r, values += length) {
    A sum = 0;
    for (int64_t j = 0; j < length; ++j) sum += values[j];
    sums[r] = sum;
    all += sum;
  }
  return all;
}

// Each of `rows` factors repeated `length` times.
template <class A>
void repeat_factors(const A* __restrict factors, const int64_t length, A* __restrict repeated, const int64_t rows) {
  for (int64_t r = 0; r < rows; ++r, repeated += length) {
    for (int64_t j = 0; j < length; ++j) repeated[j] = factors[r];
  }
}

// Losses and, in place of `scale`, the factors of the derivatives of `rows` rows.
template <class F, class A>
void finish_rows(const F f, const A* __restrict sums, const A* __restrict y, A* __restrict scale, A* __restrict loss,
                 const int64_t rows) {
#pragma omp simd
  for (int64_t r = 0; r < rows; ++r) {
    const RowLoss<A> result = f.finish(sums[r], y[r]);
    loss[r] = result.loss;
    scale[r] *= result.coefficient;
  }
}

template <class F, class A, unsigned kGrads>
void element_slopes(const F f, const A* __restrict a, const A* __restrict b, const A* __restrict c,
                    const A* __restrict d, const A* __restrict factor, A* __restrict ga, A* __restrict gb,
                    A* __restrict gc, A* __restrict gd, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const RowTerms<A> r = f(a[i], b[i], F::kOperands > 2 ? c[i] : A(0), F::kOperands > 2 ? d[i] : A(0));
    if constexpr ((kGrads & 1) != 0) ga[i] = factor[i] * r.grad[0];
    if constexpr ((kGrads & 2) != 0) gb[i] = factor[i] * r.grad[1];
    if constexpr ((kGrads & 4) != 0) gc[i] = factor[i] * r.grad[2];
    if constexpr ((kGrads & 8) != 0) gd[i] = factor[i] * r.grad[3];
  }
}

template <class F, class A, unsigned kGrads>
double row_sums_short_rows(const F f, const RowSumsTask& task, int64_t begin, int64_t end, RowSumsBuffers<A>* buffers) {
  alignas(64) A values[kRowSumsBlock], sums[kRowSumsBlock], y[kRowSumsBlock] = {}, scale[kRowSumsBlock],
                                                            loss[kRowSumsBlock];
  const int64_t most = kRowSumsBlock / task.length;
  double total = 0;
  for (int64_t row = begin; row < end; row += most) {
    const int64_t rows = most < end - row ? most : end - row, n = rows * task.length;
    const RowSumsSpan<F, A, kGrads> s(task, row * task.length, n, buffers);
    element_terms(f, s.in[0], s.in[1], s.in[2], s.in[3], values, n);
    s.look(sum_short_rows(values, task.length, sums, rows));
    if (task.labels.data) load_block(task.labels.data, task.labels.dtype, row, rows, y);
    for (int64_t r = 0; r < rows; ++r) {
      scale[r] = static_cast<A>(task.scale) *
                 (task.results.per_item ? static_cast<const A*>(task.results.incoming)[row + r] : A(1));
    }
    finish_rows(f, sums, y, scale, loss, rows);
    if constexpr (kGrads != 0) {
      repeat_factors(scale, task.length, values, rows);
      element_slopes<F, A, kGrads>(f, s.in[0], s.in[1], s.in[2], s.in[3], values, s.out[0], s.out[1], s.out[2],
                                   s.out[3], n);
      s.write();
    }
    if (task.results.losses)
      std::memcpy(static_cast<A*>(task.results.losses) + row, loss, static_cast<size_t>(rows) * sizeof(A));
    for (int64_t r = 0; r < rows; ++r) total += loss[r];
  }
  return total;
}

template <class F, class A, unsigned kGrads>
double row_sums_rows(const F f, const RowSumsTask& task, int64_t begin, int64_t end) {
  RowSumsBuffers<A> buffers;
  for (int k = 0; k < F::kOperands; ++k) {  // a missing operand reads zeros
    if (!task.operands[k].data) std::memset(buffers.in[k], 0, sizeof(buffers.in[k]));
  }
  if (task.flat) {
    const A coefficient = static_cast<A>(task.scale) * f.finish(A(0), A(0)).coefficient;
    return row_sums_range<F, A, kGrads>(f, task, coefficient, begin, end, &buffers);
  }
  if (task.length > 0 && task.length <= kBlockedRow) {
    return row_sums_short_rows<F, A, kGrads>(f, task, begin, end, &buffers);
  }
  double total = 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = row * task.length, last = first + task.length;
    const A y = task.labels.data ? row_sums_value<A>(task.labels.data, task.labels.dtype, row) : A(0);
    A scale = static_cast<A>(task.scale);
    if (task.results.per_item) scale *= static_cast<const A*>(task.results.incoming)[row];
    RowLoss<A> result;
    if constexpr (F::kLinear || kGrads == 0) {
      const A coefficient = scale * f.finish(A(0), y).coefficient;
      result = f.finish(static_cast<A>(row_sums_range<F, A, kGrads>(f, task, coefficient, first, last, &buffers)), y);
    } else if (task.length <= kRowSumsBlock) {  // of one block, which is loaded once
      const RowSumsSpan<F, A, kGrads> s(task, first, task.length, &buffers);
      result = f.finish(s.template run<0>(f, A(1)), y);
      s.template run<kGrads>(f, scale * result.coefficient);
      s.write();
    } else {
      result = f.finish(static_cast<A>(row_sums_range<F, A, 0>(f, task, A(1), first, last, &buffers)), y);
      row_sums_range<F, A, kGrads>(f, task, scale * result.coefficient, first, last, &buffers);
    }
    if (task.results.losses) static_cast<A*>(task.results.losses)[row] = result.loss;
    total += result.loss;
  }
  return total;
}

template <template <class> class Functor, class A>
double row_sums_loop(const RowSumsTask& task, int64_t begin, int64_t end) {
  unsigned given = 0, grads = 0;
  for (int k = 0; k < 4; ++k) {
    given |= (task.operands[k].data != nullptr) << k;
    grads |= (task.gradients[k] != nullptr) << k;
  }
  const double total = Functor<A>::with(*task.options, given, [&](auto f) -> double {
    using F = decltype(f);
    if (grads == 0) return row_sums_rows<F, A, 0>(f, task, begin, end);
    if constexpr (F::kOperands == 1) return row_sums_rows<F, A, 1>(f, task, begin, end);
    if constexpr (F::kOperands > 2) {
      if (grads >> 2) return row_sums_rows<F, A, 15>(f, task, begin, end);
    }
    return row_sums_rows<F, A, 3>(f, task, begin, end);  // a gradient not wanted goes to a buffer in the cache
  });
  if (task.non_temporal) finish_non_temporal();
  return total;
}

template <template <class> class Functor>
constexpr RowSumsEntry row_sums_entry() {
  return {{row_sums_loop<Functor, float>, row_sums_loop<Functor, double>}, Functor<float>::kLinear};
}

#define FL_ENTRY(op, Functor, ...) row_sums_entry<Functor>(),
extern const RowSumsEntry row_sums_loops[] = {FL_ROW_SUMS(FL_ENTRY)};
#undef FL_ENTRY

}  // namespace fused_losses::FL_ISA
