"""What the tests of the demos share."""

import json

from fused_losses.demos import cli


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def one_sentence(arguments, capsys, *words):
    """The command fails with exit status 2 and, besides progress bars, one sentence that has these words."""
    assert cli.main(arguments) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line and "step" not in line]
    assert said.endswith(".")
    for word in words:
        assert word in said
