"""Cases of the losses of all pairs of embeddings. A shape is (N, D)."""

from __future__ import annotations

from problems import Case, variant

EMBEDDINGS = dict(
    groups=("products",),
    shape=(7, 5),
    tiny=(4, 3),
    one=(1, 1),
    sizes=((2, 2), (3, 4), (17, 16), (130, 8), (600, 3)),
    big=(700, 24),
    large=(256, 4096),
    hollow=(3, 0),
    dims=((1, 60), (2, 20)),  # unit rows of one number have gradient 0
    workspace=1 << 20,
    reductions=(None,),
)
UNIT_ROWS = EMBEDDINGS | {"workspace": 24 << 20}  # the rows over their norms, and the gradient of these


def near(m, like, scale):
    return m.place(like.double() + m.normal(like.shape, scale).double())


def two_sets(m, shape, v):
    x = m.normal(shape, max(shape[1], 1) ** -0.5)
    return {"x": x, "y": near(m, x, 0.3), "logit_scale": m.uniform((), 1.5, 2.5)}


def two_sets_and_bias(m, shape, v):
    return two_sets(m, shape, v) | {"logit_bias": m.uniform((), -1.5, -0.5)}


def two_views(m, shape, v):
    z = m.normal(shape)
    return {"z1": z, "z2": near(m, z, 0.3)}


def labelled(m, shape, v):
    features = m.normal(shape)
    labels = m.integers((shape[0],), 0, max(shape[0] // 3, 1)) * 1000 - 2000
    return {"features": features, "labels": labels}


def anchored(m, shape, v):
    """The first two rows have a positive, and from three rows on a negative."""
    given = labelled(m, shape, v)
    labels = m.integers((shape[0],), 0, shape[0] // 3 + 1)
    labels[:2], labels[2:3] = 0, 1
    return given | {"labels": labels}


def learned(m, shape):
    return m.uniform((), 0.4, 0.6)


CASES = [
    Case(
        "clip_loss",
        two_sets,
        fused=("x", "y", "logit_scale"),
        tile=("x", "y"),
        variants=(variant("number", logit_scale=3.0), variant("normalize", normalize=True)),
        **EMBEDDINGS | {"groups": ("products", "representative")},
    ),
    Case(
        "siglip_loss",
        two_sets_and_bias,
        fused=("x", "y", "logit_scale", "logit_bias"),
        tile=("x", "y"),
        variants=(variant("numbers", logit_scale=3.0, logit_bias=-1.0), variant("normalize", normalize=True)),
        **EMBEDDINGS,
    ),
    Case(
        "nt_xent_loss",
        two_views,
        fused=("z1", "z2"),
        tile=("z1", "z2"),
        variants=(variant("temperature", temperature=1.5), variant("learned", temperature=learned),
                  variant("as_they_are", normalize=False, temperature=4.0)),
        own_dtype=("temperature",),
        bad=(({"temperature": 0.0}, "temperature"),),
        ranges={"temperature": (0.3, 4.0)},
        **UNIT_ROWS,
    ),
    Case(
        "sup_con_loss",
        labelled,
        fused=("features",),
        tile=("features", "labels"),
        variants=(variant("temperature", temperature=1.5), variant("learned", temperature=learned),
                  variant("as_they_are", normalize=False, temperature=4.0)),
        own_dtype=("temperature",),
        bad=(({"temperature": 0.0}, "temperature"),),
        ranges={"temperature": (0.3, 4.0)},
        **UNIT_ROWS,
    ),
    Case(
        "multi_similarity_loss",
        labelled,
        fused=("features",),
        tile=("features", "labels"),
        variants=(variant("flat", alpha=1.0, beta=4.0, base=0.2, epsilon=0.5),
                  variant("as_they_are", normalize=False, beta=5.0)),
        bad=(({"alpha": 0.0}, "alpha"), ({"beta": -1.0}, "beta"), ({"epsilon": -0.1}, "epsilon")),
        ranges={"alpha": (0.5, 4.0), "beta": (1.0, 20.0), "base": (0.0, 1.0)},
        **UNIT_ROWS,
    ),
    Case(
        "triplet_batch_hard_loss",
        anchored,
        fused=("features",),
        tile=("features", "labels"),
        variants=(variant("squared", squared=True, margin=0.25), variant("soft", soft=True)),
        bad=(({"margin": -1.0}, "margin"),),
        ranges={"margin": (0.0, 3.0)},
        **EMBEDDINGS | {"sizes": ((3, 2), *EMBEDDINGS["sizes"][1:]), "dims": ((3, 60), (2, 20))},
    ),
]  # fmt: skip
