"""Losses of a linear layer, whose logits are made a tile at a time: formulas in plain PyTorch, and Modules.

The fused functions make the logits of some rows at a time, turn them into their gradient where they are, and multiply
that on: three products forward and backward, and beyond the gradients a tile of memory, about 32 MiB on the CPU. The
formulas below, which also serve second derivatives and torch.func, hold all logits.
"""

from __future__ import annotations

import torch

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._options import DIVERGENCE_REDUCTIONS, IgnoreIndex, Number
from ..losses._shared import accumulate, leading_shape, reduce
from ..losses.classification import class_losses
from ..losses.divergence import js_div_with_logits, kl_div_with_logits, over_batch
from ._classes import across_classes, check_classes_of_all, whole_layer
from ._shared import Group, check_same_dtype, product


def rows_of(x):
    """(..., D) as (N, D)."""
    return x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)


def linear(input, weight, bias):
    """Logits (N, V) of the rows of an input (..., D), in the accumulation dtype."""
    x, w, b = accumulate(input, weight, bias)
    logits = product(rows_of(x), w.mT)
    return logits if b is None else logits + b


def check_linear(name, input, linear_weight, linear_bias, argument="linear_weight", of="input"):
    """A weight (V, D) and a bias (V,) for rows of D features, all of one dtype."""
    if not input.dim():
        raise ValueError(f"{name}: expected {of} of shape (..., D), got ()")
    check_same_dtype(name, argument, linear_weight, input, of)
    features = input.shape[-1]
    if linear_weight.dim() != 2 or linear_weight.shape[1] != features:
        raise ValueError(f"{name}: expected {argument} of shape (V, {features}), got {tuple(linear_weight.shape)}")
    if linear_bias is not None:
        named = argument.replace("weight", "bias")
        check_same_dtype(name, named, linear_bias, input, of)
        check.shaped(name, named, linear_bias, linear_weight.shape[:1], input, check.FLOATING)


def check_linear_classes(
    name, input, linear_weight, target, linear_bias, weight, ignore_index, label_smoothing, group
):  # fmt: skip
    """As `check_linear`, with class indices (...) or probabilities (..., V)."""
    check_linear(name, input, linear_weight, linear_bias)
    classes, rows = linear_weight.shape[0], input.shape[:-1]
    check.tensor(name, "target", target, check.DENSE)
    check.same_device(name, "target", target, input)
    if target.shape == (*rows, classes):
        if ignore_index is not None and ignore_index >= 0:
            raise ValueError(f"{name}: expected ignore_index < 0 with class probabilities, got {ignore_index}")
    elif target.shape == rows:
        check.tensor(name, "target of class indices", target, check.CLASS_INDEX)
    else:
        shapes = f"{tuple(rows)} or {(*rows, classes)}"
        raise ValueError(f"{name}: expected target of shape {shapes}, got {tuple(target.shape)}")
    if weight is not None:
        check.shaped(name, "weight", weight, (classes,), input)
    check_classes_of_all(name, group, target.shape != rows, weight, label_smoothing)


@loss(
    shape=leading_shape,
    check=check_linear_classes,
    across=across_classes,
    options={
        "ignore_index": IgnoreIndex(classes=True),
        "label_smoothing": Number(low=0, high=1),
        "softcap": Number(low=0, open=True, none=0),
        "z_loss": Number(low=0),
        "group": Group(),
    },
)
def linear_cross_entropy(
    input, linear_weight, target, *, linear_bias=None, weight=None, reduction="mean", ignore_index=-100,
    label_smoothing=0.0, softcap=None, z_loss=0.0, group=None,
):  # fmt: skip
    """Cross-entropy between the logits of a linear layer and classes, without the matrix of logits.

    .. math:: -\\sum_c y_c w_c \\log p_c + \\zeta \\, (\\log \\sum_c e^{s_c})^2, \\quad p = \\mathrm{softmax}(s), \\;
        s = \\kappa \\tanh((W x + b) / \\kappa)

    Args:
        input: x, (..., D), N rows in all; float32, float64, float16 or bfloat16.
        linear_weight: W (V, D), of the input's dtype.
        target: class indices (...) (uint8, int32 or int64), or class probabilities y (..., V) (floating, bool, uint8,
            int32 or int64).
        linear_bias: b (V,), of the input's dtype, or None.
        weight: w, one for each class, (V,).
        reduction: "none", "mean" or "sum". The mean divides by the sum of the weights of the rows' targets, with
            probabilities by the number of rows.
        ignore_index: rows with this target give loss 0 and gradient 0 and leave the mean; indices only; None: no row.
        label_smoothing: e in [0, 1]; y becomes y (1-e) + e/V.
        softcap: κ > 0, a bound of the logits; None: s = W x + b.
        z_loss: ζ >= 0, the weight of the square of the logits' normaliser, in rows that are not ignored.
        group: processes that the classes are spread over, a ProcessGroup or a DeviceMesh of one dimension; None: this.
            A Module with either can be copied, one with a DeviceMesh also pickled.

    Returns:
        A scalar, or the input's shape without D with "none"; float64 for a float64 input, else float32.

    Three products of N x V x D forward and backward, in one pass; one product without gradients; a fourth where the
    gradient is computed in the backward ("none", float16). Memory beyond the gradients: a tile of some rows of logits,
    32 MiB on the CPU and 24 on CUDA or, where V is large, 64 rows; float32 sums of the gradients of half-precision
    weights. With a group every process has the same input and targets, which count all classes, and V of them, in the
    processes' order: its part of linear_weight and linear_bias. Each gets the loss and the whole gradients of what it
    holds, in four products; weight, label_smoothing and probabilities are refused. An exported program
    gathers the layer where a tensor requires a gradient when it is exported.
    Logits are float32 at least, sums too. Second derivatives, torch.func and the gradients of `weight` and of
    class probabilities come from plain PyTorch, which holds all N x V logits.
    Gradients flow to input, linear_weight and linear_bias. NaN propagates; everything ignored gives a mean of NaN with
    gradient 0, as does the mean of nothing. Matrix products are PyTorch's, and with them their rounding for a given
    number of threads and their precision (:func:`torch.get_float32_matmul_precision`).
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option, IndexError on a class index
    outside [0, V) that is not ignored, which is a device assertion on CUDA. Autocast casts nothing: a weight in float32
    beside an input that autocast has made is given as `linear_weight.to(input.dtype)`.
    Same as :func:`torch.nn.functional.linear_cross_entropy`, whose `ignore_index=None` is -100 here; Wijmans et al.,
    "Cut Your Losses in Large-Vocabulary Language Models" (2025); softcap: Gemma Team, "Gemma 2" (2024); z_loss:
    Chowdhery et al., "PaLM" (2022).

    Example:
        >>> x, head = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> F.linear_cross_entropy(x, head, torch.tensor([0, 1]))
        tensor(0.3955)
    """
    linear_weight, linear_bias = whole_layer("linear_cross_entropy", group, linear_weight, linear_bias)
    logits, rows = linear(input, linear_weight, linear_bias), input.shape[:-1]
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    dense = target.shape == (*rows, logits.shape[1])
    target = rows_of(target) if dense else target.reshape(-1)
    losses, counted, ignored = class_losses(logits, target, weight, ignore_index, label_smoothing)
    if z_loss:
        logits = logits if ignored is None else torch.where(ignored.unsqueeze(1), 0, logits)
        normaliser = z_loss * logits.logsumexp(1).square()
        losses = losses + (normaliser if ignored is None else torch.where(ignored, 0, normaliser))
    return reduce(losses.reshape(rows), reduction, counted)


class LinearCrossEntropyLoss(
    LossModule, function=linear_cross_entropy, tensors=("input", "linear_weight", "target", "linear_bias")
):
    """Module of :func:`linear_cross_entropy`; `weight` is a buffer.

    Example:
        >>> criterion = fused_losses.LinearCrossEntropyLoss(softcap=30.0)
        >>> criterion(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
        tensor(0.3134)
    """


def check_distillation(name, input, linear_weight, teacher_input, teacher_weight, linear_bias, teacher_bias):
    """As `check_linear` of a student and of a teacher with the same rows and classes, in one dtype."""
    check_linear(name, input, linear_weight, linear_bias)
    check_same_dtype(name, "teacher_input", teacher_input, input)
    if not teacher_input.dim() or teacher_input.shape[:-1] != input.shape[:-1]:
        shape = ", ".join(map(str, (*input.shape[:-1], "D")))
        raise ValueError(f"{name}: expected teacher_input of shape ({shape}), got {tuple(teacher_input.shape)}")
    check_linear(name, teacher_input, teacher_weight, teacher_bias, "teacher_weight", "teacher_input")
    if teacher_weight.shape[0] != linear_weight.shape[0]:
        shape = (linear_weight.shape[0], teacher_input.shape[-1])
        raise ValueError(f"{name}: expected teacher_weight of shape {shape}, got {tuple(teacher_weight.shape)}")


def both_logits(input, linear_weight, linear_bias, teacher_input, teacher_weight, teacher_bias):
    """Logits (..., V) of student and teacher."""
    logits = linear(input, linear_weight, linear_bias), linear(teacher_input, teacher_weight, teacher_bias)
    return [x.reshape(*input.shape[:-1], x.shape[1]) for x in logits]


@loss(
    shape=leading_shape,
    check=check_distillation,
    options={"temperature": Number(low=0, open=True)},
    reductions=DIVERGENCE_REDUCTIONS,
)
def linear_kl_div(
    input, linear_weight, teacher_input, teacher_weight, *, linear_bias=None, teacher_bias=None, temperature=1.0,
    reduction="batchmean",
):  # fmt: skip
    """Kullback-Leibler divergence of a student's linear layer from a teacher's, without either matrix of logits.

    .. math:: T^2 \\sum_c p_c \\, (\\log p_c - \\log q_c), \\quad p = \\mathrm{softmax}((W' x' + b') / T), \\;
        q = \\mathrm{softmax}((W x + b) / T)

    Args:
        input: x, (..., D), N rows in all; float32, float64, float16 or bfloat16.
        linear_weight: W (V, D), of the input's dtype.
        teacher_input, teacher_weight: x' (..., D') with the input's leading dimensions and W' (V, D'), of its dtype.
        linear_bias, teacher_bias: b and b' (V,), of the input's dtype, or None.
        temperature: T > 0.
        reduction: "none", "mean" (over the rows), "batchmean" (the sum over input.shape[0]) or "sum".

    Returns:
        A scalar, or the input's shape without D with "none"; float64 for a float64 input, else float32.

    Four products forward and backward, in one pass: the logits of both, and two for the gradients of the student.
    Memory beyond them: two tiles of some rows of logits, 32 MiB together on the CPU and 24 on CUDA or, where V is
    large, 64 rows; float32 sums of the gradients of half-precision weights. Gradients flow to input, linear_weight and
    linear_bias; those of the teacher's side, second derivatives and torch.func come from plain PyTorch, which holds all
    logits. NaN propagates; the mean of nothing is NaN. Matrix products are PyTorch's, and with them their rounding.
    Raises ValueError or TypeError on a wrong shape, dtype, device, reduction or option.
    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).

    Example:
        >>> student, teacher = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> F.linear_kl_div(student, torch.eye(2), teacher, torch.eye(2))
        tensor(0.0671)
    """
    logits = both_logits(input, linear_weight, linear_bias, teacher_input, teacher_weight, teacher_bias)
    return over_batch(kl_div_with_logits.reference(*logits, "none", temperature=temperature), reduction, input)


class LinearKLDivLoss(
    LossModule,
    function=linear_kl_div,
    tensors=("input", "linear_weight", "teacher_input", "teacher_weight", "linear_bias", "teacher_bias"),
):
    """Module of :func:`linear_kl_div`.

    Example:
        >>> criterion = fused_losses.LinearKLDivLoss(temperature=2.0)
        >>> criterion(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.)
    """


@loss(
    shape=leading_shape,
    check=check_distillation,
    options={"beta": Number(low=0, high=1, open=True)},
    reductions=DIVERGENCE_REDUCTIONS,
)
def linear_js_div(
    input, linear_weight, teacher_input, teacher_weight, *, linear_bias=None, teacher_bias=None, beta=0.5,
    reduction="batchmean",
):  # fmt: skip
    """Generalised Jensen-Shannon divergence of a student's linear layer from a teacher's, without either's logits.

    .. math:: \\beta \\, KL(P \\Vert M) + (1-\\beta) \\, KL(Q \\Vert M), \\quad M = \\beta P + (1-\\beta) Q

    with P = softmax(W' x' + b') the teacher's and Q = softmax(W x + b) the student's distribution.

    Args:
        input, linear_weight, teacher_input, teacher_weight, linear_bias, teacher_bias: as :func:`linear_kl_div`.
        beta: in (0, 1).
        reduction: "none", "mean" (over the rows), "batchmean" (the sum over input.shape[0]) or "sum".

    Returns, products, memory, gradients and errors: as :func:`linear_kl_div`.
    Agarwal et al., "On-Policy Distillation of Language Models" (2024).

    Example:
        >>> student, teacher = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> F.linear_js_div(student, torch.eye(2), teacher, torch.eye(2))
        tensor(0.0183)
    """
    logits = both_logits(input, linear_weight, linear_bias, teacher_input, teacher_weight, teacher_bias)
    return over_batch(js_div_with_logits.reference(*logits, "none", beta=beta), reduction, input)


class LinearJSDivLoss(
    LossModule,
    function=linear_js_div,
    tensors=("input", "linear_weight", "teacher_input", "teacher_weight", "linear_bias", "teacher_bias"),
):
    """Module of :func:`linear_js_div`.

    Example:
        >>> criterion = fused_losses.LinearJSDivLoss(beta=0.1)
        >>> criterion(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.)
    """
