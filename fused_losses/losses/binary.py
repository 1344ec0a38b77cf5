"""Binary cross-entropy and focal losses: each loss's reference, public function and Module side by side."""

from __future__ import annotations

from .. import _checks as check
from .._autograd import fused
from .._module import LossModule
from .._ops import Op
from ._shared import accumulate, elementwise_shape, reduce, softplus

def reference_binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """(1-t) softplus(x) + pos_weight t softplus(-x)."""
    x, t, w, p = accumulate(input, target, weight, pos_weight)
    loss = (1 - t) * softplus(x) + (t if p is None else p * t) * softplus(-x)
    return reduce(loss if w is None else loss * w, reduction)


_binary_cross_entropy_with_logits = Op(
    reference_binary_cross_entropy_with_logits, ("input", "target", "weight", "pos_weight"), elementwise_shape
)


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
        weight = check.broadcastable(name, "weight", weight, input)
        pos_weight = check.broadcastable(name, "pos_weight", pos_weight, input)
    return fused(
        _binary_cross_entropy_with_logits, (input, target, weight, pos_weight), (), code, {"reduction": reduction}
    )


class BCEWithLogitsLoss(LossModule, function=binary_cross_entropy_with_logits):
    """Module of :func:`binary_cross_entropy_with_logits`; `weight` and `pos_weight` are buffers."""
