"""MONAI 1.6.1: Dice, Tversky and focal losses and their compounds.

Labels (B, 1, ...) are read as class indices, never made one-hot. A loss has the dtype that MONAI's one-hot of float32
gives it. MetaTensors are read as the plain tensors that they are.
"""

from __future__ import annotations

import warnings

import torch

from .. import functional as F
from ..losses.classification import along_classes
from ._adapter import Adapter, needs
from ._targets import at_target, background_and_others, balance, is_hard, loss_dtype

__all__ = ["DiceCELoss", "DiceFocalLoss", "DiceLoss", "FocalLoss", "TverskyLoss"]

_REDUCTIONS = ("none", "mean", "sum")
_EPS = torch.finfo(torch.float32).eps


def _reduction(given, choices=_REDUCTIONS):
    """`given`, a string or MONAI's enumeration of strings, as a string."""
    if given not in choices:
        raise ValueError(f"expected reduction to be one of {', '.join(choices)}, got {given!r}")
    return next(choice for choice in choices if choice == given)


def _check_activations(sigmoid, softmax, other_act):
    if other_act is not None and not callable(other_act):
        raise TypeError(f"expected other_act to be callable or None, got {type(other_act).__name__}")
    if sum(map(bool, (sigmoid, softmax, other_act is not None))) > 1:
        raise ValueError("expected at most one of sigmoid, softmax and other_act, got several")


def _check_lambdas(**lambdas):
    for name, value in lambdas.items():
        if value < 0:
            raise ValueError(f"expected {name} >= 0, got {value}")


def _plain(*tensors):
    """The tensors without their metadata."""
    return [t.as_subclass(torch.Tensor) if type(t).__name__ == "MetaTensor" else t for t in tensors]


def _unless_single(wanted: bool, channels: int, option: str) -> bool:
    """An option about several classes, ignored with a warning where there is one."""
    if wanted and channels == 1:
        warnings.warn(f"a single class: {option} is ignored", stacklevel=4)
    return wanted and channels > 1


def _labels(input, target):
    """Labels (B, 1, ...) as class indices (B, ...)."""
    needs(target.shape == input.shape[:1] + (1,) + input.shape[2:], "labels of another shape")
    target = target.squeeze(1)
    return target if target.dtype in (torch.uint8, torch.int32, torch.int64) else target.int()


def _target(input, target, to_onehot_y, ignore_index, cross_entropy=False):
    """The target as the fused losses take it, and the dtype that it gives the loss."""
    indices = _unless_single(to_onehot_y, input.shape[1], "to_onehot_y=True")
    if indices:
        found = _labels(input, target)
    else:
        needs(target.shape == input.shape, "a target of another shape")
        needs(ignore_index is None or input.shape[1] == 1, "ignore_index without to_onehot_y")
        found = target
    dtype = loss_dtype(input, *([] if indices else [target]), cross_entropy=cross_entropy)
    if indices or ignore_index is not None:
        dtype = torch.promote_types(dtype, torch.float32)
    return found, dtype


def _regions(loss, input, target, to_onehot_y, cross_entropy=False):
    """Input, target, the options that Dice and Tversky share, and the dtype of the loss."""
    channels = input.shape[1]
    needs(input.ndim > 2 or loss.batch, "an input without space and batch=False")  # MONAI: one ratio of everything
    softmax = _unless_single(loss.softmax, channels, "softmax=True")
    input = input if loss.other_act is None else loss.other_act(input)
    input, target = _plain(input, target)
    target, dtype = _target(input, target, to_onehot_y, loss.ignore_index, cross_entropy)
    if loss.soft_label:  # MONAI's form is the hard one for probabilities alone
        needs(_is_hard(input, target, loss.ignore_index), "soft_label=True with soft targets")
        needs(softmax or (loss.sigmoid and loss.other_act is None), "soft_label=True without sigmoid or softmax")
    needs(
        loss.ignore_index is None or loss.smooth_nr == loss.smooth_dr,
        "ignore_index with smooth_nr and smooth_dr that differ",
    )
    dropped = _unless_single(not loss.include_background, channels, "include_background=False")
    options = {
        "activation": "softmax" if softmax else "sigmoid" if loss.sigmoid else None, "batch": loss.batch,
        "include_background": not dropped, "ignore_index": loss.ignore_index, "reduction": loss.reduction,
    }  # fmt: skip
    return input, target, options, dtype


def _is_hard(input, target, ignore_index):
    return target.ndim < input.ndim or is_hard(target, ignore_index)


def _class_weight(weight, classes):
    """One weight for each class, or None; MONAI refuses negative ones."""
    if weight is None:
        return None
    needs(not weight.is_cpu or bool((weight >= 0).all()), "a negative weight")
    return weight.expand(classes) if weight.ndim == 0 else weight


class DiceLoss(Adapter, peer="monai.losses.DiceLoss"):
    """:func:`fused_losses.functional.dice_loss`, or `jaccard_loss`, which MONAI smooths by half."""

    def __init__(
        self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None,
        squared_pred=False, jaccard=False, reduction="mean", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, weight=None,
        soft_label=False, ignore_index=None,
    ):  # fmt: skip
        self.reduction = _reduction(reduction)
        _check_activations(sigmoid, softmax, other_act)
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)
        self.hold("class_weight", None if weight is None else torch.as_tensor(weight))

    def forward(self, input, target):
        input, target, options, dtype = _regions(self, input, target, self.to_onehot_y)
        function, part = (F.jaccard_loss, 0.5) if self.jaccard else (F.dice_loss, 1.0)
        classes = input.shape[1] - (not options["include_background"])
        loss = function(
            input, target, smooth_nr=part * self.smooth_nr, smooth_dr=part * self.smooth_dr, squared=self.squared_pred,
            weight=_class_weight(self.class_weight, classes) if classes > 1 else None, **options,
        )  # fmt: skip
        if self.reduction == "none":
            loss = loss.reshape(*loss.shape, *(1,) * (input.ndim - 2))
        return loss.to(dtype)


class TverskyLoss(Adapter, peer="monai.losses.TverskyLoss"):
    """:func:`fused_losses.functional.tversky_loss`."""

    def __init__(
        self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, alpha=0.5,
        beta=0.5, reduction="mean", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, soft_label=False, ignore_index=None,
    ):  # fmt: skip
        self.reduction = _reduction(reduction)
        _check_activations(sigmoid, softmax, other_act)
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)

    def forward(self, input, target):
        input, target, options, dtype = _regions(self, input, target, self.to_onehot_y)
        loss = F.tversky_loss(
            input, target, alpha=self.alpha, beta=self.beta, smooth_nr=self.smooth_nr, smooth_dr=self.smooth_dr,
            **options,
        )  # fmt: skip
        return loss.to(dtype)


def _with_background(values, dropped):
    """Values (C',) of the classes as (C,), 0 for a background that is left out."""
    return torch.cat([values.new_zeros(1), values]) if dropped else values


def _along(values, dropped, input):
    """Values (C',) so that they broadcast against the input."""
    return along_classes(_with_background(values, dropped).to(input.device), input.ndim)


def _sigmoid_focal(loss, input, target, reduction):
    """The losses, and how many classes they are of."""
    dropped = _unless_single(not loss.include_background, input.shape[1], "include_background=False")
    classes = input.shape[1] - dropped
    alpha, pos_weight, weight = loss.alpha, None, loss.class_weight
    by_class = isinstance(alpha, torch.Tensor) and alpha.ndim > 0
    needs((loss.gamma == 0 and not by_class) or _is_hard(input, target, loss.ignore_index), "soft targets")
    if by_class:
        needs(alpha.shape == (classes,), "alpha of another length than the classes")
        alpha, pos_weight = None, _along(alpha, dropped, input)
    if weight is not None:
        needs(weight.ndim == 0 or (classes > 1 and weight.shape == (classes,)), "weight of another length")
        weight = _along(_class_weight(weight, classes), dropped, input)
    elif dropped:
        weight = _along(torch.ones(classes), dropped, input)
    losses = F.sigmoid_focal_loss(
        input, target, balance(alpha if alpha is None else float(alpha)), loss.gamma, reduction, weight=weight,
        pos_weight=pos_weight, ignore_index=loss.ignore_index,
    )  # fmt: skip
    return losses[:, int(dropped) :] if reduction == "none" else losses, classes


def _softmax_focal(loss, input, target, reduction):
    """As `_sigmoid_focal`."""
    classes, indices = input.shape[1], target.ndim < input.ndim
    needs(loss.include_background or classes == 1, "include_background=False with use_softmax=True")
    needs(indices or loss.ignore_index is None, "ignore_index with use_softmax=True and a single class")
    needs(indices or reduction != "none", "reduction='none' with use_softmax=True on a dense target")
    factor, weight = loss.alpha, loss.class_weight
    if factor is not None:
        single = not isinstance(factor, torch.Tensor) or factor.ndim == 0
        factor = background_and_others(float(factor), input) if single else factor.to(input.device)
    if weight is not None:
        needs(weight.ndim == 0 or classes > 1, "weight of a single class")
        weight = _class_weight(weight, classes).to(input.device)
        factor = weight if factor is None else factor * weight
    ignored = loss.ignore_index if indices else None
    losses = F.softmax_focal_loss(input, target, factor, loss.gamma, ignored, reduction)
    return at_target(losses, target, ignored, classes) if reduction == "none" else losses, classes


class FocalLoss(Adapter, peer="monai.losses.FocalLoss"):
    """:func:`fused_losses.functional.sigmoid_focal_loss`, or `softmax_focal_loss`, in float32.

    With an ignore_index the mean is over the positions that count, not over their classes.
    """

    def __init__(
        self, include_background=True, to_onehot_y=False, gamma=2.0, alpha=None, weight=None, reduction="mean",
        use_softmax=False, ignore_index=None,
    ):  # fmt: skip
        self.reduction = _reduction(reduction)
        if alpha is not None:
            self.alpha = float(alpha) if isinstance(alpha, (float, int)) else torch.as_tensor(alpha)
        self.hold("class_weight", None if weight is None else torch.as_tensor(weight))

    def forward(self, input, target):
        input, target = _plain(input, target)
        needs(self.ignore_index is None or self.reduction == "mean", f"ignore_index with reduction={self.reduction!r}")
        target, _ = _target(input, target, self.to_onehot_y, self.ignore_index)
        each = self.reduction == "none"
        needs(self.reduction != "sum" or input.numel() > 0, "an empty input")
        loss, classes = (_softmax_focal if self.use_softmax else _sigmoid_focal)(
            self, input, target, "none" if each else "sum"
        )
        positions = input[:, 0].numel()
        if self.ignore_index is not None:
            loss = loss / (target != self.ignore_index).sum().clamp(min=_EPS)
        elif self.reduction == "sum" and input.ndim > 2:  # a sum of means over the space
            loss = loss * (input.shape[0] / positions)
        elif not each:
            loss = loss / (positions * classes)
        return loss.float()


class DiceCELoss(Adapter, peer="monai.losses.DiceCELoss"):
    """:func:`fused_losses.functional.dice_cross_entropy_loss`: the softmax of all classes, or the sigmoid of one."""

    def __init__(
        self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None,
        squared_pred=False, jaccard=False, reduction="mean", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, weight=None,
        lambda_dice=1.0, lambda_ce=1.0, label_smoothing=0.0,
    ):  # fmt: skip
        reduction = _reduction(reduction, ("mean", "sum"))
        _check_lambdas(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        self.dice = DiceLoss(
            include_background, to_onehot_y, sigmoid, softmax, other_act, squared_pred, jaccard, reduction, smooth_nr,
            smooth_dr, batch, weight if weight is None or include_background else weight[1:],
        )  # fmt: skip
        self.cross_entropy = torch.nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=label_smoothing)
        self.binary_cross_entropy = torch.nn.BCEWithLogitsLoss(pos_weight=weight, reduction=reduction)

    def forward(self, input, target):
        dice, single = self.dice, input.shape[1] == 1
        needs(not dice.jaccard, "jaccard=True")
        needs(dice.sigmoid if single else dice.softmax, "an activation other than the cross-entropy's")
        weight = self.cross_entropy.weight
        needs(not single or weight is None, "weight with a single class")
        input, target, options, dtype = _regions(dice, input, target, dice.to_onehot_y, cross_entropy=True)
        classes = input.shape[1] - (not options["include_background"])
        loss = F.dice_cross_entropy_loss(
            input, target, dice_weight=self.lambda_dice, ce_weight=self.lambda_ce, smooth_nr=dice.smooth_nr,
            smooth_dr=dice.smooth_dr, squared=dice.squared_pred, class_weight=weight,
            weight=_class_weight(dice.class_weight, classes) if classes > 1 else None,
            label_smoothing=0.0 if single else self.cross_entropy.label_smoothing, **options,
        )  # fmt: skip
        return loss.to(dtype)


class DiceFocalLoss(Adapter, peer="monai.losses.DiceFocalLoss"):
    """:func:`fused_losses.functional.dice_focal_loss`; the focal loss is always the sigmoid's."""

    def __init__(
        self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None,
        squared_pred=False, jaccard=False, reduction="mean", smooth_nr=1e-5, smooth_dr=1e-5, batch=False, gamma=2.0,
        weight=None, lambda_dice=1.0, lambda_focal=1.0, alpha=None,
    ):  # fmt: skip
        _check_lambdas(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
        self.dice = DiceLoss(
            include_background, False, sigmoid, softmax, other_act, squared_pred, jaccard, reduction, smooth_nr,
            smooth_dr, batch, weight,
        )  # fmt: skip
        self.focal = FocalLoss(include_background, False, gamma, alpha, weight, reduction)

    def forward(self, input, target):
        dice, focal, channels = self.dice, self.focal, input.shape[1]
        needs(dice.other_act is None and (dice.sigmoid or dice.softmax) and not dice.jaccard, "jaccard or other_act")
        needs(channels > 1 or dice.sigmoid, "softmax=True with a single class")
        needs(focal.alpha is None or isinstance(focal.alpha, float), "alpha for each class")
        needs(dice.reduction == "mean" or (dice.reduction == "sum" and input.ndim > 2), "reduction='none'")
        needs(input.numel() > 0, "an empty input")
        input, target, options, dtype = _regions(dice, input, target, self.to_onehot_y)
        needs(focal.gamma == 0 or _is_hard(input, target, None), "soft targets")
        dropped = not options["include_background"]
        classes = channels - dropped
        weight = _class_weight(dice.class_weight, classes)
        needs(weight is None or classes > 1, "weight of a single class")
        factor = torch.ones(classes, device=input.device) if dropped and weight is None else weight
        scale = channels / classes if dice.reduction == "mean" else input.shape[0] / input[:, 0].numel()
        loss = F.dice_focal_loss(
            input, target, dice_weight=self.lambda_dice, focal_weight=self.lambda_focal * scale, gamma=focal.gamma,
            alpha=balance(focal.alpha), focal_activation="sigmoid", smooth_nr=dice.smooth_nr, smooth_dr=dice.smooth_dr,
            squared=dice.squared_pred, weight=weight,
            class_weight=None if factor is None else _with_background(factor, dropped), **options,
        )  # fmt: skip
        return loss.to(torch.promote_types(dtype, torch.float32))
