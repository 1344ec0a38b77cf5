"""The emulated CUDA device: the kernels of csrc/cuda compiled for the CPU (csrc/emulator), one device more for tests.

Its tensors are CPU tensors; inside `emulated()` every op of the package is the one of torch.ops.fused_losses_emulated.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fused_losses import _autograd, _op
from fused_losses._op import Op
from fused_losses._torch_private import direct_call

NAMESPACE = "fused_losses_emulated"
KIND = os.environ.get("FUSED_LOSSES_EMULATOR", "plain")  # as for tools/emulator.py
LIBRARY = Path(__file__).parents[1] / "build" / "emulator" / KIND / f"{NAMESPACE}.so"
BUILT = LIBRARY.exists()


@functools.cache
def device():
    """The module of the emulated device: its schemas are those of the CPU's ops."""
    definitions = torch.library.Library(NAMESPACE, "DEF")
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, op = name.partition("::")
        if namespace == "fused_losses":
            packet, _, overload = op.partition(".")
            schema = str(getattr(getattr(torch.ops.fused_losses, packet), overload or "default")._schema)
            definitions.define(schema.removeprefix("fused_losses::"))
    definitions.define("planted(str name, Tensor(a!) data) -> ()")
    device.definitions = definitions  # they last as long as this is alive
    spec = importlib.util.spec_from_file_location(NAMESPACE, LIBRARY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def all_ops() -> tuple[Op, ...]:
    """The compiled ones of the package, wherever it keeps them."""
    return tuple(o for o in gc.get_objects() if type(o) is Op and overload(o.name, "fused_losses") is o.forward)


def overload(name: str, namespace: str = NAMESPACE):
    return getattr(getattr(getattr(torch.ops, namespace), name, None), "default", None)


class _Declared(TorchDispatchMode):
    """Tells a tracking build which memory an op was given."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == NAMESPACE:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            device().begin_call([(t.data_ptr(), t.numel() * t.element_size()) for t in tensors if t.numel()])
        return func(*args, **(kwargs or {}))


_namespaces = ["fused_losses"]
custom_ops: list[tuple[Op, str, str]] = []  # of custom losses: the emulated namespace and name of each


def ops():
    """torch.ops.fused_losses, or the emulated ones inside `emulated()`: for tests that call an op directly."""
    return getattr(torch.ops, _namespaces[-1])


def active() -> bool:
    """Whether the package's ops are the emulated ones now; a test's `device` is "cpu" there too."""
    return _namespaces[-1] == NAMESPACE


@contextmanager
def emulated(**settings):
    """The package's ops are the emulated ones inside; settings as for the module's `configure`."""
    module = device()
    module.configure(**settings)
    with ExitStack() as stack:
        for op, namespace, name in [*((op, NAMESPACE, op.name) for op in all_ops()), *custom_ops]:
            forward, backward = overload(name, namespace), overload(f"{name}_backward", namespace)
            for attribute, value in (
                ("forward", forward),
                ("run", direct_call(forward)),
                ("backward", backward),
            ):
                stack.enter_context(mock.patch.object(op, attribute, value))
        for module_of, name in ((_autograd, "scale_"), (_op, "unit_rows"), (_op, "unit_rows_backward")):
            stack.enter_context(mock.patch.object(module_of, name, direct_call(overload(name))))
        if module.tracked:
            stack.enter_context(_Declared())
        _namespaces.append(NAMESPACE)
        try:
            yield module
        finally:
            _namespaces.pop()
            module.configure()


def line_of(file: str, text: str) -> int:
    """The number of the only line of a source that matches `text`."""
    lines = (Path(__file__).parents[1] / file).read_text().splitlines()
    (found,) = (i for i, line in enumerate(lines, 1) if re.search(text, line))
    return found
