"""Handwritten digits for the demos: MNIST's four files where a folder has them, else scikit-learn's own digits."""

from __future__ import annotations

import gzip
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .errors import DemoError

MNIST_FILES = {
    "train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte",
}  # fmt: skip


@dataclass
class Digits:
    """Real handwritten digits, 28 x 28, grey."""

    train_images: torch.Tensor  # [n, 1, 28, 28] float32 in [0, 1], ink is 1
    train_labels: torch.Tensor  # [n] int64
    test_images: torch.Tensor
    test_labels: torch.Tensor
    is_mnist: bool
    source: str

    def limit(self, count: int) -> Digits:
        """At most the first `count` training images, for a quick run."""
        self.train_images, self.train_labels = self.train_images[:count], self.train_labels[:count]
        return self


def data_option(parser) -> None:
    """`--data DIR`, for `load`."""
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="folder with MNIST's four files, plain or .gz; else scikit-learn's digits")  # fmt: skip


def load(session) -> Digits:
    """MNIST from `--data` if its four files are there, else scikit-learn's digits; says which."""
    folder = session.options.data
    if folder is None:
        digits = scikit_learn_digits()
    else:
        if not folder.is_dir():
            raise DemoError(f"The folder {folder} of --data does not exist.")
        paths = {part: find(folder, name) for part, name in MNIST_FILES.items()}
        absent = [MNIST_FILES[part] for part, path in paths.items() if path is None]
        digits = scikit_learn_digits() if absent else mnist(paths)
        if absent:
            digits.source += f" (MNIST not used: {folder} lacks {', '.join(absent)})"
    session.data(digits.source)
    return digits


def scikit_learn_digits() -> Digits:
    """1 797 real digits of 8 x 8, scaled to 28 x 28; one in five is kept for the test."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=bunch.target)
    source = f"scikit-learn's handwritten digits, {len(labels)} of 8 x 8 pixels scaled to 28 x 28"
    return Digits(images[train], labels[train], images[test], labels[test], False, source)


def mnist(paths: dict[str, Path]) -> Digits:
    """MNIST from its four files."""
    arrays = {part: read_idx(path, 3 if part.endswith("images") else 1) for part, path in paths.items()}
    for half in ("train", "test"):
        images, labels = arrays[f"{half}_images"], arrays[f"{half}_labels"]
        if len(images) != len(labels):
            raise DemoError(f"{len(images)} images in {paths[f'{half}_images']}, but {len(labels)} labels beside it.")
        if not len(images) or images.shape[1:] != (28, 28):
            shape = " x ".join(map(str, images.shape))
            raise DemoError(f"{paths[f'{half}_images']} holds {shape} pixels, expected images of 28 x 28.")
        if labels.max() > 9:
            raise DemoError(f"{paths[f'{half}_labels']} holds the label {labels.max()}, expected 0 to 9.")
        counts = np.bincount(labels, minlength=10)
        if counts.min() < 2:
            few = f"{counts.min()} of the digit {counts.argmin()}"
            raise DemoError(f"{paths[f'{half}_labels']} holds {few}, expected at least 2 of each.")
    tensors = {
        part: torch.from_numpy(array)[:, None].float() / 255 if array.ndim == 3 else torch.from_numpy(array).long()
        for part, array in arrays.items()
    }
    source = f"MNIST, {len(arrays['train_labels'])} training and {len(arrays['test_labels'])} test images"
    return Digits(**tensors, is_mnist=True, source=source)


def find(folder: Path, name: str) -> Path | None:
    """The file `name` in `folder`: plain or .gz, with a dot or a hyphen before idx."""
    names = (name, name.replace("-idx", ".idx"))
    candidates = (folder / f"{n}{end}" for n in names for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, dimensions, each size as big-endian uint32, then the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DemoError(f"{path} cannot be read: {error}.") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DemoError(f"{path} is not an IDX file of unsigned bytes with {dimensions} dimension(s).")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise DemoError(f"{path} is damaged: {len(content) - header} bytes of data, its header says {sizes}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def grey_values(image) -> np.ndarray:
    """The picture in [0, 1], float32 [height, width]: transparent parts become ground, deep ones are stretched."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits or floating point, of which the range is not known
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        return ((values - values.min()) / max(np.ptp(values), 1e-300)).astype(np.float32)
    if "transparency" not in image.info and image.mode not in ("RGBA", "RGBa", "LA", "La", "PA"):
        return np.asarray(image.convert("L"), np.float32) / 255
    image = image.convert("RGBA")
    grey, opacity = (np.asarray(part, np.float32) / 255 for part in (image.convert("L"), image.getchannel("A")))
    ground = float((grey * opacity).sum() < 0.5 * opacity.sum())  # white behind dark ink, black behind bright ink
    return grey * opacity + ground * (1 - opacity)


def read_image(path: Path) -> torch.Tensor:
    """Any picture file as [1, 28, 28] in [0, 1], ink 1: grey, on a dark ground, padded to a square, scaled."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                grey = grey_values(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise DemoError(f"The image {path} does not exist.") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DemoError(f"The image {path} cannot be read: {error}.".replace("..", ".")) from None
    if not grey.size or np.ptp(grey) < 1 / 255:
        raise DemoError(f"The image {path} shows nothing: all its pixels are alike.")
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 0.5:
        grey = 1 - grey
    height, width = grey.shape
    side = max(height, width)
    square = np.full((side, side), np.median(border if np.median(border) <= 0.5 else 1 - border), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = grey
    image = torch.from_numpy(square)[None, None]
    antialias = side > 28
    return torch.nn.functional.interpolate(
        image, size=(28, 28), mode="bilinear", align_corners=False, antialias=antialias
    )[0].clamp(0, 1)
