// The options of the overlap losses and their compounds, in the order of fused_losses/losses/overlap.py and
// compound.py.
#pragma once

#include <cmath>
#include <limits>

namespace fused_losses {

enum class Activation : int { kNone = 0, kSigmoid = 1, kSoftmax = 2 };

// What a compound adds to the overlap loss.
enum class SecondTerm : int { kNone = 0, kCrossEntropy = 1, kFocal = 2 };

struct OverlapOptions {
  Activation activation;
  bool squared, batch, background, ignoring;
  double ignore_index;  // NaN without `ignoring`
  SecondTerm second;
  double overlap_weight = 1, second_weight = 0;  // of the two terms
  double gamma = 0, alpha = -1;                  // of kFocal

  OverlapOptions(const double* options, SecondTerm second)
      : activation(static_cast<Activation>(static_cast<int>(options[0]))),
        squared(options[3] != 0),
        batch(options[4] != 0),
        background(options[5] != 0),
        ignoring(!std::isnan(options[6])),
        ignore_index(options[6]),
        second(second) {
    if (second == SecondTerm::kNone) return;
    overlap_weight = options[7];
    second_weight = options[8];
    if (second == SecondTerm::kCrossEntropy) return;
    gamma = options[9];
    alpha = options[10];
  }
};

}  // namespace fused_losses
