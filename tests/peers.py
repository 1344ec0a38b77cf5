"""Adapters against the libraries they stand in for: importing these, and comparing answers.

The libraries are installed by hand where the comparison is wanted (`pip install --no-deps` for the large ones); their
tests are skipped elsewhere.
"""

from __future__ import annotations

import inspect
import itertools
import warnings

import pytest
import torch
from tolerances import assert_agrees

from fused_losses.compat import _adapter

imported = pytest.importorskip("benchmarks.peer_cases", reason="the installed package has no benchmarks").imported


def required(module: str, version: str = ""):
    """The module of a library, or a skip that says why."""
    try:
        found = imported(module)
        given = getattr(imported(module.partition(".")[0]), "__version__", version)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{module} cannot be imported: {error}", allow_module_level=True)
    if not given.startswith(version):
        pytest.skip(f"expected {module} {version}, got {given}", allow_module_level=True)
    return found


@pytest.fixture
def fallbacks(monkeypatch):
    """The refusals of adapters during the test, each of which sent a call to the library."""
    found = []
    require = _adapter.Peer.require
    monkeypatch.setattr(_adapter.Peer, "require", lambda peer, refusal: (found.append(refusal), require(peer, refusal)))
    return found


def combinations(**choices):
    """Every combination of the choices, as keyword arguments."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


def answer(function, *tensors):
    """What a call gives: the loss and a gradient of each leaf, or the exception."""
    leaves = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]
    for leaf in leaves:
        leaf.grad = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loss = function(*tensors)
        except Exception as error:
            return error, []
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        incoming = (torch.arange(loss.numel()) % 9 + 4) / 8  # 0.5 to 1.5, exact in every dtype
        loss.backward(incoming.to(loss.dtype).reshape(loss.shape))
    return loss, [leaf.grad for leaf in leaves]


def modules_of(ours, theirs):
    """A function (name, *arguments, **options) that gives both instances of a class."""
    return lambda name, *arguments, **options: [getattr(m, name)(*arguments, **options) for m in (ours, theirs)]


def assert_same(ours, theirs, *tensors, label="", at_least=0.0, computed_in=torch.float64):
    """The same loss, gradients, shape and dtype, or the same exception.

    computed_in: the coarsest dtype that the library computes a part in, whatever the tensors.
    """
    expected, expected_gradients = answer(theirs, *tensors)
    found, gradients = answer(ours, *tensors)
    if isinstance(expected, Exception):
        assert type(found) is type(expected), f"{label}: {found!r}, expected {expected!r}"
        return expected
    assert not isinstance(found, Exception), f"{label}: {found!r}"
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), label
    terms = max(t.numel() for t in tensors)
    coarsest = max((computed_in, *(t.dtype for t in [found, *gradients])), key=lambda d: torch.finfo(d).eps)
    assert_agrees(found, expected, coarsest, terms, label, at_least=at_least)
    for i, (got, wanted) in enumerate(zip(gradients, expected_gradients)):
        assert (got is None) == (wanted is None), f"{label}: gradient {i}"
        if got is not None:
            assert got.dtype == wanted.dtype, f"{label}: gradient {i}"
            assert_agrees(got, wanted, coarsest, terms, f"{label}: gradient {i}", at_least=at_least)


def assert_rounded_once(ours, theirs, *tensors, computed_in=torch.float64, autocast=False):
    """The library's dtypes and shapes, and of its float64 the loss and gradients, rounded once.

    In the dtype of the tensors the library rounds at every step. computed_in: as in `assert_same`.
    autocast: both are called under it, in the dtype of the first tensor.
    """
    half = tensors[0].dtype if tensors[0].dtype is torch.float16 else torch.bfloat16
    with torch.autocast("cpu", half, enabled=autocast):
        expected, expected_gradients = answer(theirs, *tensors)
        found, gradients = answer(ours, *tensors)
    shapes = [(t.dtype, t.shape) for t in (expected, *expected_gradients)]
    assert [(t.dtype, t.shape) for t in (found, *gradients)] == shapes
    exact = [
        t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in tensors
    ]  # fmt: skip
    loss, exact_gradients = answer(theirs, *exact)
    terms = max(t.numel() for t in tensors)
    for i, (got, wanted) in enumerate(zip([found, *gradients], [loss, *exact_gradients])):
        coarsest = max(got.dtype, computed_in, key=lambda dtype: torch.finfo(dtype).eps)
        assert_agrees(got, wanted, coarsest, terms, f"result {i}")


def assert_same_signature(ours, theirs):
    """The same names, kinds and defaults of constructor and call, or of a function."""
    pairs = [(ours, theirs)]
    if inspect.isclass(ours):
        pairs = [(ours.__init__, theirs.__init__), (ours.forward, theirs.forward)]
    for mine, other in pairs:
        found, expected = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()] for f in (mine, other)
        )
        assert found == expected
