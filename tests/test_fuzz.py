"""The fuzzer itself: calls are made again from their seed and number, and what is wrong is found and named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
import torch
from cases import BY_NAME
from problems import Variant

HERE = Path(__file__).parent


def call_of(name, context="eager", **options):
    problem = BY_NAME[name].problem(Variant("default", options))
    return fuzz.Call(problem, "mean", "one", context, name, 1.0, 0.0, "default")


@pytest.mark.parametrize("number", range(5))
def test_a_call_is_made_again_from_its_seed_and_number(number):
    first, second = fuzz.draw(7, number), fuzz.draw(7, number)
    assert first.words == second.words
    for name, value in first.problem.arguments.items():
        other = second.problem.arguments[name]
        assert (
            torch.equal(value, other) and value.stride() == other.stride() if torch.is_tensor(value) else value == other
        )
    assert fuzz.draw(8, number).words != first.words


def test_draws_reach_every_context_layout_and_dtype():
    drawn = " ".join(fuzz.draw(1, number).words for number in range(400))
    for word in [*fuzz.CONTEXTS, *fuzz.LAYOUTS, "contiguous", "float16", "bfloat16", "float64", "incoming=scalar"]:
        assert word in drawn, word


@pytest.mark.parametrize("context", fuzz.CONTEXTS)
def test_no_difference_where_there_is_none(context):
    assert fuzz.difference(call_of("mse_loss", context)) == ""


@pytest.mark.parametrize("context", fuzz.CONTEXTS)
def test_a_wrong_value_is_found(context, monkeypatch):
    """By every context: a loss that is off by 1e-4 of itself."""
    right = fuzz.Problem.call
    monkeypatch.setattr(
        fuzz.Problem,
        "call",
        lambda self, function=None, *a, **k: right(self, function, *a, **k) * (1 + 1e-4 * (function is None)),
    )
    assert "loss 0" in fuzz.difference(call_of("mse_loss", context))


def test_a_wrong_gradient_is_found(monkeypatch):
    right = fuzz.CONTEXTS["eager"]

    def wrong(call):
        outputs, found = right(call)
        return outputs, {name: gradient * (1 - 1e-4) for name, gradient in found.items()}

    monkeypatch.setitem(fuzz.CONTEXTS, "eager", wrong)
    assert "gradient of input" in fuzz.difference(call_of("mse_loss"))


def test_an_error_is_a_difference():
    assert fuzz.difference(call_of("huber_loss", delta=-1.0)).startswith("ValueError: huber_loss: expected delta")


def test_the_loop_states_count_and_seed():
    ran = subprocess.run(
        [sys.executable, fuzz.__file__, "--seconds", "300", "--calls", "40", "--seed", "3"],
        capture_output=True, text=True, cwd=HERE.parent, env={**fuzz.os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert ran.stdout == "40 calls, seed 3: 0 differ, 0 crashed or hung\n"


def test_a_crash_is_reported_with_its_call(monkeypatch, capfd):
    """The loop's process dies in its second call; the next begins with the third."""
    monkeypatch.setattr(fuzz, "__file__", str(HERE / "no_such_file.py"))
    monkeypatch.setattr(fuzz.subprocess, "run", dying(fuzz.subprocess.run))
    assert fuzz.watch(seed=5, seconds=0.5, end=1 << 62) == 1
    printed = capfd.readouterr().out
    assert "a crash or a hang (status -11)" in printed
    assert "--seed 5 --call 1\n" in printed
    assert "0 differ, 1 crashed" in printed


def dying(run):
    """Stands for the loop's process: dies in call 1, then takes the time that is left."""
    started = []

    def process(command, **_):
        first, _, until, note = command[-4:]
        started.append(int(first))
        Path(note).write_text("1 0" if len(started) == 1 else f"{first} 0")
        if len(started) > 1:
            assert started == [0, 2]
            fuzz.time.sleep(max(0.0, float(until) - fuzz.time.time()))
        return subprocess.CompletedProcess(command, -11 if len(started) == 1 else 0)

    return process
