"""The benchmark's own code, at tiny sizes: rivals, rows of several runs, comparison of two builds, progress."""

from __future__ import annotations

import csv
import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fused_losses

ROOT = Path(fused_losses.__file__).resolve().parents[1]
if not (ROOT / "benchmarks").exists():
    pytest.skip("the installed package has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
    builds,
    cases,
    compare,
    custom,
    custom_report,
    measurements,
    report,
    rivals,
    rows,
    run,
    targets,
    textbook,
)  # fmt: skip
from benchmarks.progress import Progress  # noqa: E402

CPU = torch.device("cpu")

# ------------------------------------------------------------------------------------------------ rivals


@pytest.mark.parametrize("case", cases.cases(), ids=lambda case: case.key)
def test_every_eager_form_agrees_with_the_reference(case):
    wanted = [rivals.FUSED, rivals.EAGER, rivals.TORCH]
    field = rivals.field_of(case, case.shape_of(4096), [torch.float32], CPU, wanted)
    assert not field.failures
    assert {call.key.rival for call in field.calls} >= {rivals.FUSED, rivals.EAGER}


def test_every_eager_form_is_compiled():
    """Into a cache of the run's own; the fastest is named, and its loss and gradient are the reference's."""
    case = cases.by_key("mse_loss")
    assert set(rivals.forms(case, rivals.COMPILE)) == {"reference", "mse", "torch"}
    outside = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with rivals.private_compile_cache() as folder:
        field = rivals.field_of(case, (100,), [torch.float32], CPU, [rivals.COMPILE])
        assert not field.failures
        assert list(folder.rglob("*.py")), "the generated code lies in the private folder"
        chosen = field.form[rivals.COMPILE, "float32"]
        assert chosen in {"reference", "mse", "torch"}
        assert field.compile_seconds[rivals.COMPILE, "float32"] > 0, "not taken from another run's cache"
    assert not folder.exists()
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == outside


def off_by_a_percent(input, target):
    return (input - target).square().mean() * 1.01


def not_there(input, target):
    raise NotImplementedError("no such thing")


def test_a_form_that_disagrees_or_fails_is_no_rival():
    case = replace(cases.by_key("mse_loss"), chains=(off_by_a_percent, not_there))
    field = rivals.field_of(case, (64,), [torch.float32], CPU, [rivals.EAGER])
    assert field.form == {(rivals.EAGER, "float32"): "reference"}
    (text,) = field.failures.values()
    assert "off_by_a_percent: loss differs from the reference by" in text
    assert "not_there: NotImplementedError: no such thing" in text


def test_the_fastest_form_is_the_rival():
    def slow(input, target):
        for _ in range(300):
            torch.zeros(1)
        return (input - target).square().mean()

    def quick(input, target):
        return torch.nn.functional.mse_loss(input, target)

    case = replace(cases.by_key("mse_loss"), chains=(slow, quick))
    calls = {
        name: rivals.make_call(case, form, case.inputs((64,)), rivals.Key(rivals.EAGER, "float32"))
        for name, form in rivals.forms(case, rivals.EAGER).items()
        if name != "reference"
    }
    assert rivals.fastest(calls) == "quick"


# ------------------------------------------------------------------------------------------------ runs and reports


def measure_again(path, *more):
    return run.main(
        ["--losses", "mse_loss,l1_loss", "--sizes", "64", "--dtypes", "float32", "--modes", "hot", "--no-memory"]
        + ["--rivals", "fused,eager", "--seconds", "0.01", "--repeat", "2", "--append", str(path), *more]
    )


def test_a_run_resumes_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    path, measure = tmp_path / "rows.csv", run.measure

    def interrupted(arguments, facts, clock, case, *rest):
        if case.key == "l1_loss" and facts["run"].endswith(".1"):
            raise KeyboardInterrupt
        return measure(arguments, facts, clock, case, *rest)

    monkeypatch.setattr(run, "measure", interrupted)
    assert measure_again(path) == 130
    assert "--resume" in capsys.readouterr().out
    before = {(r["run"], r["loss"]) for r in rows.read(path)}
    assert len(before) == 3, "mse_loss twice, l1_loss once"

    monkeypatch.setattr(run, "measure", measure)
    assert measure_again(path, "--resume") == 0
    after = {(r["run"], r["loss"]) for r in rows.read(path)}
    assert [loss for _, loss in after - before] == ["l1_loss"]
    assert measure_again(path, "--resume") == 0
    assert {(r["run"], r["loss"]) for r in rows.read(path)} == after, "nothing is left to measure"


def row(rival, seconds, run_id, commit="abc", **more):
    empty = dict.fromkeys(rows.COLUMNS, "")
    return empty | {
        "run": run_id, "machine": "m", "device": "cpu", "isa": "avx2", "threads": 2, "torch": "2.13", "commit": commit,
        "loss": "mse_loss", "dtype": "float32", "shape": "4194304", "elements": 4194304, "rival": rival, "form": rival,
        "mode": "cold", "phase": "both", "incoming": "one", "median_s": seconds, "q1_s": seconds, "q3_s": seconds,
        "copy_percent": 50.0, "gradient_bytes": 1.0, "input_bytes": 1.0,
    } | more  # fmt: skip


@pytest.fixture
def three_runs(tmp_path):
    """Of the sources measured last, and one of older sources; torch.compile's time relative to fused is 2, 3, 7."""
    rows.append(tmp_path / "m.csv", [row("fused", 1.0, "1", "old"), row("eager", 99.0, "1", "old")])
    for run_id, fused, compiled in (("2.0", 1.0, 3.0), ("2.1", 2.0, 4.0), ("2.2", 1.0, 7.0)):
        found = [row("fused", fused, run_id), row("eager", 10.0, run_id, form="mse")]
        rows.append(tmp_path / "m.csv", [*found, row("compile", compiled, run_id, form="reference")])
    return tmp_path


def test_a_ratio_is_the_median_of_the_runs_of_the_last_sources(three_runs):
    (line,) = measurements.compare(measurements.load(three_runs)).itertuples()
    assert line.runs == 3
    assert (line.compile_ratio, line.compile_ratio_low, line.compile_ratio_high) == (3.0, 2.0, 7.0)
    assert (line.eager_ratio, line.eager_ratio_low, line.eager_ratio_high) == (10.0, 5.0, 10.0)


def test_tables_state_the_spread_and_name_the_forms(three_runs):
    table = report.cpu_table(measurements.compare(measurements.load(three_runs)))
    assert "medians of 3 runs" in table
    assert "| 10.0× (5.0–10.0) | 3.0× (2.0–7.0) | 50 % |" in table
    assert table.endswith("| mse | reference |")


def test_the_first_machine_is_the_one_measured_last(three_runs):
    for machine, run_id in (("old", "0"), ("new", "9")):
        rows.append(
            three_runs / f"{machine}.csv", [row(rival, 1.0, run_id, machine=machine) for rival in ("fused", "eager")]
        )
    assert measurements.machines(measurements.read(three_runs), "cpu") == ["new", "m", "old"]
    assert {*measurements.load(three_runs).machine} == {"new"}
    others = report.other_machines(three_runs)
    assert others.startswith("\n## Another CPU: m\n")
    assert "bars met on m." in others
    assert "| 10.0× (5.0–10.0) | 3.0× (2.0–7.0) |" in others


def test_a_bar_is_held_against_the_median_of_the_runs(three_runs):
    found = {v.what: v for v in targets.check(measurements.records(measurements.load(three_runs)))}
    verdict = found["mse_loss, 4194304 elements: cold, compile / fused"]
    assert (verdict.value, verdict.low, verdict.high, verdict.bar) == (3.0, 2.0, 7.0, 1.5)
    assert verdict.met


def test_every_bar_is_of_a_case():
    assert {*targets.CPU, *targets.CUDA, *targets.COMPUTE_BOUND} <= {case.key for case in cases.ALL}
    assert cases.unmeasured() == []


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
    assert {r["loss"] for r in rows} == {c.key for c in cases.cases() if c.loss in ("mse_loss", "dice_loss")}
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


ITEM = compare.Item(cases.by_key("mse_loss"), (1000,), "float32", "cold")


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


# ------------------------------------------------------------------------------------------------ custom losses


TEXTBOOK = [value for value in vars(textbook).values() if hasattr(value, "custom")]


@pytest.mark.parametrize("loss", TEXTBOOK, ids=lambda f: f.__name__)
def test_a_textbook_formula_is_the_built_in_loss(loss):
    loss.source_name = "textbook"
    tensors = {name: t.double() for name, t in custom.tensors_of(loss, 1000).items()}
    forms = custom.forms_of(loss)
    torch.testing.assert_close(forms[custom.EAGER](**tensors), forms[custom.BUILT_IN](**tensors))


def test_every_elementwise_loss_has_a_textbook_formula():
    plain = {case.loss for case in cases.cases() if case.shape_of is cases.flat} | {"kl_div"}
    assert {loss.__name__ for loss in TEXTBOOK} == plain


def test_the_report_says_which_bars_custom_losses_meet(tmp_path):
    (tmp_path / "custom").mkdir()
    common = "m,2.13,{},a,elementwise,{},100,{},{},{},5,8,4"
    lines = [",".join(custom.FIELDS)]
    for source, exponential, ratios in (("textbook", True, (1, 9, 1.5, 0.9)), ("gallery", True, (1, 4, 1.2))):
        for form, ratio in zip((custom.CUSTOM, custom.EAGER, custom.COMPILE, custom.BUILT_IN), ratios):
            lines.append(common.format(source, exponential, form, 0.001 * ratio, ratio))
    (tmp_path / "custom" / "m.csv").write_text("\n".join(lines))
    text = custom_report.section(tmp_path)
    assert "| `a` | 100 | 1.00 | 1.11× (≤ 1.15: met) | 9.00× | 1.50× (≥ 2: **missed**) | 2.00× |" in text
    assert "| `a` | 100 | 1.00 | 4.00× | 1.20× | 2.00× |" in text
    assert custom_report.section(tmp_path / "custom") == ""
