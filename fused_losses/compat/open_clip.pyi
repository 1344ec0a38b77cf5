"""open_clip 3.3.0."""

# Written by tools/exports.py.

from typing import Any

from torch import Tensor

from ._adapter import Adapter

class ClipLoss(Adapter):
    def __init__(
        self,
        local_loss: bool | None = False,
        gather_with_grad: bool | None = False,
        cache_labels: bool | None = False,
        rank: float | None = 0,
        world_size: float | None = 1,
        use_horovod: bool | None = False,
    ) -> None: ...
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Any,
        logit_bias: Any = None,
        output_dict: bool | None = False,
    ) -> Any: ...
    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Any,
        logit_bias: Any = None,
        output_dict: bool | None = False,
    ) -> Any: ...

class SigLipLoss(Adapter):
    def __init__(
        self,
        cache_labels: bool | None = False,
        rank: float | None = 0,
        world_size: float | None = 1,
        dist_impl: Any = None,
    ) -> None: ...
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Any,
        logit_bias: Any,
        output_dict: bool | None = False,
    ) -> Any: ...
    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Any,
        logit_bias: Any,
        output_dict: bool | None = False,
    ) -> Any: ...

__all__ = [
    "ClipLoss",
    "SigLipLoss",
]
