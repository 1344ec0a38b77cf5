"""`LossModule`: an nn.Module made from a loss function's own signature."""

from __future__ import annotations

import inspect
from typing import Callable, ClassVar

import torch
from torch import nn

_WEIGHTS = ("weight", "pos_weight")


class LossModule(nn.Module):
    """Options in the constructor, tensors in `forward`, one loss function behind.

    A subclass names its function: `class MSELoss(LossModule, function=mse_loss): ...`. Arguments of the function
    listed in `tensors` are those of `forward`; all others are options of the constructor with the function's
    defaults, unless `defaults` overrides them. A tensor option is a buffer (a parameter if it is given as one), and so
    is a weight assigned later. A subclass of a loss names nothing and inherits all.
    """

    function: ClassVar[Callable]
    tensors: ClassVar[tuple[str, ...]]
    options: ClassVar[inspect.Signature]

    def __init_subclass__(cls, *, function: Callable | None = None, tensors=("input", "target"), **defaults):
        super().__init_subclass__()
        if function is None:
            return
        parameters = inspect.signature(function).parameters
        options = [
            p.replace(default=defaults.get(p.name, p.default)) for p in parameters.values() if p.name not in tensors
        ]
        cls.function, cls.tensors = staticmethod(function), tuple(tensors)
        cls.options = cls.__signature__ = inspect.Signature(options)

        def forward(self, *tensors: torch.Tensor, **named: torch.Tensor):
            return LossModule.forward(self, *tensors, **named)

        # The names that torch.export asks for in dynamic_shapes, and help() shows.
        named = inspect.Parameter.POSITIONAL_OR_KEYWORD
        own = inspect.Parameter("self", named)
        forward.__signature__ = inspect.Signature([own, *(parameters[name].replace(kind=named) for name in tensors)])
        forward.__doc__ = LossModule.forward.__doc__
        cls.forward = forward

    def __init__(self, *args, **kwargs):
        super().__init__()
        try:
            bound = type(self).options.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            tensor = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
            if tensor or (value is None and name in _WEIGHTS):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *tensors: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        """The loss of the tensors, in the order of `self.tensors` or by name; the last may be optional."""
        if len(tensors) > len(self.tensors):
            raise TypeError(f"{type(self).__name__}: expected at most {len(self.tensors)} tensors, got {len(tensors)}")
        given = dict(zip(self.tensors, tensors))
        options = {name: getattr(self, name) for name in self.options.parameters}
        return type(self).function(**given, **named, **options)

    def extra_repr(self) -> str:
        shown = []
        for name, parameter in self.options.parameters.items():
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                shown.append(f"{name}=tensor{tuple(value.shape)}")
            elif value != parameter.default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)
