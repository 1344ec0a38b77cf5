"""Cases of the regression losses."""

from __future__ import annotations

from problems import Case, variant

from .shapes import POINTS, numbers, per_channel

WEIGHT = (variant("weight", weight=per_channel),)
REGRESSION = dict(make=numbers, free=("input", "target"), fused=("input", "target"), broadcast=("weight",), **POINTS)


CASES = [
    Case("mse_loss", variants=WEIGHT, **REGRESSION),
    Case("l1_loss", variants=WEIGHT, **REGRESSION),
    Case(
        "huber_loss",
        variants=(*WEIGHT, variant("delta", delta=2.5)),
        bad=(({"delta": 0.0}, "delta"), ({"delta": -1.0}, "delta")),
        ranges={"delta": (0.05, 5.0)},
        **REGRESSION,
    ),
    Case(
        "smooth_l1_loss",
        variants=(*WEIGHT, variant("beta", beta=2.5), variant("beta0", beta=0.0)),
        bad=(({"beta": -1.0}, "beta"),),
        ranges={"beta": (0.05, 5.0)},
        **REGRESSION,
    ),
]
