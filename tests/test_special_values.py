"""Empty, single, ignored, saturated, zero-distance, NaN and infinite inputs."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, CASES, each_case, each_dtype, each_in, each_of, each_variant, variants
from problems import Variant, as_tuple, expected, gradients, variant
from tolerances import assert_agrees, tolerance

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)


def trained(problem):
    return [n for n in problem.floating() if n in problem.case.fused]


def assert_like_reference(problem, reduction):
    names = trained(problem)
    got, got_gradients = gradients(problem, names, None, reduction)
    want, want_gradients = expected(problem, names, reduction)
    for a, b in zip(got, want):
        assert_agrees(a, b, n_terms=problem.terms(None, reduction), label=f"loss {reduction}")
    for n in names:
        assert_agrees(got_gradients[n], want_gradients[n], n_terms=problem.terms(n), label=f"gradient of {n}")
    return got, got_gradients


def assert_close_at(magnitude, actual, expected, dtype, label):
    """Within what a normaliser of size `magnitude`, rounded once in the accumulation dtype, leaves of its logarithm."""
    error = tolerance(dtype, magnitude=magnitude)["rtol"]
    torch.testing.assert_close(
        actual.double().cpu(), expected, rtol=error, atol=error, msg=lambda text: f"{label}: {text}"
    )


@pytest.mark.promise("Values and gradients", "Of no rows the mean is NaN, the sum 0, and the gradient is empty.")
@each_case
def test_empty(case, device):
    """No rows: the mean is NaN, the sum 0, "none" keeps its shape, the gradient is empty."""
    problem = case.problem(None, torch.float32, device, (0, *case.shape[1:]))
    for reduction in case.reductions:
        got, found = gradients(problem, list(case.fused[:1]), None, reduction)
        for part in got:
            if reduction in ("mean", "batchmean"):
                assert part.shape == ()
                assert part.isnan()
            elif reduction == "sum":
                assert part.item() == 0
            else:
                assert part.numel() == 0 or (part.isnan() and reduction is None), "a loss that is a mean of its own"
        want = as_tuple(problem.double().call(case.reference, reduction))
        assert [p.shape for p in got] == [p.shape for p in want]
        assert found[case.fused[0]].shape == problem.tensors[case.fused[0]].shape


@each_in("overlap")
def test_empty_batch_summed_over(case, device):
    """No sample adds to the sums of the classes, which are 0: the ratio is that of the smoothing terms."""
    for activation in ("sigmoid", "softmax"):
        for reduction in case.reductions:
            options = {"activation": activation, "batch": True, "smooth_nr": 1.0, "smooth_dr": 4.0}
            problem = case.problem(variant("batch", **options), torch.float32, device, (0, *case.shape[1:]))
            want = as_tuple(problem.double().call(case.reference, reduction))
            got, _ = gradients(problem, ["input"], None, reduction)
            for a, b in zip(got, want):
                assert_agrees(a, b.detach())


@each_of(c for c in CASES if c.hollow)
def test_empty_inner_dimension(case, device):
    """Rows of no elements, as the reference has them."""
    problem = case.problem(None, torch.float32, device, case.hollow)
    for reduction in case.reductions:
        got, _ = gradients(problem, list(case.fused[:1]), None, reduction)
        want, _ = expected(problem, list(case.fused[:1]), reduction)
        for a, b in zip(got, want):
            assert_agrees(a, b)


@each_dtype
@each_case
def test_one_element(case, dtype, device):
    problem = case.problem(None, dtype, device, case.one)
    for reduction in case.reductions:
        assert_like_reference(problem, reduction)


@each_in("elementwise")
def test_scalar_input(case, device):
    """Zero dimensions are one element."""
    problem = case.problem(None, torch.float32, device, ())
    for reduction in case.reductions:
        got, found = assert_like_reference(problem, reduction)
        assert got[0].shape == found[case.fused[0]].shape == ()


@pytest.mark.parametrize(
    "case, variant", variants(lambda case, variant: variant.options.get("ignore_index") is not None)
)
def test_everything_ignored(case, variant, device):
    problem = case.problem(variant, torch.float32, device)
    index = variant.options["ignore_index"]
    problem = problem.map(lambda n, t: torch.full_like(t, index) if n == "target" else t)
    for reduction in case.reductions:
        got, found = gradients(problem, ["input"], None, reduction)
        if {"overlap", "compound"} & {*case.groups} or reduction in ("none", "sum"):
            assert not got[0].any(), f"{reduction}: {got[0]}"
        else:
            assert got[0].isnan()
        assert not found["input"].any(), f"gradient with {reduction}"


@each_dtype
@each_in("overlap")
def test_empty_masks(case, dtype, device):
    """An empty mask still pushes false positives down; nothing predicted and nothing there is loss 0."""
    x = torch.randn(2, 3, 6, 6, device=device).to(dtype)
    for options in ({}, {"batch": True}, {"activation": "softmax"}):
        found = []
        for leaf, function in ((x.clone(), case.function), (x.double().cpu(), case.reference)):
            leaf.requires_grad_()
            loss = function(leaf, torch.zeros_like(leaf), reduction="none", **options)
            found.append((loss, *torch.autograd.grad(loss.sum(), leaf)))
        assert (found[0][0] > 0.9).all()
        for a, b in zip(*found):
            assert_agrees(a, b, n_terms=x.numel())
    leaf = torch.zeros_like(x).requires_grad_()
    loss = case.function(leaf, torch.zeros_like(x), activation=None)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert abs(loss.item()) < 1e-6
    assert gradient.isfinite().all()
    bare = case.function(leaf, torch.zeros_like(x), activation=None, smooth_nr=0.0, smooth_dr=0.0)
    (gradient,) = torch.autograd.grad(bare, leaf)
    assert bare.item() == 0, "0 / 0 is loss 0"
    assert not gradient.any()


@pytest.mark.promise("Values and gradients", "At distance 0 the gradient is 0.")
@each_dtype
@each_of([BY_NAME["contrastive_loss"]])
def test_zero_distance_of_embeddings(case, dtype, device):
    """d = 0: value y 0 + (1 - y) margin^2, gradient 0."""
    x = torch.randn(4, 7, device=device).to(dtype)
    y = torch.tensor([1, 0, 1, 0], device=device)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss = case.function(a, b, y.to(dtype), 1.5, "none")
    assert loss.tolist() == [0.0, 2.25, 0.0, 2.25]
    for gradient in torch.autograd.grad(loss.sum(), [a, b]):
        assert not gradient.any()
    (gradient,) = torch.autograd.grad(case.function(a, a, y.to(dtype)), a)
    assert not gradient.any()


@each_dtype
@each_in("mahalanobis")
def test_zero_distance_of_points(case, dtype, device):
    problem = case.problem(None, dtype, device)
    mean = problem.tensors["mean"]
    problem.tensors["input"] = mean.expand_as(problem.tensors["input"]).clone()
    names = ["input", "mean", "scale_tril"]
    for reduction in case.reductions:
        got, found = gradients(problem, names, None, reduction)
        assert got[0].isfinite().all()
        for n in names:
            assert not found[n].any(), n


@pytest.mark.promise(
    "Values and gradients",
    "Logits of magnitude up to 10⁴ give a finite loss and gradient, for any gamma, in every dtype.",
)
@pytest.mark.parametrize("scale", [1e4, -1e4])
@each_dtype
@each_of(c for c in CASES if c.logits)
def test_saturated_logits(case, dtype, scale, device):
    """|logit| <= 1e4: finite loss and gradient, for any gamma, those of the reference in float64."""
    steps = torch.tensor([0.0, 1.0, -1.0, 1.0, 0.5, -0.5, 1e-3, -1e-3, 4e-3, 1e-2])
    for v in [variant(f"gamma{g}", gamma=g) for g in GAMMAS] if "focal" in case.groups else [Variant("default")]:
        problem = case.problem(v, dtype, device)
        for n in case.logits:
            t = problem.tensors[n]
            shift = len(n)
            pattern = steps.roll(shift).repeat(t.numel() // len(steps) + 1)[: t.numel()]
            problem.tensors[n] = (pattern * scale).to(dtype).view(t.shape).to(device)
        for reduction in case.reductions:
            got, found = gradients(problem, trained(problem), None, reduction)
            assert all(part.isfinite().all() for part in got), f"{v.name} {reduction}"
            for n, gradient in found.items():
                assert gradient.isfinite().all(), f"gradient of {n}, {v.name} {reduction}"
            want, want_gradients = expected(problem, trained(problem), reduction)
            for a, b in zip(got, want):
                assert_close_at(abs(scale), a, b, dtype, f"{v.name} {reduction}")
            for n, gradient in found.items():
                assert_close_at(
                    abs(scale), gradient, want_gradients[n], dtype, f"gradient of {n}, {v.name} {reduction}"
                )


@each_dtype
@each_of([BY_NAME["vae_loss"]])
def test_saturated_reconstruction(case, dtype, device):
    problem = case.problem(variant("logits", likelihood="bernoulli_logits"), dtype, device)
    t = problem.tensors["reconstruction"]
    problem.tensors["reconstruction"] = torch.where(t > 0, 1e4, -1e4).to(t)
    got, found = assert_like_reference(problem, "mean")
    assert all(part.isfinite() for part in got)
    assert all(g.isfinite().all() for g in found.values())


@each_dtype
@each_in("probabilities")
def test_probabilities_at_the_ends(case, dtype, device):
    """log is clamped at -100; the gradient is (p - t) / max(p (1 - p), 1e-12), saturating in half."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, -0.0, -0.0], device=device).to(dtype).requires_grad_()
    t = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0], device=device).to(dtype)
    loss = case.function(p, t, reduction="none")
    want = torch.tensor([0.0, 100.0, 100.0, 0.0, math.log(2), 0.0, 100.0])
    torch.testing.assert_close(loss.detach().cpu().float(), want)
    (gradient,) = torch.autograd.grad(loss.sum(), p)
    top = min(1e12, torch.finfo(dtype).max)
    want = torch.tensor([0.0, top, -top, 0.0, -2.0, 0.0, -top], dtype=torch.float64)
    rtol = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(gradient.cpu().double(), want, rtol=rtol, atol=0)


@pytest.mark.promise("Values and gradients", "NaN is never hidden by a sum, and touches no other row.")
@each_variant
def test_nan_propagates(case, variant, device):
    """A NaN in what the loss trains is never hidden by a sum, and touches no other row of "none"."""
    for name in case.fused:
        problem = case.problem(variant, torch.float32, device)
        if not isinstance(problem.arguments.get(name), torch.Tensor):
            continue
        clean = problem.call(None, case.reductions[0])
        value = problem.arguments[name].clone()
        where = (0, -1, 0, 0) if variant.options.get("include_background") is False else (0,) * value.dim()
        value[where] = float("nan")
        home = problem.tensors if name in problem.tensors else problem.options
        home[name] = value
        for reduction in case.reductions:
            parts = as_tuple(problem.call(None, reduction))
            total = parts[0].sum()
            assert total.isnan(), f"{name} {reduction}: {total}"
        if "elementwise" in case.groups:
            dirty = problem.call(None, "none")
            assert_agrees(dirty.reshape(-1)[1:], clean.reshape(-1)[1:].double())


INF = float("inf")
INFINITE = [
    ("binary_cross_entropy_with_logits", (INF, 0.0), {}),
    ("binary_cross_entropy_with_logits", (-INF, 1.0), {}),
    ("weighted_binary_cross_entropy_with_logits", (INF, 0.0), {}),
    ("sigmoid_focal_loss", (INF, 0.0), {}),
    ("sigmoid_focal_loss", (-INF, 1.0), {"gamma": 0.5}),
    ("mse_loss", (INF, 0.0), {}),
    ("mse_loss", (0.0, -INF), {}),
    ("l1_loss", (-INF, 0.0), {}),
    ("huber_loss", (INF, 0.0), {}),
    ("smooth_l1_loss", (INF, 0.0), {}),
    ("hinge_loss", (-INF, 1.0), {}),
    ("hinge_loss", (INF, -1.0), {"squared": True}),
    ("contrastive_loss_from_distance", (INF, 1.0), {}),
]


@pytest.mark.promise("Values and gradients", "An infinite loss is reported as infinite beside finite neighbours.")
@pytest.mark.parametrize("name, pair, options", INFINITE)
def test_infinity_propagates(name, pair, options, device):
    """An infinite loss is reported as infinite, beside finite neighbours, in scalar tails and vector bodies."""
    for n, where in ((1, 0), (40, 0), (40, 39), (67, 66)):
        problem = BY_NAME[name].problem(None, torch.float32, device, (n,))
        for tensor, value in zip(problem.tensors.values(), pair):
            tensor[where] = value
        each = problem.call(None, "none", **options)
        assert each[where].item() == INF
        assert each.isfinite().sum().item() == n - 1
        assert problem.call(None, "sum", **options).item() == INF


@pytest.mark.promise("Values and gradients", "A target of probability 0 contributes 0 and gets gradient 0.")
@pytest.mark.parametrize("log_target", [False, True])
@each_of([BY_NAME["kl_div"]])
def test_zero_target_of_a_divergence(case, log_target, device):
    """A target of 0 (log -inf) contributes 0 and gets gradient 0, also where the input is -inf."""
    target = torch.tensor([[0.0, 0.25, 0.75]], device=device)
    target = (target.log() if log_target else target).requires_grad_()
    input = torch.tensor([[-INF, math.log(0.5), math.log(0.5)]], device=device, requires_grad=True)
    loss = case.function(input, target, "none", log_target=log_target)
    assert loss[0, 0].item() == 0
    by_input, by_target = torch.autograd.grad(loss.sum(), [input, target])
    assert by_input[0, 0].item() == 0
    assert by_target[0, 0].item() == 0
    torch.testing.assert_close(loss[0, 1:].cpu(), torch.tensor([0.25, 0.75]) * torch.tensor([0.5, 1.5]).log())
    torch.testing.assert_close(by_input[0, 1:].cpu(), -torch.tensor([0.25, 0.75]))
    assert by_target.isfinite().all()


@each_dtype
@each_in("ranking")
def test_lists_without_relevance(case, dtype, device):
    """All relevances zero, or all items masked: loss 0 and gradient 0, counted in the mean."""
    problem = case.problem(None, dtype, device, (4, 9))
    problem.tensors["relevance"][0] = 0
    mask = torch.ones(4, 9, dtype=torch.bool, device=device)
    mask[1] = False
    leaf = problem.tensors["scores"].requires_grad_()
    each = problem.call(None, "none", mask=mask)
    assert not each[:2].any()
    assert each[2:].all()
    mean = problem.call(None, "mean", mask=mask)
    assert_agrees(mean, (each.double().sum() / 4))
    (gradient,) = torch.autograd.grad(mean, leaf)
    assert gradient.isfinite().all()
    assert not gradient[:2].any()
    assert gradient[2:].any()


@pytest.mark.promise("Values and gradients", "Masked items of a list may hold anything.")
@each_in("ranking")
def test_padding_does_not_matter(case, device):
    """Masked items may hold anything: the loss is that of the list without them."""
    problem = case.problem(None, torch.float32, device, (3, 8))
    scores, relevance = problem.tensors["scores"], problem.tensors["relevance"]
    mask = torch.ones(3, 12, dtype=torch.bool, device=device)
    mask[:, 8:] = False
    for junk in (0.0, 1e30, float("nan")):
        wide = torch.cat([scores, torch.full((3, 4), junk, device=device)], 1).requires_grad_()
        wide_relevance = torch.cat([relevance, torch.full((3, 4), 4.0, device=device)], 1)
        loss = case.function(wide, wide_relevance, mask=mask, reduction="none")
        assert_agrees(loss, case.function(scores, relevance, reduction="none").double(), n_terms=8)
        (gradient,) = torch.autograd.grad(loss.sum(), wide)
        assert not gradient[:, 8:].any()
        assert gradient.isfinite().all()


@each_in("ranking")
def test_tied_scores(case, device):
    """Equal scores keep the order of the input: finite, and as the reference has it."""
    problem = case.problem(None, torch.float32, device, (3, 10))
    problem.tensors["scores"] = problem.tensors["scores"].round().clamp(-1, 1)
    for reduction in case.reductions:
        assert_like_reference(problem, reduction)


@each_dtype
@each_of([BY_NAME["expected_bleu_loss"]])
def test_no_match_of_a_sentence(case, dtype, device):
    """No probability on any reference word: loss 1, gradient 0. One-hot copy of the reference: loss 0."""
    target = torch.tensor([[0, 1, 2, 3, 4]], device=device)
    miss = torch.full((1, 5, 8), -1e4, device=device).to(dtype)
    miss[..., 7] = 1e4
    leaf = miss.clone().requires_grad_()
    loss = case.function(leaf, target)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.item() == 1
    assert not gradient.any()
    hit = torch.full((1, 5, 8), -1e4, device=device).to(dtype)
    hit.scatter_(2, target.unsqueeze(2), 1e4)
    assert abs(case.function(hit, target).item()) < 1e-6
