"""kornia 0.9.0: focal, Dice and Tversky losses.

Means divide by all elements, ignored ones too; a sample in which everything is ignored costs 1.
"""

from __future__ import annotations

import torch

from .. import functional as F
from ..losses.classification import along_classes
from ._adapter import Adapter, adapts, needs
from ._targets import at_target, background_and_others, balance, complemented, is_hard, loss_dtype, promoted

__all__ = [
    "BinaryFocalLossWithLogits",
    "DiceLoss",
    "FocalLoss",
    "TverskyLoss",
    "binary_focal_loss_with_logits",
    "dice_loss",
    "focal_loss",
    "tversky_loss",
]

_REDUCTIONS = ("none", "mean", "sum")


def _check_labels(pred, target, reduction="mean"):
    """Labels (B, ...) of int64 for logits (B, C, ...): what kornia accepts."""
    needs(target.dtype is torch.int64, f"labels of {target.dtype}")
    needs(pred.ndim >= 2 and target.shape == pred.shape[:1] + pred.shape[2:], "labels of another shape")
    needs(reduction in _REDUCTIONS, f"reduction={reduction!r}")


def _check_weight(weight, pred):
    needs(weight is None or weight.shape == pred.shape[1:2], "a weight of another shape than (C,)")


def _mean(total, pred, reduction):
    """A sum as the mean over all elements of `pred` where that is the reduction."""
    return total / pred.numel() if reduction == "mean" else total


@adapts("kornia.losses.focal_loss")
def focal_loss(pred, target, alpha, gamma=2.0, reduction="none", weight=None, ignore_index=-100):
    """:func:`fused_losses.functional.softmax_focal_loss`: class 0 times 1 - alpha, the others times alpha."""
    _check_labels(pred, target, reduction)
    _check_weight(weight, pred)
    classes = pred.shape[1]
    factor = None if alpha is None else background_and_others(alpha, pred)
    if weight is not None:
        factor = weight if factor is None else weight * factor
    each = reduction == "none"
    loss = F.softmax_focal_loss(pred, target, factor, gamma, ignore_index, "none" if each else "sum")
    loss = at_target(loss, target, ignore_index, classes) if each else _mean(loss, pred, reduction)
    return loss.to(loss_dtype(pred, weight))


class FocalLoss(Adapter, peer="kornia.losses.FocalLoss"):
    """Module of :func:`focal_loss`."""

    def __init__(self, alpha, gamma=2.0, reduction="none", weight=None, ignore_index=-100):
        self.hold("weight", weight, persistent=False)

    def forward(self, pred, target):
        return focal_loss(pred, target, self.alpha, self.gamma, self.reduction, self.weight, self.ignore_index)


@adapts("kornia.losses.binary_focal_loss_with_logits")
def binary_focal_loss_with_logits(
    pred, target, alpha=0.25, gamma=2.0, reduction="none", pos_weight=None, weight=None, ignore_index=-100
):
    """:func:`fused_losses.functional.sigmoid_focal_loss`; soft targets, which mean another thing, go to kornia."""
    needs(pred.ndim >= 2 and target.shape == pred.shape, "a target of another shape")
    needs(reduction in _REDUCTIONS, f"reduction={reduction!r}")
    _check_weight(weight, pred)
    _check_weight(pos_weight, pred)
    needs((alpha is None and gamma == 0) or is_hard(target, ignore_index), "soft targets")
    loss = F.sigmoid_focal_loss(
        pred, target, balance(alpha), gamma, "none" if reduction == "none" else "sum",
        weight=None if weight is None else along_classes(weight, pred.ndim),
        pos_weight=None if pos_weight is None else along_classes(pos_weight, pred.ndim), ignore_index=ignore_index,
    )  # fmt: skip
    return _mean(loss, pred, reduction).to(loss_dtype(pred, complemented(target), weight, pos_weight))


class BinaryFocalLossWithLogits(Adapter, peer="kornia.losses.BinaryFocalLossWithLogits"):
    """Module of :func:`binary_focal_loss_with_logits`."""

    def __init__(self, alpha, gamma=2.0, reduction="none", pos_weight=None, weight=None, ignore_index=-100):
        self.hold("pos_weight", pos_weight, persistent=False)
        self.hold("weight", weight, persistent=False)

    def forward(self, pred, target):
        return binary_focal_loss_with_logits(
            pred, target, self.alpha, self.gamma, self.reduction, self.pos_weight, self.weight, self.ignore_index
        )


def _present(target, classes, ignore_index):
    """(B, C): 1 for the classes that a sample's target has."""
    labels = target.flatten(1)
    if ignore_index is not None:
        labels = torch.where(labels == ignore_index, classes, labels)
    found = torch.zeros(target.shape[0], classes + 1, device=target.device)
    return found.scatter_(1, labels, 1.0)[:, :classes]


def _mean_of_present(losses, share):
    """The mean over the samples of each one's mean over its classes, weighted by share (B, C); 1 without any share."""
    total = share.sum(1)
    empty = total == 0
    means = (losses * share).sum(1) / total.masked_fill(empty, 1)
    return means.masked_fill(empty, 1).mean()


@adapts("kornia.losses.dice_loss")
def dice_loss(pred, target, average="micro", eps=1e-8, weight=None, ignore_index=-100):
    """:func:`fused_losses.functional.dice_loss` of a softmax; "macro" is over the classes that a sample has."""
    _check_labels(pred, target)
    _check_weight(weight, pred)
    needs(pred.ndim == 4, f"logits of {pred.ndim} dimensions")
    needs(pred.shape[1] > 1, "a single class")
    needs(average in ("micro", "macro"), f"average={average!r}")
    options = {"activation": "softmax", "smooth_nr": 0.0, "smooth_dr": eps, "ignore_index": ignore_index}
    if average == "macro":
        share = _present(target, pred.shape[1], ignore_index)
        share = share if weight is None else share * weight
        loss = _mean_of_present(F.dice_loss(pred, target, reduction="none", **options), share)
    else:
        loss = F.dice_loss(pred, target, average="micro", weight=weight, **options)
        if ignore_index is not None:
            loss = loss + (target == ignore_index).flatten(1).all(1).to(loss.dtype).mean()
    return loss.to(promoted(pred, weight))


class DiceLoss(Adapter, peer="kornia.losses.DiceLoss"):
    """Module of :func:`dice_loss`."""

    def __init__(self, average="micro", eps=1e-8, weight=None, ignore_index=-100):
        self.hold("weight", weight, persistent=False)

    def forward(self, pred, target):
        return dice_loss(pred, target, self.average, self.eps, self.weight, self.ignore_index)


@adapts("kornia.losses.tversky_loss")
def tversky_loss(pred, target, alpha, beta, eps=1e-8, ignore_index=-100):
    """:func:`fused_losses.functional.tversky_loss` of a softmax, over the classes that a sample has."""
    _check_labels(pred, target)
    needs(pred.ndim == 4, f"logits of {pred.ndim} dimensions")
    needs(pred.shape[1] > 1, "a single class")
    share = _present(target, pred.shape[1], ignore_index)
    losses = F.tversky_loss(
        pred, target, activation="softmax", smooth_nr=0.0, smooth_dr=eps, alpha=alpha, beta=beta,
        ignore_index=ignore_index, reduction="none",
    )  # fmt: skip
    return _mean_of_present(losses, share).to(pred.dtype)


class TverskyLoss(Adapter, peer="kornia.losses.TverskyLoss"):
    """Module of :func:`tversky_loss`."""

    def __init__(self, alpha, beta, eps=1e-8, ignore_index=-100):
        pass

    def forward(self, pred, target):
        return tversky_loss(pred, target, self.alpha, self.beta, self.eps, self.ignore_index)
