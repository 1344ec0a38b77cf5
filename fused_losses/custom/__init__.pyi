from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Protocol, overload

from torch import Tensor

from .._module import LossModule
from .checking import Report

__all__ = ["build", "cache_info", "check", "elementwise", "overlap", "row_sums", "softmax"]

class _CustomLoss(Protocol):
    reference: Callable[..., Tensor]
    Module: type[LossModule]
    source: str
    tensors: tuple[str, ...]
    __name__: str
    def __call__(self, *tensors: Tensor, **options: Any) -> Tensor: ...

_Decorator = Callable[[Callable[..., Tensor]], _CustomLoss]

@overload
def elementwise(
    function: Callable[..., Tensor],
    *,
    name: str | None = None,
    differentiable: Sequence[str] | None = None,
    ignores: bool = False,
) -> _CustomLoss: ...
@overload
def elementwise(
    function: None = None,
    *,
    name: str | None = None,
    differentiable: Sequence[str] | None = None,
    ignores: bool = False,
) -> _Decorator: ...
@overload
def softmax(function: Callable[..., Tensor], *, name: str | None = None) -> _CustomLoss: ...
@overload
def softmax(function: None = None, *, name: str | None = None) -> _Decorator: ...
@overload
def overlap(function: Callable[..., Tensor], *, name: str | None = None) -> _CustomLoss: ...
@overload
def overlap(function: None = None, *, name: str | None = None) -> _Decorator: ...
@overload
def row_sums(
    function: Callable[..., Tensor], *, term: Callable[..., Tensor], name: str | None = None
) -> _CustomLoss: ...
@overload
def row_sums(function: None = None, *, term: Callable[..., Tensor], name: str | None = None) -> _Decorator: ...
def build(path: str | PathLike[str]) -> list[str]: ...
def cache_info() -> dict[str, str | int]: ...
def check(loss: _CustomLoss, *example: Tensor, **options: Any) -> Report: ...
