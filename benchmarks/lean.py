"""Forms of the losses by somebody who counts passes over memory: beside chains.py, what a rival is chosen from.

Plain PyTorch still, differentiated by autograd: a dot product in place of a product and a sum, one softmax for two
terms, a gather in place of one-hot maps, lists one at a time. As the chains they keep no special values: a probability
of 0 or 1 may give NaN, and forms "of masks" take targets of 0 and 1 alone. Those with a loop over lists run eagerly,
since torch.compile would unroll it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .chains import SMOOTH, contrastive_from_distance


def _dot(a, b):
    return torch.dot(a.flatten(), b.flatten())


# ---- Binary ----


def hinge_in_place(input, target):
    return F.relu(torch.addcmul(input.new_ones(()), input, target, value=-1), inplace=True).mean()


def hinge_by_absolute(input, target):
    """No comparison, whose mask torch.compile stores and reads one element at a time on the CPU."""
    slack = 1 - input * target
    return (slack + slack.abs()).mean() / 2


def bce_by_dots(input, target):
    return -(_dot(target, input.log()) + _dot(1 - target, (1 - input).log())) / input.numel()


def bce_of_masks(input, target):
    return -(input + target).sub_(1).abs().log().mean()


def _weights(target, class_weights):
    low, high = class_weights
    return torch.add(target.new_tensor(low), target, alpha=high - low)


def weighted_bce_of_masks(input, target, class_weights):
    return -_dot(_weights(target, class_weights), (input + target).sub_(1).abs().log()) / input.numel()


def bce_with_logits_by_dots(input, target):
    return (F.softplus(input).sum() - _dot(target, input)) / input.numel()


def weighted_bce_with_logits_of_masks(input, target, class_weights):
    wrong = torch.addcmul(input, input, target, value=-2)
    return _dot(_weights(target, class_weights), F.softplus(wrong)) / input.numel()


def sigmoid_focal_of_masks(input, target, alpha=0.25, gamma=2.0, reduction="mean"):
    wrong = torch.addcmul(input, input, target, value=-2)
    return (_weights(target, (1 - alpha, alpha)) * torch.sigmoid(wrong) ** gamma * F.softplus(wrong)).mean()


# ---- Divergences ----


def kl_div_by_dots(input, target, reduction="batchmean"):
    return (_dot(target, target.clamp_min(1e-38).log_()) - _dot(target, input)) / input.shape[0]


def kl_div_with_logits_by_dots(input, target):
    log_p = F.log_softmax(target, -1)
    p = log_p.exp()
    return (_dot(p, log_p) - _dot(p, F.log_softmax(input, -1))) / input.shape[0]


def js_div_with_logits_by_dots(input, target):
    log_q, log_p = F.log_softmax(input, -1), F.log_softmax(target, -1)
    q, p = log_q.exp(), log_p.exp()
    twice = p + q
    return 0.5 * (_dot(p, log_p) + _dot(q, log_q) - _dot(twice, twice.log())) / input.shape[0] + math.log(2)


def gaussian_kl_by_dots(mu, logvar):
    return (_dot(mu, mu) + logvar.exp().sum() - logvar.sum() - mu.numel()) / (2 * mu.shape[0])


def vae_by_dots(reconstruction, target, mu, logvar):
    term = bce_by_dots(reconstruction, target) * (target.numel() / target.shape[0])
    return term + gaussian_kl_by_dots(mu, logvar)


# ---- Overlap, from class indices ----


def _dice(p, target):
    """Of probabilities, those of each position's class gathered and added up by class."""
    batch, classes = p.shape[:2]
    p, index = p.flatten(2), target.reshape(batch, 1, -1)
    own, index = p.gather(1, index).squeeze(1), index.squeeze(1)
    none = p.new_zeros(batch, classes)
    both, true = none.scatter_add(1, index, own), none.scatter_add(1, index, torch.ones_like(own))
    return (1 - (2 * both + SMOOTH) / (p.sum(-1) + true + SMOOTH)).mean()


def dice_by_gather(input, target, activation="softmax"):
    return _dice(torch.softmax(input, 1), target)


def dice_cross_entropy_by_gather(input, target):
    log_p = F.log_softmax(input, 1)
    return _dice(log_p.exp(), target) + F.nll_loss(log_p, target)


def dice_focal_by_gather(input, target):
    log_p = F.log_softmax(input, 1)
    own = log_p.gather(1, target.unsqueeze(1))
    return _dice(log_p.exp(), target) - ((1 - own.exp()).square() * own).mean()


# ---- Distances ----


def contrastive_from_distance_by_dots(distance, target):
    push = (1 - distance).clamp_min(0).square()
    return (push.sum() + _dot(target, distance.square() - push)) / distance.numel()


def mahalanobis_distance_by_inverse(input, mean, scale_tril):
    inverse = torch.linalg.solve_triangular(scale_tril, torch.eye(len(mean)).to(mean), upper=False)
    return torch.linalg.vector_norm(F.linear(input, inverse, -(inverse @ mean)), dim=1)


def mahalanobis_loss_by_inverse(input, target, mean, scale_tril):
    return contrastive_from_distance(mahalanobis_distance_by_inverse(input, mean, scale_tril), target)


# ---- Ranking ----


def _discounted(gains):
    return gains / torch.log2(torch.arange(2.0, gains.shape[1] + 2, device=gains.device))


def approx_ndcg_by_lists(scores, relevance):
    """The pairs of one list stay in the cache."""
    ranks = torch.stack([(row - row.unsqueeze(1)).sigmoid_().sum(1) for row in scores]) + 0.5
    gains = torch.exp2(relevance) - 1
    ideal = _discounted(gains.sort(descending=True).values).sum(-1)
    return (1 - (gains / torch.log2(1 + ranks)).sum(-1) / ideal).mean()


def _of_lists(scores, relevance):
    """Discount and gain of each item, the ideal gain of each list."""
    ranks = scores.detach().argsort(dim=1, descending=True, stable=True).argsort(1) + 1
    gains = torch.exp2(relevance) - 1
    return 1 / torch.log2(1.0 + ranks), gains, _discounted(gains.sort(1, descending=True).values).sum(1)


def lambda_ndcg(scores, relevance):
    discount, gain, ideal = _of_lists(scores, relevance)
    delta = (gain.unsqueeze(2) - gain.unsqueeze(1)).relu_() * (discount.unsqueeze(2) - discount.unsqueeze(1)).abs_()
    return ((delta * F.softplus(scores.unsqueeze(1) - scores.unsqueeze(2))).sum((1, 2)) / ideal).mean()


def lambda_ndcg_by_grades(scores, relevance):
    """List by list, each grade of relevance against the items below it."""
    sums = []
    discounts, gains, ideal = _of_lists(scores, relevance)
    for score, discount, gain in zip(scores, discounts, gains):
        order = gain.argsort(descending=True)
        score, discount, gain = score[order], discount[order], gain[order]
        begin, total = 0, score.new_zeros(())
        for count in gain.unique_consecutive(return_counts=True)[1].tolist()[:-1]:
            end = begin + count
            delta = (gain[begin] - gain[end:]) * (discount[begin:end, None] - discount[end:]).abs_()
            total = total + (delta * F.softplus(score[end:] - score[begin:end, None])).sum()
            begin = end
        sums.append(total)
    return (torch.stack(sums) / ideal).mean()


# ---- Pairs of a batch ----


def _similarities(features, temperature):
    z = F.normalize(features, dim=1)
    return z, ((z / temperature) @ z.T).fill_diagonal_(-torch.inf)


def nt_xent_in_place(z1, z2, temperature=0.5):
    n = z1.shape[0]
    _, logits = _similarities(torch.cat([z1, z2]), temperature)
    return F.cross_entropy(logits, torch.arange(2 * n, device=z1.device).roll(n))


def sup_con_by_sums(features, labels, temperature=0.07):
    """A row's positives by the sum of all rows of its label."""
    z, logits = _similarities(features, temperature)
    positives = torch.bincount(labels)[labels] - 1
    of_label = z.new_zeros(len(z), z.shape[1]).index_add(0, labels, z)
    attracted = (z * (of_label[labels] - z)).sum(1) / temperature / positives.clamp(min=1)
    return torch.where(positives > 0, logits.logsumexp(1) - attracted, 0).sum() / (positives > 0).sum()


def multi_similarity(features, labels, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1):
    z = F.normalize(features, dim=1)
    s = z @ z.T
    known, same = s.detach(), labels.unsqueeze(1) == labels
    positive = same.clone().fill_diagonal_(False)
    low = torch.where(positive, known, torch.inf).amin(1, keepdim=True)
    high = torch.where(same, -torch.inf, known).amax(1, keepdim=True)
    kept = torch.where(same, positive & (known - epsilon < high), known + epsilon > low)
    terms = torch.where(kept, (s - base) * torch.where(same, -alpha, beta), -torch.inf).exp()
    near = torch.where(same, terms, 0).sum(1)
    return (near.log1p() / alpha + (terms.sum(1) - near).log1p() / beta).mean()


# case: its forms
FORMS = {
    "hinge_loss": (hinge_in_place, hinge_by_absolute),
    "binary_cross_entropy": (bce_by_dots, bce_of_masks),
    "weighted_binary_cross_entropy": (weighted_bce_of_masks,),
    "binary_cross_entropy_with_logits": (bce_with_logits_by_dots,),
    "weighted_binary_cross_entropy_with_logits": (weighted_bce_with_logits_of_masks,),
    "sigmoid_focal_loss": (sigmoid_focal_of_masks,),
    "kl_div": (kl_div_by_dots,),
    "kl_div_with_logits": (kl_div_with_logits_by_dots,),
    "js_div_with_logits": (js_div_with_logits_by_dots,),
    "gaussian_kl": (gaussian_kl_by_dots,),
    "vae_loss": (vae_by_dots,),
    "dice_loss+indices": (dice_by_gather,),
    "dice_cross_entropy_loss": (dice_cross_entropy_by_gather,),
    "dice_focal_loss": (dice_focal_by_gather,),
    "contrastive_loss_from_distance": (contrastive_from_distance_by_dots,),
    "mahalanobis_distance": (mahalanobis_distance_by_inverse,),
    "mahalanobis_loss": (mahalanobis_loss_by_inverse,),
    "approx_ndcg_loss": (approx_ndcg_by_lists,),
    "lambda_ndcg_loss": (lambda_ndcg, lambda_ndcg_by_grades),
    "nt_xent_loss": (nt_xent_in_place,),
    "sup_con_loss": (sup_con_by_sums,),
    "multi_similarity_loss": (multi_similarity,),
}
EAGER_ALONE = frozenset({"approx_ndcg_by_lists", "lambda_ndcg_by_grades"})
