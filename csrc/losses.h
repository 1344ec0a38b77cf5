// The table of losses: the whole library on one page. A row is X(op, functor); the family says which driver runs it.
// Schemas, CPU and CUDA registrations and the list that `fused_losses.info` prints are generated from it.
#pragma once

// One result for each element, from one input and one target of the same shape. Formulas: losses/binary.h,
// losses/regression.h, losses/divergence.h, losses/distance.h.
#define FL_ELEMENTWISE_LOSSES(X)                                                     \
  X(binary_cross_entropy, BinaryCrossEntropy)                                        \
  X(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits)                  \
  X(weighted_binary_cross_entropy, WeightedBinaryCrossEntropy)                       \
  X(weighted_binary_cross_entropy_with_logits, WeightedBinaryCrossEntropyWithLogits) \
  X(sigmoid_focal_loss, SigmoidFocal)                                                \
  X(hinge_loss, Hinge)                                                               \
  X(mse_loss, SquaredError)                                                          \
  X(l1_loss, AbsoluteError)                                                          \
  X(huber_loss, Huber)                                                               \
  X(smooth_l1_loss, SmoothL1)                                                        \
  X(kl_div, KLDiv)                                                                   \
  X(contrastive_loss_from_distance, ContrastiveFromDistance)

#define FL_ELEMENTWISE_ARGUMENTS "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight"

// The ratio of sums over the positions of each class, from (B, C, ...) and a target of that shape or class indices.
// Formulas: losses/overlap.h.
#define FL_OVERLAP_LOSSES(X) \
  X(dice_loss, Dice)         \
  X(jaccard_loss, Jaccard)   \
  X(tversky_loss, Tversky)
#define FL_OVERLAP_ARGUMENTS "Tensor input, Tensor target, Tensor? weight"

// Dice and a second term on the same logits: X(op, second term). Formulas: losses/compound.h. The overlap driver runs
// them.
#define FL_COMPOUND_LOSSES(X)               \
  X(dice_cross_entropy_loss, kCrossEntropy) \
  X(dice_focal_loss, kFocal)

// Rows summed over their last dimension. Formulas: losses/distance.h, losses/vae.h. One driver runs all of them; the
// sets differ in their tensors. VAE terms are not ops of their own: vae_loss adds one of them and GaussianKL.
#define FL_PAIR_LOSSES(X) X(contrastive_loss, Contrastive)
#define FL_PAIR_ARGUMENTS "Tensor x1, Tensor x2, Tensor target"
#define FL_GAUSSIAN_LOSSES(X) X(gaussian_kl, GaussianKL)
#define FL_GAUSSIAN_ARGUMENTS "Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar"
#define FL_WHITENED_LOSSES(X) X(mahalanobis_distance, MahalanobisDistance)
#define FL_WHITENED_ARGUMENTS "Tensor whitened"
#define FL_LABELLED_LOSSES(X) X(mahalanobis_loss, MahalanobisLoss)
#define FL_LABELLED_ARGUMENTS "Tensor whitened, Tensor target"
#define FL_VAE_TERMS(X)                        \
  X(vae_bernoulli, BernoulliTerm)              \
  X(vae_bernoulli_logits, BernoulliLogitsTerm) \
  X(vae_gaussian, GaussianTerm)
#define FL_VAE_LOSSES(X) X(vae_loss, )
#define FL_VAE_ARGUMENTS "Tensor reconstruction, Tensor target, Tensor mu, Tensor logvar"
#define FL_ROW_SUMS(X)  \
  FL_PAIR_LOSSES(X)     \
  FL_GAUSSIAN_LOSSES(X) \
  FL_WHITENED_LOSSES(X) \
  FL_LABELLED_LOSSES(X) \
  FL_VAE_TERMS(X)

// One result for each softmax: of the input against class indices or class probabilities, or of the input against that
// of a second tensor of logits. Formulas: losses/classification.h, losses/divergence.h. One driver runs both.
#define FL_ROWWISE_LOSSES(X)     \
  X(cross_entropy, CrossEntropy) \
  X(softmax_focal_loss, SoftmaxFocal)
#define FL_ROWWISE_PAIR_LOSSES(X)        \
  X(kl_div_with_logits, KLDivWithLogits) \
  X(js_div_with_logits, JSDivWithLogits)
#define FL_ROWWISE_ARGUMENTS "Tensor input, Tensor target, Tensor? weight"

// One result for each list of items, from pairs of items. Formulas: losses/ranking.h.
#define FL_RANKING_LOSSES(X)      \
  X(approx_ndcg_loss, ApproxNDCG) \
  X(lambda_ndcg_loss, LambdaNDCG)
#define FL_RANKING_ARGUMENTS "Tensor scores, Tensor relevance, Tensor? mask"

// One result for each sentence, from distributions over tokens and a reference. Formulas: losses/sequence.h.
#define FL_SEQUENCE_LOSSES(X) X(expected_bleu_loss, ExpectedBLEU)
#define FL_SEQUENCE_ARGUMENTS "Tensor logits, Tensor target, Tensor? logits_lengths, Tensor? target_lengths"

// Every family, for lists of all losses.
#define FL_FAMILIES(F)                                                                                       \
  F(elementwise, FL_ELEMENTWISE_LOSSES, FL_ELEMENTWISE_ARGUMENTS, "Tensor grad_output")                      \
  F(overlap, FL_OVERLAP_LOSSES, FL_OVERLAP_ARGUMENTS, "Tensor grad_output, Tensor sums")                     \
  F(overlap, FL_COMPOUND_LOSSES, FL_OVERLAP_ARGUMENTS, "Tensor grad_output, Tensor sums, Tensor count")      \
  F(pairs, FL_PAIR_LOSSES, FL_PAIR_ARGUMENTS, "Tensor grad_output")                                          \
  F(pairs, FL_GAUSSIAN_LOSSES, FL_GAUSSIAN_ARGUMENTS, "Tensor grad_output")                                  \
  F(pairs, FL_WHITENED_LOSSES, FL_WHITENED_ARGUMENTS, "Tensor grad_output")                                  \
  F(pairs, FL_LABELLED_LOSSES, FL_LABELLED_ARGUMENTS, "Tensor grad_output")                                  \
  F(pairs, FL_VAE_LOSSES, FL_VAE_ARGUMENTS, "Tensor grad_total, Tensor grad_reconstruction, Tensor grad_kl") \
  F(rowwise, FL_ROWWISE_LOSSES, FL_ROWWISE_ARGUMENTS, "Tensor grad_output")                                  \
  F(rowwise, FL_ROWWISE_PAIR_LOSSES, FL_ROWWISE_ARGUMENTS, "Tensor grad_output")                             \
  F(ranking, FL_RANKING_LOSSES, FL_RANKING_ARGUMENTS, "Tensor grad_output")                                  \
  F(sequence, FL_SEQUENCE_LOSSES, FL_SEQUENCE_ARGUMENTS, "Tensor grad_output")
