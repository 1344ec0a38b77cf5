"""The case of sentences against a reference."""

from __future__ import annotations

from problems import Case, variant


def sentences(m, shape, v):
    b, t, n = shape
    return {
        "logits": m.normal(shape, 2.0),
        "target": m.integers((b, max(1, t - 1 + v.how.get("longer", 0))), 0, n),
    }


CASES = [
    Case(
        "expected_bleu_loss",
        sentences,
        fused=("logits",),
        tile=("logits", "target"),
        variants=(
            variant("order2", max_order=2, smooth=0.5),
            variant("short", {"longer": 3}),
            variant(
                "lengths",
                logits_lengths=lambda m, s: m.integers(s[:1], min(2, s[1]), s[1] + 1),
                target_lengths=lambda m, s: m.integers(s[:1], 1, max(s[1], 2)),
            ),
        ),
        bad=(({"max_order": 0}, "max_order"), ({"smooth": -1.0}, "smooth")),
        shape=(2, 6, 11),
        tiny=(2, 4, 3),
        sizes=((1, 1, 2), (2, 4, 3), (2, 9, 17), (1, 7, 65), (1, 3, 1025), (2, 3, 16385), (16, 17, 300)),
        big=(16, 20, 300),
        one=(1, 1, 2),
        large=(8, 16, 4096),
        hollow=None,
        dims=((1, 9), (2, 9), (2, 40)),
        logits=("logits",),
        ranges={"smooth": (0.1, 2.0)},
    ),
]
