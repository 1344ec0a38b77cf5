// The table of losses: the whole library on one page, and the only list of options and of gradients in either language.
// A row is X(op, functor, "tensors whose gradient the kernels compute", "options in the order they travel"). The family
// says which driver runs it. Schemas, registrations, checks and the Python side are generated from it.
#pragma once

#include "options.h"

// The libraries of custom losses (custom/library.cpp) have a table of their own, and so a namespace.
#ifdef FL_CUSTOM
#define FL_NAMESPACE fused_losses_custom
#include "custom_losses.h"
#else
#define FL_NAMESPACE fused_losses

// One result for each element, from one input and one target of the same shape. Formulas: formulas/binary.h,
// formulas/regression.h, formulas/divergence.h, formulas/distance.h.
#define FL_ELEMENTWISE_LOSSES(X)                                                                         \
  X(binary_cross_entropy, BinaryCrossEntropy, "input", "")                                               \
  X(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits, "input", "")                         \
  X(weighted_binary_cross_entropy, WeightedBinaryCrossEntropy, "input", "class_weight_0 class_weight_1") \
  X(weighted_binary_cross_entropy_with_logits, WeightedBinaryCrossEntropyWithLogits, "input",            \
    "ignore_index label_smoothing class_weight_0 class_weight_1")                                        \
  X(sigmoid_focal_loss, SigmoidFocal, "input", "ignore_index alpha gamma")                               \
  X(hinge_loss, Hinge, "input", "margin squared")                                                        \
  X(mse_loss, SquaredError, "input target", "")                                                          \
  X(l1_loss, AbsoluteError, "input target", "")                                                          \
  X(huber_loss, Huber, "input target", "delta")                                                          \
  X(smooth_l1_loss, SmoothL1, "input target", "beta")                                                    \
  X(kl_div, KLDiv, "input target", "log_target")                                                         \
  X(contrastive_loss_from_distance, ContrastiveFromDistance, "input", "margin")

#define FL_ELEMENTWISE_ARGUMENTS "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight"

// The ratio of sums over the positions of each class, from (B, C, ...) and a target of that shape or class indices.
// Formulas: formulas/overlap.h.
#define FL_REGION_OPTIONS "activation smooth_nr smooth_dr batch include_background ignore_index average absent"
#define FL_OVERLAP_LOSSES(X)                                      \
  X(dice_loss, Dice, "input", FL_REGION_OPTIONS " squared")       \
  X(jaccard_loss, Jaccard, "input", FL_REGION_OPTIONS " squared") \
  X(tversky_loss, Tversky, "input", FL_REGION_OPTIONS " alpha beta gamma")
#define FL_OVERLAP_ARGUMENTS "Tensor input, Tensor target, Tensor? weight"

// Dice and a second term on the same logits: the functor is the second term. Formulas: formulas/compound.h. The overlap
// driver runs them.
#define FL_COMPOUND_OPTIONS FL_REGION_OPTIONS " squared dice_weight label_smoothing"
#define FL_COMPOUND_LOSSES(X)                                                          \
  X(dice_cross_entropy_loss, kCrossEntropy, "input", FL_COMPOUND_OPTIONS " ce_weight") \
  X(dice_focal_loss, kFocal, "input", FL_COMPOUND_OPTIONS " focal_weight focal_activation gamma alpha")
#define FL_COMPOUND_ARGUMENTS FL_OVERLAP_ARGUMENTS ", Tensor? class_weight"

// One loss for each row, a function of the sum of its elements' terms. Formulas: formulas/distance.h, formulas/vae.h.
// One driver runs all of them; the lists differ in their tensors. VAE terms are no ops of their own: vae_loss adds one
// of them and GaussianKL.
#define FL_CONTRASTIVE_LOSSES(X) X(contrastive_loss, Contrastive, "x1 x2", "margin")
#define FL_CONTRASTIVE_ARGUMENTS "Tensor x1, Tensor x2, Tensor target"
#define FL_GAUSSIAN_LOSSES(X) X(gaussian_kl, GaussianKL, "mu logvar prior_mu prior_logvar", "")
#define FL_GAUSSIAN_ARGUMENTS "Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar"
#define FL_WHITENED_LOSSES(X) X(mahalanobis_distance, MahalanobisDistance, "input mean scale_tril", "squared")
#define FL_WHITENED_ARGUMENTS "Tensor input, Tensor mean, Tensor scale_tril"
#define FL_LABELLED_LOSSES(X) X(mahalanobis_loss, MahalanobisLoss, "input mean scale_tril", "margin")
#define FL_LABELLED_ARGUMENTS "Tensor input, Tensor target, Tensor mean, Tensor scale_tril"
#define FL_VAE_TERMS(X)                        \
  X(vae_bernoulli, BernoulliTerm)              \
  X(vae_bernoulli_logits, BernoulliLogitsTerm) \
  X(vae_gaussian, GaussianTerm)
#define FL_VAE_LOSSES(X) X(vae_loss, , "reconstruction mu logvar", "likelihood beta")
#define FL_VAE_ARGUMENTS "Tensor reconstruction, Tensor target, Tensor mu, Tensor logvar"
#define FL_ROW_SUMS(X)     \
  FL_CONTRASTIVE_LOSSES(X) \
  FL_GAUSSIAN_LOSSES(X)    \
  FL_WHITENED_LOSSES(X)    \
  FL_LABELLED_LOSSES(X)    \
  FL_VAE_TERMS(X)

// One result for each softmax: of the input against class indices or class probabilities, or of the input against that
// of a second tensor of logits. Formulas: formulas/classification.h, formulas/divergence.h. One driver runs both.
#define FL_SOFTMAX_LOSSES(X)                                              \
  X(cross_entropy, CrossEntropy, "input", "ignore_index label_smoothing") \
  X(softmax_focal_loss, SoftmaxFocal, "input", "ignore_index label_smoothing gamma alpha")
#define FL_SOFTMAX_PAIR_LOSSES(X)                                           \
  X(kl_div_with_logits, KLDivWithLogits, "input target", "temperature dim") \
  X(js_div_with_logits, JSDivWithLogits, "input target", "beta dim")
#define FL_SOFTMAX_ARGUMENTS "Tensor input, Tensor target, Tensor? weight"

// One result for each row of logits = input linear_weightᵀ + linear_bias, which are never all there: a softmax loss of
// them against classes, or against the logits of a teacher. The kernels are those of the softmax family.
#define FL_LINEAR_LOSSES(X)                                                \
  X(linear_cross_entropy, CrossEntropy, "input linear_weight linear_bias", \
    "ignore_index label_smoothing softcap z_loss")
#define FL_LINEAR_ARGUMENTS \
  "Tensor input, Tensor linear_weight, Tensor target, Tensor? linear_bias, Tensor? weight, Tensor? elsewhere"
#define FL_RETRIEVAL_LOSSES(X) X(info_nce_loss, CrossEntropy, "query key", "temperature")
#define FL_RETRIEVAL_ARGUMENTS "Tensor query, Tensor key, Tensor target"
#define FL_DISTILLATION_LOSSES(X)                                                     \
  X(linear_kl_div, KLDivWithLogits, "input linear_weight linear_bias", "temperature") \
  X(linear_js_div, JSDivWithLogits, "input linear_weight linear_bias", "beta")
#define FL_DISTILLATION_ARGUMENTS                                                     \
  "Tensor input, Tensor linear_weight, Tensor teacher_input, Tensor teacher_weight, " \
  "Tensor? linear_bias, Tensor? teacher_bias"

// One result for all pairs of rows of two sets of embeddings, or of one set; of the similarities there is only a tile.
// Formulas: formulas/pairs.h.
#define FL_CLIP_LOSSES(X) X(clip_loss, Clip, "x y logit_scale", "first")
#define FL_SIGLIP_LOSSES(X) X(siglip_loss, SigLip, "x y logit_scale logit_bias", "first")
#define FL_TWO_SETS_ARGUMENTS "Tensor x, Tensor y, Tensor logit_scale, Tensor? logit_bias"
#define FL_ONE_SET_LOSSES(X)                               \
  X(nt_xent_loss, SupCon, "features", "temperature first") \
  X(sup_con_loss, SupCon, "features", "temperature first") \
  X(multi_similarity_loss, MultiSimilarity, "features", "alpha beta base epsilon")
#define FL_ONE_SET_ARGUMENTS "Tensor features, Tensor labels, Tensor? all_features, Tensor? all_labels"
#define FL_ALL_PAIRS(X) \
  FL_CLIP_LOSSES(X)     \
  FL_SIGLIP_LOSSES(X)   \
  FL_ONE_SET_LOSSES(X)

// One result for all rows of a labelled set, each with its farthest row of the same label and its nearest of another.
// Formulas: formulas/triplet.h.
#define FL_EXTREMES_LOSSES(X) X(triplet_batch_hard_loss, BatchHard, "features", "margin squared soft")
#define FL_EXTREMES_ARGUMENTS "Tensor features, Tensor labels"

// One result for each list of items, from pairs of items. Formulas: formulas/ranking.h.
#define FL_RANKING_LOSSES(X)                                 \
  X(approx_ndcg_loss, ApproxNDCG, "scores", "temperature k") \
  X(lambda_ndcg_loss, LambdaNDCG, "scores", "sigma k")
#define FL_RANKING_ARGUMENTS "Tensor scores, Tensor relevance, Tensor? mask"

// One result for each sentence, from distributions over tokens and a reference. Formulas: formulas/sequence.h.
#define FL_SEQUENCE_LOSSES(X) X(expected_bleu_loss, ExpectedBLEU, "logits", "max_order smooth")
#define FL_SEQUENCE_ARGUMENTS "Tensor logits, Tensor target, Tensor? logits_lengths, Tensor? target_lengths"

// Every family, for lists of all losses.
#define FL_FAMILIES(F)                                                                                          \
  F(elementwise, FL_ELEMENTWISE_LOSSES, FL_ELEMENTWISE_ARGUMENTS, "Tensor grad_output")                         \
  F(overlap, FL_OVERLAP_LOSSES, FL_OVERLAP_ARGUMENTS, "Tensor grad_output, Tensor sums")                        \
  F(overlap, FL_COMPOUND_LOSSES, FL_COMPOUND_ARGUMENTS, "Tensor grad_output, Tensor sums, Tensor count")        \
  F(row_sums, FL_CONTRASTIVE_LOSSES, FL_CONTRASTIVE_ARGUMENTS, "Tensor grad_output")                            \
  F(row_sums, FL_GAUSSIAN_LOSSES, FL_GAUSSIAN_ARGUMENTS, "Tensor grad_output")                                  \
  F(whitened, FL_WHITENED_LOSSES, FL_WHITENED_ARGUMENTS, "Tensor grad_output, Tensor whitened")                 \
  F(whitened, FL_LABELLED_LOSSES, FL_LABELLED_ARGUMENTS, "Tensor grad_output, Tensor whitened")                 \
  F(row_sums, FL_VAE_LOSSES, FL_VAE_ARGUMENTS, "Tensor grad_total, Tensor grad_reconstruction, Tensor grad_kl") \
  F(softmax, FL_SOFTMAX_LOSSES, FL_SOFTMAX_ARGUMENTS, "Tensor grad_output")                                     \
  F(softmax, FL_SOFTMAX_PAIR_LOSSES, FL_SOFTMAX_ARGUMENTS, "Tensor grad_output")                                \
  F(linear, FL_LINEAR_LOSSES, FL_LINEAR_ARGUMENTS, "Tensor grad_output")                                        \
  F(linear, FL_RETRIEVAL_LOSSES, FL_RETRIEVAL_ARGUMENTS, "Tensor grad_output")                                  \
  F(linear, FL_DISTILLATION_LOSSES, FL_DISTILLATION_ARGUMENTS, "Tensor grad_output")                            \
  F(all_pairs, FL_CLIP_LOSSES, FL_TWO_SETS_ARGUMENTS, "Tensor grad_output, Tensor rows, Tensor columns")        \
  F(all_pairs, FL_SIGLIP_LOSSES, FL_TWO_SETS_ARGUMENTS, "Tensor grad_output")                                   \
  F(all_pairs, FL_ONE_SET_LOSSES, FL_ONE_SET_ARGUMENTS, "Tensor grad_output, Tensor rows")                      \
  F(extremes, FL_EXTREMES_LOSSES, FL_EXTREMES_ARGUMENTS, "Tensor grad_output, Tensor chosen")                   \
  F(ranking, FL_RANKING_LOSSES, FL_RANKING_ARGUMENTS, "Tensor grad_output")                                     \
  F(sequence, FL_SEQUENCE_LOSSES, FL_SEQUENCE_ARGUMENTS, "Tensor grad_output")

#endif  // FL_CUSTOM

namespace fused_losses {

// One row of the table, for whatever is said about all losses.
struct Loss {
  const char* name = "";
  const char* family = "";
  const char* arguments = "";       // of the schema: its tensors
  const char* incoming = "";        // of the backward's schema: incoming gradients, then what the forward saved
  const char* differentiable = "";  // the tensors whose gradient the kernels compute
  OptionNames options{""};
  size_t place = 0;  // among the losses of its family
};

// Whether a list of names separated by spaces holds `name`.
consteval bool lists(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const size_t end = names.find(' ');
    if (names.substr(0, end) == name) return true;
    names = end == std::string_view::npos ? std::string_view() : names.substr(end + 1);
  }
  return false;
}

enum class LossId : int {
#define FL_ID(op, ...) op,
#define FL_FAMILY(family, LOSSES, ARGUMENTS, INCOMING) LOSSES(FL_ID)
  FL_FAMILIES(FL_FAMILY)
#undef FL_FAMILY
#undef FL_ID
};

constexpr size_t kLossCount = 0
#define FL_ONE(op, ...) +1
#define FL_FAMILY(family, LOSSES, ARGUMENTS, INCOMING) LOSSES(FL_ONE)
    FL_FAMILIES(FL_FAMILY)
#undef FL_FAMILY
#undef FL_ONE
    ;

consteval std::array<Loss, kLossCount> all_losses() {
  std::array<Loss, kLossCount> all;
  size_t i = 0;
#define FL_ROW(op, functor, differentiable, options) \
  all[i++] = {#op, family, arguments, incoming, differentiable, OptionNames(options)};
#define FL_FAMILY(name, LOSSES, ARGUMENTS, INCOMING)                          \
  {                                                                           \
    const char *family = #name, *arguments = ARGUMENTS, *incoming = INCOMING; \
    LOSSES(FL_ROW)                                                            \
  }
  FL_FAMILIES(FL_FAMILY)
#undef FL_FAMILY
#undef FL_ROW
  for (size_t k = 1; k < all.size(); ++k) {
    all[k].place = std::string_view(all[k].family) == all[k - 1].family ? all[k - 1].place + 1 : 0;
  }
  return all;
}

inline constexpr std::array<Loss, kLossCount> kLosses = all_losses();

constexpr const Loss& loss_of(LossId id) { return kLosses[static_cast<size_t>(id)]; }

// Whether an elementwise loss also takes class indices (B, ...) for an input (B, C, ...): a target of 1 for the class
// of a position and of 0 for every other.
constexpr bool takes_class_index(LossId id) { return std::string_view(loss_of(id).name) == "sigmoid_focal_loss"; }

}  // namespace fused_losses
