"""`loss`: makes a fused public function of a loss written in plain PyTorch.

The function as written is the specification; its signature and docstring are the public ones. What else a loss has
(checks, shapes, tensors made ready for the kernel) are small functions that take the arguments they name.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol

import torch
from torch.overrides import handle_torch_function, has_torch_function

from . import _checks
from ._autograd import fused
from ._op import NONE, Op, compiled_op
from ._options import REDUCTIONS, Choice, Option, settings_reader

P = ParamSpec("P")


class Loss(Protocol[P]):
    """A fused loss. `reference` is the function as written, after the same checks of options, dtypes and shapes; `op`
    is what autograd and the kernels know of it.

    `kinds` has the kind of each argument that may be other than a tensor. `with_last_step(run)` is the same function,
    checks and all, that ends in `run(op, tensors, settings, compiling)`.
    """

    reference: Callable[P, Any]
    op: Op
    kinds: dict[str, Option]
    with_last_step: Callable[[Callable], Callable]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


def loss(
    *, shape: Callable, check: Callable | None = None, options: dict[str, Option] | None = None,
    reductions: Choice = REDUCTIONS, operands: Callable | None = None, kernel: Callable | None = None,
    tensors: tuple[str | None, ...] | None = None, saved_shapes: Callable | None = None, unreduced: int = NONE,
    across: Callable | None = None,
) -> Callable[[Callable[P, Any]], Loss[P]]:  # fmt: skip
    """Decorates the plain-PyTorch loss of the same name as its op.

    shape, saved_shapes, tensors: as `compiled_op`.
    check(name, ...): raises where tensors do not fit; the first tensor is known to be a floating one. Like `operands`
        it takes those arguments of the loss that it names.
    options: the kind of each argument that is neither a tensor nor `reduction`.
    operands(...): the op's tensors; without it they are the arguments of the names that the op knows.
    kernel: plain PyTorch of what the op computes from `operands`, where that is not the loss itself.
    unreduced: what travels as the reduction of a loss without that argument; MEAN: it is a mean of its own.
    across(op, group): the op among the processes of `group`, an argument that the loss then has.
    """

    def decorate(function: Callable[P, Any]) -> Loss[P]:
        name, known = function.__name__, options or {}
        op = compiled_op(name, kernel or function, shape, tensors=tensors, saved_shapes=saved_shapes)
        reduced = reductions if "reduction" in inspect.signature(function).parameters else None
        parts = function, op, known, check, operands, settings_reader(op, known, reduced, unreduced), across
        public = _checked_function(fused, *parts)
        public.with_last_step = lambda run: _checked_function(run, *parts)
        public.op, public.reference = op, _checked_function(None, *parts)
        public.kinds = known if reduced is None else {**known, "reduction": reduced}
        public.reference.__qualname__ = f"{name}.reference"  # where pickle finds it
        public.reference.__doc__ = f"In plain PyTorch: {function.__doc__}"
        return public

    return decorate


def _checked_function(run, function, op, options, check, operands, read_settings, across=None) -> Any:
    """A public function: `function`'s signature with a body that checks, and ends in `run`, which runs the kernel, or
    without `run` in `function` itself.

    The body is written out and compiled, as a dataclass's __init__ is: binding arguments to a signature at every call
    would take longer than a small loss.
    """
    name, kind = function.__name__, "fused" if run else "reference of"
    filename = f"<{kind} {function.__module__}.{name}>"
    last = _kernel_step(op, operands, across) if run else _formula_step(function, options)
    source = _source(function, options, check, across, last, dispatches=run is not None)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # for tracebacks
    namespace = {
        "Tensor": torch.Tensor, "has_torch_function": has_torch_function, "run": run, "op": op, "check": check,
        "handle_torch_function": handle_torch_function, "check_first": _checks.tensor, "operands": operands,
        "read_settings": read_settings, "is_compiling": torch.compiler.is_compiling, "across": across,
        "formula": function,
    }  # fmt: skip
    namespace = {f"_fl_{key}": value for key, value in namespace.items()}  # no argument is called so
    exec(compile(source, filename, "exec"), namespace)
    public = namespace["_fl_public"] = namespace[name]
    public.__module__ = function.__module__  # no __name__ in its globals: Dynamo would look them up in that module
    public.__defaults__, public.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    public.__doc__ = function.__doc__
    return public


def _source(function, options, check, across, last: str, dispatches: bool) -> str:
    """The text of a public function that ends in `last`; its defaults are put in afterwards.

    dispatches: a tensor subclass sees the call as a whole. While compiling it sees the operations of the reference
    instead: Dynamo would dispatch for ever.
    """
    name, parameters = function.__name__, inspect.signature(function).parameters
    first = next(iter(parameters))
    keyword_only = [p for p in parameters if parameters[p].kind is inspect.Parameter.KEYWORD_ONLY]
    signature = [p if parameters[p].default is inspect.Parameter.empty else f"{p}=..." for p in parameters]
    if keyword_only:
        signature.insert(len(parameters) - len(keyword_only), "*")
    passed_on = [f"{p}={p}" if p in keyword_only else p for p in parameters]
    tensors = [p for p in parameters if p != "reduction" and (p not in options or options[p].or_tensor)]
    values = [f"None if isinstance({o}, _fl_Tensor) else {o}" if options[o].or_tensor else o for o in options]
    values = ["None" if across and o == "group" else o for o in values]
    values += ["reduction"] * ("reduction" in parameters)
    dispatch = [
        f"    if not _fl_compiling and _fl_has_torch_function(({', '.join(tensors)},)):",
        f"        return _fl_handle_torch_function(_fl_public, ({', '.join(tensors)},), {', '.join(passed_on)})",
    ]
    lines = [
        f"def {name}({', '.join(signature)}):",
        "    _fl_compiling = _fl_is_compiling()",
        *(dispatch if dispatches else []),
        f"    _fl_check_first({name!r}, {first!r}, {first})",
        f"    _fl_settings = _fl_read_settings(_fl_compiling, {first}.dtype, {first}.dim(), {', '.join(values)})",
        f"    _fl_check({_arguments(check, repr(name))})" if check else "",
        f"    return {last}",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _arguments(part: Callable, *before: str) -> str:
    """Those that `part` names, after those that stand for its first ones."""
    return ", ".join([*before, *list(inspect.signature(part).parameters)[len(before) :]])


def _kernel_step(op, operands, across) -> str:
    """The call that runs the kernel."""
    op_of_call = "_fl_op if group is None else _fl_across(_fl_op, group)" if across else "_fl_op"
    ready = f"_fl_operands({_arguments(operands)})" if operands else f"({', '.join(map(str, op.tensors))},)"
    return f"_fl_run({op_of_call}, {ready}, _fl_settings, _fl_compiling)"


def _formula_step(function, options) -> str:
    """The call of the loss as written, with its options as they were read."""

    def argument(name: str) -> str:
        option = options.get(name)
        if name != "reduction" and (option is None or option.for_operands):
            return name
        read = f"_fl_settings.keywords[{name!r}]"
        return f"{name} if isinstance({name}, _fl_Tensor) else {read}" if option and option.or_tensor else read

    return f"_fl_formula({', '.join(f'{name}={argument(name)}' for name in inspect.signature(function).parameters)})"
