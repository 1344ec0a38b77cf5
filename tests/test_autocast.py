"""Autocast around a loss, its derivatives and `fit_gaussian`: nothing is cast."""

from __future__ import annotations

import pytest
import torch
from cases import each_case
from problems import differentiable, gradients

import fused_losses
from fused_losses import functional as F


@pytest.mark.promise("Where a loss is called from", "A backward that runs inside autocast gives the same bits.")
@each_case
def test_autocast_around_the_backward(case):
    """Casts nothing, in either pass: the same bits, of the gradient of every argument that has one."""
    problem = case.problem()
    names = [n for n in problem.floating() if n in case.fused]
    _, want = gradients(problem, names, None, case.reduced())
    with torch.autocast("cpu", torch.bfloat16):
        _, found = gradients(problem, names, None, case.reduced())
    for n in names:
        assert torch.equal(found[n], want[n]), n


@each_case
def test_autocast_around_the_second_backward(case):
    """As the first: the reference's matrix products are not cast either."""
    problem = case.problem()
    found = []
    for enabled in (False, True):
        mine = problem.leaves([n for n in problem.floating() if n in case.fused])
        leaves = [t for t in mine.arguments.values() if isinstance(t, torch.Tensor) and t.requires_grad]
        loss = differentiable(mine.call(None, case.reduced()))[0]
        first = torch.autograd.grad(loss.sum(), leaves, create_graph=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(torch.autograd.grad(sum((g**2).sum() for g in first), leaves, allow_unused=True))
    for got, want in zip(*found):
        assert (got is None and want is None) or torch.equal(got, want)


@pytest.mark.promise(
    "Where a loss is called from", "Derivatives of torch.func that are taken inside autocast are not cast."
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "loss",
    [lambda x, y: F.clip_loss(x, y, 2.0), lambda x, y: F.siglip_loss(x, y, 2.0, -1.0),
     lambda x, y: F.nt_xent_loss(x, y), lambda x, y: F.linear_cross_entropy(x, y, torch.arange(len(x))),
     F.info_nce_loss],
    ids=["clip", "siglip", "nt_xent", "linear_cross_entropy", "info_nce"],
)  # fmt: skip
def test_transforms_inside_autocast(loss, dtype):
    x, y = torch.randn(2, 6, 5)

    def derivatives():
        def of_x(x):
            return loss(x, y)

        yield torch.func.grad(of_x)(x)
        yield torch.func.jvp(of_x, (x,), (y,))[1]
        yield torch.func.hessian(of_x)(x)
        yield torch.func.vmap(of_x)(torch.stack([x, y]))

    expected = list(derivatives())
    with torch.autocast("cpu", dtype):
        for found, same in zip(derivatives(), expected, strict=True):
            torch.testing.assert_close(found, same)  # sums of two products may be taken in another order


@pytest.mark.promise("Where a loss is called from", "`fit_gaussian` is not cast by autocast.")
def test_autocast_around_fit_gaussian():
    x = torch.randn(64, 8)
    want = fused_losses.fit_gaussian(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_losses.fit_gaussian(x)
    assert all(torch.equal(a, b) for a, b in zip(found, want))
