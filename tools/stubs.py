"""The type stubs of the public names: what a type checker and an editor know of each function and Module.

Types follow from the kinds of a loss's options (`Option.annotation`); whatever has no kind is a tensor.
"""

from __future__ import annotations

import inspect

EMPTY = inspect.Parameter.empty


def annotation(function, parameter: inspect.Parameter) -> str:
    """The type of an argument of a loss."""
    kind = function.kinds.get(parameter.name)
    if kind is None:
        return "Tensor | None" if parameter.default is None else "Tensor"
    return f"Tensor | {kind.annotation}" if kind.or_tensor else kind.annotation


def result(function) -> str:
    return "Tensor" if function.op.losses == 1 else f"tuple[{', '.join(['Tensor'] * function.op.losses)}]"


def parameters(function, chosen) -> str:
    """`chosen` parameters of the loss as they stand in a signature."""
    written, keyword_only = [], False
    for p in chosen:
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            written.append("*")
            keyword_only = True
        default = "" if p.default is EMPTY else f" = {p.default!r}"
        written.append(f"{p.name}: {annotation(function, p)}{default}")
    return ", ".join(written)


def of_function(function) -> str:
    signature = parameters(function, inspect.signature(function).parameters.values())
    return f"def {function.__name__}({signature}) -> {result(function)}: ...\n"


def of_module(cls) -> str:
    """Options as arguments of the constructor and as attributes, tensors as arguments of the call."""
    function, options = cls.function, list(cls.options.parameters.values())
    own = inspect.signature(function).parameters
    tensors = [own[name].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in cls.tensors]
    lines = [f"class {cls.__name__}(LossModule):"]
    lines += [f"    {p.name}: {annotation(function, p)}" for p in options]
    lines += [f"    def __init__({', '.join(filter(None, ['self', parameters(function, options)]))}) -> None: ..."]
    call = f"(self, {parameters(function, tensors)}) -> {result(function)}: ..."
    return "\n".join([*lines, f"    def forward{call}", f"    def __call__{call}"]) + "\n"


# ------------------------------------------------------------------------------------------------ compat


def adapter_annotation(parameter: inspect.Parameter, tensor: bool) -> str:
    """The type of an adapter's argument, by its default; libraries take None for many options."""
    if tensor:
        return "Tensor"
    kinds = {bool: "bool | None", int: "float | None", float: "float | None", str: "str | None"}
    return kinds.get(type(parameter.default), "Any")


def adapter_parameters(function) -> str:
    """All parameters; the first two of a call, where they have to be given, are tensors."""
    written, stars = [], {inspect.Parameter.VAR_KEYWORD: "**"}
    for i, p in enumerate(p for p in inspect.signature(function).parameters.values() if p.name != "self"):
        default = "" if p.default is EMPTY else f" = {p.default!r}"
        tensor = i < 2 and p.default is EMPTY and function.__name__ != "__init__"
        written.append(f"{stars.get(p.kind, '')}{p.name}: {adapter_annotation(p, tensor)}{default}")
    return ", ".join(written)


def adapter_result(function) -> str:
    return "Any" if "output_dict" in inspect.signature(function).parameters else "Tensor"


def of_adapter(adapter) -> str:
    """A class or function of `fused_losses.compat`."""
    if inspect.isfunction(adapter):
        return f"def {adapter.__name__}({adapter_parameters(adapter)}) -> {adapter_result(adapter)}: ...\n"
    init = f"(self, {adapter_parameters(adapter.__init__)}) -> None: ..."
    call = f"(self, {adapter_parameters(adapter.forward)}) -> {adapter_result(adapter.forward)}: ..."
    lines = [f"class {adapter.__name__}(Adapter):", f"    def __init__{init}"]
    return "\n".join([*lines, f"    def forward{call}", f"    def __call__{call}"]) + "\n"
