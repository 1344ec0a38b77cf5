"""`python -m fused_losses.custom build my_losses.py` compiles ahead; `... info` says what is compiled."""

from __future__ import annotations

import argparse

from . import build, cache_info


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fused_losses.custom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="compile the losses of files").add_argument("files", nargs="+")
    commands.add_parser("info", help="where the compiled losses are")
    chosen = parser.parse_args(arguments)
    if chosen.command == "build":
        for file in chosen.files:
            try:
                print(f"{file}: {', '.join(build(file))}")
            except (OSError, ValueError, RuntimeError) as error:
                parser.exit(1, f"{error}\n")
            except Exception as error:  # of the file itself
                parser.exit(1, f"{file}: {type(error).__name__}: {error}\n")
    for name, value in cache_info().items():
        print(f"{name:10} {value}")


if __name__ == "__main__":
    main()
