"""Every refusal: one sentence that names the loss, what was expected and what was given, before any kernel runs."""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import BY_NAME, CASES, each_case, each_in, each_variant, variants
from torch.masked import MaskedTensor

from fused_losses import functional as F


def refused(case, kind, call, *words):
    """`call` raises `kind` with one sentence that starts with the loss's name and holds `words`."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(f"{case.name}: expected "), text
    assert "got" in text, text
    assert "\n" not in text
    for word in words:
        assert str(word) in text, f"{word!r} not in {text!r}"


@pytest.mark.parametrize("given", ["average", None, 3, "", ["mean"], "batchmean "])
@each_case
def test_reduction(case, given):
    if case.reductions == (None,):
        pytest.skip("the loss is not reduced")
    problem = case.problem()
    choices = [f'"{name}"' for name in case.reductions]
    refused(case, ValueError, lambda: case.function(**{**problem.arguments, "reduction": given}), *choices, repr(given))


@each_case
def test_batchmean_is_for_divergences(case):
    if "batchmean" in case.reductions or case.reductions == (None,):
        pytest.skip("batchmean is one of its reductions, or it has none")
    problem = case.problem()
    refused(case, ValueError, lambda: problem.call(None, "batchmean"), '"mean"', "'batchmean'")


@pytest.mark.parametrize("given", [[1.0, 2.0], 1.0, "x"], ids=["list", "number", "string"])
@each_case
def test_not_a_tensor(case, given):
    problem = case.problem()
    for name in problem.tensors:
        kind = case.function.kinds.get(name)
        if kind is None or not (kind.or_tensor and isinstance(given, float)):
            refused(case, TypeError, lambda name=name: problem.call(**{name: given}), name, type(given).__name__)


@each_case
def test_dtype_of_the_input(case):
    """Integers, booleans and complex numbers are no input to differentiate."""
    problem = case.problem()
    name = case.fused[0]
    for dtype in (torch.int64, torch.bool, torch.complex64):
        wrong = problem.tensors[name].to(dtype)
        refused(case, TypeError, lambda wrong=wrong: problem.call(**{name: wrong}), name, str(dtype)[6:])


@each_case
def test_dtype_of_the_others(case):
    problem = case.problem()
    for name, value in list(problem.tensors.items())[1:]:
        wrong = value.to(torch.complex64)
        refused(case, TypeError, lambda n=name, w=wrong: problem.call(**{n: w}), name, "complex64")
        if name in case.fused and value.is_floating_point():
            continue
        if name == "target" and value.is_floating_point() and value.shape == problem.tensors[case.fused[0]].shape:
            wrong = value.to(torch.int16)
            refused(case, TypeError, lambda n=name, w=wrong: problem.call(**{n: w}), name, "int16")


def dense_only(value):
    """The layouts that no kernel reads."""
    nested = torch.nested.nested_tensor([value, value])
    layouts = {"sparse_coo": value.to_sparse(), "nested": nested}
    if value.dtype is not torch.uint8:
        layouts["masked"] = MaskedTensor(value, torch.ones_like(value, dtype=torch.bool))
    return layouts if value.dim() == 0 else layouts | {"_mkldnn": value.float().to_mkldnn()}


@pytest.mark.filterwarnings("ignore:The PyTorch API of")
@each_variant
def test_layout(case, variant):
    """Sparse, MKL-DNN, nested and masked tensors, for every tensor argument."""
    problem = case.problem(variant)
    for name, value in problem.arguments.items():
        if isinstance(value, torch.Tensor):
            for layout, wrong in dense_only(value).items():
                if layout != "_mkldnn" or value.is_floating_point():
                    refused(case, TypeError, lambda n=name, w=wrong: problem.call(**{n: w}), name, "dense", layout)


@pytest.mark.promise(
    "What is refused",
    "Shapes that do not fit: a ValueError with the expected and the given one, before any kernel runs.",
)
@each_case
def test_shapes(case):
    """A tensor of one more row, and one of another number of dimensions: both shapes are in the sentence."""
    problem = case.problem()
    for name, value in list(problem.tensors.items())[1:]:
        if not value.dim():
            continue
        longer = torch.cat([value, value[:1]])
        deeper = value[..., None, None, None].expand(*value.shape, 2, 2, 3)
        for wrong in (longer, deeper):
            if case.name == "mahalanobis_distance" and name == "mean" and wrong is deeper:
                continue
            if name in case.free_rows and wrong is longer:
                continue
            refused(case, ValueError, lambda n=name, w=wrong: problem.call(**{n: w}), tuple(wrong.shape))


@each_case
def test_no_silent_broadcasting(case):
    problem = case.problem()
    for name, value in list(problem.tensors.items())[1:]:
        if name in case.free_rows or not value.dim():
            continue
        single = value[:1]
        refused(case, ValueError, lambda n=name, w=single: problem.call(**{n: w}), tuple(single.shape))


@each_case
def test_devices(case):
    """Tensors of two devices."""
    problem = case.problem()
    for name, value in list(problem.tensors.items())[1:]:
        elsewhere = value.to("meta")
        refused(case, ValueError, lambda n=name, w=elsewhere: problem.call(**{n: w}), "cpu", "meta")


@each_case
def test_tensor_options(case):
    """Weights, priors, masks: not a tensor, elsewhere, of a shape that does not fit."""
    for variant in case.variants:
        problem = case.problem(variant)
        for name, value in problem.options.items():
            if not isinstance(value, torch.Tensor):
                continue
            if name != "alpha":
                refused(case, TypeError, lambda p=problem, n=name: p.call(**{n: [1.0]}), name, "list")
            elsewhere = value.to("meta")
            refused(case, ValueError, lambda p=problem, n=name, e=elsewhere: p.call(**{n: e}), name, "meta")
            wrong = torch.ones(2, 7, 11, 13, 17, dtype=value.dtype)
            refused(case, ValueError, lambda p=problem, n=name, w=wrong: p.call(**{n: w}), name, tuple(wrong.shape))


BAD = [pytest.param(c, o, word, id=f"{c.name}-{o}") for c in CASES for o, word in c.bad]


@pytest.mark.parametrize("case, options, word", BAD)
def test_option_ranges(case, options, word):
    problem = case.problem()
    with pytest.raises((ValueError, TypeError)) as caught:
        problem.call(**options)
    text = str(caught.value)
    assert text.startswith(f"{case.name}: expected "), text
    assert word in text
    assert "got" in text


@pytest.mark.parametrize("case, options, word", BAD)
def test_option_is_no_nan_and_no_string(case, options, word):
    problem = case.problem()
    (name, given), *_ = options.items()
    if isinstance(given, float) and name != "class_weights":
        refused(case, ValueError, lambda: problem.call(**{name: float("nan")}), word, "nan")
        optional = inspect.signature(case.function).parameters[name].default is None
        learned = any(torch.is_tensor(case.problem(v).options.get(name)) for v in case.variants)
        for wrong in ("1", None, torch.ones(2), 1j):
            if torch.is_tensor(wrong) and learned:
                refused(case, ValueError, lambda w=wrong: problem.call(**{name: w}), word, "(2,)")
            elif not (wrong is None and optional):
                refused(case, TypeError, lambda w=wrong: problem.call(**{name: w}), word, type(wrong).__name__)


FLAGS = [
    pytest.param(c, n, id=f"{c.name}-{n}")
    for c in CASES
    for n, p in inspect.signature(c.function).parameters.items()
    if isinstance(p.default, bool)
]


@pytest.mark.parametrize("given", ["no", 1, None, torch.tensor(True)], ids=["string", "number", "None", "tensor"])
@pytest.mark.parametrize("case, name", FLAGS)
def test_flags(case, name, given):
    """A string is not taken for True."""
    refused(case, TypeError, lambda: case.problem().call(**{name: given}), name, "True or False", repr(given))


def has_class_indices(case, variant):
    target = case.problem(variant).tensors.get("target")
    return target is not None and target.dtype is torch.int64


@pytest.mark.parametrize("case, variant", variants(has_class_indices))
def test_class_out_of_range(case, variant):
    """The kernel finds it in its own pass, wherever it is, and names it; nothing is read out of bounds."""
    for dtype in (torch.float32, torch.bfloat16):
        for wrong in (-1, 12345678, 2**31 + 1):
            for where in (0, -1):
                problem = case.problem(variant, dtype)
                if variant.options.get("ignore_index") == wrong or variant.name == "lengths":
                    continue
                problem.tensors["target"].view(-1)[where] = wrong
                trained = problem.leaves([case.fused[0]])
                for given in (problem, trained):
                    with pytest.raises((RuntimeError, IndexError), match=str(wrong)) as caught:
                        given.call(None, case.reduced())
                    assert f"{case.name}: expected " in str(caught.value)
                    assert ".cpp:" not in str(caught.value), "no path of the machine that built the library"


def test_hinge_targets():
    function = F.hinge_loss
    x = torch.randn(70)
    for dtype in (torch.bool, torch.uint8):
        refused(BY_NAME["hinge_loss"], TypeError, lambda dtype=dtype: function(x, (x > 0).to(dtype)), str(dtype)[6:])
    for where in (0, 35, 69):
        y = torch.ones(70)
        y[where] = 0.5
        with pytest.raises((RuntimeError, IndexError), match=r"0\.5"):
            function(x, y)


def test_bleu_lengths():
    problem = BY_NAME["expected_bleu_loss"].problem()
    for argument, longest in (("logits_lengths", 6), ("target_lengths", 5)):
        for wrong in (longest + 1, -1):
            with pytest.raises((RuntimeError, IndexError, ValueError), match=str(wrong)):
                problem.call(**{argument: torch.tensor([longest, wrong])})


@each_in("overlap")
def test_background_of_a_single_class(case):
    x = torch.randn(2, 1, 4, 4)
    with pytest.raises(ValueError, match=f"^{case.name}: expected "):
        case.function(x, torch.zeros(2, 4, 4), include_background=False)


@each_in("overlap")
def test_both_shapes_of_an_overlap_target_are_named(case):
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError) as caught:
        case.function(x, torch.zeros(2, 4, 8, 8))
    for word in ("(2, 3, 8, 8)", "(2, 8, 8)", "(2, 4, 8, 8)"):
        assert word in str(caught.value)


@each_case
def test_unknown_keyword(case):
    with pytest.raises(TypeError, match="no_such_option"):
        case.problem().call(no_such_option=1)


@pytest.mark.promise("What is refused", "After an error the next call works.")
@each_case
def test_nothing_is_left_behind_by_a_refusal(case):
    """After an error the next call works."""
    problem = case.problem()
    want = problem.call()
    parameters = inspect.signature(case.function).parameters
    name = [n for n in problem.tensors if parameters[n].default is inspect.Parameter.empty][-1]
    with pytest.raises(TypeError):
        problem.call(**{name: None})
    got = problem.call()
    parts = zip(got, want) if isinstance(got, tuple) else [(got, want)]
    assert all(torch.equal(a, b) for a, b in parts)
