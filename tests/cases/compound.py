"""Cases of the sums of an overlap loss and a cross-entropy or focal loss."""

from __future__ import annotations

from problems import Case, Variant, variant

from .overlap import ABSENT, OVERLAP_BAD, REGIONS, regions
from .shapes import per_class


def compound_regions(m, shape, v):
    return regions(
        m,
        shape,
        Variant(v.name, v.options, {"target": "index", **v.how}),
        default="softmax",
    )


COMPOUND = REGIONS | dict(
    make=compound_regions,
    groups=("compound",),
    one=(1, 2, 1, 1),
    reductions=("mean", "sum"),
    bad=(*OVERLAP_BAD, ({"label_smoothing": 1.5}, "label_smoothing")),
)
COMPOUND_OPTIONS = (
    variant("soft", {"target": "soft"}),
    variant("ignore", ignore_index=255),
    variant("sigmoid", {"target": "hard"}, activation="sigmoid"),
    variant("sigmoid_index", activation="sigmoid", include_background=False),
    variant("squared_batch", squared=True, batch=True),
    variant("micro_skip", ABSENT, average="micro", absent="skip", weight=per_class),
)

SECOND = (
    variant("class_weight", class_weight=per_class, ignore_index=255),
    variant("smooth", {"target": "soft"}, label_smoothing=0.2, class_weight=per_class),
    variant("smooth_index", label_smoothing=0.1, class_weight=per_class),
    variant("smooth_sigmoid", {"target": "hard"}, activation="sigmoid", label_smoothing=0.1, class_weight=per_class),
)

CASES = [
    Case(
        "dice_cross_entropy_loss",
        variants=(
            *COMPOUND_OPTIONS,
            *SECOND,
            variant("weights", dice_weight=0.3, ce_weight=2.0),
        ),
        ranges={
            "smooth_dr": (0.0, 2.0),
            "dice_weight": (0.0, 2.0),
            "ce_weight": (0.0, 2.0),
            "label_smoothing": (0.0, 1.0),
        },
        **COMPOUND,
    ),
    Case(
        "dice_focal_loss",
        variants=(
            *COMPOUND_OPTIONS,
            *SECOND,
            variant("softmax_sigmoid", focal_activation="sigmoid", ignore_index=255, class_weight=per_class),
            variant("sigmoid_softmax", activation="sigmoid", focal_activation="softmax", gamma=1.5),
            variant("weights", dice_weight=0.3, focal_weight=2.0, gamma=0.5, alpha=0.3),
            variant(
                "gamma0",
                {"target": "hard"},
                activation="sigmoid",
                gamma=0.0,
                alpha=0.25,
            ),
        ),
        ranges={"dice_weight": (0.0, 2.0), "focal_weight": (0.0, 2.0), "gamma": (0.0, 5.0)},
        **COMPOUND | {"groups": ("compound", "focal")},
    ),
]
