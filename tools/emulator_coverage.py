"""Prints the lines of the CUDA kernels and their launchers that no test has run, after `make cuda-coverage`.

A line of a template has run if any of its instances has.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = ROOT / "build" / "emulator" / "coverage"
COUNTED = ("csrc/cuda/", "csrc/formulas/")


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


def main() -> None:
    total = missing = 0
    for name, lines in sorted(counts().items()):
        text = (ROOT / name).read_text().splitlines()
        never = [number for number in sorted(lines) if lines[number] == 0]
        total, missing = total + len(lines), missing + len(never)
        for number in never:
            print(f"{name}:{number}: {text[number - 1].strip()}")
    print(f"{total - missing} of {total} lines have run ({100 * (total - missing) / max(total, 1):.1f} %).")


if __name__ == "__main__":
    main()
