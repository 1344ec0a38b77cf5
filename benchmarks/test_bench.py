"""pytest-benchmark over the same cases, at a small size: `pytest benchmarks --benchmark-enable`.

For regressions inside one run: compare the rivals of a group with each other, never a time with a stored one.
"""

import pytest
import torch

from . import cases, rivals

ELEMENTS = 1 << 14


@pytest.mark.parametrize("rival", [rivals.FUSED, rivals.EAGER, rivals.TORCH])
@pytest.mark.parametrize("case", cases.cases(), ids=lambda case: case.key)
def test_forward_and_backward(benchmark, case, rival):
    field = rivals.field_of(case, case.shape_of(ELEMENTS), [torch.float32], torch.device("cpu"), [rival])
    calls = [call for call in field.calls if call.key.rival == rival]
    if not calls and not field.failures:
        pytest.skip("torch has no op for this loss")
    assert not field.failures
    benchmark.group = case.key
    benchmark(calls[0].run)


def test_every_loss_has_a_case():
    assert cases.unmeasured() == []
