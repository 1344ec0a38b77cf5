"""One NaN, one infinity, one huge number: values and gradients are the reference's, finite where the loss is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import each_in, each_variant
from problems import Problem, expected, gradients
from tolerances import assert_agrees

from fused_losses import functional as F
from fused_losses import reference

INF = float("inf")


def with_one(problem: Problem, name: str, value: float, where: int) -> Problem:
    """The problem with one element of one tensor replaced."""

    def put(n, t):
        t = t.clone()
        if n == name:
            t.view(-1)[where] = value
        return t

    return problem.map(put)


def like_reference(problem: Problem, reduction):
    """Loss and gradients, compared with the reference's in float64."""
    names = [n for n in problem.case.fused if isinstance(problem.arguments.get(n), torch.Tensor)]
    got, found = gradients(problem, names, None, reduction)
    want, wanted = expected(problem, names, reduction)
    for a, b in zip((*got, *found.values()), (*want, *wanted.values())):
        assert_agrees(a, b, n_terms=problem.n_terms, label=f"{reduction}")
    return got, found


@each_variant
def test_one_nan(case, variant, device):
    """Whatever a NaN reaches in the reference, it reaches in the kernel, values and gradients, and nothing else."""
    problem = case.problem(variant, torch.float32, device)
    for name in case.fused:
        if isinstance(problem.arguments.get(name), torch.Tensor):
            like_reference(with_one(problem, name, math.nan, 0), case.reductions[0])
            like_reference(with_one(problem, name, math.nan, -1), case.reduced())


@each_variant
def test_one_infinity(case, variant, device):
    """Values are the reference's; so are gradients where the reference has a number, and all of a finite loss's."""
    if "probabilities" in case.groups:
        pytest.skip("an infinity is no probability and is refused: test_edges_elementwise, test_device_assertions")
    clean = case.problem(variant, torch.float32, device)
    names = [n for n in case.fused if isinstance(clean.arguments.get(n), torch.Tensor)]
    if case.name == "vae_loss" and variant.options.get("likelihood", "bernoulli") == "bernoulli":
        names.remove("reconstruction")  # of probabilities, refused as those above
    for name, value in itertools.product(names, (INF, -INF)):
        problem = with_one(clean, name, value, 0)
        got, found = gradients(problem, names, None, case.reductions[0])
        want, wanted = expected(problem, names, case.reductions[0])
        # An infinite factor of a product makes NaN of the gradient 0 of the logits that a cap keeps finite.
        finite = "products" not in case.groups and all(part.isfinite().all() for part in got)
        for a, b in zip(got, want):
            assert_agrees(a, b, n_terms=problem.n_terms, label=f"{name} {value}")
        for n in names:
            known = (~wanted[n].isnan()).to(device)
            assert finite <= bool(known.all()), "the reference makes a NaN of a finite loss"
            assert_agrees(
                found[n][known], wanted[n][known.cpu()], n_terms=problem.n_terms, label=f"{name} {value}, {n}"
            )


@pytest.mark.parametrize("k", [None, 1, 2])
@each_in("ranking")
def test_infinite_and_nan_scores(case, k, device):
    """Every list of four finite, infinite and NaN scores.

    What does not count (beyond the cut-off, padded, in a list without relevance) creates no NaN, not even -inf beside
    -inf, whose difference is one.
    """
    lists = torch.tensor(list(itertools.product((0.5, -1.0, INF, -INF, math.nan), repeat=4)), device=device)
    for relevance, real in (
        ([0.0, 1.0, 2.0, 1.0], [True, True, True, True]),
        ([0.0, 0.0, 1.0, 0.0], [True, True, True, False]),
        ([1.0, 0.0, 2.0, 1.0], [False, True, True, False]),
        ([1.0, 2.0, 1.0, 0.0], [False, True, False, False]),
        ([0.0, 0.0, 0.0, 3.0], [True, True, True, False]),
    ):
        relevances = torch.tensor(relevance, device=device).expand_as(lists)
        mask = torch.tensor(real, device=device).expand_as(lists)
        tensors = {"scores": lists, "relevance": relevances, "mask": mask}
        (each,), found = like_reference(Problem(case, tensors, {"k": k}), "none")
        assert found["scores"][each.isfinite()].isfinite().all(), "a finite loss has a finite gradient"


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("x", [1e10, 1e30, 1e36, 3e38])
def test_focal_gradient_of_huge_logits(x, gamma, device):
    """The loss grows with the logit, its gradient does not: (target's share)^gamma times the logit's own."""
    t = 0.3
    leaf = torch.tensor([x, -x], device=device, requires_grad=True)
    F.sigmoid_focal_loss(leaf, torch.full_like(leaf, t), alpha=-1, gamma=gamma).sum().backward()
    torch.testing.assert_close(leaf.grad.cpu(), torch.tensor([(1 - t) ** (gamma + 1), -(t ** (gamma + 1))]))


@pytest.mark.parametrize("logvar", [1e30, 3e38, INF])
def test_divergence_of_a_variance_beyond_all_numbers(logvar, device):
    """e^v - v - 1 is infinite, neither inf - inf nor what a contracted multiply-add leaves of it."""
    for dtype in (torch.float32, torch.float64):
        mu, v = torch.zeros(2, 3, dtype=dtype, device=device), torch.zeros(2, 3, dtype=dtype, device=device)
        v[0, 1] = logvar
        for module in (F, reference):
            for prior in (None, torch.zeros_like(mu)):
                assert module.gaussian_kl(mu, v, prior, reduction="none").tolist() == [INF, 0.0]
            total, _, divergence = module.vae_loss(mu, mu, mu, v, likelihood="gaussian", reduction="none")
            assert total.tolist() == divergence.tolist() == [INF, 0.0]


@pytest.mark.parametrize("x", [INF, 3e38])
def test_dissimilar_pair_at_an_infinite_distance(x, device):
    """It costs nothing and pulls at nothing."""
    for module in (F, reference):
        distance = torch.tensor([x, 0.5], device=device, requires_grad=True)
        module.contrastive_loss_from_distance(distance, torch.zeros(2, device=device), reduction="sum").backward()
        assert distance.grad.tolist() == [0.0, -1.0]


@pytest.mark.parametrize("name, options", [("l1_loss", {}), ("smooth_l1_loss", {"beta": 0.0})])
def test_absolute_error_of_nan(name, options, device):
    """The loss is NaN, the gradient 0, as torch's."""
    x = torch.tensor([math.nan, 2.0, 0.0], device=device, requires_grad=True)
    for function in (getattr(F, name), getattr(torch.nn.functional, name)):
        loss = function(x, torch.zeros(3, device=device), reduction="none", **options)
        assert loss[0].isnan()
        assert torch.autograd.grad(loss.sum(), x)[0].tolist() == [0.0, 1.0, 0.0]


@each_in("overlap")
def test_nan_of_a_dropped_background(case, device):
    """The loss does not read it; only its own element's gradient is NaN."""
    for function in (case.function, case.reference):
        x = torch.zeros(2, 3, 4, device=device)
        x[0, 0, 1] = math.nan
        leaf = x.requires_grad_()
        loss = function(leaf, torch.ones_like(x), include_background=False)
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.isfinite()
        assert gradient.isnan().sum() <= 1
        assert not gradient[:, 0].nan_to_num().any()
        assert gradient[:, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_focal_compound_without_exponent_at_an_infinite_logit(dtype, device):
    """gamma = 0 leaves cross-entropy: gradient 0 on the logit's own side, whatever becomes of the loss there."""
    x = torch.tensor([[[INF, -INF, 0.5, -2.0]]], dtype=dtype, device=device, requires_grad=True)
    target = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]], dtype=dtype, device=device)
    F.dice_focal_loss(x, target, activation="sigmoid", gamma=0.0).backward()
    assert (x.grad[..., :2] == 0).all()
    assert (x.grad[..., 2:].isfinite() & (x.grad[..., 2:] != 0)).all()
