"""What custom losses refuse: one sentence, with the line and what to write instead."""

from __future__ import annotations

import functools
import inspect
import math
from pathlib import Path

import gallery
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_losses import custom
from fused_losses.custom.operations import OPERATIONS

CONSTANT = torch.ones(3)
TEMPERATURE = torch.nn.Parameter(torch.tensor(2.0))


def reduces(input, target):
    return (input - target).abs().sum()


def branches(input, target):
    if (input > target).any():
        return input
    return target


def branches_on_values(input, target):
    d = input - target
    if d > 0:
        return d
    return -d


def branches_on_option(input, target, *, beta=1.0):
    return input if beta == 0 else target


def changes_shape(input, target):
    return (input - target)[0]


def looks_back(input, target):
    return torch.cumsum(input - target, 0)


def captures(input, target):
    return (input - target) * CONSTANT


def counts(input, target):
    return (input - target).long()


def fails(input, target):
    return input.no_such_method()


def loops(input, target):
    while input.abs().max() > 1:
        input = input / 2
    return input - target


def takes_a_number(input, target):
    return target * math.exp(input[0, 0])


def is_of_another_shape(input, target, *, scale=1.0):
    return 2 * scale


def is_longer(input, target):
    return torch.ones(5)


def is_an_outer_difference(input, target):
    return input.unsqueeze(-1) - target.unsqueeze(-2)


def divides_by_the_number(input, target):
    return (input - target) ** 2 / input.numel()


def counts_rows(input, target):
    return (input - target) * len(input)


def rounds_to_a_half(input, target):
    return input.bfloat16().float() - target


def rounds_to_a_digit(input, target):
    return torch.round(input, decimals=1) - target


def draws(input, target):
    return input + torch.rand_like(target)


def divides_by_columns(input, target, *, epsilon=0.1):
    return input - target + epsilon / input.size(1)


def asks_for_rows(input, target):
    return input - target if input.shape[0] == 4 else target


def asks_for_the_last_dimension(input, target):
    return input * (2 if input.shape[-1] < 6 else 1) - target


def squeezes(input, target):
    return (input.squeeze(1) - target) ** 2


def goes_through_numpy(input, target, *, scale=2.0):
    return (input - target).abs() * float(np.log(1 + scale))


def makes_a_list(input, target, *, scale=2.0):
    return (input - target) * scale.tolist()


def asks_what_an_option_is(input, target, *, alpha=0.25):
    return (alpha * target if isinstance(alpha, float) else alpha) * input


def learns_by_itself(input, target):
    return (input - target) * TEMPERATURE.exp()


def writes_into_an_argument(input, target):
    return (input - target.clamp_(0, 1)) ** 2


def writes_through_a_view(input, target):
    target.view_as(input).mul_(2)
    return input - target


def picks_elements(input, target):
    loss = (input - target) ** 2
    loss[target == 0] *= 2
    return loss


def writes_without_gradient(input, target):
    scale = target.clone()
    with torch.no_grad():
        scale.clamp_(min=0.1)
    return input / scale


def sets_data(input, target):
    d = input - target
    d.data = d.data.clamp(min=0)
    return d * d


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def has_a_backward_of_its_own(input, target):
    return (Reversed.apply(input) - target) ** 2


def asks_for_four_dimensions(input, target):
    return (input - target) / (3 if input.dim() == 4 else 1)


def asks_for_many_elements(input, target):
    return (input - target) * (2 if input.numel() > 500 else 1)


def asks_who_learns(input, target):
    return (input - target) * (2 if input.requires_grad else 1)


def has_no_derivative(input, target):
    return torch.lgamma(input) - target


BOOL = r"write `m != 0` for a bool tensor m, which is a number in the formula, and torch.logical_xor for `\^`"
OF_BOOL = r"a bool tensor m is a number in the formula: write `m != 0`"
LISTED = r"; write it with the operations that docs/custom\.md lists"


@pytest.mark.parametrize(
    "function, says",
    [
        (lambda x, m: x * m.long(), r"; write the tensor as it is, an integer or not"),
        (lambda x, m: torch.hypot(x, m), r"cannot fuse torch.hypot in line .*" + LISTED),
        (lambda x: torch.digamma(x), r"cannot fuse torch.digamma in line .*" + LISTED),
        (lambda x, m: torch.where(m, x, 0), OF_BOOL),
        (lambda x, m: x.masked_fill(m, 0), OF_BOOL),
        (lambda x, m: x * ~m, OF_BOOL),
        (lambda x, m: x * (m & (x > 0)), BOOL),
        (lambda x, m: x * ((m > 0) ^ (x > 0)), BOOL),
        (lambda x: x + torch.randn(x.shape), r"cannot fuse torch.randn .*; write noise as one more tensor"),
        (lambda x: x + torch.normal(x, 1.0), r"cannot fuse torch.normal .*; write noise as one more tensor"),
        (lambda x: x + torch.empty_like(x).uniform_(), r"torch.uniform .*; write noise as one more tensor"),
    ],
)
def test_what_to_write_instead(function, says):
    with pytest.raises(ValueError, match=says) as raised:
        custom.elementwise(function, name="loss")
    assert "\n" not in str(raised.value)


def test_the_page_lists_the_operations_of_a_formula():
    page = (Path(__file__).parents[1] / "docs" / "custom.md").read_text()
    named = {n for n in OPERATIONS if hasattr(torch.Tensor, n) or hasattr(torch.nn.functional, n)}
    makers = set(
        "full_like fill ones_like new_ones new_zeros new_empty zeros_like empty_like zero copy to clone".split()
    )
    views = set("view expand contiguous expand_as view_as reshape unsqueeze squeeze".split())
    operators = set("add sub rsub mul div floor_divide lt le gt ge eq ne bitwise_and bitwise_or bitwise_not".split())
    listed = named - makers - views - operators - {"clamp_min", "clamp_max"}
    assert {n for n in listed if f"`{n}`" not in page} == set()


def test_a_wrapped_function_is_counted_by_its_own_arguments():
    def wrapped(function):
        return functools.wraps(function)(lambda *args, **options: function(*args, **options))

    def of_sums(i, p, g, n):
        return 1 - (i + 1) / (p + g + n)

    def of_row(total, target, *, margin=1.0):
        return torch.relu(margin - total * target)

    assert custom.overlap(wrapped(of_sums)).source == custom.overlap(of_sums).source
    term = lambda a, b: a - b  # noqa: E731
    assert custom.row_sums(wrapped(of_row), term=term).source == custom.row_sums(of_row, term=term).source


@pytest.mark.parametrize(
    "function, says",
    [
        (divides_by_columns, r"divides_by_columns: cannot fuse a formula that depends on the tensors' shape"),
        (asks_for_rows, r"asks_for_rows: cannot fuse a formula that depends on the tensors' shape"),
        (asks_for_the_last_dimension, r"asks_for_the_last_dimension: cannot fuse a formula"),
        (squeezes, r"squeezes: cannot fuse a formula that depends on the tensors' shape"),
        (goes_through_numpy, r"goes_through_numpy: cannot fuse a NumPy or Python value .* write functions of torch"),
        (makes_a_list, r"makes_a_list: cannot fuse a NumPy or Python value .* write functions of torch"),
        (asks_what_an_option_is, r"asks_what_an_option_is: cannot fuse a formula of more than its tensors' elements"),
        (learns_by_itself, r"learns_by_itself: cannot fuse a tensor that learns, from outside .*; write it as an arg"),
        (writes_into_an_argument, r"cannot fuse torch.clamp_, which writes into an argument, in line \d+"),
        (writes_through_a_view, r"cannot fuse torch.mul_, which writes into an argument, in line \d+"),
        (picks_elements, r"picks_elements: cannot fuse torch.index in line \d+ .*; write torch.where"),
        (writes_without_gradient, r"cannot fuse torch.clamp_ under no_grad, which leaves the gradient .* in line \d+"),
        (sets_data, r"sets_data: cannot fuse an attribute of a tensor that is set in line \d+ .*; write detach"),
        (has_a_backward_of_its_own, r"a gradient of input of .* where what was read of it gives .* autograd Functions"),
        (asks_for_four_dimensions, r"asks_for_four_dimensions: cannot fuse a formula of more than its tensors'"),
        (asks_for_many_elements, r"asks_for_many_elements: cannot fuse a formula of more than its tensors' elements"),
        (asks_who_learns, r"asks_who_learns: cannot fuse a formula of more than its tensors' elements"),
        (has_no_derivative, r"has_no_derivative: cannot fuse a derivative that has torch.digamma; .* differentiable="),
        (reduces, r"reduces: cannot fuse torch.sum in line \d+ \(`return .*sum\(\)`\); write a loss for each element"),
        (branches, r"branches: cannot fuse torch.any in line \d+ .*; write a loss for each element"),
        (
            branches_on_values,
            r"branches_on_values: cannot fuse a branch .* in line \d+ \(`if d > 0:`\); write torch.where",
        ),
        (
            branches_on_option,
            r"branches_on_option: cannot fuse a Python value made of a tensor or an option.* torch.where",
        ),
        (changes_shape, r"changes_shape: cannot fuse torch.select in line \d+"),
        (looks_back, r"looks_back: cannot fuse torch.cumsum in line \d+"),
        (captures, r"captures: cannot fuse a tensor from outside the function in line \d+ .*as an argument"),
        (counts, r"counts: cannot fuse torch._?to_copy of these dtypes"),
        (
            fails,
            r"fails: expected a formula of PyTorch on tensors in line \d+ \(`return input.no_such_method\(\)`\), got "
            r"AttributeError: .*no_such_method",
        ),
        (loops, r"loops: cannot fuse torch.max in line \d+ \(`while input.*`\); write a loss for each element"),
        (takes_a_number, r"takes_a_number: cannot fuse torch.select in line \d+"),
        (is_of_another_shape, r"is_of_another_shape: expected a loss for each element, got one of another shape"),
        (is_longer, r"is_longer: cannot fuse torch.ones, which changes the shape, in line \d+"),
        (is_an_outer_difference, r"is_an_outer_difference: cannot fuse torch.unsqueeze, which changes the shape"),
        (
            divides_by_the_number,
            r"divides_by_the_number: cannot fuse a formula that depends on the tensors' shape",
        ),
        (counts_rows, r"counts_rows: cannot fuse a formula that depends on the tensors' shape; write a number"),
        (rounds_to_a_half, r"rounds_to_a_half: cannot fuse torch._?to_copy of these dtypes or arguments.* in line \d+"),
        (rounds_to_a_digit, r"rounds_to_a_digit: cannot fuse torch.round of these dtypes or arguments.* in line \d+"),
        (draws, r"draws: cannot fuse torch.rand_like in line \d+ .*; write noise as one more tensor"),
        (lambda input: 1.0, r"expected a tensor to be returned, got float"),
        (lambda a, b, c, d, e: a, r"expected one to 4 tensors, got 5 \(a, b, c, d, e\)"),
        (lambda input, target=1: input, r"expected tensors without defaults, then options after `\*`, got target=1"),
        (lambda input, *, weight=1.0: input, r"expected names other than reduction, weight, .* got weight"),
    ],
)
def test_refused(function, says):
    with pytest.raises(ValueError, match=says) as raised:
        custom.elementwise(function)
    assert "\n" not in str(raised.value)


def test_a_function_is_read_outside_of_every_mode_and_transform():
    def read():
        return custom.elementwise(lambda input, target: (input - target) ** 2 * torch.sinh(input), name="read").source

    expected = read()
    with FakeTensorMode():
        assert read() == expected
    found = []
    torch.vmap(lambda x: found.append(read()) or x)(torch.ones(2))
    torch.func.grad(lambda x: found.append(read()) or x)(torch.tensor(1.0))
    assert found == [expected] * 2


def test_no_name_of_an_argument_is_taken_but_those_of_a_module(custom_folder):
    """Names that the wrapper or the checks might have had for themselves."""
    run = custom.elementwise(lambda name, settings, *, op=1.0, Tensor=2.0: (name - settings) * op * Tensor, name="run")
    x, t = torch.randn(2, 5)
    torch.testing.assert_close(run(x, t, op=3.0), ((x - t) * 6).mean())
    torch.testing.assert_close(run.Module(Tensor=1.0)(x, t), (x - t).mean())
    for option in ("forward", "training", "type"):
        function = lambda input, target: input - target  # noqa: E731
        function.__signature__ = inspect.Signature(
            [inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD),
             inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=1.0)]
        )  # fmt: skip
        with pytest.raises(ValueError, match=f"expected options with names that no torch.nn.Module has, got {option}"):
            custom.elementwise(function, name="loss")


def test_a_long_formula_is_read_to_its_end():
    def long(input, target):
        x = (input - target).abs()
        for _ in range(60):
            x = x * x * 0.5 + x * 0.25
        return torch.relu(x)

    assert custom.elementwise(long).source  # what is looked up twice for each step takes for ever


def test_without_its_source_a_function_is_read_all_the_same():
    """Of a function that was typed in or made by `exec` the messages name the line and cannot show it."""
    made = {"torch": torch}
    exec("def typed(input, target):\n    return torch.sinh(input - target)\n"
         "def wrong(input, target):\n    return input.sum()\n", made)  # fmt: skip
    assert "sinh_(" in custom.elementwise(made["typed"]).source
    with pytest.raises(ValueError, match=r"^wrong: cannot fuse torch.sum in line 4; write a loss for each element"):
        custom.elementwise(made["wrong"])


@pytest.mark.parametrize("thing", [torch.abs, 3, functools.partial(branches, 1), torch.nn.MSELoss()])
def test_only_a_function_is_decorated(thing):
    with pytest.raises(TypeError, match=r"expected a function to decorate, got \w+$"):
        custom.elementwise(thing, name="thing")
    with pytest.raises(TypeError, match=r"expected a function to decorate, got \w+$"):
        custom.row_sums(thing, term=lambda a: a)


def test_options_of_the_decorator_are_checked():
    for name in ("$(touch pwned)", "x y", "lambda", None):
        with pytest.raises(ValueError, match=r"custom: expected a name for the loss by name=, got '") as raised:
            custom.elementwise(lambda input: input, name=name)
        assert repr(name or "<lambda>") in str(raised.value)
    for options, says in (
        ({"differentiable": ("inputs",)}, "expected differentiable among input, target, got inputs"),
        ({"ignores": True}, "expected a second tensor whose elements are ignored, got 1 tensor"),
    ):
        function = (lambda input: input) if "ignores" in options else (lambda input, target: input)
        with pytest.raises(ValueError, match=says):
            custom.elementwise(function, name="loss", **options)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        custom.elementwise(branches, dtype=torch.float32)


def test_other_families_refuse_in_the_same_words():
    for decorate, function, says in (
        (custom.softmax, lambda log_p: log_p, r"expected 2 tensors, got 1 \(log_p\)"),
        (custom.softmax, lambda log_p, p: -log_p.sum(), r"cannot fuse torch.sum"),
        (custom.overlap, lambda a, b: a, r"expected 3 tensors, got 2 \(a, b\)"),
        (custom.overlap, lambda i, p, g, *, squared=1.0: i, r"expected names other than .*squared.*, got squared"),
        (custom.row_sums(term=lambda a, b: a * b), lambda total, a: total, r"expected a target with a name of its own"),
        (
            custom.row_sums(term=lambda a, b, *, t=1.0: a - b * t),
            lambda total, t: total - t,
            r"<lambda>: expected a target with a name of its own, got t, an option$",
        ),
        (
            custom.row_sums(term=lambda a, b: a - b),
            lambda total, *, b=1.0: total - b,
            r"<lambda>: expected options with names of their own, got b, a tensor of the term$",
        ),
        (
            custom.row_sums(term=lambda a, *, e=2.0: a * e),
            lambda total, *, e=1.0: total + e,
            r"one default of e, got 2.0",
        ),
        (custom.row_sums(term=lambda a: a.mean()), lambda total: total, r"cannot fuse torch.mean"),
    ):
        with pytest.raises(ValueError, match=says) as raised:
            decorate(function)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("default", [True, None, "mean"])
def test_an_option_is_a_number(default):
    function = lambda input, target, *, beta: input * beta  # noqa: E731
    function.__kwdefaults__ = {"beta": default}
    with pytest.raises(TypeError, match="expected option beta to have a number as its default, got"):
        custom.elementwise(function)


def test_calls_are_checked_as_a_built_in_loss_checks_them(gallery_built):
    x = torch.zeros(2, 3)
    for call, error, says in (
        (lambda: gallery.log_cosh(x, x[0]), ValueError, r"log_cosh: expected target of shape \(2, 3\), got \(3,\)"),
        (lambda: gallery.log_cosh(x, x, scale="1"), TypeError, "log_cosh: expected scale to be a number, got str"),
        (lambda: gallery.log_cosh(x, x, scale=float("nan")), ValueError, "log_cosh: expected scale"),
        (lambda: gallery.log_cosh(x, x, reduction="median"), ValueError, "log_cosh: expected reduction to be one of"),
        (lambda: gallery.log_cosh(x, x, weight=x[:, :2]), ValueError, "log_cosh: expected weight to broadcast"),
        (lambda: gallery.log_cosh(x.long(), x), TypeError, "log_cosh: expected input of dtype"),
        (lambda: gallery.log_cosh(x, x, beta=1), TypeError, "unexpected keyword argument 'beta'"),
    ):
        with pytest.raises(error, match=says):
            call()
