"""`F.explain` says what a call does, whatever the call: compared with what the call itself did."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from cases import each_variant

import fused_losses
from fused_losses import _autograd
from fused_losses import functional as F
from fused_losses._op import Op


class Subclass(torch.Tensor):
    pass


def took_reference(call) -> bool:
    """Whether the call went through the reference; nobody differentiates here."""
    with mock.patch.object(Op, "call_reference", autospec=True, side_effect=Op.call_reference) as reference:
        call()
    return reference.called


def pair(**options):
    return torch.rand(4, 3).requires_grad_(), torch.rand(4, 3, **options)


def explained_and_done(loss, *arguments, **named) -> tuple:
    return F.explain(loss, *arguments, **named), took_reference(lambda: loss(*arguments, **named))


@each_variant
def test_every_case_runs_a_kernel(case, variant):
    problem = case.problem(variant).leaves(case.fused)
    explanation = F.explain(case.function, **problem.arguments)
    assert explanation.reason is None
    assert explanation.kernel
    assert not took_reference(problem.call)


WEIGHT = dict(weight=torch.ones(3, requires_grad=True))


@pytest.mark.parametrize(
    "target, named, word",
    [
        (torch.ones(4, 3), WEIGHT, "gradient of weight"),
        (torch.ones(4, 3).as_subclass(Subclass), {}, "Subclass"),
        (torch.ones(4, 3).T.contiguous().T, {}, None),
    ],
)
def test_reasons_that_lie_in_the_tensors(target, named, word):
    input, _ = pair()
    explanation, plain = explained_and_done(F.mse_loss, input, target, **named)
    assert plain == (explanation.kernel is None) == (word is not None)
    assert word is None or word in explanation.reason
    assert str(explanation).startswith("mse_loss on cpu: ")


def test_no_gradient_is_asked_for_without_grad():
    with torch.no_grad():
        explanation, plain = explained_and_done(F.mse_loss, *pair(), **WEIGHT)
    assert explanation.reason is None
    assert not plain


def test_reasons_that_lie_around_the_call():
    x, t = pair()
    found = []

    def call(x):
        explanation, plain = explained_and_done(F.mse_loss, x, t)
        found.append((explanation.reason, plain))
        return F.mse_loss(x, t)

    torch.func.grad(call)(x.detach())
    with torch.autograd.forward_ad.dual_level():
        call(x.detach())
    torch.jit.trace(call, x.detach(), check_trace=False)
    call(x)
    assert [plain for _, plain in found] == [True, True, True, False]
    for (reason, _), word in zip(found, ["torch.func", "forward-mode", "torch.jit.trace"]):
        assert word in reason
    assert found[-1][0] is None


def test_a_device_without_kernels():
    explanation = F.explain(F.mse_loss, torch.ones(3, device="meta"), torch.ones(3, device="meta"))
    assert "no kernel was written for tensors on meta" in explanation.reason


def test_a_module_is_its_function():
    criterion = fused_losses.MSELoss(weight=torch.nn.Parameter(torch.ones(3)))
    explanation, plain = explained_and_done(criterion, *pair())
    assert plain
    assert "gradient of weight" in explanation.reason
    assert F.explain(fused_losses.MSELoss(), *pair()).reason is None


def test_it_checks_as_the_call_does_and_runs_nothing():
    with pytest.raises(ValueError, match="mse_loss: expected target of shape"):
        F.explain(F.mse_loss, torch.ones(3), torch.ones(4))
    with mock.patch.object(_autograd, "_apply", side_effect=AssertionError("a kernel ran")):
        assert F.explain(F.mse_loss, *pair()).reason is None


@pytest.mark.parametrize("loss", [torch.nn.functional.mse_loss, torch.nn.MSELoss(), None])
def test_what_is_no_loss_of_the_library(loss):
    with pytest.raises(TypeError, match=r"explain: expected a function of fused_losses\.functional, a Module"):
        F.explain(loss, *pair())
