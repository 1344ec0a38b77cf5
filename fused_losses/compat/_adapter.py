"""What an adapter is: a class or function of another library whose work is handed to the fused losses.

An adapter only maps arguments. What it cannot map it refuses, and the call goes to the library's own class where that
is installed. The attributes of an adapter are those of the library's instances, so that its `forward` serves both.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable

import torch
from torch import nn

# The oldest and the newest release of each library whose rules the adapters are known to have.
RELEASES = {
    "kornia": ((0, 9), (0, 9)), "monai": ((1, 6), (1, 6)), "open_clip": ((3, 3), (3, 3)),
    "pytorch_metric_learning": ((2, 8), (2, 9)), "segmentation_models_pytorch": ((0, 6), (0, 6)),
    "torchvision": ((0, 20), (0, 28)),
}  # fmt: skip


class Inexpressible(Exception):
    """The fused losses have no option for this; the text names it."""


# What an adapter, or a fused loss that it calls, raises where the library itself may have another answer.
REFUSALS = (Inexpressible, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


def needs(expressible: bool, what: str) -> None:
    """Refuses `what` unless it is expressible."""
    if not expressible:
        raise Inexpressible(what)


class Peer:
    """A class or function of another library, imported when first asked for.

    path: where users find it, e.g. "monai.losses.DiceLoss". `original` and `forward` are what the library itself has,
    patched or not.
    """

    def __init__(self, path: str):
        self.path = path
        self.module, _, self.name = path.rpartition(".")
        self.library = path.partition(".")[0]
        self.found = None

    @property
    def original(self):
        """The class or function, None where the library cannot be imported."""
        if self.found is None:
            try:
                self.found = getattr(importlib.import_module(self.module), self.name)
            except (ImportError, RuntimeError):  # RuntimeError: built for another torch
                pass
        return self.found

    @functools.cached_property
    def forward(self) -> Callable:
        """The class's forward; asked for before the class is patched."""
        return self.original.forward

    @functools.cached_property
    def inherits_forward(self) -> bool:
        """Whether that forward is a base class's."""
        return "forward" not in vars(self.original)

    @functools.cached_property
    def version(self) -> str:
        """That of the library; it is installed."""
        return getattr(sys.modules.get(self.library), "__version__", "")

    @functools.cached_property
    def age(self) -> int:
        """-1 where the installed release is older than `RELEASES` says, 1 where it is newer, else 0."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        if found is None or self.library not in RELEASES:
            return 0
        release, (oldest, newest) = (int(found[1]), int(found[2])), RELEASES[self.library]
        return (release > newest) - (release < oldest)

    def expect_known_rules(self, caller: str) -> None:
        """Raises where those of the installed release may be others."""
        if self.age < 0:
            oldest = ".".join(map(str, RELEASES[self.library][0]))
            raise RuntimeError(f"{caller}: expected {self.library} of version {oldest} or newer, got {self.version}")

    def require(self, refusal: Exception) -> None:
        """Raises, where the library is not installed or too old, what the adapter has refused."""
        if self.original is not None and self.age >= 0:
            return
        if not isinstance(refusal, Inexpressible):
            raise refusal
        if self.original is not None:
            self.expect_known_rules(self.path)
        raise NotImplementedError(f"{self.path}: expected {self.library} installed for {refusal}, got none")


def _refused(error: Exception) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    return error


def adapts(path: str) -> Callable[[Callable], Callable[..., torch.Tensor]]:
    """Makes a function the adapter of the one at `path`."""
    peer = Peer(path)

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def adapted(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except REFUSALS as error:
                refusal = _refused(error)
            peer.require(refusal)
            return peer.original(*args, **kwargs)

        adapted.peer = peer
        return adapted

    return decorate


class Adapter(nn.Module):
    """A loss class of another library.

    A subclass names it: `class DiceLoss(Adapter, peer="monai.losses.DiceLoss")`, has its signatures, and needs no
    `super().__init__()`: the arguments are attributes before the body of `__init__` runs.
    """

    peer: Peer

    def __init_subclass__(cls, *, peer: str = ""):
        super().__init_subclass__()
        if peer:
            cls.peer = Peer(peer)
            cls.__init__ = _keeping(cls.__init__)
            cls.forward = _or_peer(cls.forward, cls.peer)
        elif hasattr(cls, "peer"):
            _check_overrides(cls)

    def hold(self, name: str, value, *, persistent=True) -> None:
        """The attribute `name` as a buffer, or as a parameter if it is one."""
        self.__dict__.pop(name, None)
        if isinstance(value, nn.Parameter):
            setattr(self, name, value)
        else:
            self.register_buffer(name, value, persistent=persistent)

    def as_theirs(self, theirs: type) -> nn.Module:
        """The library's instance of the same attributes: what either changes, both have."""
        twin = object.__new__(theirs)
        twin.__dict__ = self.__dict__
        return twin


def _check_overrides(cls: type[Adapter]) -> None:
    """Refuses a subclass of an adapter with a method of the library's class that the adapter would not call."""
    at = next(i for i, base in enumerate(cls.__mro__) if "peer" in vars(base))
    adapter = cls.__mro__[at]
    own = {name: value for base in cls.__mro__[:at] for name, value in vars(base).items()}
    hooks = [name for name, value in own.items() if callable(value) and not hasattr(adapter, name)]
    unused = [name for name in hooks if callable(getattr(adapter.peer.original, name, None))]
    if unused:
        path = adapter.peer.path
        raise TypeError(f"{cls.__name__}: expected {path} as the base of a class that has {unused[0]}, got its drop-in")


def _keeping(init: Callable) -> Callable:
    """`init` on a module that has its arguments as attributes."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keep(self, *args, **kwargs):
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        nn.Module.__init__(self)
        for name, value in list(bound.arguments.items())[1:]:
            setattr(self, name, value)
        init(*bound.args, **bound.kwargs)

    return keep


def _or_peer(forward: Callable, peer: Peer) -> Callable:
    """`forward` of an adapter, or of the library's class while that is patched.

    A subclass of the library's class may have overridden any part of the computation: its forward stays the library's.
    """

    @functools.wraps(forward)
    def adapted(self, *args, **kwargs):
        own = isinstance(self, Adapter)
        if not own and type(self) is not peer.original:
            return peer.forward(self, *args, **kwargs)
        try:
            return forward(self, *args, **kwargs)
        except REFUSALS as error:
            refusal = _refused(error)
        peer.require(refusal)
        return peer.forward(self.as_theirs(peer.original) if own else self, *args, **kwargs)

    return adapted
