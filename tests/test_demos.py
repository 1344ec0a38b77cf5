"""The demos: each learns with --quick, MNIST's files are read, bad input is one sentence and exit status 2."""

import os
import signal
import subprocess
import sys

import pytest
import torch

for package in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(package)

import demos_support  # noqa: E402
import gallery  # noqa: E402
from demos_support import one_sentence, results_of  # noqa: E402

from fused_losses.demos import calculator, cli  # noqa: E402

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
    "contrastive": lambda m: (
        m["clip_own"] > 0.1 > m["before_own"]
        and min(m["clip_digit"], m["supervised_digit"]) > m["before_digit"] + 0.3
        and all(m[f"{kind}_fused_fits"] and not m[f"{kind}_plain_fits"] for kind in ("clip_loss", "sup_con_loss"))
    ),
    "language": lambda m: m["bits"] < m["before_bits"] - 1.5,
    "custom": lambda m: m["own_recall"] > m["plain_recall"] + 0.05,
}


@pytest.mark.parametrize("name", [name for name in cli.DEMOS if name != "all"])
def test_a_quick_run_learns(name, tmp_path, capsys, custom_folder):
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


def test_two_processes_train_as_one(tmp_path):
    arguments = ["contrastive", "--quick", "--batch", "64", "--steps", "6", "--processes", "2"]
    assert cli.main([*arguments, "--output", str(tmp_path)]) == 0
    results = results_of(tmp_path)
    assert results["metrics"]["curve_gap"] <= 1e-5
    assert results["checks"] == {"2 processes have the curve of one": True}
    assert len(results["history"]["clip, 2 processes"]["steps"]) == 6


def test_the_number_of_threads_changes_nothing(tmp_path):
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            assert cli.main(["vae", "--quick", "--epochs", "2", "--output", str(tmp_path)]) == 0
            assert torch.get_num_threads() == number
            runs.append(results_of(tmp_path)["history"])
    finally:
        torch.set_num_threads(threads)
    assert runs[0] == runs[1]


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


def test_the_study_gives_little_data_as_many_steps(tmp_path):
    arguments = ["calculator", "--epochs", "1", "--study", "--samples", "2000", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    rows = results_of(tmp_path)["study"]
    assert [row for row in rows if "samples" in row] == [
        "100 samples, 62 epochs", "1000 samples, 10 epochs", "10000 samples, 1 epochs"
    ]  # fmt: skip
    assert rows["100 samples, 62 epochs"]["mse"] > rows["10000 samples, 1 epochs"]["mse"]


def test_the_book_s_network_and_operations():
    assert sum(p.numel() for p in calculator.network().parameters()) == 609
    with pytest.raises(ValueError, match="expected 'add' or 'multiply', got 'divide'"):
        calculator.Task("divide", 0, 100)


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
        (["calculator", "--predict", "nan", "1"], "finite"),
        (["calculator", "--max", "999999999999999999999"], "--max"),
        (["calculator", "--max", "1", "--study"], "--study"),
        (["calculator", "--learning-rate", "1e30", "--samples", "500"], "diverged"),
        (["digits", "--learning-rate", "1e30", "--epochs", "1"], "diverged"),
        (["vae", "--quick", "--epochs", "1", "--beta", "1e60"], "a number above 0, at most 1e38"),
        (["vae", "--latent", "10000000"], "at most 1024"),
        (["siamese", "--pairs", "1000000000"], "at most 100000"),
        (["sequence", "--samples", "1"], "--samples"),
        (["sequence", "--length", "1000000"], "--length"),
        (["contrastive", "--batch", "7", "--processes", "2"], "--batch"),
        (["language", "--length", "4"], "--length"),
        (["custom", "--loss", "none.py"], "none.py"),
        (["custom", "--loss", gallery.__file__, "--option", "scale"], "expected NAME=NUMBER, got 'scale'"),
        (["custom", "--loss", demos_support.__file__], "without any"),
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
        for line in process.stderr:  # every redrawing of the progress bar is a line
            if "loss" in line:  # an epoch is done
                break
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
