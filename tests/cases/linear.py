"""Cases of the losses of a linear layer's logits, and of retrieval. A shape is (N, D, V): rows, features, classes."""

from __future__ import annotations

from problems import Case, variant

from .shapes import BATCHMEAN

# A tile of the product is 16 MiB here, and at least 64 rows of logits.
ROWS = dict(
    groups=("products",),
    shape=(6, 5, 7),
    tiny=(3, 2, 4),
    one=(1, 1, 1),
    sizes=((1, 3, 2), (5, 4, 1), (17, 16, 33), (130, 8, 65), (3, 40, 2050), (70, 3, 70_000)),
    big=(300, 24, 600),
    large=(2048, 600, 40),
    hollow=(3, 0, 4),
    dims=((1, 40), (1, 20), (1, 60)),
    workspace=1 << 20,
)


def layer(m, shape):
    """Rows and a weight whose logits are of order one."""
    rows, features, classes = shape
    scale = max(features, 1) ** -0.5
    return {"input": m.normal((rows, features)), "linear_weight": m.normal((classes, features), 2 * scale)}


def per_logit(m, shape):
    return m.uniform((shape[2],), 0.2, 2.0)


def bias(m, shape):
    return m.normal((shape[2],))


def classes(m, shape, v):
    given = layer(m, shape)
    if v.how.get("target") == "soft":
        return given | {"target": m.distribution((shape[0], shape[2]), 1)}
    target = m.integers((shape[0],), 0, max(shape[2], 1))
    target[:1] = 0  # counts, whatever is ignored
    return given | {"target": m.ignoring(target, v.options.get("ignore_index"))}


def queries(m, shape, v):
    rows, features, keys = shape
    scale = max(features, 1) ** -0.5
    given = {"query": m.normal((rows, features)), "key": m.normal((keys, features), 0.5 * scale)}
    return given | {"target": m.integers((rows,), 0, max(keys, 1))}


def student(m, shape, v):
    rows, features, classes = shape
    return layer(m, shape) | {
        "teacher_input": m.normal((rows, features + 1)),
        "teacher_weight": m.normal((classes, features + 1), (features + 1) ** -0.5),
    }


DISTILLATION = ROWS | dict(
    fused=("input", "linear_weight", "linear_bias"),
    tile=("input", "teacher_input"),
    own_dtype=("linear_bias", "teacher_bias"),
    free_rows=("linear_weight",),
    reductions=BATCHMEAN,
)

CASES = [
    Case(
        "linear_cross_entropy",
        classes,
        fused=("input", "linear_weight", "linear_bias"),
        own_dtype=("linear_bias",),
        free_rows=("linear_weight",),
        variants=(
            variant("bias", linear_bias=bias),
            variant("weight", weight=per_logit),
            variant("ignore", ignore_index=1, z_loss=0.01),
            variant("softcap", softcap=2.0),
            variant("z_loss", z_loss=0.1),
            variant("all", linear_bias=bias, weight=per_logit, ignore_index=-100, label_smoothing=0.2, softcap=3.0,
                    z_loss=0.05),
            variant("soft", {"target": "soft"}),
            variant("soft_all", {"target": "soft"}, linear_bias=bias, weight=per_logit, label_smoothing=0.2,
                    z_loss=0.05),
        ),
        bad=(
            ({"label_smoothing": 1.1}, "label_smoothing"),
            ({"softcap": 0.0}, "softcap"),
            ({"z_loss": -1.0}, "z_loss"),
        ),
        ranges={"label_smoothing": (0.0, 1.0), "softcap": (0.5, 30.0), "z_loss": (0.0, 0.5)},
        **ROWS | {"groups": ("products", "representative")},
    ),
    Case(
        "info_nce_loss",
        queries,
        fused=("query", "key"),
        tile=("query", "target"),
        free_rows=("key",),
        own_dtype=("temperature",),
        variants=(
            variant("temperature", temperature=1.5),
            variant("learned", temperature=lambda m, s: m.uniform((), 0.4, 0.6)),
            variant("normalize", normalize=True),
        ),
        bad=(({"temperature": 0.0}, "temperature"),),
        ranges={"temperature": (0.3, 4.0)},
        **ROWS | {"dims": ((1, 40), (2, 20), (1, 60))},  # unit rows of one number have gradient 0
    ),
    Case(
        "linear_kl_div",
        student,
        variants=(
            variant("temperature", temperature=2.5),
            variant("bias", linear_bias=bias, teacher_bias=bias),
        ),
        bad=(({"temperature": 0.0}, "temperature"),),
        ranges={"temperature": (0.3, 4.0)},
        **DISTILLATION,
    ),
    Case(
        "linear_js_div",
        student,
        variants=(
            variant("beta", beta=0.2),
            variant("bias", linear_bias=bias, teacher_bias=bias),
        ),
        bad=(({"beta": 0.0}, "beta"), ({"beta": 1.0}, "beta")),
        ranges={"beta": (0.05, 0.95)},
        **DISTILLATION,
    ),
]  # fmt: skip
