"""segmentation_models_pytorch 0.6.0: overlap losses over the batch, focal loss, smoothed cross-entropies.

A class without target costs 0 and counts in the mean; the means of the cross-entropies divide by ignored elements too.
"""

from __future__ import annotations

import functools

import torch

from .. import functional as F
from ..losses.classification import along_classes
from ._adapter import Adapter, needs
from ._targets import balance, complemented, is_hard, loss_dtype

__all__ = ["DiceLoss", "FocalLoss", "JaccardLoss", "SoftBCEWithLogitsLoss", "SoftCrossEntropyLoss", "TverskyLoss"]

_BINARY, _MULTICLASS, _MULTILABEL = _MODES = ("binary", "multiclass", "multilabel")


def _as_tensor(values, dtype):
    return values if values is None else torch.as_tensor(values).to(dtype)


def _check_mode(mode, class_weights, classes=None):
    assert mode in _MODES, f"expected mode to be one of {', '.join(_MODES)}, got {mode!r}"
    assert classes is None or mode != _BINARY, "expected classes=None with mode='binary'"
    if class_weights is not None and mode == _BINARY:
        raise ValueError("expected class_weights=None with mode='binary'")


def _regions(mode, y_pred, y_true, ignore_index):
    """Input (B, C, P) and target of the overlap losses: everything of a sample is one class with "binary"."""
    batch = y_true.shape[0]
    if mode == _MULTICLASS:
        needs(y_pred.shape[1] > 1, "a single class")
        y_pred, y_true = y_pred.flatten(2), y_true.reshape(batch, -1)
        needs(y_true.dtype is torch.int64 or ignore_index is not None, f"a target of {y_true.dtype}")
        return y_pred, y_true if y_true.dtype in (torch.uint8, torch.int32, torch.int64) else y_true.long()
    classes = 1 if mode == _BINARY else y_pred.shape[1]
    y_pred, y_true = (t.reshape(batch, classes, -1) for t in (y_pred, y_true))
    needs(y_true.shape == y_pred.shape, "a target of another shape")
    needs(is_hard(y_true, ignore_index), "soft targets")
    return y_pred, y_true


def _share(class_weights, classes, input):
    """What each class counts, (C,) that sum up to 1, or None where all count the same."""
    if classes is None and class_weights is None:
        return None
    like = {"dtype": torch.promote_types(input.dtype, torch.float32), "device": input.device}
    weights = torch.ones(input.shape[1], **like) if class_weights is None else class_weights.to(**like)
    needs(weights.shape == input.shape[1:2], "class_weights of another length than the classes")
    if classes is not None:
        chosen = classes.to(input.device)
        weights = torch.zeros_like(weights).index_put((chosen,), weights[chosen], accumulate=True)
    return weights / weights.sum()


def _overlap_loss(loss, function, y_pred, y_true, smooth, **options):
    """The mean over the classes of `function`, or of its logarithmic form."""
    input, target = _regions(loss.mode, y_pred, y_true, loss.ignore_index)
    activation = ("softmax" if loss.mode == _MULTICLASS else "sigmoid") if loss.from_logits else None
    share = _share(loss.class_weights, loss.classes, input)
    options |= {
        "activation": activation, "smooth_nr": smooth, "smooth_dr": smooth, "batch": True, "absent": "zero",
        "ignore_index": loss.ignore_index,
    }  # fmt: skip
    needs(loss.log_loss or loss.eps <= 1e-3, "an eps that reaches the denominators")
    if loss.log_loss:
        losses = -(1 - function(input, target, reduction="none", **options)).clamp_min(loss.eps).log()
        result = losses.mean() if share is None else (losses * share).sum()
    else:
        result = function(input, target, weight=share, reduction="mean" if share is None else "sum", **options)
    return result, loss_dtype(y_pred, loss.class_weights)


class DiceLoss(Adapter, peer="segmentation_models_pytorch.losses.DiceLoss"):
    """:func:`fused_losses.functional.dice_loss` summed over the batch."""

    def __init__(
        self, mode, classes=None, log_loss=False, from_logits=True, smooth=0.0, ignore_index=None, eps=1e-7,
        class_weights=None,
    ):  # fmt: skip
        _check_mode(mode, class_weights, classes)
        self.reduction = "mean"
        self.classes, self.class_weights = _as_tensor(classes, torch.long), _as_tensor(class_weights, torch.float)

    def forward(self, y_pred, y_true):
        loss, dtype = _overlap_loss(self, F.dice_loss, y_pred, y_true, 2 * self.smooth)
        return loss.to(dtype)


class JaccardLoss(Adapter, peer="segmentation_models_pytorch.losses.JaccardLoss"):
    """:func:`fused_losses.functional.jaccard_loss` summed over the batch."""

    __init__ = DiceLoss.__init__.__wrapped__

    def forward(self, y_pred, y_true):
        loss, dtype = _overlap_loss(self, F.jaccard_loss, y_pred, y_true, self.smooth)
        return loss.to(dtype)


class TverskyLoss(DiceLoss, peer="segmentation_models_pytorch.losses.TverskyLoss"):
    """:func:`fused_losses.functional.tversky_loss` summed over the batch; gamma is applied to the mean."""

    def __init__(
        self, mode, classes=None, log_loss=False, from_logits=True, smooth=0.0, ignore_index=None, eps=1e-7,
        alpha=0.5, beta=0.5, gamma=1.0, class_weights=None,
    ):  # fmt: skip
        DiceLoss.__init__.__wrapped__(
            self, mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )

    def forward(self, y_pred, y_true):
        options = {"alpha": self.alpha, "beta": self.beta}
        loss, dtype = _overlap_loss(self, F.tversky_loss, y_pred, y_true, self.smooth, **options)
        loss = loss.to(dtype)
        nothing = loss == 0  # where the slope of a power below 1 is infinite
        return torch.where(nothing, loss.detach() ** self.gamma, torch.where(nothing, 1, loss) ** self.gamma)


def _focal_loss_with_logits(*args, **kwargs):
    """The library's function, which only its own forward calls."""
    from segmentation_models_pytorch.losses._functional import focal_loss_with_logits

    return focal_loss_with_logits(*args, **kwargs)


class FocalLoss(Adapter, peer="segmentation_models_pytorch.losses.FocalLoss"):
    """:func:`fused_losses.functional.sigmoid_focal_loss`, also for one class out of many."""

    def __init__(
        self, mode, alpha=None, gamma=2.0, ignore_index=None, from_logits=True, eps=1e-7, reduction="mean",
        normalized=False, reduced_threshold=None, class_weights=None,
    ):  # fmt: skip
        _check_mode(mode, class_weights)
        self.class_weights = _as_tensor(class_weights, torch.float)
        self.focal_loss_fn = functools.partial(  # where the library's class has these options
            _focal_loss_with_logits, alpha=alpha, gamma=gamma, reduced_threshold=reduced_threshold, reduction=reduction,
            normalized=normalized,
        )  # fmt: skip

    def forward(self, y_pred, y_true):
        options = self.focal_loss_fn.keywords
        alpha, reduction = options["alpha"], options["reduction"]
        needs(self.from_logits, "from_logits=False")
        needs(not options["normalized"], "normalized=True")
        needs(options["reduced_threshold"] is None, "reduced_threshold")
        needs(reduction in ("mean", "sum", "none"), f"reduction={reduction!r}")
        needs(self.mode == _MULTICLASS or is_hard(y_true, self.ignore_index), "soft targets")
        needs(self.mode != _MULTILABEL or self.ignore_index is None, "ignore_index with mode='multilabel'")
        dtype = loss_dtype(y_pred, self.class_weights, cross_entropy=True)
        if self.mode == _BINARY:
            needs(reduction != "none" or self.ignore_index is None, "ignore_index with reduction='none'")
            y_pred, y_true, each = y_pred.reshape(-1), y_true.reshape(-1), reduction
        else:
            needs(self.class_weights is None or reduction != "none", "class_weights with reduction='none'")
            each = "sum" if reduction == "sum" else "mean"
            if self.mode == _MULTICLASS:
                needs(y_pred.shape[1] > 1, "a single class")
                needs(y_true.shape == y_pred.shape[:1] + y_pred.shape[2:], "a target of another shape")
        weight, factor = _share(self.class_weights, None, y_pred) if self.mode != _BINARY else None, 1.0
        if weight is not None:
            weight, factor = along_classes(weight, y_pred.ndim), y_pred.shape[1]
        if self.mode != _BINARY and each == "sum":
            factor /= y_pred.shape[1]
        loss = F.sigmoid_focal_loss(
            y_pred, y_true, balance(alpha), options["gamma"], each, weight=weight,
            ignore_index=self.ignore_index,
        )  # fmt: skip
        return (loss if factor == 1 else loss * factor).to(dtype)


class SoftBCEWithLogitsLoss(Adapter, peer="segmentation_models_pytorch.losses.SoftBCEWithLogitsLoss"):
    """:func:`fused_losses.functional.weighted_binary_cross_entropy_with_logits`; the mean counts ignored elements."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean", smooth_factor=None, pos_weight=None):
        self.hold("weight", weight)
        self.hold("pos_weight", pos_weight)

    def forward(self, y_pred, y_true):
        needs(self.smooth_factor is not None or y_true.is_floating_point(), f"a target of {y_true.dtype}")
        each = self.reduction not in ("mean", "sum")
        loss = F.weighted_binary_cross_entropy_with_logits(
            y_pred, y_true, reduction="none" if each else "sum", weight=self.weight, pos_weight=self.pos_weight,
            ignore_index=self.ignore_index, label_smoothing=2 * (self.smooth_factor or 0.0),
        )  # fmt: skip
        loss = loss / y_pred.numel() if self.reduction == "mean" else loss
        return loss.to(loss_dtype(y_pred, complemented(y_true), self.weight, self.pos_weight, cross_entropy=True))


class SoftCrossEntropyLoss(Adapter, peer="segmentation_models_pytorch.losses.SoftCrossEntropyLoss"):
    """:func:`fused_losses.functional.cross_entropy` of class indices; the mean counts ignored positions."""

    def __init__(self, reduction="mean", smooth_factor=None, ignore_index=-100, dim=1):
        pass

    def forward(self, y_pred, y_true):
        needs(self.smooth_factor is not None, "smooth_factor=None")
        needs(self.dim % y_pred.ndim == 1, f"dim={self.dim}")
        needs(y_true.dtype is torch.int64, f"a target of {y_true.dtype}")
        needs(y_true.ndim == y_pred.ndim - 1 or y_true.shape[1] == 1, "a target of another shape")
        target = y_true if y_true.ndim < y_pred.ndim else y_true.squeeze(1)
        each = self.reduction not in ("mean", "sum")
        loss = F.cross_entropy(
            y_pred, target, ignore_index=self.ignore_index, reduction="none" if each else "sum",
            label_smoothing=self.smooth_factor,
        )  # fmt: skip
        if each and self.ignore_index is not None:
            loss = loss.unsqueeze(1)
        return (loss / target.numel() if self.reduction == "mean" else loss).to(loss_dtype(y_pred))
