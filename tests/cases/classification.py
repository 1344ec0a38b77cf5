"""Cases of the losses of one softmax over classes."""

from __future__ import annotations

from problems import Case, variant

from .shapes import per_class

ROWS = dict(
    groups=("classes",),
    logits=("input",),
    shape=(6, 5, 3, 2),
    tiny=(3, 4),
    one=(1, 1, 1, 1),
    sizes=((5, 1), (4, 2), (3, 3), (3, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1023), (2, 1025),
           (3, 2048), (1, 4097), (2, 12288), (2, 16385), (1, 65536), (70, 1000), (70001, 2), (2, 5, 7), (2, 130, 3, 3),
           (1, 3, 16385)),
    big=(300, 7, 40),
    large=(512, 2048),
    hollow=(3, 4, 0),
    dims=((1, 9), (2, 40)),
    more_dims=3,
)  # fmt: skip


def classes(m, shape, v):
    n = shape[1]
    given = {"input": m.normal(shape, 2.0)}
    if v.how.get("target") == "soft":
        return given | {"target": m.distribution(shape, 1)}
    target = m.integers((shape[0], *shape[2:]), 0, n)
    return given | {"target": m.ignoring(target, v.options.get("ignore_index"))}


CASES = [
    Case(
        "cross_entropy",
        classes,
        variants=(
            variant("weight", weight=per_class),
            variant("ignore", ignore_index=1),
            variant("ignore_none", ignore_index=None),
            variant("smooth", label_smoothing=0.1),
            variant("all", weight=per_class, ignore_index=-100, label_smoothing=0.2),
            variant("soft", {"target": "soft"}),
            variant("soft_all", {"target": "soft"}, weight=per_class, label_smoothing=0.2),
        ),
        bad=(
            ({"label_smoothing": -0.1}, "label_smoothing"),
            ({"label_smoothing": 1.1}, "label_smoothing"),
        ),
        ranges={"label_smoothing": (0.0, 1.0)},
        **ROWS | {"groups": ("classes", "representative")},
    ),
    Case(
        "softmax_focal_loss",
        classes,
        variants=(
            *(variant(f"gamma{g:g}", gamma=g) for g in (0.0, 0.5, 1.0, 3.0, 5.0)),
            variant("alpha", alpha=0.3),
            variant("alpha_tensor", alpha=per_class, ignore_index=-100),
            variant("ignore_none", ignore_index=None, label_smoothing=0.1),
            variant("smooth", label_smoothing=0.1, gamma=1.5),
        ),
        bad=(({"gamma": -1.0}, "gamma"), ({"label_smoothing": 1.1}, "label_smoothing")),
        ranges={"label_smoothing": (0.0, 1.0), "gamma": (0.0, 5.0)},
        **ROWS | {"groups": ("classes", "focal")},
    ),
]
