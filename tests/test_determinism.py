"""The same bits from run to run and for any number of threads; instruction sets agree within derived bounds."""

from __future__ import annotations

import pytest
import torch
from cases import each_case
from problems import expected, gradients
from tolerances import assert_agrees

from fused_losses import _C
from fused_losses import functional as F


def results(case, problem, reduction):
    names = [n for n in problem.floating() if n in case.fused]
    outputs, found = gradients(problem, names, None, reduction, "scalar")
    return [*outputs, *found.values()]


@pytest.mark.promise("Bits and builds", "The bits are the same from run to run and for any number of CPU threads.")
@pytest.mark.not_emulated  # in any order of its threads: test_emulator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@each_case
def test_runs_and_threads(case, dtype, device):
    problem = case.problem(None, dtype, device, case.big)
    for reduction in case.reductions:
        torch.set_num_threads(1)
        want = results(case, problem, reduction)
        again = results(case, problem, reduction)
        assert all(torch.equal(a, b) for a, b in zip(again, want)), f"run to run, {reduction}"
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            for _ in range(2):
                got = results(case, problem, reduction)
                for a, b in zip(got, want):
                    if "products" in case.groups:
                        assert_agrees(a, b.double(), n_terms=problem.n_terms)
                    else:
                        assert torch.equal(a, b), f"{threads} threads, {reduction}"


@pytest.mark.promise("Bits and builds", "Each instruction set is right to the same tolerance.")
@each_case
def test_instruction_sets(case, every_isa):
    """Each instruction set agrees with the reference in float64, hence with the others."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        problem = case.problem(None, dtype, "cpu", case.shape, seed=11)
        names = [n for n in problem.floating() if n in case.fused]
        for reduction in case.reductions[:2]:
            want, want_gradients = expected(problem, names, reduction, "scalar")
            for isa in every_isa:
                assert _C.set_cpu_isa(isa) == isa
                got, got_gradients = gradients(problem, names, None, reduction, "scalar")
                label = f"{isa} {dtype} {reduction}"
                for a, b in zip(got, want):
                    assert_agrees(a, b, n_terms=problem.terms(None, reduction), label=label)
                for n in names:
                    assert_agrees(got_gradients[n], want_gradients[n], n_terms=problem.terms(n), label=f"{label} {n}")


@pytest.fixture
def non_temporal_above():
    """Sets the bytes above which gradients are written by non-temporal stores; automatic again afterwards."""
    yield _C.set_non_temporal_above
    _C.set_non_temporal_above(-1)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["float32", "float64", "bfloat16"]
)
@each_case
def test_streamed_gradients_have_the_same_bits(case, dtype, every_isa, non_temporal_above):
    for shape in (case.shape, case.big):
        problem = case.problem(None, dtype, "cpu", shape)
        for isa in every_isa:
            _C.set_cpu_isa(isa)
            for reduction in case.reductions:
                non_temporal_above(1 << 62)
                want = results(case, problem, reduction)
                assert non_temporal_above(0) == 1 << 62
                got = results(case, problem, reduction)
                assert all(map(torch.equal, got, want)), f"{isa} {reduction}"


@pytest.mark.parametrize("rows, size", [(2000, 17), (5000, 40), (1000, 100)])
def test_threads_change_no_bit_of_rows_whitened_by_products(rows, size):
    x, mean = torch.randn(rows, size, requires_grad=True), torch.randn(size)
    factor = torch.randn(size, size).tril() / 10 + torch.eye(size)
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        loss = F.mahalanobis_loss(x, torch.arange(rows) % 2, mean, factor, margin=3.0)
        found.append((loss, *torch.autograd.grad(loss, x)))
    for loss, gradient in found:
        assert torch.equal(loss, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_choice_of_instruction_set(every_isa):
    assert "default" in every_isa
    assert _C.cpu_isa() in every_isa
    for isa in every_isa:
        assert _C.set_cpu_isa(isa) == isa
        assert _C.cpu_isa() == isa
    with pytest.raises(ValueError, match="sse9"):
        _C.set_cpu_isa("sse9")
    assert _C.set_cpu_isa("") in every_isa
