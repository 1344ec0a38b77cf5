"""The rivals of a case on one input: eager, torch.compile, fused, torch's own op, and a plain copy.

Eager and torch.compile have several forms: the reference, the chains people write, torch's own op. Each is warmed up,
its loss and gradients are compared with the reference's, and the fastest is the rival. What fails or disagrees is
reported in `Field.failures`, never timed.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import fused_losses

from . import lean
from .cases import Case
from .timing import Call

EAGER, COMPILE, COMPILE_MAX, FUSED, TORCH = "eager", "compile", "compile-max", "fused", "torch"
COPY, MSE = "copy", "mse_loss"
RIVALS = (FUSED, EAGER, COMPILE, TORCH)
ONE, RANDOM = "one", "random"


@dataclass(frozen=True)
class Key:
    """What identifies a measured call inside one case and size."""

    rival: str
    dtype: str
    isa: str = ""
    incoming: str = ONE
    inference: bool = False


@dataclass
class Field:
    """All calls of one case and size, with the facts about them."""

    calls: list[Call] = field(default_factory=list)
    form: dict[tuple, str] = field(default_factory=dict)
    compile_seconds: dict[tuple, float] = field(default_factory=dict)
    failures: dict[tuple, str] = field(default_factory=dict)
    floor_bytes: dict[str, int] = field(default_factory=dict)
    tensor_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)  # of all inputs, of all gradients


def has_kernel(case: Case, device: torch.device) -> bool:
    """False while `fused` would only call the reference: such numbers are shown, never stored."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fused_losses::{case.loss}", device.type.upper())


def cpu_isa() -> str:
    """The instruction set the CPU kernels use now."""
    module = getattr(fused_losses, "_C", None)
    return module.cpu_isa() if module else "none"


def set_cpu_isa(name: str) -> str:
    module = getattr(fused_losses, "_C", None)
    return module.set_cpu_isa(name) if module else "none"


@dataclass(frozen=True)
class Form:
    """One way to write a loss. plain: it takes the tensors by position, and no option that is its default."""

    function: Callable
    plain: bool = False
    keywords: dict = field(default_factory=dict)

    def call(self, *args, **keywords):
        loss = self.function(*args, **keywords)
        return loss[0] if isinstance(loss, tuple) else loss

    def bind(self, tensors: dict) -> functools.partial:
        """The call on a case's tensors."""
        if not self.plain:
            return functools.partial(self.call, **tensors, **self.keywords)
        first, extra = list(tensors.values())[:2], dict(list(tensors.items())[2:])
        return functools.partial(self.call, *first, **extra, **self.keywords)


def forms(case: Case, rival: str) -> dict[str, Form]:
    """The forms that may serve as `rival`, by name. torch's op is a rival of its own, and one more form to compile."""
    if rival == FUSED:
        return {FUSED: Form(case.fused, keywords=case.keywords)}
    reduction = {name: value for name, value in case.keywords.items() if name == "reduction"}
    own = {} if case.torch_op is None else {TORCH: Form(case.torch_op, True, reduction)}
    if rival == TORCH:
        return own
    eager = {"reference": Form(case.reference, keywords=case.keywords)}
    chains = (*case.chains, *lean.FORMS.get(case.key, ()))
    eager |= {chain.__name__: Form(chain, True, case.keywords) for chain in chains}
    if rival == EAGER:
        return eager
    mode = "max-autotune" if rival == COMPILE_MAX else None
    torch._dynamo.reset()
    return {
        name: replace(form, function=torch.compile(form.function, fullgraph=True, dynamic=False, mode=mode))
        for name, form in (eager | own).items()
        if name not in lean.EAGER_ALONE
    }


@contextmanager
def private_compile_cache(given: Path | None = None):
    """torch.compile's caches in a fresh folder, or in the given one, while the block runs and in what it starts.

    A shared cache may hold code of another instruction set, which once computed half of the elements.
    """
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with nullcontext(given) if given else tempfile.TemporaryDirectory(prefix="fused_losses_compile_") as folder:
        os.environ |= {name: os.path.join(folder, name.lower()) for name in names}
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def make_call(case: Case, form: Form, tensors: dict, key: Key, grad_output=None, isa: str = "") -> Call:
    """isa: the instruction set to select before every call, where it changes from call to call."""
    leaves = () if key.inference else [tensors[name] for name in case.leaves]
    before = None
    if isa:
        before = functools.partial(set_cpu_isa, isa)
    elif key.rival == COMPILE_MAX:
        before = torch.compiler.cudagraph_mark_step_begin
    return Call(key, form.bind(tensors), leaves, grad_output, before)


def with_ones(call: Call) -> Call:
    """The call with an incoming gradient of ones if its result is no scalar."""
    with torch.no_grad():
        loss = call.function()
    if loss.dim():
        call.grad_output = torch.ones_like(loss)
    return call


def _answer(call: Call):
    loss = call.run()
    return [loss, *(leaf.grad for leaf in call.leaves)]


def cache_hits() -> int:
    """How often torch.compile found its result in its caches: such a compile time says nothing."""
    counters = torch._dynamo.utils.counters
    return counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]


def _agree(found, expected, dtype: torch.dtype) -> str:
    """Empty if loss and gradients equal the reference's up to the rounding of the dtype, else what differs."""
    tolerance = 1e-3 if dtype in (torch.float32, torch.float64) else 4e-2
    for name, ours, theirs in zip(["loss", *(f"gradient {i}" for i in range(9))], found, expected):
        ours, theirs = ours.double(), theirs.double()
        error = (ours - theirs).abs().max().item() if ours.numel() else 0.0
        scale = theirs.abs().max().item() if theirs.numel() else 1.0
        if not error <= tolerance * scale + 1e-7:
            return f"{name} differs from the reference by {error:.2e} of {scale:.2e}"
    return ""


def fastest(candidates: dict[str, Call], rounds: int = 7) -> str:
    """The name of the call with the lowest median, all alternating call by call."""
    if len(candidates) == 1:
        return next(iter(candidates))
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            call.run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def field_of(case, shape, dtypes, device, rivals, *, isas=(), incoming=(ONE,), inference=False, compile_until=math.inf):
    """The calls of every rival and dtype on `shape`, warmed up and checked.

    isas: instruction sets the fused rival is measured with (default: the one in use). compile_until: a
    time.monotonic() after which nothing more is compiled.
    """
    result = Field()
    isas = list(isas) or [cpu_isa() if device.type == "cpu" else ""]
    if len(isas) == 1 and isas[0] != cpu_isa() and device.type == "cpu":
        set_cpu_isa(isas[0])
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        tensors = case.inputs(shape, dtype, device)
        result.floor_bytes[name] = case.floor_bytes(tensors)
        result.tensor_bytes[name] = case.bytes_of(tensors)
        reference = forms(case, EAGER)["reference"]
        expected = _answer(with_ones(make_call(case, reference, tensors, Key(EAGER, name))))
        for rival in rivals:
            form = _warm(case, rival, tensors, expected, dtype, result, compile_until)
            for isa in isas if rival == FUSED else [""]:
                select = isa if len(isas) > 1 else ""
                if form is not None:
                    _add(result, case, form, tensors, Key(rival, name, isa), incoming, inference, select)
        result.calls.append(copy_call(result.floor_bytes[name], name, device))
    if math.prod(shape) <= 256:
        result.calls.append(mse_call(shape, device))
    for call in result.calls:
        for _ in range(3):
            call.run()
    return result


def _warm(case, rival, tensors, expected, dtype, result, compile_until=math.inf) -> Form | None:
    """The rival's fastest agreeing form, after its first calls; None if it has none. What fails is noted by name."""
    name = str(dtype).removeprefix("torch.")
    found, candidates, seconds, problems = forms(case, rival), {}, {}, []
    for label, form in found.items():
        if rival in (COMPILE, COMPILE_MAX) and time.monotonic() > compile_until:
            problems.append(f"{label} and what follows: not compiled, out of time")
            break
        call = make_call(case, form, tensors, Key(rival, name))
        start, cached = time.perf_counter(), cache_hits()
        try:
            problem = _agree(_answer(with_ones(call) if expected[0].dim() else call), expected, dtype)
        except Exception as error:  # a form that cannot run is reported; the others are still measured
            problem = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        if cache_hits() == cached:
            seconds[label] = time.perf_counter() - start
        if problem:
            problems.append(f"{label}: {problem}")
        else:
            candidates[label] = call
    if problems:
        result.failures[rival, name] = "; ".join(problems)[:300]
    if not candidates:
        return None
    chosen = fastest(candidates)
    result.form[rival, name] = chosen
    if rival in (COMPILE, COMPILE_MAX) and chosen in seconds:
        result.compile_seconds[rival, name] = seconds[chosen]
    return found[chosen]


def _add(result, case, form, tensors, key, incoming, inference, select):
    """A call for each incoming gradient, and one without gradient; `select`: this ISA before every call."""
    loss = make_call(case, form, tensors, replace(key, inference=True)).run()
    for kind in incoming:
        grad_output = None if loss.dim() == 0 else torch.ones_like(loss)
        if kind == RANDOM:
            grad_output = torch.full_like(loss, 0.8372)
        result.calls.append(make_call(case, form, tensors, replace(key, incoming=kind), grad_output, select))
    if inference:
        result.calls.append(make_call(case, form, tensors, replace(key, inference=True), None, select))


def copy_call(floor_bytes: int, dtype: str, device) -> Call:
    """The roof: a copy that reads half of the floor's bytes and writes the other half."""
    source = torch.ones(max(1, floor_bytes // 2), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Call(Key(COPY, dtype), functools.partial(target.copy_, source))


def mse_call(shape, device) -> Call:
    """torch's cheapest loss on the same number of elements: the yardstick of a call, called as a rival is."""
    input = torch.randn(shape, device=device, requires_grad=True)
    tensors = {"input": input, "target": torch.randn(shape, device=device)}
    return Call(Key(MSE, "float32"), Form(torch.nn.functional.mse_loss).bind(tensors), [input])
