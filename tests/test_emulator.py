"""The emulated CUDA device itself: it finds every planted defect at its line, and nothing where there is none."""

from __future__ import annotations

import emulated_device
import pytest
import torch
from cases import each_case
from emulated_device import emulated, line_of
from problems import gradients
from tolerances import assert_agrees

PLANTED = "csrc/emulator/planted.cu"
pytestmark = pytest.mark.skipif(not emulated_device.BUILT, reason="not built: python tools/emulator.py")
tracking = pytest.mark.skipif(emulated_device.KIND != "race", reason="found by the tracking build: make cuda-race")

# Kernel: what the message says; the defect is in the line marked with its name.
UNFORGIVEN = {
    "divergent_barrier": "a barrier in divergent code",
    "exited_thread": "has returned",
    "exited_lane": "has returned",
    "divergent_shuffle": "a shuffle in divergent code",
    "deadlock": "deadlock in kernel deadlock",
    "failed_assertion": 'assertion `thread_index() < g.n && "an index below n"` failed',
}
TRACKED = {
    "misaligned_pack": "a misaligned write of 16 bytes",
    "no_barrier": "race: shared memory written before by thread 0 of block",
    "no_warp_barrier": "race: shared memory written before by thread 0 of block",
    "off_by_one": "memory that the call does not own in a write of 4 bytes",
    "shared_off_by_one": "memory that the call does not own in a read of 4 bytes",
    "unwritten_workspace": "a tensor made by the op read before anybody has written it",
    "unwritten_shared": "shared memory read before anybody has written it",
}
ORDERS = [("forward", 1), ("backward", 1), ("random", 1), ("random", 3)]
each_order = pytest.mark.parametrize("order, resident", ORDERS, ids=[f"{o}-{r}" for o, r in ORDERS])


def run_planted(kernel, order="forward", resident=1, elements=33):
    data = torch.ones(elements)
    with emulated(order=order, resident_blocks=resident, seed=3):
        torch.ops.fused_losses_emulated.planted(kernel, data)
    return data


def message(kernel, *settings):
    with pytest.raises(RuntimeError) as caught:
        run_planted(kernel, *settings)
    text = str(caught.value)
    assert "kernel" in text
    return text


@each_order
def test_no_defect(order, resident):
    assert run_planted("no_defect", order, resident, 1000)[0] == 1000
    run_planted("warp_barrier", order, resident)


@each_order
@pytest.mark.parametrize("kernel", UNFORGIVEN)
def test_what_a_gpu_does_not_forgive(kernel, order, resident):
    text = message(kernel, order, resident)
    assert UNFORGIVEN[kernel] in text, text
    assert f"{PLANTED}:{line_of(PLANTED, f'// defect: {kernel}$')}" in text, text


def test_thread_and_block_are_named():
    text = message("failed_assertion")
    assert text.endswith("in kernel failed_assertion, block 0, thread 33"), text


def test_a_pack_must_be_aligned():
    assert "a misaligned write of 16 bytes" in message("misaligned_pack")


def test_shared_memory_has_an_end():
    assert "more shared memory than the launch may have" in message("too_much_shared")


def test_usable_after_an_error():
    """The counter of a kernel that was left halfway is not used again."""
    message("failed_assertion")
    message("deadlock")
    assert run_planted("no_defect", elements=1000)[0] == 1000


def results(problem, reduction, **settings):
    names = [n for n in problem.floating() if n in problem.case.fused]
    with emulated(**settings):
        outputs, found = gradients(problem, names, None, reduction, "scalar")
    return [*outputs, *found.values()]


@pytest.mark.promise("Bits and builds", "No bit depends on the order in which the threads and blocks of a GPU run.")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@each_case
def test_no_result_depends_on_the_order_of_threads_and_blocks(case, dtype):
    """The same bits in any order; on devices of other sizes the sums are grouped otherwise and agree."""
    tracked = emulated_device.KIND == "race"  # an access costs a microsecond: test_race has the sizes
    problem = case.problem(None, dtype, shape=case.shape if tracked else case.big)
    reduction = case.reductions[-1]
    want = results(problem, reduction)
    for order, resident in [("backward", 1), ("random", 1), ("random", 5)]:
        got = results(problem, reduction, order=order, resident_blocks=resident, seed=7)
        assert all(torch.equal(a, b) for a, b in zip(got, want)), f"{order}, {resident} resident blocks"
    for multiprocessors in (2, 132):
        for a, b in zip(results(problem, reduction, multiprocessors=multiprocessors), want):
            assert_agrees(a, b.double(), n_terms=problem.n_terms, label=f"{multiprocessors} multiprocessors")


@pytest.mark.parametrize("bad", [{"multiprocessors": 0}, {"resident_blocks": 0}, {"order": "sideways"}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match="expected"), emulated(**bad):
        pass


@tracking
@each_order
@pytest.mark.parametrize("kernel", TRACKED)
def test_what_the_tracking_build_finds(kernel, order, resident):
    text = message(kernel, order, resident)
    if "barrier" not in kernel or order == "forward":  # in another order it is read before it is written
        assert TRACKED[kernel] in text, text
    assert f"{PLANTED}:{line_of(PLANTED, f'// defect: {kernel}$')}" in text, text


@tracking
@pytest.mark.parametrize("kernel", ["no_first_fence", "no_second_fence"])
@each_order
def test_missing_fences(kernel, order, resident):
    text = message(kernel, order, resident)
    assert "race: a tensor made by the op written before by thread 0 of block" in text, text
    assert f"{PLANTED}:{line_of(PLANTED, '// defect: no_fence')}" in text, text


@tracking
def test_two_threads_that_write_one_element():
    text = message("same_element")
    assert "race: a given tensor written by both by thread 0 of block 0" in text, text
    assert text.endswith("block 0, thread 1"), text
