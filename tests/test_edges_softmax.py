"""Edges of the softmax family: nearly equal distributions, gradients in place of logits, class indices out of range."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tolerances import assert_agrees

from fused_losses import functional as F
from fused_losses import reference

OPS = torch.ops.fused_losses
each_namespace = pytest.mark.parametrize("namespace", [F, reference], ids=["fused", "reference"])


@pytest.mark.promise(
    "Values and gradients",
    "Divergences from logits are never negative, and right to a few eps of their terms for nearly equal rows.",
)
@each_namespace
@pytest.mark.parametrize(
    "name, options",
    [("kl_div_with_logits", {}), ("kl_div_with_logits", {"temperature": 4.0}), ("js_div_with_logits", {}),
     ("js_div_with_logits", {"beta": 0.01})],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(64, 5), (64, 1000), (2, 5000), (8, 30, 20)])
@pytest.mark.parametrize("distance", [0, 1e-5, 1e-3, 0.03, 1, 30])
def test_divergences_of_nearly_equal_rows(namespace, name, options, shape, distance, device):
    """Never negative, and within a few eps of the terms: of p |log p - log q| * (1 + |log p| + |log q|)."""
    x = 3 * torch.randn(shape, device=device)
    z = x + distance * torch.randn(shape, device=device)
    loss = getattr(namespace, name)(x, z, reduction="none", dim=1, **options)
    exact = getattr(reference, name)(x.double(), z.double(), reduction="none", dim=1, **options)
    rate = 1 / options.get("temperature", 1)
    u, v = ((rate * t.double()).log_softmax(1) for t in (x, z))
    size = 1 + u.abs().amax(1) + v.abs().amax(1)
    d = (u - v).abs() + torch.finfo(torch.float32).eps * size.unsqueeze(1)
    terms = torch.minimum(d, d * d) * u.logaddexp(v).exp() / rate**2
    spread = (d * u.logaddexp(v).exp()).sum(1) / rate**2
    assert (loss >= 0).all()
    error = (loss - exact).abs()
    bound = 8 * torch.finfo(torch.float32).eps * size * torch.maximum(spread, terms.sum(1))
    assert (error <= bound).all(), (error / bound).max()
    if distance == 0 and name == "kl_div_with_logits":
        assert (loss == 0).all()


@pytest.mark.promise(
    "Values and gradients",
    "A class that only one of two distributions can take counts in full; one that neither can take, not at all.",
)
@each_namespace
def test_divergences_of_rows_that_share_no_class(namespace, device):
    """A class that only one of the two can take counts in full; one that neither can take, not at all."""
    x = torch.tensor([[0.0, -torch.inf, -torch.inf]], device=device)
    z = torch.tensor([[-torch.inf, 0.0, -torch.inf]], device=device)
    assert namespace.kl_div_with_logits(x, z).item() == torch.inf
    assert_agrees(namespace.js_div_with_logits(x, z), torch.tensor(2.0).log())


def kl_div_of_logits(namespace, x, z):
    return namespace.kl_div_with_logits(x, z, temperature=2.0)


def kl_div_of_layers(namespace, x, z):
    """The same logits by biases of two layers, whose products are 0."""
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    biases = {"linear_bias": x[0], "teacher_bias": z[0]}
    return namespace.linear_kl_div(0 * eye[:1], eye, 0 * eye[:1], eye, temperature=2.0, **biases)


@pytest.mark.parametrize("loss", [kl_div_of_logits, kl_div_of_layers])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_class_whose_probability_underflows_counts_nothing_where_the_student_cannot_take_it(loss, dtype, device):
    """By the kernel, by the reference, and by what the reference serves: transforms, tangents, second derivatives."""
    x = torch.tensor([[1, -torch.inf, 2]], dtype=dtype, device=device)
    z = torch.tensor([[1.5, -1e4, 2.1]], dtype=dtype, device=device)
    expected = F.kl_div_with_logits(x[:, ::2], z[:, ::2], temperature=2.0)
    for namespace in (F, reference):
        assert_agrees(loss(namespace, x, z), expected)
    assert_agrees(torch.func.vmap(partial(loss, F))(x[None], z[None]), expected[None])

    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(F, leaf, z), leaf, create_graph=True)
    direction = torch.tensor([[1, 0, -2]], dtype=dtype, device=device)
    (second,) = torch.autograd.grad((first * direction).sum(), leaf)
    q = (x / 2).softmax(1)
    gradient = 2 * (q - (z / 2).softmax(1))
    assert_agrees(first, gradient)
    assert_agrees(second, q * direction - q * (q * direction).sum())
    value, tangent = torch.func.jvp(lambda t: loss(F, t, z), (x,), (direction,))
    assert_agrees(value, expected)
    assert_agrees(tangent, (gradient * direction).sum())


@pytest.mark.parametrize(
    "classes, inner", [(3, 1), (40, 1), (48, 1), (2048, 1), (5000, 1), (40000, 1), (5, 7), (30, 20)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_in_place_of_the_logits(classes, inner, dtype, smoothing, device):
    """The op that writes into a given gradient may be given its input: the same bits as into memory of its own."""
    x = torch.randn(6, classes, inner, device=device).to(dtype)
    y = torch.randint(classes, (6, inner), device=device)
    y[1] = -100
    own, total = torch.full_like(x, torch.nan), None
    total = OPS.cross_entropy_into(own, x, y, None, [-100, smoothing], 0.25)
    in_place = x.clone()
    again = OPS.cross_entropy_into(in_place, in_place, y, None, [-100, smoothing], 0.25)
    assert torch.equal(own, in_place)
    assert torch.equal(total, again)
    leaf = x.clone().requires_grad_()
    expected = F.cross_entropy(leaf, y, reduction="sum", label_smoothing=smoothing)
    expected.backward(torch.tensor(0.25, dtype=expected.dtype, device=device))
    assert_agrees(total, 0.25 * expected.detach())
    assert_agrees(own, leaf.grad)


@pytest.mark.parametrize("classes, inner", [(3, 1), (40, 1), (2048, 1), (5000, 1), (30, 20)])
@pytest.mark.parametrize("name, option", [("kl_div_with_logits", 2.0), ("js_div_with_logits", 0.3)])
def test_gradient_in_place_of_the_logits_of_a_divergence(classes, inner, name, option, device):
    x, z = torch.randn(2, 6, classes, inner, device=device)
    op = getattr(OPS, f"{name}_into")
    own = torch.full_like(x, torch.nan)
    total = op(own, x, z, None, [option, 1], 1.0)
    in_place = x.clone()
    assert torch.equal(op(in_place, in_place, z, None, [option, 1], 1.0), total)
    assert torch.equal(own, in_place)
    with pytest.raises(RuntimeError, match="memory of its own"):
        op(z, x, z, None, [option, 1], 1.0)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 31, 64, 65, 200])
@pytest.mark.parametrize("outer, inner", [(1, 1), (3, 1), (301, 1), (40, 2), (9, 15), (2, 16), (3, 17), (2, 300)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_positions_and_classes_of_any_number(classes, outer, inner, kind, smoothing, dtype, device):
    """Losses and gradients of torch in float64: blocks and their rests, sums of a block of classes and of more."""
    x = (3 * torch.randn(outer, classes, inner, device=device)).to(dtype).requires_grad_()
    y = torch.randint(classes, (outer, inner), device=device)
    weight = torch.rand(classes, device=device) if inner % 2 else None
    upstream = torch.rand(outer, inner, device=device, dtype=torch.promote_types(dtype, torch.float32))
    options = {"ignore_index": 1, "label_smoothing": smoothing, "reduction": "none"}
    loss = F.cross_entropy(x, y.to(kind), weight=weight, **options)
    loss.backward(upstream)
    wide = x.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, y, weight=None if weight is None else weight.double(), **options)
    expected.backward(upstream.double())
    assert_agrees(loss, expected, n_terms=classes)
    assert_agrees(x.grad, wide.grad, n_terms=classes)


@pytest.mark.promise("What is refused", "A class out of range is an IndexError, as torch's, with all its digits.")
@pytest.mark.parametrize("name, options", [("cross_entropy", [-100, 0]), ("softmax_focal_loss", [-100, 0, 2, 1])])
def test_class_out_of_range_is_an_index_error(name, options):
    """As torch's; and a class beyond what a double holds is named with all its digits."""
    x = torch.randn(4, 7)
    for wrong in (7, -1, 2**62 + 1):
        y = torch.tensor([0, 1, wrong, 3])
        message = rf"^{name}: expected class index in \[0, 7\) or ignore_index -100, got {wrong} at flat index 2$"
        with pytest.raises(IndexError, match=message):
            getattr(F, name)(x, y)
        with pytest.raises(IndexError, match=message):
            getattr(OPS, name)(x, y, None, options, 1, 0)


@pytest.mark.parametrize("name", ["cross_entropy", "softmax_focal_loss", "linear_cross_entropy"])
@pytest.mark.parametrize("wrong", [7, -1, -(2**63)])
def test_where_no_index_is_ignored_every_wrong_class_is_refused(name, wrong):
    """Also the least integer, by which None travels; and the message names no index."""
    layer = (torch.randn(7, 7),) if name == "linear_cross_entropy" else ()
    message = rf"^{name}: expected class index in \[0, 7\), got {wrong} at flat index 2$"
    for reduction in ("mean", "none"):
        with pytest.raises(IndexError, match=message):
            getattr(F, name)(
                torch.randn(4, 7), *layer, torch.tensor([0, 1, wrong, 3]), ignore_index=None, reduction=reduction
            )


def assert_as_the_reference(name, x, *arguments, upstream=None, **options):
    """Losses and gradients, NaN where that has NaN."""
    found = x.clone().requires_grad_(), x.double().requires_grad_()
    wide = [a.double() if a.is_floating_point() else a for a in arguments]
    loss, expected = (
        getattr(F, name)(found[0], *arguments, **options),
        getattr(reference, name)(found[1], *wide, **options),
    )
    assert_agrees(loss, expected, torch.float32)
    upstream = torch.ones_like(loss) if upstream is None else upstream
    loss.backward(upstream)
    expected.backward(upstream.double())
    assert_agrees(found[0].grad, found[1].grad, torch.float32, x.shape[1])


@pytest.mark.promise(
    "Values and gradients",
    "A class of weight 0 adds nothing where its probability is 0, and NaN where a logit is: as everywhere, NaN is not "
    "hidden.",
)
@pytest.mark.parametrize("shape", [(6, 5), (6, 40), (6, 3000), (3, 5, 2), (3, 40, 2)])
@pytest.mark.parametrize("name", ["cross_entropy", "softmax_focal_loss"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weight_0_hides_no_nan(shape, name, smoothing, device):
    x = torch.randn(shape, device=device)
    y = torch.arange(x.numel() // shape[1], device=device).reshape(shape[0], *shape[2:]) % 3
    weight = torch.ones(shape[1], device=device)
    weight[0] = 0
    x[0, 0], x[3 % shape[0], 1] = -torch.inf, torch.nan
    x[-1, 2] = torch.nan
    options = {"weight" if name == "cross_entropy" else "alpha": weight, "label_smoothing": smoothing}
    assert_as_the_reference(name, x, y, **options, reduction="none")
    assert_as_the_reference(name, x[:1], y[:1], **options, reduction="sum")
    if not smoothing:  # the mean of no weight at all
        assert_as_the_reference(name, x[1:2], torch.zeros_like(y[:1]), **options, reduction="mean")


@pytest.mark.parametrize("classes", [5, 40])
def test_an_incoming_gradient_of_0_hides_no_nan(classes, device):
    x, y = torch.randn(4, classes, device=device), torch.tensor([0, -100, 2, 1], device=device)
    x[0, 1] = x[1, 1] = torch.nan
    upstream = torch.tensor([0.0, 0.0, 1.0, 0.0], device=device)
    assert_as_the_reference("cross_entropy", x, y, upstream=upstream, label_smoothing=0.1, reduction="none")


def test_an_ignore_index_that_no_integer_equals():
    """Given to the op directly: nothing is ignored."""
    x, y = torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
    for none in (float("nan"), 1e300, -torch.inf):
        assert OPS.cross_entropy(x, y, None, [none, 0], 1, 0)[0] == F.cross_entropy(x, y)


@pytest.mark.promise(
    "What is taken",
    "Rows without classes: loss 0 against probabilities, ignored or out of range against indices.",
)
@each_namespace
@pytest.mark.parametrize("name", ["cross_entropy", "softmax_focal_loss"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_classes(namespace, name, smoothing, device):
    """Rows without classes: loss 0 against probabilities; ignored or out of range against indices."""
    function = getattr(namespace, name)
    x = torch.zeros(3, 0, device=device)
    for target, reduction, expected in (
        (x, "mean", 0.0),
        (x, "sum", 0.0),
        (torch.full((3,), -100, device=device), "sum", 0.0),
        (torch.full((3,), -100, device=device), "mean", torch.nan),
    ):
        leaf = x.clone().requires_grad_()
        loss = function(leaf, target, reduction=reduction, label_smoothing=smoothing)
        assert_agrees(loss.detach(), torch.tensor(expected))
        loss.backward()
        assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("name, options", [("cross_entropy", [-100, 0]), ("softmax_focal_loss", [-100, 0, 2, 1])])
def test_ops_on_classes_refuse_what_they_cannot_read(name, options):
    op = getattr(OPS, name)
    x, y = torch.randn(4, 7), torch.randint(7, (4,))
    for wrong, match in (
        ((torch.tensor(1.0), y, None), "at least one dimension"),
        ((x, y[:3], None), r"got \(3,\)"),
        ((x, x[:, :6], None), r"target of shape \(4, 7\), got \(4, 6\)"),
        ((x, y.float(), None), "class indices of dtype"),
        ((x, y, torch.ones(6)), r"weight of shape \(7,\), got \(6,\)"),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: expected .*{match}"):
            op(*wrong, options, 1, 0)
    with pytest.raises(RuntimeError, match=f"^{name}: expected {len(options)} options"):
        op(x, y, None, options[1:], 1, 0)


@pytest.mark.parametrize("name", ["kl_div_with_logits", "js_div_with_logits"])
def test_ops_on_logits_refuse_what_they_cannot_read(name):
    op = getattr(OPS, name)
    x = torch.randn(4, 7)
    for wrong, dim, match in (
        ((x, x[:3], None), 1, r"target of shape \(4, 7\), got \(3, 7\)"),
        ((x, x.long(), None), 1, "target of a floating dtype"),
        ((x, x, None), 2, r"dim in \[0, 2\), got 2"),
        ((x, x, None), float("nan"), r"dim in \[0, 2\), got nan"),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: expected .*{match}"):
            op(*wrong, [0.5, dim], 1, 0)
