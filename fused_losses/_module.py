"""`LossModule`: an nn.Module made from a loss function's own signature."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn


class LossModule(nn.Module):
    """Options in the constructor, tensors in `forward`, one loss function behind.

    A subclass names its function: `class MSELoss(LossModule, function=mse_loss): ...`. Arguments of the function
    listed in `tensors` are those of `forward`; all others are options of the constructor with the function's
    defaults, unless `defaults` overrides them. An option is a buffer while it holds a tensor, a parameter while it
    holds a Parameter. A subclass of a loss names nothing and inherits all.
    """

    function: ClassVar[Callable[..., Any]]
    tensors: ClassVar[tuple[str, ...]]
    options: ClassVar[inspect.Signature]

    def __init_subclass__(
        cls,
        *,
        function: Callable[..., Any] | None = None,
        tensors: tuple[str, ...] = ("input", "target"),
        **defaults: Any,
    ) -> None:
        super().__init_subclass__()
        if function is None:
            return
        parameters = inspect.signature(function).parameters
        cls.function, cls.tensors = staticmethod(function), tuple(tensors)
        cls.options = inspect.Signature(
            [p.replace(default=defaults.get(p.name, p.default)) for p in parameters.values() if p.name not in tensors]
        )
        # The names that help() shows, and torch.export asks for in dynamic_shapes.
        named = inspect.Parameter.POSITIONAL_OR_KEYWORD
        cls.__init__ = _showing(cls.__init__, cls.options.parameters.values())
        cls.forward = _with_names(
            cls.forward, f"{cls.__name__}.forward", [parameters[name].replace(kind=named) for name in tensors]
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            bound = type(self).options.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        parametrized = isinstance(getattr(type(self), name, None), property)  # by torch.nn.utils.parametrize
        if name not in self.options.parameters or parametrized:
            return super().__setattr__(name, value)
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            was = name not in self._buffers or name not in self._non_persistent_buffers_set
            return self.register_buffer(name, value, getattr(value, "persistent", was))  # nn.Buffer says whether
        self._forget(name)
        if type(value).__module__ == "numpy" and type(value).__name__ != "ndarray" and hasattr(value, "item"):
            value = value.item()  # a NumPy scalar, which Dynamo takes for an array
        return super().__setattr__(name, value)

    def register_buffer(self, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        self._forget(name)
        super().register_buffer(name, tensor, persistent)

    def _forget(self, name: str) -> None:
        """An option may become of another kind."""
        for held in (self.__dict__, self._buffers, self._parameters) if name in self.options.parameters else ():
            held.pop(name, None)

    def forward(self, *tensors: Any, **named: Any) -> Any:
        """The loss of the tensors, in the order of `self.tensors` or by name; the last may be optional."""
        return type(self).function(**self.arguments(*tensors, **named))

    def arguments(self, *tensors: Any, **named: Any) -> dict[str, Any]:
        """Those of the function, by name, in a call with these tensors, which fit the signature of `forward`."""
        given = dict(zip(self.tensors, tensors))
        options = {name: getattr(self, name) for name in self.options.parameters}
        return {**given, **named, **options}

    def __copy__(self) -> LossModule:
        twin = type(self).__new__(type(self))
        twin.__setstate__(super().__reduce_ex__(4)[2])
        return twin

    @property
    def __deepcopy__(self) -> Callable[[dict[int, Any]], LossModule]:
        """Of a Module that has a ProcessGroup; a compiled one hands this on, and the copy would not be compiled."""
        if not _process_groups(self):
            raise AttributeError("__deepcopy__")
        return self._sharing_groups

    def _sharing_groups(self, memo: dict[int, Any]) -> LossModule:
        """A deep copy; a ProcessGroup is shared: there is one of it in a process."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        memo.update((id(group), group) for group in _process_groups(self))
        twin.__setstate__(copy.deepcopy(super().__reduce_ex__(4)[2], memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _process_groups(self):
            raise TypeError(
                f"{type(self).__name__}: expected a group that can be pickled, a DeviceMesh or None, got a ProcessGroup"
            )
        return super().__reduce_ex__(protocol)

    def extra_repr(self) -> str:
        shown = []
        for name, parameter in self.options.parameters.items():
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                shown.append(f"{name}=tensor{tuple(value.shape)}")
            elif getattr(value, "shape", ()) or value != parameter.default:  # an array is refused by the call
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


def _process_groups(module: nn.Module) -> list:
    """Those among its attributes."""
    kind = getattr(torch.distributed, "ProcessGroup", ())  # torch may be built without processes
    return [value for value in vars(module).values() if isinstance(value, kind)]


def _showing(method: Callable, parameters) -> Callable:
    """A method that does the same and shows `parameters` after self."""

    def shown(self, *args, **kwargs):
        return method(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    shown.__signature__ = inspect.Signature([own, *parameters])
    shown.__name__, shown.__doc__ = method.__name__, method.__doc__
    return shown


def _with_names(method: Callable, qualified_name: str, parameters) -> Callable:
    """A method that takes `parameters`, and no others, and hands them on by position: torch.fx reads its code."""
    names = [p.name for p in parameters]
    taken = [name if p.default is p.empty else f"{name}=..." for name, p in zip(names, parameters)]
    source = f"def named(self, {', '.join(taken)}):\n    return _fl_method(self, {', '.join(names)})\n"
    namespace = {"_fl_method": method}
    exec(source, namespace)
    named = namespace["named"]
    named.__defaults__ = tuple(p.default for p in parameters if p.default is not p.empty) or None
    named.__name__, named.__qualname__, named.__doc__ = method.__name__, qualified_name, method.__doc__
    named.__module__ = method.__module__
    return named
