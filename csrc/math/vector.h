// A vector of float or double as wide as the target's registers, on the vector extensions of GCC and Clang: for loops
// that hold blocks of positions in registers. What of numerics.h is a template takes it in place of a number.
// Included by numerics.h.

namespace detail {

// The combination of all numbers of a vector, half with half.
template <class A, class Values, class Combine>
FL_HD A folded(Values values, const Combine& combine) {
  constexpr int kHalf = sizeof(Values) / sizeof(A) / 2;
  const auto both = [&]<int... kAt>(std::integer_sequence<int, kAt...>) {
    return combine(__builtin_shufflevector(values, values, kAt...),
                   __builtin_shufflevector(values, values, (kHalf + kAt)...));
  }(std::make_integer_sequence<int, kHalf>());
  if constexpr (kHalf == 1)
    return both[0];
  else
    return folded<A>(both, combine);
}

}  // namespace detail

#if defined(FL_HAS_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(FL_HAS_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Comparisons give masks of integers, all ones where they hold. A number converts to a vector of it.
template <class A>
struct Vector {
  static constexpr int kLanes = kVectorBytes / sizeof(A);
  using Int = typename detail::Real<A>::Int;
  typedef A Values __attribute__((vector_size(kVectorBytes)));
  typedef A Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
  typedef Int Mask __attribute__((vector_size(kVectorBytes)));
  typedef typename detail::Real<A>::Uint Bits __attribute__((vector_size(kVectorBytes)));

  Values values;

  Vector() = default;
  FL_HD Vector(A number) : values(number - Values{}) {}
  static FL_HD Vector of(Values values) {
    Vector v;
    v.values = values;
    return v;
  }
  static FL_HD Vector load(const A* from) { return of(*reinterpret_cast<const Unaligned*>(from)); }
  FL_HD void store(A* to) const { *reinterpret_cast<Unaligned*>(to) = values; }
  // Where the integers at `from` are `number`.
  static FL_HD Mask equal(const Int* from, Int number) {
    typedef Int Numbers __attribute__((vector_size(kVectorBytes), aligned(sizeof(Int)), may_alias));
    return *reinterpret_cast<const Numbers*>(from) == number;
  }
  FL_HD A sum() const {
    return detail::folded<A>(values, [](auto a, auto b) { return a + b; });
  }
  FL_HD A largest() const {
    return detail::folded<A>(values, [](auto a, auto b) { return a > b ? a : b; });
  }

  FL_HD friend Vector operator+(Vector a, Vector b) { return of(a.values + b.values); }
  FL_HD friend Vector operator-(Vector a, Vector b) { return of(a.values - b.values); }
  FL_HD friend Vector operator*(Vector a, Vector b) { return of(a.values * b.values); }
  FL_HD friend Vector operator/(Vector a, Vector b) { return of(a.values / b.values); }
  FL_HD friend Vector operator-(Vector a) { return of(-a.values); }
  FL_HD Vector& operator+=(Vector b) { return *this = *this + b; }
  // b where the two are not ordered.
  FL_HD friend Vector larger_(Vector a, Vector b) { return of(a.values > b.values ? a.values : b.values); }
  FL_HD friend Mask operator==(Vector a, Vector b) { return a.values == b.values; }
  FL_HD friend Mask operator!=(Vector a, Vector b) { return a.values != b.values; }
  FL_HD friend Mask operator>(Vector a, Vector b) { return a.values > b.values; }
  FL_HD friend Mask operator>=(Vector a, Vector b) { return a.values >= b.values; }
  FL_HD friend Vector select_(Mask mask, Vector a, Vector b) { return of(mask ? a.values : b.values); }
  // The compiler contracts it to one instruction where the target has one.
  FL_HD friend Vector fma_(Vector a, Vector b, Vector c) { return of(a.values * b.values + c.values); }
  FL_HD friend Vector abs_(Vector a) {
    return of(__builtin_bit_cast(Values, bits(a) & std::numeric_limits<Int>::max()));
  }
  FL_HD friend Mask bits(Vector a) { return __builtin_bit_cast(Mask, a.values); }
};

// Two vectors as one twice as wide.
template <class A, class V>
struct Pair {
  static constexpr int kLanes = 2 * V::kLanes;
  using Int = typename V::Int;
  struct Mask {
    typename V::Mask low, high;
  };

  V low, high;

  Pair() = default;
  FL_HD Pair(A number) : low(number), high(number) {}
  FL_HD Pair(V low, V high) : low(low), high(high) {}
  static FL_HD Pair load(const A* from) { return {V::load(from), V::load(from + V::kLanes)}; }
  FL_HD void store(A* to) const {
    low.store(to);
    high.store(to + V::kLanes);
  }
  static FL_HD Mask equal(const Int* from, Int number) {
    return {V::equal(from, number), V::equal(from + V::kLanes, number)};
  }
  FL_HD A sum() const { return (low + high).sum(); }
  FL_HD A largest() const { return larger_(low, high).largest(); }

  FL_HD friend Pair operator+(Pair a, Pair b) { return {a.low + b.low, a.high + b.high}; }
  FL_HD friend Pair operator-(Pair a, Pair b) { return {a.low - b.low, a.high - b.high}; }
  FL_HD friend Pair operator*(Pair a, Pair b) { return {a.low * b.low, a.high * b.high}; }
  FL_HD friend Pair operator/(Pair a, Pair b) { return {a.low / b.low, a.high / b.high}; }
  FL_HD Pair& operator+=(Pair b) { return *this = *this + b; }
  FL_HD friend Pair larger_(Pair a, Pair b) { return {larger_(a.low, b.low), larger_(a.high, b.high)}; }
  FL_HD friend Pair abs_(Pair a) { return {abs_(a.low), abs_(a.high)}; }
  FL_HD friend Mask operator==(Pair a, Pair b) { return {a.low == b.low, a.high == b.high}; }
  FL_HD friend Mask operator!=(Pair a, Pair b) { return {a.low != b.low, a.high != b.high}; }
  FL_HD friend Mask operator>(Pair a, Pair b) { return {a.low > b.low, a.high > b.high}; }
  FL_HD friend Mask operator>=(Pair a, Pair b) { return {a.low >= b.low, a.high >= b.high}; }
  FL_HD friend Pair select_(Mask mask, Pair a, Pair b) {
    return {select_(mask.low, a.low, b.low), select_(mask.high, a.high, b.high)};
  }
};

// As many numbers as a line of the caches holds, on every target: lines a power of two apart push each other out, so
// that one is to be read once.
#if defined(FL_HAS_AVX512)
template <class A>
using Line = Vector<A>;
#elif defined(FL_HAS_AVX2)
template <class A>
using Line = Pair<A, Vector<A>>;
#else
template <class A>
using Line = Pair<A, Pair<A, Vector<A>>>;
#endif

namespace detail {

template <class A>
struct Real<Vector<A>> : Real<A> {
  using Int = typename Vector<A>::Mask;
  using Uint = typename Vector<A>::Bits;
};

FL_HD Vector<float> from_bits(Vector<float>::Mask x) {
  return Vector<float>::of(__builtin_bit_cast(Vector<float>::Values, x));
}
FL_HD Vector<float> from_bits(Vector<float>::Bits x) {
  return Vector<float>::of(__builtin_bit_cast(Vector<float>::Values, x));
}
FL_HD Vector<double> from_bits(Vector<double>::Mask x) {
  return Vector<double>::of(__builtin_bit_cast(Vector<double>::Values, x));
}
FL_HD Vector<double> from_bits(Vector<double>::Bits x) {
  return Vector<double>::of(__builtin_bit_cast(Vector<double>::Values, x));
}

}  // namespace detail
