"""A small network learns to write: the next character of a text from the ones before it.

The text is the Python manual that ships inside the standard library. The last layer and the cross-entropy are one
function, linear_cross_entropy, which never holds the logits of a batch; the same training with the reference loss,
which does, runs beside it.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .. import functional, reference
from . import plots
from .cli import positive_int, size
from .errors import DemoError
from .training import Batches, fit, step_time, warm_up_and_decay

UNKNOWN = "\x00"
PROMPT = "The statement "
COMPARED_STEPS = 50


def options(parser) -> None:
    parser.add_argument("--epochs", type=positive_int, default=4, help="default 4")
    parser.add_argument("--length", type=positive_int, default=96, help="characters of a sample (default 96)")
    parser.add_argument("--samples", type=positive_int, default=3000, help="at most (default 3000)")
    parser.add_argument("--width", type=size, default=96, help="of the hidden layers (default 96)")
    parser.add_argument("--write", type=size, default=240, metavar="N", help="characters to write (default 240)")


def load_text(length: int, limit: int) -> tuple[str, list[str]]:
    """The characters there are, and pieces of the manual of length + 1 characters."""
    from pydoc_data import topics

    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = " ".join(line for line in lines if line and not set(line) <= set("*=-~^+|# "))
    pieces = [text[at : at + length + 1] for at in range(0, len(text) - length, length)][:limit]
    known = sorted({c for c in "".join(pieces) if c.isascii() and c.isprintable()})
    return UNKNOWN + "".join(known), pieces


class Writer(nn.Module):
    """Indices [n, T] -> hidden [n, T, width], each from the characters up to its own; `out` is the last layer."""

    def __init__(self, letters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=d) for d in (1, 2, 4, 8))
        self.out = nn.Linear(width, letters)

    def forward(self, indices):
        hidden = self.embedding(indices).transpose(1, 2)
        for layer in self.layers:
            seen = nn.functional.pad(hidden, (2 * layer.dilation[0], 0))
            hidden = hidden + nn.functional.silu(layer(seen))
        return nn.functional.layer_norm(hidden.transpose(1, 2), hidden.shape[1:2])


def before_the_logits(model, batch):
    """What the last layer and its loss are computed from."""
    return model(batch[0][:, :-1]), model.out.weight, model.out.bias


def criterion(losses, outputs, batch, reduction="mean"):
    hidden, weight, bias = outputs
    return losses.linear_cross_entropy(hidden, weight, batch[0][:, 1:], linear_bias=bias, reduction=reduction)


@torch.no_grad()
def bits(model, pieces, device) -> torch.Tensor:
    """The surprise of each character but the first, [n, T]."""
    model.eval()
    batches = [(part,) for part in pieces.to(device).split(256)]
    found = [criterion(functional, before_the_logits(model, batch), batch, "none").cpu() for batch in batches]
    return torch.cat(found) / math.log(2)


@torch.no_grad()
def write(model, letters: str, count: int, generator: torch.Generator, device) -> str:
    """`PROMPT`, and what the network goes on with."""
    model.eval()
    text = [max(letters.find(c), 0) for c in PROMPT]
    for _ in range(count):
        hidden = model(torch.tensor([text[-64:]], device=device))[0, -1]
        p = torch.softmax(model.out(hidden).cpu() / 0.7, 0)
        p[0] = 0
        text.append(int(torch.multinomial(p, 1, generator=generator)))
    return "".join(letters[i] for i in text)


def run(session) -> None:
    o = session.options
    if not 8 <= o.length <= 512:
        raise DemoError(f"Expected --length from 8 to 512, got {o.length}.")
    epochs, samples = (2, min(o.samples, 400)) if session.quick else (o.epochs, o.samples)
    letters, texts = load_text(o.length, samples)
    if len(texts) < 10:
        raise DemoError(f"Expected --samples of at least 10, got {len(texts)}.")
    index = {c: i for i, c in enumerate(letters)}
    pieces = torch.tensor([[index.get(c, 0) for c in piece] for piece in texts])
    cut = len(pieces) * 9 // 10
    session.data(f"Python's manual from the standard library: {cut} training and {len(pieces) - cut} test pieces of "
                 f"{o.length} characters, {len(letters)} different ones")  # fmt: skip

    def optimizer(parameters):
        return torch.optim.AdamW(parameters, lr=0.003, eps=1e-6)

    models = {}
    for name, losses in (("fused", functional), ("reference", reference)):
        torch.manual_seed(o.seed)
        model = models[name] = Writer(len(letters), o.width).to(session.device)
        if name == "fused":
            untrained = bits(model, pieces[cut:], session.device).mean().item()
        batches = Batches(pieces[:cut], size=32, device=session.device, generator=session.generator(1))
        adam = optimizer(model.parameters())
        fit(session, name, model, batches, criterion, adam, epochs=epochs, losses=losses, forward=before_the_logits,
            scheduler=warm_up_and_decay(adam, 20, epochs * len(batches)))  # fmt: skip
    surprise = {name: bits(model, pieces[cut:], session.device) for name, model in models.items()}
    found = {name: values.mean().item() for name, values in surprise.items()}
    written = write(models["fused"], letters, o.write, session.generator(2), session.device)
    session.metrics(before_bits=untrained, bits=found["fused"], reference_bits=found["reference"],
                    uniform_bits=math.log2(len(letters)))  # fmt: skip
    rows = [["before training", untrained], ["fused loss", found["fused"]], ["reference loss", found["reference"]]]
    session.table(["unseen text", "bits of a character"], rows)
    session.note(f"It writes: {written}")
    compare(session)
    draw(session, texts[cut:], surprise["fused"])
    batches = Batches(pieces[:cut], size=32, device=session.device)
    step_time(session, "linear_cross_entropy", models["fused"], batches, criterion, optimizer,
              forward=before_the_logits)  # fmt: skip


def compare(session) -> None:
    """State whether the two trainings agree, as they must."""
    steps = [session.results["history"][name]["steps"][:COMPARED_STEPS] for name in ("fused", "reference")]
    m = session.results["metrics"]
    gap, bits_gap = max(abs(a - b) for a, b in zip(*steps)), abs(m["bits"] - m["reference_bits"])
    session.metrics(first_steps_gap=gap, bits_gap=bits_gap)
    session.check("first steps agree to 1e-3", gap <= 1e-3)
    session.check("final bits agree to 0.02", bits_gap <= 0.02)
    session.say(f"Losses of the first {len(steps[0])} steps differ by at most {gap:.1e} (allowed 1e-3), bits of a "
                f"character by {bits_gap:.4f} (allowed 0.02)")  # fmt: skip


def draw(session, texts, surprise) -> None:
    """The curves, and how surprising each character of unseen lines is."""
    curves = plots.curves(session.results["history"], "Cross-entropy by epoch, fused and reference")
    session.picture(curves, "curves.png", "The fused and the reference loss train alike")
    shown, width = min(8, len(texts)), min(64, surprise.shape[1])
    figure, axis = plots.axes(width=11, height=0.42 * shown + 1)
    image = axis.imshow(surprise[:shown, :width], cmap="Blues", vmin=0, vmax=8, aspect="auto")
    for row in range(shown):
        for column, letter in enumerate(texts[row][1 : width + 1]):
            dark = surprise[row, column] > 5
            axis.text(column, row, letter, ha="center", va="center", family="monospace", fontsize=11,
                      color="white" if dark else plots.BLACK, parse_math=False)  # fmt: skip
    axis.set(title="Unseen text: how surprising each character is", xticks=[], yticks=[])
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="bits", shrink=0.9)
    session.picture(figure, "surprise.png", "How many bits each character of unseen text takes; dark is surprising")
