"""Writes docs/edges.md from the tests: each marked `promise("Topic", "Sentence.")` holds that sentence."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPENING = """# What is promised at the edges

Each sentence is held by the test beside it, and this page is written from those tests (tools/promises.py). A test runs
on the CPU; one with a ✓ runs on the emulated CUDA device, too: the kernels themselves, executed without a GPU.

`fused_losses.reference` refuses what the losses refuse of options, dtypes and shapes. It looks at no value, nor does
anything inside a transform of torch.func and under forward mode: there a value that a kernel refuses is NaN, and a
class out of range torch's own error.

Under torch.compile an option is a constant, as torch's own are: one that is another number at each step (a warm-up of
beta) is compiled anew for each, and after 8 runs uncompiled. Weigh the parts of `vae_loss` outside instead, or give
a temperature as a tensor.
"""
TOPICS = (
    "Values and gradients",
    "What is refused",
    "What is taken",
    "Where a loss is called from",
    "Bits and builds",
)


def promises() -> dict[str, list[tuple[str, str, bool]]]:
    """Topic -> (sentence, test, whether the test runs on the emulated device)."""
    found = {topic: [] for topic in TOPICS}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for test in ast.parse(path.read_text()).body:
            for mark in getattr(test, "decorator_list", []):
                if isinstance(mark, ast.Call) and getattr(mark.func, "attr", "") == "promise":
                    topic, sentence = map(ast.literal_eval, mark.args)
                    found[topic].append((sentence, f"{path.name}::{test.name}", _on_a_device(path, test)))
    return found


def _on_a_device(path: Path, test: ast.FunctionDef) -> bool:
    """It takes a device, or is about the emulated one."""
    marks = {getattr(mark, "attr", "") for mark in test.decorator_list}
    takes = any(argument.arg == "device" for argument in test.args.args)
    return path.stem in ("test_emulator", "test_device_assertions") or (takes and "not_emulated" not in marks)


def page() -> str:
    parts = [OPENING]
    for topic, held in promises().items():
        rows = [f"| {sentence} | {'✓' if device else ''} | `{test}` |" for sentence, test, device in held]
        parts.append("\n".join([f"## {topic}\n", "| | | held by |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)
