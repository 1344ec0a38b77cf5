// The loops of unit rows, compiled once per instruction set (namespace FL_ISA).
#include "cpu/unit_rows.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/unit_row.h"

template <class A>
A row_product(const A* __restrict a, const A* __restrict b, const int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class A>
void unit_row(const A* x, A* u, const UnitRow<A> row, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) u[i] = row.value(x[i]);
}

template <class A>
void unit_row_gradient(const A* __restrict g, const A* __restrict u, A* __restrict out, const UnitRow<A> row,
                       const A along, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = row.gradient(g[i], u[i], along);
}

template <class A>
void unit_rows(const UnitRows& task, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t at = r * task.length;
    A* u = static_cast<A*>(task.rows) + at;
    const A* x = u;  // a half is widened there
    if (element_size(task.dtype) == sizeof(A)) {
      x = static_cast<const A*>(task.input) + at;
    } else {
      load_block(task.input, task.dtype, at, task.length, u);
    }
    const A norm = sqrt_(row_product(x, x, task.length));
    static_cast<A*>(task.norms)[r] = norm;
    unit_row(x, u, UnitRow<A>(norm), task.length);
  }
}

template <class A>
void unit_rows_gradient(const UnitRows& task, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 512;
  A buffer[kBlock];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t at = r * task.length;
    const A *g = static_cast<const A*>(task.incoming) + at, *u = static_cast<const A*>(task.rows) + at;
    const UnitRow<A> row(static_cast<const A*>(task.norms)[r]);
    const A along = row_product(g, u, task.length);
    if (element_size(task.dtype) == sizeof(A)) {
      unit_row_gradient(g, u, static_cast<A*>(task.gradient) + at, row, along, task.length);
      continue;
    }
    for (int64_t i = 0; i < task.length; i += kBlock) {
      const int64_t n = kBlock < task.length - i ? kBlock : task.length - i;
      unit_row_gradient(g + i, u + i, buffer, row, along, n);
      store_block(buffer, task.gradient, task.dtype, at + i, n);
    }
  }
}

template <class Run>
void in_accumulation_dtype(const UnitRows& task, const Run& run) {
  task.dtype == Dtype::kFloat64 ? run(double{}) : run(float{});
}

extern const UnitRowsLoops unit_rows_loops = {
    [](const UnitRows& task, int64_t begin, int64_t end) {
      in_accumulation_dtype(task, [&](auto tag) { unit_rows<decltype(tag)>(task, begin, end); });
    },
    [](const UnitRows& task, int64_t begin, int64_t end) {
      in_accumulation_dtype(task, [&](auto tag) { unit_rows_gradient<decltype(tag)>(task, begin, end); });
    }};

}  // namespace fused_losses::FL_ISA
