// A tile of the overlap family: positions of one sample that stay in L1, one class or all of them, and the memory they
// are worked on in. Included by overlap_loops.h.

constexpr int64_t kTileValues = 4096;  // classes x positions of a tile
constexpr int64_t kWidestTile = 1024, kNarrowestTile = 16;
constexpr int kCounters = 4;  // of a class

template <class A>
constexpr Dtype kTileDtype = std::is_same_v<A, double> ? Dtype::kFloat64 : Dtype::kFloat32;

// The memory of a tile of `rows` classes and up to `width` positions, no more than there are.
template <class A>
struct OverlapTile {
  int64_t rows, width;
  A *memory, *values, *probabilities, *targets;  // [rows, width]; values and targets where converted
  A* sigmoids;                                   // [rows, width] beside a softmax
  A* class_index;                                // [width] of each position, -1 where ignored
  A *row_max, *inverse, *log_inverse, *inner, *keep, *log, *share, *slope;  // [width], of a softmax
  int32_t* counts;                                                          // as count_classes wants it

  OverlapTile(int64_t rows, int64_t positions) : rows(rows) {
    width = kTileValues / (rows > 0 ? rows : 1) / kNarrowestTile * kNarrowestTile;
    const int64_t needed = (positions + kNarrowestTile - 1) / kNarrowestTile * kNarrowestTile;
    for (const int64_t limit : {kWidestTile, needed}) width = width > limit ? limit : width;
    width = width < kNarrowestTile ? kNarrowestTile : width;
    const int64_t size = (4 * rows + 9) * width, counters = kCounters * (rows + 1);
    memory = static_cast<A*>(::operator new(size * sizeof(A) + counters * sizeof(int32_t), std::align_val_t(64)));
    counts = reinterpret_cast<int32_t*>(memory + size);
    std::memset(counts, 0, counters * sizeof(int32_t));
    A* next = memory;
    for (A** part : {&values, &probabilities, &targets, &sigmoids}) {
      *part = next;
      next += rows * width;
    }
    for (A** part : {&class_index, &row_max, &inverse, &log_inverse, &inner, &keep, &log, &share, &slope}) {
      *part = next;
      next += width;
    }
  }
  ~OverlapTile() { ::operator delete(memory, std::align_val_t(64)); }
  OverlapTile(const OverlapTile&) = delete;
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

// Rows of one operand: where they are stored if that is as A, else converted.
template <class A>
struct OverlapRows {
  const A* data;
  int64_t step;
  const A* row(int64_t c) const { return data + c * step; }
};

// buffer [classes, width]
template <class A>
OverlapRows<A> read_rows(const OverlapSpan& span, const void* data, Dtype dtype, A* buffer, int64_t width) {
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
