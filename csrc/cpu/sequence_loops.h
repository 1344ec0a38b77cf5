// The hot loops of the sequence family, compiled once per instruction set (namespace FL_ISA).
// A row of logits is read once for its softmax and the reference's tokens, once more for its gradient.
#include "cpu/sequence.h"

namespace fused_losses::FL_ISA {

#include "math/numerics.h"
#include "math/convert.h"
#include "cpu/lanes.h"
#include "formulas/sequence.h"

constexpr int64_t kSequenceBlock = 2048;

template <class A>
constexpr Dtype kSequenceDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

template <class A>
void scaled_exponentials(const A* x, const A row_max, const A factor, A* out, const int64_t n) {
  map_row(x, out, n, [=](auto v) { return factor * detail::exp_minus(row_max - v); });
}

// n logits from element `at`: in place, or converted into the buffer.
template <class A>
const A* logits_block(const SequenceTask& task, int64_t at, int64_t n, A* buffer) {
  if (task.logits.dtype == kSequenceDtype<A>) return static_cast<const A*>(task.logits.data) + at;
  load_block(task.logits.data, task.logits.dtype, at, n, buffer);
  return buffer;
}

template <class A>
void sequence_read(const SequenceTask& task, int64_t begin, int64_t end) {
  alignas(64) A buffer[kSequenceBlock];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t sample = row / task.steps, step = row % task.steps, first = row * task.classes;
    if (step >= task.sentence_length[sample]) continue;
    A row_max = -infinity_<A>();
    double sum = 0;
    for (int64_t at = 0; at < task.classes; at += kSequenceBlock) {
      const int64_t n = kSequenceBlock < task.classes - at ? kSequenceBlock : task.classes - at;
      const A* x = logits_block(task, first + at, n, buffer);
      const A block_max = maximum(x, n);
      if (block_max > row_max) {
        sum *= detail::exp_minus(static_cast<double>(block_max) - row_max);
        row_max = block_max;
      }
      const A shift = row_max == -infinity_<A>() ? A(0) : row_max;
      sum += row_exp<A, false, false, false>(x, nullptr, A(1), shift, nullptr, nullptr, n);
    }
    const A inverse = static_cast<A>(1 / sum);
    A* softmax = static_cast<A*>(task.softmax) + 2 * row;
    softmax[0] = row_max;
    softmax[1] = inverse;
    const int64_t* token = task.token + sample * task.places;
    A* probability = static_cast<A*>(task.probability) + row * task.places;
    for (int64_t u = 0, n = task.reference_length[sample]; u < n; ++u) {
      A x = 0;
      load_block(task.logits.data, task.logits.dtype, first + token[u], 1, &x);
      probability[u] = exp_(x - row_max) * inverse;
    }
  }
}

// to = x * y
template <class A>
void multiply(const A* __restrict x, const A* __restrict y, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] * y[i];
}

// to *= x
template <class A>
void scale_by(const A* __restrict x, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] *= x[i];
}

// to += x
template <class A>
void add(const A* __restrict x, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += x[i];
}

// to += x * y
template <class A>
void add_product(const A* __restrict x, const A* __restrict y, A* __restrict to, const int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += x[i] * y[i];
}

// One sample: p [length, places] its probabilities, and its scratch.
template <class A>
struct Sentence {
  const A* p;
  int64_t length, reference_length, stride, orders;
  A* chain;   // [orders, stride] chain[n][u]: probability of the n + 1 tokens from place u at the current step
  A* weight;  // [orders, stride] expected counts, then the derivative of the result by them
  A* flow;    // [stride]
};

// chain of step t; returns the orders that fit.
template <class A>
int64_t multiply_chain(const Sentence<A>& s, int64_t t) {
  const int64_t fit = s.orders < s.length - t ? s.orders : s.length - t;
  std::memcpy(s.chain, s.p + t * s.stride, static_cast<size_t>(s.reference_length) * sizeof(A));
  for (int64_t n = 1; n < fit; ++n) {
    multiply(s.chain + (n - 1) * s.stride, s.p + (t + n) * s.stride + n, s.chain + n * s.stride,
             s.reference_length - n);
  }
  return fit;
}

// by_probability from the weights: the chain rule along each diagonal of p.
template <class A>
void match_gradient(const Sentence<A>& s, A* by_probability) {
  for (int64_t t = 0; t < s.length; ++t) {
    std::memset(by_probability + t * s.stride, 0, static_cast<size_t>(s.reference_length) * sizeof(A));
  }
  for (int64_t t = 0; t < s.length; ++t) {
    const int64_t fit = multiply_chain(s, t);
    for (int64_t n = fit; n-- > 0;) {
      const int64_t starts = s.reference_length - n;
      const A* weight = s.weight + n * s.stride;
      if (n == fit - 1) {
        std::memcpy(s.flow, weight, static_cast<size_t>(starts) * sizeof(A));
      } else {
        scale_by(s.p + (t + n + 1) * s.stride + n + 1, s.flow, starts - 1);
        s.flow[starts - 1] = 0;
        add(weight, s.flow, starts);
      }
      A* to = by_probability + (t + n) * s.stride + n;
      if (n == 0) {
        add(s.flow, to, starts);
      } else {
        add_product(s.flow, s.chain + (n - 1) * s.stride, to, starts);
      }
    }
  }
}

template <class A>
double sequence_match(const SequenceTask& task, int64_t sample, void* scratch) {
  const ExpectedBLEU<A> f(*task.options);
  Sentence<A> s;
  s.length = task.sentence_length[sample];
  s.reference_length = task.reference_length[sample];
  s.stride = task.places;
  const int64_t shorter = s.length < s.reference_length ? s.length : s.reference_length;
  s.orders = task.orders < shorter ? task.orders : shorter;
  s.p = static_cast<const A*>(task.probability) + sample * task.steps * task.places;
  s.chain = static_cast<A*>(scratch);
  s.weight = s.chain + task.orders * task.places;
  s.flow = s.weight + task.orders * task.places;

  std::memset(s.weight, 0, static_cast<size_t>(s.orders * s.stride) * sizeof(A));
  for (int64_t t = 0; t < s.length; ++t) {
    const int64_t fit = multiply_chain(s, t);
    for (int64_t n = 0; n < fit; ++n) add(s.chain + n * s.stride, s.weight + n * s.stride, s.reference_length - n);
  }
  const auto matches_of = [&](int64_t n) {
    const int64_t* count = task.count + (sample * task.orders + n) * task.places;
    double matches = 0;
    for (int64_t u = 0; u < s.reference_length - n; ++u) {
      matches += f.clip(s.weight[n * s.stride + u], static_cast<A>(count[u])).value;
    }
    return f.smoothed(n + 1, matches);
  };
  bool no_match = false;
  double logs = 0;
  const int64_t orders = f.max_order <= s.length ? f.max_order : s.length + 1;  // what is longer has precision 1
  for (int64_t n = 0; n < orders && !no_match; ++n) {
    const double matches = n < s.orders ? matches_of(n) : f.smoothed(n + 1, 0);
    no_match = f.no_match(matches);
    logs += f.log_precision(n + 1, matches, s.length);
  }
  const double bleu = no_match ? 0 : f.bleu(logs, s.length, s.reference_length);
  if (!task.by_probability) return 1 - bleu;

  double scale = task.scale;
  if (task.results.per_item) scale *= static_cast<const A*>(task.results.incoming)[sample];
  for (int64_t n = 0; n < s.orders; ++n) {
    const A slope = bleu == 0 ? A(0) : static_cast<A>(scale * f.by_matches(bleu, matches_of(n)));
    const int64_t* count = task.count + (sample * task.orders + n) * task.places;
    A* weight = s.weight + n * s.stride;
    for (int64_t u = 0; u < s.reference_length - n; ++u) {
      weight[u] = bleu == 0 ? A(0) : slope * f.clip(weight[u], static_cast<A>(count[u])).slope;
    }
  }
  A* by_probability = static_cast<A*>(task.by_probability) + sample * task.steps * task.places;
  match_gradient(s, by_probability);
  if (bleu == 0) {  // a probability that is NaN has no say either
    for (int64_t t = 0; t < s.length; ++t) {
      std::memset(by_probability + t * s.stride, 0, static_cast<size_t>(s.reference_length) * sizeof(A));
    }
  }
  return 1 - bleu;
}

// dL/dx[v] = p[v] (h[v] - Σ p h), h the derivative by the probability of token v.
template <class A>
void sequence_write(const SequenceTask& task, int64_t begin, int64_t end) {
  alignas(64) A in[kSequenceBlock], out[kSequenceBlock];
  // The loop's pointers do not alias: a gradient that replaces the logits passes through a buffer.
  const bool direct = task.logits.dtype == kSequenceDtype<A> && task.gradient != task.logits.data;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t sample = row / task.steps, step = row % task.steps, first = row * task.classes;
    const int64_t places = step < task.sentence_length[sample] ? task.reference_length[sample] : 0;
    const A* p = static_cast<const A*>(task.probability) + row * task.places;
    A* h = static_cast<A*>(task.by_probability) + row * task.places;
    const int64_t* token = task.token + sample * task.places;
    const int64_t* same = task.same + sample * task.places;
    double mean = 0;
    bool any = false;
    for (int64_t u = 0; u < places; ++u) {
      if (h[u] == A(0)) continue;
      any = true;
      mean += static_cast<double>(h[u]) * p[u];
      if (same[u] != u) h[same[u]] += h[u];
    }
    if (!any) {
      std::memset(static_cast<char*>(task.gradient) + first * element_size(task.logits.dtype), 0,
                  static_cast<size_t>(task.classes * element_size(task.logits.dtype)));
      continue;
    }
    const A* softmax = static_cast<const A*>(task.softmax) + 2 * row;
    const A row_max = softmax[0], factor = static_cast<A>(-mean) * softmax[1];
    for (int64_t at = 0; at < task.classes; at += kSequenceBlock) {
      const int64_t n = kSequenceBlock < task.classes - at ? kSequenceBlock : task.classes - at;
      const A* x = logits_block(task, first + at, n, in);
      if (direct) {
        scaled_exponentials(x, row_max, factor, static_cast<A*>(task.gradient) + first + at, n);
      } else {
        scaled_exponentials(x, row_max, factor, out, n);
        store_block(out, task.gradient, task.logits.dtype, first + at, n);
      }
    }
    for (int64_t u = 0; u < places; ++u) {
      if (same[u] != u) continue;
      const A value = p[u] * static_cast<A>(h[u] - mean);
      store_block(&value, task.gradient, task.logits.dtype, first + token[u], 1);
    }
  }
}

extern const SequenceEntry sequence_loops = {{sequence_read<float>, sequence_read<double>},
                                             {sequence_match<float>, sequence_match<double>},
                                             {sequence_write<float>, sequence_write<double>}};

}  // namespace fused_losses::FL_ISA
