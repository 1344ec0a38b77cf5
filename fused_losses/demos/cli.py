"""The command line of the demos: one parser per demo, made of the options all share and its own.

Exit status: 0 done, 1 a number disagrees with what it should be, 2 bad option or damaged file, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
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
    "contrastive": "find the other view of an image among thousands, in a memory that the plain loss does not fit into",
    "language": "write, character by character: linear layer and cross-entropy in one",
    "custom": "a loss of one's own: four lines of PyTorch, compiled, checked, trained with and timed",
    "all": "run every demo at a small size and write one page, report.html",
}
PACKAGES = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm", "numpy": "numpy", "PIL": "pillow"}


class OneSentenceParser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of the whole usage."""

    def error(self, message):
        raise DemoError(f"{message[0].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def _number(kind, holds, expected: str):
    """A type of argparse: the text as `kind` if it `holds`, else one sentence with what was expected and given."""

    def parse(text: str):
        with contextlib.suppress(ValueError):
            if holds(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


positive_int = _number(int, lambda n: 1 <= n <= 10**7, "a whole number of 1 or more, at most 10000000")
count = _number(int, lambda n: 1 <= n <= 10**5, "a whole number of 1 or more, at most 100000")  # of samples in memory
size = _number(int, lambda n: 1 <= n <= 1024, "a whole number of 1 or more, at most 1024")  # of a layer or a list
positive_float = _number(float, lambda x: 0 < x <= 1e38, "a number above 0, at most 1e38")  # as float32 can hold
finite_float = _number(float, lambda x: abs(x) < float("inf"), "a finite number")
whole_number = _number(int, lambda n: True, "a whole number")
seed_number = _number(int, lambda n: 0 <= n < 2**31, "a whole number of 0 or more, below 2**31")


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
        raise DemoError(f"The demos need {PACKAGES[root]}: pip install '.[demos]' in its sources.") from None


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
        with one_thread(), what_can_be_mended(session):
            module.run(session)
            session.finish()
    except KeyboardInterrupt:
        session.stop()
        raise
    return session


@contextlib.contextmanager
def one_thread():
    """One CPU thread: matrix products round the same on every machine, and these small networks need no more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def what_can_be_mended(session):
    """A full disk or too little memory is one sentence, too."""
    try:
        yield
    except OSError as error:
        raise DemoError(f"{error.filename or session.folder} cannot be read or written: {error.strerror}.") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("allocate|out of memory", str(error)):
            raise
        raise DemoError("There is not enough memory for this: choose smaller values for the options.") from None


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
        print("fused_losses.demos:", *str(error).split(), file=sys.stderr)  # one line, whatever a file's name holds
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
