"""Binary cross-entropy, focal and hinge losses: each one's reference, public function and Module side by side.

Their ops share one signature: tensors (input, target, weight, pos_weight), None for those the loss has not; the
options, stated at each `Op`, are numbers in a fixed order, an `ignore_index` of None being NaN.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import Op
from ._shared import accumulate, elementwise_shape, ignore_value, reduce, softplus, without

LOGITS = ("input", "target", "weight", "pos_weight")
PROBABILITY_FLOOR = 1e-12
LOG_FLOOR = -100.0


def cross_entropy_of_logits(x, t, pos_weight=None):
    """(1-t) softplus(x) + pos_weight t softplus(-x), element by element."""
    return (1 - t) * softplus(x) + (t if pos_weight is None else pos_weight * t) * softplus(-x)


def cross_entropy_of_probabilities(p, t):
    """-t log p - (1-t) log(1-p), logarithms clamped at -100, with the p-gradient (p-t) / max(p(1-p), 1e-12).

    Where p(1-p) is below the floor, that gradient is the one of a parabola through the value.
    """
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


def check_alpha(name, alpha):
    """In [0, 1], or -1 for no factor."""
    if not (isinstance(alpha, (int, float)) and alpha == -1):
        check.number(name, "alpha", alpha, 0, 1)


def _read(input, target, weight, pos_weight, ignore_index):
    """x, t, weight and pos_weight as the formulas take them, and where t is ignored (None: nowhere); all 0 there."""
    x, t, w, p = accumulate(input, target, weight, pos_weight)
    if ignore_index is None:
        return x, t, w, p, None
    ignored = t == ignore_index
    return *without(ignored, x, t, w, p), ignored


def _reduce(loss, weight, reduction, ignored=None):
    """`reduce` of loss times weight; the mean is over the elements not ignored, whatever their weights."""
    loss = loss if weight is None else loss * weight
    if ignored is None:
        return reduce(loss, reduction)
    return reduce(torch.where(ignored, 0, loss), reduction, (~ignored).sum())


def _weights(name, weight, pos_weight, input):
    if weight is not None:
        weight = check.broadcastable(name, "weight", weight, input)
    if pos_weight is not None:
        pos_weight = check.broadcastable(name, "pos_weight", pos_weight, input)
    return weight, pos_weight


def _class_weights(name, class_weights):
    if not isinstance(class_weights, (tuple, list)) or len(class_weights) != 2:
        raise ValueError(f"{name}: expected class_weights to be two numbers, got {class_weights!r}")
    for value in class_weights:
        check.number(name, "class_weights", value, 0)
    return class_weights


def reference_binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """-w [t log p + (1-t) log(1-p)], log >= -100, gradient w (p-t) / max(p(1-p), 1e-12)."""
    p, t, w = accumulate(input, target, weight)
    return _reduce(cross_entropy_of_probabilities(p, t), w, reduction)


# options: none. A float16 gradient is stored clamped to the largest finite number.
_binary_cross_entropy = Op(reference_binary_cross_entropy, LOGITS[:3], elementwise_shape)


def binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """Binary cross-entropy between probabilities and targets.

    .. math:: -w \\, [ t \\log p + (1-t) \\log(1-p) ]

    Args:
        input: probabilities p in [0, 1], any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; any floating dtype, bool or uint8.
        weight: w, broadcast to the input's shape from the last dimension.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    The logarithms are clamped at -100 and the gradient is w (p-t) / max(p(1-p), 1e-12), so both are finite at p = 0
    and p = 1; a float16 gradient saturates. NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.binary_cross_entropy`; prefer the form on logits where there are logits.
    """
    name = "binary_cross_entropy"
    check.pair(name, input, target)
    code = check.reduction_code(name, reduction)
    if weight is not None:
        weight = check.broadcastable(name, "weight", weight, input)
    return fused(_binary_cross_entropy, (input, target, weight, None), (), code, {"reduction": reduction})


class BCELoss(LossModule, function=binary_cross_entropy):
    """Module of :func:`binary_cross_entropy`; `weight` is a buffer."""


def reference_binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """w [(1-t) softplus(x) + pos_weight t softplus(-x)]."""
    x, t, w, p = accumulate(input, target, weight, pos_weight)
    return _reduce(cross_entropy_of_logits(x, t, p), w, reduction)


# options: none.
_binary_cross_entropy_with_logits = Op(reference_binary_cross_entropy_with_logits, LOGITS, elementwise_shape)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """Binary cross-entropy between logits and targets.

    .. math:: w \\, [ (1-t) \\log(1+e^{x}) + p \\, t \\log(1+e^{-x}) ]

    Args:
        input: logits x, any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; any floating dtype, bool or uint8.
        weight, pos_weight: w and p, broadcast to the input's shape from the last dimension.
        reduction: "none", "mean" (over the elements) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Finite for any finite logit; NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype, device or reduction.
    Same as :func:`torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    name = "binary_cross_entropy_with_logits"
    check.pair(name, input, target)
    code = check.reduction_code(name, reduction)
    if weight is not None or pos_weight is not None:
        weight, pos_weight = _weights(name, weight, pos_weight, input)
    return fused(
        _binary_cross_entropy_with_logits, (input, target, weight, pos_weight), (), code, {"reduction": reduction}
    )


class BCEWithLogitsLoss(LossModule, function=binary_cross_entropy_with_logits):
    """Module of :func:`binary_cross_entropy_with_logits`; `weight` and `pos_weight` are buffers."""


def reference_weighted_binary_cross_entropy(input, target, class_weights=(1.0, 1.0), reduction="mean"):
    """(t w1 + (1-t) w0) times the binary cross-entropy of p and t."""
    p, t = accumulate(input, target)
    w0, w1 = class_weights
    return reduce((t * w1 + (1 - t) * w0) * cross_entropy_of_probabilities(p, t), reduction)


# options: w0, w1. A float16 gradient is stored clamped to the largest finite number.
_weighted_binary_cross_entropy = Op(reference_weighted_binary_cross_entropy, LOGITS[:2], elementwise_shape)


def weighted_binary_cross_entropy(input, target, class_weights=(1.0, 1.0), reduction="mean"):
    """Binary cross-entropy between probabilities and targets, weighted by class.

    .. math:: -(t w_1 + (1-t) w_0) \\, [ t \\log p + (1-t) \\log(1-p) ]

    Args:
        input: probabilities p in [0, 1], any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; any floating dtype, bool or uint8. Soft targets mix the two weights.
        class_weights: (w0, w1), weights of the classes 0 and 1, not negative.
        reduction: "none", "mean" (over the elements, whatever their weights) or "sum".

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Special values as in :func:`binary_cross_entropy`.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or class_weights.
    """
    name = "weighted_binary_cross_entropy"
    check.pair(name, input, target)
    code = check.reduction_code(name, reduction)
    options = _class_weights(name, class_weights)
    keywords = {"class_weights": class_weights, "reduction": reduction}
    return fused(_weighted_binary_cross_entropy, (input, target, None, None), options, code, keywords)


class WeightedBinaryCrossEntropyLoss(LossModule, function=weighted_binary_cross_entropy):
    """Module of :func:`weighted_binary_cross_entropy`."""


def reference_weighted_binary_cross_entropy_with_logits(
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
    """w (t w1 + (1-t) w0) bce(x, t), t smoothed to t (1-e) + e/2 first; the mean is over what is not ignored."""
    x, t, w, p, ignored = _read(input, target, weight, pos_weight, ignore_index)
    t = t * (1 - label_smoothing) + label_smoothing / 2
    w0, w1 = class_weights
    return _reduce((t * w1 + (1 - t) * w0) * cross_entropy_of_logits(x, t, p), w, reduction, ignored)


# options: ignore_index, label_smoothing, w0, w1.
_weighted_binary_cross_entropy_with_logits = Op(
    reference_weighted_binary_cross_entropy_with_logits, LOGITS, elementwise_shape
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
        target: t in [0, 1], the input's shape; any floating dtype, bool or uint8.
        class_weights: (w0, w1), weights of the classes 0 and 1, not negative.
        reduction: "none", "mean" (over the elements not ignored, whatever their weights) or "sum".
        weight, pos_weight: w and p, broadcast to the input's shape from the last dimension.
        ignore_index: elements with this target give loss 0 and gradient 0 and leave the mean.
        label_smoothing: e in [0, 1]; t becomes t (1-e) + e/2, before the class weights.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Finite for any finite logit; NaN propagates; everything ignored gives a mean of NaN with gradient 0.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option.
    Smoothing: Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision".
    """
    name = "weighted_binary_cross_entropy_with_logits"
    check.pair(name, input, target)
    code = check.reduction_code(name, reduction)
    w0, w1 = _class_weights(name, class_weights)
    check.number(name, "label_smoothing", label_smoothing, 0, 1)
    if ignore_index is not None:
        check.number(name, "ignore_index", ignore_index)
    if weight is not None or pos_weight is not None:
        weight, pos_weight = _weights(name, weight, pos_weight, input)
    tensors, options = (input, target, weight, pos_weight), (ignore_value(ignore_index), label_smoothing, w0, w1)
    keywords = {
        "class_weights": class_weights, "reduction": reduction, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
    }  # fmt: skip
    return fused(_weighted_binary_cross_entropy_with_logits, tensors, options, code, keywords)


class WeightedBinaryCrossEntropyWithLogitsLoss(LossModule, function=weighted_binary_cross_entropy_with_logits):
    """Module of :func:`weighted_binary_cross_entropy_with_logits`; `weight` and `pos_weight` are buffers."""


def reference_sigmoid_focal_loss(
    input, target, alpha=0.25, gamma=2.0, reduction="none", *, weight=None, pos_weight=None, ignore_index=None
):
    """w (alpha t + (1-alpha)(1-t)) (1-p_t)^gamma bce(x, t), p_t = p t + (1-p)(1-t); the mean over what counts."""
    x, t, w, p, ignored = _read(input, target, weight, pos_weight, ignore_index)
    return _reduce(focal_of_logits(x, t, alpha, gamma, p), w, reduction, ignored)


# options: ignore_index, alpha (-1: no alpha factor), gamma.
_sigmoid_focal_loss = Op(reference_sigmoid_focal_loss, LOGITS, elementwise_shape)


def sigmoid_focal_loss(
    input, target, alpha=0.25, gamma=2.0, reduction="none", *, weight=None, pos_weight=None, ignore_index=None
):
    """Focal loss on logits, each class on its own.

    .. math:: w \\, (\\alpha t + (1-\\alpha)(1-t)) \\, (1-p_t)^\\gamma \\,
        [ (1-t) \\log(1+e^{x}) + q \\, t \\log(1+e^{-x}) ], \\quad p_t = p t + (1-p)(1-t), \\; p = \\sigma(x)

    Args:
        input: logits x, any shape; float32, float64, float16 or bfloat16.
        target: t in [0, 1], the input's shape; any floating dtype, bool or uint8. Soft targets mix the two cases.
        alpha: weight of t = 1 in [0, 1], t = 0 gets 1 - alpha; -1 for no such weights.
        gamma: focusing exponent, not negative; 0 gives the binary cross-entropy times the alpha factor.
        reduction: "none", "mean" (over the elements not ignored) or "sum".
        weight, pos_weight: w and q, broadcast to the input's shape from the last dimension.
        ignore_index: elements with this target give loss 0 and gradient 0 and leave the mean.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    Loss and gradient are finite for any finite logit and any gamma, also below 1; NaN propagates; everything ignored
    gives a mean of NaN with gradient 0.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option.
    Lin et al. (2017), "Focal Loss for Dense Object Detection"; same as torchvision's function.
    """
    name = "sigmoid_focal_loss"
    check.pair(name, input, target)
    code = check.reduction_code(name, reduction)
    check.number(name, "gamma", gamma, 0)
    check_alpha(name, alpha)
    if ignore_index is not None:
        check.number(name, "ignore_index", ignore_index)
    if weight is not None or pos_weight is not None:
        weight, pos_weight = _weights(name, weight, pos_weight, input)
    tensors, options = (input, target, weight, pos_weight), (ignore_value(ignore_index), alpha, gamma)
    keywords = {"alpha": alpha, "gamma": gamma, "reduction": reduction, "ignore_index": ignore_index}
    return fused(_sigmoid_focal_loss, tensors, options, code, keywords)


class SigmoidFocalLoss(LossModule, function=sigmoid_focal_loss, reduction="mean"):
    """Module of :func:`sigmoid_focal_loss`, reducing by mean; `weight` and `pos_weight` are buffers."""


def reference_hinge_loss(input, target, margin=1.0, reduction="mean", *, squared=False):
    """max(0, margin - t x), or its square; subgradient 0 at the kink."""
    x, t = accumulate(input, target)
    slack = torch.relu(margin - t * x)
    return reduce(slack * slack if squared else slack, reduction)


# options: margin, squared (0 or 1). The kernel refuses a target other than -1 and +1.
_hinge_loss = Op(reference_hinge_loss, LOGITS[:2], elementwise_shape)


def hinge_loss(input, target, margin=1.0, reduction="mean", *, squared=False):
    """Hinge loss between scores and signs.

    .. math:: \\max(0, m - t x) \\quad \\text{or its square}

    Args:
        input: scores x, any shape; float32, float64, float16 or bfloat16.
        target: t in {-1, +1}, the input's shape; any floating dtype. Labels 0 and 1 must be mapped by 2 t - 1 first.
        margin: m, not negative.
        reduction: "none", "mean" (over the elements) or "sum".
        squared: the square of the loss.

    Returns:
        A scalar, or the input's shape with "none"; float64 for a float64 input, else float32.

    The gradient is 0 at the kink t x = m; NaN propagates; the mean of nothing is NaN.
    Raises ValueError or TypeError on a wrong shape, dtype (bool and uint8 cannot hold -1), device, reduction or
    option; RuntimeError from the CPU kernel, a device assertion on CUDA, on another target.
    Cortes and Vapnik (1995), "Support-vector networks".
    """
    name = "hinge_loss"
    check.pair(name, input, target, check.FLOATING)
    code = check.reduction_code(name, reduction)
    check.number(name, "margin", margin, 0)
    check.flag(name, "squared", squared)
    options = (margin, float(squared))
    keywords = {"margin": margin, "reduction": reduction, "squared": squared}
    return fused(_hinge_loss, (input, target, None, None), options, code, keywords)


class HingeLoss(LossModule, function=hinge_loss):
    """Module of :func:`hinge_loss`."""
