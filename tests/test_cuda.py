"""What only a GPU can show: no synchronisation, graph capture, streams, repeatability, more than 2**31 elements."""

from __future__ import annotations

import pytest
import torch
from cases import each_case, each_variant
from problems import as_tuple, expected, gradients, incoming
from tolerances import assert_agrees

from fused_losses import functional as F
from fused_losses import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
LIBRARY_SOLVE = ("mahalanobis_distance", "mahalanobis_loss")


def trained(problem):
    return [n for n in problem.floating() if n in problem.case.fused]


def step(problem, leaves, reduction):
    outputs = as_tuple(problem.call(None, reduction, **leaves))
    return outputs, torch.autograd.grad(outputs, list(leaves.values()), incoming(outputs, "one"))


@each_variant
def test_no_synchronisation(case, variant):
    """Forward and backward never wait for the device, whatever the reduction."""
    for dtype in (torch.float32, torch.bfloat16):
        problem = case.problem(variant, dtype, "cuda")
        leaves = {n: problem.arguments[n].clone().requires_grad_() for n in trained(problem)}
        for reduction in case.reductions:
            step(problem, leaves, reduction)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                step(problem, leaves, reduction)
            finally:
                torch.cuda.set_sync_debug_mode("default")


@each_case
def test_graph_capture_and_replay(case):
    """Captured once, replayed on new numbers: values and gradients of the new numbers."""
    problem = case.problem(None, torch.float32, "cuda")
    names = trained(problem)
    for reduction in case.reductions:
        leaves = {n: problem.arguments[n].clone().requires_grad_() for n in names}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(problem, leaves, reduction)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs, found = step(problem, leaves, reduction)
        fresh = case.problem(None, torch.float32, "cuda", seed=1)
        with torch.no_grad():
            for n in names:
                leaves[n].copy_(fresh.arguments[n])
            for n, t in problem.tensors.items():
                if n not in names:
                    t.copy_(fresh.tensors[n])
        for _ in range(2):
            graph.replay()
        want, want_gradients = expected(fresh, names, reduction)
        for a, b in zip((*outputs, *found), (*want, *want_gradients.values())):
            assert_agrees(a, b, n_terms=fresh.n_terms)


@each_case
def test_two_streams(case):
    """The same loss on two streams at once, many times over, gives the bits of one stream."""
    problem = case.problem(None, torch.float32, "cuda", case.big)
    leaves = {n: problem.arguments[n].clone().requires_grad_() for n in trained(problem)}
    outputs, found = step(problem, leaves, case.reduced())
    want = [*outputs, *found]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for _ in range(10):
        for stream in streams:
            with torch.cuda.stream(stream):
                outputs, found = step(problem, leaves, case.reduced())
                results.append([*outputs, *found])
    torch.cuda.synchronize()
    for got in results:
        for a, b in zip(got, want):
            if case.name in LIBRARY_SOLVE:
                assert_agrees(a, b.double(), n_terms=problem.n_terms)
            else:
                assert torch.equal(a, b)


@each_case
def test_repeatable(case):
    for dtype in (torch.float32, torch.bfloat16):
        problem = case.problem(None, dtype, "cuda", case.big)
        for reduction in case.reductions:
            first = gradients(problem, trained(problem), None, reduction)
            for _ in range(9):
                again = gradients(problem, trained(problem), None, reduction)
                for a, b in zip((*again[0], *again[1].values()), (*first[0], *first[1].values())):
                    if case.name in LIBRARY_SOLVE:
                        assert_agrees(a, b.double(), n_terms=problem.n_terms)
                    else:
                        assert torch.equal(a, b)


@each_case
def test_memory(case):
    """Forward and backward hold the gradients and little more."""
    if case.name in LIBRARY_SOLVE:
        pytest.skip("the library's solve takes its own memory")
    shape = (8 * case.big[0], *case.big[1:])
    problem = case.problem(None, torch.float32, "cuda", shape)
    leaves = {n: problem.arguments[n].clone().requires_grad_() for n in trained(problem)}
    step(problem, leaves, case.reduced())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(problem, leaves, case.reduced())
    spent = torch.cuda.max_memory_allocated() - before
    inputs = sum(t.numel() * t.element_size() for t in problem.tensors.values())
    wanted = sum(t.numel() * 4 for t in leaves.values())
    assert spent <= wanted * 1.01 + 0.01 * inputs + 64 * 1024


def test_more_than_two_to_the_31_elements():
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of device memory")
    n = 2**31 + 4099
    x = torch.full((n,), 0.5, dtype=torch.bfloat16, device="cuda")
    t = torch.zeros(n, dtype=torch.bool, device="cuda")
    x[-1], t[-1] = -3.0, True
    x.requires_grad_()
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="sum")
    loss.backward()
    ends = torch.tensor([0.5, -3.0], dtype=torch.float64, requires_grad=True)
    each = reference.binary_cross_entropy_with_logits(ends, torch.tensor([0.0, 1.0]).double(), reduction="none")
    torch.testing.assert_close(loss.item(), (each[0] * (n - 1) + each[1]).item(), rtol=1e-6, atol=0)
    (want,) = torch.autograd.grad(each.sum(), ends)
    for where, value in ((0, want[0]), (2**31, want[0]), (-1, want[1])):
        torch.testing.assert_close(x.grad[where].double().cpu(), value, rtol=8e-3, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_second_device():
    x = torch.randn(1000, device="cuda:1", requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, torch.rand(1000, device="cuda:1"))
    loss.backward()
    assert loss.device == x.grad.device == x.device


def test_targets_on_the_host_are_refused():
    x = torch.randn(10, device="cuda")
    with pytest.raises(ValueError, match="cuda"):
        F.binary_cross_entropy_with_logits(x, torch.zeros(10))
