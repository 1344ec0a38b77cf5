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
from typing import Any

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

    path: where users find it, e.g. "monai.losses.DiceLoss". found: the class or function, None before it was asked for;
    forward: the class's own, patched or not; inherits_forward: whether that is a base class's. version: of the library;
    age: -1 where this is older than `RELEASES` says, 1 where it is newer, else 0.
    """

    found: Any = None
    forward: Callable | None = None
    inherits_forward = False
    version, age = "", 0

    def __init__(self, path: str):
        self.path = path
        self.module, _, self.name = path.rpartition(".")
        self.library = path.partition(".")[0]
        self.place = len(_PEERS)
        _PEERS.append(self)

    @property
    def original(self) -> Any:
        """The class or function, None where the library cannot be imported."""
        _find(self.place)  # whatever is known, since a trace must not see this change
        return self.found

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


_PEERS: list[Peer] = []


@torch.compiler.assume_constant_result
def _find(place: int) -> bool:
    """Imports a peer, also in the middle of a trace, which would otherwise trace the import."""
    peer = _PEERS[place]
    if peer.found is not None:
        return True
    try:
        peer.found = getattr(importlib.import_module(peer.module), peer.name)
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return False
    peer.version = getattr(sys.modules.get(peer.library), "__version__", "")
    release = re.match(r"(\d+)\.(\d+)", peer.version)
    if release is not None and peer.library in RELEASES:
        given, (oldest, newest) = (int(release[1]), int(release[2])), RELEASES[peer.library]
        peer.age = (given > newest) - (given < oldest)
    if hasattr(peer.found, "forward"):
        peer.forward, peer.inherits_forward = peer.found.forward, "forward" not in vars(peer.found)
    return True


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
        return _with_code_of_its_own(adapted)

    return decorate


def _with_code_of_its_own(function: Callable) -> Callable:
    """Dynamo counts what it has compiled by code object, of which a `def` in a function makes one for all."""
    function.__code__ = function.__code__.replace(co_name=function.__name__)
    return function


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


@functools.partial(torch.compiler.disable, recursive=False, reason="the fused losses have no option for the call")
def _by_the_library(peer: Peer, module: nn.Module, args: tuple, kwargs: dict) -> Any:
    """The call of an adapter, or of the patched class, as the library's own: a trace ends here and begins anew."""
    theirs = module.as_theirs(peer.original) if isinstance(module, Adapter) else module
    return peer.forward(theirs, *args, **kwargs)


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
        return _by_the_library(peer, self, args, kwargs)

    return _with_code_of_its_own(adapted)
