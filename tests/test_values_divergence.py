"""Divergences against PyTorch, SciPy, torch.distributions and hand numbers."""

from __future__ import annotations

import decimal
import math
import warnings

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
import torch.nn.functional as T
from independent import assert_same, each_divergence_reduction, each_dtype, reduced
from tolerances import assert_agrees
from torch.distributions import Normal, kl_divergence

from fused_losses import functional as F

SHAPE = (4, 3, 6)


def logits(shape=SHAPE):
    return 2 * torch.randn(shape, dtype=torch.float64)


def torch_kl_div(x, t, reduction, log_target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against "mean"
        return T.kl_div(x, t, reduction=reduction, log_target=log_target)


def over_rows(rows, reduction, batch):
    """`reduction` of the losses of the rows; batchmean divides by `batch`."""
    return reduced(rows, "mean" if reduction == "batchmean" else reduction, batch if reduction == "batchmean" else None)


@each_dtype
@each_divergence_reduction
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_is_torchs(dtype, reduction, log_target, device):
    target = logits().log_softmax(-1)
    assert_same(
        lambda x, t: F.kl_div(x, t, reduction, log_target),
        lambda x, t: torch_kl_div(x, t, reduction, log_target),
        logits().log_softmax(-1), target if log_target else target.exp(),
        dtype=dtype, device=device, gradients=(0, 1),
    )  # fmt: skip


@each_divergence_reduction
def test_kl_div_of_one_number_is_torchs(reduction):
    x, t = torch.tensor(-1.5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    assert_agrees(F.kl_div(x, t, reduction), torch_kl_div(x, t, reduction, False))


def test_kl_div_is_scipys():
    p, q = logits((8, 6)).softmax(1), logits((8, 6)).softmax(1)
    expected = scipy.stats.entropy(p.numpy(), q.numpy(), axis=1)
    assert F.kl_div(q.log(), p, "batchmean").item() == pytest.approx(expected.mean(), rel=1e-12)
    np.testing.assert_allclose(F.kl_div_with_logits(q.log(), p.log(), "none").numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_of_impossible_targets(log_target, device):
    """A target of 0 (or a log-target of -inf) contributes 0 with gradient 0 to both, also against -inf."""
    x = torch.tensor([-torch.inf, -1.0, -2.0], dtype=torch.float64, device=device, requires_grad=True)
    t = torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64, device=device)
    t = (t.log() if log_target else t).requires_grad_()
    loss = F.kl_div(x, t, "none", log_target)
    loss.sum().backward()
    value = 0.5 * (math.log(0.5) + 2)
    slope = value + 0.5 if log_target else math.log(0.5) + 2 + 1
    assert_agrees(loss, torch.tensor([0, 0, value], dtype=torch.float64))
    assert_agrees(x.grad, torch.tensor([0, 0, -0.5], dtype=torch.float64))
    assert_agrees(t.grad, torch.tensor([0, 0, slope], dtype=torch.float64))


@each_dtype
@each_divergence_reduction
@pytest.mark.parametrize("temperature, dim", [(1.0, -1), (2.5, 0), (0.7, 1)])
def test_kl_div_with_logits_is_torchs_of_softmax(dtype, reduction, temperature, dim, device):
    def formula(x, t):
        log_q, p = (x / temperature).log_softmax(dim), (t / temperature).softmax(dim)
        return over_rows(T.kl_div(log_q, p, reduction="none").sum(dim) * temperature**2, reduction, SHAPE[0])

    assert_same(
        lambda x, t: F.kl_div_with_logits(x, t, reduction, temperature=temperature, dim=dim),
        formula,
        logits(), logits(), dtype=dtype, device=device, gradients=(0, 1),
    )  # fmt: skip


@each_dtype
@each_divergence_reduction
@pytest.mark.parametrize("beta, dim", [(0.5, -1), (0.2, 0), (0.9, 1)])
def test_js_div_with_logits_by_its_formula(dtype, reduction, beta, dim, device):
    def formula(x, t):
        p, q = t.softmax(dim), x.softmax(dim)
        m = beta * p + (1 - beta) * q
        rows = (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(dim)
        return over_rows(rows, reduction, SHAPE[0])

    assert_same(
        lambda x, t: F.js_div_with_logits(x, t, reduction, beta=beta, dim=dim),
        formula,
        logits(), logits(), dtype=dtype, device=device, gradients=(0, 1),
    )  # fmt: skip


def test_js_div_with_logits_is_scipys():
    """SciPy's Jensen-Shannon distance is the square root of the divergence with beta 1/2."""
    x, t = logits((8, 6)), logits((8, 6))
    expected = scipy.spatial.distance.jensenshannon(t.softmax(1).numpy(), x.softmax(1).numpy(), axis=1) ** 2
    np.testing.assert_allclose(F.js_div_with_logits(x, t, "none").numpy(), expected, rtol=1e-11)


def test_divergences_of_equal_logits_are_zero(device):
    x = logits().to(device)
    for loss in (F.kl_div_with_logits, F.js_div_with_logits):
        assert_agrees(1 + loss(x, x + 3, "none"), torch.ones(SHAPE[:2], dtype=torch.float64))


def exact_js_div(x, z, beta):
    """The loss of one row and its gradient to x, in 60 digits."""
    with decimal.localcontext() as context:
        context.prec = 60
        ps, qs = ([decimal.Decimal(v).exp() for v in row.tolist()] for row in (x, z))
        ps, qs, beta = [p / sum(ps) for p in ps], [q / sum(qs) for q in qs], decimal.Decimal(beta)
        terms = [(p, q, beta * q + (1 - beta) * p) for p, q in zip(ps, qs)]
        of_p = [(1 - beta) * p * (p / m).ln() for p, _, m in terms]
        of_q = [beta * q * (q / m).ln() for _, q, m in terms]
        return float(sum(of_p + of_q)), [float(a - p * sum(of_p)) for a, p in zip(of_p, ps)]


@pytest.mark.parametrize("beta", [0.5, 0.125, 0.875, 1e-3, 1e-6])
@pytest.mark.parametrize("apart", [1e-4, 1e-2, 0.3, 0.6, 3.0])
@pytest.mark.parametrize("classes", [20, 40])  # a tile, a row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_js_div_with_logits_of_rows_however_near(dtype, classes, apart, beta, device):
    x = logits((classes,)).to(dtype)
    z = x + apart * torch.randn(classes, dtype=dtype)
    expected, gradient = exact_js_div(x, z, beta)
    x = x.to(device).requires_grad_()
    loss = F.js_div_with_logits(x, z.to(device), "sum", beta=beta)
    loss.backward()
    eps = torch.finfo(dtype).eps
    room = 32 * eps + 4 * eps / apart  # log p - log q is of the order of `apart`, and is rounded as logarithms are
    assert loss.item() == pytest.approx(expected, rel=room)
    assert x.grad.tolist() == pytest.approx(gradient, rel=room, abs=room * max(map(abs, gradient)))


@pytest.mark.parametrize("beta", [0.5, 0.1, 0.9])
def test_js_div_with_logits_of_certain_rows(beta, device):
    """One class has all of the probability, and what is left of the others is near the least of float32, or below."""
    x, z = (60 * torch.randn(1000, 3, dtype=torch.float64) for _ in range(2))
    for dtype in (torch.float32, torch.float64):
        assert (F.js_div_with_logits(x.to(device, dtype), z.to(device, dtype), "none", beta=beta) >= 0).all()
    x, z = (torch.tensor([[top, 0.0, 0.0]], dtype=torch.float64) for top in (90.0, 93.0))
    loss = F.js_div_with_logits(x.to(device), z.to(device), "none", beta=beta)
    assert loss.item() == pytest.approx(exact_js_div(x[0], z[0], beta)[0], rel=1e-12, abs=0)


@pytest.mark.parametrize("beta", [0.999, 0.999999])
def test_js_div_with_logits_of_a_weight_near_one(beta, device):
    """1 - beta is not that of a rounded beta."""
    x, z = torch.randn(2, 20)
    expected, gradient = exact_js_div(x.double(), z.double(), beta)
    x = x.to(device).requires_grad_()
    loss = F.js_div_with_logits(x, z.to(device), "sum", beta=beta)
    loss.backward()
    room = 64 * torch.finfo(torch.float32).eps
    assert loss.item() == pytest.approx(expected, rel=room)
    assert x.grad.tolist() == pytest.approx(gradient, rel=room, abs=room * max(map(abs, gradient)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_divergences_of_disjoint_distributions(dtype, device):
    """All probability on different classes: log 2 for Jensen-Shannon, the gap for Kullback-Leibler; never NaN."""
    x = torch.tensor([[1e4, 0.0, -1e4]], dtype=dtype, device=device, requires_grad=True)
    t = torch.tensor([[-1e4, 0.0, 1e4]], dtype=dtype, device=device, requires_grad=True)
    gap = x.detach()[0, 0].item() * 2
    js, kl = F.js_div_with_logits(x, t), F.kl_div_with_logits(x, t)
    assert_agrees(js, torch.tensor(math.log(2)))
    assert_agrees(kl, torch.tensor(gap))
    found = torch.autograd.grad(js, (x, t)) + torch.autograd.grad(kl, (x, t))
    assert all(g.isfinite().all() for g in found)
    assert_agrees(found[2], torch.tensor([[1.0, 0.0, -1.0]]))


def test_divergences_of_impossible_classes(device):
    """A logit of -inf on either side contributes 0; one only of the student makes KL infinite, JS stays finite."""
    a = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=torch.float64, device=device)
    b = torch.tensor([[0.5, -0.5, 2.0]], dtype=torch.float64, device=device)
    p, q = a.softmax(1).cpu().numpy(), b.softmax(1).cpu().numpy()
    assert F.kl_div_with_logits(b, a).item() == pytest.approx(scipy.stats.entropy(p[0], q[0]), rel=1e-13)
    assert F.kl_div_with_logits(a, b).item() == math.inf
    expected = scipy.spatial.distance.jensenshannon(p[0], q[0]) ** 2
    for x, t in ((a, b), (b, a), (a, a)):
        x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
        loss = F.js_div_with_logits(x, t)
        assert loss.item() == pytest.approx(0.0 if x.equal(t) else expected, rel=1e-12, abs=1e-15)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (x, t)))


@each_dtype
@each_divergence_reduction
@pytest.mark.parametrize("prior", ["none", "mu", "logvar", "both"])
def test_gaussian_kl_is_torch_distributions(dtype, reduction, prior, device):
    tensors = [torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)]
    names = {"none": [], "mu": ["prior_mu"], "logvar": ["prior_logvar"], "both": ["prior_mu", "prior_logvar"]}[prior]
    tensors += [torch.randn(SHAPE, dtype=torch.float64) for _ in names]

    def formula(mu, logvar, *priors):
        given = dict(zip(names, priors))
        m, v = given.get("prior_mu", torch.zeros_like(mu)), given.get("prior_logvar", torch.zeros_like(mu))
        rows = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(m, (v / 2).exp())).sum(-1)
        return over_rows(rows, reduction, SHAPE[0])

    assert_same(
        lambda mu, logvar, *priors: F.gaussian_kl(mu, logvar, **dict(zip(names, priors)), reduction=reduction),
        formula,
        *tensors, dtype=dtype, device=device, gradients=range(len(tensors)),
    )  # fmt: skip


def test_gaussian_kl_of_the_standard_normal_is_zero(device):
    mu, logvar = (torch.zeros(5, 3, device=device, requires_grad=True) for _ in range(2))
    loss = F.gaussian_kl(mu, logvar)
    loss.backward()
    assert loss.item() == 0
    assert mu.grad.count_nonzero() == logvar.grad.count_nonzero() == 0


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_kl_near_its_prior(dtype, prior, device):
    """(e^r - 1 - r) / 2 of a log-variance r from the prior's, by its series: no digit is lost where r is small."""
    r = torch.tensor([1e-8, -1e-8, 1e-6, 1e-4, -1e-3, 1e-2, 0.3, -0.34, 0.35], dtype=dtype, device=device)
    known = {"prior_logvar": torch.zeros_like(r)} if prior else {}
    expected = sum(r.double() ** k / math.factorial(k) for k in range(2, 20)) / 2
    for i, value in enumerate(expected.tolist()):
        found = F.gaussian_kl(torch.zeros_like(r[i : i + 1]), r[i : i + 1], reduction="sum", **{
            name: t[i : i + 1] for name, t in known.items()
        })  # fmt: skip
        assert found.item() == pytest.approx(value, rel=16 * torch.finfo(dtype).eps), r[i]


def test_gaussian_kl_by_the_books_formula():
    """-0.5 Σ(1 + logvar - μ² - e^logvar) over the latents, mean over the batch."""
    mu, logvar = np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.5]])
    expected = (-0.5 * (1 + logvar - mu**2 - np.exp(logvar)).sum(1)).mean()
    assert F.gaussian_kl(torch.tensor(mu), torch.tensor(logvar)).item() == pytest.approx(expected, rel=1e-14)


def test_gaussian_kl_of_mixed_dtypes(device):
    """A half-precision mean with a float32 log-variance: computed in float32, gradients in their own dtypes."""
    mu = torch.randn(4, 6, device=device).bfloat16().requires_grad_()
    logvar = torch.randn(4, 6, device=device, requires_grad=True)
    loss = F.gaussian_kl(mu, logvar)
    m, v = mu.detach().double(), logvar.detach().double()
    assert_agrees(loss, ((m**2 + v.exp() - 1 - v) / 2).sum() / 4, n_terms=24)
    loss.backward()
    assert_agrees(mu.grad, m / 4)
    assert_agrees(logvar.grad, (v.exp() - 1) / 8)
