"""Reads a loss written in PyTorch: its value, then its derivatives by PyTorch's own rules, as expressions.

The function runs once on small tensors while a dispatch mode writes down every operation and lets no value out.
Tensors without data would do, but for the seconds that PyTorch takes to get ready for them.
"""

from __future__ import annotations

import itertools
import linecache
import sys
import traceback
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .._torch_private import RecordingMode, core_decompositions, outside_modes
from .expressions import Expr, const, evaluate, fresh, lift, node, postorder, real
from .operations import OPERATIONS

SHAPES = (2, 3), (4, 5, 7)  # of the tensors that a function is traced with, once each
CONFIRMED = (5,), (4, 1), (2, 3, 6), (2, 3, 2, 3), (1, 2, 1, 3, 2), (30, 40)

_REDUCTIONS = ("sum", "mean", "amax", "amin", "max", "min", "prod", "norm", "logsumexp", "_softmax", "_log_softmax",
               "linalg_vector_norm", "any", "all", "argmax", "std", "var", "cumsum")  # fmt: skip
_INSTEAD = {
    **dict.fromkeys(_REDUCTIONS, "a loss for each element, which `reduction` then reduces"),
    "_local_scalar_dense": "torch.where for a branch on a value and torch's functions of tensors for math's",
    **dict.fromkeys(("_softmax", "_log_softmax", "logsumexp"), "a loss of an element, or of log p by custom.softmax"),
    **dict.fromkeys(("index", "index_put", "masked_select", "masked_scatter"), "torch.where for a part of a tensor"),
    **dict.fromkeys(
        "lt rand rand_like randn randn_like randint randint_like normal normal_functional uniform exponential "
        "bernoulli native_dropout".split(), "noise as one more tensor",
    ),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor"),
                    "`m != 0` for a bool tensor m, which is a number in the formula, and torch.logical_xor for `^`"),
    "_to_copy": "the tensor as it is, an integer or not: the formula is of numbers in float32 or float64",
}  # fmt: skip
_LISTED = "it with the operations that docs/custom.md lists"


class FormulaError(ValueError):
    """The function is no loss that can be fused: one sentence that says why, and where."""


class _Functions(TorchFunctionMode):
    """PyTorch's composite of the logistic loss in the terms that are rewritten and shared; no way out to NumPy."""

    def __init__(self, recorder: _Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("__array__", "__array_wrap__", "numpy", "tolist"):
            self.recorder.refuse("a NumPy or Python value made of a tensor or an option", "functions of torch")
        if getattr(func, "__name__", "") == "__set__":
            self.recorder.refuse("an attribute of a tensor that is set", "detach() for what has no gradient")
        if func is F.binary_cross_entropy_with_logits:
            return _binary_cross_entropy_with_logits(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    positive = target * F.softplus(-input)
    loss = (1 - target) * F.softplus(input) + (positive if pos_weight is None else pos_weight * positive)
    loss = loss if weight is None else loss * weight
    return loss if reduction == "none" else loss.sum()


class _Recorder(RecordingMode):
    """Writes down what runs inside as expressions, one for each storage: a view is the tensor that it views."""

    def __init__(self, name: str, function: Callable, shape: tuple[int, ...] = ()):
        super().__init__()
        self.name, self.code, self.shape = name, function.__code__, shape
        self.known: dict[int, Expr] = {}
        self.alive: list[torch.Tensor] = []  # a storage that is freed could be another's
        self.given: set[int] = set()  # storages of the arguments

    def name_tensor(self, tensor: torch.Tensor, e: Expr, in_place: bool = False) -> torch.Tensor:
        """The tensor, known as `e`; a copy where it is a view of something else, which keeps its own expression."""
        if not in_place and self.known.get(tensor.untyped_storage()._cdata, e) is not e:
            tensor = tensor.clone()
        self.known[tensor.untyped_storage()._cdata] = e
        self.alive.append(tensor)
        return tensor

    def expression(self, value):
        """The expression of a tensor; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        found = self.known.get(value.untyped_storage()._cdata)
        if found is None and value.requires_grad:
            self.refuse("a tensor that learns, from outside the function", "it as an argument")
        if found is None and value.dim() == 0:
            return lift(value.item())
        if found is None:
            self.refuse("a tensor from outside the function", "it as an argument, or a number as an option")
        return found

    def refuse(self, what: str, instead: str = _LISTED, error: Exception | None = None) -> None:
        raise FormulaError(f"{self.name}: cannot fuse {what}{self.place(error)}; write {instead}") from error

    def place(self, error: Exception | None = None) -> str:
        """ " in line 7 (`x.sum()`)", of the file of the function: where it is now, or where it raised `error`."""
        frames = traceback.walk_stack(sys._getframe()) if error is None else traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if frame.f_code.co_filename == self.code.co_filename]
        if not lines:
            return ""
        number = lines[0 if error is None else -1]  # the innermost
        line = linecache.getline(self.code.co_filename, number).strip()
        return f" in line {number}" + (f" (`{line}`)" if line else "")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__
        name = packet.rstrip("_") if packet != "_" else packet
        if name == "detach":
            return self.detach(func, *args)
        if name not in OPERATIONS:
            return self.decomposed(func, name, args, kwargs)
        in_place = packet != name or name in ("copy", "fill", "zero")
        if in_place and args[0].untyped_storage()._cdata in self.given:
            self.refuse(f"torch.{packet}, which writes into an argument,", "the operation that makes a tensor")
        if in_place and not (torch.is_grad_enabled() or self.backward) and self.expression(args[0]).op != "detach":
            self.refuse(f"torch.{packet} under no_grad, which leaves the gradient of what it writes over,",
                        "the operation that makes a tensor, of x.detach() where it has no gradient")  # fmt: skip
        given = [self.expression(a) for a in args]
        try:
            found = OPERATIONS[name](*given, **{k: self.expression(v) for k, v in kwargs.items()})
        except TypeError:
            found = None
        if found is None:
            self.refuse(f"torch.{name} of these dtypes or arguments, or reduced,", _INSTEAD.get(name, _LISTED))
        out = func(*args, **kwargs)
        results, named = out if isinstance(out, (tuple, list)) else (out,), []
        for tensor, e in zip(results, found if isinstance(found, tuple) else (found,)):
            if tensor.dim() and tuple(tensor.shape) != self.shape and tensor.numel():
                self.refuse(f"torch.{name}, which changes the shape,")
            e = e if torch.is_grad_enabled() or self.backward else node("detach", e)
            named.append(self.name_tensor(tensor, e, in_place))
        return type(out)(named) if isinstance(out, (tuple, list)) else named[0]

    backward = False  # derivatives are being recorded

    def detach(self, func, x):
        e = self.expression(x)
        return self.name_tensor(func(x), e if self.backward else node("detach", e))

    def decomposed(self, func, name: str, args, kwargs):
        """An operation that PyTorch knows how to write with others."""
        rule = None if name in _INSTEAD else core_decompositions().get(func)
        if rule is None:
            shown = f"torch.{name.strip('_')}"
            if name == "_local_scalar_dense":
                shown = "a Python value made of a tensor or an option, which is one while the function is read,"
            if self.backward:
                raise FormulaError(
                    f"{self.name}: cannot fuse a derivative that has {shown}; name the tensors whose gradients are "
                    "wanted by differentiable="
                )
            self.refuse(shown, _INSTEAD.get(name, _LISTED))
        with self:
            return rule(*args, **kwargs)


def _example(dtype: torch.dtype, shape: tuple[int, ...] = (), learns: bool = False) -> torch.Tensor:
    """A tensor to trace with; what is in it is nobody's business."""
    return torch.full(shape, 0.5, dtype=dtype, device="cpu", requires_grad=learns)


def trace(name: str, function: Callable, tensors: Sequence[str], options: dict[str, float], dtype: torch.dtype) -> Expr:
    """The value of `function` at one element; options: with their defaults. Raises FormulaError where it is no
    pointwise formula, or is another than was read."""
    with outside_modes():
        found, other = (_traced(name, function, tensors, options, dtype, shape) for shape in SHAPES)
        if found is not other:
            _refuse_shape(name)
        if dtype is torch.float64:
            with fresh(simpler=False):  # what the written one loses to rounding or overflow, this one loses, too
                recorded = _traced(name, function, tensors, options, dtype, SHAPES[0])
            _confirm(name, function, recorded, tensors, options)
    return found


class _CastsAreNone(RecordingMode):
    """Computes in float64 what a function casts to float32, as a formula is read."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ == "_to_copy" and kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


def _refuse_shape(name: str) -> None:
    raise FormulaError(
        f"{name}: cannot fuse a formula that depends on the tensors' shape; write a number of elements as an option"
    )


@torch.inference_mode(False)
def _confirm(name: str, function: Callable, value: Expr, tensors: Sequence[str], options: dict[str, float]) -> None:
    """Runs the function on other shapes and values, its options as tensors and as plain numbers, and its gradients:
    all are as it was read."""
    random = torch.Generator().manual_seed(0)
    numbers = [dict(options), {o: 1.25 * d + 0.3 for o, d in options.items()}]
    for shape in CONFIRMED:
        unit = [0.05 + 0.9 * torch.rand(shape, generator=random, dtype=torch.float64) for _ in tensors]
        any_sign = [torch.randn(shape, generator=random, dtype=torch.float64) for _ in tensors]
        for given, chosen in itertools.product((unit, any_sign), numbers):
            as_tensors = {o: torch.tensor(d, dtype=torch.float64) for o, d in chosen.items()}
            with torch.no_grad():
                read = _outcome(evaluate, value, {**dict(zip(tensors, given)), **as_tensors})
            for kind in (as_tensors, chosen):
                with torch.no_grad():
                    written = _outcome(function, *(t.clone() for t in given), **kind)
                if read is not None and written is not None:
                    _compare(name, written, torch.as_tensor(read).to(torch.float64).expand(shape))
            if read is not None:
                _confirm_gradients(name, function, value, dict(zip(tensors, given)), chosen, as_tensors)


def _confirm_gradients(name, function, value, given, chosen, as_tensors) -> None:
    """A tensor may ask for its gradient, and what autograd says of the function is what it says of what was read."""
    leaves, others = ([torch.zeros_like(t, requires_grad=True) for t in given.values()] for _ in range(2))
    with torch.no_grad():  # a transform of torch.func lets none begin to ask
        for leaf, t in zip([*leaves, *others], [*given.values()] * 2):
            leaf.copy_(t)
    with torch.enable_grad():
        written = _outcome(function, *leaves, **chosen)
        if not isinstance(written, torch.Tensor):
            return
        read = torch.as_tensor(evaluate(value, {**dict(zip(given, others)), **as_tensors})).to(torch.float64)
        read = read.expand(written.shape)
        _compare(name, written.detach(), read.detach())
        pairs = zip(given, _gradients(written, leaves), _gradients(read, others))
    for tensor, a, b in pairs:
        if a is not None:
            _compare(name, a, torch.where(a.isfinite(), b, a), f"a gradient of {tensor} of {{:g}}")


def _gradients(loss: torch.Tensor, leaves: Sequence[torch.Tensor]):
    """None for all where autograd has none."""
    if not loss.requires_grad:
        return [torch.zeros_like(t) for t in leaves]
    try:
        return torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    except RuntimeError:
        return [None] * len(leaves)


def _outcome(function: Callable, *arguments, **options):
    """What it returns; None for values, or a kind of option, that it is not for."""
    try:
        with _CastsAreNone():
            return function(*arguments, **options)
    except Exception:
        return None


def _compare(name: str, written, read: torch.Tensor, what: str = "{:g}") -> None:
    if not isinstance(written, torch.Tensor) or written.shape != read.shape:
        _refuse_shape(name)
    close = torch.isclose(written.to(read.dtype), read, rtol=1e-5, atol=1e-8, equal_nan=True)
    if not close.all():
        there, found = (float(t[~close][0]) for t in (written, read))
        raise FormulaError(
            f"{name}: cannot fuse a formula of more than its tensors' elements and its options (it gives "
            f"{what.format(there)} where what was read of it gives {found:g}); write it without shapes, NumPy, the "
            "types of options and autograd Functions"
        )


@torch.inference_mode(False)
def _traced(name, function, tensors, options, dtype, shape) -> Expr:
    recorder = _Recorder(name, function, shape)
    given = [recorder.name_tensor(_example(dtype, shape), node("tensor", t)) for t in tensors]
    recorder.given = set(recorder.known)
    chosen = {o: recorder.name_tensor(_example(torch.float64), node("option", o)) for o in options}
    try:
        with _Functions(recorder), recorder, torch.enable_grad():
            out = function(*given, **chosen)
    except FormulaError:
        raise
    except RecursionError as error:
        raise FormulaError(f"{name}: expected a formula of fewer operations, got one beyond Python's stack") from error
    except Exception as error:
        said = (str(error).strip() or "no message").splitlines()[0]
        if said.startswith("Boolean value of Tensor"):
            recorder.refuse("a branch on a tensor's values", _INSTEAD["_local_scalar_dense"], error)
        if "bool" in said.lower():
            said += "; a bool tensor m is a number in the formula: write `m != 0`"
        place, kind = recorder.place(error), type(error).__name__
        raise FormulaError(f"{name}: expected a formula of PyTorch on tensors{place}, got {kind}: {said}") from error
    if not isinstance(out, torch.Tensor):
        raise FormulaError(f"{name}: expected a tensor to be returned, got {type(out).__name__}")
    if tuple(out.shape) != shape:
        raise FormulaError(f"{name}: expected a loss for each element, got one of another shape than the tensors'")
    return real(recorder.expression(out))


def differentiate(value: Expr, wanted: Sequence[str], function: Callable) -> list[Expr]:
    """The derivatives of `value` with respect to the tensors `wanted`, by PyTorch's rules."""
    with outside_modes():
        return _differentiated(value, wanted, function)


@torch.inference_mode(False)
def _differentiated(value: Expr, wanted: Sequence[str], function: Callable) -> list[Expr]:
    recorder, given = _Recorder(function.__name__, function), {}
    for e in postorder([value]):
        if e.op in ("tensor", "option"):  # of one element: nothing is broadcast, and torch asks nothing of shapes
            given[e.args[0]] = recorder.name_tensor(_example(torch.float64, learns=e.op == "tensor"), e)
    active = [t for t in wanted if t in given]
    if not active:
        return [const(0)] * len(wanted)
    recorder.backward = True
    with recorder, torch.enable_grad():
        out = evaluate(value, given)
        if not isinstance(out, torch.Tensor) or not out.requires_grad:
            return [const(0)] * len(wanted)
        slopes = torch.autograd.grad(out, [given[t] for t in active], allow_unused=True)
        found = {t: real(recorder.expression(s)) for t, s in zip(active, slopes) if s is not None}
    return [found.get(t, const(0)) for t in wanted]
