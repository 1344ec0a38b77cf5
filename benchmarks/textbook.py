"""The built-in elementwise losses once more, as custom losses by their textbook formulas: what a user would write."""

import torch
import torch.nn.functional as F

from fused_losses import custom


@custom.elementwise(differentiable=("input",))
def binary_cross_entropy(input, target):
    return F.binary_cross_entropy(input, target, reduction="none")


@custom.elementwise(differentiable=("input",))
def binary_cross_entropy_with_logits(input, target):
    return F.binary_cross_entropy_with_logits(input, target, reduction="none")


@custom.elementwise(differentiable=("input",))
def weighted_binary_cross_entropy(input, target, *, w0=0.7, w1=2.0):
    return (target * w1 + (1 - target) * w0) * F.binary_cross_entropy(input, target, reduction="none")


@custom.elementwise(differentiable=("input",))
def weighted_binary_cross_entropy_with_logits(input, target, *, w0=0.7, w1=2.0):
    return (target * w1 + (1 - target) * w0) * F.binary_cross_entropy_with_logits(input, target, reduction="none")


@custom.elementwise(differentiable=("input",))
def sigmoid_focal_loss(input, target, *, alpha=0.25):
    p = torch.sigmoid(input)
    one_minus_p_t = p * (1 - target) + (1 - p) * target
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    return (alpha * target + (1 - alpha) * (1 - target)) * one_minus_p_t**2 * ce


@custom.elementwise(differentiable=("input",))
def hinge_loss(input, target, *, margin=1.0):
    return torch.relu(margin - target * input)


@custom.elementwise
def mse_loss(input, target):
    return (input - target) ** 2


@custom.elementwise
def l1_loss(input, target):
    return (input - target).abs()


@custom.elementwise
def huber_loss(input, target, *, delta=1.0):
    d = (input - target).abs()
    return torch.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


@custom.elementwise
def smooth_l1_loss(input, target, *, beta=1.0):
    d = (input - target).abs()
    return torch.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)


@custom.elementwise
def kl_div(input, target):
    return torch.xlogy(target, target) - target * input


@custom.elementwise(differentiable=("distance",))
def contrastive_loss_from_distance(distance, target, *, margin=1.0):
    return target * distance**2 + (1 - target) * torch.relu(margin - distance) ** 2
