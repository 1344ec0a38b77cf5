"""Cases of the elementwise losses."""

from __future__ import annotations

from problems import Case, variant

POINTS = dict(
    shape=(4, 3, 5, 7),
    tiny=(2, 3, 1, 2),
    sizes=tuple((n,) for n in (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 16383, 16384, 16385, 70001)),
    big=(3, 50, 40, 23),
)


def per_channel(m, s):
    return m.uniform((s[1], 1, 1), 0.2, 2.0)


def per_sample(m, s):
    return m.uniform((s[0], 1, 1, 1), 0.2, 2.0)


def per_element(m, s):
    return m.uniform(s, 0.2, 2.0)


def binary_target(m, shape, v):
    target = m.hard(shape) if v.how.get("target") == "hard" else m.uniform(shape)
    return m.ignoring(target, v.options.get("ignore_index"))


def logits(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": binary_target(m, shape, v)}


def probabilities(m, shape, v):
    return {"input": m.uniform(shape, 0.02, 0.98), "target": binary_target(m, shape, v)}


def numbers(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": m.normal(shape, 2.0)}


def signs(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": m.hard(shape) * 2 - 1}


WEIGHT = (variant("weight", weight=per_channel),)
REGRESSION = dict(make=numbers, fused=("input", "target"), broadcast=("weight",), **POINTS)

ELEMENTWISE = [
    Case(
        "binary_cross_entropy",
        probabilities,
        variants=WEIGHT,
        broadcast=("weight",),
        **POINTS,
    ),
    Case(
        "binary_cross_entropy_with_logits",
        logits,
        variants=(
            *WEIGHT,
            variant("pos_weight", pos_weight=lambda m, s: m.uniform((s[-1],), 0.5, 4.0)),
            variant(
                "both_weights",
                {"target": "hard"},
                weight=per_sample,
                pos_weight=per_channel,
            ),
        ),
        broadcast=("weight", "pos_weight"),
        **POINTS,
    ),
    Case(
        "weighted_binary_cross_entropy",
        probabilities,
        variants=(variant("class_weights", class_weights=(0.5, 3.0)),),
        bad=(
            ({"class_weights": (1.0,)}, "class_weights"),
            ({"class_weights": 2.0}, "class_weights"),
        ),
        **POINTS,
    ),
    Case(
        "weighted_binary_cross_entropy_with_logits",
        logits,
        variants=(
            variant("class_weights", class_weights=(0.5, 3.0)),
            variant(
                "weights",
                class_weights=(0.7, 1.5),
                weight=per_channel,
                pos_weight=per_sample,
            ),
            variant("ignore", {"target": "hard"}, ignore_index=255),
            variant("smooth", label_smoothing=0.1),
            variant(
                "all",
                {"target": "hard"},
                class_weights=(0.5, 3.0),
                ignore_index=-1,
                label_smoothing=0.2,
                weight=per_element,
                pos_weight=per_channel,
            ),
        ),
        broadcast=("weight", "pos_weight"),
        bad=(
            ({"class_weights": (1.0, 2.0, 3.0)}, "class_weights"),
            ({"label_smoothing": -0.1}, "label_smoothing"),
            ({"label_smoothing": 1.5}, "label_smoothing"),
        ),
        **POINTS,
    ),
    Case(
        "sigmoid_focal_loss",
        logits,
        variants=(
            *(variant(f"gamma{g:g}", {"target": "hard"}, gamma=g) for g in (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)),
            variant("no_alpha", alpha=-1.0, gamma=1.5),
            variant("ignore", {"target": "hard"}, ignore_index=255),
            variant("weights", weight=per_channel, pos_weight=per_sample, alpha=0.6),
        ),
        broadcast=("weight", "pos_weight"),
        bad=(
            ({"alpha": 1.5}, "alpha"),
            ({"alpha": -0.5}, "alpha"),
            ({"gamma": -1.0}, "gamma"),
        ),
        **POINTS,
    ),
    Case("mse_loss", variants=WEIGHT, **REGRESSION),
    Case("l1_loss", variants=WEIGHT, **REGRESSION),
    Case(
        "huber_loss",
        variants=(*WEIGHT, variant("delta", delta=2.5)),
        bad=(({"delta": 0.0}, "delta"), ({"delta": -1.0}, "delta")),
        **REGRESSION,
    ),
    Case(
        "smooth_l1_loss",
        variants=(*WEIGHT, variant("beta", beta=2.5), variant("beta0", beta=0.0)),
        bad=(({"beta": -1.0}, "beta"),),
        **REGRESSION,
    ),
    Case(
        "hinge_loss",
        signs,
        constant=("target",),
        variants=(variant("squared", squared=True), variant("margin", margin=0.3)),
        **POINTS,
    ),
]
