"""The rows of benchmarks/results/<machine>.csv: where a number was measured, on what, and what it was."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import torch

from . import rivals
from .timing import phase_of, quartiles

RESULTS = Path(__file__).resolve().parent / "results"

NUMBERS = ("threads", "elements", "calls", "median_s", "q1_s", "q3_s", "ns_per_element", "floor_bytes",
           "floor_bytes_per_s", "copy_percent", "input_bytes", "gradient_bytes", "peak_bytes", "peak_rss_bytes",
           "compile_s")  # fmt: skip
COLUMNS = ("run", "machine", "device", "isa", "threads", "torch", "commit", "loss", "dtype", "shape", "elements",
           "rival", "form", "mode", "phase", "incoming", "calls", "median_s", "q1_s", "q3_s", "ns_per_element",
           "floor_bytes", "floor_bytes_per_s", "copy_percent", "input_bytes", "gradient_bytes", "peak_bytes",
           "peak_rss_bytes", "compile_s")  # fmt: skip


def machine_name(device: torch.device) -> str:
    """A file name for the hardware: `h200`, `amd-epyc-2-cores`, `amd-epyc-2-cores-avx2` without AVX-512."""
    if device.type == "cuda":
        return slug(re.sub(r"NVIDIA|GeForce|Tesla", "", torch.cuda.get_device_name(device)))
    model = "cpu"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = re.sub(r"\(R\)|\(TM\)|Processor|CPU|@.*", "", line.partition(":")[2])
            break
    best = torch.backends.cpu.get_cpu_capability().lower()
    return f"{slug(model)}-{len(os.sched_getaffinity(0))}-cores" + ("" if best == "avx512" else f"-{best}")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


SOURCES = ("csrc", "fused_losses", "setup.py")


def commit() -> str:
    """The commit measured, and a digest of the sources where they differ from it; empty outside a repository."""
    here = Path(__file__).resolve().parent.parent

    def git(*arguments):
        done = subprocess.run(["git", *arguments, "--", *SOURCES], cwd=here, capture_output=True)
        return done.stdout

    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
        change = git("diff", "HEAD")
        for name in git("ls-files", "--others", "--exclude-standard").decode().splitlines():
            change += (here / name).read_bytes()
    except OSError:
        return ""
    return head.stdout.strip() + (f"+{hashlib.sha1(change).hexdigest()[:7]}" if change else "")


def environment(device: torch.device) -> dict:
    """The columns that are the same in all rows of a run; `run` names it."""
    started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return {
        "run": f"{started}-{os.getpid()}",
        "machine": machine_name(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def rows_of(facts: dict, case, shape, measured: rivals.Field, samples: dict, mode: str, phases, memory: dict) -> list:
    """One row for each call and phase. samples: by key, as `timing.measure` gives them."""
    elements = math.prod(shape)
    copies = {key.dtype: quartiles(phase_of(v, "both"))[1] for key, v in samples.items() if key.rival == rivals.COPY}
    found = []
    for key, values in samples.items():
        if key.rival == rivals.COPY:
            wanted = ["both"]
        elif key.inference:
            wanted = ["inference"] if "inference" in phases else []
        elif mode == "wall":
            wanted = ["both"]
        else:
            wanted = [p for p in phases if p != "inference"]
        for phase in wanted:
            low, median, high = quartiles(phase_of(values, phase))
            floor = measured.floor_bytes[key.dtype]
            input_bytes, gradient_bytes = measured.tensor_bytes[key.dtype]
            full = phase == "both"
            peak = memory.get((key.rival, key.dtype), {})
            found.append(
                facts
                | {
                    "isa": key.isa or facts["torch_isa"],
                    "loss": case.key,
                    "dtype": key.dtype,
                    "shape": "x".join(map(str, shape)),
                    "elements": elements,
                    "rival": key.rival,
                    "form": measured.form.get((key.rival, key.dtype), ""),
                    "mode": mode,
                    "phase": phase,
                    "incoming": key.incoming,
                    "calls": len(values),
                    "median_s": median * 1e-9,
                    "q1_s": low * 1e-9,
                    "q3_s": high * 1e-9,
                    "ns_per_element": median / elements,
                    "floor_bytes": floor,
                    "floor_bytes_per_s": floor / (median * 1e-9) if full else "",
                    "copy_percent": 100 * copies[key.dtype] / median if full and key.dtype in copies else "",
                    "input_bytes": input_bytes,
                    "gradient_bytes": gradient_bytes,
                    "peak_bytes": peak.get(phase, ""),
                    "peak_rss_bytes": peak.get(f"{phase}_rss", ""),
                    "compile_s": measured.compile_seconds.get((key.rival, key.dtype), ""),
                }
            )
    return found


def append(path: Path, rows: list[dict]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def measured(path: Path, facts: dict, wanted: set[tuple]) -> Counter:
    """How many runs of the same machine, torch and sources a CSV file has, by (loss, shape).

    A run counts where it has all of `wanted`: (rival, dtype, mode).
    """
    same = ("machine", "device", "threads", "torch", "commit")
    runs = {}
    for r in read(path) if path.exists() else ():
        if all(r[name] == facts[name] for name in same):
            runs.setdefault((r["loss"], r["shape"], r["run"]), set()).add((r["rival"], r["dtype"], r["mode"]))
    return Counter((loss, shape) for (loss, shape, _), found in runs.items() if wanted <= found)


def read(path: Path) -> list[dict]:
    """The rows of a CSV file, numbers as numbers, an empty cell as ""."""
    with path.open(newline="") as file:
        return [
            {name: float(v) if name in NUMBERS and v else v for name, v in row.items()} for row in csv.DictReader(file)
        ]
