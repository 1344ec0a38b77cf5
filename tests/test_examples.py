"""The examples of the public docstrings run and print what they say; every public function and class has one."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

import fused_losses
from fused_losses import functional as F

NAMES = {"torch": torch, "fused_losses": fused_losses, "F": F}  # what the examples take as imported
SPACES = (F, fused_losses)
PUBLIC = {
    f"{space.__name__}.{name}": value
    for space in SPACES
    for name, value in ((name, getattr(space, name)) for name in space.__all__)
    if inspect.isfunction(value) or inspect.isclass(value)
} | {"fused_losses.functional.explain": F.explain}


@pytest.mark.parametrize("name", PUBLIC)
def test_example(name):
    documented = inspect.getdoc(PUBLIC[name]) or ""
    example = doctest.DocTestParser().get_doctest(documented, dict(NAMES), name, None, None)
    assert example.examples, "no example in the docstring"
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)
