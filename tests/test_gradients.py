"""Derivatives: numerical first and second derivatives, and every way autograd may ask for a gradient."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import each_case, each_variant
from problems import as_tuple, differentiable, gradients, total
from tolerances import assert_agrees, tolerance

warnings.filterwarnings("ignore", message=".*does not have any.*")


def scalar_function(problem, names, reduction):
    """The loss as a function of the tensors in `names`, for the numerical checks."""

    def function(*values):
        return as_tuple(problem.call(None, reduction, **dict(zip(names, values, strict=True))))

    return function, [problem.arguments[n].detach().clone().requires_grad_() for n in names]


def reductions(case):
    """One that keeps the gradient of the forward pass, one that computes it in the backward."""
    return [r for r in case.reductions if r in (None, "none", "mean")]


@each_variant
def test_gradcheck(case, variant):
    problem = case.problem(variant, torch.float64, shape=case.tiny, seed=5)
    fused = [n for n in problem.floating() if n in case.fused]
    for reduction in reductions(case):
        assert torch.autograd.gradcheck(*scalar_function(problem, fused, reduction), atol=1e-6, rtol=1e-4)
    every = [n for n in problem.floating() if n != "target" or problem.options.get("ignore_index") is None]
    if set(every) != set(fused):  # a nudged target would no longer be the ignored one
        assert torch.autograd.gradcheck(*scalar_function(problem, every, case.reductions[0]), atol=1e-6)


@each_variant
def test_gradgradcheck(case, variant):
    problem = case.problem(variant, torch.float64, shape=case.tiny, seed=5)
    fused = [n for n in problem.floating() if n in case.fused]
    for reduction in reductions(case):
        function, values = scalar_function(problem, fused, reduction)
        fast = variant.name != "default"
        assert torch.autograd.gradgradcheck(function, values, atol=1e-5, rtol=1e-4, fast_mode=fast)


@each_case
def test_double_backward(case, device):
    """Second-order terms of the reference, in float32: the first gradient is no constant, whatever the reduction."""
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    for reduction in case.reductions:
        found = []
        for mine, function in ((problem, case.function), (problem.double(), case.reference)):
            mine = mine.leaves([name])
            leaf = mine.arguments[name]
            (first,) = torch.autograd.grad(total(mine.call(function, reduction)), leaf, create_graph=True)
            weights = torch.linspace(-1, 1, first.numel(), dtype=first.dtype, device=first.device).view_as(first)
            objective, second = (first.square() * weights).sum(), None
            if objective.requires_grad:  # the gradient of a loss linear in the leaf is a constant
                (second,) = torch.autograd.grad(objective, leaf, allow_unused=True)
            found.append(torch.zeros_like(leaf) if second is None else second)
        assert_agrees(*found, n_terms=problem.n_terms, label=f"reduction {reduction}")


def backward_once(case, problem, reduction):
    return gradients(problem, [case.fused[0]], None, reduction)[1][case.fused[0]]


@pytest.mark.promise("Where a loss is called from", "A second backward of a retained graph gives the same gradient.")
@each_case
def test_repeated_backward(case, device):
    problem, name = case.problem(device=device), case.fused[0]
    for reduction in case.reductions:
        want = backward_once(case, problem, reduction)
        mine = problem.leaves([name])
        leaf, outputs = mine.arguments[name], differentiable(mine.call(None, reduction))
        ones = [torch.ones_like(o) for o in outputs]
        twos = [o * 2 for o in ones]
        first = torch.autograd.grad(outputs, leaf, ones, retain_graph=True)[0]
        doubled = torch.autograd.grad(outputs, leaf, twos, retain_graph=True)[0]
        last = torch.autograd.grad(outputs, leaf, ones)[0]
        assert len({gradient.data_ptr() for gradient in (first, doubled, last)}) == 3, "each is the caller's own"
        for label, gradient, factor in (("first", first, 1), ("second", doubled, 2), ("last", last, 1)):
            assert torch.equal(gradient, want * factor), f"{label} backward, reduction {reduction}"
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(outputs, leaf, ones)


@each_case
def test_accumulation(case, device):
    problem, name = case.problem(device=device), case.fused[0]
    want = backward_once(case, problem, case.reduced())
    mine = problem.leaves([name])
    for _ in range(3):
        sum(o.sum() for o in as_tuple(mine.call(None, case.reduced()))).backward()
    assert_agrees(mine.arguments[name].grad, want.double() * 3)
    loss = sum(o.sum() for o in as_tuple(mine.call(None, case.reduced())))
    loss.backward(retain_graph=True)
    loss.backward()
    assert_agrees(mine.arguments[name].grad, want.double() * 5)


@each_case
def test_scaled_and_summed(case, device):
    """A constant times the loss, a tensor times the loss (with its own gradient), a sum of two losses."""
    problem, name = case.problem(device=device), case.fused[0]
    want = backward_once(case, problem, case.reduced())
    mine = problem.leaves([name])
    leaf = mine.arguments[name]
    factor = torch.tensor(-1.75, device=device, requires_grad=True)

    def loss():
        return sum(o.sum() for o in as_tuple(mine.call(None, case.reduced())))

    assert_agrees(torch.autograd.grad(loss() * 2.5, leaf)[0], want.double() * 2.5)
    value = loss()
    by_leaf, by_factor = torch.autograd.grad(value * factor, [leaf, factor])
    assert_agrees(by_leaf, want.double() * -1.75)
    assert_agrees(by_factor, value.detach().double())
    assert_agrees(torch.autograd.grad(loss() + 3 * loss(), leaf)[0], want.double() * 4)
    assert_agrees(torch.autograd.grad(loss() + leaf.sum(), leaf)[0], want.double() + 1)


@pytest.mark.promise(
    "Where a loss is called from",
    "A gradient may be kept and edited: no later backward and no other gradient changes.",
)
@each_case
def test_gradient_belongs_to_the_caller(case, device):
    """A gradient that is held and edited changes neither a later backward nor another loss's gradient."""
    problem, name = case.problem(device=device), case.fused[0]
    want = backward_once(case, problem, case.reduced())
    mine = problem.leaves([name])
    leaf, outputs = mine.arguments[name], differentiable(mine.call(None, case.reduced()))
    ones = [torch.ones_like(o) for o in outputs]
    held = torch.autograd.grad(outputs, leaf, ones, retain_graph=True)[0]
    held.fill_(7)
    assert_agrees(torch.autograd.grad(outputs, leaf, ones, retain_graph=True)[0], want.double())
    assert bool((held == 7).all())
    edited = []
    leaf.register_hook(lambda g: edited.append(g) or g * 2)
    torch.autograd.backward(outputs, ones)
    assert_agrees(leaf.grad, want.double() * 2)
    assert_agrees(edited[0], want.double())


@pytest.mark.promise("Where a loss is called from", "`torch.autograd.grad(is_grads_batched=True)` is exact.")
@each_case
def test_grads_batched(case, device):
    problem, name = case.problem(device=device), case.fused[0]
    for reduction in case.reductions:
        want = backward_once(case, problem, reduction)
        mine = problem.leaves([name])
        outputs = differentiable(mine.call(None, reduction))
        factors = torch.tensor([1.0, -2.0, 0.5], device=device)
        many = [torch.stack([torch.ones_like(o) * f for f in factors]) for o in outputs]
        (found,) = torch.autograd.grad(outputs, mine.arguments[name], many, is_grads_batched=True)
        assert_agrees(found, torch.stack([want.double() * f for f in factors]), n_terms=problem.n_terms)


@each_case
def test_no_graph_without_grad(case, device):
    problem = case.problem(device=device)
    value = as_tuple(problem.call(None, case.reduced()))
    mine = problem.leaves(case.fused)
    with torch.no_grad():
        quiet = as_tuple(mine.call(None, case.reduced()))
    with torch.inference_mode():
        inferred = as_tuple(problem.map(lambda _, t: t.clone()).call(None, case.reduced()))
        held = as_tuple(mine.call(None, case.reduced()))
    for a, b, c, d in zip(value, quiet, inferred, held, strict=True):
        assert not any(t.requires_grad for t in (a, b, c, d))
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert torch.equal(a, d)


@each_case
def test_input_used_twice(case, device):
    """The same tensor as both floating arguments: both parts of the gradient arrive."""
    problem = case.problem(device=device)
    first, *rest = [n for n in problem.tensors if n not in case.constant]
    same = [n for n in rest if problem.tensors[n].shape == problem.tensors[first].shape]
    same = [n for n in same if problem.tensors[n].is_floating_point()]
    if case.constant or not same:
        pytest.skip("the loss has no second floating tensor of the first one's shape")
    values = torch.rand_like(problem.tensors[first]) * 0.8 + 0.1
    found = []
    for function in (case.function, case.reference):
        leaf = (values.double().cpu() if function is case.reference else values.clone()).requires_grad_()
        maker = problem.double() if function is case.reference else problem
        loss = total(maker.call(function, case.reduced(), **{first: leaf, same[0]: leaf}))
        found.append(torch.autograd.grad(loss, leaf)[0])
    # A divergence of a distribution from itself has gradient 0: the scale is that of the terms, not of the result.
    torch.testing.assert_close(found[0].double().cpu(), found[1], **tolerance(torch.float32, problem.n_terms))
