"""Cases of pairs, distances, ranked lists and sequences."""

from __future__ import annotations

import torch
from problems import Case, variant

from .elementwise import POINTS

PAIRS = dict(
    shape=(6, 5),
    tiny=(3, 3),
    sizes=((1, 1), (3, 2), (2, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1025), (1, 16385),
           (3, 4096), (1100, 64), (35001, 2)),
    big=(2000, 40),
)  # fmt: skip


def twins(m, shape, v):
    x1 = m.normal(shape)
    x2 = x1 + m.normal(shape, 0.7 / max(shape[1], 1) ** 0.5)
    return {"x1": x1, "x2": x2, "target": m.hard(shape[:1])}


def distances(m, shape, v):
    return {"distance": m.uniform(shape, 0.05, 2.0), "target": m.hard(shape)}


def normal_point(m, shape, v, target=False):
    n, d = shape
    lower = m.normal((d, d), 0.3 / d**0.5).double().cpu().tril(-1) + m.uniform((d,), 0.7, 1.5).double().cpu().diag()
    given = {"input": m.normal(shape, 0.8 / d**0.5)}
    if target:
        given["target"] = m.hard((n,))
    return given | {"mean": m.normal((d,), 0.3 / d**0.5), "scale_tril": m.place(lower)}


def labelled_point(m, shape, v):
    return normal_point(m, shape, v, target=True)


def ranked(m, shape, v):
    relevance = m.integers(shape, 0, 5, m.dtype)
    return {"scores": m.normal(shape, 2.0), "relevance": relevance}


def padding(m, s):
    kept = m.hard(s, torch.bool)
    kept[..., 0] = True
    return kept


LISTS = dict(
    make=ranked,
    shape=(3, 6),
    tiny=(2, 4),
    sizes=(
        (1, 1),
        (2, 2),
        (3, 7),
        (2, 16),
        (2, 17),
        (1, 65),
        (2, 130),
        (300, 9),
        (1, 1025),
        (3000, 33),
    ),
    big=(500, 60),
    fused=("scores",),
    constant=("relevance",),
    tile=("scores", "relevance"),
)


def sentences(m, shape, v):
    b, t, n = shape
    return {
        "logits": m.normal(shape, 2.0),
        "target": m.integers((b, max(1, t - 1 + v.how.get("longer", 0))), 0, n),
    }


POINT_SIZES = dict(PAIRS, sizes=((5, 1), (4, 3), (3, 17), (2, 65), (3, 257), (35001, 2)))
OTHER = [
    Case(
        "contrastive_loss",
        twins,
        fused=("x1", "x2"),
        tile=("x1", "x2", "target"),
        variants=(variant("margin", margin=0.4),),
        bad=(({"margin": -1.0}, "margin"),),
        **PAIRS,
    ),
    Case(
        "contrastive_loss_from_distance",
        distances,
        fused=("distance",),
        tile=("distance", "target"),
        variants=(variant("margin", margin=0.4),),
        bad=(({"margin": -1.0}, "margin"),),
        **dict(POINTS, shape=(12,), tiny=(5,), big=(80000,)),
    ),
    Case(
        "mahalanobis_distance",
        normal_point,
        fused=("input", "mean", "scale_tril"),
        tile=("input",),
        variants=(variant("squared", squared=True),),
        reductions=(None,),
        **POINT_SIZES,
    ),
    Case(
        "mahalanobis_loss",
        labelled_point,
        fused=("input", "mean", "scale_tril"),
        variants=(variant("margin", margin=0.6),),
        bad=(({"margin": -1.0}, "margin"),),
        **POINT_SIZES,
    ),
    Case(
        "approx_ndcg_loss",
        variants=(
            variant("temperature", temperature=0.3),
            variant("k", k=2),
            variant("mask", mask=padding, k=3),
        ),
        bad=(({"temperature": 0.0}, "temperature"), ({"k": 0}, "k")),
        **LISTS,
    ),
    Case(
        "lambda_ndcg_loss",
        variants=(variant("sigma", sigma=2.0), variant("k", k=2), variant("mask", mask=padding, k=3)),
        bad=(({"sigma": 0.0}, "sigma"), ({"k": 0}, "k")),
        **LISTS,
    ),
    Case(
        "expected_bleu_loss",
        sentences,
        fused=("logits",),
        tile=("logits", "target"),
        variants=(
            variant("order2", max_order=2, smooth=0.5),
            variant("short", {"longer": 3}),
            variant("lengths", logits_lengths=lambda m, s: m.integers(s[:1], min(2, s[1]), s[1] + 1),
                    target_lengths=lambda m, s: m.integers(s[:1], 1, max(s[1], 2))),
        ),
        bad=(({"max_order": 0}, "max_order"), ({"smooth": -1.0}, "smooth")),
        shape=(2, 6, 11),
        tiny=(2, 4, 3),
        sizes=((1, 1, 2), (2, 4, 3), (2, 9, 17), (1, 7, 65), (1, 3, 1025), (2, 3, 16385), (16, 17, 300)),
        big=(16, 20, 300),
    ),
]  # fmt: skip
