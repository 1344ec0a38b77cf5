"""The forms people commonly write for each loss: beside the reference and torch's own op, what a rival is chosen from.

Each takes the tensors of its benchmark case and returns the mean the case asks for. They follow what torchvision, MONAI
and textbook code do (torch's fused pieces wherever one exists), without the checks and options of a library.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

SMOOTH = 1e-5


def weighted_bce(input, target, class_weights):
    low, high = class_weights
    return F.binary_cross_entropy(input, target, weight=low + (high - low) * target)


def weighted_bce_with_logits(input, target, class_weights):
    low, high = class_weights
    return F.binary_cross_entropy_with_logits(input, target, weight=low + (high - low) * target)


def sigmoid_focal(input, target, alpha=0.25, gamma=2.0, reduction="mean"):
    p = torch.sigmoid(input)
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    return (alpha_t * ce * (1 - p_t) ** gamma).mean()


def _one_hot(target, input):
    return torch.zeros_like(input).scatter_(1, target.unsqueeze(1), 1.0)


def sigmoid_focal_from_classes(input, target, reduction="mean"):
    return sigmoid_focal(input, _one_hot(target, input))


def sigmoid_focal_of_integers(input, target, reduction="mean"):
    return sigmoid_focal(input, target.to(input.dtype))


def mse(input, target):
    return (input - target).square().mean()


def l1(input, target):
    return (input - target).abs().mean()


def hinge(input, target):
    return (1 - input * target).clamp_min(0).mean()


def softmax_focal(input, target, gamma=2.0):
    log_p = F.log_softmax(input, 1).gather(1, target.unsqueeze(1)).squeeze(1)
    return (-((1 - log_p.exp()) ** gamma) * log_p).mean()


def kl_div_with_logits(input, target):
    return F.kl_div(F.log_softmax(input, -1), F.log_softmax(target, -1), reduction="batchmean", log_target=True)


def linear_cross_entropy(input, linear_weight, target):
    return F.cross_entropy(F.linear(input, linear_weight), target)


def info_nce(query, key, temperature=0.07):
    return F.cross_entropy(query @ key.T / temperature, torch.arange(query.shape[0], device=query.device))


def clip(x, y, logit_scale):
    logits, labels = logit_scale * x @ y.T, torch.arange(x.shape[0], device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def siglip(x, y, logit_scale, logit_bias):
    logits = logit_scale * x @ y.T + logit_bias
    signs = 2 * torch.eye(x.shape[0], dtype=x.dtype, device=x.device) - 1
    return -F.logsigmoid(signs * logits).sum() / x.shape[0]


def nt_xent(z1, z2, temperature=0.5):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n = z1.shape[0]
    logits = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z.device).roll(n))


def batch_hard(features, labels):
    distances, same = torch.cdist(features, features), labels.unsqueeze(1) == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    farthest = distances.masked_fill(~positive, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    return (1 + farthest - nearest).relu()[positive.any(1) & ~same.all(1)].mean()


def sup_con(features, labels, temperature=0.07):
    z = F.normalize(features, dim=1)
    logits = z @ z.T / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(z.shape[0], dtype=z.dtype, device=z.device)
    mask = (labels[:, None] == labels).to(z.dtype) * others
    log_p = logits - (torch.exp(logits) * others).sum(1, keepdim=True).log()
    positives = mask.sum(1)
    each = (mask * log_p).sum(1) / positives.clamp(min=1)
    return -each.sum() / (positives > 0).sum()


def linear_kl_div(input, linear_weight, teacher_input, teacher_weight):
    return kl_div_with_logits(F.linear(input, linear_weight), F.linear(teacher_input, teacher_weight))


def linear_js_div(input, linear_weight, teacher_input, teacher_weight):
    return js_div_with_logits(F.linear(input, linear_weight), F.linear(teacher_input, teacher_weight))


def js_div_with_logits(input, target):
    log_q, log_p = F.log_softmax(input, -1), F.log_softmax(target, -1)
    log_m = (0.5 * (log_p.exp() + log_q.exp())).log()
    of_p = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    return 0.5 * (of_p + F.kl_div(log_m, log_q, reduction="batchmean", log_target=True))


def kl_div_with_probabilities(input, target):
    return F.kl_div(F.log_softmax(input, -1), F.softmax(target, -1), reduction="batchmean")


def js_div_with_probabilities(input, target):
    q, p = F.softmax(input, -1), F.softmax(target, -1)
    log_m = (0.5 * (p + q)).log()
    return 0.5 * (F.kl_div(log_m, p, reduction="batchmean") + F.kl_div(log_m, q, reduction="batchmean"))


def gaussian_kl(mu, logvar):
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1).mean()


def vae(reconstruction, target, mu, logvar):
    term = F.binary_cross_entropy(reconstruction, target, reduction="sum") / target.shape[0]
    return term + gaussian_kl(mu, logvar)


def _sums(input, target):
    p = torch.sigmoid(input).flatten(2)
    g = target.flatten(2)
    return (p * g).sum(-1), p.sum(-1), g.sum(-1)


def dice(input, target):
    both, p, g = _sums(input, target)
    return (1 - (2 * both + SMOOTH) / (p + g + SMOOTH)).mean()


def jaccard(input, target):
    both, p, g = _sums(input, target)
    return (1 - (both + SMOOTH) / (p + g - both + SMOOTH)).mean()


def tversky(input, target, alpha, beta):
    both, p, g = _sums(input, target)
    return (1 - (both + SMOOTH) / (both + alpha * (p - both) + beta * (g - both) + SMOOTH)).mean()


def dice_from_indices(input, target, activation="softmax", average="macro", absent="count"):
    p, g = torch.softmax(input, 1).flatten(2), _one_hot(target, input).flatten(2)
    if average == "micro":
        p, g = p.flatten(1), g.flatten(1)
    both, true = (p * g).sum(-1), g.sum(-1)
    losses = 1 - (2 * both + SMOOTH) / (p.sum(-1) + true + SMOOTH)
    if absent == "count":
        return losses.mean()
    kept = losses * (true > 0)
    return kept.mean() if absent == "zero" else kept.sum() / (true > 0).sum()


def dice_cross_entropy(input, target, class_weight=None, label_smoothing=0.0):
    second = F.cross_entropy(input, target, weight=class_weight, label_smoothing=label_smoothing)
    return dice_from_indices(input, target) + second


def dice_focal(input, target, focal_activation="softmax"):
    if focal_activation == "softmax":
        return dice_from_indices(input, target) + softmax_focal(input, target)
    g = _one_hot(target, input)
    p_t = torch.sigmoid(input) * (2 * g - 1) + 1 - g
    ce = F.binary_cross_entropy_with_logits(input, g, reduction="none")
    return dice_from_indices(input, target) + (ce * (1 - p_t) ** 2).mean()


def contrastive(x1, x2, target):
    distance = F.pairwise_distance(x1, x2)
    return (target * distance.square() + (1 - target) * (1 - distance).clamp_min(0).square()).mean()


def contrastive_by_squares(x1, x2, target):
    squares = (x1 - x2).square().sum(-1)
    beyond = (1 - (squares + 1e-12).sqrt()).clamp_min(0)
    return (target * squares + (1 - target) * beyond.square()).mean()


def contrastive_from_distance(distance, target):
    return (target * distance.square() + (1 - target) * (1 - distance).clamp_min(0).square()).mean()


def mahalanobis_distance(input, mean, scale_tril):
    return torch.linalg.solve_triangular(scale_tril, (input - mean).T, upper=False).square().sum(0).sqrt()


def mahalanobis_loss(input, target, mean, scale_tril):
    return contrastive_from_distance(mahalanobis_distance(input, mean, scale_tril), target)


def mahalanobis_distance_by_precision(input, mean, scale_tril):
    """With the inverse covariance, as scipy.spatial.distance.mahalanobis takes it."""
    centred = input - mean
    return ((centred @ torch.cholesky_inverse(scale_tril)) * centred).sum(-1).sqrt()


def mahalanobis_loss_by_precision(input, target, mean, scale_tril):
    return contrastive_from_distance(mahalanobis_distance_by_precision(input, mean, scale_tril), target)


def approx_ndcg(scores, relevance):
    gaps = (scores.unsqueeze(1) - scores.unsqueeze(2)).sigmoid()
    ranks = gaps.sum(-1) + 0.5
    gains = torch.exp2(relevance) - 1
    ideal = gains.sort(descending=True).values / torch.log2(torch.arange(2.0, gains.shape[1] + 2, device=gains.device))
    return (1 - (gains / torch.log2(1 + ranks)).sum(-1) / ideal.sum(-1)).mean()


KL_DIV_WITH_LOGITS = (kl_div_with_logits, kl_div_with_probabilities)
JS_DIV_WITH_LOGITS = (js_div_with_logits, js_div_with_probabilities)
CONTRASTIVE = (contrastive, contrastive_by_squares)
MAHALANOBIS_DISTANCE = (mahalanobis_distance, mahalanobis_distance_by_precision)
MAHALANOBIS_LOSS = (mahalanobis_loss, mahalanobis_loss_by_precision)
