"""Dtypes of targets, weights, class indices and results; the float16 loss scale; autocast."""

from __future__ import annotations

import emulated_device
import pytest
import torch
from cases import BY_NAME, CASES, DTYPES, each_case, each_of, each_variant
from problems import Problem, as_tuple, expected, gradients
from tolerances import assert_agrees

from fused_losses import functional as F

LARGE = 2**24


def stored_as(problem: Problem, name: str, dtype: torch.dtype) -> Problem:
    """The problem with one tensor stored in another dtype, and its value rounded to what that dtype holds."""
    if dtype in (torch.bool, torch.uint8):
        return problem.map(lambda n, t: (t > t.double().mean()).to(dtype) if n == name else t)
    return problem.map(lambda n, t: t.to(dtype) if n == name else t)


def assert_reads_as_stored(problem: Problem, name: str, dtype: torch.dtype):
    """The loss and the gradient of what it trains, with `name` stored in `dtype`, are those of the same numbers."""
    changed = stored_as(problem, name, dtype)
    plain = changed.map(lambda n, t: t.to(problem.arguments[n].dtype) if n == name else t)
    trained = [n for n in problem.case.fused[:1] if n != name]
    for reduction in problem.case.reductions[:2]:
        got, got_gradients = gradients(changed, trained, None, reduction)
        want, want_gradients = gradients(plain, trained, None, reduction)
        for a, b in zip(got, want):
            assert a.dtype is b.dtype
            assert_agrees(a, b.double(), n_terms=problem.n_terms)
        for n in trained:
            assert got_gradients[n].dtype is problem.arguments[n].dtype
            assert_agrees(got_gradients[n], want_gradients[n].double(), n_terms=problem.n_terms)


@each_variant
def test_target_dtypes(case, variant, device):
    for base in (torch.float32, torch.bfloat16):
        problem = case.problem(variant, base, device)
        for name in ("target", "relevance"):
            target = problem.tensors.get(name)
            if target is None or not target.is_floating_point():
                continue
            others = () if "floating_target" in case.groups else (torch.bool, torch.uint8)
            if variant.options.get("ignore_index") is not None:
                others = ()
            for dtype in (*DTYPES[:1], *DTYPES[2:], *others):
                assert_reads_as_stored(problem, name, dtype)


@each_variant
def test_weight_dtypes(case, variant, device):
    """Weights, masks and alpha of any dense dtype."""
    problem = case.problem(variant, torch.float32, device)
    names = [n for n, v in problem.options.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    for name in names:
        if name in case.own_dtype:
            continue
        for dtype in (*DTYPES, torch.bool, torch.uint8):
            assert_reads_as_stored(problem, name, dtype)


@each_variant
def test_class_index_dtypes(case, variant, device):
    problem = case.problem(variant, torch.float32, device)
    target = problem.tensors.get("target")
    if target is None or target.dtype is not torch.int64:
        pytest.skip("no class-index target")
    # An ignored -100 needs a sign.
    narrow = [d for d in (torch.uint8, torch.int32) if torch.iinfo(d).min <= target.min()]
    want, want_gradients = gradients(problem, [case.fused[0]], None, case.reduced())
    for dtype in narrow:
        changed = problem.map(lambda n, t, to=dtype: t.to(to) if n == "target" else t)
        got, got_gradients = gradients(changed, [case.fused[0]], None, case.reduced())
        assert torch.equal(got[0], want[0])
        assert torch.equal(got_gradients[case.fused[0]], want_gradients[case.fused[0]])


@each_case
def test_gradient_of_a_target_in_its_own_dtype(case, device):
    """Two differentiable arguments of different dtypes: each gradient has its argument's."""
    problem = case.problem(None, torch.float32, device)
    if "target" not in case.fused:
        pytest.skip("the kernel gives the target no gradient")
    changed = problem.map(lambda n, t: t.to(torch.bfloat16) if n == "target" else t)
    _, found = gradients(changed, ["input", "target"], None, "mean")
    _, want = expected(changed, ["input", "target"], "mean")
    assert found["input"].dtype is torch.float32
    assert found["target"].dtype is torch.bfloat16
    for name in found:
        assert_agrees(found[name], want[name], n_terms=problem.n_terms)


@pytest.mark.parametrize("other", DTYPES)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "kl_div", "kl_div_with_logits"])
def test_gradients_of_two_tensors_of_which_one_is_float64(name, other, device):
    """A scalar's gradients, which wait for the incoming one, each in its tensor's own dtype."""
    function = getattr(F, name)
    x, t = (torch.rand(4, 3, device=device, dtype=torch.float64) for _ in range(2))
    for dtypes in ((torch.float64, other), (other, torch.float64)):
        pair = [v.to(dtype).requires_grad_() for v, dtype in zip((x, t), dtypes)]
        found = torch.autograd.grad(3 * function(*pair, reduction="sum"), pair)
        each = torch.autograd.grad(3 * function(*pair, reduction="none").sum(), pair)
        for actual, wanted, dtype in zip(found, each, dtypes):
            assert actual.dtype is dtype
            torch.testing.assert_close(actual, wanted)


@pytest.mark.promise(
    "Values and gradients",
    "The mean over 2²⁴ halves with an incoming gradient of 65 536 has its gradient to 1e-3.",
)
@each_of(c for c in CASES if c.reduced())
def test_float16_gradient_survives_a_loss_scale(case, device):
    """The mean over 2**24 halves with an incoming gradient of 65 536, right to 1e-3.

    The input is one small problem repeated, so its gradient is the small one's divided by the repetitions. The emulated
    device takes 2**15: there, too, the gradient is no normal half before it is multiplied.
    """
    small = case.problem(None, torch.float16, device, case.tiny)
    name = case.fused[0]
    times = (2**15 if emulated_device.active() else LARGE) // small.tensors[name].numel()
    large = Problem(
        case,
        {n: t.repeat((times, *(1,) * (t.dim() - 1))) if n in case.tile else t for n, t in small.tensors.items()},
        small.options,
    )
    leaf = large.tensors[name].requires_grad_()
    loss = as_tuple(large.call(None, "mean"))[0]
    (loss * 65536.0).backward()
    double = small.double().leaves([name])
    (found,) = torch.autograd.grad(as_tuple(double.call(case.reference, "mean"))[0], double.arguments[name])
    want = (found * 65536 / times).to(torch.float16).double()
    assert leaf.grad.dtype is torch.float16
    rows = want.shape[0]
    # A product of halves rounds its factors, whose terms may cancel in one element of a row.
    atol = 1e-3 * want.abs().max().item() if "products" in case.groups else 6e-8
    for part in (leaf.grad[:rows], leaf.grad[-rows:], leaf.grad[times // 2 * rows :][:rows]):
        torch.testing.assert_close(part.double().cpu(), want, rtol=1e-3, atol=atol)


@pytest.mark.promise("Where a loss is called from", "Autocast casts nothing.")
@each_case
def test_autocast_changes_nothing(case, device):
    problem = case.problem(None, torch.float32, device)
    want, want_gradients = gradients(problem, list(case.fused[:1]), None, case.reduced())
    with torch.autocast(device, torch.bfloat16):
        got, got_gradients = gradients(problem, list(case.fused[:1]), None, case.reduced())
    for a, b in zip((*got, *got_gradients.values()), (*want, *want_gradients.values())):
        assert a.dtype is b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", F.__all__)
def test_every_name_runs_in_half_precision(name):
    """A loss of half-precision numbers is a float32 loss."""
    case = BY_NAME[name]
    for dtype in (torch.float16, torch.bfloat16):
        result = as_tuple(case.problem(None, dtype).call(None, case.reduced()))
        assert all(part.dtype is torch.float32 for part in result)
