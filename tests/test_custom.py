"""Custom losses beside their formulas: what is rewritten, how they are compiled and found (not what is refused)."""

from __future__ import annotations

import functools
import math
import re

import gallery
import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_agrees

from fused_losses import custom
from fused_losses.custom.ahead import build_losses

# ---- What is rewritten: careless formulas stay finite, value and gradient. ----


@custom.elementwise(differentiable=("input",))
def careless(input, target):
    p = torch.sigmoid(input)
    return (
        -target * torch.log(p)
        - (1 - target) * torch.log(1 - p)
        + torch.log1p(torch.exp(input))
        + 1 / (1 + torch.exp(-input))
    )


@custom.elementwise(differentiable=("input",))
def of_probability(input, target):
    return F.binary_cross_entropy(input, target, reduction="none")


def test_careless_formulas_of_logits_are_rewritten():
    assert not any(name in careless.source for name in ("log_(", "log1p_(", "exp_("))
    assert careless.source.count("sigmoid_terms(") == 1


CARELESS = {
    "binary cross-entropy": lambda x, t: -(t * torch.sigmoid(x).log() + (1 - t) * (1 - torch.sigmoid(x)).log()),
    "the softplus of a log": lambda x, t: torch.log(1 + torch.exp(x - t)),
    "of a log1p": lambda x, t: torch.log1p(torch.exp(t - x)),
    "ranking": lambda x, t: -torch.log(torch.sigmoid(x - t)),
    "a quotient": lambda x, t: torch.exp(x) / (1 + torch.exp(x)) * t,
}


@pytest.mark.parametrize("scale", [13, 1000])
@pytest.mark.parametrize("formula", CARELESS.values(), ids=CARELESS)
def test_what_is_rewritten_is_read_at_any_scale(formula, scale):
    """Where as it is written it cancels and overflows."""
    made = custom.elementwise(lambda x, t: formula(scale * x - 10, scale * t), name="made")
    assert "sigmoid_terms(" in made.source


def test_losses_of_probabilities_are_torch_s_at_0_and_1(custom_folder):
    """Also their gradients, which the logarithm's rule would make NaN there."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.3], dtype=torch.float64)
    found, expected = of_probability(p, t, reduction="none"), F.binary_cross_entropy(p, t, reduction="none")
    torch.testing.assert_close(found, expected)
    for losses in (found, expected):
        assert torch.autograd.grad(losses.sum(), p)[0].tolist() == pytest.approx([0, 1e12, -1e12, 0, 0.8])


def test_what_options_decide_makes_no_branch():
    """Around which gcc would make no vectors: masks in its place, and one comparison of a clamp instead of two."""
    for power in (gallery.poly1_focal, gallery.general_robust, gallery.tempered_bce):
        assert "choose(" in power.source
        assert not re.search(r"\bm\d+ \?", power.source)
    assert gallery.tukey.source.count(" ? ") == 1


def test_what_is_rewritten_is_so_in_plain_pytorch(made):
    """Where the kernel does not serve: derivatives of higher order, transforms, a weight that learns, tracing."""
    loss, t = made["overflowing"], torch.tensor([1.0, 0.0, 0.5])
    x = torch.tensor([100.0, 120.0, -150.0], requires_grad=True)
    weight = torch.ones(3, requires_grad=True)
    value, slope = torch.tensor([0.0, 120.0, 75.0]), torch.tensor([0.0, 1.0, -0.5])
    slopes = torch.func.grad(lambda x: loss(x, t, reduction="sum"))
    torch.testing.assert_close(loss(x, t, weight=weight, reduction="none"), value)
    torch.testing.assert_close(torch.vmap(loss)(x, t), value)
    traced = torch.jit.trace(lambda x, t: loss(x, t, reduction="none"), (x.detach(), t), check_trace=False)
    torch.testing.assert_close(traced(x.detach(), t), value)
    torch.testing.assert_close(slopes(x.detach()), slope)
    compiled = torch.compile(lambda x: loss(x, t, weight=weight, reduction="sum"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], slope)
    first = torch.autograd.grad(loss(x, t, reduction="sum"), x, create_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], torch.zeros(3))


def test_what_a_function_takes_from_outside_is_constant(custom_folder):
    """For the kernel and for plain PyTorch, in every family."""
    outside = {"power": 2.0}
    power = lambda: outside["power"]  # noqa: E731
    x, t = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    labels = torch.tensor([0, 2])
    losses = (
        (custom.elementwise(lambda x, t: (x - t).abs() ** power(), name="a"), lambda f, x: f(x, t)),
        (custom.softmax(lambda log_p, p: (1 - p) ** power(), name="b"), lambda f, x: f(x, labels)),
        (custom.overlap(lambda i, p, g: 1 - (i / (p + g)) ** power(), name="c"), lambda f, x: f(x, t.round())),
        (
            custom.row_sums(lambda total: total ** power(), term=lambda a, b: (a - b).abs() ** power(), name="d"),
            lambda f, x: f(x, t),
        ),
    )
    build_losses([loss.custom for loss, _ in losses])
    for loss, call in losses:
        called = functools.partial(call, loss)
        expected = called(x)
        slope = torch.autograd.grad(called(y := x.clone().requires_grad_()), y)[0]
        outside["power"] = 3.0
        torch.testing.assert_close(torch.vmap(called)(x.unsqueeze(0))[0], expected)
        torch.testing.assert_close(torch.func.grad(called)(x), slope)
        outside["power"] = 2.0


def test_a_number_of_a_branch_keeps_its_digits(made):
    """Torch makes float32 of two numbers, the kernel none."""
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    expected = torch.tensor([0.1, -0.7], dtype=torch.float64)
    for found in (made["of_two_numbers"](x, reduction="none"), torch.vmap(made["of_two_numbers"])(x)):
        torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)


def test_common_pieces_are_computed_once():
    assert gallery.log_cosh.source.count("sigmoid_terms(") == 1
    assert (
        gallery.distillation.source.count("sigmoid_terms(") == 3
    )  # of the logits as they are and divided; the teacher's


# ---- Every function a formula may have. ----

UNARY = (
    "neg abs exp expm1 log log1p sqrt tanh sin cos tan asin acos atan sinh cosh asinh atanh erf erfc floor ceil trunc "
    "round sgn sign sigmoid reciprocal rsqrt square exp2 log2 log10 relu"
).split()
FUNCTIONS = {name: getattr(torch, name) for name in UNARY} | {
    "acosh": lambda x: torch.acosh(x + 1),
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": F.elu,
    "celu": lambda x: F.celu(8 * x - 4, 0.5),
    "selu": lambda x: F.selu(x - 0.5),
    "sinc": torch.sinc,
    "huber": lambda x: F.huber_loss(x, 1 - x, reduction="none", delta=0.3),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, 1 - x, reduction="none", beta=0.3),
    "a power below 0": lambda x: x**-2.5 + x**-3,
    "a sum of truth values": lambda x: x * ((x > 0.2) + (x > 0.6)),
    "a product of truth values": lambda x: x * ((x > 0.2) * (x < 0.6) + (x > 0.1)),
    "leaky_relu": F.leaky_relu,
    "pow": lambda x: x**2.5,
    "pow of a number": lambda x: 2.5**x,
    "remainder": lambda x: torch.remainder(x, 0.3),
    "maximum": lambda x: torch.maximum(x, x * x + 0.2),
    "atan2": lambda x: torch.atan2(x, 1 - x),
    "logaddexp": lambda x: torch.logaddexp(x, 1 - x),
    "xlogy": lambda x: torch.xlogy(x, 1 - x),
    "clamp": lambda x: x.clamp(0.3, 0.6),
    "a clamp of a number": lambda x: torch.clamp(torch.tensor(1.0), max=2 * x) * x,
    "a comparison of a number": lambda x: torch.where(torch.lt(torch.tensor(0.4), x), x, 1 - x),
    "relu6": lambda x: F.relu6(8 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.4, 0.4),
    "fmod": lambda x: torch.fmod(-x, 0.3),
    "erf beyond 1": lambda x: torch.erf(4.2 * x),
    "erf below -1": lambda x: torch.erf(-4.2 * x),
}  # fmt: skip


@custom.elementwise(differentiable=("input",))
def every_function(input, which):
    found = torch.zeros_like(input)
    for number, function in enumerate(FUNCTIONS.values()):
        found = torch.where(which == number, function(input), found)
    return found


def test_every_function_is_torch_s(custom_folder):
    """Value and derivative of each, within the domain of all."""
    for dtype in (torch.float64, torch.float32):
        x = (0.05 + 0.9 * torch.rand(64, dtype=dtype)).requires_grad_()
        wide = x.detach().double().requires_grad_()
        for number, (name, function) in enumerate(FUNCTIONS.items()):
            which = torch.full_like(x, number).detach()
            found, expected = every_function(x, which, reduction="none"), function(wide)
            assert "FusedLoss" in found.grad_fn.name()
            assert_agrees(found, expected, dtype, label=name)
            if expected.requires_grad:
                slopes = torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(expected.sum(), wide)[0]
                assert_agrees(*slopes, dtype, label=f"derivative of {name}")


KINKS = {
    **{f.__name__: f for f in (F.elu, F.selu, F.celu, F.relu6, F.hardtanh, F.hardsigmoid, F.hardswish, torch.sinc)},
    "elu of 0.7": lambda x: F.elu(x, 0.7),
    "a root of a cube": lambda x: x.abs() ** 1.5,
    "an inverse root": lambda x: (1 + x.abs()) ** -1.5,
    "huber": lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none", delta=3.0),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x),
}


@custom.elementwise(differentiable=("input",))
def every_kink(input, which):
    found = torch.zeros_like(input)
    for number, function in enumerate(KINKS.values()):
        found = torch.where(which == number, function(input), found)
    return found


def test_kinks_and_far_values_are_torch_s(custom_folder):
    """Derivatives are PyTorch's where a function bends, and stay numbers far away."""
    x = torch.tensor([-1e4, -6.0, -3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0, 100.0, 1e4], requires_grad=True)
    for number, (name, function) in enumerate(KINKS.items()):
        found, expected = every_kink(x, torch.full_like(x, number).detach(), reduction="none"), function(x)
        torch.testing.assert_close(found, expected, msg=lambda m, name=name: f"{name}: {m}")
        slopes = torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0]
        torch.testing.assert_close(*slopes, msg=lambda m, name=name: f"derivative of {name}: {m}")


def test_infinities_have_no_difference(custom_folder):
    loss = custom.elementwise(
        lambda a, b: torch.logaddexp(a, b) + F.huber_loss(a, b, reduction="none"), name="of_infinities"
    )
    a = torch.tensor([-torch.inf, 1.0, torch.inf], requires_grad=True)
    found = loss(a.detach(), torch.tensor([-torch.inf, torch.inf, -torch.inf]), reduction="none")
    assert found.isinf()[1:].all()
    far = loss(a[1:2], torch.tensor([-torch.inf]), reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(far, a)[0], torch.tensor([0.0, 2.0, 0.0]))


def test_a_cast_to_float32_or_float64_is_none():
    bce, smooth_l1 = F.binary_cross_entropy_with_logits, F.smooth_l1_loss
    for cast, plain in (
        (lambda x, t: bce(x, t.float(), reduction="none"), lambda x, t: bce(x, t, reduction="none")),
        (
            lambda x, t: smooth_l1(x.to(torch.float32), t.double(), reduction="none"),
            lambda x, t: smooth_l1(x, t, reduction="none"),
        ),
        (lambda x, t: torch.floor(5 * x.float()) - t.float(), lambda x, t: torch.floor(5 * x) - t),
    ):
        assert custom.elementwise(cast, name="loss").source == custom.elementwise(plain, name="loss").source


# ---- What is no function of the values alone. ----


def self_weighted(input, target):
    d = (input - target).abs()
    return d.detach() * d


def by_data(input, target):
    return input.data * input + target


def without_gradient(input, target):
    with torch.no_grad():
        weight, same = torch.sigmoid(input), input.view_as(input)
    return weight * input + same * target * input


def sure_of_its_label(input, target):
    p = torch.sigmoid(input)
    label = torch.where(p.detach() > 0.9, 1.0, target)
    return -(label * p.log() + (1 - label) * (1 - p).log())


def straight_through(input, target):
    return (input + (input.round() - input).detach() - target) ** 2


def in_place(input, target):
    y = input * 1.0
    y.mul_(target)
    y += input
    return y * y


def constant(input, target):
    return torch.full_like(input, 2.0)


def linear_early(input, target):
    return F.softplus(input, beta=2, threshold=1) + target


WRITTEN = (
    self_weighted, by_data, without_gradient, sure_of_its_label, straight_through, in_place, constant, linear_early,
)  # fmt: skip


def test_what_carries_no_gradient_carries_none_and_the_rest_does(custom_folder):
    """Detached values, their sources used beside them, values under no_grad, in place, or of no tensor."""
    with torch.inference_mode():  # as of a module that is imported late
        fused = [custom.elementwise(function) for function in WRITTEN]
    build_losses([made.custom for made in fused])
    x = torch.tensor([-0.4, 0.3, 1.7, 3.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.2, 0.8, 0.6, 0.1], dtype=torch.float64, requires_grad=True)
    for function, made in zip(WRITTEN, fused):
        found, expected = made(x, t, reduction="none"), function(x, t)
        assert "FusedLoss" in found.grad_fn.name()
        torch.testing.assert_close(found, expected, msg=function.__name__)
        expected = expected + 0 * (x + t)  # a constant has no gradient to ask for
        for a, b in zip(torch.autograd.grad(found.sum(), (x, t)), torch.autograd.grad(expected.sum(), (x, t))):
            torch.testing.assert_close(a, b, msg=function.__name__)


# ---- Options are tensors without dimensions; a quotient is exact under a step. ----


def policy(log_p, old, advantage, *, clip=0.2):
    # Schulman et al., "Proximal Policy Optimization Algorithms", 2017
    ratio = torch.exp(log_p - old)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def of_scale(input, target, *, scale=2.0):
    return ((input - target) / scale) ** 2 + torch.log(scale)


def crps(mean, log_scale, target):
    # Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007
    scale = torch.exp(log_scale)
    z = (target - mean) / scale
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return scale * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def steps(input, target, *, width=49.0):
    return (torch.floor(input / 49) - target) ** 2 + torch.where(input / width >= 1, input, target) + input % 41


def overflowing(x, t):
    return torch.log(1 + torch.exp(x)) - x * t


def of_two_numbers(x):
    return torch.where(x > 0, 0.1, 0.7) * x


@pytest.fixture(scope="module")
def made(custom_folder):
    functions = (policy, of_scale, crps, steps, overflowing, of_two_numbers)
    found = {f.__name__: custom.elementwise(f) for f in functions}
    build_losses([loss.custom for loss in found.values()])
    return found


@pytest.mark.parametrize("clip", [0.2, 0.0, -0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clamp_between_options(clip, dtype, made):
    """As torch's at its bounds, beyond them, and where the lower is above the upper; without a branch."""
    assert "max_(" not in made["policy"].source
    ratio = torch.tensor([0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 3.0, math.nan], dtype=dtype)
    old, advantage = torch.zeros_like(ratio), torch.tensor([1.0, -2.0] * 4, dtype=dtype)
    leaves = [ratio.log().requires_grad_() for _ in range(2)]
    found = made["policy"](leaves[0], old, advantage, clip=clip, reduction="none")
    expected = policy(leaves[1], old, advantage, clip=clip)
    torch.testing.assert_close(found, expected, equal_nan=True)
    found, expected = (torch.autograd.grad(v.sum(), x)[0] for v, x in zip((found, expected), leaves))
    inside = (ratio - 1 - clip).abs().minimum((ratio - 1 + clip).abs()) > 1e-6  # rounding decides at a bound
    torch.testing.assert_close(found[inside | ratio.isnan()], expected[inside | ratio.isnan()], equal_nan=True)


def test_a_function_of_an_option_serves_where_the_kernel_does_not(made):
    x, t = torch.randn(2, 6, dtype=torch.float64)
    expected = ((x - t) / 3) ** 2 + math.log(3)
    loss = made["of_scale"]
    torch.testing.assert_close(loss(x, t, scale=3, reduction="none"), expected)
    torch.testing.assert_close(torch.vmap(lambda a, b: loss(a, b, scale=3.0))(x, t), expected)
    assert torch.autograd.gradgradcheck(lambda a: loss(a, t, scale=3.0), x.clone().requires_grad_())


def test_a_score_of_a_distribution(made):
    """By the integral that defines it."""
    mean, log_scale, target = torch.tensor([[0.3, -1.0], [0.2, -0.4], [1.5, -3.0]], dtype=torch.float64)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64).unsqueeze(1)
    below = torch.distributions.Normal(mean, log_scale.exp()).cdf(grid) - (grid >= target).double()
    expected = torch.trapezoid(below**2, grid, dim=0)
    torch.testing.assert_close(made["crps"](mean, log_scale, target, reduction="none"), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_quotients_are_at_their_places(dtype, made):
    x = torch.arange(0, 2500, dtype=dtype)
    t = torch.zeros_like(x)
    torch.testing.assert_close(made["steps"](x, t, reduction="none"), steps(x, t), rtol=0, atol=0)


def test_functional_losses_of_torch_are_formulas():
    @custom.elementwise
    def mixed(input, target):
        return F.huber_loss(input, target, reduction="none", delta=2.0) + F.mse_loss(input, target, reduction="none")

    assert "sigmoid" not in mixed.source
    assert "Terms<A>" in mixed.source
