// A tile of the overlap family: positions of one sample that stay in L1, one class or all of them, and the memory they
// are worked on in. Included by overlap_loops.h.

constexpr int64_t kTileValues = 4096;  // classes x positions of a tile
constexpr int64_t kWidestTile = 1024, kNarrowestTile = 16;
constexpr int kCounters = 4;            // of a class
constexpr int kBlockSums = 3;           // of a class: I, P and G
constexpr int64_t kMostPending = 1024;  // positions whose sums stay in A

template <class A>
constexpr Dtype kTileDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

template <class A>
double sum_row(const A* __restrict v, const int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += v[i];
  return sum;
}

// The memory of a tile of `rows` classes and up to `width` positions, no more than there are.
template <class A>
struct OverlapTile {
  int64_t rows, width;
  A *values, *probabilities, *targets;  // [rows, width]; values and targets where converted
  A* extra;                             // [rows, width]: sigmoids or slopes beside a softmax, or exponentials
  A* class_index;                       // [width] of each position, -1 where ignored
  A *row_max, *inverse, *log_inverse, *inner, *keep, *log, *share, *slope;  // [width], of a softmax
  A *by_I, *by_P;                                                           // [rows, up to a vector]: coefficients
  Line<A>*block, *sums;  // [2, rows] of a block of positions; [rows, kBlockSums] of the `pending` ones
  int64_t pending = 0;
  int32_t* counts;  // as count_classes wants it

  OverlapTile(int64_t rows, int64_t positions, Scratch* scratch) : rows(rows) {
    width = kTileValues / (rows > 0 ? rows : 1) / kNarrowestTile * kNarrowestTile;
    const int64_t needed = (positions + kNarrowestTile - 1) / kNarrowestTile * kNarrowestTile;
    for (const int64_t limit : {kWidestTile, needed}) width = width > limit ? limit : width;
    width = width < kNarrowestTile ? kNarrowestTile : width;
    constexpr int64_t kLanes = Line<A>::kLanes;
    const int64_t vectors = (2 + kBlockSums) * rows, coefficients = (rows + kLanes - 1) / kLanes * kLanes;
    const int64_t size = vectors * kLanes + 2 * coefficients + (4 * rows + 9) * width;
    const int64_t counters = kCounters * (rows + 1);
    A* memory = static_cast<A*>(scratch->at_least(size * sizeof(A) + counters * sizeof(int32_t)));
    counts = reinterpret_cast<int32_t*>(memory + size);
    block = reinterpret_cast<Line<A>*>(memory);
    sums = block + 2 * rows;
    A* next = memory + vectors * kLanes;
    for (A** part : {&by_I, &by_P}) {
      *part = next;
      next += coefficients;
    }
    for (A** part : {&values, &probabilities, &targets, &extra}) {
      *part = next;
      next += rows * width;
    }
    for (A** part : {&class_index, &row_max, &inverse, &log_inverse, &inner, &keep, &log, &share, &slope}) {
      *part = next;
      next += width;
    }
  }

  // Nothing is pending, and nothing counted.
  void clear_sums() {
    std::memset(counts, 0, kCounters * (rows + 1) * sizeof(*counts));
    std::memset(sums, 0, kBlockSums * rows * sizeof(*sums));
  }

  // Adds the sums of the pending positions to those of each class.
  void flush(double* to) {
    for (int64_t k = 0; k < kBlockSums * rows; ++k) {
      to[k / kBlockSums * kRegionSums + k % kBlockSums] +=
          sum_row(reinterpret_cast<const A*>(&sums[k]), Line<A>::kLanes);
      sums[k] = A(0);
    }
    pending = 0;
  }
};

// n positions of one sample from `at`, of which the classes [first, last) are worked on.
struct OverlapSpan {
  const OverlapTask& task;
  int64_t sample, first, last, at, n;
  bool keeps;  // as OverlapPart says

  // Index in [B, C, S] of class c, in [B, S] of the positions.
  int64_t offset(int64_t c) const { return (sample * task.classes + c) * task.positions + at; }
  int64_t position() const { return sample * task.positions + at; }
};

// Rows of one operand, `step` elements apart.
template <class T>
struct OverlapRows {
  T* data;
  int64_t step;
  T* row(int64_t c) const { return data + c * step; }
};

// The rows where they are stored if that is as A, else converted; buffer [classes, width].
template <class A>
OverlapRows<const A> read_rows(const OverlapSpan& span, const void* data, Dtype dtype, A* buffer, int64_t width) {
  const int64_t step = span.task.positions;
  if (dtype == kTileDtype<A>) return {static_cast<const A*>(data) + span.offset(span.first), step};
  for (int64_t c = span.first; c < span.last; ++c) {
    load_block(data, dtype, span.offset(c), span.n, buffer + (c - span.first) * width);
  }
  return {buffer, width};
}

// Where the gradient of class c is computed, and where span.keeps its probabilities before: at its place, or in
// `buffer`, from which `write_row` stores it, where that place has another dtype or is the input's.
template <class A>
A* gradient_row(const OverlapSpan& span, int64_t c, A* buffer) {
  const OverlapTask& task = span.task;
  const bool fits = task.gradient && task.gradient != task.input && task.input_dtype == kTileDtype<A>;
  return fits ? static_cast<A*>(task.gradient) + span.offset(c) : buffer;
}

template <class A>
void write_row(const OverlapSpan& span, int64_t c, const A* d, const A* buffer) {
  if (d == buffer) store_block(d, span.task.gradient, span.task.input_dtype, span.offset(c), span.n);
}
