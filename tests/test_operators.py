"""The compiled ops themselves: torch.library.opcheck, kernels really called, memory."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cases import each_case, each_dtype, each_in, each_variant
from conftest import EMULATED
from emulated_device import emulated
from problems import as_tuple, gradients, incoming
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fused_losses import functional as F

pytestmark = pytest.mark.not_emulated


class Calls(TorchDispatchMode):
    """Records every call of an op of this library, arguments copied."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fused_losses":
            copied = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
            self.seen.append((func, copied, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


def calls_of(problem, reduction):
    """Ops called by forward and backward, with and without a kept graph."""
    names = [n for n in problem.floating() if n in problem.case.fused]
    recorded = Calls()
    with recorded:
        mine = problem.leaves(names)
        outputs = as_tuple(mine.call(None, reduction))
        torch.autograd.backward(outputs, incoming(outputs, "tensor"))
    return recorded.seen


@each_variant
def test_opcheck(case, variant, device):
    """Schema, fake kernel and AOT dispatch of each op and each backward op."""
    problem = case.problem(variant, torch.float32, device, case.tiny)
    checked = set()
    for reduction in {case.reductions[0], case.reduced()}:
        for op, args, kwargs in calls_of(problem, reduction):
            torch.library.opcheck(op, tuple(args), kwargs)
            checked.add(op.name())
    assert f"fused_losses::{case.name}" in checked


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["float16", "float64"])
@each_case
def test_opcheck_of_dtypes(case, dtype, device):
    problem = case.problem(None, dtype, device, case.tiny)
    for op, args, kwargs in calls_of(problem, case.reduced()):
        torch.library.opcheck(op, tuple(args), kwargs, test_utils=("test_schema", "test_faketensor"))


@each_dtype
@each_case
def test_the_kernel_is_used(case, dtype, device):
    """Eager calls with gradients run the fused op; the reference never stands in silently."""
    problem = case.problem(None, dtype, device)
    for reduction in case.reductions:
        names = {op.name() for op, _, _ in calls_of(problem, reduction)}
        assert f"fused_losses::{case.name}" in names
    with torch.no_grad(), Calls() as quiet:
        problem.call()
    seen = [call for call in quiet.seen if call[0].name() != "fused_losses::unit_rows"]  # of embeddings, before it
    assert [op.name() for op, _, _ in seen] == [f"fused_losses::{case.name}"]
    assert seen[0][1][-1] == 0, "a forward that needs no gradient asks for none"


class NoReading(TorchDispatchMode):
    """Refuses what brings a tensor's value to Python: on a GPU each would wait for the device."""

    READING = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        assert name not in self.READING, f"{func.name()} reads a value"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_reading(monkeypatch):
    """NoReading, and the readings that pass by the dispatcher."""

    def refuse(*_):
        raise AssertionError("a tensor's values are read in Python")

    for name in ("tolist", "numpy", "__array__", "__iter__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    return NoReading()


@each_variant
def test_no_value_of_a_tensor_is_read_in_python(case, variant, no_reading):
    """Checks, forward and backward of every reduction: what the kernel finds out, the kernel says."""
    for reduction in case.reductions:
        mine = case.problem(variant).leaves(case.fused)
        with no_reading:
            outputs = as_tuple(mine.call(None, reduction))
            torch.autograd.backward(outputs, incoming(outputs, "one"))


@pytest.mark.parametrize("how", ["__float__", "__bool__", "__int__", "item", "tolist", "numpy"])
def test_reading_a_value_is_noticed(how, no_reading):
    with no_reading, pytest.raises(AssertionError, match="read"):
        getattr(torch.ones(()), how)()


@pytest.mark.parametrize("name", F.__all__)
def test_kernels_are_registered(name):
    for op in (f"fused_losses::{name}", f"fused_losses::{name}_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(op, "CPU"), op


def peak_bytes(step) -> int:
    """Most bytes in use at once, above the start, during step()."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    now = peak = 0
    for event in events:
        now += event.nbytes()
        peak = max(peak, now)
    assert kept is not None
    return peak


@each_case
def test_memory(case):
    """Forward and backward allocate the gradients and 1 %; a forward without gradient less than 1 % of an input."""
    problem = case.problem(None, torch.float32, "cpu", case.large)
    names = [n for n in problem.floating() if n in case.fused]
    mine = problem.leaves(names)
    wanted = sum(mine.arguments[n].numel() * 4 for n in names)
    largest = max(t.numel() * t.element_size() for t in problem.tensors.values())
    small = 0.01 * largest + case.workspace

    def forward_and_backward():
        outputs = as_tuple(mine.call(None, case.reduced()))[:1]
        found = torch.autograd.grad(outputs, [mine.arguments[n] for n in names], incoming(outputs, "one"))
        return found

    def forward():
        with torch.no_grad():
            return problem.call(None, case.reduced() or None)

    gradients(case.problem(), names, None, case.reduced())
    spent = peak_bytes(forward_and_backward)
    assert spent <= wanted * 1.01 + small + 4096, f"{spent / wanted:.3f} of the gradients"
    quiet = peak_bytes(forward)
    rows = problem.tensors[case.fused[0]].shape[0] * 4
    allowed = small + 4096 + (rows if case.reduced() is None else 0)
    assert quiet <= allowed, f"{quiet / largest:.4f} of an input"


@each_in("products")
@each_dtype
@pytest.mark.parametrize("place", ["cpu", EMULATED])
def test_a_product_is_never_all_there(case, dtype, tile_bytes, place):
    """1024 x 1024 values pass through tiles of 64 KiB: less than 1 MiB, a quarter of them in float32, at any time; on
    the emulated device, whose kernels add up in workspaces too, less than a third of them."""
    tile_bytes(1 << 16)
    shape = (1024, 8, 1024)[: len(case.shape)]
    problem = case.problem(None, dtype, "cpu", shape)
    names = [n for n in problem.floating() if n in case.fused]
    with emulated() if place == "emulated" else nullcontext():
        spent = peak_bytes(lambda: gradients(problem, names, None, case.reduced()))
    every_value = (8 if dtype == torch.float64 else 4) << 20
    assert spent < (every_value / 3 if place == "emulated" else 1 << 20)
