"""`patch`: lets an installed library compute its losses with the fused ones, and takes that back.

Of a class the `forward` is replaced, so that its instances, its subclasses and every name it is imported under stay
what they are; a function is replaced under every name that it has inside the library.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from types import ModuleType
from typing import NamedTuple

from ._adapter import RELEASES


class Replaced(NamedTuple):
    """A class or function of a library that an adapter stands in for, and the names that now lead to the adapter."""

    adapter: type | ModuleType
    names: tuple[str, ...]

    def __str__(self):
        ours = self.adapter.forward if inspect.isclass(self.adapter) else self.adapter
        return f"{', '.join(self.names)} -> {_path(ours)}"


class Patch(list):
    """What was replaced, a line each when printed. As a context manager it gives it back at the end of the block."""

    def __str__(self):
        return "\n".join(map(str, self))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.undo()

    def undo(self) -> None:
        """Gives the library back what this patch replaced; a second time does nothing."""
        give_back([replaced.adapter for replaced in self])
        self.clear()


def put_in_place(adapters: list) -> Patch:
    """Puts each adapter in the place of its peer; where one does not fit, none. What is in place already stays."""
    for adapter in adapters:
        _check(adapter)
    for peer in {adapter.peer.library: adapter.peer for adapter in adapters}.values():
        if peer.age > 0:
            newest = ".".join(map(str, RELEASES[peer.library][1]))
            warnings.warn(f"patch: compared with {peer.library} {newest}, found {peer.version}", stacklevel=3)
    return Patch(replaced for replaced in map(_replace, adapters) if replaced.names)


def give_back(adapters: list) -> None:
    """Puts each peer back where its adapter is; they have been found before."""
    for adapter in adapters:
        theirs, peer = adapter.peer.found, adapter.peer
        if not inspect.isclass(adapter):
            _rename(peer.library, adapter, theirs)
        elif vars(theirs).get("forward") is adapter.forward:
            if peer.inherits_forward:
                del theirs.forward
            else:
                theirs.forward = peer.forward


def _path(thing) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _replace(adapter) -> Replaced:
    theirs, peer = adapter.peer.original, adapter.peer
    if not inspect.isclass(adapter):
        return Replaced(adapter, tuple(_rename(peer.library, theirs, adapter)))
    if vars(theirs).get("forward") is adapter.forward:
        return Replaced(adapter, ())
    theirs.forward = adapter.forward
    return Replaced(adapter, (f"{_path(theirs)}.forward",))


def _rename(library: str, old, new) -> list[str]:
    """Every name of `old` in the modules of the library that are imported by now stands for `new`; those names."""
    found = []
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == library and isinstance(module, ModuleType):
            attributes = [attribute for attribute, value in vars(module).items() if value is old]
            for attribute in attributes:
                setattr(module, attribute, new)
                found.append(f"{name}.{attribute}")
    return found


def _signature(function) -> list[tuple]:
    """Names, kinds and defaults of the arguments."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def _check(adapter) -> None:
    """The library is installed, and its class or function takes what the adapter takes."""
    peer = adapter.peer
    if peer.original is None:
        raise ModuleNotFoundError(f"patch: expected {peer.library} to be installed, got none", name=peer.library)
    peer.expect_known_rules("patch")
    pairs = [(adapter, peer.original)]
    if inspect.isclass(adapter):
        pairs = [(adapter.__init__, peer.original.__init__), (adapter.forward, peer.forward)]
        peer.inherits_forward  # noqa: B018, found out while nothing is replaced
    for ours, theirs in pairs:
        if _signature(ours) != _signature(theirs):
            raise RuntimeError(
                f"patch: expected {peer.path}{inspect.signature(ours)}, got {inspect.signature(theirs)}: "
                f"another version of {peer.library}"
            )
