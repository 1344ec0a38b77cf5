"""The demos: each learns with --quick, MNIST's files are read, bad input is one sentence and exit status 2."""

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

for package in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(package)

from fused_losses.demos import calculator, cli, data  # noqa: E402
from fused_losses.demos.errors import DemoError  # noqa: E402

LEARNING = {
    "siamese": lambda m: m["accuracy"] > max(0.9, m["before_accuracy"]) and m["auc"] > 0.95,
    "worked_examples": lambda m: m["agreeing"] == m["examples"] >= 80,
    "calculator": lambda m: m["r2"] > 0.999 and m["mse"] < 0.001 * m["before_mse"],
    "digits": lambda m: m["accuracy"] > 0.9 > m["before_accuracy"] and m["curve_gap"] <= 1e-4,
    "imbalanced": lambda m: (
        min(m["weighted_recall"], m["focal_recall"]) > m["plain_recall"] + 0.05
        and m["weighted_average_precision"] > m["untrained_average_precision"]
    ),
    "vae": lambda m: m["loss"] < 0.7 * m["before_loss"] and m["knn_accuracy"] > m["before_knn_accuracy"] + 0.1,
    "segmentation": lambda m: (
        min(m[f"{kind}_dice"] for kind in ("dice", "jaccard", "tversky", "dice_bce")) > m["untrained_dice"] + 0.2
    ),
    "ranking": lambda m: min(m["lambdandcg_ndcg10"], m["approxndcg_ndcg10"]) > m["untrained_ndcg10"] + 0.2,
    "sequence": lambda m: m["bleu_bleu4"] > m["start_bleu4"] > m["before_bleu4"] + 0.2,
    "anomaly": lambda m: m["trained_auc"] > m["euclidean_auc"] and m["trained_auc"] > 0.97,
}


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", [name for name in cli.DEMOS if name != "all"])
def test_a_quick_run_learns(name, tmp_path, capsys):
    assert cli.main([name, "--quick", "--output", str(tmp_path)]) == 0, capsys.readouterr().out
    results = results_of(tmp_path)
    assert LEARNING[name](results["metrics"]), results["metrics"]
    assert results["pictures"]
    assert results["data"]
    assert results["interrupted"] is False
    for picture in results["pictures"]:
        assert (tmp_path / picture["file"]).stat().st_size > 1000
    if name != "worked_examples":
        assert all(time_ > 0 for times in results["step_time"].values() for time_ in times.values())


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    runs = []
    for seed in ("1", "1", "2"):
        assert cli.main(["imbalanced", "--quick", "--seed", seed, "--output", str(tmp_path)]) == 0
        runs.append(results_of(tmp_path)["history"])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_calculator_meets_the_book(tmp_path):
    arguments = ["calculator", "--output", str(tmp_path), "--predict", "3", "4"]
    assert cli.main(arguments) == 0
    metrics = results_of(tmp_path)["metrics"]
    assert metrics["mse"] <= 1.6901
    assert metrics["mae"] <= 1.0354
    assert metrics["r2"] >= 0.9990
    assert abs(metrics["predict(3, 4)"] - 7) < 1


def test_the_calculator_multiplies_in_original_units(tmp_path):
    assert cli.main(["calculator", "--quick", "--operation", "multiply", "--output", str(tmp_path)]) == 0
    metrics = results_of(tmp_path)["metrics"]
    assert metrics["r2"] > 0.99
    assert abs(metrics["predict(50, 50)"] - 2500) < 250


def test_the_book_s_network_and_operations():
    assert sum(p.numel() for p in calculator.network().parameters()) == 609
    with pytest.raises(ValueError, match="expected 'add' or 'multiply', got 'divide'"):
        calculator.Task("divide", 0, 100)


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


def test_digits_trains_on_mnist_and_says_so(tmp_path, capsys):
    write_mnist(tmp_path / "mnist", True)
    arguments = ["digits", "--data", str(tmp_path / "mnist"), "--epochs", "1", "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert "Data: MNIST, 400 training and 100 test images" in capsys.readouterr().out
    assert results_of(tmp_path / "out")["metrics"]["mnist"] is True


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


def one_sentence(arguments, capsys, *words):
    """The command fails with exit status 2 and one sentence that has these words."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.endswith(".")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["nothing"], "siamese"),
        (["siamese", "--epochs", "0"], "1 or more"),
        (["siamese", "--epochs", "many"], "1 or more"),
        (["siamese", "--seed", "-1"], "--seed"),
        (["siamese", "--device", "abacus"], "--device"),
        (["siamese", "--nonsense"], "--nonsense"),
        (["siamese", "--margin", "nan"], "--margin"),
        (["siamese", "--data", "no-such-folder"], "no-such-folder"),
        (["calculator", "--operation", "divide"], "multiply"),
        (["calculator", "--min", "5", "--max", "5"], "--min 5"),
        (["calculator", "--predict", "1"], "--predict"),
        (["digits", "--image", "no-such.png"], "no-such.png"),
        (["anomaly", "--normal", "10"], "--normal"),
        (["anomaly", "--features", "99"], "--features"),
    ],
)
def test_a_bad_option_is_one_sentence(arguments, word, tmp_path, capsys):
    one_sentence([*arguments, "--output", str(tmp_path)] if len(arguments) > 1 else arguments, capsys, word)


def test_cuda_without_a_gpu_is_one_sentence(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    one_sentence(["siamese", "--device", "cuda", "--output", str(tmp_path)], capsys, "CUDA")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    one_sentence(["siamese", "--output", str(tmp_path / "file" / "out")], capsys, "cannot be written")


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


def test_help_lists_every_demo(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.DEMOS)


def test_ctrl_c_ends_cleanly_and_keeps_what_was_done(tmp_path):
    command = [sys.executable, "-m", "fused_losses.demos", "calculator", "--epochs", "4000", "--output", str(tmp_path)]
    # A test run started in the background ignores SIGINT, and its children would too.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"},
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith("Data:"):
                break
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "What was done until then is in" in said
    results = results_of(tmp_path)
    assert results["interrupted"] is True
    assert results["history"]["add"]["train"]
    assert (tmp_path / "stopped.png").exists()
    assert (tmp_path / "stopped-add.pt").exists()


def test_the_report_is_one_page_with_its_pictures(tmp_path, monkeypatch):
    from fused_losses.demos import everything

    chosen = {name: everything.DEMOS[name] for name in ("worked_examples", "imbalanced", "all")}
    monkeypatch.setattr(everything, "DEMOS", chosen)
    assert cli.main(["all", "--quick", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "weighted_binary_cross_entropy_with_logits" in page
    assert results_of(tmp_path)["checks"] == {"worked_examples": True, "imbalanced": True}
