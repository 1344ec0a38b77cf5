"""Cases of pairs of embeddings and of distances."""

from __future__ import annotations

from problems import Case, variant

from .shapes import POINTS

PAIRS = dict(
    shape=(6, 5),
    tiny=(3, 3),
    one=(1, 1),
    sizes=((1, 1), (3, 2), (2, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1025), (1, 16385),
           (3, 4096), (1100, 64), (35001, 2)),
    big=(2000, 40),
    large=(512, 2048),
    hollow=(6, 0),
    dims=((1, 9), (2, 70)),
)  # fmt: skip
GAUSSIAN = PAIRS | dict(
    groups=("mahalanobis", "products"),
    fused=("input", "mean", "scale_tril"),
    sizes=((5, 1), (4, 3), (3, 17), (2, 65), (3, 257), (35001, 2)),
    large=(16384, 64),
    hollow=None,
    workspace=9 << 18,  # a chunk of rows, whitened and centred; a loss for each row
)


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


CASES = [
    Case(
        "contrastive_loss",
        twins,
        fused=("x1", "x2"),
        tile=("x1", "x2", "target"),
        variants=(variant("margin", margin=0.4),),
        bad=(({"margin": -1.0}, "margin"),),
        groups=("representative",),
        ranges={"margin": (0.1, 3.0)},
        **PAIRS,
    ),
    Case(
        "contrastive_loss_from_distance",
        distances,
        fused=("distance",),
        tile=("distance", "target"),
        variants=(variant("margin", margin=0.4),),
        bad=(({"margin": -1.0}, "margin"),),
        ranges={"margin": (0.1, 3.0)},
        **POINTS | dict(shape=(12,), tiny=(5,), one=(1,), big=(80000,), hollow=None, dims=((1, 300),)),
    ),
    Case(
        "mahalanobis_distance",
        normal_point,
        tile=("input",),
        variants=(variant("squared", squared=True),),
        reductions=(None,),
        **GAUSSIAN | dict(workspace=23 << 18),  # and all whitened rows, for the backward
    ),
    Case(
        "mahalanobis_loss",
        labelled_point,
        variants=(variant("margin", margin=0.6),),
        bad=(({"margin": -1.0}, "margin"),),
        ranges={"margin": (0.1, 3.0)},
        **GAUSSIAN,
    ),
]
