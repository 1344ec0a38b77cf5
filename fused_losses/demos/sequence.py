"""Restore erased vowels in a text: th_ m_nn_r _f _r_s_ng th_m is simple, guessing them back is not.

The text is the Python manual that ships inside the standard library. A small convolutional network first learns with
the cross-entropy; from there it goes on with the expected BLEU, and beside that with the cross-entropy again.
"""

from __future__ import annotations

import math
import re
from collections import Counter

import torch
from sklearn.metrics import accuracy_score
from torch import nn

from . import plots
from .cli import positive_int
from .errors import DemoError
from .training import Batches, fit, predict, step_time

LETTERS = " abcdefghijklmnopqrstuvwxyz,.'-_"
VOWELS = "aeiou"
INDEX = {letter: number for number, letter in enumerate(LETTERS)}


def options(parser) -> None:
    parser.add_argument("--epochs", type=positive_int, default=4, help="of the first stage (default 4)")
    parser.add_argument("--fine-tuning", type=positive_int, default=4, metavar="EPOCHS", help="default 4")
    parser.add_argument("--length", type=positive_int, default=64, help="characters of a sample (default 64)")
    parser.add_argument("--samples", type=positive_int, default=3000, help="at most (default 3000)")


def load_text(length: int, limit: int):
    """Lines of exactly `length` known characters from Python's manual: a list of str, in order."""
    from pydoc_data import topics

    text = " ".join(topics.topics[name] for name in sorted(topics.topics)).lower()
    text = text.replace('"', "").replace("“", "").replace("”", "").replace("’", "'")
    sentences = re.split(r"(?<=[.:;])\s+|\n\s*\n", text)
    plain = re.compile(r"[a-z ,.'-]{20,}")
    kept = dict.fromkeys(s for s in (" ".join(sentence.split()) for sentence in sentences) if plain.fullmatch(s))
    joined = " ".join(kept)
    return [joined[start : start + length] for start in range(0, len(joined) - length + 1, length)][:limit]


def encode(lines):
    """Lines as indices [n, T]."""
    return torch.tensor([[INDEX[letter] for letter in line] for line in lines])


def erase(lines):
    return [re.sub(f"[{VOWELS}]", "_", line) for line in lines]


def decode(indices):
    return ["".join(LETTERS[i] for i in row) for row in indices.tolist()]


class Restorer(nn.Module):
    """Indices [n, T] -> logits [n, T, letters]; every letter is guessed from 12 neighbours to each side."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), width)
        self.layers = nn.Sequential(*(
            part for _ in range(3) for part in (nn.Conv1d(width, width, 9, padding=4), nn.ReLU())
        ))  # fmt: skip
        self.out = nn.Linear(width, len(LETTERS))

    def forward(self, indices):
        hidden = self.embedding(indices).transpose(1, 2)
        return self.out((hidden + self.layers(hidden)).transpose(1, 2))


def bleu(candidates, references, order: int = 4) -> float:
    """Corpus BLEU (Papineni et al. 2002) of lists of tokens, one reference each: clipped n-gram precisions."""
    matched, total, length, reference_length = [0] * order, [0] * order, 0, 0
    for candidate, reference in zip(candidates, references):
        length, reference_length = length + len(candidate), reference_length + len(reference)
        for n in range(1, order + 1):
            ours, theirs = (Counter(zip(*(tokens[i:] for i in range(n)))) for tokens in (candidate, reference))
            matched[n - 1] += sum((ours & theirs).values())
            total[n - 1] += max(len(candidate) - n + 1, 0)
    if min(matched) == 0:
        return 0.0
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(brevity + sum(math.log(m / t) for m, t in zip(matched, total)) / order)


def judge(session, name, model, inputs, lines):
    """BLEU-4 of letters and of words, and the share of erased vowels guessed right, on unseen text."""
    guess = predict(model, inputs, session.device, 256).argmax(dim=-1)
    restored, truth = decode(guess), encode(lines)
    erased = inputs == INDEX["_"]
    found = {"bleu4": bleu([list(line) for line in restored], [list(line) for line in lines]),
             "word_bleu4": bleu([line.split() for line in restored], [line.split() for line in lines]),
             "vowels": float(accuracy_score(truth[erased], guess[erased]))}  # fmt: skip
    session.metrics(**{f"{name}_{metric}": value for metric, value in found.items()})
    return found, restored


def run(session) -> None:
    o = session.options
    if not 8 <= o.length <= 256:
        raise DemoError(f"Expected --length from 8 to 256, got {o.length}.")
    lines = load_text(o.length, min(o.samples, 800) if session.quick else o.samples)
    if len(lines) < 10:
        raise DemoError(f"Expected --samples of at least 10, got {len(lines)}.")
    cut = len(lines) * 4 // 5
    session.data(f"Python's manual from the standard library: {cut} training and {len(lines) - cut} test samples "
                 f"of {len(lines[0])} letters")  # fmt: skip
    inputs, targets, test = encode(erase(lines[:cut])), encode(lines[:cut]), encode(erase(lines[cut:]))

    def cross_entropy(losses, logits, batch):
        return losses.cross_entropy(logits.transpose(1, 2), batch[1])

    def expected_bleu(losses, logits, batch):
        return losses.expected_bleu_loss(logits, batch[1])

    def optimizer(parameters, rate=0.003):
        return torch.optim.Adam(parameters, lr=rate)

    def batches(purpose):
        return Batches(inputs, targets, size=32, device=session.device, generator=session.generator(purpose))

    def train(name, model, criterion, epochs, purpose, rate=0.003):
        fit(session, name, model, batches(purpose), criterion, optimizer(model.parameters(), rate), epochs=epochs)
        return model

    torch.manual_seed(o.seed)
    start = Restorer().to(session.device)
    found = {"untrained": judge(session, "before", start, test, lines[cut:])}
    train("cross-entropy", start, cross_entropy, o.epochs, 1)
    found["cross-entropy, first stage"] = judge(session, "start", start, test, lines[cut:])
    for name, key, criterion in (("expected BLEU", "bleu", expected_bleu), ("cross-entropy", "ce", cross_entropy)):
        model = Restorer().to(session.device)
        model.load_state_dict(start.state_dict())
        train(f"then {name}", model, criterion, o.fine_tuning, 2, 0.001)
        found[f"then {name}"] = judge(session, key, model, test, lines[cut:])
        function = "expected_bleu_loss" if key == "bleu" else "cross_entropy (text)"
        step_time(session, function, model, batches(2), criterion, optimizer, steps=None if key == "bleu" else 10)
    header = ["unseen text", "BLEU-4 of letters", "BLEU-4 of words", "vowels right"]
    session.table(header, [[name, *values.values()] for name, (values, _) in found.items()])
    draw(session, found, lines[cut:])


def draw(session, found, lines) -> None:
    figure, axis = plots.axes(width=8, height=4)
    names = list(found)
    for number, (metric, label) in enumerate((("bleu4", "BLEU-4 of letters"), ("word_bleu4", "BLEU-4 of words"))):
        places = [i + (number - 0.5) * 0.38 for i in range(len(names))]
        bars = axis.bar(places, [found[name][0][metric] for name in names], 0.36, label=label, edgecolor="white",
                        color=(plots.BLUE, plots.ORANGE)[number], hatch="//" if number else None)  # fmt: skip
        axis.bar_label(bars, fmt="%.3f", fontsize=10)
    axis.set(title="Text restored from its consonants", ylabel="BLEU-4 on unseen text (1 is perfect)", ylim=(0, 1.2),
             xticks=range(len(names)))  # fmt: skip
    axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_xticklabels([name.replace(", ", ",\n").replace("then ", "then\n") for name in names])
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper left", ncols=2)
    session.picture(figure, "bleu.png", "BLEU-4 before training, after the cross-entropy, and after the expected BLEU")
    restored = found["then expected BLEU"][1]
    session.results["samples"] = []
    for line, guess in list(zip(lines, restored))[:4]:
        session.results["samples"].append({"erased": erase([line])[0], "restored": guess, "true": line})
        for label, text in (("erased  ", erase([line])[0]), ("restored", guess), ("true    ", line)):
            session.say(f"  {label}  {text}")
        session.say()
