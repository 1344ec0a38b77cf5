"""Every kernel under the tracking build of the emulated CUDA device (`make cuda-race`): no race, no missing fence, no
read of unwritten memory, nothing out of bounds or misaligned, whatever the shape. test_emulator shows what it finds.
"""

from __future__ import annotations

import emulated_device
import pytest
import torch
from cases import each_case, each_dtype, each_variant
from emulated_device import emulated
from problems import as_tuple, incoming

pytestmark = pytest.mark.skipif(emulated_device.KIND != "race", reason="needs the tracking build: make cuda-race")
MOST = 40_000  # elements: an access costs a microsecond

# A device of one block and one of many, interleaved at random.
SETTINGS = [{"multiprocessors": 1}, {"multiprocessors": 33, "resident_blocks": 3, "order": "random"}]


def elements(problem, shape) -> int:
    """Of the largest matrix that its kernels work on: of logits, where those are a product."""
    groups = problem.case.groups
    if "products" not in groups or "mahalanobis" in groups:
        return problem.n_terms
    return shape[0] * (shape[2] if len(shape) > 2 else shape[0])


def shifted(t: torch.Tensor) -> torch.Tensor:
    """A copy that starts one element into its memory."""
    return torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape)


def run(problem, settings, reductions, copy=torch.clone):
    """Forward and backward, the gradient made by either."""
    names = [n for n in problem.floating() if n in problem.case.fused]
    for reduction in reductions:
        mine = problem.map(lambda name, t: copy(t.detach()).requires_grad_(name in names))
        with emulated(**settings):
            outputs = as_tuple(mine.call(None, reduction))
            leaves = [mine.arguments[n] for n in names]
            again = torch.autograd.grad(outputs, leaves, incoming(outputs, "scalar"), retain_graph=True)
            found = torch.autograd.grad(outputs, leaves, incoming(outputs, "tensor"))
            problem.call(None, reduction)  # without a gradient
        assert all(g.shape == leaf.shape for g, leaf in zip((*found, *again), leaves * 2))


@each_dtype
@each_variant
def test_variants(case, variant, dtype):
    for settings in SETTINGS:
        run(case.problem(variant, dtype), settings, case.reductions)


@each_dtype
@each_case
def test_sizes(case, dtype):
    for shape in (case.one, *case.sizes):
        problem = case.problem(None, dtype, shape=shape)
        if elements(problem, shape) <= MOST:
            run(problem, SETTINGS[1], case.reductions[-1:])


@each_dtype
@each_variant
def test_memory_that_starts_at_an_odd_place(case, variant, dtype):
    run(case.problem(variant, dtype), SETTINGS[1], case.reductions[:2], shifted)


@each_dtype
@each_case
def test_empty(case, dtype):
    for shape in filter(None, [(0, *case.shape[1:]), case.hollow]):
        run(case.problem(None, dtype, shape=shape), SETTINGS[0], case.reductions)
