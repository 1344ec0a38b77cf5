// The options of the overlap losses and their compounds, as the host layer and the drivers read them.
#pragma once

#include "losses.h"

namespace fused_losses {

constexpr int kRegionSums = 4;  // I, P, G, and more than 0 where anything counts

enum class Activation : int { kNone = 0, kSigmoid = 1, kSoftmax = 2 };

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
  double ignore_index;  // NaN without `ignoring`
  SecondTerm second;
  double overlap_weight, second_weight;  // of the two terms
  double gamma, alpha;                   // of kFocal

  OverlapOptions(LossId id, const Options& options)
      : activation(static_cast<Activation>(static_cast<int>(options.activation))),
        squared(options.squared != 0),
        batch(options.batch != 0),
        background(options.include_background != 0),
        ignoring(options.ignores()),
        ignore_index(options.ignore_index),
        second(second_term(id)),
        overlap_weight(options.dice_weight),
        second_weight(second == SecondTerm::kCrossEntropy ? options.ce_weight : options.focal_weight),
        gamma(options.gamma),
        alpha(options.alpha) {}

  bool has_second() const { return second != SecondTerm::kNone; }
  bool softmax() const { return activation == Activation::kSoftmax; }
};

}  // namespace fused_losses
