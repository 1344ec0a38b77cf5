"""Rows over their norms, the first operation of losses of embeddings, against torch's normalize."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as T
from emulated_device import ops
from independent import each_dtype

from fused_losses import _C
from fused_losses import functional as F
from fused_losses.chunked._shared import unit_rows


@pytest.mark.parametrize("shape", [(5, 7), (4, 512), (4, 4104), (4, 4099), (2, 2, 24), (0, 3), (3, 0)], ids=str)
@each_dtype
def test_unit_rows(dtype, shape, device):
    """Values and gradients of torch's own, also of rows below the least norm, of zeros, infinities and NaN."""
    x = torch.randn(shape, device=device).to(dtype)
    if x.numel():
        x.view(-1, shape[-1])[:4] *= torch.tensor([[1.0], [0.0], [1e-14], [1.0]], device=device).to(dtype)
        x.view(-1, shape[-1])[3, 2] = math.nan if shape[-1] % 2 else math.inf
    grad = torch.randn(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))

    def of(normalize, leaf):
        leaf = leaf.detach().requires_grad_()
        rows = normalize(leaf)
        return rows, torch.autograd.grad(rows, leaf, grad)[0]

    expected = of(lambda leaf: T.normalize(leaf.to(grad.dtype), dim=-1), x)
    unaligned = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)
    for given in (x, unaligned, x.transpose(0, -1).contiguous().transpose(0, -1)):
        torch.testing.assert_close(of(unit_rows, given), expected, equal_nan=True)


def test_what_unit_rows_refuse(device):
    x = torch.randn(3, 4, device=device)
    rows, norms = ops().unit_rows(x)
    torch.testing.assert_close(norms, x.norm(dim=1, keepdim=True))
    with pytest.raises(RuntimeError, match="unit_rows: expected input of a floating dtype"):
        ops().unit_rows(x.long())
    with pytest.raises(RuntimeError, match="unit_rows: expected input of one dimension at least"):
        ops().unit_rows(x[0, 0])
    with pytest.raises(RuntimeError, match=r"expected rows of shape \(3, 4\), got \(2, 4\)"):
        ops().unit_rows_backward(x, rows[:2], norms, x)
    with pytest.raises(RuntimeError, match=r"expected grad_output of shape \(3, 4\), got \(4,\)"):
        ops().unit_rows_backward(x[0], rows, norms, x)
    with pytest.raises(RuntimeError, match="unit_rows_backward: expected 3 norms, got"):
        ops().unit_rows_backward(x, rows, norms[:2], x)
    with pytest.raises(RuntimeError, match="expected every tensor but input in the accumulation dtype"):
        ops().unit_rows_backward(x.double(), rows, norms, x)


@pytest.mark.not_emulated
def test_threads_and_instruction_sets_of_unit_rows(every_isa, device):
    x, grad = (torch.randn(700, 300, device=device) for _ in range(2))

    def both():
        leaf = x.clone().requires_grad_()
        rows = unit_rows(leaf)
        return torch.cat([rows, torch.autograd.grad(rows, leaf, grad)[0]])

    for isa in every_isa:
        _C.set_cpu_isa(isa)
        found = [(torch.set_num_threads(threads), both())[1] for threads in (1, 2, 3)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        torch.testing.assert_close(found[0][:700], T.normalize(x))


def test_derivatives_of_unit_rows(device):
    x = torch.randn(3, 4, device=device, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(unit_rows, x, check_batched_grad=True)


def test_second_derivatives_at_a_row_of_zeros(device):
    """There the norm is a constant: kernels, plain PyTorch and torch.func agree."""
    x = torch.randn(3, 4, device=device, dtype=torch.float64)
    x[1] = 0
    x.requires_grad_()

    def slopes(x):
        (found,) = torch.autograd.grad(unit_rows(x).pow(3).sum(), x, create_graph=True)
        return found

    eager = torch.autograd.grad(slopes(x).sum(), x)[0]
    plain = torch.func.grad(lambda x: torch.func.grad(lambda x: unit_rows(x).pow(3).sum())(x).sum())(x.detach())
    assert plain.isfinite().all()
    torch.testing.assert_close(eager, plain)


def test_compiled_backward_of_unit_rows(device):
    x = torch.randn(4, 5, device=device, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1], device=device)
    expected = torch.autograd.grad(F.sup_con_loss(x, labels), x)[0]
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        F.sup_con_loss(x, labels).backward()
    torch.testing.assert_close(x.grad, expected)
