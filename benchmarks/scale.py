"""Losses with a matrix product in them against the forms people write: `python -m benchmarks.scale`.

Time with all forms call by call in one process; memory in a fresh process for each form and size, above its inputs, and
where a form ends that may take 1 GiB. Writes results/scale/<machine>.csv; `scale_report` makes tables and plots of it.
With `--device cuda` everything is in bfloat16, of the largest size a product of which is worth a GPU, and the memory is
the allocator's mark; beside `clip_loss` stand the four products of its size that no form does without.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F_torch

from fused_losses import functional as F

from . import chains, lean
from .memory import REPOSITORY, resident, resident_growth
from .rows import RESULTS, machine_name

LIMIT = 1 << 30  # bytes that a form may take beyond its inputs
SMALL = 512  # below this many rows the memory is no matter
FUSED, EAGER, CHUNKED, PRODUCTS = "fused", "eager", "torch, chunked", "four products"
OUT_OF_MEMORY = "out of memory"
FIELDS = ["machine", "torch", "loss", "n", "shape", "form", "seconds", "memory_bytes", "gradient_bytes", "outcome"]


@dataclass(frozen=True)
class Work:
    """One loss over sizes n, of which `bar` is the one that targets are for, with the forms people have.

    make(n) -> tensors by name, those in `leaves` with a gradient.
    """

    loss: str
    make: Callable
    leaves: tuple[str, ...]
    forms: dict[str, Callable]
    sizes: tuple[int, ...]
    bar: int
    shape: str
    on_cuda: tuple[int, ...] = ()


def towers(features: int, **numbers: float) -> Callable:
    def make(n):
        x = F_torch.normalize(torch.randn(n, features), dim=1)
        y = F_torch.normalize(x + 0.5 * torch.randn(n, features), dim=1)
        return {"x": x, "y": y} | {name: torch.tensor(value) for name, value in numbers.items()}

    return make


def labelled(n):
    return {"features": torch.randn(n, 128), "labels": torch.randint(0, max(n // 8, 2), (n,))}


def views(n):
    return {"z1": torch.randn(n // 2, 128), "z2": torch.randn(n // 2, 128)}


def layer(n):
    return {
        "input": torch.randn(n, 512), "linear_weight": torch.randn(32_768, 512) / 20,
        "target": torch.randint(0, 32_768, (n,)),
    }  # fmt: skip


def chunked_linear_cross_entropy(input, linear_weight, target):
    options = torch.nn.LinearCrossEntropyOptions()
    return F_torch.linear_cross_entropy(input, linear_weight, target, options=options)


CHUNKED_FORMS = {CHUNKED: chunked_linear_cross_entropy} if hasattr(torch.nn, "LinearCrossEntropyOptions") else {}
WORKS = [
    Work(
        "clip_loss", towers(512, logit_scale=20.0), ("x", "y", "logit_scale"),
        {FUSED: F.clip_loss, EAGER: chains.clip}, (8, 256, 1024, 2048, 4096, 8192), 4096, "N x 512",
        (4096, 32_768),
    ),
    Work(
        "linear_cross_entropy", layer, ("input", "linear_weight"),
        {FUSED: F.linear_cross_entropy, EAGER: chains.linear_cross_entropy, **CHUNKED_FORMS},
        (8, 256, 512, 1024, 2048, 4096), 2048, "N x 512 x 32768",
        (8192,),
    ),
    Work(
        "siglip_loss", towers(512, logit_scale=10.0, logit_bias=-10.0), ("x", "y", "logit_scale", "logit_bias"),
        {FUSED: F.siglip_loss, EAGER: chains.siglip}, (8, 256, 4096), 4096, "N x 512", (32_768,),
    ),
    Work(
        "sup_con_loss", labelled, ("features",), {FUSED: F.sup_con_loss, EAGER: lean.sup_con_by_sums},
        (8, 256, 4096), 4096, "N x 128", (16_384,),
    ),
    Work(
        "nt_xent_loss", views, ("z1", "z2"), {FUSED: F.nt_xent_loss, EAGER: lean.nt_xent_in_place},
        (8, 256, 4096), 4096, "N x 128", (16_384,),
    ),
    Work(
        "triplet_batch_hard_loss", labelled, ("features",),
        {FUSED: F.triplet_batch_hard_loss, EAGER: chains.batch_hard}, (8, 256, 4096), 4096, "N x 128", (16_384,),
    ),
]  # fmt: skip


def products(x, y, logit_scale) -> Callable[[], None]:
    """As many operations as the losses of two towers take: logits twice, and both gradients."""
    logits = x[:2048] @ y.T
    blocks = x.split(2048) * 4
    return lambda: [torch.mm(block, y.T, out=logits[: len(block)]) for block in blocks] and None


def call_of(work: Work, form: str, n: int, device: str = "cpu") -> Callable[[], None]:
    """Forward and backward of one form, whose gradients are dropped; on CUDA in bfloat16."""
    torch.manual_seed(0)
    tensors = work.make(n)
    if device == "cuda":
        tensors = {k: t.to(device, torch.bfloat16 if t.is_floating_point() else None) for k, t in tensors.items()}
    if form == PRODUCTS:
        return products(**tensors)
    leaves = [tensors[name].requires_grad_() for name in work.leaves]
    loss = work.forms[form]
    return lambda: torch.autograd.grad(loss(**tensors), leaves) and None


def gradient_bytes(work: Work, n: int) -> int:
    tensors = work.make(n)
    return sum(tensors[name].nbytes for name in work.leaves)


def measure_memory(work: Work, form: str, n: int) -> dict:
    """The growth of this process by its first call of that size, which may take LIMIT."""
    call_of(work, form, 64)()  # libraries and threads
    run = call_of(work, form, n)
    room = resident("VmSize") + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        return {"memory_bytes": resident_growth(run), "outcome": ""}
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        return {"outcome": OUT_OF_MEMORY}


def measure_time(work: Work, forms: list[str], n: int, seconds: float) -> dict[str, float]:
    """Seconds of each form: the median of calls in turn, two at least, for about so long."""
    runs = {form: call_of(work, form, n) for form in forms}
    taken = {form: [] for form in forms}
    for run in runs.values():
        run()
    # Each for so long, so that a slow form does not leave the others two calls.
    while turn := [form for form in runs if len(taken[form]) < 2 or sum(taken[form]) < seconds]:
        for form in turn:
            begin = time.perf_counter()
            runs[form]()
            taken[form].append(time.perf_counter() - begin)
    return {form: statistics.median(all_of) for form, all_of in taken.items()}


def serve(request: dict):
    torch.set_num_threads(request.pop("threads"))
    what, loss = request.pop("what"), request.pop("loss")
    work = next(w for w in WORKS if w.loss == loss)
    return {"memory": measure_memory, "time": measure_time}[what](work, **request)


def in_a_fresh_process(**request):
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--serve", json.dumps(request)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if child.returncode:
        raise RuntimeError(child.stderr.strip().splitlines()[-1] if child.stderr.strip() else "no message")
    return json.loads(child.stdout.strip().splitlines()[-1])


def rows_of(work: Work, n: int, lost: set[str], threads: int, seconds: float) -> list[dict]:
    """A row for each form at one size; a form that ran out of memory joins `lost` and is tried no more."""
    common = dict(machine=machine_name(torch.device("cpu")), torch=torch.__version__, loss=work.loss, n=n,
                  shape=work.shape, gradient_bytes=gradient_bytes(work, n))  # fmt: skip
    rows = {}
    for form in [f for f in work.forms if f not in lost]:
        rows[form] = common | {"form": form}
        if n >= SMALL:
            rows[form] |= in_a_fresh_process(what="memory", loss=work.loss, form=form, n=n, threads=threads)
    lost |= {form for form, row in rows.items() if row.get("outcome")}
    alive = [form for form in rows if form not in lost]
    times = in_a_fresh_process(what="time", loss=work.loss, forms=alive, n=n, threads=threads, seconds=seconds)
    for form, taken in times.items():
        rows[form]["seconds"] = taken
    return list(rows.values())


def cuda_rows(seconds: float) -> Iterator[dict]:
    """A row for each form, all on the GPU of this process: time between two events, the allocator's peak."""
    for work in WORKS:
        for n in work.on_cuda:
            for form in (*work.forms, *([PRODUCTS] if work.loss == "clip_loss" else [])):
                row = dict(machine=machine_name(torch.device("cuda")), torch=torch.__version__, loss=work.loss, n=n,
                           shape=work.shape, form=form, gradient_bytes=gradient_bytes(work, n) // 2)  # fmt: skip
                try:
                    run = call_of(work, form, n, "cuda")
                    run()
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                    run()
                    row["memory_bytes"] = torch.cuda.max_memory_allocated() - before
                    row["seconds"] = device_seconds(run, seconds)
                except torch.cuda.OutOfMemoryError:
                    row["outcome"] = OUT_OF_MEMORY
                run = None
                torch.cuda.empty_cache()
                yield row


def device_seconds(run: Callable[[], None], seconds: float) -> float:
    """The median of five calls at least, for about so long."""
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < end:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        taken.append(first.elapsed_time(last) * 1e-3)
    return statistics.median(taken)


def plan(losses: list[str] | None) -> list[tuple[Work, int]]:
    """What to measure, the sizes of the bars first: time may run out."""
    chosen = [work for work in WORKS if losses is None or work.loss in losses]
    sizes = [(work, n) for work in chosen for n in work.sizes]
    return sorted(sizes, key=lambda one: (one[1] != one[0].bar, one[1] >= SMALL))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=lambda text: text.split(","), help="comma-separated (default: all)")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="of calls for each form and size")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="start nothing new after this time")
    parser.add_argument("--output", type=Path, help="CSV file (default: results/scale/<machine>.csv)")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        print(json.dumps(serve(arguments.serve)))
        return
    end = time.monotonic() + arguments.max_seconds
    path = arguments.output or RESULTS / "scale" / f"{machine_name(torch.device(arguments.device))}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for row in cuda_rows(arguments.seconds) if arguments.device == "cuda" else ():
            writer.writerow(row)
            print(*(row.get(field, "") for field in FIELDS[2:]))
            file.flush()
        if arguments.device == "cuda":
            return
        lost = {work.loss: set() for work in WORKS}
        for work, n in plan(arguments.losses):
            if time.monotonic() > end:
                print(f"{work.loss}, N = {n}: left out, time is up")
                continue
            for row in rows_of(work, n, lost[work.loss], arguments.threads, arguments.seconds):
                writer.writerow(row)
                print(*(row.get(field, "") for field in FIELDS[2:]))
            file.flush()


if __name__ == "__main__":
    main()
