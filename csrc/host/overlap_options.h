// The options of the overlap losses and their compounds, as their drivers read them.
#pragma once

#include "options.h"

namespace fused_losses {

enum class Activation : int { kNone = 0, kSigmoid = 1, kSoftmax = 2 };

// What a compound adds to the overlap loss.
enum class SecondTerm : int { kNone = 0, kCrossEntropy = 1, kFocal = 2 };

struct OverlapOptions {
  Activation activation;
  bool squared, batch, background, ignoring;
  double ignore_index;  // NaN without `ignoring`
  SecondTerm second;
  double overlap_weight, second_weight;  // of the two terms
  double gamma, alpha;                   // of kFocal

  OverlapOptions(const Options& options, SecondTerm second)
      : activation(static_cast<Activation>(static_cast<int>(options.activation))),
        squared(options.squared != 0),
        batch(options.batch != 0),
        background(options.include_background != 0),
        ignoring(options.ignores()),
        ignore_index(options.ignore_index),
        second(second),
        overlap_weight(options.dice_weight),
        second_weight(second == SecondTerm::kCrossEntropy ? options.ce_weight : options.focal_weight),
        gamma(options.gamma),
        alpha(options.alpha) {}
};

}  // namespace fused_losses
