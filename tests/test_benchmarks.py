"""The benchmark's own code, at tiny sizes: comparison of two builds, progress."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pytest

import fused_losses

ROOT = Path(fused_losses.__file__).resolve().parents[1]
if not (ROOT / "benchmarks").exists():
    pytest.skip("the installed package has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import builds, compare  # noqa: E402
from benchmarks.progress import Progress  # noqa: E402

# ------------------------------------------------------------------------------------------------ two builds


def test_a_build_compared_with_itself(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    compare.main(
        ["--against", str(ROOT), "--losses", "mse_loss,dice_loss", "--sizes", "64,32768", "--seconds", "0.2"]
        + ["--rounds", "2", "--output", str(path)]
    )
    rows = list(csv.DictReader(path.open()))
    assert [(r["loss"], r["elements"], r["mode"]) for r in rows if r["loss"] == "mse_loss"] == [
        ("mse_loss", "64", "hot"), ("mse_loss", "32768", "cold"), ("mse_loss", "32768", "hot"),
    ]  # fmt: skip
    assert {r["loss"] for r in rows} == {"mse_loss", "dice_loss", "dice_loss+indices"}
    for r in rows:
        assert float(r["least"]) <= float(r["ratio"]) <= float(r["most"])
        assert 0.2 < float(r["ratio"]) < 5
    assert "Not compared" not in capsys.readouterr().out


class Scripted:
    """A build whose calls take what they are told to."""

    def __init__(self, nanoseconds, answer=1.0):
        self.nanoseconds, self.answer = nanoseconds, answer

    def ask(self, request, **_):
        return self.answer if request == "prepare" else self.nanoseconds


ITEM = compare.Item(compare.cases(["mse_loss"])[0], (1000,), "float32", "cold")


def compared(*rounds):
    found = [compare.measure(ITEM, Scripted(old), Scripted(new), 0, 0.0) for old, new in rounds]
    row = compare.row_of(ITEM, found, {})
    return row, *compare.summary([(ITEM, row)])


def test_slower_in_every_round_is_slower():
    row, text, slower = compared((100.0, 110.0), (100.0, 105.0))
    assert row["ratio"] == pytest.approx(1.075)
    assert (row["least"], row["most"]) == (1.05, 1.1)
    assert slower
    assert "1.075 of the old time, at most 1.03 wanted" in text
    assert "in doubt" not in text


def test_slower_in_some_rounds_is_in_doubt():
    _, text, slower = compared((100.0, 110.0), (100.0, 102.0))
    assert not slower
    assert "in doubt: 1.020 in one round" in text


def test_within_the_limit_is_not_slower():
    _, text, slower = compared((100.0, 102.0), (100.0, 102.9))
    assert not slower
    assert text.startswith("No case is slower.")


def test_builds_that_disagree_are_not_compared():
    with pytest.raises(RuntimeError, match="the builds disagree"):
        compare.measure(ITEM, Scripted(1.0, 5.0), Scripted(1.0, 5.1), 0, 0.0)


def test_worker_reports_what_a_build_cannot_do():
    worker = compare.Worker(ROOT)
    try:
        with pytest.raises(RuntimeError, match="ValueError: benchmarks: expected a loss"):
            worker.ask(request="prepare", case="no_such_loss", shape=[4], dtype="float32", seed=0)
        assert worker.ask(request="prepare", case="mse_loss", shape=[4], dtype="float32", seed=0) > 0
    finally:
        worker.close()


@pytest.mark.parametrize("against, words", [("no-such-revision", "no-such-revision"), (str(ROOT / "tests"), "folder")])
def test_an_unknown_build_is_refused(against, words):
    with pytest.raises(ValueError, match=words):
        builds.build_of(against)


# ------------------------------------------------------------------------------------------------ progress


def test_progress_states_count_item_and_end():
    stream = io.StringIO()
    progress = Progress(3, stream)
    for item in "abc":
        progress.begin(item)
        progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/3] a"
    assert lines[1].startswith("[2/3] b, ends about ")
    assert len(lines) == 3
