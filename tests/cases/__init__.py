"""The list of losses every generated test runs over: a `Case` each, in the topic's file, as in fused_losses/losses.

A test over some of them asks for a group or an attribute of the case, never for a list of names.
"""

from __future__ import annotations

import pytest
import torch

from . import (
    binary,
    classification,
    compound,
    contrastive,
    distance,
    divergence,
    linear,
    overlap,
    ranking,
    regression,
    sequence,
    vae,
)

TOPICS = (
    binary,
    regression,
    classification,
    linear,
    contrastive,
    divergence,
    vae,
    overlap,
    compound,
    distance,
    ranking,
    sequence,
)
CASES = [case for topic in TOPICS for case in topic.CASES]
BY_NAME = {case.name: case for case in CASES}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def each_of(cases):
    """Runs a test once for each of `cases`, which must not be empty."""
    cases = list(cases)
    assert cases, "no case is asked for"
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def each_in(group):
    """Runs a test once for each case of a group (problems.GROUPS)."""
    return each_of(case for case in CASES if group in case.groups)


def variants(wanted=lambda case, variant: True):
    return [pytest.param(c, v, id=f"{c.name}-{v.name}") for c in CASES for v in c.all_variants if wanted(c, v)]


each_case = each_of(CASES)
each_variant = pytest.mark.parametrize("case, variant", variants())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(d).removeprefix("torch.") for d in DTYPES])
