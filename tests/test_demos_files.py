"""The files the demos read and write: MNIST's four files, single pictures, the folder of the results."""

import gzip
import html
import struct

import numpy as np
import pytest
import torch

for package in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(package)

from demos_support import one_sentence, results_of  # noqa: E402

from fused_losses.demos import cli, data, everything  # noqa: E402
from fused_losses.demos.errors import DemoError  # noqa: E402


def idx(array):
    """`array` of uint8 in the format of MNIST's files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, compress, train=400, test=100):
    """MNIST's four files made of scikit-learn's digits."""
    folder.mkdir()
    digits = data.scikit_learn_digits()
    images = (digits.train_images[:, 0].numpy() * 255).astype(np.uint8)
    labels = digits.train_labels.numpy().astype(np.uint8)
    for part, rows in (("train", slice(0, train)), ("test", slice(train, train + test))):
        for kind, array in (("images", images[rows]), ("labels", labels[rows])):
            name = data.MNIST_FILES[f"{part}_{kind}"]
            content = idx(array)
            path = folder / (f"{name}.gz" if compress else name)
            path.write_bytes(gzip.compress(content) if compress else content)
    return images, labels


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_is_read(tmp_path, compress):
    images, labels = write_mnist(tmp_path / "mnist", compress)
    digits = data.mnist({part: data.find(tmp_path / "mnist", name) for part, name in data.MNIST_FILES.items()})
    assert digits.train_images.shape == (400, 1, 28, 28)
    assert digits.is_mnist
    assert torch.equal(digits.test_labels, torch.from_numpy(labels[400:500]).long())
    assert torch.equal(digits.train_images[3, 0], torch.from_numpy(images[3]).float() / 255)


def test_a_folder_without_mnist_falls_back_and_says_so(tmp_path, capsys):
    write_mnist(tmp_path / "mnist", False)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    arguments = [
        "vae",
        "--quick",
        "--data",
        str(tmp_path / "mnist"),
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.main(arguments) == 0
    assert "scikit-learn's handwritten digits" in (said := capsys.readouterr().out)
    assert "lacks t10k-labels-idx1-ubyte" in said


DAMAGE = {
    "truncated": lambda content: content[:-7],
    "not IDX": lambda content: b"<html>" + content,
    "empty": lambda content: b"",
    "floats": lambda content: content[:2] + b"\x0d" + content[3:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_data_file_is_one_sentence(kind, tmp_path, capsys):
    write_mnist(tmp_path / "mnist", False)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    one_sentence(["digits", "--data", str(tmp_path / "mnist"), "--output", str(tmp_path / "out")], capsys, path.name)


def test_a_damaged_gzip_file_is_one_sentence(tmp_path, capsys):
    write_mnist(tmp_path / "mnist", True)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:40])
    one_sentence(["digits", "--data", str(tmp_path / "mnist"), "--output", str(tmp_path / "out")], capsys, path.name)


def test_pictures_of_any_size_and_colour_are_read(tmp_path):
    from PIL import Image

    digits = data.scikit_learn_digits()
    grey = Image.fromarray((digits.test_images[0, 0].numpy() * 255).astype(np.uint8))
    grey.resize((90, 90)).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(255 - np.asarray(grey)).save(tmp_path / "dark ink.png")
    Image.fromarray(np.asarray(grey)[:, 4:24]).save(tmp_path / "narrow.png")
    for path in tmp_path.iterdir():
        image = data.read_image(path)
        assert image.shape == (1, 28, 28)
        assert 0 <= image.min() <= image.max() <= 1
        assert (image - digits.test_images[0]).abs().mean() < 0.15, path.name
    (tmp_path / "damaged.png").write_bytes((tmp_path / "colour.png").read_bytes()[:100])
    with pytest.raises(DemoError, match="cannot be read"):
        data.read_image(tmp_path / "damaged.png")


def a_digit():
    """An 8-bit picture of a digit, and its values in [0, 1]."""
    from PIL import Image

    values = data.scikit_learn_digits().test_images[0, 0].numpy()
    return Image.fromarray((values * 255).astype(np.uint8)), values


def test_transparent_pictures_keep_their_ink(tmp_path):
    from PIL import Image

    grey, values = a_digit()
    for colour in (0, 255):
        plain = Image.new("L", grey.size, colour)
        Image.merge("RGBA", (plain, plain, plain, grey)).save(tmp_path / f"rgba{colour}.png")
        Image.merge("LA", (plain, grey)).save(tmp_path / f"la{colour}.png")
    Image.merge("RGBA", (plain, plain, plain, grey)).quantize().save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        assert abs(data.read_image(path)[0].numpy() - values).mean() < 0.05, path.name


def test_deep_pictures_are_not_clipped(tmp_path):
    from PIL import Image

    _, values = a_digit()
    Image.fromarray((values * 65535).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(((1 - values) * 4095).astype(np.uint16)).save(tmp_path / "12 dark.png")
    Image.fromarray((values * 65535).astype(np.int32)).save(tmp_path / "32.tif")
    Image.fromarray(values).save(tmp_path / "float.tif")
    for path in tmp_path.iterdir():
        assert abs(data.read_image(path)[0].numpy() - values).mean() < 0.01, path.name


@pytest.mark.parametrize("kind", ["blank", "one pixel", "huge", "empty", "text", "folder", "not finite"])
def test_a_picture_that_shows_no_digit_is_one_sentence(kind, tmp_path, capsys):
    from PIL import Image

    path = tmp_path / ("x.tif" if kind == "not finite" else "a\nb.png" if kind == "text" else "x.png")
    if kind == "folder":
        path.mkdir()
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "hello")
    elif kind == "not finite":
        Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path)
    else:
        Image.new("1", {"blank": (28, 28), "one pixel": (1, 1), "huge": (12_000, 12_000)}[kind]).save(path)
    one_sentence(["digits", "--image", str(path), "--output", str(tmp_path / "out")], capsys, "image")


def test_labels_that_lack_a_digit_are_one_sentence(tmp_path, capsys):
    write_mnist(tmp_path / "mnist", False)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte"
    path.write_bytes(idx(np.full(400, 7, np.uint8)))
    for name in ("siamese", "vae"):
        one_sentence([name, "--data", str(tmp_path / "mnist"), "--output", str(tmp_path / "out")], capsys, "at least 2")


@pytest.mark.parametrize("folder, rate", [("mnist", "0.01"), (None, "0.1")])
def test_the_book_s_settings_of_digits(folder, rate, tmp_path, capsys):
    if folder:
        write_mnist(tmp_path / folder, True)
    arguments = ["--data", str(tmp_path / folder)] if folder else []
    arguments = ["digits", "--preset", "book", "--epochs", "2", *arguments, "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"SGD at {rate}, 2 epochs, batches of 32, torch's initial weights" in said
    assert ("16 to 39 %" in said) == (folder is None)
    assert ("Data: MNIST, 400 training and 100 test images" in said) == bool(folder)
    assert results_of(tmp_path / "out")["metrics"]["mnist"] is bool(folder)


def test_a_departure_from_the_book_is_said_on_the_report_too(tmp_path, capsys):
    done = cli.run_demo("digits", ["--quick", "--epochs", "1", "--output", str(tmp_path)])
    for said in (capsys.readouterr().out, html.unescape(everything.section(done))):
        assert "SGD at 0.05, decaying to 0, 1 epochs, batches of 32, He's initial weights" in said
        assert "--preset book" in said


def test_a_bad_run_leaves_the_results_of_an_earlier_one(tmp_path):
    assert cli.main(["worked_examples", "--output", str(tmp_path)]) == 0
    before = (tmp_path / "results.json").read_bytes()
    assert cli.main(["calculator", "--min", "5", "--max", "5", "--output", str(tmp_path)]) == 2
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("taken", ["results.json", "descent.png"])
def test_a_file_that_cannot_be_written_is_one_sentence(taken, tmp_path, capsys):
    (tmp_path / taken).mkdir()
    one_sentence(["worked_examples", "--output", str(tmp_path)], capsys, "written")
