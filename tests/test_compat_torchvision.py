"""compat.torchvision against torchvision: value, gradients, shape, dtype and exception over a grid of options."""

from __future__ import annotations

import pytest
import torch
from peers import assert_rounded_once, assert_same, assert_same_signature, combinations, fallbacks, required  # noqa: F401

from fused_losses.compat import torchvision as ours

theirs = required("torchvision.ops.focal_loss", "0.28")

GRID = combinations(alpha=[-1, 0, 0.25, 1.0], gamma=[0, 1.0, 2, 2.5], reduction=["none", "mean", "sum"])


def test_signature():
    assert_same_signature(ours.sigmoid_focal_loss, theirs.sigmoid_focal_loss)


@pytest.mark.parametrize("shape", [(2, 3, 5), (7,), (), (0, 4)])
@pytest.mark.parametrize("soft", [False, True])
def test_values(shape, soft, fallbacks):  # noqa: F811
    for options in GRID:
        x = torch.randn(shape, dtype=torch.float64).requires_grad_()
        t = torch.rand(shape, dtype=torch.float64)
        t = t.requires_grad_() if soft else t.round()
        pair = [lambda x, t, f=m.sigmoid_focal_loss, o=options: f(x, t, **o) for m in (ours, theirs)]
        assert_same(*pair, x, t, label=str(options))
    assert not fallbacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("other", [None, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes(dtype, other, autocast, fallbacks):  # noqa: F811
    x = torch.randn(3, 5, dtype=dtype).requires_grad_()
    t = torch.rand(3, 5).round().to(other or dtype)
    assert_rounded_once(ours.sigmoid_focal_loss, theirs.sigmoid_focal_loss, x, t, autocast=autocast)
    assert not fallbacks


X, T = torch.randn(3, 4), torch.ones(3, 4)


@pytest.mark.parametrize("arguments, options", [
    ((X, T), {"alpha": 1.5}), ((X, T), {"alpha": -0.5}), ((X, T), {"reduction": "batchmean"}), ((X, T[:2]), {}),
    ((X, T.long()), {}), ((X, T.bool()), {}), ((X,), {}), (([1.0], T), {}),
])  # fmt: skip
def test_exceptions(arguments, options):
    with pytest.raises(Exception) as expected:
        theirs.sigmoid_focal_loss(*arguments, **options)
    with pytest.raises(type(expected.value)):
        ours.sigmoid_focal_loss(*arguments, **options)
