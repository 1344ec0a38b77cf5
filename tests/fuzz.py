"""Random calls of every loss against its reference in float64, for a time: python tests/fuzz.py --seconds 60 --seed 1

A loss, its options, a shape, a dtype, magnitudes and layouts are drawn from the seed and the call's number, and called
in three contexts, a number each: the line printed for a difference runs that one call again. The loop is a process of
its own, so that a crash or a hang is a finding, too.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import inspect
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import emulated_device
import torch
from cases import CASES, DTYPES
from layouts import LAYOUTS
from problems import Case, Problem, Variant, as_tuple, differentiable, gradients, incoming
from product_scale import product_scale
from tolerances import accumulation_eps, assert_agrees, largest

from fused_losses import _C

EACH = 3  # contexts of a draw
HANGING = 60  # seconds that no call takes
LARGEST = 20_000  # elements of a tensor: threads and chunk borders, thousands of calls a minute
# Equal rows differ by 0, in the reference by the roundings of float64: relative to those of the dtype compared.
OWN_ERROR = {False: torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps, True: 1.0}
NEARBY = 1e-3  # of the largest element, or of 1/N: the most that roundings move an ill-conditioned result by
EXPANDED = "expanded"  # the one layout that changes values


# ------------------------------------------------------------------------------------------------ one call


@dataclass
class Call:
    """What is called, and how."""

    problem: Problem
    reduction: str | None
    kind: str  # of the incoming gradient
    context: str
    words: str  # all of it for a reader
    magnitude: float  # of the logits, relative to a temperature below 1
    at_least: float  # of results whose terms may all have cancelled
    isa: str
    want: list = field(default_factory=list)  # the exact results, once they are known: for all contexts of a draw

    @property
    def names(self) -> list[str]:
        return [n for n in self.problem.floating() if n in self.problem.case.fused]


def draw_shape(rng: random.Random, case: Case, variant: Variant) -> tuple[int, ...]:
    which = rng.random()
    if which < 0.05:
        return case.one
    if which < 0.08:
        return (0, *case.shape[1:])
    if which < 0.15:
        drawn = any(map(callable, variant.options.values()))  # of the dimensions that the case's own shape has
        sizes = [shape for shape in case.sizes if not drawn or len(shape) == len(case.shape)]
        return rng.choice([shape for shape in sizes if torch.Size(shape).numel() <= LARGEST] or [case.shape])
    more = [rng.randint(1, 9) for _ in range(rng.randint(0, case.more_dims))]
    return (*(rng.randint(*bounds) for bounds in case.dims), *more)


@functools.cache
def flags(function) -> tuple[str, ...]:
    """Its options that are True or False."""
    parameters = inspect.signature(function).parameters
    return tuple(name for name, parameter in parameters.items() if isinstance(parameter.default, bool))


def draw_options(rng: random.Random, case: Case) -> Variant:
    """A variant of the case, some of its numbers and flags drawn anew."""
    variant = rng.choice(case.all_variants)
    options = dict(variant.options)
    for name, (low, high) in case.ranges.items():
        if rng.random() < 0.4 and not callable(options.get(name)):
            options[name] = rng.choice([low, high]) if rng.random() < 0.2 else rng.uniform(low, high)
    if not any(map(callable, options.values())):  # a drawn tensor has the shape that the variant's flags ask for
        for name in flags(case.function):
            if rng.random() < 0.2:
                options[name] = rng.random() < 0.5
    return Variant(variant.name, options, variant.how)


def draw(seed: int, number: int) -> Call:
    """The call of this number: the draw it belongs to, in one of the contexts."""
    number, which = divmod(number, EACH)
    drawn, contexts = draw_all(seed, number)
    return replace(drawn, context=contexts[which], words=f"{drawn.words} {contexts[which]}")


@functools.lru_cache(maxsize=1)
def draw_all(seed: int, number: int) -> tuple[Call, list[str]]:
    rng = random.Random(f"{seed} {number}")
    case, dtype = rng.choice(CASES), rng.choice(DTYPES)
    variant = draw_options(rng, case)
    shape = draw_shape(rng, case, variant)
    if variant.options.get("dim") == 0 and shape[0] == 0:
        shape = (1, *shape[1:])
    if not variant.options.get("include_background", True) and shape[1] < 2:
        shape = (shape[0], 2, *shape[2:])
    reduction = rng.choice(case.reductions)
    scale = 1.0
    if rng.random() < 0.3 and (case.logits or case.free):
        scale = 10 ** rng.uniform(-3, 3)
        reduction = next((r for r in ("none", "sum") if r in case.reductions), reduction)  # gradients of order one
    problem = case.problem(variant, dtype, shape=shape, seed=rng.randrange(1 << 30))
    scaled = (*case.logits, *case.free)
    if scale != 1.0:
        problem = problem.map(lambda n, t: (t * scale).clamp(-1e4, 1e4) if n in scaled else t)
    layouts = {n: rng.choice(["contiguous", *LAYOUTS]) for n, v in problem.arguments.items() if torch.is_tensor(v)}
    layouts = {n: "contiguous" if how == EXPANDED and n not in case.tile else how for n, how in layouts.items()}
    problem = problem.map(lambda n, t: LAYOUTS.get(layouts[n], lambda t: t)(t))
    sharpness = min(1.0, problem.options.get("temperature", 1.0))
    magnitudes = [problem.tensors[n].double().abs() for n in case.logits if problem.tensors[n].numel()]
    contexts = rng.sample(list(CONTEXTS), EACH)
    kind = rng.choice(["one", "scalar", "tensor"])
    options = {n: v for n, v in problem.options.items() if not torch.is_tensor(v)}
    words = (
        f"{case.name} {variant.name} {options} {shape} {str(dtype)[6:]} reduction={reduction} scale={scale:.3g} "
        f"{layouts} incoming={kind}"
    )
    magnitude = max((m.max().item() for m in magnitudes), default=0.0) / sharpness
    at_least = 1.0 if case.logits and scale != 1.0 else OWN_ERROR[dtype is torch.float64]
    return Call(problem, reduction, kind, "", words, magnitude, at_least, rng.choice(_C.cpu_isas())), contexts


# ------------------------------------------------------------------------------------------------ contexts
# Each gives the outputs and the gradients by name (none where the context has none) of a call.


def eager(call: Call):
    """The leaves keep the layout that was drawn: `problem.leaves` would clone it away."""
    problem = call.problem
    mine = problem.map(lambda n, t: t.detach().requires_grad_(n in call.names))
    outputs = as_tuple(mine.call(None, call.reduction))
    parts = differentiable(outputs)
    grad_outputs = [g for out, g in zip(outputs, incoming(outputs, call.kind)) if out.requires_grad]
    found = torch.autograd.grad(parts, [mine.arguments[n] for n in call.names], grad_outputs)
    return [out.detach() for out in outputs], dict(zip(call.names, found, strict=True))


def without_gradient(call: Call):
    with torch.no_grad():
        return as_tuple(call.problem.call(None, call.reduction)), {}


def inference(call: Call):
    with torch.inference_mode():
        return as_tuple(call.problem.call(None, call.reduction)), {}


def autocast(call: Call):
    with torch.autocast("cpu", torch.bfloat16):
        return eager(call)


def instruction_set(call: Call):
    _C.set_cpu_isa(call.isa)
    try:
        return eager(call)
    finally:
        _C.set_cpu_isa("")


def non_temporal(call: Call):
    _C.set_non_temporal_above(0)
    try:
        return eager(call)
    finally:
        _C.set_non_temporal_above(-1)


def threads(call: Call):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        return eager(call)
    finally:
        torch.set_num_threads(before)


def twice(call: Call):
    """Two backwards of one graph: the second gradient, and the first must be the same still."""
    mine = call.problem.leaves(call.names)
    outputs = as_tuple(mine.call(None, call.reduction))
    given = [mine.arguments[n] for n in call.names]
    first = torch.autograd.grad(outputs, given, incoming(outputs, call.kind), retain_graph=True)
    second = torch.autograd.grad(outputs, given, incoming(outputs, call.kind))
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    return [out.detach() for out in outputs], dict(zip(call.names, second))


def kept_graph(call: Call):
    """As for a second derivative."""
    mine = call.problem.leaves(call.names)
    outputs = as_tuple(mine.call(None, call.reduction))
    found = torch.autograd.grad(
        outputs, [mine.arguments[n] for n in call.names], incoming(outputs, call.kind), create_graph=True
    )
    return [out.detach() for out in outputs], {n: g.detach() for n, g in zip(call.names, found)}


def functional(call: Call):
    def loss(*values):
        return as_tuple(call.problem.call(None, call.reduction, **dict(zip(call.names, values))))

    outputs, backward = torch.func.vjp(loss, *(call.problem.arguments[n] for n in call.names))
    return outputs, dict(zip(call.names, backward(tuple(incoming(outputs, call.kind)))))


def mapped(call: Call):
    """Two copies of the call under vmap; the first of the results."""

    def loss(*values):
        return as_tuple(call.problem.call(None, call.reduction, **dict(zip(call.names, values))))

    stacked = [torch.stack([call.problem.arguments[n]] * 2) for n in call.names]
    return [out[0] for out in torch.func.vmap(loss)(*stacked)], {}


CONTEXTS = {
    function.__name__: function
    for function in (
        eager, without_gradient, inference, autocast, instruction_set, non_temporal, threads, twice, kept_graph,
        functional, mapped,
    )
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ judgement


def within_range(want: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `dtype` holds of exact values: beyond its largest number they are infinite."""
    largest = torch.finfo(dtype).max
    return torch.where(want.abs() > largest, want.sign() * torch.inf, want)


def difference(call: Call) -> str:
    """Empty if the call is right, else what differs or what was raised."""
    try:
        outputs, found = CONTEXTS[call.context](call)
        actual = [*outputs, *found.values()]
        if not call.want:
            call.want.extend(exact(call, call.problem.double()))
        want = call.want[: len(actual)]
        try:
            compare(call, actual, want, list(found))
        except AssertionError:
            compare(call, actual, want, list(found), nearby(call, want))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return ""


def exact(call: Call, problem: Problem) -> list[torch.Tensor]:
    """Outputs and gradients of the call by the reference in float64."""
    outputs, found = gradients(problem, call.names, problem.case.reference, call.reduction, call.kind)
    return [*outputs, *found.values()]


def compare(call: Call, actual: list, want: list, names: list[str], room: list | None = None) -> None:
    """Raises where a result is off.

    What cancels is judged by its terms: those of a loss of logits, given or made, or of both signs are of order one,
    those of its gradient, summed or averaged, at least of order 1/N (N rows, where the logits are products); of the
    teacher's, q log(q/p), of the logits' differences.
    """
    problem, own, magnitude = call.problem, call.at_least, call.magnitude
    of_rows = max(1.0, float(problem.options.get("temperature", 1.0)))
    products = "products" in problem.case.groups
    if products and "mahalanobis" not in problem.case.groups:
        magnitude, of_rows = product_scale(problem)
    cancels = bool(problem.case.logits) or products
    labels = [None] * (len(want) - len(names)) + names
    for i, (a, b, name) in enumerate(zip(actual, want, labels, strict=True)):
        if name is None:
            at_least = 1.0 if cancels or "signed" in problem.case.groups else own
        else:
            of_terms = max(call.magnitude, 1.0) if name == "target" else of_rows
            items = len(a) if products and a.dim() else a.numel()
            if name == "target" and call.reduction == "none":
                items = 1  # one class may have all of q
            at_least = max(own, of_terms / max(items, 1)) if cancels else own
        assert_agrees(
            a,
            within_range(b, a.dtype),
            n_terms=problem.terms(name, call.reduction),
            label=f"gradient of {name}" if name else f"loss {i}",
            magnitude=magnitude,
            at_least=at_least,
            room=None if room is None else room[i],
        )


def nearby(call: Call, want: list) -> list[torch.Tensor]:
    """How far each result moves when every number given, options too, moves by up to eight roundings.

    Results whose large terms cancel (margin - d, a sum over rows of both signs) are ill-conditioned: no arithmetic of
    that precision gets nearer than this. More than NEARBY of the largest element is a kink or a jump, no rounding.
    Numbers move towards 0, so that probabilities stay such.
    """
    moving, generator = call.problem.floating(), torch.Generator().manual_seed(0)
    most = 8 * accumulation_eps(call.problem.tensors[call.names[0]].dtype)

    def moved(name, t):
        return t * (1 - most * torch.rand(t.shape, generator=generator, dtype=t.dtype)) if name in moving else t

    def option(name, value):
        return value * (1 - most * numbers.random()) if type(value) is float and name != "ignore_index" else value

    room, numbers = [torch.zeros_like(w) for w in want], random.Random(0)
    for _ in range(8):
        problem = call.problem.double().map(moved)
        other = exact(call, replace(problem, options={n: option(n, v) for n, v in problem.options.items()}))
        room = [torch.maximum(r, (o - w).abs().nan_to_num(0, 0, 0)) for r, o, w in zip(room, other, want)]
    return [r.clamp(max=NEARBY * max(largest(w), 1 / max(w.numel(), 1))) for r, w in zip(room, want)]


# ------------------------------------------------------------------------------------------------ the loop


def reproducer(seed: int, number: int) -> str:
    device = " --emulated" if "--emulated" in sys.argv else ""
    return f"PYTHONPATH=. python tests/fuzz.py --seed {seed} --call {number}{device}"


def loop(seed: int, first: int, end: int, until: float, note: str) -> int:
    """Calls `first` to `end` for a time; their number goes to the file `note` before each. How many differ."""
    number, different, armed = first, 0, 0.0
    with open(note, "r+b", buffering=0) as file:
        while number < end and (now := time.time()) < until:
            os.pwrite(file.fileno(), f"{number} {different}\n".encode().ljust(32), 0)
            if now > armed + 1:  # arming takes as long as a call
                faulthandler.dump_traceback_later(HANGING, exit=True)
                armed = now
            call = draw(seed, number)
            text = difference(call)
            if text:
                different += 1
                print(f"{call.words}\n  {text}\n  {reproducer(seed, number)}", flush=True)
            number += 1
        os.pwrite(file.fileno(), f"{number} {different}\n".encode().ljust(32), 0)
    return different


def watch(seed: int, seconds: float, end: int) -> int:
    """Runs the loop in a process, again from the next call where it died; prints what was found."""
    until, first, different, died = time.time() + seconds, 0, 0, 0
    with tempfile.NamedTemporaryFile() as note:
        while first < end and time.time() < until:
            Path(note.name).write_text(f"{first} 0")
            device = ["--emulated"] * ("--emulated" in sys.argv)
            command = [sys.executable, __file__, "--seed", str(seed), *device]
            command += ["--from", str(first), str(end), str(until), note.name]
            status = subprocess.run(command).returncode
            number, found = map(int, open(note.name).read().split())
            different += found
            first = number
            if status:
                died += 1
                print(f"a crash or a hang (status {status})\n  {reproducer(seed, number)}", flush=True)
                first = number + 1
    print(f"{first} calls, seed {seed}: {different} differ, {died} crashed or hung")
    return 1 if different or died else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--calls", type=int, default=1 << 62, help="at most so many")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--call", type=int, help="only this call, with the whole traceback of a difference")
    parser.add_argument("--emulated", action="store_true", help="the CUDA kernels, on the emulated device")
    parser.add_argument("--from", nargs=4, dest="start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    torch.set_num_threads(1)  # but in the context of threads
    if arguments.emulated and not emulated_device.BUILT:
        parser.error("--emulated: expected the emulated device, got none; build it with python tools/emulator.py")
    with emulated_device.emulated() if arguments.emulated else nullcontext():
        if arguments.call is not None:
            call = draw(seed, arguments.call)
            print(call.words)
            text = difference(call)
            print(text or "no difference")
            return 1 if text else 0
        if arguments.start:
            first, end, until, note = arguments.start
            loop(seed, int(first), int(end), float(until), note)
            return 0
        return watch(seed, arguments.seconds, arguments.calls)


if __name__ == "__main__":
    sys.exit(main())
