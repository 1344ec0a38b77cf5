"""Contrastive losses at hand-worked distances; Mahalanobis against SciPy; fit_gaussian against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance, ShrunkCovariance
from tolerances import assert_agrees

import fused_losses
import fused_losses.functional as F
from fused_losses import _C

MARGIN = 2.0
# distance, target, loss, derivative with respect to the distance
HAND = [
    (0.0, 1, 0.0, 0.0),
    (0.0, 0, 4.0, -4.0),
    (0.5, 1, 0.25, 1.0),
    (0.5, 0, 2.25, -3.0),
    (2.0, 1, 4.0, 4.0),
    (2.0, 0, 0.0, 0.0),
    (3.0, 1, 9.0, 6.0),
    (3.0, 0, 0.0, 0.0),
]


def test_contrastive_from_distance_by_hand(device):
    d, t, loss, slope = (torch.tensor(column, dtype=torch.float32, device=device) for column in zip(*HAND))
    d.requires_grad_()
    found = F.contrastive_loss_from_distance(d, t, MARGIN, "none")
    found.sum().backward()
    assert torch.equal(found, loss)
    assert torch.equal(d.grad, slope)
    assert_agrees(F.contrastive_loss_from_distance(d, t, MARGIN), loss.mean())
    assert_agrees(F.contrastive_loss_from_distance(d, t.bool(), MARGIN, "sum"), loss.sum())


def test_contrastive_by_hand(device):
    """Pairs at those distances along the direction (3, 4) / 5; the gradient at distance 0 is 0."""
    d, t, loss, slope = (torch.tensor(column, dtype=torch.float32, device=device) for column in zip(*HAND))
    direction = torch.tensor([0.6, 0.8], device=device)
    x2 = torch.tensor([[1.0, -1.0]], device=device).repeat(len(d), 1).requires_grad_()
    x1 = (x2.detach() + d.unsqueeze(1) * direction).requires_grad_()
    found = F.contrastive_loss(x1, x2, t, MARGIN, "none")
    found.sum().backward()
    assert_agrees(found, loss, n_terms=2)
    expected = torch.where(d == 0, 0, slope).unsqueeze(1) * direction
    assert_agrees(x1.grad, expected, n_terms=2)
    assert_agrees(x2.grad, -expected, n_terms=2)


def test_contrastive_soft_target_mixes_both_terms():
    d = torch.tensor([0.5, 3.0])
    found = F.contrastive_loss_from_distance(d, torch.tensor([0.25, 0.25]), MARGIN, "none")
    assert_agrees(found, torch.tensor([0.25 * 0.25 + 0.75 * 2.25, 0.25 * 9.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_contrastive_of_many_pairs(dtype, device):
    x1, x2 = torch.randn(2, 50, 33, device=device).to(dtype)
    t = torch.arange(50, device=device) % 2
    d = np.linalg.norm(x1.double().cpu().numpy() - x2.double().cpu().numpy(), axis=1)
    t_numpy = t.cpu().numpy()
    expected = torch.from_numpy(np.where(t_numpy == 1, d**2, np.maximum(0, 9 - d) ** 2))
    found = F.contrastive_loss(x1, x2, t.to(torch.uint8), 9.0, "none")
    assert_agrees(found, expected, n_terms=33)


def test_contrastive_at_zero_distance_is_finite_in_every_derivative():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    loss = F.contrastive_loss(x, x.detach().clone(), torch.zeros(4))
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert loss.item() == 1
    assert (gradient == 0).all()
    assert (second == 0).all()


def test_dissimilar_pair_too_far_for_its_square():
    x = torch.full((1, 3), 1e30, requires_grad=True)
    loss = F.contrastive_loss(x, -x.detach(), torch.zeros(1))
    loss.backward()
    assert loss.item() == 0
    assert (x.grad == 0).all()
    assert F.contrastive_loss_from_distance(torch.tensor([1e30]), torch.zeros(1)).item() == 0


def gaussian(size, dtype=torch.float64):
    a = torch.randn(size, size, dtype=torch.float64)
    covariance = a @ a.T / size + torch.eye(size, dtype=torch.float64)
    return torch.randn(size, dtype=dtype), torch.linalg.cholesky(covariance).to(dtype), covariance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 17])
def test_mahalanobis_distance(size, dtype, device):
    mean, factor, covariance = gaussian(size, dtype)
    x = torch.randn(20, size, dtype=dtype)
    precision = np.linalg.inv(covariance.numpy())
    expected = torch.tensor([mahalanobis(row.double(), mean.double(), precision) for row in x], dtype=torch.float64)
    found = F.mahalanobis_distance(x.to(device), mean.to(device), factor.to(device))
    # the solve's rounding grows with the size and with the condition of the factor, here below ten
    assert_agrees(found, expected, dtype, n_terms=100 * size)
    squared = F.mahalanobis_distance(x.to(device), mean.to(device), factor.to(device), squared=True)
    assert_agrees(squared, expected**2, dtype, n_terms=100 * size)


def test_mahalanobis_loss_by_scipy():
    mean, factor, covariance = gaussian(5)
    x, t = 2 * torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 2
    precision = np.linalg.inv(covariance.numpy())
    d = np.array([mahalanobis(row, mean, precision) for row in x])
    expected = torch.from_numpy(np.where(t.numpy() == 1, d**2, np.maximum(0, 3 - d) ** 2))
    assert_agrees(F.mahalanobis_loss(x, t.bool(), mean, factor, 3.0, "none"), expected, n_terms=500)
    assert_agrees(F.mahalanobis_loss(x, t.bool(), mean, factor, 3.0), expected.mean(), n_terms=500)


def test_mahalanobis_gradients_in_closed_form():
    """d(d²)/dx = 2 Σ⁻¹ (x - μ), the opposite for μ; for Σ = L Lᵀ the factor's is tril(-2 w wᵀ L), w = Σ⁻¹ (x - μ)."""
    mean, factor, covariance = gaussian(6)
    x = torch.randn(9, 6, dtype=torch.float64)
    inputs = [v.requires_grad_() for v in (x, mean, factor)]
    gradients = torch.autograd.grad(F.mahalanobis_distance(*inputs, squared=True).sum(), inputs)
    w = (x - mean).detach() @ torch.linalg.inv(covariance)
    assert_agrees(gradients[0], 2 * w, n_terms=600)
    assert_agrees(gradients[1], -2 * w.sum(0), n_terms=600)
    assert_agrees(gradients[2], torch.tril(-2 * w.T @ w @ factor.detach()), n_terms=600)


def test_mahalanobis_never_reads_above_the_diagonal():
    mean, factor, _ = gaussian(4)
    x, t = torch.randn(7, 4, dtype=torch.float64), torch.ones(7)
    above = torch.ones(4, 4).triu(1).bool()
    spoiled = factor.masked_fill(above, float("nan")).requires_grad_()
    loss = F.mahalanobis_loss(x, t, mean, spoiled)
    loss.backward()
    assert torch.equal(loss.detach(), F.mahalanobis_loss(x, t, mean, factor))
    assert (spoiled.grad[above] == 0).all()
    assert spoiled.grad.isfinite().all()


def of_condition(condition, size=32):
    """A lower factor of about this condition number."""
    scales = torch.logspace(0, np.log10(condition), size, dtype=torch.float64)
    return (torch.randn(size, size, dtype=torch.float64) * 0.2).tril(-1) * scales[:, None] + scales.diag()


@pytest.mark.parametrize("condition", [10, 1e3, 1e5, 1e6])
def test_mahalanobis_by_the_inverse_is_as_accurate_as_by_a_solve(condition, device):
    """The rows are many: the factor is inverted, in float64."""
    mean, factor = torch.randn(32), of_condition(condition).float()
    x = torch.randn(4096, 32) * condition**0.5
    centred = (x - mean).mT  # rounded as the loss rounds it
    want = torch.linalg.solve_triangular(factor.double(), centred.double(), upper=False).norm(dim=0)
    solved = torch.linalg.solve_triangular(factor, centred, upper=False).double().norm(dim=0)
    found = F.mahalanobis_distance(x.to(device), mean.to(device), factor.to(device)).double().cpu()
    worst, of_solve = ((v / want - 1).abs().max().item() for v in (found, solved))
    assert worst <= max(of_solve, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("size", "more"),
    [(1, 0), (2, 3), (15, 1), (16, 2300), (17, 0), (31, 0), (32, 0), (33, 1), (47, 1100), (64, 5000), (85, 1500),
     (97, 0), (170, 7), (256, 0), (257, 1), (512, 0)],
)  # fmt: skip
def test_mahalanobis_by_inverses_of_every_size(size, more, threads, every_isa):
    """Around the blocks of 16 and 32 columns, of 3 to 14 and of 512 rows and the strips of 84, on every instruction
    set: the loss, and gradients through all products."""
    torch.set_num_threads(threads)
    rows = max(32, size if size <= 256 else 4 * size) + more
    mean, factor = torch.randn(size), of_condition(100, size).float()
    leaves = [v.requires_grad_() for v in (torch.randn(rows, size), mean, factor)]
    wide = [v.detach().double().requires_grad_() for v in leaves]
    want = F.mahalanobis_distance.reference(*wide)
    wanted = torch.autograd.grad(want.sum(), wide)
    for isa in every_isa:
        _C.set_cpu_isa(isa)
        found = F.mahalanobis_distance(*leaves)
        assert_agrees(found, want, n_terms=size, label=isa)
        for a, b in zip(torch.autograd.grad(found.sum(), leaves), wanted):
            assert_agrees(a, b, torch.float32, n_terms=rows * size, label=isa)


def test_mahalanobis_by_inverses_of_any_number_of_threads(every_isa):
    """The products with a triangle are our own: the same bits."""
    mean, factor, target = torch.randn(40), of_condition(100, 40).float(), torch.arange(9000) % 2
    x = torch.randn(9000, 40, requires_grad=True)
    for isa in every_isa:
        _C.set_cpu_isa(isa)
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = F.mahalanobis_loss(x, target, mean, factor)
            found.append(torch.cat([loss.detach()[None], torch.autograd.grad(loss, x)[0].flatten()]))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mahalanobis_in_chunks(dtype, reduction, tile_bytes, device):
    """Chunks of any number of rows, inverted (float32, bfloat16) or solved, give the same loss and gradients."""
    mean, factor, _ = gaussian(5, torch.float64)
    leaves = [v.to(device, dtype).requires_grad_() for v in (torch.randn(61, 5), mean, factor)]
    target = torch.arange(61, device=device) % 2

    def results(wanted):
        loss = F.mahalanobis_loss(leaves[0], target, *leaves[1:], 3.0, reduction)
        return loss.detach(), *torch.autograd.grad(loss.sum(), wanted)

    whole = results(leaves)
    for rows in (1, 7, 60, 61):
        tile_bytes(2 * 5 * 8 * rows)
        for got, want in zip(results(leaves), whole):
            assert_agrees(got, want.double(), dtype, n_terms=61 * 25)
    for i, leaf in enumerate(leaves):  # one gradient alone takes another way through the chunks
        assert_agrees(results([leaf])[1], whole[1 + i].double(), dtype, n_terms=61 * 25)


def test_mahalanobis_at_the_mean():
    mean, factor, _ = gaussian(4)
    x = mean.expand(3, 4).clone().requires_grad_()
    distance = F.mahalanobis_distance(x, mean, factor)
    loss = F.mahalanobis_loss(x, torch.zeros(3), mean, factor, margin=2.0)
    for value, expected in ((distance.sum(), 0), (loss, 4)):
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == expected
        assert (gradient == 0).all()


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_fit_gaussian(shrinkage):
    x = torch.randn(60, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 3
    fit = ShrunkCovariance(shrinkage=shrinkage) if shrinkage else EmpiricalCovariance()
    fit.fit(x.numpy())
    mean, factor = fused_losses.fit_gaussian(x, shrinkage=shrinkage)
    assert_agrees(mean, torch.from_numpy(fit.location_), n_terms=60)
    assert_agrees(factor @ factor.T, torch.from_numpy(fit.covariance_), n_terms=240)
    assert (factor.triu(1) == 0).all()
    distance = F.mahalanobis_distance(x, mean, factor, squared=True)
    assert_agrees(distance, torch.from_numpy(fit.mahalanobis(x.numpy())), n_terms=10_000)


def test_fit_gaussian_says_what_few_rows_lack():
    few = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    for x, shrinkage in ((few, 0.0), (few[:1], 0.0), (few[:1], 0.5)):
        with pytest.raises(torch.linalg.LinAlgError, match=r"fit_gaussian: expected rows .* got x of shape \(., 3\)"):
            fused_losses.fit_gaussian(x, shrinkage=shrinkage)
    fused_losses.fit_gaussian(few, shrinkage=0.1)
