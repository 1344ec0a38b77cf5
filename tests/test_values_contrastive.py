"""Losses of all pairs against the forms that people write, loops over pairs, and processes' parts put together."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as T
from emulated_device import ops
from independent import assert_same, each_dtype

from fused_losses import functional as F
from fused_losses import reference

N, D = 20, 16


def pair():
    x = torch.randn(N, D)
    return x, x + 0.5 * torch.randn(N, D)


@each_dtype
def test_clip(dtype, device):
    """The two cross-entropies of open_clip."""

    def theirs(x, y, scale):
        logits, labels = scale * T.normalize(x, dim=1) @ T.normalize(y, dim=1).T, torch.arange(N)
        return (T.cross_entropy(logits, labels) + T.cross_entropy(logits.T, labels)) / 2

    def ours(x, y, scale):
        return F.clip_loss(x, y, scale, normalize=True)

    assert_same(ours, theirs, *pair(), torch.tensor(5.0), dtype=dtype, device=device, gradients=(0, 1, 2))


def test_a_fraction_is_a_number():
    x, y = pair()
    half = Fraction(1, 2)
    assert F.clip_loss(x, y, half) == F.clip_loss(x, y, 0.5)
    assert F.siglip_loss(x, y, half, half) == F.siglip_loss(x, y, 0.5, 0.5)


@each_dtype
def test_siglip(dtype, device):
    """Pair by pair."""

    def theirs(x, y, scale, bias):
        signs = 2 * torch.eye(N, dtype=x.dtype) - 1
        return -T.logsigmoid(signs * (scale * x @ y.T + bias)).sum() / N

    given = (*pair(), torch.tensor(2.0), torch.tensor(-3.0))
    assert_same(F.siglip_loss, theirs, *given, dtype=dtype, device=device, gradients=(0, 1, 2, 3))


@each_dtype
def test_nt_xent(dtype, device):
    """The loop over anchors of the paper's formula."""

    def theirs(z1, z2):
        z = T.normalize(torch.cat([z1, z2]), dim=1)
        s = z @ z.T / 0.5
        total = 0
        for i in range(2 * N):
            others = torch.cat([s[i, :i], s[i, i + 1 :]])
            total = total + torch.logsumexp(others, 0) - s[i, (i + N) % (2 * N)]
        return total / (2 * N)

    assert_same(F.nt_xent_loss, theirs, *pair(), dtype=dtype, device=device, gradients=(0, 1))


LABELS = torch.tensor([3, 3, -7, 3, 2**40, -7, 0, 2**40 + 1, 5, 5, 5, 5, 8, 9, 8, 1, 2**40, 4, 6, 0])


@each_dtype
@pytest.mark.parametrize("labels", [LABELS, torch.zeros(N, dtype=torch.int64)], ids=["mixed", "equal"])
def test_sup_con(labels, dtype, device):
    """The loop over anchors and positives of the paper's formula; labels that differ in high bits alone are others."""

    def theirs(z):
        z = T.normalize(z, dim=1)
        s = z @ z.T / 0.3
        each = []
        for i in range(N):
            positives = [p for p in range(N) if p != i and labels[p] == labels[i]]
            others = torch.cat([s[i, :i], s[i, i + 1 :]])
            if positives:
                each.append(sum(torch.logsumexp(others, 0) - s[i, p] for p in positives) / len(positives))
        return sum(each) / len(each)

    def ours(z):
        return F.sup_con_loss(z, labels.to(device), temperature=0.3)

    assert_same(ours, theirs, pair()[0], dtype=dtype, device=device)


def test_sup_con_without_a_positive(device):
    """All labels different: no anchor counts; the loss is NaN, its gradient 0."""
    z = torch.randn(5, 3, device=device, requires_grad=True)
    loss = F.sup_con_loss(z, torch.arange(5, device=device), normalize=False)
    assert loss.isnan()
    assert not torch.autograd.grad(loss, z)[0].any()


@each_dtype
@pytest.mark.parametrize(
    "labels", [LABELS, torch.zeros(N, dtype=torch.int64), torch.arange(N)], ids=["mixed", "equal", "different"]
)
def test_multi_similarity(labels, dtype, device):
    """The loop of the paper's algorithm; without a negative, or a positive, nothing is hard enough to be kept."""

    def theirs(z):
        z = T.normalize(z, dim=1)
        s = z @ z.T
        total = 0 * z.sum()
        for i in range(N):
            positives = [p for p in range(N) if p != i and labels[p] == labels[i]]
            negatives = [n for n in range(N) if labels[n] != labels[i]]
            low = min((s[i, p].item() for p in positives), default=math.inf)
            high = max((s[i, n].item() for n in negatives), default=-math.inf)
            near = [torch.exp(-2 * (s[i, p] - 0.5)) for p in positives if s[i, p] - 0.1 < high]
            far = [torch.exp(10 * (s[i, n] - 0.5)) for n in negatives if s[i, n] + 0.1 > low]
            total = (
                total + torch.log(1 + sum(near, s.new_zeros(()))) / 2 + torch.log(1 + sum(far, s.new_zeros(()))) / 10
            )
        return total / N

    def ours(z):
        return F.multi_similarity_loss(z, labels.to(device), beta=10.0)

    assert_same(ours, theirs, pair()[0], dtype=dtype, device=device)


@pytest.mark.parametrize("size, sharp", [(1, 50.0), (5, 50.0), (30, 50.0), (1, 1e4)])
def test_multi_similarity_of_large_exponents(size, sharp, device):
    """Exponents of 1e5 and more: a pair's weight is of their difference, which is exact."""
    labels = torch.arange(64) // 4
    z = (torch.randn(64, 32) + torch.randn(16, 32)[labels]) * size

    def gradient(loss, z):
        z = z.detach().requires_grad_()
        loss(z, labels.to(z.device), alpha=sharp / 25, beta=sharp, normalize=False).backward()
        return z.grad.double().cpu()

    exact = gradient(reference.multi_similarity_loss, z.double())
    found, plain = gradient(F.multi_similarity_loss, z.to(device)), gradient(reference.multi_similarity_loss, z)
    room = max(4 * (plain - exact).abs().max(), 1e-5 * exact.abs().max())
    assert (found - exact).abs().max() <= room


@each_dtype
def test_rows_whose_pairs_the_mining_leaves_out(dtype, device):
    """log(1 + 0) = 0 exactly, however large the exponent of the pairs left out: here e^400 and e^360."""
    x = torch.tensor([[10.0, 0.0], [10.0, 0.0], [-9.0, 0.0]], dtype=dtype, device=device, requires_grad=True)
    labels = torch.tensor([0, 0, 1], device=device)
    loss = F.multi_similarity_loss(x, labels, alpha=4.0, beta=4.0, base=100.0 + 90.0, epsilon=0.1, normalize=False)
    loss.backward()
    assert loss.item() == 0
    assert (x.grad == 0).all()


def test_the_scale_of_an_empty_batch_has_no_gradient(device):
    x, y = torch.empty(2, 0, 5, device=device).unbind()
    for name in ("clip_loss", "siglip_loss"):
        scalars = [torch.tensor(2.0, device=device, requires_grad=True) for _ in range(1 + (name == "siglip_loss"))]
        found = torch.autograd.grad(getattr(F, name)(x, y, *scalars), scalars)
        assert all(gradient.item() == 0 for gradient in found), name


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16], ids=str)
@each_dtype
def test_two_views_under_autocast(dtype, cast, device):
    z1, z2 = (z.to(dtype).to(device) for z in pair())
    want = F.nt_xent_loss(z1, z2, normalize=False)
    with torch.autocast(torch.device(device).type, cast):
        assert torch.equal(F.nt_xent_loss(z1, z2, normalize=False), want)


@each_dtype
@pytest.mark.parametrize("options", [{"margin": 2.0}, {"squared": True}, {"soft": True}], ids=str)
def test_batch_hard(options, dtype, device):
    """The loop over anchors; the third label has one row, which is no anchor."""

    def theirs(z):
        each = []
        for i in range(N):
            d = ((z[i] - z) ** 2).sum(1)
            positives = [d[p] for p in range(N) if p != i and LABELS[p] == LABELS[i]]
            negatives = [d[n] for n in range(N) if LABELS[n] != LABELS[i]]
            if positives and negatives:
                far, near = max(positives), min(negatives)
                gap = far - near if options.get("squared") else far.sqrt() - near.sqrt()
                each.append(T.softplus(gap) if options.get("soft") else (options.get("margin", 1.0) + gap).relu())
        return sum(each) / len(each)

    def ours(z):
        return F.triplet_batch_hard_loss(z, LABELS.to(device), **options)

    assert_same(ours, theirs, pair()[0], dtype=dtype, device=device)


def test_batch_hard_without_an_anchor(device):
    """Labels all equal, or all different: nothing counts; NaN with gradient 0."""
    for labels in (torch.zeros(5, dtype=torch.int64), torch.arange(5)):
        z = torch.randn(5, 3, device=device, requires_grad=True)
        loss = F.triplet_batch_hard_loss(z, labels.to(device))
        assert loss.isnan()
        assert not torch.autograd.grad(loss, z)[0].any()


def test_batch_hard_keeps_the_digits_of_near_duplicates(device):
    """Far from the origin, where distances from products would have none; many anchors choose one row."""
    z = torch.tensor([[1000.0, 1000.0], [1000.5, 1000.0], [1000.0, 1003.0], [999.0, 1003.5]], device=device)
    loss = F.triplet_batch_hard_loss(z.requires_grad_(), torch.tensor([0, 0, 1, 1], device=device), soft=True)
    gaps = [0.5 - 3, 0.5 - 9.25**0.5, 1.25**0.5 - 3, 1.25**0.5 - 13.25**0.5]
    want = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    torch.testing.assert_close(loss.item(), want, rtol=1e-6, atol=0)
    assert torch.autograd.grad(loss, z)[0].sum(0).abs().max() < 1e-6  # no force on the whole


def test_near_duplicates_at_a_scale_of_100(device):
    """Each row has its own maximum: the best pair of the third is worth e^-200 of the first's, and is not lost."""
    x = torch.tensor([[1.0, 0.0], [0.999999, 0.0], [-1.0, 0.0]], device=device)
    given = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.tensor(100.0, device=device)
    exact = x.double().cpu().requires_grad_(), x.double().cpu().requires_grad_(), torch.tensor(100.0).double()
    loss, want = F.clip_loss(*given), F.clip_loss.reference(*exact)
    torch.testing.assert_close(loss.double().cpu(), want, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(loss, given[:2]), torch.autograd.grad(want, exact[:2])):
        torch.testing.assert_close(a.double().cpu(), b, rtol=1e-4, atol=2e-4)


def one_of_each(dtype):
    x, y = (t.to(dtype) for t in pair())
    scale, bias = torch.tensor(4.0), torch.tensor(-1.0)
    return {
        "clip_loss": (x, y, scale),
        "siglip_loss": (x, y, scale, bias),
        "nt_xent_loss": (x, y),
        "sup_con_loss": (x, LABELS),
        "multi_similarity_loss": (x, LABELS),
        "triplet_batch_hard_loss": (x, LABELS),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", one_of_each(torch.float32))
def test_any_tile_gives_the_same_loss(name, dtype, tile_bytes):
    """From one row at a time to all of them kept between the two readings."""
    tensors = [t.clone().requires_grad_(t.is_floating_point()) for t in one_of_each(dtype)[name]]
    leaves = [t for t in tensors if t.requires_grad]
    found = []
    for rows in (1, 7, 10, 1000, None):
        tile_bytes(rows * N * 4 if rows else 0)
        loss = getattr(F, name)(*tensors)
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for one in found[:-1]:
        for a, b in zip(one, found[-1]):
            torch.testing.assert_close(a, b, rtol=4 * torch.finfo(b.dtype).eps, atol=2e-6)


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize("shape", [(8, 16), (17, 16), (90, 64)], ids=str)
@each_dtype
def test_converged_pairs_have_no_gradient(dtype, shape, rows, tile_bytes, device):
    """Of two views all but equal, far from all others: a pair is one number in both of its orders."""
    z = T.normalize(torch.randn(shape), dim=1)
    views = [(z + noise * torch.randn(shape)).to(device, dtype).requires_grad_() for noise in (0, 0.01)]
    tile_bytes(rows * 2 * shape[0] * 4 if rows else 0)
    gradients = torch.autograd.grad(F.nt_xent_loss(*views, temperature=0.01), views)
    assert max(g.double().abs().max() for g in gradients) < 1e-9


@pytest.mark.parametrize("rows", [7, None])
def test_similarities_too_large_to_be_rounded_alike(rows, tile_bytes, device):
    """A similarity of 1e12, and that of the same pair the other way round, may be rounded thousands apart: which of the
    two is the larger is not said, but no probability is above 1."""
    features = (1e6 * torch.randn(N, 5)).to(device).requires_grad_()
    labels = (torch.arange(N, device=device) // 3) % 4
    tile_bytes(rows * N * 4 if rows else 0)
    loss = F.sup_con_loss(features, labels, normalize=False)
    (gradient,) = torch.autograd.grad(loss, features)
    want = F.sup_con_loss.reference(features.detach().double(), labels, normalize=False)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
    of_a_pair = 2 / (N * 0.07) * float(features.detach().norm(dim=1).max())
    assert gradient.norm(dim=1).max() <= 2 * N * of_a_pair


def parts(rows):
    """Three processes, of which the last has fewer rows."""
    return [(0, 8), (8, 16), (16, rows)]


def test_parts_of_clip_put_together(device):
    """Statistics of each process's rows, merged, and the backward of each: loss and gradients of the whole batch."""
    x, y = (t.to(device).requires_grad_() for t in pair())
    scale = torch.tensor(4.0, device=device, requires_grad=True)
    want = F.clip_loss(x, y, scale)
    wanted = torch.autograd.grad(want, (x, y, scale))
    given = [t.detach() for t in (x, y, scale)]
    forward = [ops().clip_loss(given[0][a:b], given[1], given[2], None, [float(a)], 1, 0) for a, b in parts(N)]
    columns = torch.stack([columns for _, _, columns in forward]).logsumexp(0)
    rows = torch.cat([rows for _, rows, _ in forward])
    loss = (rows[:, 0] + columns - 2 * rows[:, 1]).sum() / (2 * N)
    torch.testing.assert_close(loss, want.detach())
    one = torch.ones((), device=device)
    found = [
        ops().clip_loss_backward(one, r, columns, given[0][a:b], given[1], given[2], None, [float(a)], 1, 7)
        for (a, b), (_, r, _) in zip(parts(N), forward)
    ]
    torch.testing.assert_close(torch.cat([f[0] for f in found]), wanted[0])
    torch.testing.assert_close(sum(f[1] for f in found), wanted[1])
    torch.testing.assert_close(sum(f[2] for f in found), wanted[2])


def test_parts_of_siglip_put_together(device):
    x, y = (t.to(device).requires_grad_() for t in pair())
    scale, bias = torch.tensor(4.0, device=device), torch.tensor(-1.0, device=device)
    want = F.siglip_loss(x, y, scale, bias)
    wanted = torch.autograd.grad(want, (x, y))
    x, y = x.detach(), y.detach()
    found = [ops().siglip_loss(x[a:b], y, scale, bias, [float(a)], 1, 3) for a, b in parts(N)]
    torch.testing.assert_close(sum(f[0] for f in found), want.detach())
    torch.testing.assert_close(torch.cat([f[1] for f in found]), wanted[0])
    torch.testing.assert_close(sum(f[2] for f in found), wanted[1])


def test_parts_of_sup_con_put_together(device):
    """The statistics side by side; each process's gradient of its rows is whole."""
    z, labels = T.normalize(pair()[0], dim=1).to(device).requires_grad_(), LABELS.to(device)
    want = F.sup_con_loss(z, labels, temperature=0.3, normalize=False)
    (wanted,) = torch.autograd.grad(want, z)
    z = z.detach()
    options = [0.3, 0.0]
    forward = [ops().sup_con_loss(z[a:b], labels[a:b], z, labels, [0.3, float(a)], 2, 0) for a, b in parts(N)]
    rows = torch.cat([rows for _, rows in forward])
    torch.testing.assert_close(sum(loss for loss, _ in forward) / (rows[:, 1] != 0).sum(), want.detach())
    one = torch.ones((), device=device)
    found = [
        ops().sup_con_loss_backward(one, rows, z[a:b], labels[a:b], z, labels, [options[0], float(a)], 1, 1)
        for a, b in parts(N)
    ]
    torch.testing.assert_close(torch.cat([f[0] for f in found]), wanted)
