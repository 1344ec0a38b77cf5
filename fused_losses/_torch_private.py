"""Every name of torch used here that torch does not promise to keep, each with its reason."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path

import torch
import torch._appdirs
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.autograd.function import Function
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# The tensors that stand for plain ones while torch.export traces without Dynamo.
TRACED = frozenset({FakeTensor, FunctionalTensor})

# A torch.func transform (vmap, grad, jvp) is active: no kernel has a rule for it. Dynamo answers it too.
transforms_active = torch._C._are_functorch_transforms_active

# A tensor that escaped from a finished transform still wears that transform's wrapper, in which a gradient is lost.
is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
unwrap_if_dead = torch._C._functorch.unwrap_if_dead

# True of the incoming gradients of torch.autograd.grad(is_grads_batched=True), which is no transform.
is_batched = torch._C._functorch.is_legacy_batchedtensor

# Whether the backward now running keeps its graph (retain_graph): then a saved gradient must stay as it is.
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph

_top_saved_tensor_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def saved_tensor_hooks() -> bool:
    """What a Function saves now passes through hooks (of a checkpoint, of save_on_cpu); torch.func refuses them."""
    return _top_saved_tensor_hooks(True) is not None


# Within it no tensor subclass sees an operation; Dynamo traces it.
without_subclasses = torch._C.DisableTorchFunctionSubclass

# Whether an op has a kernel of its own for a dispatch key, which torch.library does not tell.
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key

# Not None while torch.jit.trace records: a Function's arguments may be no objects then, and what is recorded with
# gradients is compared with what is recorded without.
tracing_state = torch._C._get_tracing_state


def dispatches_plainly(kind: type[torch.Tensor]) -> bool:
    """A subclass with Tensor's own __torch_function__, which is an ordinary call and a wrapper of its results."""
    return getattr(kind.__torch_function__, "__func__", None) is torch.Tensor.__torch_function__.__func__


# As torch.compiler.assume_constant_result, which imports the compiler: Dynamo takes the answer and does not trace it.
dispatches_plainly._dynamo_marked_constant = True


class RecordingMode(TorchDispatchMode):
    """A dispatch mode that does not load Dynamo, which takes seconds, only to keep it away from itself."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def forward_mode_active() -> bool:
    """A level of torch.autograd.forward_ad is open: tensors may carry tangents."""
    return forward_ad._current_level >= 0


def constant_when_compiled(function):
    """What torch.compiler.assume_constant_result makes of it, without loading Dynamo, which takes seconds."""
    function._dynamo_marked_constant = True
    return function


@constant_when_compiled
def traces_gradients() -> bool:
    """Dynamo takes torch.autograd.grad and backward into its graph, where a Function's backward has no derivative."""
    return bool(getattr(sys.modules.get("torch._dynamo.config"), "trace_autograd_ops", False))


@contextlib.contextmanager
def outside_modes():
    """No mode, of fake tensors say, and no transform of torch.func sees what is done inside."""
    with _disable_current_modes(), torch._C._DisableFuncTorch():
        yield


def direct_call(overload):
    """The built-in behind an OpOverload, without the Python frame of its own call; for eager mode."""
    return overload._op


def direct_apply(function: type[Function]):
    """Function.apply without what it asks about torch.func, which takes a tenth of the time of a small loss: for a
    caller that has asked `transforms_active` and `unwrap_if_dead`."""
    return super(Function, function).apply


@functools.cache
def core_decompositions() -> dict:
    """How PyTorch writes operations with simpler ones; asked for only where a custom loss uses one."""
    from torch._decomp import core_aten_decompositions

    return dict(core_aten_decompositions())


def extensions_folder() -> Path:
    """Where torch.utils.cpp_extension keeps what it builds, without the second that its import takes."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(chosen or os.path.realpath(torch._appdirs.user_cache_dir("torch_extensions")))


def process_group(name: str):
    """The group of this name, which is all that an exported program keeps of it."""
    return torch.distributed.distributed_c10d._resolve_process_group(name)
