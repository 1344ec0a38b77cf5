"""What an option may be: NumPy scalars, integers without end, infinities, values that vanish in the accumulation
dtype, ignore_index of any size; and that what was accepted once is no reason to accept what equals it."""

from __future__ import annotations

import fractions
import inspect
import math

import numpy
import pytest
import torch
from cases import CASES, each_case, each_in, each_of
from problems import as_tuple

from fused_losses import functional as F
from fused_losses import reference

NUMBERS = [
    pytest.param(c, n, p.default, id=f"{c.name}-{n}")
    for c in CASES
    for n, p in inspect.signature(c.function).parameters.items()
    if isinstance(p.default, (int, float)) and not isinstance(p.default, bool)
]
FLAGS = [
    pytest.param(c, n, p.default, id=f"{c.name}-{n}")
    for c in CASES
    for n, p in inspect.signature(c.function).parameters.items()
    if isinstance(p.default, bool)
]
REALS = [p for p in NUMBERS if isinstance(p.values[2], float)]
INFINITE = [p for p in NUMBERS if p.values[1] != "ignore_index"]


def refusal(case, **options) -> str:
    """The sentence by which a call with `options` is refused, by the reference too."""
    texts = set()
    for function in (case.function, case.reference):
        with pytest.raises((ValueError, TypeError)) as caught:
            case.problem().call(function, **options)
        texts.add(str(caught.value))
    (text,) = texts
    assert text.startswith(f"{case.name}: expected {next(iter(options))} "), text
    assert ", got " in text
    assert "\n" not in text
    assert len(text) < 200
    return text


@pytest.mark.promise("What is taken", "NumPy scalars and fractions are numbers.")
@pytest.mark.parametrize("case, name, default", NUMBERS)
def test_numpy_scalars_are_numbers(case, name, default):
    problem = case.problem()
    want = as_tuple(problem.call(**{name: default}))
    kinds = [numpy.float64, numpy.float32, fractions.Fraction] if isinstance(default, float) else [numpy.int64]
    for kind in kinds:
        for a, b in zip(as_tuple(problem.call(**{name: kind(default)})), want):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.promise("What is taken", "NumPy's booleans are flags; 1, a tensor and a string are not.")
@pytest.mark.parametrize("case, name, default", FLAGS)
def test_flags_of_numpy(case, name, default):
    """And nothing else that is true or false in some other way."""
    for value in (True, False):
        want, found = (as_tuple(case.problem().call(**{name: kind(value)})) for kind in (bool, numpy.bool_))
        assert all(map(torch.equal, found, want))
        for other in (int(value), torch.tensor(value), numpy.array([value]), numpy.int64(value), "yes"):
            refusal(case, **{name: other})


@pytest.mark.parametrize("case", [c for c in CASES if "ranking" in c.groups], ids=lambda case: case.name)
def test_a_list_has_fewer_than_2_to_the_53_items(case):
    assert "k >= 1 and <= 2**53, got an integer of 1329 bits" in refusal(case, k=10**400)


@pytest.mark.parametrize("case, name, default", REALS)
def test_numpy_scalars_reach_the_reference_as_numbers(case, name, default):
    """Second derivatives are the reference's; a NumPy scalar times a tensor would be an array."""
    problem = case.problem(None, torch.float64, shape=case.tiny)
    first = case.fused[0]
    mine = problem.leaves([first])
    outputs = as_tuple(mine.call(None, case.reduced(), **{name: numpy.float64(default)}))
    (gradient,) = torch.autograd.grad(sum(o.sum() for o in outputs), mine.arguments[first], create_graph=True)
    assert gradient.square().sum().requires_grad


@pytest.mark.promise(
    "What is refused",
    "An integer of any size is refused by the same sentence as another number out of range.",
)
@pytest.mark.parametrize("case, name, default", NUMBERS)
def test_an_integer_without_end(case, name, default):
    """Beyond every float, and beyond what Python prints."""
    for digits in (400, 5000):
        refusal(case, **{name: 10**digits})
        refusal(case, **{name: -(10**digits)})


@pytest.mark.promise("What is refused", "No option is infinite or NaN.")
@pytest.mark.parametrize("case, name, default", INFINITE)
def test_infinities(case, name, default):
    for value in (math.inf, -math.inf, math.nan, numpy.float32(math.inf)):
        refusal(case, **{name: value})


@pytest.mark.promise("What is refused", "An option is finite in the accumulation dtype.")
@pytest.mark.parametrize("case, name, default", REALS)
def test_finite_in_the_accumulation_dtype(case, name, default):
    """1e60 is infinite in float32, not in float64."""
    text = refusal(case, **{name: 1e60})
    if "float32" in text:
        case.problem(None, torch.float64).call(**{name: 1e60})


VANISHING = {
    "huber_loss": "delta", "smooth_l1_loss": "beta", "kl_div_with_logits": "temperature",
    "approx_ndcg_loss": "temperature", "lambda_ndcg_loss": "sigma", "tversky_loss": "gamma",
    "js_div_with_logits": "beta",
}  # fmt: skip


@pytest.mark.promise("What is refused", "What divides, or an exponent, is not 0 in the accumulation dtype.")
@pytest.mark.parametrize("name, option", VANISHING.items())
def test_zero_in_the_accumulation_dtype(name, option):
    case = next(c for c in CASES if c.name == name)
    assert "float32" in refusal(case, **{option: 1e-60})
    case.problem(None, torch.float64).call(**{option: 1e-60})


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_equal_is_not_the_same(compiled):
    """True equals 1, and is no number; what is remembered is remembered with its type."""
    x, t = torch.randn(5), torch.ones(5)
    mean = torch.compile(F.huber_loss, backend="eager", fullgraph=True) if compiled else F.huber_loss
    mean(x, t, delta=1.0)
    for call in (lambda: mean(x, t, delta=True), lambda: F.hinge_loss(x, t, squared=1)):
        F.hinge_loss(x, t, squared=True)
        with pytest.raises((TypeError, RuntimeError)):
            call()
    F.weighted_binary_cross_entropy(x.sigmoid(), t, (1.0, 1.0))
    with pytest.raises(TypeError, match="to be a number, got bool"):
        F.weighted_binary_cross_entropy(x.sigmoid(), t, (1.0, True))
    with pytest.raises(TypeError, match="expected alpha to be a number or a tensor, got list"):
        F.softmax_focal_loss(torch.randn(2, 3), torch.tensor([0, 1]), alpha=[0.1, 0.2, 0.3])
    torch._dynamo.reset()


def test_a_list_of_class_weights():
    x, t = torch.rand(5), torch.ones(5)
    want = F.weighted_binary_cross_entropy(x, t, (2.0, 3.0))
    for given in ([2.0, 3.0], (2, 3), (numpy.float32(2), 3)):
        assert torch.equal(F.weighted_binary_cross_entropy(x, t, given), want)


@pytest.mark.promise("What is taken", "`ignore_index=None` ignores nothing, in the softmax losses too.")
@each_in("classes")
@pytest.mark.parametrize("module", [F, reference], ids=["fused", "reference"])
def test_no_index_is_ignored(case, module):
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    function = getattr(module, case.name)
    assert torch.equal(function(x, t, ignore_index=None), function(x, t))


@each_in("classes")
def test_the_default_index_is_an_error_where_none_is_ignored(case):
    x, t = torch.randn(4, 3), torch.tensor([0, 1, -100, 1])
    with pytest.raises((IndexError, RuntimeError), match="-100"):
        case.function(x, t, ignore_index=None)


@pytest.mark.promise("What is refused", "An `ignore_index` is below 2⁵³, so that no class is ignored for another.")
@each_of(case for case in CASES if {"classes", "overlap"} & {*case.groups})
def test_an_ignore_index_that_no_double_holds(case):
    """2^62 + 1 is 2^62 as a double: a class of that number must not be ignored for it."""
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2**62, 1])
    options = {}
    if "overlap" in case.groups:
        x, t, options = x[..., None], t[..., None], {"activation": "softmax"}
    for index in (2**62 + 1, 2**62, -(2**63), 2**53, 10**400):
        with pytest.raises(ValueError, match=rf"^{case.name}: expected ignore_index > -2\*\*53 and < 2\*\*53, got"):
            case.function(x, t, ignore_index=index, **options)
    with pytest.raises((IndexError, RuntimeError), match=str(2**62)):
        case.function(x, t, ignore_index=2**53 - 1, **options)


def test_a_fraction_is_no_class():
    """Truncated, it would be one."""
    x, t = torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^dice_loss: expected ignore_index to be an integer with class indices"):
        F.dice_loss(x, t, ignore_index=0.5)


@pytest.mark.promise(
    "What is refused",
    "`max_order` of `expected_bleu_loss` is at most 1024.",
)
def test_an_order_without_end():
    """Orders above T have the precision k / k."""
    logits, target = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 4))
    for order in (2**53, 1025):
        for module in (F, reference):
            with pytest.raises(ValueError, match=r"^expected_bleu_loss: expected max_order >= 1 and <= 1024, got"):
                module.expected_bleu_loss(logits, target, max_order=order)
    for order in (5, 6, 7, 1024):
        for smooth in (0.0, 1.0):
            found = F.expected_bleu_loss(logits, target, max_order=order, smooth=smooth, reduction="none")
            want = reference.expected_bleu_loss(logits, target, max_order=order, smooth=smooth, reduction="none")
            torch.testing.assert_close(found, want)


@pytest.mark.promise(
    "What is taken",
    "Masks and regression targets of bool, uint8, int32 and int64 are read as stored.",
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
@each_case
def test_masks_and_targets_of_integers(case, dtype, device):
    """Read as stored, as the numbers they are."""
    problem = case.problem(device=device)
    name = "target" if "target" in problem.tensors else "relevance"
    value = problem.tensors.get(name)
    if value is None or not value.is_floating_point() or name in case.fused or case.name == "kl_div_with_logits":
        pytest.skip("no target of numbers")
    whole = value.clamp(0, 1).round()
    if case.name == "hinge_loss":
        if dtype in (torch.uint8, torch.bool):
            pytest.skip("they cannot hold -1")
        whole = whole * 2 - 1
    want = as_tuple(problem.call(**{name: whole}))
    for a, b in zip(as_tuple(problem.call(**{name: whole.to(dtype)})), want):
        torch.testing.assert_close(a, b)


@pytest.mark.promise("What is taken", "No copy of a mask or of class indices is made, whatever their dtype.")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.float16])
@pytest.mark.parametrize("name", [
    "binary_cross_entropy_with_logits", "sigmoid_focal_loss", "weighted_binary_cross_entropy_with_logits", "dice_loss",
    "jaccard_loss", "tversky_loss", "dice_cross_entropy_loss", "dice_focal_loss",
])  # fmt: skip
def test_a_mask_is_not_copied(name, dtype, device):
    """Of the size of the target nothing but the gradient is allocated, forward and backward."""
    x = torch.randn(2, 3, 32, 32, device=device, requires_grad=True)
    options = {"activation": "sigmoid"} if name.startswith("dice_") else {}
    if name == "sigmoid_focal_loss":
        options["reduction"] = "mean"
    targets = [(torch.rand(x.shape, device=device) > 0.5).to(dtype)]
    if dtype not in (torch.bool, torch.float16) and ("dice" in name or "focal" in name):
        targets.append(torch.randint(0, 3, (2, 32, 32), device=device).to(dtype))
    for target in targets:
        with torch.autograd.profiler.profile(profile_memory=True) as seen:
            getattr(F, name)(x, target, **options).backward()
        copies = {"aten::copy_", "aten::_to_copy", "aten::clone"} & {event.name for event in seen.function_events}
        assert not copies, f"{copies} of {target.dtype}, {tuple(target.shape)}"


@pytest.mark.promise("What is taken", "A mask of one class may have the dimension of the classes or not.")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.float16])
@each_of(case for case in CASES if "overlap" in case.groups or case.name == "sigmoid_focal_loss")
def test_one_class_with_and_without_its_dimension(case, dtype):
    """(B, 1, ...) and (B, ...) are the mask of a single class, in any dtype."""
    x, t = torch.randn(2, 1, 4, 5), torch.rand(2, 1, 4, 5) > 0.5
    for function in (case.function, case.function.reference):
        want = function(x, t.float())
        for ignored in ({}, {"ignore_index": -1}):
            assert torch.equal(function(x, t.to(dtype), **ignored), want)
            assert torch.equal(function(x, t.squeeze(1).to(dtype), **ignored), want)


@pytest.mark.promise(
    "What is refused",
    "No classes are left, or none are there, with `include_background=False`: an error that says so.",
)
@each_of(case for case in CASES if {"overlap", "compound"} & {*case.groups})
def test_no_classes_without_the_background(case):
    x = torch.randn(2, 0, 4)
    words = rf"^{case.name}: expected at least 2 classes with include_background=False, got 0"
    with pytest.raises(ValueError, match=words):
        case.function(x, torch.zeros(2, 0, 4), include_background=False)


@pytest.mark.promise("Values and gradients", "Without classes no reference divides by zero.")
@each_in("classes")
def test_no_classes(case):
    """Smoothed over no classes: nothing, not a division by zero."""
    for module in (F, reference):
        loss = getattr(module, case.name)(torch.randn(3, 0), torch.zeros(3, 0), label_smoothing=0.1, reduction="none")
        assert loss.shape == (3,)
        assert not loss.any()
