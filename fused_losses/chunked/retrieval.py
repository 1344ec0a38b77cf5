"""Each query finds its key among all keys (InfoNCE): the formula in plain PyTorch, and the Module.

The fused functions make the similarities a tile at a time and hold no more of them; the formulas below, which also
serve second derivatives and torch.func, hold them all.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from ..losses._shared import accumulate, leading_shape, reduce
from ..losses.classification import class_losses
from ._shared import TEMPERATURE, OperandFlag, check_same_dtype, check_scalar, product, unit_rows


def check_retrieval(name, query, key, target, temperature):
    """Queries (N, D) and keys (M, D) of one dtype; indices of keys (N,), without which there are keys enough."""
    if query.dim() != 2:
        raise ValueError(f"{name}: expected query of shape (N, D), got {tuple(query.shape)}")
    check_same_dtype(name, "key", key, query, "query")
    (n, features), shape = query.shape, tuple(key.shape)
    if len(shape) != 2 or shape[1] != features:
        raise ValueError(f"{name}: expected key of shape (M, {features}), got {shape}")
    if target is not None:
        check.shaped(name, "target", target, (n,), query, check.CLASS_INDEX)
    elif shape[0] < n:
        raise ValueError(f"{name}: expected key of shape (M, {features}) with M >= {n} without target, got {shape}")
    check_scalar(name, "temperature", temperature, query)


def retrieval_operands(query, key, target, temperature, normalize):
    """The op's tensors: a temperature that is a tensor is a part of the queries."""
    if normalize:
        query, key = unit_rows(query), unit_rows(key)
    if isinstance(temperature, torch.Tensor):
        query, key = accumulate(query, key)
        query = query / temperature.to(query.dtype)
    if target is None:
        target = torch.arange(query.shape[0], device=query.device)
    return query, key, target


def retrieval(query, key, target, temperature=None, reduction="mean"):
    """Cross-entropy of the similarities of each query over the temperature (None: 1) against its key."""
    query, key = accumulate(query, key)
    logits = product(query, key.mT)
    logits = logits if temperature is None else logits / temperature
    return reduce(class_losses(logits, target, None, None, 0.0)[0], reduction)


@loss(
    shape=leading_shape,
    check=check_retrieval,
    operands=retrieval_operands,
    kernel=retrieval,
    options={"temperature": TEMPERATURE, "normalize": OperandFlag()},
)
def info_nce_loss(query, key, *, target=None, temperature=0.07, normalize=False, reduction="mean"):
    """InfoNCE: each query is to find its key among all keys.

    .. math:: -\\log \\frac{e^{q_i \\cdot k_{t_i} / \\tau}}{\\sum_j e^{q_i \\cdot k_j / \\tau}}

    Args:
        query: q (N, D); float32, float64, float16 or bfloat16.
        key: k (M, D), of the query's dtype.
        target: t (N,), the index of each query's key (uint8, int32 or int64); None: its own number, M >= N.
        temperature: τ > 0, a number or a tensor without dimensions, to which a gradient flows.
        normalize: divide each row of both by its norm (at least 1e-12) first, in float32 at least.
        reduction: "none", "mean" (over the queries) or "sum".

    Returns:
        A scalar, or (N,) with "none"; float64 for a float64 query, else float32.

    Three products of N x M x D forward and backward, in one pass; one without gradients; a fourth where the gradient is
    computed in the backward ("none", float16). Memory beyond the gradients: a tile of some rows of similarities, 32 MiB
    on the CPU and 24 on CUDA or, where M is large, 64 rows; float32 sums of the gradients of half-precision keys;
    with `normalize` or a tensor as temperature what these make of query and key. Similarities are float32 at least.
    Second derivatives and torch.func come from plain PyTorch, which holds all N x M similarities.
    Gradients flow to query, key and temperature. NaN propagates; the mean of nothing is NaN. Matrix products are
    PyTorch's, and with them their rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option, IndexError on a target outside
    [0, M), which is a device assertion on CUDA.
    van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018).

    Example:
        >>> query, key = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> F.info_nce_loss(query, key, temperature=0.5, normalize=True)
        tensor(0.5259)
    """
    query, key, target = retrieval_operands(query, key, target, temperature, normalize)
    return retrieval(query, key, target, None if isinstance(temperature, torch.Tensor) else temperature, reduction)


class InfoNCELoss(LossModule, function=info_nce_loss, tensors=("query", "key", "target")):
    """Module of :func:`info_nce_loss`; a tensor `temperature` is a buffer, or a parameter if given as such.

    Example:
        >>> criterion = fused_losses.InfoNCELoss(temperature=torch.nn.Parameter(torch.tensor(0.1)))
        >>> criterion(torch.eye(2), torch.eye(2), torch.tensor([1, 0])).backward()
        >>> criterion.temperature.grad
        tensor(-99.9955)
    """
