"""Shapes, draws and option tensors that several topics share."""

from __future__ import annotations

POINTS = dict(
    groups=("elementwise",),
    shape=(4, 3, 5, 7),
    tiny=(2, 3, 1, 2),
    one=(1, 1, 1, 1),
    sizes=tuple((n,) for n in (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 16383, 16384, 16385, 70001)),
    big=(3, 50, 40, 23),
    large=(1 << 20,),
    hollow=(4, 3, 5, 0),
    dims=((1, 9), (1, 9), (1, 9), (1, 9)),
)  # fmt: skip
LAST_DIM = dict(
    shape=(4, 3, 6),
    tiny=(2, 4),
    one=(1, 1, 1),
    sizes=((5, 1), (4, 2), (3, 7), (2, 15), (2, 16), (2, 17), (3, 63), (3, 64), (3, 65), (2, 1023), (2, 1025),
           (3, 2048), (2, 6144), (1, 32768), (2, 16385), (70, 1000), (70001, 2), (2, 5, 7)),
    big=(2000, 40),
    large=(512, 2048),
    hollow=(4, 3, 0),
    dims=((1, 9), (2, 70)),
)  # fmt: skip
BATCHMEAN = ("none", "mean", "sum", "batchmean")


def per_channel(m, s):
    return m.uniform((s[1], 1, 1), 0.2, 2.0)


def per_sample(m, s):
    return m.uniform((s[0], 1, 1, 1), 0.2, 2.0)


def per_element(m, s):
    return m.uniform(s, 0.2, 2.0)


def per_class(m, s):
    return m.uniform((s[1],), 0.2, 2.0)


def numbers(m, shape, v):
    return {"input": m.normal(shape, 2.0), "target": m.normal(shape, 2.0)}
