"""Overlap of predicted and true regions (Dice, Jaccard, Tversky): reference, public function and Module of each.

All are ratios of three sums over the positions of a class: I = Σ p g, P = Σ p, G = Σ g (Σ p², Σ g² with `squared`).
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import NONE, REDUCTIONS, Op, accumulation_dtype
from ._shared import accumulate, ignore_value, reduce

ACTIVATIONS = {None: 0.0, "sigmoid": 1.0, "softmax": 2.0}


def read_regions(input, target, activation, ignore_index):
    """Logits x, dense target g and the mask of the elements that count (None: all), each of the input's shape.

    A class-index target (B, *) becomes one-hot. Ignored elements are 0 in g; logits that reach no counted element are
    0 in x, so that nothing in them, NaN included, is read.
    """
    (x,) = accumulate(input)
    if target.ndim < input.ndim and input.shape[1] == 1:
        target = target.unsqueeze(1)
    if target.ndim == input.ndim:
        g = target.to(x.dtype)
        if ignore_index is None:
            return x, g, None
        counted = g != ignore_index
        read = counted.any(1, keepdim=True) if activation == "softmax" else counted
        return torch.where(read, x, 0), torch.where(counted, g, 0), counted
    classes = target.long().unsqueeze(1)
    if ignore_index is None:
        return x, torch.zeros_like(x).scatter(1, classes, 1.0), None
    counted = classes != ignore_index
    g = torch.zeros_like(x).scatter(1, torch.where(counted, classes, 0), 1.0)
    return torch.where(counted, x, 0), torch.where(counted, g, 0), counted.expand(x.shape)


def region_sums(x, g, counted, activation, squared, batch, include_background):
    """I, P and G, each (B, C'), or (C',) with `batch`; C' = C - 1 without the background."""
    p = x if activation is None else x.sigmoid() if activation == "sigmoid" else x.softmax(1)
    if counted is not None:
        p = torch.where(counted, p, 0)
    dims = (*((0,) if batch else ()), *range(2, x.ndim))
    products = (p * g, p * p, g * g) if squared else (p * g, p, g)
    sums = (v.sum(dims) if dims else v for v in products)
    return tuple(v if include_background else v[..., 1:] for v in sums)


def one_minus_ratio(numerator, denominator, P, G, ignore_index):
    """1 - numerator / denominator; 0 with gradient 0 where the denominator is 0 or, with ignoring, nothing counts."""
    nothing = denominator == 0
    if ignore_index is not None:
        nothing = nothing | (P + G == 0)
    return torch.where(nothing, 0, 1 - numerator / torch.where(nothing, 1, denominator))


def reduce_classes(loss, weight, reduction):
    """Weigh the classes, the last dimension, and reduce."""
    return reduce(loss if weight is None else loss * weight.to(loss.dtype), reduction)


def check_overlap(
    name, input, target, weight, *, reduction, activation, smooth_nr, smooth_dr, batch, include_background,
    ignore_index, squared=False, reductions=REDUCTIONS,
):  # fmt: skip
    """Check the arguments all overlap losses share; the target as the op reads it, the options, the reduction code."""
    check.tensor(name, "input", input)
    if input.ndim < 2:
        raise ValueError(f"{name}: expected input of shape (B, C, ...), got {tuple(input.shape)}")
    shape, classes = input.shape, input.shape[1]
    per_position = shape[:1] + shape[2:]
    check.tensor(name, "target", target, check.DENSE_OR_INDEX)
    if target.shape == shape:
        check.tensor(name, "target", target, check.DENSE)
    elif target.shape != per_position:
        raise ValueError(
            f"{name}: expected target of shape {tuple(shape)} or {tuple(per_position)}, got {tuple(target.shape)}"
        )
    elif classes == 1:
        target = target.unsqueeze(1)
        if target.dtype not in check.DENSE:
            target = target.to(accumulation_dtype(input.dtype))
    else:
        check.tensor(name, "target", target, check.CLASS_INDEX)
    check.same_device(name, "target", target, input)
    code = check.reduction_code(name, reduction, reductions)
    activation = check.choice(name, "activation", activation, ACTIVATIONS)
    check.number(name, "smooth_nr", smooth_nr, 0)
    check.number(name, "smooth_dr", smooth_dr, 0)
    check.flag(name, "squared", squared)
    check.flag(name, "batch", batch)
    check.flag(name, "include_background", include_background)
    if ignore_index is not None:
        check.number(name, "ignore_index", ignore_index)
    if not include_background:
        classes -= 1
        if classes == 0:
            raise ValueError(f"{name}: expected at least 2 classes with include_background=False, got 1")
    if weight is not None:
        check.shaped(name, "weight", weight, (classes,), input)
    flags = float(batch), float(include_background)
    options = (activation, float(smooth_nr), float(smooth_dr), *flags, ignore_value(ignore_index), float(squared))
    return target, options, code


def _losses_shape(tensors, options, reduction):
    """(B, C') for "none", (C',) with `batch`, else a scalar."""
    if reduction != NONE:
        return ()
    classes = tensors[0].shape[1] - (0 if options[4] else 1)
    return (classes,) if options[3] else (tensors[0].shape[0], classes)


def sums_shape(tensors, options, reduction):
    """(B, C, 3), or (1, C, 3) with `batch`: I, P, G of each class, the background's too."""
    return [(1 if options[3] else tensors[0].shape[0], tensors[0].shape[1], 3)]


def _op(reference):
    """An overlap op.

    tensors: input (B, C, *); target of the same shape (any dense dtype), or class indices (B, *) (uint8, int32, int64),
        told apart by the number of dimensions (C = 1 never comes with indices); weight (C',), any dense dtype, or None.
    options: activation (0 none, 1 sigmoid, 2 softmax), smooth_nr, smooth_dr, batch, include_background,
        ignore_index (NaN: none; compared in the accumulation dtype with a dense target), then squared, for Tversky
        alpha, beta, gamma. squared, batch, include_background are 0 or 1.
    saved: the sums I, P, G of `sums_shape`, from which the backward takes each class's coefficients.
    """
    return Op(reference, ("input", "target", "weight"), _losses_shape, saved=1, saved_shapes=sums_shape)


def reference_dice_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """1 - (2I + smooth_nr) / (P + G + smooth_dr) of each class; 0/0 gives 0."""
    regions = read_regions(input, target, activation, ignore_index)
    I, P, G = region_sums(*regions, activation, squared, batch, include_background)  # noqa: E741
    loss = one_minus_ratio(2 * I + smooth_nr, P + G + smooth_dr, P, G, ignore_index)
    return reduce_classes(loss, weight, reduction)


_dice_loss = _op(reference_dice_loss)


def dice_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """Dice loss between predicted and true regions.

    .. math:: 1 - \\frac{2I + n}{P + G + d}, \\quad I = \\sum p g, \\; P = \\sum p, \\; G = \\sum g

    over the positions of each sample and class, p the activated input, n and d `smooth_nr` and `smooth_dr`.

    Args:
        input: (B, C, ...); float32, float64, float16 or bfloat16; logits, or probabilities with ``activation=None``.
        target: the input's shape, in [0, 1]; any floating dtype, bool or uint8. Or class indices (B, ...) in [0, C),
            uint8, int32 or int64. With C = 1 a target (B, ...) is the mask itself, of any of these dtypes.
        activation: None, "sigmoid", or "softmax" over the classes.
        smooth_nr, smooth_dr: added to the numerator and the denominator, >= 0.
        squared: P = Σ p² and G = Σ g².
        batch: sum over the batch too before the ratio.
        include_background: False drops class 0 after the activation; needs C > 1.
        ignore_index: this value of the target drops the position (class indices) or the element (dense target).
        weight: (C',), any floating dtype, bool or uint8, multiplies the loss of each class; C' = C, or C - 1 without
            the background.
        reduction: "none", "mean" (over the B·C' losses, or C' with `batch`) or "sum".

    Returns:
        A scalar; (B, C') or with `batch` (C',) with "none"; float64 for a float64 input, else float32.

    A class absent from target and prediction counts as loss 0 if smooth_nr = smooth_dr. A denominator of 0 gives loss 0
    with gradient 0, and so do sums of 0 when `ignore_index` is given (everything ignored). NaN propagates except from
    ignored positions. float16 sums do not overflow.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option; a class outside [0, C) is an error on
    the CPU and a device assertion on CUDA.
    Milletari et al., "V-Net" (2016); the form and the options of MONAI's ``DiceLoss``.
    """
    keywords = {
        "activation": activation, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index, "reduction": reduction,
    }  # fmt: skip
    target, options, code = check_overlap("dice_loss", input, target, weight, **keywords)
    return fused(_dice_loss, (input, target, weight), options, code, keywords)


class DiceLoss(LossModule, function=dice_loss):
    """Module of :func:`dice_loss`; `weight` is a buffer."""


def reference_jaccard_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """1 - (I + smooth_nr) / (P + G - I + smooth_dr) of each class; 0/0 gives 0."""
    regions = read_regions(input, target, activation, ignore_index)
    I, P, G = region_sums(*regions, activation, squared, batch, include_background)  # noqa: E741
    loss = one_minus_ratio(I + smooth_nr, P + G - I + smooth_dr, P, G, ignore_index)
    return reduce_classes(loss, weight, reduction)


_jaccard_loss = _op(reference_jaccard_loss)


def jaccard_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, squared=False, batch=False,
    include_background=True, ignore_index=None, weight=None, reduction="mean",
):  # fmt: skip
    """Jaccard loss (intersection over union) between predicted and true regions.

    .. math:: 1 - \\frac{I + n}{P + G - I + d}, \\quad I = \\sum p g, \\; P = \\sum p, \\; G = \\sum g

    Arguments, result, special values and errors are those of :func:`dice_loss`.
    Rahman and Wang, "Optimizing intersection-over-union in deep neural networks" (2016).
    """
    keywords = {
        "activation": activation, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared": squared, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index, "reduction": reduction,
    }  # fmt: skip
    target, options, code = check_overlap("jaccard_loss", input, target, weight, **keywords)
    return fused(_jaccard_loss, (input, target, weight), options, code, keywords)


class JaccardLoss(LossModule, function=jaccard_loss):
    """Module of :func:`jaccard_loss`; `weight` is a buffer."""


def reference_tversky_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, include_background=True,
    ignore_index=None, weight=None, reduction="mean", alpha=0.5, beta=0.5, gamma=1.0,
):  # fmt: skip
    """max(0, 1 - (I + smooth_nr) / (I + alpha (P-I) + beta (G-I) + smooth_dr)) ** gamma; 0/0 gives 0."""
    regions = read_regions(input, target, activation, ignore_index)
    I, P, G = region_sums(*regions, activation, False, batch, include_background)  # noqa: E741
    denominator = I + alpha * (P - I) + beta * (G - I) + smooth_dr
    base = one_minus_ratio(I + smooth_nr, denominator, P, G, ignore_index)
    vanishes = base <= 0
    loss = torch.where(vanishes, 0, torch.where(vanishes, 1, base) ** gamma)
    return reduce_classes(loss, weight, reduction)


_tversky_loss = _op(reference_tversky_loss)


def tversky_loss(
    input, target, *, activation="sigmoid", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, include_background=True,
    ignore_index=None, weight=None, reduction="mean", alpha=0.5, beta=0.5, gamma=1.0,
):  # fmt: skip
    """(Focal) Tversky loss: Dice with its own weights of false positives and false negatives.

    .. math:: \\max\\left(0, 1 - \\frac{I + n}{I + \\alpha (P-I) + \\beta (G-I) + d}\\right)^\\gamma

    Args:
        alpha, beta: weights of false positives and of false negatives, >= 0; 0.5 and 0.5 give Dice, 1 and 1 Jaccard.
        gamma: exponent, > 0; the gradient is 0 where the base is 0.

    The other arguments, result, special values and errors are those of :func:`dice_loss`, without `squared`.
    Salehi et al. (2017), "Tversky loss function"; Abraham and Khan (2019), "A novel focal Tversky loss".
    """
    name = "tversky_loss"
    overlap = {
        "activation": activation, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "batch": batch,
        "include_background": include_background, "ignore_index": ignore_index, "reduction": reduction,
    }  # fmt: skip
    target, options, code = check_overlap(name, input, target, weight, **overlap)
    check.number(name, "alpha", alpha, 0)
    check.number(name, "beta", beta, 0)
    check.number(name, "gamma", gamma, 0, open_low=True)
    options = (*options[:-1], float(alpha), float(beta), float(gamma))
    keywords = {**overlap, "alpha": alpha, "beta": beta, "gamma": gamma}
    return fused(_tversky_loss, (input, target, weight), options, code, keywords)


class TverskyLoss(LossModule, function=tversky_loss):
    """Module of :func:`tversky_loss`; `weight` is a buffer."""
