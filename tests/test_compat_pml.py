"""compat.pml against pytorch-metric-learning 2.9.0: value, gradients, shape, dtype and exception."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peers import assert_rounded_once, assert_same, assert_same_signature, fallbacks, modules_of, required  # noqa: F401

from fused_losses import compat
from fused_losses.compat import pml as ours

theirs = required("pytorch_metric_learning.losses", "2.9.0")
distances = required("pytorch_metric_learning.distances")
reducers = required("pytorch_metric_learning.reducers")
regularizers = required("pytorch_metric_learning.regularizers")

both = modules_of(ours, theirs)
TWICE = torch.tensor([0, 1, 2, 0, 1, 2, 7])
OFTEN = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
SAME, DIFFERENT, EMPTY = torch.zeros(2).long(), torch.arange(5), torch.zeros(0).long()


def embeddings(labels, d=4, dtype=torch.float64):
    return torch.randn(len(labels), d, dtype=dtype).requires_grad_()


def with_rest(loss, *rest):
    """The call of a loss with its last argument, the embeddings, first."""
    *rest, x = rest
    return loss(x, *rest)


@pytest.mark.parametrize("name", ours.__all__)
def test_signatures(name):
    assert_same_signature(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("name, options, labels", [
    (name, options, labels)
    for name, choices, kinds in (
        ("NTXentLoss", [{}, {"temperature": 0.5}], [TWICE, SAME, DIFFERENT, EMPTY, TWICE.int()]),
        ("SupConLoss", [{}, {"temperature": 0.5}], [TWICE, OFTEN, SAME, DIFFERENT, EMPTY, OFTEN.to(torch.uint8)]),
        ("ContrastiveLoss", [{}, {"pos_margin": 0.3, "neg_margin": 1.2}, {"pos_margin": -0.1, "neg_margin": 0}],
         [TWICE, OFTEN, SAME, DIFFERENT, OFTEN.double()]),
    )
    for options in choices for labels in kinds
])  # fmt: skip
def test_values(name, options, labels, fallbacks):  # noqa: F811
    x = embeddings(labels)
    assert_same(*both(name, **options), x, labels, label=str(options))
    assert not fallbacks


@pytest.mark.parametrize("name", ours.__all__)
def test_two_views_by_the_librarys_wrapper(name, fallbacks):  # noqa: F811
    x, y = embeddings(DIFFERENT), embeddings(DIFFERENT)
    loss = theirs.SelfSupervisedLoss(getattr(theirs, name)())
    expected = loss(x, y)
    with compat.patch("pml"):
        found = loss(x, y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert not fallbacks


def pairs():
    """Two positive pairs and three negative ones."""
    return torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([0, 1, 5]), torch.tensor([3, 5, 6])


@pytest.mark.parametrize("indices", [pairs(), (*pairs()[:2], pairs()[3][:2]), (EMPTY, EMPTY, *pairs()[2:])])
@pytest.mark.parametrize("labelled", [True, False])
def test_contrastive_of_given_pairs(indices, labelled, fallbacks):  # noqa: F811
    x = embeddings(OFTEN)
    labels = OFTEN if labelled else None
    assert_same(*(partial(with_rest, loss, labels, indices) for loss in both("ContrastiveLoss", 0.1, 1.3)), x)
    assert not fallbacks


@pytest.mark.parametrize("name", ours.__all__)
def test_float32(name, fallbacks):  # noqa: F811
    assert_rounded_once(*both(name), embeddings(TWICE, dtype=torch.float32), TWICE)
    assert not fallbacks


@pytest.mark.parametrize("name, temperature", [("NTXentLoss", 0.07), ("SupConLoss", 0.1)])
def test_bfloat16_is_float32_rounded_once(name, temperature, fallbacks):  # noqa: F811
    x = embeddings(TWICE, dtype=torch.bfloat16)
    found = getattr(ours, name)()(x, TWICE)
    expected = getattr(theirs, name)(temperature)(x.double(), TWICE)
    assert found.dtype is torch.bfloat16
    assert found.item() == pytest.approx(expected.item(), rel=torch.finfo(torch.bfloat16).eps)
    assert not fallbacks


def custom_options():
    return [
        ("distance=LpDistance", {"distance": distances.LpDistance(p=1)}),
        ("reducer=ThresholdReducer", {"reducer": reducers.ThresholdReducer(low=0.1)}),
        ("embedding_regularizer", {"embedding_regularizer": regularizers.LpRegularizer()}),
        ("collect_stats=True", {"collect_stats": True}),
    ]


@pytest.mark.parametrize("name", ours.__all__)
@pytest.mark.parametrize("said, options", custom_options(), ids=lambda v: v if isinstance(v, str) else "")
def test_parts_of_another_kind_go_to_the_library(name, said, options, fallbacks):  # noqa: F811
    x = embeddings(TWICE)
    pair = both(name, **options)
    assert_same(*pair, x, TWICE)
    with compat.patch("pml"):
        pair[1](x, TWICE)
    refusals = list(map(str, fallbacks))
    assert refusals[0] == next(iter(options))
    assert refusals[1] == said or said.startswith("distance")


@pytest.mark.parametrize("name, call, said", [
    ("NTXentLoss", (OFTEN,), "more than two of a label"),
    ("NTXentLoss", (OFTEN, pairs()), "indices_tuple"),
    ("SupConLoss", (OFTEN, pairs()), "indices_tuple"),
    ("SupConLoss", (OFTEN, None, torch.randn(3, 4).double(), torch.arange(3)), "ref_emb"),
    ("ContrastiveLoss", (OFTEN, None, torch.randn(3, 4).double(), torch.arange(3)), "ref_emb"),
    ("ContrastiveLoss", (None, (EMPTY, EMPTY, OFTEN[:1], OFTEN[3:4])), "a single pair"),
])  # fmt: skip
def test_what_goes_to_the_library(name, call, said, fallbacks):  # noqa: F811
    x = embeddings(OFTEN)
    assert_same(*(partial(with_rest, loss, *call) for loss in both(name)), x)
    assert list(map(str, fallbacks)) == [said]


@pytest.mark.parametrize("name", ours.__all__)
@pytest.mark.parametrize("call", [(), (TWICE[:3],), (TWICE.view(-1, 1),), (TWICE.tolist(),)])
def test_exceptions(name, call):
    x = embeddings(TWICE)
    answers = []
    for losses in (ours, theirs):
        with pytest.raises(Exception) as raised:
            getattr(losses, name)()(x, *call)
        answers.append(raised.type)
    assert answers[0] is answers[1]
