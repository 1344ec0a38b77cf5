"""Binary cross-entropy, focal and hinge losses: formulas in plain PyTorch, which `loss` fuses, and Modules."""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._options import ClassWeights, Flag, IgnoreIndex, Number
from ._shared import (
    accumulate,
    elementwise_shape,
    one_hot,
    readable,
    reduce,
    reduce_weighted,
    softplus,
    valid,
    valid_mask,
    with_classes,
    without,
)

ALPHA = Number(low=0, high=1, also=-1)  # -1: no factor
PROBABILITY_FLOOR = 1e-12
LOG_FLOOR = -100.0


def cross_entropy_of_logits(x, t, pos_weight=None):
    """(1-t) softplus(x) + pos_weight t softplus(-x), element by element."""
    return (1 - t) * softplus(x) + (t if pos_weight is None else pos_weight * t) * softplus(-x)


def cross_entropy_of_probabilities(p, t):
    """-t log p - (1-t) log(1-p), logarithms clamped at -100, with the p-gradient (p-t) / max(p(1-p), 1e-12).

    Where p(1-p) is below the floor, that gradient is the one of a parabola through the value. NaN beyond [0, 1].
    """
    t = valid(t, ~((t < 0) | (t > 1)))
    inside = p * (1 - p) > PROBABILITY_FLOOR
    safe, fixed = torch.where(inside, p, 0.5), p.detach()
    exact = -(t * safe.log() + (1 - t) * torch.log1p(-safe))
    clamped = -(t * fixed.log().clamp(min=LOG_FLOOR) + (1 - t) * torch.log1p(-fixed).clamp(min=LOG_FLOOR))
    step = p - fixed
    parabola = (step / 2 + fixed - t) * step / PROBABILITY_FLOOR
    return torch.where(inside, exact, clamped + parabola)


def log_one_minus_p_t(x, t):
    """log(1 - p_t), p_t = p t + (1-p)(1-t), p = sigmoid(x); right under derivatives, however sure the logit is.

    With y = -|x| and a the target's share on the side that x speaks against:
    log(1 - p_t) = log sigmoid(-y) + y + log(1 + a (e^-y - 1)).
    """
    negative = x < 0
    y, against = torch.where(negative, x, -x), torch.where(negative, t, 1 - t)
    bounded = y.clamp(min=-80.0 if x.dtype is torch.float32 else -700.0)  # e^-y stays finite
    beyond = torch.where(against == 0, y - bounded, 0)
    return -softplus(y) + bounded + torch.log1p(against * torch.expm1(-bounded)) + beyond


def focal_of_logits(x, t, alpha, gamma, pos_weight=None):
    """(alpha t + (1-alpha)(1-t)) (1-p_t)^gamma ce, element by element; alpha -1: without the first factor."""
    loss = cross_entropy_of_logits(x, t, pos_weight)
    if gamma != 0:
        loss = torch.exp(gamma * log_one_minus_p_t(x, t)) * loss
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


def _read(input, target, weight, pos_weight, ignore_index):
    """x, t, weight and pos_weight as the formulas take them, and where t is ignored (None: nowhere); all 0 there."""
    x, t, w, p = accumulate(input, target, weight, pos_weight)
    t = valid_mask(target, t, ignore_index)
    if ignore_index is None:
        return x, t, w, p, None
    ignored = t == ignore_index
    return *without(ignored, x, t, w, p), ignored


def _read_focal(input, target, weight, pos_weight, ignore_index):
    """As `_read`; a target without the classes is made of its class indices, or is the mask of a single class."""
    target = with_classes(target, input)
    if target.ndim == input.ndim:
        return _read(input, target, weight, pos_weight, ignore_index)
    x, w, p = accumulate(input, weight, pos_weight)
    t, counted = one_hot(target, x, ignore_index)
    if counted is None:
        return x, t, w, p, None
    ignored = ~counted.expand(x.shape)
    return *without(ignored, x, t, w, p), ignored


def check_pair(name, input, target):
    """A target of the input's shape."""
    check.alike(name, "target", target, input)


def check_weighted(name, input, target, weight):
    """As `check_pair`, with a weight."""
    check.alike(name, "target", target, input)
    if weight is not None:
        check.broadcastable(name, "weight", weight, input)


def check_logits(name, input, target, weight, pos_weight):
    """As `check_weighted`, with a weight of the positive targets too."""
    check_weighted(name, input, target, weight)
    if pos_weight is not None:
        check.broadcastable(name, "pos_weight", pos_weight, input)


def check_focal(name, input, target, weight, pos_weight, ignore_index):
    """As `check_logits`; the target of an input (B, C, ...) may be class indices (B, ...), a mask where C is 1."""
    if input.ndim < 2 or not isinstance(target, torch.Tensor) or target.ndim + 1 != input.ndim:
        return check_logits(name, input, target, weight, pos_weight)
    shape, positions = tuple(input.shape), tuple(input.shape[:1] + input.shape[2:])
    if target.shape != positions:
        raise ValueError(f"{name}: expected target of shape {shape} or {positions}, got {tuple(target.shape)}")
    if shape[1] == 1:
        check.tensor(name, "target", target, check.DENSE)
    else:
        check.class_indices(name, target, ignore_index)
    check.same_device(name, "target", target, input)
    check_logits(name, input, input, weight, pos_weight)


def weighted_operands(input, target, weight):
    """The op's tensors of a loss with a weight."""
    return input, target, None if weight is None else readable(weight, input), None


def logits_operands(input, target, weight, pos_weight):
    """The op's tensors of a loss with both weights."""
    return (
        input,
        target,
        None if weight is None else readable(weight, input),
        None if pos_weight is None else readable(pos_weight, input),
    )


def focal_operands(input, target, weight, pos_weight):
    """As `logits_operands`, with the classes of the target of a single one."""
    return logits_operands(input, with_classes(target, input), weight, pos_weight)


@loss(shape=elementwise_shape, check=check_weighted, operands=weighted_operands)
def binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """Binary cross-entropy between probabilities and targets.

    .. math:: -w \\, [ t \\log p + (1-t) \\log(1-p) ]

    Args:
        input: probabilities p in [0, 1], any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; floating, bool, uint8, int32 or int64.
        weight: w, broadcast to the input's shape from the last dimension.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    The logarithms are clamped at -100 and the gradient is w (p-t) / max(p(1-p), 1e-12), so both are finite at p = 0
    and p = 1; a float16 gradient saturates. NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction; RuntimeError from the CPU kernel, a
    device assertion on CUDA, on a number outside [0, 1] and on integers that are no mask of 0 and 1.
    Same as :func:`torch.nn.functional.binary_cross_entropy`; prefer the form on logits where there are logits.

    Example:
        >>> F.binary_cross_entropy(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
        tensor(0.1643)
    """
    p, t, w = accumulate(input, target, weight)
    return reduce_weighted(cross_entropy_of_probabilities(p, t), w, reduction)


class BCELoss(LossModule, function=binary_cross_entropy):
    """Module of :func:`binary_cross_entropy`; `weight` is a buffer.

    Example:
        >>> fused_losses.BCELoss(reduction="sum")(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
        tensor(0.3285)
    """


@loss(shape=elementwise_shape, check=check_logits, operands=logits_operands)
def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """Binary cross-entropy between logits and targets.

    .. math:: w \\, [ (1-t) \\log(1+e^{x}) + p \\, t \\log(1+e^{-x}) ]

    Args:
        input: logits x, any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; floating, bool, uint8, int32 or int64.
        weight, pos_weight: w and p, broadcast to the input's shape from the last dimension.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Finite for any finite logit; NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction; RuntimeError from the CPU kernel, a
    device assertion on CUDA, on integers that are no mask of 0 and 1.
    Same as :func:`torch.nn.functional.binary_cross_entropy_with_logits`.

    Example:
        >>> x = torch.tensor([2.0, -1.0], requires_grad=True)
        >>> loss = F.binary_cross_entropy_with_logits(x, torch.tensor([1.0, 0.0]))
        >>> loss.backward()
        >>> loss.detach(), x.grad
        (tensor(0.2201), tensor([-0.0596,  0.1345]))
    """
    x, t, w, p, _ = _read(input, target, weight, pos_weight, None)
    return reduce_weighted(cross_entropy_of_logits(x, t, p), w, reduction)


class BCEWithLogitsLoss(LossModule, function=binary_cross_entropy_with_logits):
    """Module of :func:`binary_cross_entropy_with_logits`; `weight` and `pos_weight` are buffers.

    Example:
        >>> criterion = fused_losses.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
        >>> criterion(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
        tensor(0.3470)
    """


@loss(shape=elementwise_shape, check=check_pair, options={"class_weights": ClassWeights()})
def weighted_binary_cross_entropy(input, target, class_weights=(1.0, 1.0), reduction="mean"):
    """Binary cross-entropy between probabilities and targets, weighted by class.

    .. math:: -(t w_1 + (1-t) w_0) \\, [ t \\log p + (1-t) \\log(1-p) ]

    Args:
        input: probabilities p in [0, 1], any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; floating, bool, uint8, int32 or int64. Soft targets mix the two weights.
        class_weights: (w0, w1), weights of the classes 0 and 1, not negative.
        reduction: "none", "mean" (over the elements, whatever their weights) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Special values and errors as in :func:`binary_cross_entropy`; ValueError or TypeError also on wrong class_weights.

    Example:
        >>> p, t = torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0])
        >>> F.weighted_binary_cross_entropy(p, t, class_weights=(0.5, 2.0))
        tensor(0.1611)
    """
    p, t = accumulate(input, target)
    w0, w1 = class_weights
    return reduce((t * w1 + (1 - t) * w0) * cross_entropy_of_probabilities(p, t), reduction)


class WeightedBinaryCrossEntropyLoss(LossModule, function=weighted_binary_cross_entropy):
    """Module of :func:`weighted_binary_cross_entropy`.

    Example:
        >>> criterion = fused_losses.WeightedBinaryCrossEntropyLoss(class_weights=(0.5, 2.0))
        >>> criterion(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
        tensor(0.1611)
    """


@loss(
    shape=elementwise_shape,
    check=check_logits,
    operands=logits_operands,
    options={
        "class_weights": ClassWeights(),
        "ignore_index": IgnoreIndex(),
        "label_smoothing": Number(low=0, high=1),
    },
)
def weighted_binary_cross_entropy_with_logits(
    input,
    target,
    class_weights=(1.0, 1.0),
    reduction="mean",
    *,
    weight=None,
    pos_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
):
    """Binary cross-entropy between logits and targets, weighted by class.

    .. math:: w \\, (t w_1 + (1-t) w_0) \\, [ (1-t) \\log(1+e^{x}) + p \\, t \\log(1+e^{-x}) ]

    Args:
        input: logits x, any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; floating, bool, uint8, int32 or int64.
        class_weights: (w0, w1), weights of the classes 0 and 1, not negative.
        reduction: "none", "mean" (over the elements not ignored, whatever their weights) or "sum".
        weight, pos_weight: w and p, broadcast to the input's shape from the last dimension.
        ignore_index: elements with this target give loss 0 and gradient 0 and leave the mean.
        label_smoothing: e in [0, 1]; t becomes t (1-e) + e/2, before the class weights.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Finite for any finite logit; NaN propagates; everything ignored gives a mean of NaN with gradient 0.
    Errors as in :func:`binary_cross_entropy_with_logits`, also on a wrong option; a mask may hold `ignore_index`.
    Smoothing: Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision".

    Example:
        >>> x, t = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([1, 0, 255])
        >>> F.weighted_binary_cross_entropy_with_logits(x, t, (0.5, 2.0), ignore_index=255)
        tensor(0.2052)
    """
    x, t, w, p, ignored = _read(input, target, weight, pos_weight, ignore_index)
    t = t * (1 - label_smoothing) + label_smoothing / 2
    w0, w1 = class_weights
    return reduce_weighted((t * w1 + (1 - t) * w0) * cross_entropy_of_logits(x, t, p), w, reduction, ignored)


class WeightedBinaryCrossEntropyWithLogitsLoss(LossModule, function=weighted_binary_cross_entropy_with_logits):
    """Module of :func:`weighted_binary_cross_entropy_with_logits`; `weight` and `pos_weight` are buffers.

    Example:
        >>> criterion = fused_losses.WeightedBinaryCrossEntropyWithLogitsLoss((0.5, 2.0), label_smoothing=0.1)
        >>> criterion(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
        tensor(0.3229)
    """


@loss(
    shape=elementwise_shape,
    check=check_focal,
    operands=focal_operands,
    options={"alpha": ALPHA, "gamma": Number(low=0), "ignore_index": IgnoreIndex()},
)
def sigmoid_focal_loss(
    input, target, alpha=0.25, gamma=2.0, reduction="none", *, weight=None, pos_weight=None, ignore_index=None
):
    """Focal loss on logits, each class on its own.

    .. math:: w \\, (\\alpha t + (1-\\alpha)(1-t)) \\, (1-p_t)^\\gamma \\,
        [ (1-t) \\log(1+e^{x}) + q \\, t \\log(1+e^{-x}) ], \\quad p_t = p t + (1-p)(1-t), \\; p = \\sigma(x)

    Args:
        input: logits x, any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; floating, bool, uint8, int32 or int64. Soft targets mix the two cases.
            Or class indices (B, ...) in [0, C) for an input (B, C, ...), uint8, int32 or int64: t is 1 for the class of
            each position and 0 for the others, and is never made. (B, ...) of a single class is its mask, of any of the
            dtypes above.
        alpha: weight of t = 1 in [0, 1], t = 0 gets 1 - alpha; -1 for no such weights.
        gamma: focusing exponent, not negative; 0 gives the binary cross-entropy times the alpha factor.
        reduction: "none", "mean" (over the elements not ignored) or "sum".
        weight, pos_weight: w and q, broadcast to the input's shape from the last dimension.
        ignore_index: elements with this target, or positions of this class, give loss 0 and gradient 0 and leave the
            mean.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Loss and gradient are finite for any finite logit and any gamma, also below 1; NaN propagates; everything ignored
    gives a mean of NaN with gradient 0.
    Errors as in :func:`weighted_binary_cross_entropy_with_logits`; on the CPU IndexError on a class outside [0, C), on
    CUDA a device assertion.
    Lin et al. (2017), "Focal Loss for Dense Object Detection"; same as torchvision's function.

    Example:
        >>> x = torch.tensor([3.0, -1.0], requires_grad=True)
        >>> loss = F.sigmoid_focal_loss(x, torch.tensor([1.0, 1.0]), reduction="mean")
        >>> loss.backward()
        >>> x.grad  # the second, still wrong, pulls far more
        tensor([-3.9359e-05, -9.6029e-02])
    """
    x, t, w, p, ignored = _read_focal(input, target, weight, pos_weight, ignore_index)
    return reduce_weighted(focal_of_logits(x, t, alpha, gamma, p), w, reduction, ignored)


class SigmoidFocalLoss(LossModule, function=sigmoid_focal_loss, reduction="mean"):
    """Module of :func:`sigmoid_focal_loss`, reducing by mean; `weight` and `pos_weight` are buffers.

    Example:
        >>> fused_losses.SigmoidFocalLoss(gamma=3.0)(torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0]))
        tensor(0.0641)
    """


def check_signs(name, input, target):
    """A target of the input's shape, of a dtype that holds -1."""
    check.alike(name, "target", target, input, check.SIGNED)


@loss(shape=elementwise_shape, check=check_signs, options={"margin": Number(low=0), "squared": Flag()})
def hinge_loss(input, target, margin=1.0, reduction="mean", *, squared=False):
    """Hinge loss between scores and signs.

    .. math:: \\max(0, m - t x) \\quad \\text{or its square}

    Args:
        input: scores x, any shape; float32, float64, float16 or bfloat16.
        target: t in {-1, +1}, the input's shape; floating, int32 or int64. Labels 0 and 1 must be mapped by 2 t - 1
            first.
        margin: m, not negative.
        reduction: "none", "mean" (over the elements) or "sum".
        squared: the square of the loss.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    The gradient is 0 at the kink t x = m; NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype (bool and uint8 cannot hold -1), device, reduction or
    option; RuntimeError from the CPU kernel, a device assertion on CUDA, on another target.
    Cortes and Vapnik (1995), "Support-vector networks".

    Example:
        >>> F.hinge_loss(torch.tensor([0.5, 2.0, -1.0]), torch.tensor([1.0, 1.0, 1.0]), reduction="none")
        tensor([0.5000, 0.0000, 2.0000])
    """
    x, t = accumulate(input, target)
    t = valid(t, (t == 1) | (t == -1))
    slack = torch.relu(margin - t * x)
    return reduce(slack * slack if squared else slack, reduction)


class HingeLoss(LossModule, function=hinge_loss):
    """Module of :func:`hinge_loss`.

    Example:
        >>> fused_losses.HingeLoss(squared=True)(torch.tensor([0.5, -1.0]), torch.tensor([1, 1]))
        tensor(2.1250)
    """
