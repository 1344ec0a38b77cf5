"""Parts of a batch, or of the classes, in one process: the ops that many processes call, without the processes."""

from __future__ import annotations

import emulated_device
import pytest
import torch

import fused_losses.functional as F
from fused_losses._op import MEAN, NONE, SUM

BOUNDS = ((0, 3), (3, 4), (4, 9))  # of the rows of a part; parts of processes are equal, those of an op need not be


def options(op, **given):
    return [given.get(name, 0.0) for name in op.options]


def gradients_of(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


def test_parts_of_the_rows_of_clip_loss(device):
    op, scale = F.clip_loss.op, torch.tensor(1.5, device=device, requires_grad=True)
    x, y = (torch.randn(9, 4, device=device, requires_grad=True) for _ in range(2))
    loss = F.clip_loss(x, y, scale)
    parts = [op.forward(x[a:b], y, scale, None, options(op, first=a), MEAN, 0) for a, b in BOUNDS]
    rows, columns = torch.cat([p[1] for p in parts]), torch.stack([p[2] for p in parts]).logsumexp(0)
    torch.testing.assert_close(((rows[:, 0] + columns) / 2 - rows[:, 1]).mean(), loss.detach())
    found = [
        op.backward(loss.new_ones(()), rows[a:b].contiguous(), columns, x[a:b], y, scale, None,
                    options(op, first=a), MEAN, 0b111)
        for a, b in BOUNDS
    ]  # fmt: skip
    whole = torch.cat([f[0] for f in found]), sum(f[1] for f in found), sum(f[2] for f in found)
    for actual, expected in zip(whole, gradients_of(loss, x, y, scale), strict=True):
        torch.testing.assert_close(actual, expected)


def test_parts_of_the_rows_of_siglip_loss(device):
    op, scalars = F.siglip_loss.op, [torch.tensor(v, device=device, requires_grad=True) for v in (1.5, -0.5)]
    x, y = (torch.randn(9, 4, device=device, requires_grad=True) for _ in range(2))
    loss = F.siglip_loss(x, y, *scalars)
    parts = [op.forward(x[a:b], y, *scalars, options(op, first=a), MEAN, 0b1111) for a, b in BOUNDS]
    torch.testing.assert_close(sum(p[0] for p in parts), loss.detach())
    whole = [torch.cat([p[1] for p in parts]), *(sum(p[i] for p in parts) for i in (2, 3, 4))]
    for actual, expected in zip(whole, gradients_of(loss, x, y, *scalars), strict=True):
        torch.testing.assert_close(actual, expected)


def test_parts_of_the_rows_of_sup_con_loss(device):
    op, labels = F.sup_con_loss.op, torch.tensor([0, 1, 0, 2, 1, 1, 3, 0, 4], device=device)
    z = torch.randn(9, 4, device=device, requires_grad=True)
    loss = F.sup_con_loss(z, labels, temperature=0.5, normalize=False)
    each = [(z[a:b], labels[a:b], z, labels, options(op, first=a, temperature=0.5)) for a, b in BOUNDS]
    parts = [op.forward(*given, SUM, 0) for given in each]
    statistics = torch.cat([p[1] for p in parts])
    torch.testing.assert_close(sum(p[0] for p in parts) / (statistics[:, 1] != 0).sum(), loss.detach())
    found = [op.backward(loss.new_ones(()), statistics, *given, MEAN, 1)[0] for given in each]
    torch.testing.assert_close(torch.cat(found), gradients_of(loss, z)[0])


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_the_classes(dtype, bias, softcap, device):
    op, ops = F.linear_cross_entropy.op, emulated_device.ops()
    x, w = torch.randn(6, 4, device=device).to(dtype), torch.randn(9, 4, device=device).to(dtype)
    b = torch.randn(9, device=device).to(dtype) if bias else None
    target = torch.tensor([0, 8, 3, 4, -100, 2], device=device)
    leaves = [t.requires_grad_() for t in (x, w, b) if t is not None]
    losses = F.linear_cross_entropy(x, w, target, linear_bias=b, softcap=softcap or None, reduction="none")
    g = torch.randn(6, device=device)
    expected = torch.autograd.grad(losses, leaves, g)
    sums, log_sums = [], []
    for low, high in BOUNDS:
        own = (target - low).clamp(0, high - low - 1)
        part = ops.linear_log_sums(x, w[low:high], own, None if b is None else b[low:high], softcap)
        log_sums.append(part[:, 0])
        sums.append(torch.where((low <= target) & (target < high), part[:, 1], 0))
    whole = torch.stack(log_sums).logsumexp(0)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(torch.where(target >= 0, whole - sum(sums), 0), losses.detach(), **tolerance)
    found = []
    for i, (low, high) in enumerate(BOUNDS):
        rest = torch.stack(log_sums[:i] + log_sums[i + 1 :]).logsumexp(0)
        index = torch.where((low <= target) & (target < high), target - low, high - low).where(target >= 0, -100)
        found.append(
            op.backward(g, x, w[low:high], index, None if b is None else b[low:high], None, rest,
                        options(op, ignore_index=-100.0, softcap=softcap), NONE, 0b1011 if bias else 0b11)
        )  # fmt: skip
    merged = [sum(f[0].float() for f in found), *(torch.cat([f[i] for f in found]) for i in range(1, len(leaves)))]
    eps = 1e-5 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps
    for actual, of_all in zip(merged, expected, strict=True):
        torch.testing.assert_close(actual.to(dtype), of_all, rtol=eps, atol=eps * of_all.abs().max().item())


def test_what_parts_refuse(device):
    op, ops = F.linear_cross_entropy.op, emulated_device.ops()
    x, w, index = torch.randn(3, 4, device=device), torch.randn(5, 4, device=device), torch.zeros(3).long().to(device)
    given = options(op, ignore_index=-100.0)
    for elsewhere in (torch.zeros(2, device=device), torch.zeros(3, device=device, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="expected class indices, and elsewhere of 3 elements"):
            op.forward(x, w, index, None, None, elsewhere, given, MEAN, 0)
    with pytest.raises(RuntimeError, match="expected linear_bias of shape"):
        ops.linear_log_sums(x, w, index, x[0], 0.0)
    with pytest.raises(RuntimeError, match="linear_log_sums: expected linear_bias of"):
        ops.linear_log_sums(x, w, index, w[:, 0].double(), 0.0)
    with pytest.raises(RuntimeError, match="linear_log_sums: expected class_index of 3 int64 elements"):
        ops.linear_log_sums(x, w, index[:2], None, 0.0)
    with pytest.raises(RuntimeError, match=r"linear_log_sums: expected input of shape \(N, D\)"):
        ops.linear_log_sums(x, w[:, :3], index, None, 0.0)
