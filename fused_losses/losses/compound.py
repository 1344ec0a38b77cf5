"""Dice with a second term on the same logits: reference, public function and Module of each, one read for both."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import MEAN, SUM, Op
from ._shared import times
from .binary import check_alpha, cross_entropy_of_logits, focal_of_logits
from .classification import softmax_focal_terms
from .overlap import check_overlap, one_minus_ratio, read_regions, reduce_classes, region_sums, sums_shape

REDUCTIONS = {"mean": MEAN, "sum": SUM}


def dice_of_regions(x, g, counted, activation, options, weight, reduction):
    """The Dice loss of what `read_regions` gave; options: the other keywords of `dice_loss`."""
    sums = options["squared"], options["batch"], options["include_background"]
    I, P, G = region_sums(x, g, counted, activation, *sums)  # noqa: E741
    numerator, denominator = 2 * I + options["smooth_nr"], P + G + options["smooth_dr"]
    loss = one_minus_ratio(numerator, denominator, P, G, options["ignore_index"])
    return reduce_classes(loss, weight, reduction)


def reduce_counted(terms, counted, activation, reduction):
    """Sum of the terms that count, over the number of elements (sigmoid) or positions (softmax) that do; 0 if none."""
    if counted is not None:
        terms = torch.where(counted, terms, 0)
    if reduction == "sum":
        return terms.sum()
    if counted is None:
        return terms.sum() / max(terms.numel() if activation == "sigmoid" else terms[:, 0].numel(), 1)
    return terms.sum() / (counted if activation == "sigmoid" else counted.any(1)).sum().clamp(min=1)


def _saved_shapes(tensors, options, reduction):
    return [*sums_shape(tensors, options, reduction), (1,)]


def _op(reference):
    """An op of Dice and a second term.

    tensors and the first seven options: as the overlap ops', activation 1 or 2, reduction mean or sum. Then
    dice_cross_entropy_loss: dice_weight, ce_weight; dice_focal_loss: dice_weight, focal_weight, gamma, alpha (-1: no
    factor).
    saved: the sums I, P, G (B or 1, C, 3) and, shape (1,), the number the second term's mean divides by: the elements
    (sigmoid) or positions (softmax; of a dense target, those with an element not ignored) that count, at least 1.
    """
    return Op(reference, ("input", "target", "weight"), lambda *_: (), saved=2, saved_shapes=_saved_shapes)


def _check_compound(name, activation, dice_weight, second_name, second_weight):
    if activation is None:
        raise ValueError(f'{name}: expected activation to be "sigmoid" or "softmax", got None')
    check.number(name, "dice_weight", dice_weight, 0)
    check.number(name, second_name, second_weight, 0)


def reference_dice_cross_entropy_loss(
    input, target, *, activation="softmax", dice_weight=1.0, ce_weight=1.0, smooth_nr=1e-5, smooth_dr=1e-5,
    squared=False, batch=False, include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """dice_weight dice_loss + ce_weight ce; ce: -Σ_c g_c log p_c of each position (softmax), or BCE (sigmoid)."""
    x, g, counted = read_regions(input, target, activation, ignore_index)
    options = {
        "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index,
    }  # fmt: skip
    dice = dice_of_regions(x, g, counted, activation, options, weight, reduction)
    terms = cross_entropy_of_logits(x, g) if activation == "sigmoid" else times(g, -x.log_softmax(1))
    return dice_weight * dice + ce_weight * reduce_counted(terms, counted, activation, reduction)


_dice_cross_entropy_loss = _op(reference_dice_cross_entropy_loss)


def dice_cross_entropy_loss(
    input, target, *, activation="softmax", dice_weight=1.0, ce_weight=1.0, smooth_nr=1e-5, smooth_dr=1e-5,
    squared=False, batch=False, include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """Dice loss plus cross-entropy of the same logits.

    .. math:: a \\cdot \\mathrm{Dice} + b \\cdot \\mathrm{CE}

    Args:
        input: logits (B, C, ...); float32, float64, float16 or bfloat16.
        target: as in :func:`dice_loss`.
        activation: "softmax": the second term is -Σ_c g_c log p_c of each position; "sigmoid": the binary
            cross-entropy of each element.
        dice_weight, ce_weight: a and b, >= 0.
        smooth_nr, smooth_dr, squared, batch, include_background, weight: of the Dice term only, as in
            :func:`dice_loss`; the second term takes all classes, unweighted.
        ignore_index: drops positions (class indices) or elements (dense target) from both terms.
        reduction: "mean" or "sum", of both terms. The second term's mean is over the positions (softmax) or elements
            (sigmoid) that count.

    Returns:
        A scalar; float64 for a float64 input, else float32.

    Everything ignored gives 0: a term in which nothing counts is 0. With softmax and C = 1 every probability is 1: a
    single class wants "sigmoid". The other special values and errors are those of :func:`dice_loss`.
    Isensee et al., "nnU-Net" (2021); the form of MONAI's ``DiceCELoss``.
    """
    name = "dice_cross_entropy_loss"
    _check_compound(name, activation, dice_weight, "ce_weight", ce_weight)
    dice = {
        "activation": activation, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index, "reduction": reduction,
    }  # fmt: skip
    target, options, code = check_overlap(name, input, target, weight, **dice, reductions=REDUCTIONS)
    keywords = {**dice, "dice_weight": dice_weight, "ce_weight": ce_weight}
    options = (*options, float(dice_weight), float(ce_weight))
    return fused(_dice_cross_entropy_loss, (input, target, weight), options, code, keywords)


class DiceCrossEntropyLoss(LossModule, function=dice_cross_entropy_loss):
    """Module of :func:`dice_cross_entropy_loss`; `weight` is a buffer."""


def reference_dice_focal_loss(
    input, target, *, activation="softmax", dice_weight=1.0, focal_weight=1.0, gamma=2.0, alpha=None, smooth_nr=1e-5,
    smooth_dr=1e-5, squared=False, batch=False, include_background=True, ignore_index=None, weight=None,
    reduction="mean",
):  # fmt: skip
    """dice_weight dice_loss + focal_weight focal, softmax_focal_loss's or sigmoid_focal_loss's formula."""
    x, g, counted = read_regions(input, target, activation, ignore_index)
    options = {
        "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index,
    }  # fmt: skip
    dice = dice_of_regions(x, g, counted, activation, options, weight, reduction)
    if activation == "sigmoid":
        terms = focal_of_logits(x, g, -1 if alpha is None else alpha, gamma)
    else:
        terms = softmax_focal_terms(x, 1, gamma, g) * (1 if alpha is None else alpha)
    return dice_weight * dice + focal_weight * reduce_counted(terms, counted, activation, reduction)


_dice_focal_loss = _op(reference_dice_focal_loss)


def dice_focal_loss(
    input, target, *, activation="softmax", dice_weight=1.0, focal_weight=1.0, gamma=2.0, alpha=None, smooth_nr=1e-5,
    smooth_dr=1e-5, squared=False, batch=False, include_background=True, ignore_index=None, weight=None,
    reduction="mean",
):  # fmt: skip
    """Dice loss plus the focal loss of the same logits.

    .. math:: a \\cdot \\mathrm{Dice} + b \\cdot \\mathrm{Focal}

    Args:
        input: logits (B, C, ...); float32, float64, float16 or bfloat16.
        target: as in :func:`dice_loss`.
        activation: "softmax": the second term is Σ_c g_c α (1-p_c)^γ (-log p_c) of each position; "sigmoid": that of
            :func:`sigmoid_focal_loss` for each element.
        dice_weight, focal_weight: a and b, >= 0.
        gamma: focusing exponent, >= 0.
        alpha: None for no factor; with softmax a factor >= 0; with sigmoid the weight of g = 1 in [0, 1], or -1: none.
        smooth_nr, smooth_dr, squared, batch, include_background, weight: of the Dice term only, as in
            :func:`dice_loss`; the second term takes all classes, unweighted.
        ignore_index: drops positions (class indices) or elements (dense target) from both terms.
        reduction: "mean" or "sum", of both terms. The second term's mean is over the positions (softmax) or elements
            (sigmoid) that count.

    Returns:
        A scalar; float64 for a float64 input, else float32.

    The special values and errors are those of :func:`dice_cross_entropy_loss`.
    Zhu et al., "AnatomyNet" (2019); the form of MONAI's ``DiceFocalLoss``.
    """
    name = "dice_focal_loss"
    _check_compound(name, activation, dice_weight, "focal_weight", focal_weight)
    check.number(name, "gamma", gamma, 0)
    if alpha is not None and activation == "sigmoid":
        check_alpha(name, alpha)
    elif alpha is not None:
        check.number(name, "alpha", alpha, 0)
    dice = {
        "activation": activation, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index, "reduction": reduction,
    }  # fmt: skip
    target, options, code = check_overlap(name, input, target, weight, **dice, reductions=REDUCTIONS)
    keywords = {**dice, "dice_weight": dice_weight, "focal_weight": focal_weight, "gamma": gamma, "alpha": alpha}
    factor = -1.0 if alpha is None else float(alpha)
    options = (*options, float(dice_weight), float(focal_weight), float(gamma), factor)
    return fused(_dice_focal_loss, (input, target, weight), options, code, keywords)


class DiceFocalLoss(LossModule, function=dice_focal_loss):
    """Module of :func:`dice_focal_loss`; `weight` is a buffer."""
