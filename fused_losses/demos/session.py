"""One run of a demo: its options, device and folder, what it has found so far, and where that is kept."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time

import numpy as np
import torch

from .._op import HAS_CUDA_KERNELS
from . import plots
from .errors import DemoError


class Session:
    """Collects results and pictures; whatever was added before Ctrl-C is written too.

    results.json: demo, seed, device, quick, data (what was trained on), notes, metrics, checks (name: true or false),
    pictures (file, caption), history (name: losses per epoch), step_time (loss: milliseconds), seconds, interrupted.
    """

    def __init__(self, name: str, options: argparse.Namespace):
        self.name, self.options, self.folder = name, options, options.output
        self.device = _device(options.device)
        self.started = time.perf_counter()
        self.models: dict[str, torch.nn.Module] = {}
        self.results = {
            "demo": name, "seed": options.seed, "device": str(self.device), "quick": options.quick, "data": "",
            "notes": [], "metrics": {}, "checks": {}, "pictures": [], "history": {}, "step_time": {},
        }  # fmt: skip
        try:  # what an earlier run left stays until this one has something to say
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DemoError(f"The folder {self.folder} cannot be written: {reason}.") from None
        torch.manual_seed(options.seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    @property
    def quick(self) -> bool:
        return self.options.quick

    @property
    def status(self) -> int:
        """0, or 1 where a check failed."""
        return 0 if all(self.results["checks"].values()) else 1

    def generator(self, purpose: int = 0) -> torch.Generator:
        """A CPU generator of its own for each purpose, so that one draw does not move another."""
        return torch.Generator().manual_seed(self.options.seed * 1000 + purpose)

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def data(self, text: str) -> None:
        """State which data is used."""
        self.results["data"] = text
        self.say(f"Data: {text}")

    def note(self, text: str) -> None:
        """Say what a reader of the numbers must know; the report shows it, too."""
        self.results["notes"].append(text)
        self.say(text)

    def metrics(self, **values) -> None:
        self.results["metrics"].update(values)

    def check(self, name: str, agrees: bool) -> None:
        """A number that must hold: one that does not makes the exit status 1."""
        self.results["checks"][name] = bool(agrees)

    def picture(self, figure, file: str, caption: str) -> None:
        """Save a Matplotlib figure in the folder and close it."""
        plots.save(figure, self.folder / file)
        self.results["pictures"].append({"file": file, "caption": caption})

    def table(self, header: list[str], rows: list[list]) -> None:
        """Print aligned columns: text to the left, numbers to the right."""
        cells = [[value if isinstance(value, str) else _short(value) for value in row] for row in [header, *rows]]
        widths = [max(map(len, column)) for column in zip(*cells)]
        text = [all(isinstance(row[i], str) for row in rows) for i in range(len(header))]
        for number, row in enumerate(cells):
            line = (cell.ljust(w) if left else cell.rjust(w) for cell, w, left in zip(row, widths, text))
            self.say("  " + "  ".join(line).rstrip())
            if number == 0:
                self.say("  " + "  ".join("-" * width for width in widths))

    def write(self) -> None:
        """Write results.json."""
        self.results["seconds"] = round(time.perf_counter() - self.started, 2)
        text = json.dumps(self.results, indent=1, default=_plain, allow_nan=True)
        (self.folder / "results.json").write_text(text + "\n")

    def finish(self) -> None:
        self.results["interrupted"] = False
        self.write()
        count = len(self.results["pictures"])
        pictures = f"{count} picture{'s' * (count != 1)} and results.json" if count else "results.json"
        self.say(f"{self.results['seconds']:.0f} s; {pictures} in {self.folder}")

    def stop(self) -> None:
        """After Ctrl-C: keep the curves so far, the weights so far and the results so far."""
        self.results["interrupted"] = True
        histories = {name: h for name, h in self.results["history"].items() if h["train"]}
        if histories:
            self.picture(plots.curves(histories), "stopped.png", "Losses until Ctrl-C")
        for name, model in self.models.items():
            torch.save(model.state_dict(), self.folder / f"stopped-{plots.slug(name)}.pt")
        self.write()
        self.say(f"\nWhat was done until then is in {self.folder}")


def _device(choice: str) -> torch.device:
    if choice == "cuda" and not torch.cuda.is_available():
        raise DemoError("No CUDA device is available: use --device cpu.")
    if choice == "cuda" and not HAS_CUDA_KERNELS:
        raise DemoError("This build has no CUDA kernels: use --device cpu, or build with nvcc and a CUDA torch.")
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and HAS_CUDA_KERNELS else "cpu")
    return torch.device(choice)


def _short(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) and 0 < abs(value) < 1e-3 else f"{value:.4f}"
    return str(value)


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
