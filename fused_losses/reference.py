"""The same losses in plain PyTorch: the specification, and the path of whatever has no kernel."""

# Written by tools/exports.py.

from . import functional

approx_ndcg_loss = functional.approx_ndcg_loss.reference
binary_cross_entropy = functional.binary_cross_entropy.reference
binary_cross_entropy_with_logits = functional.binary_cross_entropy_with_logits.reference
clip_loss = functional.clip_loss.reference
contrastive_loss = functional.contrastive_loss.reference
contrastive_loss_from_distance = functional.contrastive_loss_from_distance.reference
cross_entropy = functional.cross_entropy.reference
dice_cross_entropy_loss = functional.dice_cross_entropy_loss.reference
dice_focal_loss = functional.dice_focal_loss.reference
dice_loss = functional.dice_loss.reference
expected_bleu_loss = functional.expected_bleu_loss.reference
gaussian_kl = functional.gaussian_kl.reference
hinge_loss = functional.hinge_loss.reference
huber_loss = functional.huber_loss.reference
info_nce_loss = functional.info_nce_loss.reference
jaccard_loss = functional.jaccard_loss.reference
js_div_with_logits = functional.js_div_with_logits.reference
kl_div = functional.kl_div.reference
kl_div_with_logits = functional.kl_div_with_logits.reference
l1_loss = functional.l1_loss.reference
lambda_ndcg_loss = functional.lambda_ndcg_loss.reference
linear_cross_entropy = functional.linear_cross_entropy.reference
linear_js_div = functional.linear_js_div.reference
linear_kl_div = functional.linear_kl_div.reference
mahalanobis_distance = functional.mahalanobis_distance.reference
mahalanobis_loss = functional.mahalanobis_loss.reference
mse_loss = functional.mse_loss.reference
multi_similarity_loss = functional.multi_similarity_loss.reference
nt_xent_loss = functional.nt_xent_loss.reference
siglip_loss = functional.siglip_loss.reference
sigmoid_focal_loss = functional.sigmoid_focal_loss.reference
smooth_l1_loss = functional.smooth_l1_loss.reference
softmax_focal_loss = functional.softmax_focal_loss.reference
sup_con_loss = functional.sup_con_loss.reference
triplet_batch_hard_loss = functional.triplet_batch_hard_loss.reference
tversky_loss = functional.tversky_loss.reference
vae_loss = functional.vae_loss.reference
weighted_binary_cross_entropy = functional.weighted_binary_cross_entropy.reference
weighted_binary_cross_entropy_with_logits = functional.weighted_binary_cross_entropy_with_logits.reference

__all__ = [
    "approx_ndcg_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "contrastive_loss",
    "contrastive_loss_from_distance",
    "cross_entropy",
    "dice_cross_entropy_loss",
    "dice_focal_loss",
    "dice_loss",
    "expected_bleu_loss",
    "gaussian_kl",
    "hinge_loss",
    "huber_loss",
    "info_nce_loss",
    "jaccard_loss",
    "js_div_with_logits",
    "kl_div",
    "kl_div_with_logits",
    "l1_loss",
    "lambda_ndcg_loss",
    "linear_cross_entropy",
    "linear_js_div",
    "linear_kl_div",
    "mahalanobis_distance",
    "mahalanobis_loss",
    "mse_loss",
    "multi_similarity_loss",
    "nt_xent_loss",
    "siglip_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "sup_con_loss",
    "triplet_batch_hard_loss",
    "tversky_loss",
    "vae_loss",
    "weighted_binary_cross_entropy",
    "weighted_binary_cross_entropy_with_logits",
]
