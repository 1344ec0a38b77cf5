"""A custom loss: a function of plain PyTorch, and the public function that runs it fused.

At its first call it looks its compiled op up, else compiles it, else stays plain PyTorch and says so once.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from keyword import iskeyword as keyword_of_python
from types import FunctionType

import torch

from .._autograd import fused
from .._loss import _checked_function
from .._module import LossModule
from .._op import Op, register_derivative, register_fakes
from .._options import REDUCTIONS, Number, settings_reader
from .._torch_private import constant_when_compiled, direct_call
from . import builder
from .environment import digest
from .functors import Functor

RESERVED = ("reduction", "weight", "ignore_index", "label_smoothing")
MOST_TENSORS, MOST_OPTIONS = 4, 8
_REDUCTION_NAMES = {number: name for name, number in REDUCTIONS.choices.items()}
_lock = threading.RLock()  # of everything that finds, builds and loads
_warned: list[str] = []


def _renew_lock() -> None:
    """A forked process has none of the threads that may hold it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def check_number_of_options(name: str, options: Sequence[str]) -> None:
    if len(options) > MOST_OPTIONS:
        raise ValueError(f"{name}: expected at most {MOST_OPTIONS} options, got {len(options)}")


def name_of(function: Callable, name: str | None = None) -> str:
    """Its own if no other is given; refuses what is no Python function, whose formula cannot be read."""
    if not inspect.isfunction(function):
        raise TypeError(f"{name or 'custom'}: expected a function to decorate, got {type(function).__name__}")
    return name or function.__name__


def number_of_tensors(function: Callable, name: str | None = None) -> int:
    """How many arguments it takes that are no options."""
    name_of(function, name)
    return sum(p.kind is not p.KEYWORD_ONLY for p in inspect.signature(function).parameters.values())


class Signature:
    """The arguments of a user's function: tensors by position, then options by keyword with numbers as defaults."""

    def __init__(self, name: str | None, function: Callable, tensors: int | None = None, reserved: Sequence[str] = ()):
        self.name = name = name_of(function, name)
        self.tensors, self.options = [], {}
        for p in inspect.signature(function).parameters.values():
            if p.name in (*RESERVED, *reserved):
                taken = ", ".join((*RESERVED, *reserved))
                raise ValueError(f"{name}: expected names other than {taken}, got {p.name}")
            if p.kind is p.KEYWORD_ONLY:
                self._add_option(name, p)
            elif p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty:
                raise ValueError(f"{name}: expected tensors without defaults, then options after `*`, got {p}")
            else:
                self.tensors.append(p.name)
        most = MOST_TENSORS if tensors is None else tensors
        if not (len(self.tensors) == tensors or (tensors is None and 1 <= len(self.tensors) <= most)):
            wanted = f"{tensors}" if tensors is not None else f"one to {most}"
            raise ValueError(f"{name}: expected {wanted} tensors, got {len(self.tensors)} ({', '.join(self.tensors)})")
        check_number_of_options(name, self.options)

    def _add_option(self, name: str, p: inspect.Parameter) -> None:
        if hasattr(LossModule, p.name) or p.name in ("training", "tensors", "options", "function"):
            raise ValueError(f"{name}: expected options with names that no torch.nn.Module has, got {p.name}")
        if p.default is p.empty or isinstance(p.default, bool) or not isinstance(p.default, (int, float)):
            given = "none" if p.default is p.empty else repr(p.default)
            raise TypeError(f"{name}: expected option {p.name} to have a number as its default, got {given}")
        self.options[p.name] = p.default


class CustomLoss:
    """One custom loss and the state of its compilation.

    functor: its C++ and its row of a table of losses.
    plain: the loss with its reductions in plain PyTorch, of the arguments of the public function by name.
    slots: the op's tensors, as `Op.tensors`; shape, saved_shapes: as for a built-in one.
    """

    def __init__(self, name: str, functor: Functor, plain: Callable, *, slots: Sequence[str | None],
                 options: Sequence[str], shape: Callable, saved_shapes: Callable | None = None):  # fmt: skip
        self.name, self.functor, self.shape, self.saved_shapes = name, functor, shape, saved_shapes
        self.op_name = builder.PREFIX + digest(functor.family, functor.differentiable, functor.text)
        self.ready = self.cuda_ready = False
        incoming = functor.incoming
        self.op = Op(
            name, plain, self._unprepared, self._unprepared, tensors=slots, options=options,
            differentiable=functor.differentiable_bits, saved=len(incoming) - 1, has_cuda_kernel=None,
        )  # fmt: skip

    def _unprepared(self, *_):
        raise RuntimeError(f"{self.name}: expected to be prepared before its first call")

    def prepare(self, device: torch.device) -> None:
        """Makes the op run compiled code on `device`, or plain PyTorch where it cannot be compiled."""
        with _lock:
            if not self.ready:
                self._prepare_cpu()
            if device.type == "cuda" and not self.cuda_ready:
                self._prepare_cuda()

    def _prepare_cpu(self) -> None:
        if builder.op(self.op_name) is None:
            library = builder.find(self.op_name)
            if library is None:
                try:
                    library = builder.build({self.op_name: self.functor}, say=lambda: builder.announce(self.name))
                except builder.NoCompiler as missing:
                    return self._stay_plain(f"{missing} was found and no build of it is there")
                except OSError as error:
                    return self._stay_plain(f"its folder cannot be written ({error})")
                except builder.Refused as error:
                    return self._stay_plain(str(error))
            self._load(library)
        self._use_compiled()

    def _load(self, library) -> None:
        """A library with an op that this process has already cannot be loaded: this loss then gets one of its own. One
        that is no library is built again."""
        try:
            builder.load(library)
        except (RuntimeError, OSError) as error:
            if isinstance(error, OSError):
                library.unlink(missing_ok=True)
            if builder.op(self.op_name) is None:
                builder.load(builder.build({self.op_name: self.functor}))

    def _use_compiled(self) -> None:
        forward, backward = builder.op(self.op_name), builder.op(self.op_name, "_backward")
        qualified = f"fused_losses_custom::{self.op_name}"
        if qualified not in _with_fakes:
            _with_fakes.add(qualified)
            register_fakes(qualified, self.op, self.shape, self.saved_shapes)
            register_derivative(qualified, self.op)
        self.op.forward, self.op.backward, self.op.run = forward, backward, self._saying_its_name(direct_call(forward))
        self.op.exported = builder.op(self.op_name, overload="exported")
        self.ready = True

    def _saying_its_name(self, run: Callable) -> Callable:
        """The op, whose errors of values name the loss and not its digest."""

        def named(*arguments):
            try:
                return run(*arguments)
            except (IndexError, RuntimeError) as error:
                if self.op_name not in str(error):
                    raise
                raise type(error)(str(error).replace(self.op_name, self.name)) from None

        return named

    def _stay_plain(self, reason: str) -> None:
        if not _warned:
            warnings.warn(f"fused_losses.custom: {self.name} runs as plain PyTorch, since {reason}", stacklevel=8)
        _warned.append(self.name)
        op = self.op
        op.differentiable = 0

        def forward(*arguments):
            *tensors, options, reduction, _ = arguments
            keywords = {**self.keywords(options), "reduction": _REDUCTION_NAMES[reduction]}
            return [op.call_reference(tensors, keywords)]

        op.forward = op.run = op.exported = forward
        self.ready = self.cuda_ready = True

    def keywords(self, options: Sequence[float]) -> dict:
        """Options as they travel, as the plain function takes them."""
        named = dict(zip(self.op.options, options))
        if "ignore_index" in named and named["ignore_index"] != named["ignore_index"]:
            named["ignore_index"] = None
        return named

    def _prepare_cuda(self) -> None:
        self.cuda_ready = True
        if builder.nvcc() is None:
            return
        library = builder.find(self.op_name, "cuda")
        if library is None:
            library = builder.build(
                {self.op_name: self.functor}, "cuda", lambda: builder.announce(f"{self.name} for CUDA")
            )
        builder.load(library)
        self.op.has_cuda_kernel = True


_with_fakes: set[str] = set()
_every: list[Callable] = []  # made in this process, in order


def made() -> list[Callable]:
    return list(_every)


@constant_when_compiled
def _prepare(loss: CustomLoss, kind: str) -> bool:
    """Outside what Dynamo traces: a graph has the op and nothing of its making."""
    loss.prepare(torch.device(kind))
    return True


def ensure(loss: CustomLoss, tensor: torch.Tensor) -> None:
    if not loss.ready or not (loss.cuda_ready or tensor.is_cpu):
        _prepare(loss, tensor.device.type)


def publish(
    custom: CustomLoss, function: Callable, parameters: Sequence[inspect.Parameter], kinds: dict, check: Callable,
    operands: Callable, tensors: Sequence[str],
) -> Callable:  # fmt: skip
    """The public function with its attributes: reference, Module, source, tensors, op, custom.

    parameters: of the public function, `reduction` among them; kinds: of its options; tensors: of Module's forward.
    """
    if not custom.name.isidentifier() or keyword_of_python(custom.name):
        raise ValueError(f"custom: expected a name for the loss by name=, got {custom.name!r}")
    plain = custom.op.reference
    plain.__name__, plain.__module__, plain.__doc__ = custom.name, function.__module__, function.__doc__
    plain.__signature__ = inspect.Signature(parameters)
    plain.__kwdefaults__ = {p.name: p.default for p in parameters if p.default is not p.empty}
    parts = plain, custom.op, kinds, check, operands, settings_reader(custom.op, kinds, REDUCTIONS)
    public = _checked_function(fused, *parts)
    public.with_last_step = lambda run: _checked_function(run, *parts)
    public.kinds = {**kinds, "reduction": REDUCTIONS}
    public.__defaults__ = None
    public.__qualname__ = function.__qualname__
    public.op, public.reference, public.custom = custom.op, _copy(function), custom
    public.tensors = tuple(tensors)
    public.source = custom.functor.named(custom.op_name)
    public.reference.__qualname__ = f"{public.__qualname__}.reference"  # where pickle finds it
    public.Module = _module(public, tensors)
    _every.append(public)
    return public


def _copy(function: Callable) -> Callable:
    """The same function, which can have a name of its own."""
    copy = FunctionType(function.__code__, function.__globals__, argdefs=function.__defaults__,
                        closure=function.__closure__)  # fmt: skip
    copy.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(copy, function)


def _module(public: Callable, tensors: Sequence[str]) -> type[LossModule]:
    """Its LossModule, which pickle finds as <function>.Module."""

    Module = type(LossModule)(
        f"{public.__name__}.Module", (LossModule,), {"__module__": public.__module__},
        function=public, tensors=tuple(tensors),
    )  # fmt: skip
    Module.__qualname__ = f"{public.__qualname__}.Module"
    Module.__doc__ = f"Module of :func:`{public.__name__}`."
    return Module


def keyword(name: str, default) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)


def positional(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def with_signature(function: Callable, *names: str) -> Callable:
    """`function`, called with positional arguments, as one of these names."""
    function.__signature__ = inspect.Signature([positional(n) for n in names])
    return function


def option_kinds(signature: Signature) -> dict:
    return {name: Number() for name in signature.options}
