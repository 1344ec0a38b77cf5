"""kornia 0.9.0."""

# Written by tools/exports.py.

from typing import Any

from torch import Tensor

from ._adapter import Adapter

class BinaryFocalLossWithLogits(Adapter):
    def __init__(
        self,
        alpha: Any,
        gamma: float | None = 2.0,
        reduction: str | None = "none",
        pos_weight: Any = None,
        weight: Any = None,
        ignore_index: float | None = -100,
    ) -> None: ...
    def forward(self, pred: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, pred: Tensor, target: Tensor) -> Tensor: ...

class DiceLoss(Adapter):
    def __init__(
        self,
        average: str | None = "micro",
        eps: float | None = 1e-08,
        weight: Any = None,
        ignore_index: float | None = -100,
    ) -> None: ...
    def forward(self, pred: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, pred: Tensor, target: Tensor) -> Tensor: ...

class FocalLoss(Adapter):
    def __init__(
        self,
        alpha: Any,
        gamma: float | None = 2.0,
        reduction: str | None = "none",
        weight: Any = None,
        ignore_index: float | None = -100,
    ) -> None: ...
    def forward(self, pred: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, pred: Tensor, target: Tensor) -> Tensor: ...

class TverskyLoss(Adapter):
    def __init__(self, alpha: Any, beta: Any, eps: float | None = 1e-08, ignore_index: float | None = -100) -> None: ...
    def forward(self, pred: Tensor, target: Tensor) -> Tensor: ...
    def __call__(self, pred: Tensor, target: Tensor) -> Tensor: ...

def binary_focal_loss_with_logits(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float | None = 2.0,
    reduction: str | None = "none",
    pos_weight: Any = None,
    weight: Any = None,
    ignore_index: float | None = -100,
) -> Tensor: ...
def dice_loss(
    pred: Tensor,
    target: Tensor,
    average: str | None = "micro",
    eps: float | None = 1e-08,
    weight: Any = None,
    ignore_index: float | None = -100,
) -> Tensor: ...
def focal_loss(
    pred: Tensor,
    target: Tensor,
    alpha: Any,
    gamma: float | None = 2.0,
    reduction: str | None = "none",
    weight: Any = None,
    ignore_index: float | None = -100,
) -> Tensor: ...
def tversky_loss(
    pred: Tensor, target: Tensor, alpha: Any, beta: Any, eps: float | None = 1e-08, ignore_index: float | None = -100
) -> Tensor: ...

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
