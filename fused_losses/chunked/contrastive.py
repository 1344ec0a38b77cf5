"""Losses of all pairs of embeddings (CLIP, SigLIP, SimCLR, supervised contrastive): formulas in plain PyTorch, Modules.

The fused functions make the similarities a tile at a time and hold all of them only where they fit into 64 MiB; the
formulas below, which also serve second derivatives and torch.func, always do.

Rows spread over processes: the compiled ops take the rows of this process and the columns of all, and the option
`first`, the column of the first row (csrc/host/all_pairs.h); `_processes.py` merges what they find.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._op import MEAN
from ..losses._shared import accumulate, scalar_shape, softplus
from ._processes import across_one_set, across_two_sets, processes, whole_batch
from ._shared import (
    TEMPERATURE,
    Group,
    OperandFlag,
    OperandNumber,
    check_same_dtype,
    check_scalar,
    joined,
    product,
    scalar,
    unit_rows,
)

SMALL = 1 << 16  # elements, below which a call costs more than what it reads and writes


def check_two_sets(name, x, y, logit_scale):
    """Embeddings (N, D) of one shape and dtype, and a scale."""
    if x.dim() != 2:
        raise ValueError(f"{name}: expected x of shape (N, D), got {tuple(x.shape)}")
    check_same_dtype(name, "y", y, x, "x")
    check.shaped(name, "y", y, x.shape, x, check.FLOATING)
    check_scalar(name, "logit_scale", logit_scale, x)


def two_sets(x, y, logit_scale, normalize):
    """The op's tensors."""
    x, y = (unit_rows(x), unit_rows(y)) if normalize else (x, y)
    return x, y, scalar(logit_scale, x), None


def clip_of(x, y, logit_scale):
    """Mean of the cross-entropies of the similarities, by rows and by columns, against the diagonal."""
    x, y, scale = accumulate(x, y, logit_scale)
    s = scale * product(x, y.mT)
    own = s.diagonal()
    return (s.logsumexp(1) - own + s.logsumexp(0) - own).sum() / (2 * x.shape[0])


def clip_statistics(tensors, options, reduction):
    return [(tensors[0].shape[0], 2), (tensors[1].shape[0],)]


TWO_SETS = {"logit_scale": OperandNumber(), "normalize": OperandFlag(), "group": Group("first")}


@loss(
    shape=scalar_shape,
    across=across_two_sets,
    check=check_two_sets,
    operands=two_sets,
    kernel=clip_of,
    options=TWO_SETS,
    saved_shapes=clip_statistics,
    unreduced=MEAN,
)
def clip_loss(x, y, logit_scale, *, normalize=False, group=None):
    """CLIP's loss: each row of x is to find its row of y among all, and each of y its row of x.

    .. math:: -\\frac{1}{2N} \\sum_i \\Big( \\log \\frac{e^{s_{ii}}}{\\sum_j e^{s_{ij}}}
        + \\log \\frac{e^{s_{ii}}}{\\sum_j e^{s_{ji}}} \\Big), \\quad s_{ij} = a \\, x_i \\cdot y_j

    Args:
        x: (N, D), usually unit rows; float32, float64, float16 or bfloat16.
        y: (N, D), of the dtype of x.
        logit_scale: a, a number or a tensor without dimensions (the scale itself, not its logarithm).
        normalize: divide each row of both by its norm (at least 1e-12) first, in float32 at least.
        group: processes that have as many rows each and want the same gradients, a ProcessGroup or a DeviceMesh of one
            dimension; None: this one.
            A Module with either can be copied, one with a DeviceMesh also pickled.

    Returns:
        A scalar; float64 for float64 embeddings, else float32.

    With a group it is the loss of the rows of all, the same number in every process, and the mean of the processes'
    gradients, which DDP and FSDP take, is its gradient. Each process makes the products of its N rows with those of
    all; y is gathered, what the rows say of each column is merged, and the gradient of y goes back to its process.
    Second derivatives, torch.func and a program exported for tensors that require a gradient gather x too and make all
    products in every process; forward mode takes the directions of all processes together, so that jacfwd and hessian
    of rows are sums over them.

    Four products of N x N x D forward and backward; three where all similarities fit into 64 MiB on the CPU (24 on
    CUDA), N = 4096 in float32; one without gradients. Memory beyond the gradients: those similarities, else a tile of
    some rows of them, 32 MiB on the CPU and 24 on CUDA or, where N is large, 64 rows; float32 sums of half-precision
    gradients. Similarities are float32 at least; each row and each column has its own maximum. Second derivatives and
    torch.func come from plain PyTorch, which holds all N x N similarities.
    Gradients flow to x, y and logit_scale. NaN propagates; the loss of nothing is NaN. Matrix products are PyTorch's,
    and with them their rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).

    Example:
        >>> x, y = torch.eye(3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> F.clip_loss(x, y, 2.0)
        tensor(0.8026)
    """
    x, y = whole_batch("clip_loss", group, x, y)
    x, y, logit_scale, _ = two_sets(x, y, logit_scale, normalize)
    return clip_of(x, y, logit_scale)


class ClipLoss(LossModule, function=clip_loss, tensors=("x", "y", "logit_scale")):
    """Module of :func:`clip_loss`.

    Example:
        >>> criterion = fused_losses.ClipLoss(normalize=True)
        >>> criterion(torch.eye(3), 5 * torch.eye(3), torch.tensor(1.0))
        tensor(0.5514)
    """


def check_signed(name, x, y, logit_scale, logit_bias):
    """As `check_two_sets`, with a bias."""
    check_two_sets(name, x, y, logit_scale)
    check_scalar(name, "logit_bias", logit_bias, x)


def two_sets_and_bias(x, y, logit_scale, logit_bias, normalize):
    """The op's tensors."""
    x, y, logit_scale, _ = two_sets(x, y, logit_scale, normalize)
    return x, y, logit_scale, scalar(logit_bias, x)


def siglip_of(x, y, logit_scale, logit_bias):
    """Sum of the binary cross-entropies of all pairs, a row's own being the positive one, over the rows."""
    x, y, scale, bias = accumulate(x, y, logit_scale, logit_bias)
    s = scale * product(x, y.mT) + bias
    own = torch.eye(s.shape[0], dtype=torch.bool, device=s.device)
    return softplus(torch.where(own, -s, s)).sum() / x.shape[0]


@loss(
    shape=scalar_shape,
    across=across_two_sets,
    check=check_signed,
    operands=two_sets_and_bias,
    kernel=siglip_of,
    options={"logit_bias": OperandNumber(), **TWO_SETS},
    unreduced=MEAN,
)
def siglip_loss(x, y, logit_scale, logit_bias, *, normalize=False, group=None):
    """SigLIP's loss: each pair of rows is told to be one or not, on its own.

    .. math:: -\\frac{1}{N} \\sum_{ij} \\log \\sigma\\big( z_{ij} (a \\, x_i \\cdot y_j + b) \\big), \\quad
        z_{ii} = 1, \\; z_{ij} = -1

    Args:
        x: (N, D), usually unit rows; float32, float64, float16 or bfloat16.
        y: (N, D), of the dtype of x.
        logit_scale, logit_bias: a and b, numbers or tensors without dimensions.
        normalize: divide each row of both by its norm (at least 1e-12) first, in float32 at least.
        group: as :func:`clip_loss`.

    Returns:
        A scalar; float64 for float64 embeddings, else float32.

    Three products of N x N x D forward and backward, in one pass; one without gradients; a fourth for float16, whose
    gradient is computed in the backward. Memory beyond the gradients: a tile of some rows of similarities, 32 MiB on
    the CPU and 24 on CUDA or, where N is large, 64 rows; float32 sums of half-precision gradients. Similarities are
    float32 at least. Second derivatives and torch.func come from plain PyTorch, which holds all N x N similarities.
    Gradients flow to x, y, logit_scale and logit_bias. NaN propagates; the loss of nothing is NaN. Matrix products are
    PyTorch's, and with them their rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023).

    Example:
        >>> F.siglip_loss(torch.eye(3), torch.eye(3), 10.0, -5.0)
        tensor(0.0201)
    """
    x, y = whole_batch("siglip_loss", group, x, y)
    return siglip_of(*two_sets_and_bias(x, y, logit_scale, logit_bias, normalize))


class SigLipLoss(LossModule, function=siglip_loss, tensors=("x", "y", "logit_scale", "logit_bias")):
    """Module of :func:`siglip_loss`.

    Example:
        >>> criterion = fused_losses.SigLipLoss(normalize=True)
        >>> criterion(torch.eye(3), 5 * torch.eye(3), torch.tensor(10.0), torch.tensor(-5.0))
        tensor(0.0201)
    """


def sup_con_of(features, labels, temperature=None):
    """Mean over the anchors with a positive of the mean of -log of the positives' shares among all others."""
    (z,) = accumulate(features)
    s = product(z, z.mT)
    s = s if temperature is None else s / temperature
    itself = torch.eye(s.shape[0], dtype=torch.bool, device=s.device)
    positive = (labels.unsqueeze(1) == labels) & ~itself
    number = positive.sum(1)
    counts = number > 0
    others = torch.where(counts.unsqueeze(1), s.masked_fill(itself, -torch.inf), 0)
    attracted = torch.where(positive, s, 0).sum(1) / number.clamp(min=1)
    losses = torch.where(counts, others.logsumexp(1) - attracted, 0)
    return losses.sum() / counts.sum()


def anchors(tensors, options, reduction):
    return [(tensors[0].shape[0], 2)]


def at_temperature(z, temperature):
    """Embeddings whose products are divided by a temperature that is a tensor; by a number the op divides."""
    if not isinstance(temperature, torch.Tensor):
        return z
    (z,) = accumulate(z)
    return z / temperature.to(z.dtype).sqrt()


def check_views(name, z1, z2, temperature):
    """Two views (N, D) of one dtype."""
    if z1.dim() != 2:
        raise ValueError(f"{name}: expected z1 of shape (N, D), got {tuple(z1.shape)}")
    check_same_dtype(name, "z2", z2, z1, "z1")
    check.shaped(name, "z2", z2, z1.shape, z1, check.FLOATING)
    check_scalar(name, "temperature", temperature, z1)


def unit_views(z1, z2):
    """Both views one below the other, as unit rows: in fewer calls where they are small, else in less memory."""
    if not torch.compiler.is_compiling() and z1.numel() < SMALL:
        return unit_rows(joined(z1, z2))
    return joined(unit_rows(z1), unit_rows(z2))


def views(z1, z2, temperature, normalize, group):
    """The op's tensors: both views as one set, in which a row and its other view have a label of their own."""
    n = z1.shape[0]
    features = at_temperature(unit_views(z1, z2) if normalize else joined(z1, z2), temperature)
    labels = torch.arange(2 * n, device=z1.device) % max(n, 1)
    if group is not None:
        labels += processes("nt_xent_loss", group).first(n)
    return features, labels, None, None


ONE_SET = {"temperature": TEMPERATURE, "normalize": OperandFlag(), "group": Group("first")}


@loss(
    shape=scalar_shape, check=check_views, operands=views, kernel=sup_con_of, options=ONE_SET, saved_shapes=anchors,
    unreduced=MEAN, across=across_one_set,
)  # fmt: skip
def nt_xent_loss(z1, z2, *, temperature=0.5, normalize=True, group=None):
    """SimCLR's NT-Xent: each view of a sample is to find the other view among all other rows of both.

    .. math:: -\\frac{1}{2N} \\sum_i \\log \\frac{e^{z_i \\cdot z_{p(i)} / \\tau}}
        {\\sum_{j \\ne i} e^{z_i \\cdot z_j / \\tau}}, \\quad z = (z_1, z_2)

    Args:
        z1, z2: two views (N, D) of one dtype; float32, float64, float16 or bfloat16.
        temperature: τ > 0, a number or a tensor without dimensions, to which a gradient flows.
        normalize: divide each row by its norm (at least 1e-12) first, in float32 at least.
        group: as :func:`clip_loss`.

    Returns:
        A scalar; float64 for float64 views, else float32.

    Products, memory, numbers and errors as :func:`sup_con_loss` of the 2N rows, of which this is the case of one
    positive each; gradients flow to z1, z2 and temperature.
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020).

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> F.nt_xent_loss(z, z)
        tensor(0.9697)
    """
    z1, z2 = whole_batch("nt_xent_loss", group, z1, z2)
    features, labels, _, _ = views(z1, z2, temperature, normalize, None)
    return sup_con_of(features, labels, None if isinstance(temperature, torch.Tensor) else temperature)


class NTXentLoss(LossModule, function=nt_xent_loss, tensors=("z1", "z2")):
    """Module of :func:`nt_xent_loss`; a tensor `temperature` is a buffer, or a parameter if given as such.

    Example:
        >>> criterion = fused_losses.NTXentLoss(temperature=1.0)
        >>> criterion(torch.eye(2), torch.eye(2))
        tensor(0.5514)
    """


def check_labelled_set(name, features, labels):
    """Features (N, D) and a label of each."""
    if features.dim() != 2:
        raise ValueError(f"{name}: expected features of shape (N, D), got {tuple(features.shape)}")
    check.shaped(name, "labels", labels, features.shape[:1], features, check.CLASS_INDEX)


def check_labelled_anchors(name, features, labels, temperature):
    """As `check_labelled_set`, with a temperature."""
    check_labelled_set(name, features, labels)
    check_scalar(name, "temperature", temperature, features)


def labelled_set(features, labels, temperature, normalize):
    """The op's tensors."""
    features = at_temperature(unit_rows(features) if normalize else features, temperature)
    return features, labels.long(), None, None


@loss(
    shape=scalar_shape, check=check_labelled_anchors, operands=labelled_set, kernel=sup_con_of, options=ONE_SET,
    saved_shapes=anchors, unreduced=MEAN, across=across_one_set,
)  # fmt: skip
def sup_con_loss(features, labels, *, temperature=0.07, normalize=True, group=None):
    """Supervised contrastive loss, the sum over the positives outside of the logarithm.

    .. math:: -\\frac{1}{|A|} \\sum_{i \\in A} \\frac{1}{|P(i)|} \\sum_{p \\in P(i)} \\log
        \\frac{e^{z_i \\cdot z_p / \\tau}}{\\sum_{j \\ne i} e^{z_i \\cdot z_j / \\tau}}

    with P(i) the other rows of i's label and A the rows that have any.

    Args:
        features: z (N, D); float32, float64, float16 or bfloat16. Several views of a sample are rows of one label.
        labels: (N,), uint8, int32 or int64; any numbers.
        temperature: τ > 0, a number or a tensor without dimensions, to which a gradient flows.
        normalize: divide each row by its norm (at least 1e-12) first, in float32 at least.
        group: as :func:`clip_loss`.

    Returns:
        A scalar; float64 for float64 features, else float32.

    Two products of N x N x D forward and backward, since a pair is read once for both of its rows; half a product
    without gradients, one where all similarities fit into a tile. With a group three, and one. Memory beyond the
    gradients: that tile of some rows of similarities, at most 32 MiB on the CPU and 24 on CUDA or, where N is large, 64
    rows; float32 sums of half-precision gradients; with `normalize` or a tensor as temperature what these make of the
    features. Labels are compared where they are used: there is no mask matrix. Second derivatives and torch.func come
    from plain PyTorch, which holds all similarities.
    Gradients flow to features and temperature. A row without a positive contributes 0 and leaves the mean; where no row
    has one the loss is NaN with gradient 0, as is that of nothing. NaN propagates. Matrix products are PyTorch's, and
    with them their rounding for a given number of threads.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option.
    Khosla et al., "Supervised Contrastive Learning" (2020).

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> F.sup_con_loss(z, torch.tensor([0, 0, 1]), temperature=0.5)  # the third has no positive
        tensor(0.1269)
    """
    features, labels = whole_batch("sup_con_loss", group, features, labels)
    features, labels, _, _ = labelled_set(features, labels, temperature, normalize)
    return sup_con_of(features, labels, None if isinstance(temperature, torch.Tensor) else temperature)


class SupConLoss(LossModule, function=sup_con_loss, tensors=("features", "labels")):
    """Module of :func:`sup_con_loss`; a tensor `temperature` is a buffer, or a parameter if given as such.

    Example:
        >>> criterion = fused_losses.SupConLoss(temperature=0.5)
        >>> criterion(torch.eye(2), torch.tensor([0, 0]))
        tensor(0.)
    """
