"""Run every demo and write one page, report.html: pictures, results, and the step times of each loss, fused and not.

--quick makes every demo quick. The page holds its pictures and needs nothing else.
"""

from __future__ import annotations

import base64
import html
import platform
from pathlib import Path

import torch

from .. import __version__
from . import data
from .cli import DEMOS, run_demo

WITH_DATA = ("siamese", "digits", "vae", "segmentation", "ranking", "anomaly", "contrastive")
HEADLINES = {
    "siamese": "Verification of unseen pairs: accuracy {before_accuracy:.3f} before training, {accuracy:.3f} after; "
    "ROC-AUC {before_auc:.3f} and {auc:.3f}. The reference loss reaches {reference_accuracy:.3f} and "
    "{reference_auc:.3f}; the first 50 losses differ by {first_steps_gap:.0e}.",
    "worked_examples": "{agreeing} of {examples} numbers agree with the book or the formula. One sign in the "
    "book is wrong: dJ/dprediction is prediction - y, not y - prediction.",
    "calculator": "On fresh sums: MSE {mse:.4f} (book 1.6901), MAE {mae:.4f} (book 1.0354), R² {r2:.5f} (book 0.9990).",
    "digits": "Test accuracy {before_accuracy:.3f} before training, {accuracy:.3f} after (nn.CrossEntropyLoss "
    "{torch_accuracy:.3f}); precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}.",
    "imbalanced": "Malignant tumours found: {plain_recall:.0%} with the plain cross-entropy, {weighted_recall:.0%} "
    "with weights, {focal_recall:.0%} with the focal loss.",
    "vae": "Loss of test images: {before_loss:.0f} before training, {loss:.0f} after ({reconstruction:.0f} "
    "reconstruction + {kl:.1f} KL).",
    "segmentation": "Ink found on unseen canvases: {bce_recall:.0%} after BCE, {dice_recall:.0%} after Dice, "
    "{dice_bce_recall:.0%} after Dice + BCE; Dice scores {bce_dice:.2f}, {dice_dice:.2f}, {dice_bce_dice:.2f}.",
    "ranking": "NDCG@10 of unseen queries: {untrained_ndcg10:.3f} before training, {lambdandcg_ndcg10:.3f} with "
    "LambdaNDCG, {approxndcg_ndcg10:.3f} with ApproxNDCG, {pointwise_ndcg10:.3f} pointwise.",
    "sequence": "BLEU-4 (letters) of unseen text: {before_bleu4:.3f} untrained, {start_bleu4:.3f} after stage one, "
    "then {bleu_bleu4:.3f} with the expected BLEU and {ce_bleu4:.3f} with more cross-entropy.",
    "anomaly": "ROC-AUC: {euclidean_auc:.3f} plain distance, {fitted_auc:.3f} fitted Mahalanobis, {trained_auc:.3f} "
    "trained.",
    "contrastive": "Unseen images whose other view is found first: {before_own:.0%} before training, {clip_own:.0%} "
    "after clip_loss; same digit among the ten nearest {clip_digit:.0%}, after sup_con_loss {supervised_digit:.0%}.",
    "language": "Bits of a character of unseen text: {before_bits:.2f} before training, {bits:.2f} after, "
    "{reference_bits:.2f} with the reference loss.",
    "custom": "Malignant tumours found: {plain_recall:.0%} with the plain cross-entropy, {own_recall:.0%} with the one "
    "written in Python, which is {faster_than_eager:.1f} times faster than the same lines in eager PyTorch.",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 2px solid #0072B2; padding-bottom: .2rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; display: block; }
figcaption, .data { color: #555; font-size: .92rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .95rem; } caption { text-align: left; padding: .3rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, .left { text-align: left; } thead th { border-bottom: 2px solid #888; }
nav a { margin-right: .9rem; white-space: nowrap; } code { background: #f2f2f2; padding: 0 .25rem; }
"""


def options(parser) -> None:
    data.data_option(parser)


def run(session) -> None:
    o = session.options
    session.data("as each demo says")
    finished = []
    try:
        for name in DEMOS:
            if name == "all":
                continue
            session.say(f"\n== {name}: {DEMOS[name]}")
            argv = ["--seed", str(o.seed), "--device", o.device, "--output", str(session.folder / name)]
            argv += ["--quick"] if o.quick else []
            argv += ["--data", str(o.data)] if o.data and name in WITH_DATA else []
            done = run_demo(name, argv)
            finished.append(done)
            session.check(name, done.status == 0)
            session.results["metrics"][name] = done.results["metrics"]
    finally:  # after Ctrl-C too: the page shows what was finished
        path = session.folder / "report.html"
        path.write_text(page(session, finished), encoding="utf-8")
        session.say(f"\n{len(finished)} demos on one page: {path}")


def page(session, finished) -> str:
    """The whole report as HTML."""
    e = html.escape
    size = "quick runs" if session.quick else "full runs"
    where = f"{size} with seed {session.options.seed} on {session.device}, one CPU thread; "
    where += f"fused_losses {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    links = "".join(f'<a href="#{e(s.name)}">{e(s.name)}</a>' for s in finished)
    body = [
        "<h1>Trained with fused losses</h1>",
        f'<p class="data">{e(where)}</p>',
        "<p>Each project below was trained from scratch for this page, every step through a fused loss of the library. "
        "Scores are of data never seen in training.</p>",
        f'<nav>{links}<a href="#times">step times</a></nav>',
    ]
    body += [section(s) for s in finished] + [step_times(finished)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    title = "<title>Trained with fused losses</title>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}{title}</head>\n<body>\n{chr(10).join(body)}\n</body></html>\n'
    )


def section(done) -> str:
    """One demo: what it is, its data, its result, its pictures."""
    e, results = html.escape, done.results
    command = f"python -m fused_losses.demos {done.name}"
    lines = [
        f'<h2 id="{e(done.name)}">{e(done.name.replace("_", " ").capitalize())}</h2>',
        f"<p>{e(DEMOS[done.name][0].upper() + DEMOS[done.name][1:])}. <code>{e(command)}</code></p>",
        f"<p><strong>{e(HEADLINES[done.name].format(**results['metrics']))}</strong></p>",
        f'<p class="data">Data: {e(results["data"])}.</p>',
    ]
    lines += [f'<p class="data">{e(note)}.</p>' for note in results["notes"]]
    wrong = [name for name, agrees in results["checks"].items() if not agrees]
    if wrong:
        lines.append(f"<p><strong>Does not hold: {e('; '.join(wrong))}.</strong></p>")
    for picture in results["pictures"]:
        source = base64.b64encode(Path(done.folder / picture["file"]).read_bytes()).decode()
        caption = e(picture["caption"])
        lines.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{source}">'
            f"<figcaption>{caption}.</figcaption></figure>"
        )
    if "table" in results:
        rows = "".join(f"<tr>{''.join(f'<td>{e(str(cell))}</td>' for cell in row)}</tr>" for row in results["table"])
        heads = "".join(f"<th>{name}</th>" for name in ("example", "book", "computed", "agrees"))
        lines.append(f"<details><summary>All {len(results['table'])} numbers</summary><table><thead><tr>{heads}</tr>"
                     f"</thead><tbody>{rows}</tbody></table></details>")  # fmt: skip
    return "\n".join(lines)


def step_times(finished) -> str:
    """The table of fused and reference step times of each loss in its own training loop."""
    heads = ("loss", "in demo", "step, fused", "step, reference", "loss alone, fused", "loss alone, reference", "ratio")
    rows = []
    for done in finished:
        for loss, t in done.results["step_time"].items():
            times = [f"{t[key]:.3f}" for key in ("fused_ms", "reference_ms", "loss_fused_ms", "loss_reference_ms")]
            ratio = f"{t['loss_reference_ms'] / t['loss_fused_ms']:.2f}×"
            cells = "".join(f"<td>{cell}</td>" for cell in (*times, ratio))
            rows.append(f'<tr><td>{html.escape(loss)}</td><td class="left">{html.escape(done.name)}</td>{cells}</tr>')
    titles = "".join(f'<th class="left">{h}</th>' if h == "in demo" else f"<th>{h}</th>" for h in heads)
    return (
        '<h2 id="times">Step times</h2>\n<p>Milliseconds, medians of training steps in which the fused and the '
        "reference loss take turns. A step is forward, loss, backward and optimiser; the loss alone is its forward and "
        "backward. These batches are small, so the cost of a call counts most; the benchmarks measure large ones.</p>\n"
        f"<table><thead><tr>{titles}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
