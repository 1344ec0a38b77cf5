"""The case of the VAE loss."""

from __future__ import annotations

from problems import Case, variant

from .shapes import LAST_DIM


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


CASES = [
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
        groups=("floating_target", "representative"),
        ranges={"beta": (0.0, 4.0)},
        **LAST_DIM | {"hollow": (3, 0)},
    ),
]
