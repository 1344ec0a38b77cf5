"""What the argument maps share: classes in a target, factors of classes, dtypes of results."""

from __future__ import annotations

import torch

from .._autograd import runs_plainly
from .._op import accumulation_dtype, autocasts
from ._adapter import needs

_CHUNK = 1 << 19  # elements looked at at once: what is made of them stays in a cache


def is_hard(target: torch.Tensor, ignored: float | None = None) -> bool:
    """Whether every element is 0, 1 or `ignored`, so that all meanings of a soft target agree.

    A dtype without fractions says so by itself, as the kernels refuse its other values. Floating targets are read on
    the CPU; False where reading would synchronise a device, and where the computation is traced or transformed.
    """
    if not target.is_floating_point():
        return True
    if not target.is_cpu or target.requires_grad or not runs_plainly():
        return False
    with torch.no_grad():
        by_stride = sorted(range(target.ndim), key=target.stride, reverse=True)
        flat = target.permute(by_stride).reshape(-1)  # in the order of memory
        room = flat.new_empty(min(_CHUNK, flat.numel()))
        for part in flat.split(_CHUNK) if flat.numel() else ():
            if ignored is not None:
                part = torch.where(part == ignored, 0, part)
            least, most = torch.addcmul(part, part, part, value=-1, out=room[: part.numel()]).aminmax()  # t - t^2
            if not (least == 0 and most == 0):  # NaN is neither
                return False
    return True


def background_and_others(alpha: float, input: torch.Tensor) -> torch.Tensor:
    """(C,): 1 - alpha for class 0, alpha for the others."""
    factors = input.new_full(input.shape[1:2], float(alpha), dtype=accumulation_dtype(input.dtype))
    factors[:1] = 1 - alpha
    return factors


def at_target(losses: torch.Tensor, target: torch.Tensor, ignored: int | None, classes: int) -> torch.Tensor:
    """Losses (B, ...) of the positions as (B, C, ...): each at its target's class, 0 elsewhere."""
    index = target.long()
    index = index if ignored is None else torch.where(index == ignored, 0, index)
    spread = losses.new_zeros((losses.shape[0], classes, *losses.shape[1:]))
    return spread.scatter_(1, index.unsqueeze(1), losses.unsqueeze(1))


def promoted(*tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype that arithmetic of the floating ones among the tensors gives."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        if tensor is not None and tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def balance(alpha: float | None) -> float:
    """The alpha of a fused focal loss, -1 for None; the libraries compute with a -1 as with any number."""
    if alpha is None:
        return -1
    needs(alpha != -1, "alpha=-1")
    return alpha


def complemented(target: torch.Tensor) -> torch.Tensor:
    """What a dtype is promoted by where a library computes `factor * (1 - target)`: integers give the default dtype."""
    return target if target.is_floating_point() else target.new_empty(0, dtype=torch.get_default_dtype())


def loss_dtype(*tensors: torch.Tensor | None, cross_entropy: bool = False) -> torch.dtype:
    """As `promoted`; float32 instead of a half where autocast computes a part of the library's loss in float32.

    On the CPU such a part is a cross-entropy of torch's, on other devices a sum, a power or a softmax as well.
    """
    dtype, first = promoted(*tensors), tensors[0]
    in_float32 = autocasts(first) and (cross_entropy or not first.is_cpu)
    return torch.promote_types(dtype, torch.float32) if in_float32 else dtype
