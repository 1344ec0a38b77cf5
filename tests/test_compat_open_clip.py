"""compat.open_clip against open_clip 3.3.0: value, gradients, shape, dtype and exception over a grid of options."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peers import assert_same, assert_same_signature, combinations, fallbacks, modules_of, required  # noqa: F401

from fused_losses.compat import open_clip as ours

theirs = required("open_clip.loss", "3.3.0")
both = modules_of(ours, theirs)
NAMES = ours.__all__


def features(n=6, d=4, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=dtype)).requires_grad_()


def scale(value, dtype=torch.float64, shape=()):
    return torch.full(shape, value, dtype=dtype).requires_grad_()


def of_given(loss, tensors, *_):
    return loss(*tensors)


def biases(name):
    return [None] if name == "ClipLoss" else [None, -3.0, scale(-3.0)]


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    assert_same_signature(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("name", NAMES)
def test_values(name, fallbacks):  # noqa: F811
    for case in combinations(n=[1, 6, 33], bias=biases(name), scale=[7.5, scale(7.5), scale(7.5, shape=(1,))]):
        tensors = [features(case["n"]), features(case["n"]), case["scale"], case["bias"]]
        leaves = [t for t in tensors if isinstance(t, torch.Tensor)]
        pair = [partial(of_given, loss, tensors) for loss in both(name)]
        assert_same(*pair, *leaves, label=str(case))
    assert not fallbacks


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary(name, fallbacks):  # noqa: F811
    x, y = features(), features()
    found, expected = (getattr(m, name)(cache_labels=True)(x, y, 3.0, None, True) for m in (ours, theirs))
    assert found.keys() == expected.keys()
    assert found["contrastive_loss"].item() == pytest.approx(expected["contrastive_loss"].item())
    assert not fallbacks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_scale, shape", [(torch.float32, ()), (torch.float32, (1,)), (None, ())])
def test_dtypes(name, dtype, of_scale, shape, fallbacks):  # noqa: F811
    x, y, a = features(dtype=dtype), features(dtype=dtype), scale(2.0, of_scale or dtype, shape)
    if dtype is not torch.float32 and shape:
        pytest.skip("the library multiplies float32 by a half")
    found = getattr(ours, name)()(x, y, a, None)
    expected = getattr(theirs, name)()(x, y, a, None)
    assert found.dtype is expected.dtype
    assert found.item() == pytest.approx(expected.item(), rel=64 * torch.finfo(dtype).eps)
    assert not fallbacks


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name, fallbacks):  # noqa: F811
    x, y = features(64, 32, torch.float32), features(64, 32, torch.float32)
    gradients = []
    for losses in (ours, theirs):
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            getattr(losses, name)()(x, y, 4.0, None).float().backward()
        gradients.append(x.grad)
    assert gradients[0].dtype is gradients[1].dtype is torch.float32
    assert torch.allclose(*gradients, rtol=0.1, atol=0.02 * gradients[1].abs().max().item())
    assert not fallbacks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of_scale", [torch.float32, torch.float64])
def test_autocast_leaves_float64_alone(name, of_scale, fallbacks):  # noqa: F811
    tensors = [features(), features(), scale(2.0, of_scale)]
    pair = [lambda *tensors, loss=loss: loss(*tensors, None) for loss in both(name)]
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(*pair, *tensors)
    assert not fallbacks


X, Y = features(), features()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arguments", [
    (X, Y), (X, Y[:3], 1.0, None), (X, Y[:, :2], 1.0, None), (X, Y.float(), 1.0, None), (X, 3.0, 1.0, None),
    (X, Y, torch.ones(2), None),
])  # fmt: skip
def test_exceptions_and_other_shapes(name, arguments):
    answers = []
    for losses in (ours, theirs):
        try:
            answers.append(getattr(losses, name)()(*arguments).item())
        except Exception as error:
            answers.append(type(error))
    assert answers[0] == pytest.approx(answers[1]) if isinstance(answers[1], float) else answers[0] is answers[1]


def test_what_goes_to_the_library(fallbacks):  # noqa: F811
    b = scale(-3.0)
    assert_same(ours.ClipLoss(), theirs.ClipLoss(), X, Y, scale(3.0), b)
    assert b.grad.abs() < 1e-12
    assert [str(refusal) for refusal in fallbacks] == ["logit_bias"]
    with pytest.raises(AssertionError):
        ours.SigLipLoss(dist_impl="other")
