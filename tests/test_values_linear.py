"""Losses of a linear layer's logits and of retrieval against torch, textbook code and numbers done by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as T
from independent import assert_same, each_dtype, each_reduction, reduced

from fused_losses import functional as F
from fused_losses import reference


def layer(rows=50, features=16, classes=40):
    return torch.randn(rows, features), torch.randn(classes, features) / 4, torch.randn(classes)


@each_dtype
@each_reduction
def test_linear_cross_entropy_is_torch_s(reduction, dtype, device):
    x, w, b = layer()
    y, share = torch.randint(0, 40, (50,)), torch.rand(40)
    y[::7] = -100
    for options in ({}, {"label_smoothing": 0.2}, {"weight": share}):

        def ours(x, w, b, options=options):
            given = {n: v.to(device) if torch.is_tensor(v) else v for n, v in options.items()}
            return F.linear_cross_entropy(x, w, y.to(device), linear_bias=b, reduction=reduction, **given)

        def theirs(x, w, b, options=options):
            given = {n: v.double() if torch.is_tensor(v) else v for n, v in options.items()}
            return T.cross_entropy(T.linear(x, w, b), y, reduction=reduction, **given)

        assert_same(ours, theirs, x, w, b, dtype=dtype, device=device, gradients=(0, 1, 2))


@each_reduction
def test_class_probabilities_and_leading_dimensions(reduction, device):
    x, w, _ = layer(24)
    y = torch.randn(24, 40).softmax(1)

    def ours(x, w):
        found = F.linear_cross_entropy(x.view(2, 3, 4, 16), w, y.view(2, 3, 4, 40).to(device), reduction=reduction)
        return found.reshape(-1) if reduction == "none" else found

    def theirs(x, w):
        return T.cross_entropy(x @ w.T, y.double(), reduction=reduction)

    assert_same(ours, theirs, x, w, dtype=torch.float32, device=device, gradients=(0, 1))


@each_reduction
def test_soft_cap_and_normaliser(reduction, device):
    x, w, b = layer()
    y = torch.randint(0, 40, (50,))
    y[3] = -100

    def ours(x, w, b):
        return F.linear_cross_entropy(x, w, y.to(device), linear_bias=b, reduction=reduction, softcap=1.5, z_loss=0.25)

    def theirs(x, w, b):
        s = 1.5 * torch.tanh((x @ w.T + b) / 1.5)
        loss = torch.logsumexp(s, 1) - s.gather(1, y.clamp(min=0)[:, None])[:, 0] + 0.25 * torch.logsumexp(s, 1) ** 2
        return reduced(torch.where(y == -100, 0, loss), reduction, 49)

    assert_same(ours, theirs, x, w, b, dtype=torch.float32, device=device, gradients=(0, 1, 2))


def test_by_hand(device):
    """Two rows, logits (log 3, 0) and (0, log 7): 3/4 and 7/8 of the softmax are the classes'."""
    x = torch.tensor([[math.log(3.0)], [math.log(7.0)]], device=device)
    w = torch.tensor([[1.0], [0.0]], device=device)
    loss = F.linear_cross_entropy(x, w, torch.tensor([0, 0], device=device), reduction="none", z_loss=1.0)
    want = [math.log(4 / 3) + math.log(4) ** 2, math.log(8 / 7) + math.log(8) ** 2]
    torch.testing.assert_close(loss.cpu(), torch.tensor(want))


@each_dtype
@each_reduction
def test_info_nce_is_a_cross_entropy_of_similarities(reduction, dtype, device):
    q, k = torch.randn(20, 16), torch.randn(33, 16)

    def ours(q, k):
        return F.info_nce_loss(q, k, temperature=0.2, normalize=True, reduction=reduction)

    def theirs(q, k):
        s = T.normalize(q, dim=1) @ T.normalize(k, dim=1).T / 0.2
        return reduced(torch.logsumexp(s, 1) - s.diagonal(), reduction)

    assert_same(ours, theirs, q, k, dtype=dtype, device=device, gradients=(0, 1))


def test_info_nce_learns_its_temperature(device):
    q, k, t = torch.randn(9, 4), torch.randn(9, 4), torch.tensor(0.7)

    def theirs(q, k, t):
        return T.cross_entropy(q @ k.T / t, torch.arange(9))

    def ours(q, k, t):
        return F.info_nce_loss(q, k, temperature=t)

    assert_same(ours, theirs, q, k, t, dtype=torch.float32, device=device, gradients=(0, 1, 2))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
def test_distillation(reduction, device):
    x, w, b = layer()
    z, v, c = torch.randn(50, 8), torch.randn(40, 8), torch.randn(40)

    def kl(x, w, b):
        log_q, log_p = (torch.log_softmax(s / 3, 1) for s in (x @ w.T + b, z.double() @ v.double().T + c))
        return reduced(9 * (log_p.exp() * (log_p - log_q)).sum(1), "mean" if reduction == "batchmean" else reduction)

    def js(x, w, b):
        q, p = torch.softmax(x @ w.T + b, 1), torch.softmax(z.double() @ v.double().T + c, 1)
        m = 0.3 * p + 0.7 * q
        each = 0.3 * (p * (p / m).log()).sum(1) + 0.7 * (q * (q / m).log()).sum(1)
        return reduced(each, "mean" if reduction == "batchmean" else reduction)

    for name, theirs, options in (("linear_kl_div", kl, {"temperature": 3.0}), ("linear_js_div", js, {"beta": 0.3})):

        def ours(x, w, b, name=name, options=options):
            teacher = dict(teacher_input=z, teacher_weight=v, teacher_bias=c)
            given = {n: t.to(device) for n, t in teacher.items()}
            return getattr(F, name)(x, w, linear_bias=b, reduction=reduction, **given, **options)

        assert_same(ours, theirs, x, w, b, dtype=torch.float32, device=device, gradients=(0, 1, 2))


@pytest.mark.parametrize("name", ["linear_kl_div", "linear_js_div"])
def test_distillation_of_one_token(name, device):
    """Of an input (D,) "batchmean" divides by D, its shape[0]: kernel, plain PyTorch and torch.func."""
    loss = getattr(F, name)
    x, w, z, v = (torch.randn(n, dtype=torch.float64, device=device) for n in (3, (5, 3), 4, (5, 4)))
    one = loss(x, w, z, v, reduction="none")
    assert one.shape == ()
    for teacher in (z, z.clone().requires_grad_()):
        torch.testing.assert_close(loss(x, w, teacher, v).detach(), one / 3)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, w, z, v), leaf)
    torch.testing.assert_close(gradient, torch.func.grad(lambda x: loss(x, w, z, v))(x))
    assert torch.autograd.gradgradcheck(lambda x: loss(x, w, z, v), leaf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_tile_gives_the_same_loss(dtype, tile_bytes):
    """From one row at a time to all of them; tiles of which the rows are no multiple."""
    x, w, b = (t.to(dtype).requires_grad_() for t in layer())
    y = torch.randint(0, 40, (50,))
    found = []
    for rows in (1, 7, 16, 50, 1000):
        tile_bytes(2 * 40 * 4 * rows)
        loss = F.linear_cross_entropy(x, w, y, linear_bias=b, softcap=5.0)
        found.append([loss.detach(), *torch.autograd.grad(loss, (x, w, b))])
    for one in found[:-1]:
        for a, b in zip(one, found[-1]):
            torch.testing.assert_close(a, b, rtol=2 * torch.finfo(b.dtype).eps, atol=1e-6)


def test_a_wrong_class_is_found_before_any_product():
    x, w, _ = layer(3)
    with pytest.raises(
        IndexError, match=r"linear_cross_entropy: expected class index in \[0, 40\).*got 40 at flat index 2"
    ):
        F.linear_cross_entropy(x, w, torch.tensor([0, -100, 40]))
    with pytest.raises(IndexError, match=r"info_nce_loss: expected class index in \[0, 40\), got -100 at flat index 1"):
        F.info_nce_loss(x, w, target=torch.tensor([0, -100, 4]))


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_rows_without_classes_have_an_infinite_normaliser(rows, device):
    """The logarithm of a sum of nothing, squared: nothing that nobody wrote is read."""
    x, w = torch.randn(rows, 3, device=device), torch.zeros(0, 3, device=device)
    for module in (F, reference):
        loss = module.linear_cross_entropy(x, w, x.new_zeros(rows, 0), z_loss=1.0, reduction="none")
        assert loss.tolist() == [torch.inf] * rows


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_classes_the_gradient_of_a_row_is_0(reduction, device):
    x, weight = torch.ones(2, 3, device=device), torch.empty(0, 3, device=device)
    ignored = torch.full((2,), -100, device=device)
    teacher = x.clone(), weight.clone()
    for loss in (lambda x: F.linear_cross_entropy(x, weight, ignored, reduction=reduction),
                 lambda x: F.linear_kl_div(x, weight, *teacher, reduction=reduction),
                 lambda x: F.linear_js_div(x, weight, *teacher, reduction=reduction)):  # fmt: skip
        leaf = x.clone().requires_grad_()
        assert not torch.autograd.grad(loss(leaf).sum(), leaf)[0].any()


@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_rows_without_features_have_the_bias_for_logits(rows, mesh):
    """Alone, and with classes spread over a group."""
    weight, bias, target = torch.zeros(4, 0), torch.randn(4), torch.randint(4, rows)
    expected = torch.nn.functional.cross_entropy(bias.expand(target.numel(), 4), target.reshape(-1), reduction="none")
    for group in (None, mesh):
        for reduction, of_torch in (("none", expected.reshape(rows)), ("mean", expected.mean())):
            x, b = torch.zeros(*rows, 0, requires_grad=True), bias.clone().requires_grad_()
            loss = F.linear_cross_entropy(x, weight, target, linear_bias=b, reduction=reduction, group=group)
            torch.testing.assert_close(loss.detach(), of_torch)
            loss.mean().backward()
            hits = torch.nn.functional.one_hot(target.reshape(-1), 4).float().mean(0)
            torch.testing.assert_close(b.grad, bias.softmax(0) - hits)
            assert x.grad.shape == x.shape
