"""Compiled ops called directly, as an exported program or a user of torch.ops does: nothing out of bounds is read.

The calls are recorded from the public functions, one for each case, then repeated with other arguments.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import BY_NAME, CASES, each_case
from problems import as_tuple
from torch.utils._python_dispatch import TorchDispatchMode

from fused_losses import _C
from fused_losses import functional as F

TABLE = {loss["name"]: loss for loss in _C.losses()}
OPS = torch.ops.fused_losses


class Recorder(TorchDispatchMode):
    """Keeps (op, arguments) of every call of an op of the library."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fused_losses":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def recorded(case, reduction=None, backward=False):
    """(op name, arguments) of the forward op of a case, or of its backward.

    A backward op runs under create_graph, whatever the forward keeps.
    """
    problem = case.problem()
    with Recorder() as recorder:
        if backward:
            problem = problem.leaves(case.fused)
            results = as_tuple(problem.call(reduction=reduction))
            leaves = [problem.arguments[n] for n in case.fused if n in problem.arguments]
            torch.autograd.grad(results, leaves, [torch.ones_like(r) for r in results], create_graph=True)
        else:
            problem.call(reduction=reduction)
    ops = {func.name().removeprefix("fused_losses::"): args for func, args in recorder.calls}
    names = [n for n in ops if n.endswith("_backward") == backward and n.removesuffix("_backward") in TABLE]
    assert len(names) == 1, ops.keys()
    return names[0], list(ops[names[0]])


def call(name, arguments):
    return getattr(OPS, name)(*arguments)


def is_tensor(value):
    return isinstance(value, torch.Tensor)


def strided(t):
    """The same values at other strides, with something else between them."""
    if t.ndim == 0:
        return t
    spread = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), 77 if t.dtype is not torch.bool else True)
    spread[..., ::2] = t
    return spread[..., ::2]


OF_LABELS = {"nt_xent_loss", "sup_con_loss", "multi_similarity_loss", "triplet_batch_hard_loss"}  # any integers


def none_reduction(case):
    return "none" if "none" in case.reductions else case.reductions[0]


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.promise(
    "What is taken",
    "An op called directly, or in an exported program, copies what is not contiguous.",
)
@each_case
def test_strided_arguments_give_the_same_bits(case):
    name, arguments = recorded(case, none_reduction(case))
    spread = [strided(a) if is_tensor(a) else a for a in arguments]
    assert any(is_tensor(a) and not a.is_contiguous() for a in spread)
    assert_same(call(name, spread), call(name, arguments))


@pytest.mark.promise("What is taken", "An op called directly copies incoming gradients that are not contiguous.")
@each_case
def test_a_strided_incoming_gradient_gives_the_same_bits(case):
    name, arguments = recorded(case, none_reduction(case), backward=True)
    spread = [strided(a) if is_tensor(a) else a for a in arguments]
    assert_same(call(name, spread), call(name, arguments))


@pytest.mark.promise("What is taken", "A value expanded to a large shape is read within its bounds.")
@each_case
def test_one_value_expanded_to_a_large_shape_is_read_within_bounds(case):
    """The first tensor with all strides 0: the op must not take its one element for all."""
    name, arguments = recorded(case)
    arguments[0] = arguments[0].flatten()[0].expand(arguments[0].shape)
    dense = [arguments[0].contiguous(), *arguments[1:]]
    assert_same(call(name, arguments), call(name, dense))


@each_case
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_options_of_another_number_are_refused(case, backward):
    name, arguments = recorded(case, none_reduction(case), backward)
    options = arguments[-3]
    assert len(options) == len(TABLE[name.removesuffix("_backward")]["options"].split())
    for other in ([*options, 0.0], options[1:]) if options else ([0.0],):
        with pytest.raises(RuntimeError, match=f"{name.removesuffix('_backward')}: expected {len(options)} options"):
            call(name, [*arguments[:-3], list(other), *arguments[-2:]])


@each_case
def test_an_unknown_reduction_is_refused(case):
    name, arguments = recorded(case)
    for other in (-1, 4, 2**40):
        with pytest.raises(RuntimeError, match="expected reduction in"):
            call(name, [*arguments[:-2], other, arguments[-1]])


@pytest.mark.promise("What is refused", "No op reads beyond a tensor: one of another length is refused.")
@each_case
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_tensor_of_another_length_is_refused(case, backward):
    """Each tensor but the first, shorter or longer in each of its dimensions by one: a sentence or, where the loss
    allows that size, a result; never a crash."""
    name, arguments = recorded(case, none_reduction(case), backward)
    refusals = []
    for i, argument in enumerate(arguments):
        if not is_tensor(argument) or (i == 0 and not backward):
            continue
        for dim in range(argument.ndim):
            for change in (argument.narrow(dim, 0, argument.shape[dim] - 1), torch.cat([argument, argument], dim)):
                others = [*arguments[:i], change.contiguous(), *arguments[i + 1 :]]
                try:
                    call(name, others)
                except (RuntimeError, IndexError) as error:
                    refusals.append(str(error))
    several = sum(map(is_tensor, arguments)) > 1
    assert refusals or not several
    assert all("expected" in text for text in refusals)


@pytest.mark.promise(
    "What is refused", "No op takes an incoming gradient, or what its forward saved, of another dtype."
)
@each_case
def test_incoming_tensors_of_another_dtype_are_refused(case):
    name, arguments = recorded(case, none_reduction(case), backward=True)
    for i, _ in enumerate(TABLE[name.removesuffix("_backward")]["incoming"].split(", ")):
        for other in {torch.float32, torch.float64, torch.float16, torch.int64} - {arguments[i].dtype}:
            with pytest.raises(RuntimeError, match=f"^{name.removesuffix('_backward')}: expected .*accumulation dtype"):
                call(name, [*arguments[:i], arguments[i].to(other), *arguments[i + 1 :]])


@pytest.mark.parametrize("wrong", [6.0, 1e12, -2.0, math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_saved_rows_that_are_none_are_refused(wrong, place):
    x, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    _, chosen = OPS.triplet_batch_hard_loss(x, labels, [0.3, 0.0, 0.0], 2, 0)
    chosen[2, place] = wrong
    with pytest.raises(RuntimeError, match=r"^triplet_batch_hard_loss: expected saved rows in \[0, 6\) or -1, got"):
        OPS.triplet_batch_hard_loss_backward(torch.tensor(1.0), chosen, x, labels, [0.3, 0.0, 0.0], 2, 1)


@pytest.mark.promise("What is refused", "No backward reads where a class index points that is none.")
@each_case
@pytest.mark.parametrize("wrong", [100, 10**9, -7])
def test_an_integer_target_that_is_none_is_refused_by_the_backward(case, wrong):
    """What the forward found right may have been written to since: an array's memory counts no versions."""
    name, arguments = recorded(case, none_reduction(case), backward=True)
    targets = [i for i, a in enumerate(arguments) if is_tensor(a) and a.dtype is torch.int64 and a.numel()]
    if not targets or name.removesuffix("_backward") in OF_LABELS:
        pytest.skip("no class indices")
    arguments[targets[0]] = torch.full_like(arguments[targets[0]], wrong)
    with pytest.raises(IndexError, match=f"^{name.removesuffix('_backward')}: expected "):
        call(name, arguments)


@pytest.mark.promise("What is refused", "A target written to before the backward is looked at again, in an array too.")
@pytest.mark.parametrize("name", ["dice_loss", "jaccard_loss", "tversky_loss", "dice_cross_entropy_loss"])
@pytest.mark.parametrize("mask", [False, True], ids=["classes", "mask"])
def test_an_array_written_to_before_the_backward_is_refused(name, mask):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float16, requires_grad=True)  # the backward computes the gradient
    array = np.ones((2, 3, 4, 5) if mask else (2, 4, 5), np.int64)
    loss = getattr(F, name)(x, torch.from_numpy(array), activation="sigmoid" if mask else "softmax", reduction="sum")
    array[1, 2, 3] = 10**9
    words = "an integer target to be 0, 1 or ignore_index" if mask else r"class index in \[0, 3\)"
    with pytest.raises((IndexError, RuntimeError), match=f"^{name}: expected {words}"):
        loss.backward()


@pytest.mark.parametrize("first", [-1, 3, 2**63 - 1024, 1e300, math.nan])
def test_rows_outside_all_columns_are_refused(first):
    name, arguments = recorded(BY_NAME["clip_loss"])
    place = TABLE[name]["options"].split().index("first")
    arguments[-3][place] = float(first)
    with pytest.raises(RuntimeError, match=r"^clip_loss: expected as many columns as rows from first"):
        call(name, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_of_no_rows_are_sums_of_nothing(dtype):
    _, rows, columns = OPS.clip_loss(torch.zeros(0, 4, dtype=dtype), torch.randn(9, 4).to(dtype),
                                     torch.ones((), dtype=dtype), None, [0.0], 1, 0)  # fmt: skip
    assert rows.shape == (0, 2)
    assert columns.tolist() == [-math.inf] * 9


@pytest.mark.parametrize(
    "gradient, factor",
    [
        (torch.ones(3), torch.ones(0)),
        (torch.ones(3), torch.ones(2)),
        (torch.ones(3), torch.ones((), dtype=torch.int64)),
        (torch.ones(3), torch.ones((), dtype=torch.float64)),
        (torch.ones(3, dtype=torch.bfloat16), torch.ones((), dtype=torch.bfloat16)),
        (torch.ones(3, dtype=torch.int64), torch.ones(())),
        (torch.ones(3, 2)[:, 0], torch.ones(())),
    ],
)
def test_scale_refuses_what_it_cannot_scale(gradient, factor):
    with pytest.raises(RuntimeError, match=r"^scale_: expected "):
        OPS.scale_(gradient, factor)


@each_case
def test_an_integer_input_is_refused(case):
    name, arguments = recorded(case)
    with pytest.raises(RuntimeError, match="expected"):
        call(name, [arguments[0].to(torch.int64), *arguments[1:]])


# ------------------------------------------------------------------------------------------------ <op>_into


def into(case, factor, gradient=None):
    """(total, gradient) of the op that writes into what it is given, and those of a sum by the public way."""
    name, arguments = recorded(case, "sum" if "sum" in case.reductions else None)
    tensors, options = arguments[:-3], arguments[-3]
    gradient = torch.full_like(tensors[0], math.nan) if gradient is None else gradient(tensors)
    losses = call(name, [*tensors, options, 2, 1])
    total = getattr(OPS, f"{name}_into")(gradient, *tensors, options, factor)
    return (total, gradient), (losses[0] * factor, losses[-1] * factor)


WITH_SUM = [case for case in CASES if "sum" in case.reductions]
each_with_sum = pytest.mark.parametrize("case", WITH_SUM, ids=[case.name for case in WITH_SUM])


@each_with_sum
def test_into_writes_the_gradient_of_the_sum_times_the_factor(case):
    found, expected = into(case, 0.375)  # a power of two away from no factor at all, three eighths: no rounding hides
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=2e-6, atol=1e-6 * expected[1].abs().max().item())


@each_with_sum
def test_into_the_input_itself_is_right_or_refused(case):
    """A kernel that cannot work in place says so; one that can gives the bits of a gradient apart."""
    apart, _ = into(case, 0.5)
    refusal = ""
    try:
        (total, gradient), _ = into(case, 0.5, lambda tensors: tensors[0])
    except RuntimeError as error:
        refusal = str(error)
    if refusal:
        assert "in memory of its own" in refusal
    else:
        assert total.item() == apart[0].item()
        assert torch.equal(gradient, apart[1])


@each_with_sum
def test_into_another_tensor_argument_or_another_shape_is_refused(case):
    name, arguments = recorded(case, "sum")
    tensors, options = arguments[:-3], arguments[-3]
    run = getattr(OPS, f"{name}_into")
    for gradient in (tensors[0].new_empty(tensors[0].numel() + 1), tensors[0].double(), strided(tensors[0])):
        with pytest.raises(RuntimeError, match=r"expected (gradient|a contiguous gradient)"):
            run(gradient, *tensors, options, 1.0)


def test_into_memory_that_overlaps_another_tensor_s_is_refused():
    memory, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1])
    for gradient, x in ((memory[1:], memory[:4]), (memory[:4], memory[1:])):
        with pytest.raises(RuntimeError, match="in memory of its own"):
            OPS.cross_entropy_into(gradient, x, y, None, [-100, 0.0], 1.0)


def test_losses_that_chunks_reuse_work_in_place():
    """The rows of a product are turned into their gradient where they are."""
    for name in ("cross_entropy", "kl_div_with_logits", "binary_cross_entropy_with_logits"):
        into(BY_NAME[name], 1.0, lambda tensors: tensors[0])
