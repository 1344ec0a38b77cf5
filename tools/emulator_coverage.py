"""Prints the lines of the CUDA kernels and their launchers that no test has run, after `make cuda-coverage`.

A line of a template has run if any of its instances has. Lines that no test can run here are named with the reason;
any other makes the exit status 1.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ROOT / "build" / "emulator" / "coverage"
COUNTED = ("csrc/cuda/", "csrc/formulas/")
OTHER_FAMILY = "a loss of another family never comes here"
NEIGHBOUR = "gcc counts it with the lines around it, which have run"
CAPTURE = "while a CUDA graph is captured"
MANY = "of more than 2^32 elements"
NAMED = {  # by the beginning of the line
    ("elementwise.cu", "const int64_t row = at / o.positions;"): MANY,
    ("elementwise.cu", "ClassTargets(o, at).read(targets);"): NEIGHBOUR,
    ("elementwise.cu", "set(at, row, row / o.classes);"): MANY,
    ("launch.cuh", "};"): CAPTURE,
    ("launch.cuh", "*keep = fresh();"): CAPTURE,
    ("launch.cuh", "return static_cast<unsigned*>(keep->mutable_data_ptr());"): CAPTURE,
    ("overlap.cu", "}"): "the end of a function for double, which keeps nothing in registers",
    ("softmax.cuh", "const Running<A> running = running_softmax<A, T, Team<0>>("): NEIGHBOUR,
    ("elementwise.cu", "target = ClassTargets(o, i).next<A>();"): NEIGHBOUR,
}  # fmt: skip


def counts() -> dict[str, Counter]:
    """Times each line of each source has run."""
    found: dict[str, Counter] = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in sorted(OBJECTS.glob("*.gcda")):
            subprocess.run(["gcov", "--json-format", str(data)], cwd=folder, check=True, capture_output=True)
        for report in Path(folder).glob("*.gcov.json.gz"):
            for source in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                path = (OBJECTS / source["file"]).resolve()
                name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
                if name.startswith(COUNTED):
                    lines = found.setdefault(name, Counter())
                    for line in source["lines"]:
                        lines[line["line_number"]] += line["count"]
    return found


def reason(name: str, text: list[str], number: int) -> str | None:
    """Why no test runs the line; None where one could."""
    line, before = text[number - 1].strip(), text[number - 2].strip()
    if line == "default:" or (line == "return;" and before == "default:"):
        return OTHER_FAMILY
    file = Path(name).name
    return next((why for (of, begin), why in NAMED.items() if of == file and line.startswith(begin)), None)


def main() -> int:
    total = missing = unnamed = 0
    for name, lines in sorted(counts().items()):
        text = (ROOT / name).read_text().splitlines()
        never = [number for number in sorted(lines) if lines[number] == 0]
        total, missing = total + len(lines), missing + len(never)
        for number in never:
            why = reason(name, text, number)
            unnamed += why is None
            print(f"{name}:{number}: {text[number - 1].strip()}" + (f"  [{why}]" if why else ""))
    print(f"{total - missing} of {total} lines have run ({100 * (total - missing) / max(total, 1):.1f} %); "
          f"{unnamed} of the others are not named.")  # fmt: skip
    return 1 if unnamed else 0


if __name__ == "__main__":
    sys.exit(main())
