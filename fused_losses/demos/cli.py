"""The command line of the demos: one parser per demo, made of the options all share and its own.

Exit status: 0 done, 1 a number disagrees with what it should be, 2 bad option or damaged file, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from .errors import DemoError

DEMOS = {
    "siamese": "tell whether two handwritten digits are the same, with the contrastive loss",
    "worked_examples": "the book's hand-computed examples, recomputed by the fused losses",
    "calculator": "a small network learns to add or multiply two numbers, with the mean squared error",
    "digits": "recognise handwritten digits, with the cross-entropy",
    "imbalanced": "find a rare disease, with weighted cross-entropy and focal loss against the plain one",
    "vae": "draw new digits with a variational autoencoder: reconstruction and Gaussian KL in one loss",
    "segmentation": "find small digits in photographs: Dice, Jaccard, Tversky and Dice + BCE against BCE",
    "ranking": "search digits by number: LambdaNDCG and ApproxNDCG against a pointwise loss",
    "sequence": "restore erased vowels in text: the expected BLEU against the cross-entropy",
    "anomaly": "tell unusual samples from normal ones with the Mahalanobis distance, learned",
    "all": "run every demo at a small size and write one page, report.html",
}
PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm", "numpy": "numpy", "PIL": "pillow"}


class OneSentenceParser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of the whole usage."""

    def error(self, message):
        raise DemoError(f"{message[0].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def positive_int(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def seed_number(text: str) -> int:
    """A whole number in [0, 2**31)."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, below 2**31, got {text!r}")
    return value


def shared_options(parser: argparse.ArgumentParser, name: str) -> None:
    """The options every demo has."""
    group = parser.add_argument_group("options of every demo")
    group.add_argument("--seed", type=seed_number, default=42, help="same seed, same numbers (default 42)")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one"
    )
    group.add_argument("--output", type=Path, default=Path("output") / name, metavar="DIR",
                       help=f"folder of the pictures and of results.json (default output/{name})")  # fmt: skip
    group.add_argument("--quick", action="store_true", help="a few seconds: less data, fewer epochs")


def overview() -> str:
    """The text of --help without a demo's name."""
    lines = ["usage: python -m fused_losses.demos NAME [options]", ""]
    lines += [f"  {name:16} {text}" for name, text in DEMOS.items()]
    return "\n".join([*lines, "", "python -m fused_losses.demos NAME --help lists the options of one demo."])


def load(name: str):
    """The module of one demo."""
    try:
        return importlib.import_module(f"{__package__}.{'everything' if name == 'all' else name}")
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root not in PACKAGES:
            raise
        raise DemoError(f"The demos need {PACKAGES[root]}: pip install 'fused-losses[demos]'.") from None


def run_demo(name: str, argv: list[str]):
    """Parse `argv`, run one demo, write its results.json; returns the finished Session. Raises DemoError."""
    module = load(name)
    from .session import Session

    parser = OneSentenceParser(
        prog=f"python -m fused_losses.demos {name}", description=module.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    module.options(parser)
    shared_options(parser, name)
    session = Session(name, parser.parse_args(argv))
    try:
        module.run(session)
    except KeyboardInterrupt:
        session.stop()
        raise
    session.finish()
    return session


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0 if argv else 2
    try:
        if argv[0] not in DEMOS:
            raise DemoError(f"Unknown demo {argv[0]!r}: choose one of {', '.join(DEMOS)}.")
        return run_demo(argv[0], argv[1:]).status
    except DemoError as error:
        print(f"fused_losses.demos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
