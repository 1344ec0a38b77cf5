"""Every fused loss equals its reference evaluated in float64: values and gradients, dtypes, reductions, sizes."""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import CASES, each_case, each_dtype, each_variant
from problems import expected, gradients
from tolerances import assert_agrees, largest

import fused_losses
from fused_losses import functional as F
from fused_losses import reference

KINDS = {None: "tensor", "none": "tensor"}


def compare(problem, names, reduction, kind):
    dtype = next(iter(problem.tensors.values())).dtype
    loss_dtype = torch.float64 if dtype is torch.float64 else torch.float32
    outputs, found = gradients(problem, names, None, reduction, kind)
    wanted, wanted_gradients = expected(problem, names, reduction, kind)
    for i, (out, want) in enumerate(zip(outputs, wanted, strict=True)):
        assert out.dtype is loss_dtype
        assert_agrees(out, want, n_terms=problem.terms(None, reduction), label=f"loss {i}, reduction {reduction}")
    for name, gradient in found.items():
        assert gradient.dtype is problem.arguments[name].dtype
        label = f"gradient of {name}, reduction {reduction}, incoming {kind}"
        least = cancelling(problem, name, wanted)
        assert_agrees(gradient, wanted_gradients[name], n_terms=problem.terms(name), label=label, at_least=least)


def cancelling(problem, name, losses) -> float:
    """On a GPU, which adds in its own order: the magnitude of terms of a gradient that may cancel to much less."""
    if not problem.arguments[name].is_cuda:
        return 0.0
    if "products" in problem.case.groups:  # a mean over rows; each of one pair alone is a zero made of a one and a one
        return 1 / max(problem.arguments[name].shape[:1], default=1)
    if name == "weight":  # a mean over weights takes the mean itself from each of its terms
        return max(map(largest, losses)) / max(problem.arguments[name].numel(), 1)
    return 0.0


def fused_names(problem):
    return [name for name in problem.floating() if name in problem.case.fused]


@each_dtype
@each_variant
def test_value_and_gradient(case, variant, dtype, device):
    problem = case.problem(variant, dtype, device)
    for reduction in case.reductions:
        for kind in ("one", KINDS.get(reduction, "scalar")):
            compare(problem, fused_names(problem), reduction, kind)


@each_variant
def test_gradient_of_every_floating_argument(case, variant, device):
    """Arguments the kernels do not differentiate too: soft targets, weights, alpha."""
    problem = case.problem(variant, torch.float32, device)
    names = problem.floating()
    for name in names:
        compare(problem, [name], case.reduced(), "scalar" if case.reduced() else "tensor")
    compare(problem, names, case.reductions[0], "tensor" if case.reductions[0] in KINDS else "scalar")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case, shape", [pytest.param(c, s, id=f"{c.name}-{s}") for c in CASES for s in c.sizes])
def test_sizes(case, shape, dtype, device):
    """Vector tails, borders of chunks, rows longer than a block, and enough elements for several threads."""
    problem = case.problem(None, dtype, device, shape, seed=3)
    for reduction in case.reductions[:2]:
        compare(problem, fused_names(problem), reduction, KINDS.get(reduction, "scalar"))


@each_case
def test_value_without_gradient(case, device):
    """The pass that writes no gradient gives the values of the pass that does."""
    problem = case.problem(None, torch.float32, device, case.big)
    for reduction in case.reductions:
        with torch.no_grad():
            alone = problem.call(None, reduction)
        beside = problem.leaves(fused_names(problem)).call(None, reduction)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (alone, beside)), strict=True):
            assert_agrees(a, b.double(), n_terms=problem.n_terms)


def test_one_list_of_names():
    names = set(F.__all__)
    assert list(F.__all__) == list(reference.__all__)
    assert names == {case.name for case in CASES}, "every loss needs a Case in tests/cases"
    assert len(F.__all__) == len(names)


@pytest.mark.parametrize("name", F.__all__)
def test_same_signature_as_the_reference(name):
    fused, plain = inspect.signature(getattr(F, name)), inspect.signature(getattr(reference, name))
    shown = [[(p.name, p.default) for p in s.parameters.values()] for s in (fused, plain)]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("name", F.__all__)
def test_documented(name):
    text = getattr(F, name).__doc__
    assert text
    assert len(text.split()) > 40
    if ":func:`" not in text.split("Same as")[0]:  # some refer to a sister loss for the arguments they share
        for parameter in inspect.signature(getattr(F, name)).parameters:
            assert parameter in text, f"{name}: the docstring does not name {parameter}"
    assert getattr(reference, name).__doc__


def test_public_names():
    for name in fused_losses.__all__:
        assert hasattr(fused_losses, name)
    assert {"functional", "reference", "__version__"} <= set(fused_losses.__all__)
