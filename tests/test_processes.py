"""A batch spread over two and over four processes (gloo): the loss, gradients and training of one process alone."""

from __future__ import annotations

from functools import partial

import processes
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from processes import CASES, COMPILED, LOSSES, POSITIONS, SHARED, SIZE, SPREAD, WHOLE

import fused_losses.functional as F

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
each_size = pytest.mark.parametrize("size", [2, 4])
each_loss = pytest.mark.parametrize("name", LOSSES)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(processes.main, (str(folder),), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


def together(ranks, size, *key):
    """The loss of each process, and the gradients of all: the rows in order, as DDP would average them."""
    found = [ranks[rank][(size, *key)] for rank in range(size)]
    gradients = {}
    for name in found[0].keys() - {"loss"}:
        parts = [f[name] for f in found]
        if parts[0] is not None:
            mean = name in SHARED + WHOLE
            gradients[name] = torch.stack(parts).mean(0) if mean else torch.cat(parts) / (size if name in SPREAD else 1)
            assert name not in WHOLE or all(torch.equal(part, parts[0]) for part in parts)
    return [f.get("loss") for f in found], gradients


def assert_as_alone(found, expected, tolerance):
    """Equal to what one process finds, up to a tolerance relative to the largest value."""
    losses, gradients = found
    if "loss" in expected:
        assert all(torch.equal(loss, losses[0]) for loss in losses)  # the same bits in every process
        torch.testing.assert_close(losses[0], expected["loss"], rtol=tolerance, atol=0)
    given = {name: g for name, g in expected.items() if name != "loss" and g is not None}
    assert gradients.keys() == given.keys()
    for name, g in given.items():
        atol = tolerance * g.abs().max().item()
        torch.testing.assert_close(gradients[name], g, rtol=0, atol=atol)
        assert g.abs().max() > 0


# Sums of some twenty terms in another order; gradients of halves are rounded once to the dtype in both.
TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-10}


@each_size
@pytest.mark.parametrize("name, dtype", CASES)
def test_the_loss_and_gradients_are_those_of_one_process(name, dtype, size, ranks):
    alone = processes.first_order(LOSSES[name], F, processes.leaves(processes.tensors(dtype, size)))
    assert_as_alone(together(ranks, size, name, dtype), alone, TOLERANCE[dtype])


@each_loss
def test_the_reference_takes_a_group_too(name, ranks):
    alone = processes.first_order(LOSSES[name], F, processes.leaves(processes.tensors("float64", 2)))
    assert_as_alone(together(ranks, 2, name, "reference"), alone, 1e-13)


@each_loss
@pytest.mark.parametrize("kind", ["second", "transformed"])
def test_second_derivatives_and_transforms(kind, name, ranks):
    call = {"second": processes.second_order, "transformed": processes.transformed}[kind]
    alone = call(LOSSES[name], F, processes.leaves(processes.tensors("float64", 2)))
    assert_as_alone(together(ranks, 2, name, kind), alone, 1e-13)


@pytest.mark.promise(
    "Where a loss is called from", "Transforms of torch.func and tangents of forward mode pass through a group."
)
@each_loss
def test_forward_mode_and_vmap(name, ranks):
    alone, *others = processes.directional(LOSSES[name], F, processes.leaves(processes.tensors("float64", 2)))
    found = [ranks[rank][2, name, "directional"] for rank in range(2)]
    average = 1 if name.startswith("linear") else 2  # of rows, as DDP does
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    for same, *_ in found:
        for kind, expected in alone.items():
            close(same[kind], expected)
    for kind, expected in others[0].items():
        close(torch.cat([parts[kind] for _, parts, _ in found], -2) / average, expected)
    close(sum(shared for *_, shared in found) / average, others[1])


@pytest.mark.parametrize("name", COMPILED)
def test_the_graph_of_a_group_is_one(name, ranks):
    alone = processes.first_order(LOSSES[name], F, processes.leaves(processes.tensors("float64", 2)))
    assert_as_alone(together(ranks, 2, name, "compiled"), alone, 1e-13)


@pytest.mark.promise("Where a loss is called from", "An exported program of a group has the loss's value and gradient.")
@each_loss
def test_an_exported_program_of_a_group(name, ranks):
    for found in ranks[:2]:
        found = found[2, name, "exported"]
        torch.testing.assert_close(found["loss"], found["expected"])
        assert "does not require grad" in found["backward"]  # asked for after the export
        for way in ("traced", "strict"):
            for given, expected in zip(found[way], found["of eager"], strict=True):
                torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", range(len(POSITIONS)))
def test_positions_may_be_sharded(case, ranks):
    """Of (B, C, S) the last dimension, as DTensors of two processes."""
    alone = processes.of_positions(*POSITIONS[case])
    for found in ranks:
        for name, expected in alone.items():
            torch.testing.assert_close(found["positions"][case][name], expected)


def test_training_in_ddp_is_that_of_one_process(ranks):
    alone = processes.trained()
    start = processes.trained(steps=0)
    for name, p in alone.items():
        assert all(torch.equal(found["trained"][name], ranks[0]["trained"][name]) for found in ranks)
        torch.testing.assert_close(ranks[0]["trained"][name], p, rtol=1e-5, atol=1e-6)
        assert (p - start[name]).abs().max() > 1e-2


@pytest.mark.parametrize("loss", ["clip_loss", "siglip_loss", "nt_xent_loss", "sup_con_loss", "reference"])
def test_uneven_batches_are_one_sentence_in_every_process(loss, ranks):
    for found in ranks:
        said = found["refusals"][f"uneven {loss}"]
        rows = [(6, 5), (4, 5)] if loss == "nt_xent_loss" else [(3, 5), (2, 5)]
        what = "clip_loss" if loss == "reference" else loss
        given = ", ".join(f"{shape} float32" for shape in rows)
        expected = f"expected rows of one shape and dtype in every process of group, got {given}"
        assert said == f"ValueError: {what}: {expected}"


@pytest.mark.parametrize("kind, given", [("wider", "(3, 5) float32, (3, 6) float32"),
                                         ("dtype", "(3, 5) float32, (3, 5) float64")])  # fmt: skip
def test_rows_of_another_width_or_dtype_are_one_sentence_in_every_process(kind, given, ranks):
    assert all(found["refusals"][kind].endswith(f"in every process of group, got {given}") for found in ranks)


def test_what_spread_classes_do_not_take_is_one_sentence_in_every_process(ranks):
    empty = "ValueError: linear_cross_entropy: expected linear_weight of at least one class with a group, got (0, 5)"
    expected = {
        "no classes": empty,
        "no classes in the reference": empty,
        "no classes in one": "ValueError: linear_cross_entropy: expected linear_weight of one shape and dtype in every "
        "process of group, got (0, 5) float32, (3, 5) float32",
        "uneven classes": "ValueError: linear_cross_entropy: expected linear_weight of one shape and dtype in every "
        "process of group, got (3, 5) float32, (2, 5) float32",
        "a class of nobody": "IndexError: linear_cross_entropy: expected class index in [0, 12) or ignore_index -100, "
        "got 12 at flat index 1",
        "smoothed": "ValueError: linear_cross_entropy: expected label_smoothing to be 0 with a group, got another",
    }
    for found in ranks:
        assert {kind: found["refusals"][kind] for kind in expected} == expected


def test_a_group_is_one_that_this_process_is_in(ranks):
    for found in ranks:
        said = found["refusals"]
        outside = "ValueError: clip_loss: expected group to be one that this process is in, got one without it"
        assert said["outside"] == said["outside reference"] == outside
        assert said["mesh of two dimensions"] == (
            "ValueError: clip_loss: expected group to be a DeviceMesh of one dimension, got one of 2"
        )
        assert said["no group"] == (
            "TypeError: clip_loss: expected group to be a ProcessGroup, a DeviceMesh or None, got str"
        )
        assert said["good mesh"] == "True"


def test_a_group_without_processes_is_refused():
    x = torch.eye(2)
    with pytest.raises(ValueError, match=r"clip_loss: expected group to be None without .*init_process_group, got str"):
        F.clip_loss(x, x, 1.0, group="world")


def test_a_process_that_never_comes_is_torch_s_time_out(ranks):
    """The first whose time is over says so and leaves the others, which hear of that at the latest."""
    said = [found["deserted"]["absent"] for found in ranks[:3]]
    assert any("Timed out waiting 2000ms" in text for text in said)
    assert all("Timed out waiting" in text or "Connection closed by peer" in text for text in said)
    assert all(found["deserted"]["waited"] < 60 for found in ranks[:3])


def test_a_process_that_dies_is_an_error_of_torch_in_the_others(ranks):
    for found in ranks[:3]:
        assert found["deserted"]["dead"].startswith(("RuntimeError: ", "DistBackendError: "))
        assert "Connection closed by peer" in found["deserted"]["dead"] or "Timed out" in found["deserted"]["dead"]
        assert found["deserted"]["until"] < 120
