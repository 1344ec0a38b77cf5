"""What only a GPU can show: no synchronisation, graph capture, streams, repeatability, more than 2**31 elements."""

from __future__ import annotations

import pytest
import torch
from cases import each_case, each_variant
from problems import as_tuple, expected, gradients, incoming
from tolerances import assert_agrees

from fused_losses import functional as F
from fused_losses import reference

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)


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


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "cross_entropy", "dice_loss"])
def test_graphs_of_the_compiler(name):
    """mode="reduce-overhead": of what is allocated while it warms up, nothing outlives the call."""
    torch._dynamo.reset()
    loss = torch.compile(getattr(F, name), mode="reduce-overhead")
    logits = torch.randn(4, 8, 32, 32, device="cuda")
    target = torch.randint(8, (4, 32, 32), device="cuda") if name == "cross_entropy" else torch.rand_like(logits)
    options = {"activation": "sigmoid"} if name == "dice_loss" else {}
    want = [getattr(F, name)(logits * i, target, **options) for i in range(4)]
    for i in range(4):
        x = (logits * i).requires_grad_()
        found = loss(x, target, **options)
        found.backward()
        torch.testing.assert_close(found, want[i])
        assert x.grad.isfinite().all()


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
            if "products" in case.groups:
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
                    if "products" in case.groups:
                        assert_agrees(a, b.double(), n_terms=problem.n_terms)
                    else:
                        assert torch.equal(a, b)


@each_case
def test_memory(case):
    """Forward and backward hold the gradients and little more, by the bytes asked of the allocator."""
    if "products" in case.groups:
        pytest.skip("the library's products take memory of their own")
    shape = (8 * case.big[0], *case.big[1:])
    problem = case.problem(None, torch.float32, "cuda", shape)
    leaves = {n: problem.arguments[n].clone().requires_grad_() for n in trained(problem)}
    step(problem, leaves, case.reduced())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = requested("current")
    step(problem, leaves, case.reduced())
    spent = requested("peak") - before
    inputs = sum(t.numel() * t.element_size() for t in problem.tensors.values())
    wanted = sum(t.numel() * 4 for t in leaves.values())
    assert spent <= wanted * 1.01 + 0.01 * inputs + workspace(problem) + 64 * 1024


def workspace(problem) -> int:
    """Bytes that an op needs beside its gradients."""
    if "ranking" in problem.case.groups:  # four numbers and a flag for each score, and sums of groups
        return 24 * problem.n_terms
    if problem.case.name == "expected_bleu_loss":  # two numbers for each step and place of the target
        return 8 * problem.tensors["logits"].shape[1] * problem.tensors["target"].numel()
    return 0


def requested(when: str) -> int:
    return torch.cuda.memory_stats()[f"requested_bytes.all.{when}"]


def two_kinds_of_rows(name, rows, columns, device):
    """The input, 0.5 but in its last row, and the other tensors of a loss; `rows` may be 2: one of each kind."""
    x = torch.full((rows, columns), 0.5, dtype=torch.bfloat16, device=device)
    x[-1, -1] = -3.0
    if name == "cross_entropy":
        return x, (torch.zeros(rows, dtype=torch.int64, device=device),)
    if name == "contrastive_loss":
        return x, (torch.zeros_like(x), torch.ones(rows, dtype=torch.bool, device=device))
    return x, (torch.zeros(rows, columns, dtype=torch.bool, device=device),)


@pytest.mark.parametrize(
    "name, columns",
    [("binary_cross_entropy_with_logits", 1), ("cross_entropy", 32768), ("cross_entropy", 3), ("contrastive_loss", 32)],
)
def test_more_than_two_to_the_31_elements(name, columns):
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of device memory")
    rows = 2**31 // columns + 5
    x, others = two_kinds_of_rows(name, rows, columns, "cuda")
    loss = getattr(F, name)(x.requires_grad_(), *others, reduction="sum")
    loss.backward()
    ends, others = two_kinds_of_rows(name, 2, columns, "cpu")
    ends = ends.double().requires_grad_()
    others = [t.double() if t.is_floating_point() else t for t in others]
    each = getattr(reference, name)(ends, *others, reduction="none").reshape(2, -1).sum(1)
    torch.testing.assert_close(loss.item(), (each[0] * (rows - 1) + each[1]).item(), rtol=1e-5, atol=0)
    (want,) = torch.autograd.grad(each.sum(), ends)
    for where, row in ((0, want[0]), (2**31 // columns, want[0]), (-1, want[1])):
        torch.testing.assert_close(x.grad[where].double().cpu(), row, rtol=8e-3, atol=1e-6 * row.abs().max().item())


@pytest.mark.parametrize("activation, classes", [("sigmoid", 1), ("softmax", 3)])
def test_more_than_two_to_the_31_elements_of_regions(activation, classes):
    """Positions of the same logits but for the last one; classes from indices, or one mask."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of device memory")
    n = 2**31 // classes + 4099
    x = torch.full((1, classes, n), 0.5, dtype=torch.bfloat16, device="cuda")
    x[0, 0, -1] = -3.0
    target = torch.zeros((1, n), dtype=torch.uint8, device="cuda")
    target[0, -1] = 1 if classes > 1 else 0
    target[0, 0] = 1
    loss = F.dice_loss(x.requires_grad_(), target, activation=activation)
    loss.backward()
    # the same from three positions of multiplicity 1, n - 2, 1
    small = x.detach()[:, :, [0, 1, n - 1]].double().cpu().requires_grad_()
    times = torch.tensor([1.0, n - 2, 1.0], dtype=torch.float64)
    p = small.sigmoid() if classes == 1 else small.softmax(1)
    y = target[:, [0, 1, n - 1]].cpu().long()
    g = y[:, None].double() if classes == 1 else torch.nn.functional.one_hot(y, classes).movedim(-1, 1).double()
    ratio = (2 * (p * g * times).sum(2) + 1e-5) / (((p + g) * times).sum(2) + 1e-5)
    want_loss = (1 - ratio).mean()
    (want,) = torch.autograd.grad(want_loss, small)
    torch.testing.assert_close(loss.item(), want_loss.item(), rtol=1e-5, atol=1e-7)
    found = x.grad[:, :, [0, 1, n - 1]].double().cpu() * times
    torch.testing.assert_close(found, want, rtol=1e-2, atol=1e-6 * want.abs().max().item())


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
