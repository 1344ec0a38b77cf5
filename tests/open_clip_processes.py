"""What each of two processes does for test_compat_processes.py: open_clip's losses of a spread batch."""

from __future__ import annotations

import datetime

import torch
import torch.distributed as dist

from fused_losses.compat import open_clip as ours

SIZE, ROWS, FEATURES = 2, 3, 5
CONFIGURATIONS = {
    "whole": ("ClipLoss", {"gather_with_grad": True}),
    "own gradient": ("ClipLoss", {}),
    "local": ("ClipLoss", {"gather_with_grad": True, "local_loss": True}),
    **{impl: ("SigLipLoss", {"dist_impl": impl}) for impl in ("bidir", "shift", "reduce", "gather")},
}
LEFT = {
    "local_loss=True with gather_with_grad=False": {"local_loss": True},
    "world_size=2 and rank=5": {"rank": 5},
    "use_horovod=True": {"use_horovod": True},
}


def batch():
    """Features of all processes, scale and bias."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, SIZE * ROWS, FEATURES, generator=generator, dtype=torch.float64)
    return [x, y, torch.tensor(2.5, dtype=x.dtype), torch.tensor(-1.5, dtype=x.dtype)]


def found_by(losses, name, options, tensors):
    """The loss and its gradients by features, scale and, of SigLIP, bias."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    used = leaves if name == "SigLipLoss" else leaves[:3]
    loss = getattr(losses, name)(**options)(*leaves[:3], *(leaves[3:] if len(used) > 3 else [None]))
    return [loss.detach(), *torch.autograd.grad(loss, used)]


def refusal(options):
    """What the adapter says without the library."""
    try:
        found_by(ours, "ClipLoss", options, batch())
    except NotImplementedError as error:
        return str(error)


def main(rank, folder, theirs):
    """theirs: whether the library is there."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    rivals = {"ours": ours}
    if theirs:
        from benchmarks.peer_cases import imported

        rivals["theirs"] = imported("open_clip.loss")
    place = {"rank": rank, "world_size": SIZE}
    own = [t.chunk(SIZE)[rank] if t.ndim else t for t in batch()]
    found = {
        (rival, case): found_by(losses, name, options | place, own)
        for rival, losses in rivals.items()
        for case, (name, options) in CONFIGURATIONS.items()
    }
    ours.ClipLoss.peer.__class__.original = None
    found["refusals"] = [refusal(place | options) for options in LEFT.values()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
