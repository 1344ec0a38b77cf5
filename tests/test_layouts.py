"""Strides, storage offsets and broadcasting give what the contiguous copy gives, and nothing writes into an input."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import CASES, each_case, each_variant
from layouts import LAYOUTS, transposed
from problems import Problem, as_tuple, differentiable, gradients, incoming
from tolerances import assert_agrees

from fused_losses import reference


def run(problem: Problem, views: dict[str, torch.Tensor], leaves: dict[str, torch.Tensor], reduction):
    outputs = as_tuple(problem.call(None, reduction, **views))
    return outputs, torch.autograd.grad(outputs, list(leaves.values()), incoming(outputs, "tensor"))


@pytest.mark.parametrize("layout", LAYOUTS)
@each_variant
def test_strides(case, variant, layout, device):
    """Values and gradients of a view of any layout, each tensor alone and all together."""
    problem = case.problem(variant, torch.float32, device)
    change = LAYOUTS[layout]
    tensors = {n: t for n, t in problem.arguments.items() if isinstance(t, torch.Tensor)}
    if layout == "expanded":
        tensors = {n: t for n, t in tensors.items() if n in case.tile}
    trained = [n for n in problem.floating() if n in case.fused]
    for names in [*([n] for n in tensors), list(tensors)] if len(tensors) > 1 else [list(tensors)]:
        for reduction in {case.reductions[0], case.reduced()}:
            results = []
            for contiguous in (False, True):
                leaves = {n: problem.arguments[n].clone().requires_grad_() for n in trained}
                views = dict(leaves)
                for n in names:
                    view = change(leaves.get(n, tensors[n]))
                    views[n] = view.contiguous() if contiguous else view
                results.append(run(problem, views, leaves, reduction))
            # Rows that are all the same pull at each other with opposite forces, which a GPU adds in its own order.
            opposed = device == "cuda" and "products" in case.groups and layout == "expanded"
            least = 1 / problem.n_terms if opposed else 0.0
            for a, b in zip((*results[0][0], *results[0][1]), (*results[1][0], *results[1][1])):
                label = f"{layout} {names} {reduction}"
                assert_agrees(a, b.double(), n_terms=problem.n_terms, label=label, at_least=least)


@pytest.mark.promise("Bits and builds", "A view of any strides gives the bits of its contiguous copy.")
@each_case
def test_bits_do_not_depend_on_strides(case, device):
    """A view with other strides is the contiguous copy to the last bit."""
    problem = case.problem(None, torch.float32, device)
    strided = problem.map(lambda _, t: transposed(t))
    got, got_gradients = gradients(strided, [case.fused[0]], None, case.reduced())
    want, want_gradients = gradients(problem, [case.fused[0]], None, case.reduced())
    for a, b in zip((*got, *got_gradients.values()), (*want, *want_gradients.values())):
        assert torch.equal(a, b)


@each_case
def test_gradient_reaches_a_view(case, device):
    """A leaf used through a slice: its gradient is zero outside."""
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    values = problem.tensors[name]
    _, want = gradients(problem, [name], None, case.reduced())
    leaf = torch.cat([values, torch.ones_like(values[:1])]).requires_grad_()
    outputs = differentiable(problem.call(None, case.reduced(), **{name: leaf[:-1]}))
    (found,) = torch.autograd.grad(outputs, leaf, incoming(outputs, "one"))
    assert_agrees(found[:-1], want[name].double())
    assert not found[-1].any()


@pytest.mark.promise("Where a loss is called from", "Nothing is written into a tensor of the caller.")
@each_variant
def test_inputs_are_not_written(case, variant, device):
    problem = case.problem(variant, torch.float32, device)
    trained = [n for n in problem.floating() if n in case.fused]
    for reduction in case.reductions:
        mine = problem.leaves(trained)
        before = {n: (t._version, t.detach().clone()) for n, t in mine.arguments.items() if torch.is_tensor(t)}
        outputs = as_tuple(mine.call(None, reduction))
        grad_outputs = incoming(outputs, "tensor")
        kept = [g.clone() for g in grad_outputs]
        values = [o.detach().clone() for o in outputs]
        torch.autograd.backward(outputs, grad_outputs)
        for n, (version, copy) in before.items():
            assert mine.arguments[n]._version == version, n
            assert torch.equal(mine.arguments[n].detach(), copy), n
        for a, b in zip((*grad_outputs, *outputs), (*kept, *values)):
            assert torch.equal(a, b)


@each_case
def test_results_are_no_views_of_inputs(case, device):
    problem = case.problem(None, torch.float32, device)
    mine = problem.leaves(case.fused)
    inputs = {t.untyped_storage().data_ptr() for t in mine.arguments.values() if torch.is_tensor(t)}
    outputs = as_tuple(mine.call(None, case.reduced()))
    assert not inputs & {o.untyped_storage().data_ptr() for o in outputs}


def shapes_that_broadcast(shape):
    """(), (1,), each suffix, and each subset of dimensions set to 1."""
    shapes = {(), (1,)}
    for start in range(len(shape)):
        suffix = shape[start:]
        for ones in itertools.product((False, True), repeat=len(suffix)):
            shapes.add(tuple(1 if one else n for one, n in zip(ones, suffix)))
    return sorted(shapes)


BROADCASTING = [(c, option) for c in CASES for option in c.broadcast]


@pytest.mark.parametrize("case, option", BROADCASTING, ids=[f"{c.name}-{o}" for c, o in BROADCASTING])
def test_weights_broadcast_as_in_torch(case, option, device):
    """Every shape that broadcasts: the value and gradient of the expanded weight, and the weight's own gradient."""
    problem = case.problem(None, torch.float32, device)
    shape = problem.tensors["input"].shape
    maker = torch.Generator().manual_seed(7)
    for given in shapes_that_broadcast(tuple(shape)):
        weight = (torch.rand(given, generator=maker) + 0.25).to(device)
        for reduction in ("none", "mean"):
            results = []
            for value, function in ((weight, case.function), (weight.expand(shape), case.reference)):
                leaf = problem.tensors["input"].clone().requires_grad_()
                out = problem.call(function, reduction, input=leaf, **{option: value})
                results.append((out.detach(), torch.autograd.grad(out.sum(), leaf)[0]))
            for a, b in zip(*results):
                assert_agrees(a, b.double(), n_terms=problem.n_terms, label=f"{option} {given} {reduction}")
        own = [weight.clone().requires_grad_() for _ in range(2)]
        for w, function in zip(own, (case.function, getattr(reference, case.name))):
            problem.call(function, "sum", **{option: w}).backward()
        assert_agrees(own[0].grad, own[1].grad.double(), n_terms=problem.n_terms, label=f"gradient of {option} {given}")


@pytest.mark.parametrize("case, option", BROADCASTING, ids=[f"{c.name}-{o}" for c, o in BROADCASTING])
def test_weights_that_do_not_broadcast(case, option):
    problem = case.problem()
    for given in ((2,), (3, 1), (1, 4, 3, 5, 7), (5, 3, 1, 1)):
        with pytest.raises(ValueError, match=f"^{case.name}: expected {option} ") as caught:
            problem.call(None, "mean", **{option: torch.ones(given)})
        assert str(given) in str(caught.value)
