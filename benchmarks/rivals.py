"""The rivals of a case on one input: eager, torch.compile of the reference, fused, torch's own op, and a plain copy.

A rival is warmed up and its loss and gradients are compared with the reference's before it is timed; one that fails or
disagrees is reported in `Field.failures`, never timed.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, field, replace

import torch

import fused_losses

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
    namespace = torch.ops.fused_losses
    if device.type == "cuda" and not fused_losses._ops.HAS_CUDA_KERNELS:
        return False
    return hasattr(namespace, case.loss)


def cpu_isa() -> str:
    """The instruction set the CPU kernels use now."""
    module = getattr(fused_losses, "_C", None)
    return module.cpu_isa() if module else "none"


def set_cpu_isa(name: str) -> str:
    module = getattr(fused_losses, "_C", None)
    return module.set_cpu_isa(name) if module else "none"


def form(case: Case, rival: str):
    """The functions that may serve as `rival`, by name: the eager rival has two candidates."""
    if rival == FUSED:
        return {"fused": case.fused}
    if rival == TORCH:
        return {} if case.torch_op is None else {"torch": case.torch_op}
    if rival == EAGER:
        found = {"reference": case.reference}
        if case.chain is not None:
            found["chain"] = case.chain
        return found
    mode = "max-autotune" if rival == COMPILE_MAX else None
    torch._dynamo.reset()
    return {"reference": torch.compile(case.reference, fullgraph=True, dynamic=False, mode=mode)}


def bind(case: Case, function, tensors: dict) -> functools.partial:
    """The call of `function` on the case's tensors; chains and torch's ops know no option that is their default."""
    keywords = case.keywords
    if function is case.torch_op:
        keywords = {name: value for name, value in keywords.items() if name == "reduction"}
    if function is case.torch_op or function is case.chain:
        extra = dict(list(tensors.items())[2:])
        return functools.partial(_first_of, function, *list(tensors.values())[:2], **extra, **keywords)
    return functools.partial(_first_of, function, **tensors, **keywords)


def _first_of(function, *args, **keywords):
    loss = function(*args, **keywords)
    return loss[0] if isinstance(loss, tuple) else loss


def make_call(case: Case, rival: str, function, tensors: dict, key: Key, grad_output=None, isa: str = "") -> Call:
    """isa: the instruction set to select before every call, where it changes from call to call."""
    leaves = () if key.inference else [tensors[name] for name in case.leaves]
    before = None
    if isa:
        before = functools.partial(set_cpu_isa, isa)
    elif rival == COMPILE_MAX:
        before = torch.compiler.cudagraph_mark_step_begin
    return Call(key, bind(case, function, tensors), leaves, grad_output, before)


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


def _quickest(candidates: dict[str, Call]) -> str:
    if len(candidates) == 1:
        return next(iter(candidates))
    seconds = {}
    for name, call in candidates.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call.run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds[name] = sorted(times)[2]
    return min(seconds, key=seconds.get)


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
        expected = _answer(with_ones(make_call(case, EAGER, case.reference, tensors, Key(EAGER, name))))
        for rival in rivals:
            if rival in (COMPILE, COMPILE_MAX) and time.monotonic() > compile_until:
                result.failures[rival, name] = "not compiled: out of time"
                continue
            try:
                function = _warm(case, rival, tensors, expected, dtype, result)
            except Exception as error:  # a rival that cannot run is reported; the others are still measured
                first_line = next(iter(str(error).strip().splitlines()), "")
                result.failures[rival, name] = f"{type(error).__name__}: {first_line}"[:300]
                continue
            if function is None:
                continue
            for isa in isas if rival == FUSED else [""]:
                select = isa if len(isas) > 1 else ""
                _add(result, case, rival, function, tensors, Key(rival, name, isa), incoming, inference, select)
        result.calls.append(copy_call(result.floor_bytes[name], name, device))
    if math.prod(shape) <= 256:
        result.calls.append(mse_call(shape, device))
    for call in result.calls:
        for _ in range(3):
            call.run()
    return result


def _warm(case, rival, tensors, expected, dtype, result):
    """The rival's quickest agreeing function, after its first calls; None if it has none."""
    name = str(dtype).removeprefix("torch.")
    candidates, problems = {}, []
    functions = form(case, rival)
    for label, function in functions.items():
        call = make_call(case, rival, function, tensors, Key(rival, name))
        start, cached = time.perf_counter(), cache_hits()
        try:
            problem = _agree(_answer(with_ones(call) if expected[0].dim() else call), expected, dtype)
        except RuntimeError as error:
            if len(functions) == 1:
                raise
            problem = str(error).splitlines()[0]
        if rival in (COMPILE, COMPILE_MAX) and cache_hits() == cached:
            result.compile_seconds[rival, name] = time.perf_counter() - start
        if problem:
            problems.append(f"{label}: {problem}")
        else:
            candidates[label] = call
    if problems:
        result.failures[rival, name] = "; ".join(problems)[:300]
    if not candidates:
        return None
    chosen = _quickest(candidates)
    result.form[rival, name] = chosen
    return functions[chosen]


def _add(result, case, rival, function, tensors, key, incoming, inference, select):
    """A call for each incoming gradient, and one without gradient; `select`: this ISA before every call."""
    loss = make_call(case, rival, function, tensors, replace(key, inference=True)).run()
    for kind in incoming:
        grad_output = None if loss.dim() == 0 else torch.ones_like(loss)
        if kind == RANDOM:
            grad_output = torch.full_like(loss, 0.8372)
        own = replace(key, incoming=kind)
        result.calls.append(make_call(case, rival, function, tensors, own, grad_output, select))
    if inference:
        own = replace(key, inference=True)
        result.calls.append(make_call(case, rival, function, tensors, own, None, select))


def copy_call(floor_bytes: int, dtype: str, device) -> Call:
    """The roof: a copy that reads half of the floor's bytes and writes the other half."""
    source = torch.ones(max(1, floor_bytes // 2), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Call(Key(COPY, dtype), functools.partial(target.copy_, source))


def mse_call(shape, device) -> Call:
    """torch's cheapest loss on the same number of elements: the yardstick of the cost of a call."""
    input = torch.randn(shape, device=device, requires_grad=True)
    target = torch.randn(shape, device=device)
    return Call(Key(MSE, "float32"), functools.partial(torch.nn.functional.mse_loss, input, target), [input])
