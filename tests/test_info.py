"""`python -m fused_losses.info --check`: 0 for an installation that is right, 1 for one that is not.

Faults are put in one loss: in its reference, or in the tensors it is given.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from fused_losses import _samples, _self_check, info
from fused_losses import functional as F


def test_check_of_this_installation(capsys):
    with mock.patch.object(_self_check, "devices", return_value=["cpu"]):
        assert info.main(["--check"]) == 0
    shown = capsys.readouterr().out
    rows = {line.split()[0] for line in shown.split("\n\n")[1].splitlines()[1:]}
    assert rows == set(F.__all__)
    assert f"{len(rows)} of {len(rows)} are right" in shown


def wrong_by(factor):
    """The reference of Dice times a factor; what is differentiated stays right."""
    right = F.dice_loss.reference
    return mock.patch.object(F.dice_loss, "reference", lambda *tensors: right(*tensors) * factor)


@pytest.mark.parametrize(
    "broken, word",
    [
        (wrong_by(1.001), "expected errors below"),
        (wrong_by(float("nan")), "expected errors below"),
        (mock.patch.object(F.dice_loss, "reference", side_effect=RuntimeError("no such kernel")), "no such kernel"),
        (mock.patch.object(_self_check, "sample", lambda *a: [t.as_subclass(torch.nn.Buffer) for t in
                                                             _samples.sample(*a)]), "a subclass of torch.Tensor"),
    ],
    ids=["value", "nan", "raises", "plain"],
)  # fmt: skip
def test_what_is_not_right_is_said(broken, word, capsys):
    with broken, mock.patch.object(F, "__all__", ["dice_loss"]):
        assert info.main(["--check"]) == 1
    assert "WRONG: dice_loss on cpu: " in capsys.readouterr().out
    with broken:
        assert word in _self_check.check_loss("dice_loss", "cpu")["wrong"]


def test_report_alone_runs_nothing(capsys):
    with mock.patch.object(_self_check, "check", side_effect=AssertionError):
        assert info.main([]) == 0
    shown = capsys.readouterr().out
    assert "instruction set in use" in shown
    assert "dice_loss   " in shown
