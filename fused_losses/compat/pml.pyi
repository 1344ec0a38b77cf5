"""pytorch-metric-learning 2.9.0."""

# Written by tools/exports.py.

from typing import Any

from torch import Tensor

from ._adapter import Adapter

class ContrastiveLoss(Adapter):
    def __init__(self, pos_margin: float | None = 0, neg_margin: float | None = 1, **kwargs: Any) -> None: ...
    def forward(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...
    def __call__(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...

class NTXentLoss(Adapter):
    def __init__(self, temperature: float | None = 0.07, **kwargs: Any) -> None: ...
    def forward(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...
    def __call__(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...

class SupConLoss(Adapter):
    def __init__(self, temperature: float | None = 0.1, **kwargs: Any) -> None: ...
    def forward(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...
    def __call__(
        self,
        embeddings: Tensor,
        labels: Any = None,
        indices_tuple: Any = None,
        ref_emb: Any = None,
        ref_labels: Any = None,
    ) -> Tensor: ...

__all__ = [
    "ContrastiveLoss",
    "NTXentLoss",
    "SupConLoss",
]
