// Losses over lists of items, from pairs of items. Formulas only; references: fused_losses/losses/ranking.py.
// The gain of an item is 2^relevance - 1, its discount 1 / log2(1 + rank).

template <class A>
FL_HD A gain_of(A relevance) {
  constexpr A kLn2 = static_cast<A>(0.6931471805599453);
  return relevance < A(1) ? expm1_(relevance * kLn2) : ::exp2(relevance) - A(1);  // exact near 0, and of integers
}

// A smooth step and its derivative by the lead.
template <class A>
struct SmoothStep {
  A value, slope;
};

// gain / log2(1 + rank), and how fast it falls with the rank.
template <class A>
struct DiscountedGain {
  A value, fall;
};

// A pair's loss, and its derivative by `rate` times the lead of the item of smaller gain.
template <class A>
struct PairLoss {
  A value, slope;
};

// 1 - Σ_i gain_i / log2(1 + rank_i) / IDCG@k, rank_i = 1 + Σ_{j≠i} sigmoid((s_j - s_i) / T) (Qin, Liu, Li 2010).
template <class A>
struct ApproxNDCG {
  static constexpr bool kSmoothRanks = true;
  A rate;
  explicit ApproxNDCG(const Options& options) : rate(static_cast<A>(1 / options.temperature)) {}

  // What item j adds to the rank of item i.
  FL_HD SmoothStep<A> operator()(A s_i, A s_j) const {
    const Sigmoid<A> t = sigmoid_terms((s_j - s_i) * rate);
    return {t.p, t.p * t.q};
  }

  // The same from their odds e^((s - middle) / T), all alike in the middle: a division, and no exponential for a pair.
  FL_HD SmoothStep<A> of_odds(A odds_i, A odds_j) const {
    const A inverse = A(1) / (odds_i + odds_j), p = odds_j * inverse;
    return {p, p * (odds_i * inverse)};
  }

  FL_HD DiscountedGain<A> at(A gain, A rank) const {
    const A ln2 = A(0.69314718055994531), log_rank = log_(A(1) + rank), value = gain * (ln2 / log_rank);
    return {value, value / ((A(1) + rank) * log_rank)};
  }
};

// Σ over gain_i > gain_j of log(1 + e^(-sigma (s_i - s_j))) (gain_i - gain_j) |D_i - D_j| / IDCG@k, D the discounts of
// the current ranks (Burges 2010; Wang et al. 2018).
template <class A>
struct LambdaNDCG {
  static constexpr bool kSmoothRanks = false;
  A rate;
  explicit LambdaNDCG(const Options& options) : rate(static_cast<A>(options.sigma)) {}

  FL_HD PairLoss<A> operator()(A s_i, A gain_i, A discount_i, A s_j, A gain_j, A discount_j) const {
    const A weight = (gain_i - gain_j) * abs_(discount_i - discount_j);
    const Sigmoid<A> t = sigmoid_terms((s_j - s_i) * rate);
    return {weight * t.softplus_pos, weight * t.p};
  }
};
