"""Cases of the overlap losses."""

from __future__ import annotations

import torch
from problems import Case, variant

from .shapes import per_class

REGIONS = dict(
    groups=("overlap",),
    logits=("input",),
    shape=(2, 3, 5, 7),
    tiny=(2, 3, 3),
    one=(1, 1, 1, 1),
    sizes=((1, 2, 1), (2, 2, 7), (2, 3, 15), (2, 3, 16), (2, 3, 17), (1, 2, 63), (1, 2, 64), (1, 2, 65), (1, 2, 16383),
           (1, 3, 16385), (2, 2, 40000), (2, 3, 9, 9), (2, 7, 1500), (2, 12, 700),
           (1, 32, 600), (3, 300, 5)),
    big=(2, 3, 130, 120),
    large=(2, 4, 256, 256),
    hollow=(2, 3, 5, 0),
    dims=((1, 9), (2, 6), (1, 9)),
    more_dims=2,
)  # fmt: skip


def regions(m, shape, v, default="sigmoid"):
    activation = v.options.get("activation", default)
    index = v.options.get("ignore_index")
    given = {"input": m.normal(shape, 2.0) if activation else m.uniform(shape, 0.02, 0.98)}
    kind = v.how.get("target", "hard")
    if kind == "index":
        target = m.integers((shape[0], *shape[2:]), 0, shape[1])
    elif kind == "soft":
        target = m.distribution(shape, 1)
    else:
        target = m.hard(shape, {"bool": torch.bool, "uint8": torch.uint8}.get(kind))
    if v.how.get("absent"):  # the last class of the first sample
        first = target[:1].clamp(max=max(shape[1] - 2, 0)) if kind == "index" else target[:1] * 1
        if kind != "index":
            first[:, -1] = 0
        target = torch.cat([first, target[1:]])
    return given | {"target": m.ignoring(target, index)}


INDEX = {"target": "index"}
ABSENT = {"absent": True}
OVERLAP_OPTIONS = (
    variant("softmax", {"target": "soft"}, activation="softmax"),
    variant("none", {"target": "soft"}, activation=None),
    variant("bool", {"target": "bool"}),
    variant("uint8", {"target": "uint8"}, batch=True),
    variant("index", INDEX, activation="softmax"),
    variant("index_sigmoid", INDEX, include_background=False),
    variant("batch", INDEX, activation="softmax", batch=True, include_background=False,
            weight=lambda m, s: m.uniform((s[1] - 1,), 0.2, 2.0)),
    variant("weight", weight=per_class, smooth_nr=0.0, smooth_dr=1.0),
    variant("ignore_index", INDEX, activation="softmax", ignore_index=255),
    variant("ignore_dense", ignore_index=255),
    variant("micro", INDEX, activation="softmax", average="micro", weight=per_class),
    variant("micro_sigmoid", {"target": "soft"}, average="micro", batch=True, absent="zero"),
    variant("zero", INDEX | ABSENT, activation="softmax", absent="zero", ignore_index=255),
    variant("skip", {"target": "bool"} | ABSENT, absent="skip", weight=per_class),
)  # fmt: skip
SQUARED = (
    variant("squared", {"target": "soft"}, squared=True),
    variant("squared_index", INDEX, activation="softmax", squared=True, batch=True),
)
OVERLAP_BAD = (
    ({"activation": "tanh"}, "activation"),
    ({"average": "weighted"}, "average"),
    ({"absent": None}, "absent"),
    ({"smooth_dr": -1.0}, "smooth_dr"),
    ({"smooth_nr": -1.0}, "smooth_nr"),
)

CASES = [
    Case(
        "dice_loss",
        regions,
        variants=OVERLAP_OPTIONS + SQUARED,
        bad=OVERLAP_BAD,
        ranges={"smooth_nr": (0.0, 2.0), "smooth_dr": (0.0, 2.0)},
        **REGIONS | {"groups": ("overlap", "representative")},
    ),
    Case(
        "jaccard_loss",
        regions,
        variants=OVERLAP_OPTIONS + SQUARED,
        bad=OVERLAP_BAD,
        ranges={"smooth_nr": (0.0, 2.0), "smooth_dr": (0.0, 2.0)},
        **REGIONS,
    ),
    Case(
        "tversky_loss",
        regions,
        variants=(
            *OVERLAP_OPTIONS,
            variant("alpha_beta", {"target": "soft"}, alpha=0.3, beta=0.7),
            variant("gamma", INDEX, activation="softmax", alpha=0.7, beta=0.3, gamma=0.75),
            variant("gamma2", gamma=2.0, batch=True),
        ),
        bad=(
            *OVERLAP_BAD,
            ({"gamma": 0.0}, "gamma"),
            ({"gamma": -1.0}, "gamma"),
            ({"alpha": -0.1}, "alpha"),
        ),
        ranges={"alpha": (0.05, 1.5), "beta": (0.05, 1.5), "smooth_nr": (0.0, 2.0), "smooth_dr": (0.0, 2.0)},
        **REGIONS,
    ),
]
