// Losses of all pairs of rows and columns of embeddings. Formulas only; reference: fused_losses/chunked/contrastive.py.
//
// A pair has a logit s and two facts: `own`, the column that is the row itself or its partner, and `same`, one label.
// A functor reads a row twice: the least and the largest logit of the pairs it chooses, then three sums; it makes the
// row's loss and its statistics of them, from which, with those of the column, the derivative by any logit follows.

template <class A>
struct PairSums3 {
  A a, b, c;

  FL_HD PairSums3& operator+=(const PairSums3& other) {
    a += other.a;
    b += other.b;
    c += other.c;
    return *this;
  }
};

// What exponentials below a largest number are shifted by: that number, 0 where it is infinite, so that their sum is
// infinite, or 0, and no NaN.
template <class A>
FL_HD A finite_shift(A most) {
  return most < infinity_<A>() && most > -infinity_<A>() ? most : A(0);
}

// Sums of exponentials below `before`, as sums below `most`.
template <class A>
FL_HD double below(A most, double sum, A before) {
  return sum == 0 ? 0.0 : sum * static_cast<double>(exp_(finite_shift(before) - finite_shift(most)));
}

// The sums of a row, and those of the same row as a column of tiles before, below what was the largest then.
template <class A>
FL_HD PairSums3<A> with_known(const PairSums3<A>& sums, const double* known, A before, A most) {
  return {static_cast<A>(sums.a + below(most, known[0], before)), static_cast<A>(sums.b + known[1]),
          static_cast<A>(sums.c + known[2])};
}

template <class A>
struct PairsBase {
  static constexpr int kStatistics = 2;    // of a row
  static constexpr int kColumnSums = 0;    // of those three, which columns have as well, the first of exponentials
  static constexpr bool kLabels = false;   // `same` is of labels; else it is `own`
  static constexpr bool kColumns = false;  // columns have a log sum of exponentials of their own
  static constexpr bool kCounts = false;   // the mean divides by the rows whose statistic 1 is not 0
  static constexpr bool kLow = false;      // reads the least and the largest logit; else the largest alone
  static constexpr bool kMirrors = false;  // a pair of one set is read once, for its row and for its column
};

// Both cross-entropies of s against the diagonal; Radford et al., "Learning Transferable Visual Models From Natural
// Language Supervision", 2021. Statistics: log sum of exponentials, the own logit.
template <class A>
struct Clip : PairsBase<A> {
  static constexpr bool kColumns = true;
  static constexpr int kColumnSums = 1;

  explicit Clip(const Options&) {}

  FL_HD bool in_low(bool, bool) const { return false; }
  FL_HD bool in_high(bool, bool) const { return true; }
  FL_HD PairSums3<A> terms(A s, bool own, bool, A, A high) const {
    return {exp_(s - finite_shift(high)), own ? s : A(0), A(0)};
  }
  FL_HD A finish(A, A high, const PairSums3<A>& sums, A* statistics) const {
    statistics[0] = finite_shift(high) + log_(sums.a);
    statistics[1] = sums.b;
    return statistics[0] - sums.b;
  }
  // column: its log sum of exponentials.
  FL_HD A gradient(A s, bool own, bool, const A* row, const A* column) const {
    return A(0.5) * (exp_(s - row[0]) + exp_(s - column[0])) - (own ? A(1) : A(0));
  }
};

// -log sigmoid(s) of the own pair, -log sigmoid(-s) of any other; Zhai et al., "Sigmoid Loss for Language Image
// Pre-Training", 2023. No statistics: rows are done when they are read.
template <class A>
struct SigLip : PairsBase<A> {
  static constexpr int kStatistics = 0;

  explicit SigLip(const Options&) {}

  FL_HD bool in_low(bool, bool) const { return false; }
  FL_HD bool in_high(bool, bool) const { return false; }
  FL_HD PairSums3<A> terms(A s, bool own, bool, A, A) const {
    const Sigmoid<A> f = sigmoid_terms(s);
    return {own ? f.softplus_neg : f.softplus_pos, A(0), A(0)};
  }
  FL_HD A finish(A, A, const PairSums3<A>& sums, A*) const { return sums.a; }
  FL_HD A gradient(A s, bool own, bool, const A*, const A*) const {
    const Sigmoid<A> f = sigmoid_terms(s);
    return own ? -f.q : f.p;
  }
};

// The mean over the positives p of -(s_p - log sum of exponentials over all others); Khosla et al., "Supervised
// Contrastive Learning", 2020; with one positive each the loss of Chen et al., "A Simple Framework for Contrastive
// Learning of Visual Representations", 2020. Statistics: that log sum, infinite where there is no positive, and one
// over the number of positives, or 0.
template <class A>
struct SupCon : PairsBase<A> {
  static constexpr int kColumnSums = 3;
  static constexpr bool kLabels = true;
  static constexpr bool kCounts = true;
  static constexpr bool kMirrors = true;

  explicit SupCon(const Options&) {}

  FL_HD bool in_low(bool, bool) const { return false; }
  FL_HD bool in_high(bool own, bool) const { return !own; }
  FL_HD PairSums3<A> terms(A s, bool own, bool same, A, A high) const {
    const bool positive = same && !own;
    return {own ? A(0) : exp_(s - finite_shift(high)), positive ? s : A(0), positive ? A(1) : A(0)};
  }
  FL_HD A finish(A, A high, const PairSums3<A>& sums, A* statistics) const {
    const bool counts = sums.c != A(0);
    const A log_sum = finite_shift(high) + log_(sums.a), share = counts ? A(1) / sums.c : A(0);
    statistics[0] = counts ? log_sum : infinity_<A>();
    statistics[1] = share;
    return counts ? log_sum - sums.b * share : A(0);
  }
  // At most 1, though s may be rounded otherwise than that of the pair's other order, which the log sum is of.
  FL_HD A probability(A s, A log_sum) const { return exp_(at_most_(s - log_sum, A(0))); }

  // As the row's and as the column's anchor.
  FL_HD A gradient(A s, bool own, bool same, const A* row, const A* column) const {
    const A pull = row[1] + column[1];  // read whatever the pair: a read under a condition is not vectorised
    const A g = probability(s, row[0]) + probability(s, column[0]) - (same ? pull : A(0));
    return own ? A(0) : g;
  }
};

// log(1 + sum e^(-alpha (s - base))) / alpha over the positives below the hardest negative plus epsilon, and log(1 +
// sum e^(beta (s - base))) / beta over the negatives above the hardest positive minus epsilon; Wang et al.,
// "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", 2019. Exponents count from the least
// logit of the positives and the largest of the negatives where these are beyond the base: a difference of two logits
// is exact where that of two exponents is not. Statistics: both logits, and both logarithms counted from there.
template <class A>
struct MultiSimilarity : PairsBase<A> {
  static constexpr int kStatistics = 4;
  static constexpr bool kLabels = true;
  static constexpr bool kLow = true;

  A alpha, beta, base, epsilon;
  explicit MultiSimilarity(const Options& options)
      : alpha(static_cast<A>(options.alpha)),
        beta(static_cast<A>(options.beta)),
        base(static_cast<A>(options.base)),
        epsilon(static_cast<A>(options.epsilon)) {}

  FL_HD bool in_low(bool own, bool same) const { return same && !own; }
  FL_HD bool in_high(bool, bool same) const { return !same; }
  FL_HD bool counts_from_low(A low) const { return low < base && low > -infinity_<A>(); }
  FL_HD bool counts_from_high(A high) const { return high > base && high < infinity_<A>(); }
  FL_HD A of_positive(A s, A low) const { return -alpha * (s - (counts_from_low(low) ? low : base)); }
  FL_HD A of_negative(A s, A high) const { return beta * (s - (counts_from_high(high) ? high : base)); }
  FL_HD bool keeps_positive(A s, bool own, bool same, A high) const { return same & !own & !(s - epsilon >= high); }
  FL_HD bool keeps_negative(A s, bool same, A low) const { return !same & !(s + epsilon <= low); }

  FL_HD PairSums3<A> terms(A s, bool own, bool same, A low, A high) const {
    const A positive = exp_(of_positive(s, low)), negative = exp_(of_negative(s, high));
    return {keeps_positive(s, own, same, high) ? positive : A(0), keeps_negative(s, same, low) ? negative : A(0), A(0)};
  }
  FL_HD A finish(A low, A high, const PairSums3<A>& sums, A* statistics) const {
    statistics[0] = low;
    statistics[1] = high;
    const A short_by = counts_from_low(low) ? base - low : A(0), beyond = counts_from_high(high) ? high - base : A(0);
    statistics[2] = log_(exp_(-alpha * short_by) + sums.a);
    statistics[3] = log_(exp_(-beta * beyond) + sums.b);
    // Where the mining keeps no pair, not that which is counted from either, the loss is 0.
    return (sums.a == A(0) ? A(0) : short_by + statistics[2] / alpha) +
           (sums.b == A(0) ? A(0) : beyond + statistics[3] / beta);
  }
  FL_HD A of_anchor(A s, bool own, bool same, const A* anchor) const {
    const A low = anchor[0], high = anchor[1];
    const A positive = exp_(at_most_(of_positive(s, low), A(0)) - anchor[2]);
    const A negative = exp_(at_most_(of_negative(s, high), A(0)) - anchor[3]);
    const A pushed = keeps_negative(s, same, low) ? negative : A(0);
    return keeps_positive(s, own, same, high) ? -positive : pushed;
  }
  FL_HD A gradient(A s, bool own, bool same, const A* row, const A* column) const {
    return of_anchor(s, own, same, row) + of_anchor(s, own, same, column);
  }
};
