"""Dice with a second term on the same logits, one read for both: formulas that `loss` fuses, and Modules."""

from __future__ import annotations

from functools import partial

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._options import SCALAR_REDUCTIONS, Choice, Number
from ._shared import scalar_shape, times
from .binary import cross_entropy_of_logits, focal_of_logits
from .classification import softmax_focal_terms
from .overlap import (
    DICE_OPTIONS,
    check_regions,
    dice_of_sums,
    read_regions,
    reduce_regions,
    region_operands,
    region_sums,
    sums_shape,
)

COMPOUND_OPTIONS = {
    **DICE_OPTIONS,
    "activation": Choice({"sigmoid": 1, "softmax": 2}),
    "dice_weight": Number(low=0),
    "label_smoothing": Number(low=0, high=1),
}


def smoothed_regions(g, counted, activation, label_smoothing):
    """The target of the second term: g (1-e) + e/2 with sigmoid, g (1-e) + e/C with softmax, 0 where nothing counts."""
    if not label_smoothing:
        return g
    t = g * (1 - label_smoothing) + label_smoothing / (2 if activation == "sigmoid" else max(g.shape[1], 1))
    return t if counted is None else torch.where(counted, t, 0)


def class_factor(class_weight, x):
    """A weight of each class shaped to the input (B, C, ...), or 1."""
    return 1 if class_weight is None else class_weight.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))


def reduce_counted(terms, counted, activation, reduction, weights=None):
    """Sum of the terms that count, over the number of elements (sigmoid) or positions (softmax) that do; 0 if none.

    weights: one of each position, to divide by their sum instead.
    """
    if counted is not None:
        terms = torch.where(counted, terms, 0)
    if reduction == "sum":
        return terms.sum()
    if weights is not None:
        total = weights.sum()
        return terms.sum() / torch.where(total == 0, 1, total)
    if counted is None:
        positions = terms.numel() // max(terms.shape[1], 1)
        return terms.sum() / max(terms.numel() if activation == "sigmoid" else positions, 1)
    return terms.sum() / (counted if activation == "sigmoid" else counted.any(1)).sum().clamp(min=1)


def check_compound(name, input, target, weight, class_weight, include_background, ignore_index):
    """As `check_regions`, with a weight of each class in the second term or None."""
    check_regions(name, input, target, weight, include_background, ignore_index)
    if class_weight is not None:
        check.shaped(name, "class_weight", class_weight, (input.shape[1],), input)


def compound_operands(input, target, weight, class_weight):
    """As `region_operands`."""
    return *region_operands(input, target, weight), class_weight


def sums_and_count_shapes(tensors, options, reduction):
    """The sums of the Dice term, and what the mean of the second divides by, 1 for 0."""
    return [*sums_shape(tensors, options, reduction), (1,)]


compound_loss = partial(
    loss,
    shape=scalar_shape,
    saved_shapes=sums_and_count_shapes,
    operands=compound_operands,
    reductions=SCALAR_REDUCTIONS,
)


@compound_loss(check=check_compound, options={**COMPOUND_OPTIONS, "ce_weight": Number(low=0)})
def dice_cross_entropy_loss(
    input, target, *, activation="softmax", dice_weight=1.0, ce_weight=1.0, smooth_nr=1e-5, smooth_dr=1e-5,
    squared=False, batch=False, include_background=True, ignore_index=None, weight=None, average="macro",
    absent="count", class_weight=None, label_smoothing=0.0, reduction="mean",
):  # fmt: skip
    """Dice loss plus cross-entropy of the same logits.

    .. math:: a \\cdot \\mathrm{Dice} + b \\cdot \\mathrm{CE}

    Args:
        input: logits (B, C, ...); float32, float64, float16 or bfloat16.
        target: as in :func:`dice_loss`.
        activation: "softmax": the second term is -Σ_c g_c log p_c of each position; "sigmoid": the binary
            cross-entropy of each element.
        dice_weight, ce_weight: a and b, >= 0.
        smooth_nr, smooth_dr, squared, batch, include_background, weight, average, absent: of the Dice term only, as in
            :func:`dice_loss`; the second term takes all classes.
        class_weight: (C,), floating, bool, uint8, int32 or int64, multiplies the second term of each class.
        label_smoothing: e in [0, 1]; in the second term g becomes g (1-e) + e/C with softmax, g (1-e) + e/2 with
            sigmoid.
        ignore_index: drops positions (class indices) or elements (dense target) from both terms.
        reduction: "mean" or "sum", of both terms. The second term's mean is over the positions (softmax) or elements
            (sigmoid) that count, whatever their `class_weight`; with softmax and class indices it divides by the sum of
            the weights of the positions' classes, as torch's cross_entropy.

    Returns:
        A scalar; float64 for a float64 input, else float32.

    Everything ignored gives 0: a term in which nothing counts is 0. With softmax and C = 1 every probability is 1: a
    single class wants "sigmoid". The other special values and errors are those of :func:`dice_loss`.
    Isensee et al., "nnU-Net" (2021); the form of MONAI's ``DiceCELoss``.

    Example:
        >>> logits = torch.tensor([[[4.0, -4.0, 4.0], [-4.0, 4.0, -4.0]]])  # 1 image, 2 classes, 3 positions
        >>> F.dice_cross_entropy_loss(logits, torch.tensor([[0, 1, 1]]), ce_weight=0.5)
        tensor(1.6669)
    """
    x, g, counted = read_regions(input, target, activation, ignore_index)
    sums = region_sums(x, g, counted, activation, squared, batch, include_background, average, absent, weight)
    dice = reduce_regions(dice_of_sums(sums, smooth_nr, smooth_dr), sums, reduction)
    t, factor, weights = smoothed_regions(g, counted, activation, label_smoothing), class_factor(class_weight, x), None
    if activation == "sigmoid":
        terms = factor * cross_entropy_of_logits(x, t)
    else:
        terms = times(factor * t, -x.log_softmax(1))
        if class_weight is not None and target.ndim < input.ndim and input.shape[1] > 1:
            weights = (factor * g).sum(1)
    return dice_weight * dice + ce_weight * reduce_counted(terms, counted, activation, reduction, weights)


class DiceCrossEntropyLoss(LossModule, function=dice_cross_entropy_loss):
    """Module of :func:`dice_cross_entropy_loss`; `weight` and `class_weight` are buffers.

    Example:
        >>> criterion = fused_losses.DiceCrossEntropyLoss(activation="sigmoid")
        >>> criterion(torch.tensor([[[4.0, -4.0, 4.0]]]), torch.tensor([[1, 0, 0]]))
        tensor(1.6929)
    """


def check_focal_regions(
    name, input, target, weight, class_weight, include_background, ignore_index, activation, focal_activation, alpha
):
    """As `check_compound`; an alpha that is a share with "sigmoid", and a factor with "softmax"."""
    check_compound(name, input, target, weight, class_weight, include_background, ignore_index)
    focal = focal_activation or activation
    if alpha is not None and focal == "sigmoid" and alpha > 1:
        raise ValueError(f'{name}: expected alpha <= 1 with activation "sigmoid", got {alpha!r}')
    if alpha is not None and focal == "softmax" and alpha < 0:
        raise ValueError(f'{name}: expected alpha >= 0 with activation "softmax", got {alpha!r}')


@compound_loss(
    check=check_focal_regions,
    options={
        **COMPOUND_OPTIONS,
        "focal_weight": Number(low=0),
        "gamma": Number(low=0),
        "alpha": Number(low=0, also=-1, none=-1),
        "focal_activation": Choice({None: 0, "sigmoid": 1, "softmax": 2}),
    },
)
def dice_focal_loss(
    input, target, *, activation="softmax", dice_weight=1.0, focal_weight=1.0, gamma=2.0, alpha=None, smooth_nr=1e-5,
    smooth_dr=1e-5, squared=False, batch=False, include_background=True, ignore_index=None, weight=None,
    average="macro", absent="count", class_weight=None, label_smoothing=0.0, focal_activation=None, reduction="mean",
):  # fmt: skip
    """Dice loss plus the focal loss of the same logits.

    .. math:: a \\cdot \\mathrm{Dice} + b \\cdot \\mathrm{Focal}

    Args:
        activation: "softmax" or "sigmoid", of the Dice term.
        focal_activation: None for the same; "softmax": the second term is Σ_c g_c α (1-p_c)^γ (-log p_c) of each
            position; "sigmoid": that of :func:`sigmoid_focal_loss` for each element.
        dice_weight, focal_weight: a and b, >= 0.
        gamma: focusing exponent, >= 0.
        alpha: None for no factor; with softmax a factor >= 0; with sigmoid the weight of g = 1 in [0, 1], or -1: none.
        reduction: "mean" or "sum", of both terms. The second term's mean is over the positions (softmax) or elements
            (sigmoid) that count, whatever their `class_weight`.

    Returns:
        A scalar; float64 for a float64 input, else float32.

    The other arguments, the special values and errors are those of :func:`dice_cross_entropy_loss`; `label_smoothing`
    goes by the activation of the second term.
    Zhu et al., "AnatomyNet" (2019); the form of MONAI's ``DiceFocalLoss``.

    Example:
        >>> logits = torch.tensor([[[4.0, -4.0, 4.0], [-4.0, 4.0, -4.0]]])  # 1 image, 2 classes, 3 positions
        >>> F.dice_focal_loss(logits, torch.tensor([[0, 1, 1]]), gamma=1.0)
        tensor(2.9993)
    """
    focal = focal_activation or activation
    joint = "softmax" if "softmax" in (activation, focal) else "sigmoid"
    x, g, counted = read_regions(input, target, joint, ignore_index)
    sums = region_sums(x, g, counted, activation, squared, batch, include_background, average, absent, weight)
    dice = reduce_regions(dice_of_sums(sums, smooth_nr, smooth_dr), sums, reduction)
    t, factor = smoothed_regions(g, counted, focal, label_smoothing), class_factor(class_weight, x)
    if focal == "sigmoid":
        terms = focal_of_logits(x, t, -1 if alpha is None else alpha, gamma) * factor
    else:
        terms = softmax_focal_terms(x, 1, gamma, t * factor) * (1 if alpha is None else alpha)
    return dice_weight * dice + focal_weight * reduce_counted(terms, counted, focal, reduction)


class DiceFocalLoss(LossModule, function=dice_focal_loss):
    """Module of :func:`dice_focal_loss`; `weight` and `class_weight` are buffers.

    Example:
        >>> criterion = fused_losses.DiceFocalLoss(activation="sigmoid", alpha=0.25)
        >>> criterion(torch.tensor([[[4.0, -4.0, 4.0]]]), torch.tensor([[1, 0, 0]]))
        tensor(1.3101)
    """
