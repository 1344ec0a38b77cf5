// The hot loops of the elementwise family, compiled once per instruction set (namespace FL_ISA).
// A chunk is run in blocks: an operand stored in the accumulation dtype in place, any other through a buffer.
#include "cpu/elementwise.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "formulas/contract.h"
#include "cpu/streaming.h"
#include "cpu/lanes.h"
#include "cpu/lowest.h"
#include "formulas/binary.h"
#include "formulas/distance.h"
#include "formulas/divergence.h"
#include "formulas/regression.h"
#include "formulas/custom.h"

#include "cpu/class_indices.h"
#include "cpu/class_targets.h"

constexpr int64_t kBlock = 1024;
constexpr int64_t kAheadBlock = 256;  // elements of the first of two steps

enum Output : int { kSum = 1, kLoss = 2, kGradInput = 4, kGradTarget = 8, kGradOthers = 16 };

template <class A>
constexpr Dtype kDtypeOf = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

template <class F, class A>
void compute_ahead(const A* __restrict x, A* __restrict ahead, const int64_t n) {
  if constexpr (requires(Line<A> v) { F::ahead(v); }) {
    map_row(x, ahead, n, [](auto v) { return F::ahead(v); });
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) ahead[i] = F::ahead(x[i]);
  }
}

// The terms of element i; `ahead` is read only for a loss in two steps, p only with kExtras, third and fourth only for
// a loss of so many tensors.
template <class F, class A, bool kExtras>
FL_HD Terms<A> terms_at(const F& f, const A* x, const A* ahead, const A* t, const A* p, const A* third, const A* fourth,
                        const int64_t i) {
  const A pos_weight = kExtras ? p[i] : A(1);
  if constexpr (F::kTensors > 3) {
    return f(x[i], t[i], third[i], fourth[i]);
  } else if constexpr (F::kTensors > 2) {
    return f(x[i], t[i], third[i]);
  } else if constexpr (F::kAhead) {
    return f.terms(x[i], ahead[i], t[i], pos_weight);
  } else {
    return f(x[i], t[i], pos_weight);
  }
}

// `value` of an element with this target, 0 where it is ignored.
template <class F, class A>
FL_HD A unless_ignored(const F& f, A t, A value) {
  if constexpr (F::kIgnores) return t == f.ignore_index ? A(0) : value;
  return value;
}

// Whether an input and a target lie in the loss's domain; kOfIntegers: the target holds integers.
template <bool kOfIntegers, class F, class A>
FL_HD bool is_valid(const F f, A x, A t) {
  bool valid = true;
  if constexpr (F::kChecks) {
    valid = F::valid_input(x);
    valid &= F::valid_target(t);
  }
  if constexpr (F::kMask && kOfIntegers) {
    bool allowed = (t == A(0)) | (t == A(1));
    if constexpr (F::kIgnores) allowed |= f.ignored(t);
    valid &= allowed;
  }
  return valid;
}

// What a pass over a block finds: the sum of its losses, and how many elements are outside the loss's domain.
template <class T>
struct BlockSum {
  T sum = 0, invalid = 0;
};

// n elements; w and p are read only with kExtras. Returns the sum of w * loss; gradients are scale * w * derivative.
template <class F, class A, int kOut, bool kExtras>
BlockSum<A> elementwise_part(const F f, const A* __restrict x, const A* __restrict ahead, const A* __restrict t,
                             const A* __restrict w, const A* __restrict p, const A* __restrict third,
                             const A* __restrict fourth, const A scale, A* __restrict loss, A* __restrict grad_input,
                             A* __restrict grad_target, A* __restrict grad_third, A* __restrict grad_fourth,
                             const int64_t n) {
  A sum = 0, invalid = 0;
#pragma omp simd reduction(+ : sum, invalid)
  for (int64_t i = 0; i < n; ++i) {
    const Terms<A> r = terms_at<F, A, kExtras>(f, x, ahead, t, p, third, fourth, i);
    const A wi = kExtras ? w[i] : A(1);
    const A value = unless_ignored(f, t[i], wi * r.loss), slope = scale * wi;
    if constexpr ((kOut & kSum) != 0) sum += value;
    if constexpr ((kOut & kLoss) != 0) loss[i] = value;
    if constexpr ((kOut & kGradInput) != 0) grad_input[i] = unless_ignored(f, t[i], slope * r.grad_input);
    if constexpr ((kOut & kGradTarget) != 0) grad_target[i] = unless_ignored(f, t[i], slope * r.grad_target);
    if constexpr ((kOut & kGradOthers) != 0) {
      grad_third[i] = unless_ignored(f, t[i], slope * r.grad_third);
      if constexpr (F::kTensors > 3) grad_fourth[i] = unless_ignored(f, t[i], slope * r.grad_fourth);
    }
    if constexpr (F::kChecks) invalid += is_valid<false>(f, x[i], t[i]) ? A(0) : A(1);
  }
  return {sum, invalid};
}

// elementwise_part, of a loss in two steps in two loops: in one, its chain of dependent operations is longer than what
// a core looks ahead.
template <class F, class A, int kOut, bool kExtras>
BlockSum<double> elementwise_block(const F f, const A* x, const A* t, const A* w, const A* p, const A* third,
                                   const A* fourth, const A scale, A* loss, A* grad_input, A* grad_target,
                                   A* grad_third, A* grad_fourth, const int64_t n) {
  if constexpr (!F::kAhead) {
    const BlockSum<A> all = elementwise_part<F, A, kOut, kExtras>(f, x, nullptr, t, w, p, third, fourth, scale, loss,
                                                                  grad_input, grad_target, grad_third, grad_fourth, n);
    return {all.sum, all.invalid};
  } else {
    const auto from = [](bool used, auto* data, int64_t i) { return used ? data + i : data; };
    alignas(64) A ahead[kAheadBlock];
    BlockSum<double> all;
    for (int64_t i = 0; i < n; i += kAheadBlock) {
      const int64_t count = kAheadBlock < n - i ? kAheadBlock : n - i;
      compute_ahead<F>(x + i, ahead, count);
      const BlockSum<A> part = elementwise_part<F, A, kOut, kExtras>(
          f, x + i, ahead, t + i, from(kExtras, w, i), from(kExtras, p, i), nullptr, nullptr, scale,
          from(kOut & kLoss, loss, i), from(kOut & kGradInput, grad_input, i), from(kOut & kGradTarget, grad_target, i),
          nullptr, nullptr, count);
      all.sum += part.sum;
      all.invalid += part.invalid;
    }
    return all;
  }
}

// The first of n elements that is not valid, or n.
template <bool kOfIntegers, class F, class A>
int64_t first_invalid(const F f, const A* __restrict x, const A* __restrict t, const int64_t n) {
  A bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int64_t i = 0; i < n; ++i) bad += is_valid<kOfIntegers>(f, x[i], t[i]) ? A(0) : A(1);
  if (bad == A(0)) return n;
  int64_t i = 0;
  while (is_valid<kOfIntegers>(f, x[i], t[i])) ++i;
  return i;
}

// Values [begin, begin + n) of a source: in place where it can be, else written to buffer [n].
template <class A>
const A* values(const Operand& s, int64_t begin, int64_t n, A* buffer) {
  if (s.period == 0) {
    if (s.dtype == kDtypeOf<A>) return static_cast<const A*>(s.data) + begin;
    load_block(s.data, s.dtype, begin, n, buffer);
    return buffer;
  }
  const A* table = static_cast<const A*>(s.data);  // broadcast operands arrive in the accumulation dtype
  for (int64_t i = 0; i < n;) {
    const int64_t row = (begin + i) / s.inner;
    const int64_t left = s.inner == 1 ? s.period - row % s.period : s.inner - (begin + i) % s.inner;
    const int64_t run = left < n - i ? left : n - i;
    const A* from = table + row % s.period;
    if (s.inner == 1) {
      std::memcpy(buffer + i, from, run * sizeof(A));
    } else {
      const A value = *from;
      for (int64_t k = 0; k < run; ++k) buffer[i + k] = value;
    }
    i += run;
  }
  return buffer;
}

template <class A>
A* output(void* data, Dtype dtype, int64_t begin, A* buffer, bool buffered) {
  return data && !buffered && dtype == kDtypeOf<A> ? static_cast<A*>(data) + begin : buffer;
}

template <class A>
const A* ones(int64_t n, A* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = A(1);
  return buffer;
}

// The weight of each element times its incoming gradient; ones where neither is given.
template <class A>
const A* factors(const ElementwiseTask& task, int64_t begin, int64_t n, A* buffer, A* second) {
  if (task.weight && task.incoming) {
    const A* w = values(task.weight, begin, n, buffer);
    const A* g = values(task.incoming, begin, n, second);
    for (int64_t i = 0; i < n; ++i) buffer[i] = w[i] * g[i];
    return buffer;
  }
  if (task.weight) return values(task.weight, begin, n, buffer);
  if (task.incoming) return values(task.incoming, begin, n, buffer);
  return ones(n, buffer);
}

// The third and fourth tensor of a loss of more than two, and their gradients, block by block.
template <class A, int kFirst, int kTensors>
struct OtherTensors {
  static constexpr bool kAny = kTensors > kFirst;
  alignas(64) A read[kAny ? kBlock : 1], written[kAny ? kBlock : 1];
  const A* in = nullptr;
  A* out = nullptr;

  void at(const Operand& operand, void* gradient, int64_t begin, int64_t n, bool non_temporal) {
    if constexpr (!kAny) return;
    in = values(operand, begin, n, read);
    out = output(gradient, operand.dtype, begin, written, non_temporal);
  }

  void write(const Operand& operand, void* gradient, int64_t begin, int64_t n, bool non_temporal) const {
    if (kAny && gradient && out == written) write_block(written, gradient, operand.dtype, begin, n, non_temporal);
  }
};

template <class F, class A, int kOut>
double elementwise_range(const F f, const ElementwiseTask& task, int64_t begin, int64_t end) {
  const bool extras = task.weight || task.pos_weight || task.incoming;
  const bool non_temporal = task.non_temporal && waits_for_memory(F::kWork);
  const bool buffered = non_temporal || task.grad_input == task.input.data;
  alignas(64) A xs[kBlock], ts[kBlock], ws[kBlock], ps[kBlock], gs[kBlock], dx[kBlock], dt[kBlock];
  OtherTensors<A, 2, F::kTensors> third;
  OtherTensors<A, 3, F::kTensors> fourth;
  const A scale = static_cast<A>(task.scale);
  double sum = 0;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = kBlock < end - at ? kBlock : end - at;
    const A* x = values(task.input, at, n, xs);
    const A* t = task.classes ? ts : values(task.target, at, n, ts);
    if (task.classes && !class_targets(task, at, n, ts)) {
      note_lowest(task.invalid, 0);  // of the problem: the driver looks for it
      return 0;
    }
    if (F::kMask && task.mask) {
      const int64_t i = first_invalid<true>(f, x, t, n);
      if (i < n) {
        note_lowest(task.invalid, at + i);
        return 0;
      }
    }
    A* loss = static_cast<A*>(task.results.losses);
    A* grad_input = output(task.grad_input, task.input.dtype, at, dx, buffered);
    A* grad_target = output(task.grad_target, task.target.dtype, at, dt, buffered);
    if (kOut & kLoss) loss += at;
    third.at(task.third, task.grad_third, at, n, non_temporal);
    fourth.at(task.fourth, task.grad_fourth, at, n, non_temporal);
    BlockSum<double> block;
    if (extras) {
      const A* w = factors(task, at, n, ws, gs);
      const A* p = task.pos_weight ? values(task.pos_weight, at, n, ps) : ones(n, ps);
      block = elementwise_block<F, A, kOut, true>(f, x, t, w, p, third.in, fourth.in, scale, loss, grad_input,
                                                  grad_target, third.out, fourth.out, n);
    } else {
      block = elementwise_block<F, A, kOut, false>(f, x, t, nullptr, nullptr, third.in, fourth.in, scale, loss,
                                                   grad_input, grad_target, third.out, fourth.out, n);
    }
    if (F::kChecks && block.invalid != 0) {
      note_lowest(task.invalid, at + first_invalid<false>(f, x, t, n));
      return 0;
    }
    sum += block.sum;
    if (F::kSaturates && (kOut & kGradInput) && task.input.dtype == Dtype::kFloat16) saturate(dx, n);
    if ((kOut & kGradInput) && grad_input == dx && task.grad_input)
      write_block(dx, task.grad_input, task.input.dtype, at, n, non_temporal);
    if ((kOut & kGradTarget) && grad_target == dt && task.grad_target)
      write_block(dt, task.grad_target, task.target.dtype, at, n, non_temporal);
    if constexpr ((kOut & kGradOthers) != 0) {
      third.write(task.third, task.grad_third, at, n, non_temporal);
      fourth.write(task.fourth, task.grad_fourth, at, n, non_temporal);
    }
  }
  if (non_temporal) finish_non_temporal();
  return sum;
}

template <template <class> class Functor, bool kHasGradTarget, class A>
double elementwise_loop(const ElementwiseTask& task, int64_t begin, int64_t end) {
  return Functor<A>::with(*task.options, [&](auto f) -> double {
    using F = decltype(f);
    if (task.results.losses) return elementwise_range<F, A, kLoss>(f, task, begin, end);
    if constexpr (F::kTensors > 2) {  // a gradient not wanted goes to a buffer in the cache
      constexpr int kTarget = kHasGradTarget ? kGradTarget : 0;
      if (task.grad_target || task.grad_third || task.grad_fourth)
        return elementwise_range<F, A, kSum | kGradInput | kTarget | kGradOthers>(f, task, begin, end);
    }
    if constexpr (kHasGradTarget) {
      if (task.grad_input && task.grad_target)
        return elementwise_range<F, A, kSum | kGradInput | kGradTarget>(f, task, begin, end);
      if (task.grad_target) return elementwise_range<F, A, kSum | kGradTarget>(f, task, begin, end);
    }
    if (task.grad_input) return elementwise_range<F, A, kSum | kGradInput>(f, task, begin, end);
    return elementwise_range<F, A, kSum>(f, task, begin, end);
  });
}

template <class F, class A>
double count_block(const F f, const A* __restrict v, const int64_t n) {
  A count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (F::kIgnores) {
      count += f.ignored(v[i]) ? A(0) : A(1);
    } else {
      count += v[i];
    }
  }
  return count;
}

// What elements [begin, end) add to the denominator of the mean: the weights, or the number not ignored.
template <template <class> class Functor, class A>
double elementwise_count(const ElementwiseTask& task, int64_t begin, int64_t end) {
  return Functor<A>::with(*task.options, [&](auto f) -> double {
    using F = decltype(f);
    alignas(64) A buffer[kBlock];
    double count = 0;
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = kBlock < end - at ? kBlock : end - at;
      const A* v = values(F::kWeightedMean ? task.weight : task.target, at, n, buffer);
      count += count_block<F, A>(f, v, n);
    }
    return count;
  });
}

template <template <class> class Functor, bool kHasGradTarget>
constexpr ElementwiseEntry elementwise_entry() {
  using F = Functor<float>;
  ElementwiseEntry entry{
      {elementwise_loop<Functor, kHasGradTarget, float>, elementwise_loop<Functor, kHasGradTarget, double>},
      {nullptr, nullptr},
      F::kWeightedMean,
      F::kMask,
      nullptr,
      nullptr,
      nullptr};
  if constexpr (F::kChecks) {
    entry.expected_input = F::kExpectedInput;
    entry.expected_target = F::kExpectedTarget;
    entry.valid_input = [](double x) { return Functor<double>::valid_input(x); };
  }
  if constexpr (F::kIgnores || F::kWeightedMean) {
    entry.count[0] = elementwise_count<Functor, float>;
    entry.count[1] = elementwise_count<Functor, double>;
  }
  return entry;
}

#define FL_ENTRY(op, Functor, differentiable, ...) elementwise_entry<Functor, lists(differentiable, "target")>(),
extern const ElementwiseEntry elementwise_loops[] = {FL_ELEMENTWISE_LOSSES(FL_ENTRY)};
#undef FL_ENTRY

}  // namespace fused_losses::FL_ISA
