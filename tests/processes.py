"""What each of four processes does for test_processes.py: losses of a spread batch, and what they leave in a file.

Groups: all four, and the two halves at once.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel

import fused_losses.functional as F
from fused_losses import reference

SIZE, ROWS, FEATURES = 4, 3, 5  # processes, rows of each, features of a row


def clip(losses, t, group):
    return losses.clip_loss(t["x"], t["y"], t["scale"], normalize=True, group=group)


def siglip(losses, t, group):
    return losses.siglip_loss(t["x"], t["y"], t["scale"], t["bias"], group=group)


def nt_xent(losses, t, group):
    return losses.nt_xent_loss(t["x"], t["y"], temperature=t["scale"], group=group)


def nt_xent_plain(losses, t, group):
    return losses.nt_xent_loss(t["x"], t["y"], temperature=0.3, normalize=False, group=group)


def sup_con(losses, t, group):
    return losses.sup_con_loss(t["x"], t["labels"], temperature=0.2, group=group)


def linear(losses, t, group):
    """The classes are spread."""
    return losses.linear_cross_entropy(t["hidden"], t["weight"], t["classes"], linear_bias=t["offset"], group=group)


def linear_capped(losses, t, group):
    """The same, without a bias and with a loss for each row."""
    options = {"softcap": 2.0, "z_loss": 0.1, "ignore_index": 1, "reduction": "none"}
    return losses.linear_cross_entropy(t["hidden"], t["weight"], t["classes"], group=group, **options)


LOSSES = {f.__name__: f for f in (clip, siglip, nt_xent, nt_xent_plain, sup_con, linear, linear_capped)}
POSITIONS = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("softmax_focal_loss", {}),
    ("softmax_focal_loss", {"label_smoothing": 0.1, "ignore_index": 1}),
    ("dice_cross_entropy_loss", {}),
    ("dice_focal_loss", {}),
]
CASES = [(name, dtype) for name in LOSSES for dtype in ("float32", "float64", "bfloat16", "float16")]
COMPILED = ("clip", "sup_con", "linear")
SPREAD, SHARED = ("x", "y", "labels"), ("scale", "bias")  # of a batch whose rows are spread
CLASSES, WHOLE = ("weight", "offset"), ("hidden", "classes")  # of a layer whose classes are


def tensors(dtype, size=SIZE, rows=ROWS, seed=0):
    """A batch of all processes."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(size * rows, FEATURES, generator=generator, dtype=torch.float64) for name in "xy"}
    made = {name: t.to(getattr(torch, dtype)) for name, t in made.items()}
    wide = torch.float64 if dtype == "float64" else torch.float32
    made["labels"] = torch.randint(0, 4, (size * rows,), generator=generator, dtype=torch.int32)
    made |= {"scale": torch.tensor(2.5, dtype=wide), "bias": torch.tensor(-1.5, dtype=wide)}
    layer = {"hidden": (2, 3, FEATURES), "weight": (size * rows, FEATURES), "offset": (size * rows,)}
    layer = {name: torch.randn(shape, generator=generator).to(made["x"].dtype) for name, shape in layer.items()}
    return made | layer | {"classes": torch.tensor([[0, 1, 3], [4, size * rows - 1, 2]])}


def leaves(batch, rank=0, size=1):
    """Of the batch a process's rows, and what all share, as leaves."""
    parts = {name: t.chunk(size)[rank] if name in SPREAD + CLASSES else t for name, t in batch.items()}
    return {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in parts.items()}


def first_order(call, losses, t, group=None):
    """The loss and its gradients, by name; None where there is none."""
    loss = call(losses, t, group)
    floating = [name for name in t if t[name].requires_grad]
    found = torch.autograd.grad((3 * loss).sum(), [t[name] for name in floating], allow_unused=True)
    return {"loss": loss.detach(), **dict(zip(floating, found))}


def second_order(call, losses, t, group=None):
    """The gradient of a product of the gradients of what is spread."""
    names = [name for name in ("x", "y", *CLASSES) if t[name].requires_grad]
    leaves = [t[name] for name in names]
    first = torch.autograd.grad(call(losses, t, group).sum(), leaves, create_graph=True, allow_unused=True)
    product = sum((g * leaf.detach().cos()).sum() for g, leaf in zip(first, leaves) if g is not None)
    return dict(zip(names, torch.autograd.grad(product, leaves, allow_unused=True)))


def transformed(call, losses, t, group=None):
    """torch.func's gradient of what is spread."""
    name, value, of = of_what_is_spread(call, losses, t, group)
    return {name: torch.func.grad(of)(value)}


def of_what_is_spread(call, losses, t, group=None):
    """The name of what is spread, its value, and the loss as a function of it."""
    fixed = {name: v.detach() for name, v in t.items()}
    name = "weight" if call in (linear, linear_capped) else "x"
    return name, fixed[name], lambda value: call(losses, {**fixed, name: value}, group).sum()


def directional(call, losses, t, group=None):
    """Forward mode and vmap: what is the same in all processes, what belongs to each one's part, and what is shared."""
    _, value, of = of_what_is_spread(call, losses, t, group)
    along, one, pair = value.cos(), value.new_ones(()), torch.stack([value, 2 * value], 1)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(of(forward_ad.make_dual(value, along))).tangent
    same = {
        "jvp": torch.func.jvp(of, (value,), (along,))[1],
        "forward_ad": tangent,
        "vmap": torch.func.vmap(of, 1)(pair),
        "jacfwd": torch.func.jacfwd(lambda a: of(a * value))(one),
    }
    parts = {
        "jacrev": torch.func.jacrev(of)(value),
        "vmap of grad": torch.func.vmap(torch.func.grad(of), 1)(pair),
        "jvp of grad": torch.func.jvp(torch.func.grad(of), (value,), (along,))[1],
    }
    return same, parts, torch.func.hessian(lambda a: of(a * value))(one)


def compiled(call, losses, t, group=None):
    return first_order(torch.compile(call, fullgraph=True, backend="aot_eager"), losses, t, group)


class Exported(torch.nn.Module):
    """A loss as torch.export takes it."""

    def __init__(self, call, group):
        super().__init__()
        self.call, self.group = call, group

    def forward(self, t):
        return self.call(F, t, self.group).sum()


def exported(call, t, group):
    """The value of an exported program and its gradients, and those of the call."""
    module, fixed = Exported(call, group), {name: v.detach() for name, v in t.items()}
    program = torch.export.export(module, (fixed,)).module()

    def gradients(function):
        wanted = [v for v in t.values() if v.requires_grad]
        return torch.autograd.grad(function(t), wanted, materialize_grads=True)

    return {
        "loss": program(fixed), "expected": module(fixed), "of eager": gradients(module),
        "traced": gradients(torch.export.export(module, (t,)).module()),
        "strict": gradients(torch.export.export(module, (t,), strict=True).module()),
        "backward": refusal(lambda: program(t).backward()),
    }  # fmt: skip


def of_positions(loss, options, mesh=None):
    """A loss of logits and classes of positions, which a mesh's processes share, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 6, (4, 8), generator=generator)
    if mesh is not None:
        from torch.distributed.tensor import Shard, distribute_tensor

        logits, target = distribute_tensor(logits, mesh, [Shard(2)]), distribute_tensor(target, mesh, [Shard(1)])
    logits.requires_grad_()
    value = getattr(F, loss)(logits, target, **options)
    (gradient,) = torch.autograd.grad(value, logits)
    found = {"loss": value.detach(), "gradient": gradient}
    return found if mesh is None else {name: t.full_tensor() for name, t in found.items()}


def trained(rank=0, size=1, group=None, steps=3):
    """The weights of two towers after some steps; in a group inside DistributedDataParallel."""
    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(FEATURES, 4), torch.nn.Linear(FEATURES, 4)])
    model.register_parameter("scale", torch.nn.Parameter(torch.tensor(2.0)))
    model.forward = lambda x, y: (model[0](x), model[1](y), model.scale.exp())
    wrapped = model if group is None else DistributedDataParallel(model, process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        t = {n: v.chunk(size)[rank] for n, v in tensors("float32", seed=step).items() if n in SPREAD}
        x, y, scale = wrapped(t["x"], t["y"])
        loss = F.clip_loss(x, y, scale, normalize=True, group=group) + F.sup_con_loss(x, t["labels"], group=group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def refusal(call, *arguments, **named):
    """What is said, and by which exception."""
    try:
        call(*arguments, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals(rank, whole, halves):
    """By the rank's own words."""
    x = torch.randn(3, FEATURES)
    uneven = torch.randn(3 - rank % 2, FEATURES)
    wider = torch.randn(3, FEATURES + (rank == 3))
    labels = torch.zeros(len(uneven), dtype=torch.int64)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    outside = halves[rank < 2]
    return {
        "uneven clip_loss": refusal(F.clip_loss, uneven, uneven, 1.0, group=whole),
        "uneven siglip_loss": refusal(F.siglip_loss, uneven, uneven, 1.0, 0.0, group=whole),
        "uneven nt_xent_loss": refusal(F.nt_xent_loss, uneven, uneven, group=whole),
        "uneven sup_con_loss": refusal(F.sup_con_loss, uneven, labels, group=whole),
        "uneven reference": refusal(reference.clip_loss, uneven, uneven, 1.0, group=whole),
        "wider": refusal(F.clip_loss, wider, wider, 1.0, group=whole),
        "dtype": refusal(F.clip_loss, *[x.to(torch.float64 if rank == 2 else torch.float32)] * 2, 1.0, group=whole),
        "outside": refusal(F.clip_loss, x, x, 1.0, group=outside),
        "outside reference": refusal(reference.clip_loss, x, x, 1.0, group=outside),
        "mesh of two dimensions": refusal(F.clip_loss, x, x, 1.0, group=mesh),
        "uneven classes": refusal(F.linear_cross_entropy, x, uneven, labels[:1].repeat(3), group=whole),
        "no classes": refusal(F.linear_cross_entropy, x, x[:0], torch.full((3,), -100), group=whole),
        "no classes in one": refusal(F.linear_cross_entropy, x, x[: 3 * (rank > 0)], labels[:1].repeat(3), group=whole),
        "no classes in the reference": refusal(
            reference.linear_cross_entropy, x, x[:0], torch.full((3,), -100), group=whole
        ),
        "a class of nobody": refusal(F.linear_cross_entropy, x, x, torch.tensor([0, 12, 1]), group=whole),
        "smoothed": refusal(F.linear_cross_entropy, x, x, labels[:1].repeat(3), label_smoothing=0.1, group=whole),
        "no group": refusal(F.clip_loss, x, x, 1.0, group="everyone"),
        "good mesh": str(F.clip_loss(x, x, 1.0, group=mesh["b"]).isfinite().item()),
    }


def deserted(rank, folder):
    """What the others hear where one process never comes, and where one dies."""
    x = torch.randn(3, FEATURES)
    group = dist.new_group(list(range(SIZE)), timeout=datetime.timedelta(seconds=2))
    dying = dist.new_group(list(range(SIZE)), timeout=datetime.timedelta(seconds=20))
    start = time.monotonic()
    if rank == 3:
        while len(list(Path(folder).glob("waited-*"))) < 3 and time.monotonic() - start < 120:
            time.sleep(0.1)
        os._exit(0)
    absent = refusal(F.clip_loss, x, x, 1.0, group=group)
    waited = time.monotonic() - start
    (Path(folder) / f"waited-{rank}").touch()
    dead = refusal(F.sup_con_loss, x, torch.zeros(3, dtype=torch.int64), group=dying)
    return {"absent": absent, "waited": waited, "dead": dead, "until": time.monotonic() - start}


def main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE,
        timeout=datetime.timedelta(seconds=300),
    )  # fmt: skip
    whole, halves = dist.group.WORLD, [dist.new_group([0, 1]), dist.new_group([2, 3])]
    groups = {4: (whole, rank), 2: (halves[rank // 2], rank % 2)}
    found = {"refusals": refusals(rank, whole, halves)}
    for size, (group, place) in groups.items():
        for name, dtype in CASES:
            t = leaves(tensors(dtype, size), place, size)
            found[size, name, dtype] = first_order(LOSSES[name], F, t, group)
    group, place = groups[2]
    for name in LOSSES:
        t = leaves(tensors("float64", 2), place, 2)
        found[2, name, "reference"] = first_order(LOSSES[name], reference, t, group)
        found[2, name, "second"] = second_order(LOSSES[name], F, t, group)
        found[2, name, "transformed"] = transformed(LOSSES[name], F, t, group)
        found[2, name, "directional"] = directional(LOSSES[name], F, t, group)
    if rank < 2:  # Dynamo takes its time
        for name in COMPILED:
            found[2, name, "compiled"] = compiled(LOSSES[name], F, leaves(tensors("float64", 2), rank, 2), halves[0])
        for name in LOSSES:
            found[2, name, "exported"] = exported(LOSSES[name], leaves(tensors("float32", 2), rank, 2), halves[0])
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    found["positions"] = [of_positions(*case, mesh["b"]) for case in POSITIONS]
    found["trained"] = trained(rank, SIZE, whole)
    torch.save(found, f"{folder}/{rank}.pt")  # the dead write nothing after this
    found["deserted"] = deserted(rank, folder)
    torch.save(found, f"{folder}/{rank}.pt")
    os._exit(0)  # no farewell to a group that lacks one
