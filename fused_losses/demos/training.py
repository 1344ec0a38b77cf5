"""The training loop of all demos, and the comparison of its step time with the reference loss."""

from __future__ import annotations

import contextlib
import copy
import sys
import time
from statistics import median

import torch
from tqdm import tqdm

from .. import functional, reference
from .errors import DemoError


class Batches:
    """Minibatches of tensors of one length, as tuples on `device`; shuffled anew every epoch if given a generator."""

    def __init__(self, *tensors: torch.Tensor, size: int, device, generator: torch.Generator | None = None):
        self.tensors = [tensor.to(device) for tensor in tensors]
        self.size, self.generator, self.device = size, generator, device

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.size)

    def __iter__(self):
        count = len(self.tensors[0])
        if self.generator is None:
            for start in range(0, count, self.size):
                yield tuple(tensor[start : start + self.size] for tensor in self.tensors)
            return
        for rows in torch.randperm(count, generator=self.generator).to(self.device).split(self.size):
            yield tuple(tensor[rows] for tensor in self.tensors)


def progress(name: str, total: int) -> tqdm:
    """The progress bar of all demos, on stderr."""
    interval = 0.2 if sys.stderr.isatty() else 2.0
    return tqdm(
        total=total, desc=f"{name:<20.20}", unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=interval
    )


def finite(values: torch.Tensor, what: str) -> torch.Tensor:
    """`values`, or one sentence where the options made them overflow."""
    if not torch.isfinite(values).all():
        raise DemoError(f"The training diverged ({what} is not finite): choose smaller values for the options.")
    return values


def first_input(model, batch):
    """The usual forward: the model of the batch's first tensor."""
    return model(batch[0])


def fit(session, name, model, batches, criterion, optimizer, *, epochs, losses=functional, forward=first_input,
        validation=None, scheduler=None, on_epoch=None) -> dict:  # fmt: skip
    """Train and return the history, which is kept in the session's results under `name`.

    A step is outputs = forward(model, batch); loss = criterion(losses, outputs, batch), where `losses` is
    `fused_losses.functional` or `fused_losses.reference`; a criterion may also return (loss, {part: scalar}).
    The history: train and validation (mean loss per epoch), steps (loss of every step), and the mean of each part.
    `scheduler` is stepped every batch; `on_epoch(model, epoch)` is called after every epoch.
    """
    history = session.results["history"][name] = {"train": [], "validation": [], "steps": []}
    session.models[name] = model
    with progress(name, epochs * len(batches)) as bar:
        for epoch in range(epochs):
            model.train()
            steps, parts = [], {}
            for batch in batches:
                loss, extra = _parted(criterion(losses, forward(model, batch), batch))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                steps.append(loss.detach())
                for part, value in extra.items():
                    parts.setdefault(part, []).append(value.detach())
                bar.update()
            steps = finite(torch.stack(steps).double().cpu(), f"a loss of epoch {epoch + 1} of {name!r}")
            history["steps"] += steps.tolist()
            history["train"].append(steps.mean().item())
            for part, values in parts.items():
                history.setdefault(part, []).append(torch.stack(values).float().mean().item())
            shown = f"epoch {epoch + 1}/{epochs} loss {history['train'][-1]:.4g}"
            if validation is not None:
                history["validation"].append(evaluate(model, validation, criterion, losses, forward))
                shown += f" validation {history['validation'][-1]:.4g}"
            bar.set_postfix_str(shown, refresh=False)
            if on_epoch is not None:
                on_epoch(model, epoch)
    return history


def warm_up_and_decay(optimizer, warm_up: int, total: int):
    """A schedule by the step: linear up during `warm_up` steps, linear down to 0 at `total`."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(warm_up, 1), (total - step) / total)
    )


@torch.no_grad()
def evaluate(model, batches, criterion, losses=functional, forward=first_input) -> float:
    """The mean loss over all samples, in evaluation mode."""
    model.eval()
    total = count = 0.0
    for batch in batches:
        loss, _ = _parted(criterion(losses, forward(model, batch), batch))
        total, count = total + loss * len(batch[0]), count + len(batch[0])
    return float(total / count)


@torch.no_grad()
def predict(model, inputs: torch.Tensor, device, size: int = 1024) -> torch.Tensor:
    """The model's outputs for all inputs, in evaluation mode, on the CPU."""
    model.eval()
    outputs = torch.cat([model(part.to(device)).cpu() for part in inputs.split(size)])
    return finite(outputs, "an output of the network")


def step_time(session, name, model, batches, criterion, optimizer, *, forward=first_input, steps=None) -> None:
    """Time whole training steps, and the loss alone, with the fused and with the reference loss on equal copies.

    `optimizer` makes one from parameters. The two take turns, so that a busy machine slows both; medians in
    milliseconds go to results["step_time"][name] and to the screen.
    """
    steps = steps or (8 if session.quick else 30)
    with torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else []):
        sides = {}
        for side, losses in (("fused", functional), ("reference", reference)):
            twin = copy.deepcopy(model).train()
            sides[side] = losses, twin, optimizer(twin.parameters()), [], []
        batch = next(iter(batches))
        for number in range(steps + 3):
            turns = list(sides.values())[:: 1 if number % 2 else -1]  # who is first changes, too
            for losses, twin, optimiser, whole, alone in turns:
                with clock(session.device, whole if number >= 3 else []):
                    loss, _ = _parted(criterion(losses, forward(twin, batch), batch))
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                with torch.no_grad():
                    outputs = forward(twin, batch)
                single = isinstance(outputs, torch.Tensor)
                leaves = [output.detach().requires_grad_() for output in ((outputs,) if single else outputs)]
                with clock(session.device, alone if number >= 3 else []):
                    _parted(criterion(losses, leaves[0] if single else tuple(leaves), batch))[0].backward()
    times = {
        f"{part}{side}_ms": round(1e3 * median(sides[side][index]), 4)
        for side in sides for part, index in (("", 3), ("loss_", 4))
    }  # fmt: skip
    session.results["step_time"][name] = times
    session.say(
        f"Step with {name}: {times['fused_ms']:.2f} ms fused, {times['reference_ms']:.2f} ms reference "
        f"(the loss alone {times['loss_fused_ms']:.3f} and {times['loss_reference_ms']:.3f} ms)"
    )


@contextlib.contextmanager
def clock(device, times: list):
    """Adds the seconds inside to `times`: with CUDA until the device is done, else of the one thread that computes, so
    that other programs do not count."""
    wait, now = (torch.cuda.synchronize, time.perf_counter) if device.type == "cuda" else (id, time.process_time)
    wait(device)
    start = now()
    yield
    wait(device)
    times.append(now() - start)


def _parted(value):
    return value if isinstance(value, tuple) else (value, {})
