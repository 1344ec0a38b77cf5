"""The VAE loss against torch.distributions' divergence and torch's own likelihood terms."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_agrees
from torch.distributions import Bernoulli, Normal, kl_divergence

import fused_losses.functional as F

BATCH, PIXELS, LATENT = 5, (1, 7, 6), 3


def problem(device="cpu"):
    x = torch.randn(BATCH, *PIXELS, device=device)
    t = torch.randint(2, (BATCH, *PIXELS), device=device).float()
    return x, t, torch.randn(BATCH, LATENT, device=device), torch.randn(BATCH, LATENT, device=device)


def divergence(mu, logvar):
    mu, logvar = mu.double(), logvar.double()
    return kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_logits", "gaussian"])
def test_terms(likelihood, reduction, device):
    x, t, mu, logvar = problem(device)
    if likelihood == "bernoulli":
        x = x.sigmoid()
        nll = -Bernoulli(probs=x.double()).log_prob(t.double())
    elif likelihood == "bernoulli_logits":
        nll = -Bernoulli(logits=x.double()).log_prob(t.double())
    else:
        nll = torch.nn.functional.mse_loss(x.double(), t.double(), reduction="none")
    nll, kl = nll.flatten(1).sum(1), divergence(mu, logvar)
    total, found_nll, found_kl = F.vae_loss(x, t, mu, logvar, likelihood=likelihood, beta=0.3, reduction=reduction)
    finish = {"none": lambda v: v, "mean": torch.mean, "sum": torch.sum}[reduction]
    assert_agrees(found_nll, finish(nll), n_terms=210)
    assert_agrees(found_kl, finish(kl), n_terms=15)
    assert_agrees(total, finish(nll + 0.3 * kl), n_terms=225)


def test_the_formula_of_the_course_note():
    """pixels x mean-BCE of each image, averaged, plus -½ Σ (1 + logvar - mu² - e^logvar)."""
    x, t, mu, logvar = problem()
    p = x.sigmoid()
    bce = torch.nn.functional.binary_cross_entropy(p.double(), t.double(), reduction="none").flatten(1).mean(1)
    kl = -0.5 * (1 + logvar.double() - mu.double() ** 2 - logvar.double().exp()).sum(1)
    assert_agrees(F.vae_loss(p, t, mu, logvar)[0], (42 * bce + kl).mean(), n_terms=225)


def test_the_prior_itself_costs_nothing():
    x, t, mu, _ = problem()
    zero = torch.zeros_like(mu)
    assert F.vae_loss(x, t, zero, zero, likelihood="gaussian")[2].item() == 0


def test_each_of_the_three_results_has_its_gradient():
    x, t, mu, logvar = problem()
    inputs = [v.double().requires_grad_() for v in (x, mu, logvar)]

    def gradients(weights):
        results = F.vae_loss(inputs[0], t, *inputs[1:], likelihood="gaussian", beta=0.5)
        return torch.autograd.grad(sum(w * r for w, r in zip(weights, results) if w), inputs, materialize_grads=True)

    dx = 2 * (x.double() - t) / BATCH
    dmu, dlogvar = mu.double() / BATCH, (logvar.double().exp() - 1) / (2 * BATCH)
    for weights, share in (((1, 0, 0), (1, 0.5)), ((0, 2, 0), (2, 0)), ((0, 0, 3), (0, 3)), ((1, 2, 3), (3, 3.5))):
        found = gradients(weights)
        for gradient, expected in zip(found, (share[0] * dx, share[1] * dmu, share[1] * dlogvar)):
            assert_agrees(gradient, expected, label=str(weights))


def test_bernoulli_at_certainty():
    """Probabilities of exactly 0 and 1: right ones cost 0, wrong ones 100."""
    p = torch.tensor([[0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    zero = torch.zeros(1, 2)
    total = F.vae_loss(p, torch.tensor([[0.0, 1.0, 1.0, 1.0]]), zero, zero)[0]
    total.backward()
    assert total.item() == 100
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("pixels", [3 << 18, (3 << 18) + 1])  # packs, single elements
def test_a_long_row_of_like_pixels(pixels, device):
    """Thousands of like terms round alike where one after the other is added in float32: 1e-4 of the loss."""
    x, mu = torch.full((1, pixels), 0.3, device=device), torch.zeros(1, 4, device=device)
    _, term, _ = F.vae_loss(x, torch.zeros_like(x), mu, mu, likelihood="gaussian", reduction="none")
    assert term.item() == pytest.approx(pixels * x[0, 0].double().item() ** 2, rel=2e-6)
    rows = F.contrastive_loss(x, torch.zeros_like(x), torch.ones(1, device=device), reduction="none")
    assert rows.item() == pytest.approx(pixels * x[0, 0].double().item() ** 2, rel=2e-6)


@pytest.mark.promise("What is refused", "A VAE's integer picture is a mask for the Bernoulli kinds: 0 or 1.")
@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_logits"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_a_picture_of_255_is_no_mask(likelihood, dtype):
    x, t, mu, logvar = problem()
    x = x.sigmoid() if likelihood == "bernoulli" else x
    whole = t.to(dtype)
    found = F.vae_loss(x, whole, mu, logvar, likelihood=likelihood)
    torch.testing.assert_close(found, F.vae_loss(x, t, mu, logvar, likelihood=likelihood))
    whole[1, 0, 2, 3] = 255
    message = "vae_loss: expected an integer target to be 0 or 1, got 255"
    for function in (F.vae_loss, F.vae_loss.reference):
        with pytest.raises(RuntimeError, match=message):
            function(x, whole, mu, logvar, likelihood=likelihood)
    with pytest.raises(RuntimeError, match="expected an integer target to be 0 or 1"):
        torch.compile(F.vae_loss, backend="aot_eager", fullgraph=True)(x, whole, mu, logvar, likelihood=likelihood)
    F.vae_loss(x, whole, mu, logvar, likelihood="gaussian")
