"""MONAI 1.6.1."""

# Written by tools/exports.py.

from typing import Any

from torch import Tensor

from ._adapter import Adapter

class DiceCELoss(Adapter):
    def __init__(
        self,
        include_background: bool | None = True,
        to_onehot_y: bool | None = False,
        sigmoid: bool | None = False,
        softmax: bool | None = False,
        other_act: Any = None,
        squared_pred: bool | None = False,
        jaccard: bool | None = False,
        reduction: str | None = "mean",
        smooth_nr: float | None = 1e-05,
        smooth_dr: float | None = 1e-05,
        batch: bool | None = False,
        weight: Any = None,
        lambda_dice: float | None = 1.0,
        lambda_ce: float | None = 1.0,
        label_smoothing: float | None = 0.0,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class DiceFocalLoss(Adapter):
    def __init__(
        self,
        include_background: bool | None = True,
        to_onehot_y: bool | None = False,
        sigmoid: bool | None = False,
        softmax: bool | None = False,
        other_act: Any = None,
        squared_pred: bool | None = False,
        jaccard: bool | None = False,
        reduction: str | None = "mean",
        smooth_nr: float | None = 1e-05,
        smooth_dr: float | None = 1e-05,
        batch: bool | None = False,
        gamma: float | None = 2.0,
        weight: Any = None,
        lambda_dice: float | None = 1.0,
        lambda_focal: float | None = 1.0,
        alpha: Any = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class DiceLoss(Adapter):
    def __init__(
        self,
        include_background: bool | None = True,
        to_onehot_y: bool | None = False,
        sigmoid: bool | None = False,
        softmax: bool | None = False,
        other_act: Any = None,
        squared_pred: bool | None = False,
        jaccard: bool | None = False,
        reduction: str | None = "mean",
        smooth_nr: float | None = 1e-05,
        smooth_dr: float | None = 1e-05,
        batch: bool | None = False,
        weight: Any = None,
        soft_label: bool | None = False,
        ignore_index: Any = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class FocalLoss(Adapter):
    def __init__(
        self,
        include_background: bool | None = True,
        to_onehot_y: bool | None = False,
        gamma: float | None = 2.0,
        alpha: Any = None,
        weight: Any = None,
        reduction: str | None = "mean",
        use_softmax: bool | None = False,
        ignore_index: Any = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

class TverskyLoss(Adapter):
    def __init__(
        self,
        include_background: bool | None = True,
        to_onehot_y: bool | None = False,
        sigmoid: bool | None = False,
        softmax: bool | None = False,
        other_act: Any = None,
        alpha: float | None = 0.5,
        beta: float | None = 0.5,
        reduction: str | None = "mean",
        smooth_nr: float | None = 1e-05,
        smooth_dr: float | None = 1e-05,
        batch: bool | None = False,
        soft_label: bool | None = False,
        ignore_index: Any = None,
    ) -> None: ...
    def forward(self, input: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

__all__ = [
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "TverskyLoss",
]
