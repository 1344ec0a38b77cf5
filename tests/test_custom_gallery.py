"""Every loss of the gallery against its plain form: values, gradients, second derivatives, dtypes, layouts."""

from __future__ import annotations

import inspect

import gallery
import pytest
import torch
from tolerances import assert_agrees

from fused_losses.custom.formula import as_written

LOSSES = [value for value in vars(gallery).values() if hasattr(value, "custom")]
ELEMENTWISE = [loss for loss in LOSSES if loss.custom.functor.family == "elementwise"]
EXPONENT = 16.0  # the largest argument of an exponential in the examples
POSITIVE, PROBABILITY, SIGN, COUNT = {"scale"}, {"symmetric_bce"}, {"modified_huber"}, {"poisson_nll"}


def tensors_of(loss) -> list[str]:
    parameters = inspect.signature(loss).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def example(loss, shape=(3, 7), dtype=torch.float64) -> list[torch.Tensor]:
    made = []
    for name in tensors_of(loss):
        x = 2 * torch.randn(shape, dtype=torch.float64)
        if name == "target" and loss.custom.functor.differentiable == "input":
            x = (x > 0).double()
        if loss.__name__ in PROBABILITY and name == "target":
            x = torch.rand(shape, dtype=torch.float64)
        if loss.__name__ in SIGN and name == "target":
            x = 2 * x - 1
        if loss.__name__ in COUNT and name == "target":
            x = torch.poisson(torch.full(shape, 3.0, dtype=torch.float64))
        if name in POSITIVE:
            x = x.abs() + 0.1
        made.append(x.to(dtype))
    differentiable = loss.custom.op.differentiable
    slots = loss.custom.op.tensors
    return [x.requires_grad_(bool(differentiable >> slots.index(n) & 1)) for n, x in zip(tensors_of(loss), made)]


def wanted(tensors) -> list[torch.Tensor]:
    return [t for t in tensors if t.requires_grad]


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
class TestElementwise:
    def test_values_and_gradients(self, gallery_built, loss):
        """In float64 and float32, of every reduction, with and without a weight: as the function written out."""
        for dtype in (torch.float64, torch.float32):
            tensors = example(loss, dtype=dtype)
            wide = [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]
            weight, plain = torch.rand(7, dtype=dtype), loss.reference(*wide)
            for w in (None, weight):
                weighted = plain if w is None else plain * w.double()
                for reduction, expected in (("none", weighted), ("sum", weighted.sum()), ("mean", weighted.mean())):
                    got = loss(*tensors, reduction=reduction, weight=w)
                    assert "FusedLoss" in got.grad_fn.name()
                    assert_agrees(got, expected, dtype, 21, magnitude=EXPONENT)
                    upstream = torch.randn_like(got)
                    found = torch.autograd.grad(got, wanted(tensors), upstream)
                    correct = torch.autograd.grad(expected, wanted(wide), upstream.double(), retain_graph=True)
                    for a, b in zip(found, correct):
                        assert_agrees(a, b, dtype, magnitude=EXPONENT)

    def test_derivatives_of_any_order(self, gallery_built, loss):
        tensors = example(loss, shape=(2, 3))
        assert torch.autograd.gradcheck(loss, tensors)
        assert torch.autograd.gradgradcheck(loss, tensors)

    def test_half_precision(self, gallery_built, loss):
        """The loss in float32 of the values as stored, gradients in the tensor's dtype."""
        for dtype in (torch.float16, torch.bfloat16):
            tensors = example(loss, dtype=dtype)
            wide = [t.detach().float().requires_grad_(t.requires_grad) for t in tensors]
            got, expected = loss(*tensors), loss(*wide)
            assert got.dtype is torch.float32
            assert_agrees(got, expected, torch.float32)
            for a, b in zip(torch.autograd.grad(got, wanted(tensors)), torch.autograd.grad(expected, wanted(wide))):
                assert a.dtype is dtype
                assert_agrees(a, b, dtype)

    def test_layouts(self, gallery_built, loss):
        """A transposed tensor as its contiguous copy, more elements than one block, any number of them."""
        tensors = [t.detach() for t in example(loss, shape=(61, 53), dtype=torch.float32)]
        strided = [t.t().contiguous().t() for t in tensors]
        assert torch.equal(loss(*strided, reduction="none"), loss(*tensors, reduction="none"))
        nothing = [t[:0] for t in tensors]
        assert torch.isnan(loss(*nothing))
        assert loss(*nothing, reduction="sum") == 0


def same(loss, tensors, labels=(), **options):
    """Values and gradients in float64 and float32 of the compiled loss and of its plain form."""
    for dtype in (torch.float64, torch.float32):
        given = [t.to(dtype).requires_grad_() for t in tensors]
        wide = [t.detach().double().requires_grad_() for t in given]
        for reduction in ("none", "sum", "mean"):
            chosen = {**loss.__kwdefaults__, **options, "reduction": reduction}
            names = tensors_of(loss)
            with as_written():
                expected = loss.op.reference(**dict(zip(names, [*wide, *labels])), **chosen)
            got = loss(*given, *labels, **{**options, "reduction": reduction})
            assert "FusedLoss" in got.grad_fn.name()
            assert_agrees(got, expected, dtype, expected.numel(), magnitude=EXPONENT)
            upstream = torch.randn_like(got)
            found = torch.autograd.grad(got, given, upstream)
            for a, b in zip(found, torch.autograd.grad(expected, wide, upstream.double())):
                assert_agrees(a, b, dtype, magnitude=EXPONENT)


def differentiable(loss, tensors, labels=(), **options):
    wide = [t.double().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, *labels, **options), wide)
    assert torch.autograd.gradgradcheck(lambda *x: loss(*x, *labels, **options), wide)


def of_family(family):
    return [loss for loss in LOSSES if loss.custom.functor.family == family]


@pytest.mark.parametrize("loss", of_family("softmax"), ids=lambda f: f.__name__)
def test_softmax(gallery_built, loss):
    x, index = torch.randn(4, 5, 3), torch.randint(0, 5, (4, 3))
    same(loss, [x], [index])
    same(loss, [x], [index], weight=torch.rand(5), label_smoothing=0.1, ignore_index=2)
    same(loss, [torch.randn(3, 40)], [torch.rand(3, 40).softmax(1)])  # no whole number of vectors
    same(loss, [torch.randn(3, 100)], [torch.randint(0, 100, (3,))], label_smoothing=0.1)
    differentiable(loss, [x[:2, :, 0]], [index[:2, 0]], weight=torch.rand(5), label_smoothing=0.1)
    log_p = x.double().log_softmax(1).gather(1, index.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(loss(x.double(), index, reduction="none"), loss.reference(log_p, log_p.exp()))


@pytest.mark.parametrize("loss", of_family("overlap"), ids=lambda f: f.__name__)
def test_overlap(gallery_built, loss):
    x, index = torch.randn(2, 3, 4, 5), torch.arange(40).view(2, 4, 5) % 3  # every class is in every sample
    dense = (torch.rand(2, 3, 4, 5) > 0.5).float()
    same(loss, [x], [dense])
    same(loss, [x], [index], activation="softmax", batch=True, include_background=False, weight=torch.rand(2))
    sums = [(x.double().sigmoid() * dense).sum((2, 3)), x.double().sigmoid().sum((2, 3)), dense.double().sum((2, 3))]
    count = [20.0] if "count" in inspect.signature(loss.reference).parameters else []
    torch.testing.assert_close(loss(x.double(), dense, reduction="none"), loss.reference(*sums, *count))
    if count:
        with pytest.raises(ValueError, match="expected ignore_index None for a function of the count, got 1"):
            loss(x, index, ignore_index=1)
    else:
        same(loss, [x], [index.where(index + x[:, 0] < 2.5, 255)], ignore_index=255)
    differentiable(loss, [x[..., 0]], [index[..., 0]], weight=torch.rand(3))


@pytest.mark.parametrize("loss", of_family("row_sums"), ids=lambda f: f.__name__)
def test_row_sums(gallery_built, loss):
    labels = [torch.tensor([0, 1, 1, 0])] * (loss is gallery.mahalanobis_hinge)
    for length in (6, 100):
        same(loss, list(torch.randn(3, 4, length)), labels)
    differentiable(loss, list(torch.randn(3, 4, 2)), labels)
