// The options of the overlap losses and their compounds, as the host layer and the drivers read them.
#pragma once

#include "losses.h"

namespace fused_losses {

constexpr int kRegionSums = 4;  // I, P, G, and more than 0 where anything counts

enum class Activation : int { kNone = 0, kSigmoid = 1, kSoftmax = 2 };

// What a region without target does: its loss counts, is 0, or is 0 and leaves the denominator of the mean.
enum class Absent : int { kCount = 0, kZero = 1, kSkip = 2 };

// What a compound adds to the overlap loss.
enum class SecondTerm : int { kNone = 0, kCrossEntropy = 1, kFocal = 2 };

constexpr SecondTerm second_term(LossId id) {
  switch (id) {
#define FL_SECOND(op, term, ...) \
  case LossId::op:               \
    return SecondTerm::term;
    FL_COMPOUND_LOSSES(FL_SECOND)
#undef FL_SECOND
    default:
      return SecondTerm::kNone;
  }
}

struct OverlapOptions {
  Activation activation;
  bool squared, batch, background, ignoring;
  bool micro;  // the classes are summed, each times its weight, before the ratio
  Absent absent;
  double ignore_index;  // NaN without `ignoring`
  SecondTerm second;
  double overlap_weight, second_weight;  // of the two terms
  Activation second_activation;
  double label_smoothing;  // of the second term's target
  double gamma, alpha;     // of kFocal

  OverlapOptions(LossId id, const Options& options)
      : activation(static_cast<Activation>(static_cast<int>(options.activation))),
        squared(options.squared != 0),
        batch(options.batch != 0),
        background(options.include_background != 0),
        ignoring(options.ignores()),
        micro(options.average != 0),
        absent(static_cast<Absent>(static_cast<int>(options.absent))),
        ignore_index(options.ignore_index),
        second(second_term(id)),
        overlap_weight(options.dice_weight),
        second_weight(second == SecondTerm::kCrossEntropy ? options.ce_weight : options.focal_weight),
        second_activation(options.focal_activation == 0
                              ? activation
                              : static_cast<Activation>(static_cast<int>(options.focal_activation))),
        label_smoothing(options.label_smoothing),
        gamma(options.gamma),
        alpha(options.alpha) {}

  bool has_second() const { return second != SecondTerm::kNone; }
  bool softmax() const { return activation == Activation::kSoftmax; }
  bool second_softmax() const { return has_second() && second_activation == Activation::kSoftmax; }
  // Whether a softmax ties the classes of a position together.
  bool joint() const { return softmax() || second_softmax(); }
};

}  // namespace fused_losses
