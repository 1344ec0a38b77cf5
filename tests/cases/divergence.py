"""Cases of the divergences."""

from __future__ import annotations

from problems import Case, variant

from .shapes import BATCHMEAN, LAST_DIM, numbers


def log_probabilities(m, shape, v):
    target = m.distribution(shape, -1)
    target = target.log() if v.options.get("log_target") else target
    return {"input": m.distribution(shape, -1).log(), "target": target}


def gaussians(m, shape, v):
    return {"mu": m.normal(shape), "logvar": m.normal(shape, 0.5)}


CASES = [
    Case(
        "kl_div",
        log_probabilities,
        fused=("input", "target"),
        variants=(variant("log_target", log_target=True),),
        reductions=BATCHMEAN,
        groups=("floating_target", "signed"),
        **LAST_DIM,
    ),
    Case(
        "kl_div_with_logits",
        numbers,
        fused=("input", "target"),
        variants=(variant("temperature", temperature=2.5), variant("dim", dim=0)),
        reductions=BATCHMEAN,
        bad=(({"temperature": 0.0}, "temperature"), ({"dim": 7}, "dim")),
        groups=("floating_target",),
        logits=("input", "target"),
        ranges={"temperature": (0.3, 4.0)},
        **LAST_DIM,
    ),
    Case(
        "js_div_with_logits",
        numbers,
        fused=("input", "target"),
        variants=(variant("beta", beta=0.2), variant("dim", dim=0)),
        reductions=BATCHMEAN,
        bad=(({"beta": 0.0}, "beta"), ({"beta": 1.0}, "beta"), ({"dim": -5}, "dim")),
        groups=("floating_target",),
        logits=("input", "target"),
        ranges={"beta": (0.05, 0.95)},
        **LAST_DIM,
    ),
    Case(
        "gaussian_kl",
        gaussians,
        fused=("mu", "logvar", "prior_mu", "prior_logvar"),
        own_dtype=("prior_mu", "prior_logvar"),
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
        groups=("representative",),
        **LAST_DIM,
    ),
]
