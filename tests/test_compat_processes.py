"""compat.open_clip over two processes (gloo): what one process finds for the whole batch, and what open_clip finds."""

from __future__ import annotations

import open_clip_processes as processes
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from open_clip_processes import CONFIGURATIONS, LEFT, SIZE
from peers import required
from tolerances import assert_agrees

from fused_losses.compat import open_clip as ours

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
each_case = pytest.mark.parametrize("case", CONFIGURATIONS)


def installed():
    try:
        required("open_clip.loss", "3.3.0")
    except pytest.skip.Exception:
        return False
    return True


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(processes.main, (str(folder), installed()), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


def as_averaged(found):
    """The mean of what each process found, as DDP takes it."""
    loss, x, y, *shared = zip(*found)
    mean = [torch.stack(parts).mean(0) for parts in (loss, *shared)]
    return [mean[0], torch.cat(x) / SIZE, torch.cat(y) / SIZE, *mean[1:]]


def assert_all_agree(found, expected):
    assert len(found) == len(expected)
    for i, (got, wanted) in enumerate(zip(found, expected)):
        assert wanted.abs().max() > 0
        assert_agrees(got, wanted, n_terms=SIZE * processes.ROWS, label=f"result {i}")


@each_case
def test_the_mean_over_the_processes_is_what_one_finds(case, ranks):
    name, _ = CONFIGURATIONS[case]
    expected = processes.found_by(ours, name, {}, processes.batch())
    if case == "own gradient":  # open_clip's, of this process's loss alone
        expected[1:3] = [g / SIZE for g in expected[1:3]]
    found = [rank["ours", case] for rank in ranks]
    assert torch.equal(found[0][0], found[1][0])
    assert_all_agree(as_averaged(found), expected)


@each_case
def test_as_open_clip(case, ranks):
    """Each process's features get the same gradient; a loss of own rows is compared by its mean, as its scale is."""
    required("open_clip.loss", "3.3.0")
    found, expected = ([rank[rival, case] for rank in ranks] for rival in ("ours", "theirs"))
    for got, wanted in zip(found, expected):
        assert_all_agree(got[1:3], wanted[1:3])
        if case in ("whole", "own gradient"):
            assert_all_agree(got, wanted)
    assert_all_agree(as_averaged(found), as_averaged(expected))


def test_what_is_left_to_the_library(ranks):
    for rank in ranks:
        assert [said.partition(" installed for ")[2] for said in rank["refusals"]] == [
            f"{option}, got none" for option in LEFT
        ]
