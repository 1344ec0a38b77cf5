"""Cases of the row-wise losses: softmax, divergences, VAE."""

from __future__ import annotations

from problems import Case, variant

BATCHMEAN = ("none", "mean", "sum", "batchmean")
ROWS = dict(
    shape=(6, 5, 3, 2),
    tiny=(3, 4),
    sizes=((5, 1), (4, 2), (3, 3), (3, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1023), (2, 1025),
           (3, 2048), (1, 4097), (2, 12288), (2, 16385), (1, 65536), (70, 1000), (70001, 2), (2, 5, 7), (2, 130, 3, 3),
           (1, 3, 16385)),
    big=(300, 7, 40),
)  # fmt: skip
LAST_DIM = dict(
    shape=(4, 3, 6),
    tiny=(2, 4),
    sizes=((5, 1), (4, 2), (3, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1023), (2, 1025),
           (3, 2048), (2, 6144), (1, 32768), (2, 16385), (70, 1000), (70001, 2), (2, 5, 7)),
    big=(2000, 40),
)  # fmt: skip


def classes(m, shape, v):
    n = shape[1]
    given = {"input": m.normal(shape, 2.0)}
    if v.how.get("target") == "soft":
        return given | {"target": m.distribution(shape, 1)}
    target = m.integers((shape[0], *shape[2:]), 0, n)
    return given | {"target": m.ignoring(target, v.options.get("ignore_index"))}


def per_class(m, s):
    return m.uniform((s[1],), 0.2, 2.0)


def log_probabilities(m, shape, v):
    target = m.distribution(shape, -1)
    target = target.log() if v.options.get("log_target") else target
    return {"input": m.distribution(shape, -1).log(), "target": target}


def two_logits(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": m.normal(shape, 2.0)}


def gaussians(m, shape, v):
    return {"mu": m.normal(shape), "logvar": m.normal(shape, 0.5)}


def autoencoder(m, shape, v):
    how = v.options.get("likelihood", "bernoulli")
    image = (shape[0], 2, *shape[1:])
    reconstruction = m.uniform(image, 0.05, 0.95) if how == "bernoulli" else m.normal(image)
    return {
        "reconstruction": reconstruction,
        "target": m.uniform(image),
        "mu": m.normal((shape[0], 3)),
        "logvar": m.normal((shape[0], 3), 0.5),
    }


ROWWISE = [
    Case(
        "cross_entropy",
        classes,
        variants=(
            variant("weight", weight=per_class),
            variant("ignore", ignore_index=1),
            variant("smooth", label_smoothing=0.1),
            variant("all", weight=per_class, ignore_index=-100, label_smoothing=0.2),
            variant("soft", {"target": "soft"}),
            variant("soft_all", {"target": "soft"}, weight=per_class, label_smoothing=0.2),
        ),
        bad=(
            ({"label_smoothing": -0.1}, "label_smoothing"),
            ({"label_smoothing": 1.1}, "label_smoothing"),
        ),
        **ROWS,
    ),
    Case(
        "softmax_focal_loss",
        classes,
        variants=(
            *(variant(f"gamma{g:g}", gamma=g) for g in (0.0, 0.5, 1.0, 3.0, 5.0)),
            variant("alpha", alpha=0.3),
            variant("alpha_tensor", alpha=per_class, ignore_index=-100),
            variant("smooth", label_smoothing=0.1, gamma=1.5),
        ),
        bad=(({"gamma": -1.0}, "gamma"), ({"label_smoothing": 1.1}, "label_smoothing")),
        **ROWS,
    ),
    Case(
        "kl_div",
        log_probabilities,
        fused=("input", "target"),
        variants=(variant("log_target", log_target=True),),
        reductions=BATCHMEAN,
        **LAST_DIM,
    ),
    Case(
        "kl_div_with_logits",
        two_logits,
        fused=("input", "target"),
        variants=(variant("temperature", temperature=2.5), variant("dim", dim=0)),
        reductions=BATCHMEAN,
        bad=(({"temperature": 0.0}, "temperature"), ({"dim": 7}, "dim")),
        **LAST_DIM,
    ),
    Case(
        "js_div_with_logits",
        two_logits,
        fused=("input", "target"),
        variants=(variant("beta", beta=0.2), variant("dim", dim=0)),
        reductions=BATCHMEAN,
        bad=(({"beta": 0.0}, "beta"), ({"beta": 1.0}, "beta"), ({"dim": -5}, "dim")),
        **LAST_DIM,
    ),
    Case(
        "gaussian_kl",
        gaussians,
        fused=("mu", "logvar", "prior_mu", "prior_logvar"),
        tile=("mu", "logvar"),
        variants=(
            variant(
                "prior",
                prior_mu=lambda m, s: m.normal(s),
                prior_logvar=lambda m, s: m.normal(s, 0.5),
            ),
            variant("prior_mu", prior_mu=lambda m, s: m.normal(s)),
            variant("prior_logvar", prior_logvar=lambda m, s: m.normal(s, 0.5)),
        ),
        reductions=BATCHMEAN,
        **LAST_DIM,
    ),
    Case(
        "vae_loss",
        autoencoder,
        fused=("reconstruction", "mu", "logvar"),
        tile=("reconstruction", "target", "mu", "logvar"),
        variants=(
            variant("logits", likelihood="bernoulli_logits", beta=4.0),
            variant("gaussian", likelihood="gaussian", beta=0.5),
        ),
        bad=(({"likelihood": "poisson"}, "likelihood"),),
        **LAST_DIM,
    ),
]
