"""Overlap of predicted and true regions (Dice, Jaccard, Tversky): formulas that `loss` fuses, and Modules.

All are ratios of three sums over the positions of a class: I = Σ p g, P = Σ p, G = Σ g (Σ p², Σ g² with `squared`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import NONE
from .._options import Choice, Flag, IgnoreIndex, Number
from ._shared import accumulate, one_hot, reduce, valid_mask, widened, with_classes

REGION_OPTIONS = {
    "activation": Choice({None: 0, "sigmoid": 1, "softmax": 2}),
    "smooth_nr": Number(low=0),
    "smooth_dr": Number(low=0),
    "batch": Flag(),
    "include_background": Flag(),
    "ignore_index": IgnoreIndex(),
    "average": Choice({"macro": 0, "micro": 1}),
    "absent": Choice({"count": 0, "zero": 1, "skip": 2}),
}
DICE_OPTIONS = {**REGION_OPTIONS, "squared": Flag()}


def read_regions(input, target, activation, ignore_index):
    """Logits x, dense target g and the mask of the elements that count (None: all), each of the input's shape.

    A class-index target (B, *) becomes one-hot. Ignored elements are 0 in g; logits that reach no counted element are
    0 in x, so that nothing in them, NaN included, is read.
    """
    (x,) = accumulate(input)
    target = with_classes(target, input)
    if target.ndim == input.ndim:
        g = valid_mask(target, target.to(x.dtype), ignore_index)
        if ignore_index is None:
            return x, g, None
        counted = g != ignore_index
        read = counted.any(1, keepdim=True) if activation == "softmax" else counted
        return torch.where(read, x, 0), torch.where(counted, g, 0), counted
    g, counted = one_hot(target, x, ignore_index)
    return (x, g, None) if counted is None else (torch.where(counted, x, 0), g, counted.expand(x.shape))


class RegionSums(NamedTuple):
    """Of each class and sample, (B, C'), or with `batch` of each class, (C',); C' = C - 1 without the background.

    With `average` "micro" of all classes together, (B,) or ().
    """

    intersection: torch.Tensor
    predicted: torch.Tensor
    true: torch.Tensor
    nothing: torch.Tensor | None  # where there is no loss: no position counts, or no target; None: nowhere
    weight: torch.Tensor | None  # of each loss
    items: torch.Tensor | None  # what the mean divides by; None: all losses
    dtype: torch.dtype  # of the loss


def region_sums(x, g, counted, activation, squared, batch, include_background, average, absent, weight):
    """Σ p g, Σ p and Σ g, in float64 where the device has it: the square of a float32 denominator leaves float32."""
    dtype = x.dtype
    x, g = widened(x), widened(g)
    p = x if activation is None else x.sigmoid() if activation == "sigmoid" else x.softmax(1)
    if counted is not None:
        p = torch.where(counted, p, 0)
    dims = (*((0,) if batch else ()), *range(2, x.ndim))
    summed = [p * g, p * p if squared else p, g * g if squared else g]
    if counted is not None:
        summed.append(counted.to(x.dtype))
    sums = [v.sum(dims) if dims else v for v in summed]
    sums = [v if include_background else v[..., 1:] for v in sums]
    nothing = sums[3] == 0 if counted is not None and counted.numel() > 0 else None
    if average == "micro":
        sums, weight = [(v if weight is None else v * weight.to(v.dtype)).sum(-1) for v in sums[:3]], None
        nothing = None if nothing is None else nothing.all(-1)
    items = None
    if absent != "count":
        without = sums[2] == 0
        nothing = without if nothing is None else nothing | without
        items = (~without).sum().clamp(min=1) if absent == "skip" else None
    return RegionSums(*sums[:3], nothing, weight, items, dtype)


def one_minus_ratio(numerator, denominator, sums):
    """1 - numerator / denominator; 0 with gradient 0 where the denominator is 0 (below 1e-100) or nothing counts."""
    nothing = denominator.abs() < 1e-100
    if sums.nothing is not None:
        nothing = nothing | sums.nothing
    return torch.where(nothing, 0, 1 - numerator / torch.where(nothing, 1, denominator)).to(sums.dtype)


def reduce_regions(loss, sums, reduction):
    """Weigh the losses of `sums`, and reduce."""
    return reduce(loss if sums.weight is None else loss * sums.weight.to(loss.dtype), reduction, sums.items)


def dice_of_sums(sums, smooth_nr, smooth_dr):
    """The Dice loss of each class."""
    return one_minus_ratio(2 * sums.intersection + smooth_nr, sums.predicted + sums.true + smooth_dr, sums)


def check_regions(name, input, target, weight, include_background, ignore_index):
    """An input (B, C, ...), a target of its shape or (B, ...), a weight of each class that counts or None."""
    if input.ndim < 2:
        raise ValueError(f"{name}: expected input of shape (B, C, ...), got {tuple(input.shape)}")
    check.tensor(name, "target", target, check.DENSE)
    check.same_device(name, "target", target, input)
    shape, classes = input.shape, input.shape[1]
    if target.shape != shape:
        _check_one_per_position(name, input, target, ignore_index)
    if not include_background:
        if classes < 2:
            raise ValueError(f"{name}: expected at least 2 classes with include_background=False, got {classes}")
        classes -= 1
    if weight is not None:
        check.shaped(name, "weight", weight, (classes,), input)


def _check_one_per_position(name, input, target, ignore_index):
    """A target (B, ...): class indices, or the mask of a single class."""
    shape, positions = tuple(input.shape), tuple(input.shape[:1] + input.shape[2:])
    if target.shape != positions:
        raise ValueError(f"{name}: expected target of shape {shape} or {positions}, got {tuple(target.shape)}")
    if shape[1] == 1:
        return
    check.class_indices(name, target, ignore_index)


def region_operands(input, target, weight):
    """The op's tensors: a target (B, ...) of a single class is its mask (B, 1, ...)."""
    return input, with_classes(target, input), weight


def _losses_shape(tensors, options, reduction):
    """(B, C') for "none", without B with `batch`, without C' with the average "micro"; else a scalar."""
    if reduction != NONE:
        return ()
    batch, classes, *_ = tensors[0].shape
    counted = classes if options["include_background"] else classes - 1
    return (() if options["batch"] else (batch,)) + (() if options["average"] else (counted,))


def sums_shape(tensors, options, reduction):
    """(B, C, 3), or (1, C, 3) with `batch`: I, P, G of each class, the background's too."""
    batch, classes, *_ = tensors[0].shape
    return [(1 if options["batch"] else batch, classes, 3)]


region_loss = partial(loss, shape=_losses_shape, saved_shapes=sums_shape, check=check_regions, operands=region_operands)


@region_loss(options=DICE_OPTIONS)
def dice_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, average="macro", absent="count", reduction="mean",
):  # fmt: skip
    """Dice loss between predicted and true regions.

    .. math:: 1 - \\frac{2I + n}{P + G + d}, \\quad I = \\sum p g, \\; P = \\sum p, \\; G = \\sum g

    over the positions of each sample and class, p the activated input, n and d `smooth_nr` and `smooth_dr`.

    Args:
        input: (B, C, ...); float32, float64, float16 or bfloat16; logits, or probabilities with ``activation=None``.
        target: the input's shape, in [0, 1]; any floating dtype; or a mask of bool, uint8, int32 or int64: 0 or 1, or
            `ignore_index`. Or class indices (B, ...) in [0, C), uint8, int32 or int64. With C = 1 a target (B, ...) is
            the mask itself, of any of these dtypes.
        activation: None, "sigmoid", or "softmax" over the classes.
        smooth_nr, smooth_dr: added to the numerator and the denominator, >= 0.
        squared: P = Σ p² and G = Σ g².
        batch: sum over the batch too before the ratio.
        include_background: False drops class 0 after the activation; needs C > 1.
        ignore_index: this value of the target drops the position (class indices) or the element (dense target).
        weight: (C',), floating, bool, uint8, int32 or int64, multiplies the loss of each class; C' = C, or C - 1
            without the background.
        average: "macro": a ratio of each class; "micro": one of all classes, whose I, P and G are summed first, each
            times its `weight`.
        absent: what a class without target (G = 0; with "micro" a sample) does: "count": its loss counts as any other;
            "zero": its loss and its gradient are 0; "skip": so they are, and it leaves the mean's denominator.
        reduction: "none", "mean" (over the losses that "none" would return) or "sum".

    Returns:
        A scalar; with "none" (B, C'), without B with `batch` and without C' with "micro"; float64 for a float64 input,
        else float32.

    A class absent from target and prediction counts as loss 0 if smooth_nr = smooth_dr. A denominator of 0 (below
    1e-100; on CUDA in float32 below the smallest float) gives loss 0 with gradient 0, and so does a class of which
    `ignore_index` drops everything; a mean that skips all is 0. NaN propagates except from ignored positions. float16
    sums do not overflow.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option; on the CPU IndexError on a class outside
    [0, C) and RuntimeError on another value in a mask of integers, on CUDA a device assertion.
    Milletari et al., "V-Net" (2016); the form and the options of MONAI's ``DiceLoss``.

    Example:
        >>> logits = torch.tensor([[[4.0, -4.0, 4.0], [-4.0, 4.0, -4.0]]])  # 1 image, 2 classes, 3 positions
        >>> F.dice_loss(logits, torch.tensor([[0, 1, 1]]), activation="softmax")
        tensor(0.3334)
    """
    regions = read_regions(input, target, activation, ignore_index)
    sums = region_sums(*regions, activation, squared, batch, include_background, average, absent, weight)
    loss = dice_of_sums(sums, smooth_nr, smooth_dr)
    return reduce_regions(loss, sums, reduction)


class DiceLoss(LossModule, function=dice_loss):
    """Module of :func:`dice_loss`; `weight` is a buffer.

    Example:
        >>> criterion = fused_losses.DiceLoss(activation="softmax", include_background=False)
        >>> criterion(torch.tensor([[[4.0, -4.0, 4.0], [-4.0, 4.0, -4.0]]]), torch.tensor([[0, 1, 1]]))
        tensor(0.3334)
    """


@region_loss(options=DICE_OPTIONS)
def jaccard_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, average="macro", absent="count", reduction="mean",
):  # fmt: skip
    """Jaccard loss (intersection over union) between predicted and true regions.

    .. math:: 1 - \\frac{I + n}{P + G - I + d}, \\quad I = \\sum p g, \\; P = \\sum p, \\; G = \\sum g

    Arguments, result, special values and errors are those of :func:`dice_loss`.
    Rahman and Wang, "Optimizing intersection-over-union in deep neural networks" (2016).

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, 0.0]]])
        >>> F.jaccard_loss(torch.tensor([[[1.0, 0.0, 0.0]]]), mask, activation=None)
        tensor(0.5000)
    """
    regions = read_regions(input, target, activation, ignore_index)
    sums = region_sums(*regions, activation, squared, batch, include_background, average, absent, weight)
    union = sums.predicted + sums.true - sums.intersection
    loss = one_minus_ratio(sums.intersection + smooth_nr, union + smooth_dr, sums)
    return reduce_regions(loss, sums, reduction)


class JaccardLoss(LossModule, function=jaccard_loss):
    """Module of :func:`jaccard_loss`; `weight` is a buffer.

    Example:
        >>> criterion = fused_losses.JaccardLoss(reduction="none")
        >>> criterion(torch.tensor([[[8.0, -8.0, -8.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[0.5001]])
    """


@region_loss(
    options={
        **REGION_OPTIONS,
        "alpha": Number(low=0),
        "beta": Number(low=0),
        "gamma": Number(low=0, open=True),
    }
)
def tversky_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, include_background=True,
    ignore_index=None, weight=None, average="macro", absent="count", reduction="mean", alpha=0.5, beta=0.5, gamma=1.0,
):  # fmt: skip
    """(Focal) Tversky loss: Dice with its own weights of false positives and false negatives.

    .. math:: \\max\\left(0, 1 - \\frac{I + n}{I + \\alpha (P-I) + \\beta (G-I) + d}\\right)^\\gamma

    where the maximum is taken only for gamma other than 1.

    Args:
        alpha, beta: weights of false positives and of false negatives, >= 0; 0.5 and 0.5 give Dice of
            twice the `smooth_nr` and `smooth_dr`, 1 and 1 Jaccard.
        gamma: exponent, > 0, one over that of Abraham and Khan; above 1 regions that are still bad count for more,
            below 1 those that are nearly right. The gradient is 0 where the base is 0. The base is known to about 1e-7
            in float32, and a gamma below 1 enlarges that: predictions all within 1e-6 of the target have loss 0.

    The other arguments, result, special values and errors are those of :func:`dice_loss`, without `squared`.
    Salehi et al. (2017), "Tversky loss function"; Abraham and Khan (2019), "A novel focal Tversky loss".

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, 0.0]]])
        >>> F.tversky_loss(torch.tensor([[[1.0, 0.0, 0.0]]]), mask, activation=None, alpha=0.3, beta=0.7)
        tensor(0.4118)
    """
    regions = read_regions(input, target, activation, ignore_index)
    sums = region_sums(*regions, activation, False, batch, include_background, average, absent, weight)
    hits = sums.intersection
    denominator = hits + alpha * (sums.predicted - hits) + beta * (sums.true - hits) + smooth_dr
    loss = one_minus_ratio(hits + smooth_nr, denominator, sums)
    if gamma != 1:
        vanishes = loss <= 0
        loss = torch.where(vanishes, 0, torch.where(vanishes, 1, loss) ** gamma)
    return reduce_regions(loss, sums, reduction)


class TverskyLoss(LossModule, function=tversky_loss):
    """Module of :func:`tversky_loss`; `weight` is a buffer.

    Example:
        >>> criterion = fused_losses.TverskyLoss(alpha=0.3, beta=0.7, gamma=0.75)
        >>> criterion(torch.tensor([[[8.0, -8.0, -8.0]]]), torch.tensor([[1, 1, 0]]))
        tensor(0.5141)
    """
