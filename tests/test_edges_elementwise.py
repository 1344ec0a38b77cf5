"""Edges of elementwise losses and row sums: what a kernel refuses, and values where a formula overflows first."""

from __future__ import annotations

import math

import pytest
import torch
from cases import each_dtype

from fused_losses import functional as F
from fused_losses import reference

BINARY = ["binary_cross_entropy_with_logits", "weighted_binary_cross_entropy_with_logits", "sigmoid_focal_loss"]
ON_PROBABILITIES = ["binary_cross_entropy", "weighted_binary_cross_entropy"]
MASKS = (torch.bool, torch.uint8, torch.int32, torch.int64)
each_mask_dtype = pytest.mark.parametrize("dtype", MASKS, ids=[str(d).removeprefix("torch.") for d in MASKS])


def draw(n=2500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=generator), torch.randint(0, 2, (n,), generator=generator)


@pytest.mark.parametrize("name", BINARY + ON_PROBABILITIES)
@each_mask_dtype
def test_a_mask_of_any_integer_dtype_is_the_mask_as_floats(name, dtype):
    x, mask = draw()
    losses = [getattr(F, name)(x, t, reduction="none") for t in (mask.to(dtype), mask.float())]
    assert torch.equal(*losses)


@pytest.mark.promise(
    "What is refused",
    "An integer target of a binary loss holds 0, 1 and `ignore_index`; anything else is an error that names it "
    "and its place.",
)
@pytest.mark.parametrize("name", BINARY + ON_PROBABILITIES)
@pytest.mark.parametrize("dtype", MASKS[1:], ids=[str(d).removeprefix("torch.") for d in MASKS[1:]])
@pytest.mark.parametrize("at", [0, 1023, 1024, 2499])
def test_a_mask_of_other_values_is_refused(name, dtype, at):
    x, mask = draw()
    mask[at] = 255
    with pytest.raises(
        RuntimeError, match=rf"{name}: expected an integer target to be .*, got 255 at flat index {at}$"
    ):
        getattr(F, name)(x, mask.to(dtype), reduction="mean")


@pytest.mark.promise(
    "What is refused",
    "Probabilities outside [0, 1] are refused also where plain PyTorch computes the loss, for a gradient that no "
    "kernel has.",
)
@pytest.mark.parametrize("name", ON_PROBABILITIES)
def test_values_are_looked_at_whoever_computes(name, device):
    """The gradient of the target is the reference's, in plain PyTorch: the same values are refused."""
    x, mask = draw(40)
    target = mask.float().requires_grad_()
    assert torch.equal(getattr(F, name)(x, target), getattr(reference, name)(x, target))
    with pytest.raises(RuntimeError, match=r"expected input in|valid_input"):
        getattr(F, name)(x + 1, target)


def without_a_look(name, input, target, **options):
    """The losses of elements where nobody looks at values: of the reference, and inside two transforms."""
    keywords = {"reduction": "none", **options}
    yield getattr(reference, name)(input, target, **keywords)
    fused = lambda x, t: getattr(F, name)(x, t, **keywords)  # noqa: E731
    yield torch.func.vmap(fused)(input, target)
    yield torch.func.jvp(lambda x: fused(x, target), (input,), (torch.ones_like(input),))[0]


@pytest.mark.promise(
    "What is refused",
    "Where nobody looks at values, an element that a kernel refuses has a loss of NaN and its neighbours keep theirs.",
)
@pytest.mark.parametrize("name", [*BINARY, *ON_PROBABILITIES, "hinge_loss"])
def test_a_value_nobody_looked_at_is_nan(name):
    x, mask = draw(6)
    right = 2 * mask - 1 if name == "hinge_loss" else mask
    wrong = right.clone()
    wrong[2] = 255
    targets = [wrong] if name in BINARY else [wrong, wrong.float()]
    expected = getattr(F, name)(x, right, reduction="none")
    expected[2] = math.nan
    for target in targets:
        for found in without_a_look(name, x, target):
            torch.testing.assert_close(found, expected, equal_nan=True)
    if name in ON_PROBABILITIES:
        x[2] = 1.5
        for found in without_a_look(name, x, right.float()):
            torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("name", BINARY[1:])
def test_the_ignored_value_of_a_mask_is_not_refused(name):
    x, mask = draw()
    mask[7] = 255
    found = getattr(F, name)(x, mask.to(torch.uint8), reduction="none", ignore_index=255)
    assert found[7].item() == 0
    expected = getattr(F, name)(x, mask.float(), reduction="none", ignore_index=255)
    assert torch.equal(found, expected)
    for plain in without_a_look(name, x, mask.to(torch.uint8), ignore_index=255):
        torch.testing.assert_close(plain, expected)


@pytest.mark.promise("What is taken", "A floating target of a loss on logits may be any number.")
@pytest.mark.parametrize("name", BINARY)
def test_a_soft_target_beyond_the_ends_is_taken_as_it_is(name):
    """On logits torch takes any number; only integers are read as a mask."""
    x, _ = draw(8)
    target = torch.linspace(-0.5, 1.5, 8)
    expected = getattr(reference, name)(x.double(), target.double(), reduction="none")
    torch.testing.assert_close(getattr(F, name)(x, target, reduction="none").double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.promise(
    "What is refused",
    "Probabilities and targets outside [0, 1] are refused by the two losses on probabilities, as torch refuses them.",
)
@pytest.mark.parametrize("name", ON_PROBABILITIES)
@pytest.mark.parametrize("wrong", [-1e-6, 1.0 + 1e-6, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["input", "target"])
def test_a_number_that_is_no_probability_is_refused(name, wrong, which):
    x, mask = draw()
    arguments = {"input": x, "target": mask.float()}
    arguments[which][1500] = wrong
    with pytest.raises(RuntimeError, match=rf"{name}: expected {which} in \[0, 1\], got .* at flat index 1500$"):
        getattr(F, name)(**arguments)


@pytest.mark.promise(
    "What is refused",
    "A reconstruction or target outside [0, 1] is refused by `vae_loss` of probabilities, also beside NaN and whoever "
    "computes.",
)
@pytest.mark.parametrize("features", [3, 70, 2500])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("which", ["reconstruction", "target"])
def test_a_picture_of_no_probabilities_is_refused(which, reduction, features):
    data = {name: torch.rand(5, features) for name in ("reconstruction", "target")}
    data["target"][3, 0] = math.nan
    code = torch.zeros(5, 2)
    assert F.vae_loss(**data, mu=code, logvar=code)[0].isnan()
    at = 4 * features - 1
    data[which].view(-1)[at] = 255.0
    message = rf"vae_loss: expected {which} in \[0, 1\], got 255 at flat index {at}$"
    for x in (data["reconstruction"], data["reconstruction"].half(), data["reconstruction"].clone().requires_grad_()):
        c = code.to(x.dtype)
        with pytest.raises(RuntimeError, match=message):
            F.vae_loss(x, data["target"], c, c, reduction=reduction)
    with pytest.raises(RuntimeError, match=message):  # the gradient of the target is that of plain PyTorch
        F.vae_loss(data["reconstruction"], data["target"].requires_grad_(), code, code, reduction=reduction)
    F.vae_loss(**data, mu=code, logvar=code, likelihood="gaussian")


def test_the_kernels_of_both_devices_refuse_such_a_picture(device):
    data, code = torch.rand(3, 40), torch.zeros(3, 2)
    with pytest.raises(RuntimeError, match=r"expected target|r\.value"):
        F.vae_loss(data, 255 * data, code, code)


@pytest.mark.promise("What is taken", "0, 1 and NaN are probabilities; NaN propagates.")
@pytest.mark.parametrize("name", ON_PROBABILITIES)
@each_dtype
def test_nan_and_the_ends_are_probabilities(name, dtype):
    """NaN propagates as everywhere."""
    x = torch.tensor([0.0, 1.0, math.nan, 0.5], dtype=dtype)
    t = torch.tensor([0.0, 1.0, 1.0, math.nan], dtype=dtype)
    found = getattr(F, name)(x, t, reduction="none")
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2:].isnan().all()


@pytest.mark.promise("Values and gradients", "A focal loss in float64 is right for logits whose loss no float32 holds.")
@pytest.mark.parametrize(
    "name, gamma", [("sigmoid_focal_loss", 2.5), ("sigmoid_focal_loss", 2), ("dice_focal_loss", 2)]
)
@pytest.mark.parametrize("logit", [-40.0, -103.0, -200.0])
def test_a_focal_loss_of_sure_logits_in_float64(name, gamma, logit, device):
    options = {"activation": "sigmoid", "smooth_nr": 0.0, "smooth_dr": 0.0} if name == "dice_focal_loss" else {}
    found = []
    for module, where in ((F, device), (reference, "cpu")):
        x = torch.full((1, 2, 3), logit, dtype=torch.float64, device=where, requires_grad=True)
        loss = getattr(module, name)(x, torch.zeros_like(x), gamma=gamma, **options).sum()
        loss.backward()
        found.append((loss.cpu(), x.grad.cpu()))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------ Gaussian KL


def gaussian_kl(function, mu, logvar, prior_mu, prior_logvar):
    tensors = [t.clone().requires_grad_() for t in (mu, logvar, prior_mu, prior_logvar)]
    loss = function(*tensors, reduction="none")
    return loss.detach(), torch.autograd.grad(loss.sum(), tensors)


@pytest.mark.promise("Values and gradients", "`gaussian_kl` of equal Gaussians is 0 however narrow they are.")
@pytest.mark.parametrize("function", [F.gaussian_kl, reference.gaussian_kl], ids=["fused", "reference"])
@each_dtype
def test_equal_gaussians_diverge_by_nothing_however_narrow(function, dtype, device):
    narrow = torch.tensor([[-30.0, -88.0, -90.0, -150.0, -500.0, -2000.0, -3e4]], dtype=dtype, device=device)
    mu = torch.linspace(-2, 2, narrow.numel(), device=device).to(dtype).reshape(narrow.shape)
    loss, gradients = gaussian_kl(function, mu, narrow, mu, narrow)
    assert loss.tolist() == [0.0]
    for gradient in gradients:
        assert (gradient == 0).all()


@pytest.mark.promise("Values and gradients", "`gaussian_kl` is finite wherever the exact value is.")
@pytest.mark.parametrize("function", [F.gaussian_kl, reference.gaussian_kl], ids=["fused", "reference"])
@pytest.mark.parametrize("prior_logvar, size", [(-80, 1e-3), (-80, 1e3), (-95, 1), (-120, 1), (-150, 1e3), (-165, 1e3)])
def test_gaussian_kl_is_finite_where_the_exact_value_is(function, prior_logvar, size, device):
    """e^-logvar alone overflows float32 from -88.8 on; (m - p)² e^-logvar need not."""
    d = size * math.exp(prior_logvar / 2)
    shape = [torch.full((1, 1), v, dtype=torch.float64) for v in (d, prior_logvar, 0.0, prior_logvar)]
    loss, gradients = gaussian_kl(function, *(t.float().to(device) for t in shape))
    exact_loss, exact_gradients = gaussian_kl(reference.gaussian_kl, *(t.float().double() for t in shape))
    torch.testing.assert_close(loss.double().cpu(), exact_loss, rtol=2e-6, atol=0)
    for found, exact in zip(gradients, exact_gradients, strict=True):
        if exact.abs().item() < torch.finfo(torch.float32).max:
            torch.testing.assert_close(found.double().cpu(), exact, rtol=3e-6, atol=0)
