"""Cases of ranked lists."""

from __future__ import annotations

import torch
from problems import Case, variant


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
    one=(1, 1),
    large=(64, 1024),
    hollow=(3, 0),
    dims=((1, 9), (2, 70)),
    groups=("ranking",),
    logits=("scores",),
    fused=("scores",),
    constant=("relevance",),
    tile=("scores", "relevance"),
)

CASES = [
    Case(
        "approx_ndcg_loss",
        variants=(
            variant("temperature", temperature=0.3),
            variant("k", k=2),
            variant("mask", mask=padding, k=3),
        ),
        bad=(({"temperature": 0.0}, "temperature"), ({"k": 0}, "k")),
        ranges={"temperature": (0.1, 3.0)},
        **LISTS,
    ),
    Case(
        "lambda_ndcg_loss",
        variants=(variant("sigma", sigma=2.0), variant("k", k=2), variant("mask", mask=padding, k=3)),
        bad=(({"sigma": 0.0}, "sigma"), ({"k": 0}, "k")),
        ranges={"sigma": (0.2, 3.0)},
        **LISTS,
    ),
]
