"""segmentation_models_pytorch 0.6.0."""

# Written by tools/exports.py.

from typing import Any

from torch import Tensor

from ._adapter import Adapter

class DiceLoss(Adapter):
    def __init__(
        self,
        mode: Any,
        classes: Any = None,
        log_loss: bool | None = False,
        from_logits: bool | None = True,
        smooth: float | None = 0.0,
        ignore_index: Any = None,
        eps: float | None = 1e-07,
        class_weights: Any = None,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

class FocalLoss(Adapter):
    def __init__(
        self,
        mode: Any,
        alpha: Any = None,
        gamma: float | None = 2.0,
        ignore_index: Any = None,
        from_logits: bool | None = True,
        eps: float | None = 1e-07,
        reduction: str | None = "mean",
        normalized: bool | None = False,
        reduced_threshold: Any = None,
        class_weights: Any = None,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

class JaccardLoss(Adapter):
    def __init__(
        self,
        mode: Any,
        classes: Any = None,
        log_loss: bool | None = False,
        from_logits: bool | None = True,
        smooth: float | None = 0.0,
        ignore_index: Any = None,
        eps: float | None = 1e-07,
        class_weights: Any = None,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

class SoftBCEWithLogitsLoss(Adapter):
    def __init__(
        self,
        weight: Any = None,
        ignore_index: float | None = -100,
        reduction: str | None = "mean",
        smooth_factor: Any = None,
        pos_weight: Any = None,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

class SoftCrossEntropyLoss(Adapter):
    def __init__(
        self,
        reduction: str | None = "mean",
        smooth_factor: Any = None,
        ignore_index: float | None = -100,
        dim: float | None = 1,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

class TverskyLoss(Adapter):
    def __init__(
        self,
        mode: Any,
        classes: Any = None,
        log_loss: bool | None = False,
        from_logits: bool | None = True,
        smooth: float | None = 0.0,
        ignore_index: Any = None,
        eps: float | None = 1e-07,
        alpha: float | None = 0.5,
        beta: float | None = 0.5,
        gamma: float | None = 1.0,
        class_weights: Any = None,
    ) -> None: ...
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...
    def __call__(self, y_pred: Tensor, y_true: Tensor) -> Tensor: ...

__all__ = [
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
    "TverskyLoss",
]
