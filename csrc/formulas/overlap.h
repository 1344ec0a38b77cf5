// Overlap of regions: ratios of I = sum p g, P = sum p, G = sum g (squares: P = sum p^2, G = sum g^2).
// Formulas only; reference: fused_losses/losses/overlap.py. One evaluation per class and sample, so all in double.

// numerator / denominator and their derivatives with respect to I and P.
struct Fraction {
  double numerator, denominator, numerator_by_I, denominator_by_I, denominator_by_P;
};

// A loss and its derivatives with respect to I and P; the denominator of its ratio, 0 where nothing counts.
struct OverlapLoss {
  double loss, by_I, by_P, denominator;
};

constexpr double kSmallestDenominator = 1e-100;  // its square divides numbers of any size that make sense

// 1 - fraction, 0 with derivative 0 where nothing counts or there is nothing to divide by; then `outer`, an optional
// function of it.
template <class F>
FL_HD OverlapLoss overlap_loss(const F& f, double I, double P, double G, bool counts) {
  const Fraction r = f(I, P, G);
  if (!counts) return {0, 0, 0, 0};
  if (r.denominator < kSmallestDenominator && r.denominator > -kSmallestDenominator) return {0, 0, 0, r.denominator};
  const double ratio = r.numerator / r.denominator;
  const double by_I = (ratio * r.denominator_by_I - r.numerator_by_I) / r.denominator;
  const double by_P = ratio * r.denominator_by_P / r.denominator;
  double slope = 1;
  const double loss = f.outer(1 - ratio, &slope);
  return {loss, slope * by_I, slope * by_P, r.denominator};
}

// (2I + nr) / (P + G + dr) (Milletari et al., "V-Net", 2016).
struct Dice {
  double nr, dr;
  explicit Dice(const Options& options) : nr(options.smooth_nr), dr(options.smooth_dr) {}
  FL_HD Fraction operator()(double I, double P, double G) const { return {2 * I + nr, P + G + dr, 2, 0, 1}; }
  FL_HD double outer(double base, double*) const { return base; }
};

// (I + nr) / (P + G - I + dr): intersection over union (Rahman and Wang, 2016).
struct Jaccard {
  double nr, dr;
  explicit Jaccard(const Options& options) : nr(options.smooth_nr), dr(options.smooth_dr) {}
  FL_HD Fraction operator()(double I, double P, double G) const { return {I + nr, P + G - I + dr, 1, -1, 1}; }
  FL_HD double outer(double base, double*) const { return base; }
};

// (I + nr) / (I + alpha (P-I) + beta (G-I) + dr), then for gamma other than 1 max(0, .)^gamma (Salehi et al. 2017;
// Abraham and Khan 2019).
struct Tversky {
  double nr, dr, alpha, beta, gamma;
  explicit Tversky(const Options& options)
      : nr(options.smooth_nr), dr(options.smooth_dr), alpha(options.alpha), beta(options.beta), gamma(options.gamma) {}
  FL_HD Fraction operator()(double I, double P, double G) const {
    return {I + nr, I + alpha * (P - I) + beta * (G - I) + dr, 1, 1 - alpha - beta, alpha};
  }
  FL_HD double outer(double base, double* slope) const {
    if (gamma == 1) return base;
    if (base <= 0) {
      *slope = 0;
      return 0;
    }
    const double power = pow(base, gamma);
    *slope = gamma * power / base;
    return power;
  }
};
