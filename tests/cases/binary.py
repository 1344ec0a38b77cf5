"""Cases of the losses on logits or probabilities of two classes."""

from __future__ import annotations

from problems import Case, variant

from .shapes import POINTS, per_channel, per_element, per_sample

WEIGHT = (variant("weight", weight=per_channel),)


def binary_target(m, shape, v):
    target = m.hard(shape) if v.how.get("target") == "hard" else m.uniform(shape)
    return m.ignoring(target, v.options.get("ignore_index"))


def logits_and_targets(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": binary_target(m, shape, v)}


def logits_and_targets_or_classes(m, shape, v):
    if v.how.get("target") != "index" or len(shape) < 2:
        return logits_and_targets(m, shape, v)
    target = m.integers((shape[0], *shape[2:]), 0, shape[1])
    return {"input": m.normal(shape, 2.0), "target": m.ignoring(target, v.options.get("ignore_index"))}


def probabilities(m, shape, v):
    return {"input": m.uniform(shape, 0.02, 0.98), "target": binary_target(m, shape, v)}


def signs(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": m.hard(shape) * 2 - 1}


CASES = [
    Case(
        "binary_cross_entropy",
        probabilities,
        variants=WEIGHT,
        broadcast=("weight",),
        **POINTS | {"groups": ("elementwise", "probabilities")},
    ),
    Case(
        "binary_cross_entropy_with_logits",
        logits_and_targets,
        logits=("input",),
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
        **POINTS | {"groups": ("elementwise", "representative")},
    ),
    Case(
        "weighted_binary_cross_entropy",
        probabilities,
        variants=(variant("class_weights", class_weights=(0.5, 3.0)),),
        bad=(
            ({"class_weights": (1.0,)}, "class_weights"),
            ({"class_weights": 2.0}, "class_weights"),
        ),
        **POINTS | {"groups": ("elementwise", "probabilities")},
    ),
    Case(
        "weighted_binary_cross_entropy_with_logits",
        logits_and_targets,
        logits=("input",),
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
        ranges={"label_smoothing": (0.0, 1.0)},
        **POINTS,
    ),
    Case(
        "sigmoid_focal_loss",
        logits_and_targets_or_classes,
        logits=("input",),
        variants=(
            *(variant(f"gamma{g:g}", {"target": "hard"}, gamma=g) for g in (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)),
            variant("no_alpha", alpha=-1.0, gamma=1.5),
            variant("ignore", {"target": "hard"}, ignore_index=255),
            variant("weights", weight=per_channel, pos_weight=per_sample, alpha=0.6),
            variant("index", {"target": "index"}),
            variant("index_ignore", {"target": "index"}, ignore_index=1, weight=per_channel, gamma=1.5),
        ),
        broadcast=("weight", "pos_weight"),
        bad=(
            ({"alpha": 1.5}, "alpha"),
            ({"alpha": -0.5}, "alpha"),
            ({"gamma": -1.0}, "gamma"),
        ),
        ranges={"alpha": (0.0, 1.0), "gamma": (0.0, 5.0)},
        **POINTS | {"groups": ("elementwise", "focal", "representative")},
    ),
    Case(
        "hinge_loss",
        signs,
        constant=("target",),
        variants=(variant("squared", squared=True), variant("margin", margin=0.3)),
        ranges={"margin": (0.1, 3.0)},
        **POINTS | {"groups": ("elementwise", "floating_target")},
    ),
]
