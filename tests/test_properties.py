"""Hypothesis over losses, shapes, strides, dtypes, options and incoming gradients."""

from __future__ import annotations

import torch
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st
from problems import as_tuple, expected, gradients, total
from tolerances import assert_agrees

from fused_losses import functional as F

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])


@st.composite
def shapes(draw, case):
    """A shape the case can make: as many dimensions as its own, some with more."""
    least = [draw(st.integers(*bounds)) for bounds in case.dims]
    return (*least, *draw(st.lists(st.integers(1, 9), max_size=case.more_dims)))


@st.composite
def problems(draw, dtypes=DTYPES):
    case = draw(st.sampled_from(CASES))
    options = draw(st.sampled_from(case.all_variants))
    if "dim" in options.options and len(case.shape) < 2:
        options = case.all_variants[0]
    problem = case.problem(options, draw(dtypes), shape=draw(shapes(case)), seed=draw(st.integers(0, 10_000)))
    return problem, draw(st.sampled_from(case.reductions))


@st.composite
def layouts(draw, tensor):
    """A view with the same values: dimensions permuted in memory, steps between elements, an odd offset."""
    order = draw(st.permutations(range(tensor.dim())))
    view = tensor.permute(order).contiguous().permute([order.index(i) for i in range(tensor.dim())])
    step = draw(st.integers(1, 3))
    if step > 1 and tensor.dim():
        wide = torch.zeros(*view.shape[:-1], view.shape[-1] * step, dtype=view.dtype)
        wide[..., ::step] = view
        view = wide[..., ::step]
    start = draw(st.integers(0, 3))
    if start and step == 1 and tensor.dim():
        flat = torch.cat([torch.zeros(start, dtype=view.dtype), tensor.reshape(-1)])
        view = flat[start:].view(tensor.shape)
    return view


@given(st.data())
def test_value_and_gradient_of_anything(data):
    problem, reduction = data.draw(problems())
    kind = "tensor" if reduction in (None, "none") else data.draw(st.sampled_from(["one", "scalar"]))
    names = [n for n in problem.floating() if n in problem.case.fused]
    outputs, found = gradients(problem, names, None, reduction, kind)
    wanted, wanted_gradients = expected(problem, names, reduction, kind)
    for a, b in zip(outputs, wanted):
        assert_agrees(a, b, n_terms=problem.terms(None, reduction))
    for n in names:
        assert_agrees(found[n], wanted_gradients[n], n_terms=problem.terms(n), label=n)


@given(st.data())
def test_layout_is_invisible(data):
    problem, reduction = data.draw(problems())
    view = problem.map(lambda _, t: data.draw(layouts(t)))
    names = [n for n in problem.floating() if n in problem.case.fused]

    def run(arguments):
        leaves = {n: arguments.arguments[n].detach().requires_grad_() for n in names}
        out = total(arguments.call(None, reduction, **leaves))
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()))]

    for a, b in zip(run(view), run(problem)):
        assert_agrees(a, b.double(), n_terms=problem.n_terms)


@given(st.data())
def test_sum_and_batchmean_follow_from_the_elements(data):
    """Of each of the losses, in the accumulation dtype."""
    problem, _ = data.draw(problems(st.sampled_from([torch.float32, torch.float64])))
    if "none" not in problem.case.reductions:
        return
    rows = next(iter(problem.tensors.values())).shape[0]
    for i, each in enumerate(as_tuple(problem.call(None, "none"))):
        total = each.double().sum()
        assert_agrees(as_tuple(problem.call(None, "sum"))[i], total, torch.float32, n_terms=problem.n_terms)
        if "batchmean" in problem.case.reductions:
            mean = as_tuple(problem.call(None, "batchmean"))[i]
            assert_agrees(mean, total / rows, torch.float32, n_terms=problem.n_terms)


@given(st.integers(0, 200), st.integers(0, 3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_length_at_any_offset(n, start, dtype):
    """Heads and tails of vector loops: every length, every alignment of both tensors."""
    x = torch.randn(n + start, dtype=torch.float64).to(dtype)[start:]
    t = torch.rand(n + 1, dtype=torch.float64).to(dtype)[1:]
    leaf = x.detach().requires_grad_()
    loss = F.binary_cross_entropy_with_logits(leaf, t, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    double = x.detach().double().requires_grad_()
    want = torch.nn.functional.binary_cross_entropy_with_logits(double, t.double(), reduction="sum")
    assert_agrees(loss, want, n_terms=max(n, 1))
    assert_agrees(gradient, torch.autograd.grad(want, double)[0])
