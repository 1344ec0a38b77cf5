"""The list of losses every generated test runs over. A new loss needs one `Case` in its family's file."""

from __future__ import annotations

import pytest
import torch

from .elementwise import ELEMENTWISE
from .others import OTHER
from .overlap import OVERLAP
from .rowwise import ROWWISE

CASES = [*ELEMENTWISE, *ROWWISE, *OVERLAP, *OTHER]
BY_NAME = {case.name: case for case in CASES}

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
each_case = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
each_variant = pytest.mark.parametrize(
    "case, variant",
    [pytest.param(c, v, id=f"{c.name}-{v.name}") for c in CASES for v in c.all_variants],
)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(d).removeprefix("torch.") for d in DTYPES])
