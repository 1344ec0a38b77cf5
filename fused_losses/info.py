"""What this build consists of: `python -m fused_losses.info` prints it, `fused_losses.build_info()` returns it.

With `--check` every loss is run as well, on each device of this machine; the exit status is 1 if one is not right.
"""

from __future__ import annotations

import argparse

import torch

from ._build_info import build_info as build_info


def _facts(facts: dict) -> str:
    def text(value) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return ", ".join(f"{name.replace('_', ' ')} {text(value)}" for name, value in facts.items())


def _table(rows: list[dict]) -> list[str]:
    rows = [dict(zip(rows[0], rows[0])), *rows] if rows else []
    widths = [max(len(row[column]) for row in rows) for column in rows[0]] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row.values(), widths)).rstrip() for row in rows]


def _report(info: dict) -> list[str]:
    """The facts, without the kernels of every op."""
    cpu = dict(info["cpu"])
    used, supported = cpu.pop("instruction_set"), cpu.pop("instruction_sets")
    return [
        f"fused_losses {info['version']}, Python {info['python']}, torch {info['torch']}",
        f"CPU library   {_facts(cpu)}",
        f"              instruction set in use: {used}; this CPU has: {', '.join(supported)}",
        f"CUDA library  {_facts(info['cuda']) if info['cuda'] else 'not built'}",
        f"              torch's CUDA: {info['torch_cuda'] or 'none'}; GPU: "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "none"),
        "",
    ]


def _check() -> bool:
    """Runs every loss and prints what was found; whether all is right."""
    from ._self_check import RUNS, TOLERANCE, check

    rows = list(check())
    wrong = [row for row in rows if row["wrong"]]
    print("\n".join([*_table([{k: v for k, v in row.items() if k != "wrong"} for row in rows]), ""]))
    print(f"Errors are relative to the reference in float64; times are the fastest of {RUNS}, forward and backward.")
    for row in wrong:
        print(f"WRONG: {row['loss']} on {row['device']}: {row['wrong']}")
    print(f"{len(rows) - len(wrong)} of {len(rows)} are right: a kernel runs them, with errors below {TOLERANCE:g}.")
    return not wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fused_losses.info", description="What this build consists of.")
    parser.add_argument(
        "--check", action="store_true", help="run every loss: kernel, value, gradient, time against plain PyTorch"
    )
    options = parser.parse_args(arguments)
    info = build_info()
    print("\n".join(_report(info)), flush=True)
    if options.check:
        return int(not _check())
    print("\n".join(_table(info["ops"])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
