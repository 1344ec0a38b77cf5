"""Every loss of the installed package, beside the torch that is there: right against the reference in float64, compiled
to the bits of the eager call, and differentiable twice; a custom loss, where there is a C++ compiler. Needs nothing but
the package; run from a folder without it.
"""

import os
import shutil
import sys

import torch

import fused_losses.functional as F
from fused_losses import custom
from fused_losses._samples import sample
from fused_losses._self_check import check, value_and_gradient


def compiled_differs(name: str) -> bool:
    torch.compiler.reset()
    loss, tensors = getattr(F, name), sample(name)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    pairs = zip(value_and_gradient(compiled, tensors), value_and_gradient(loss, tensors))
    return not all(torch.equal(found, eager) for found, eager in pairs)


def second_derivative() -> bool:
    logits, target = sample("cross_entropy", dtype=torch.float64)
    return torch.autograd.gradgradcheck(F.cross_entropy, (logits[:2, :5], target[:2] % 5))


@custom.elementwise
def log_cosh(input, target, *, scale=1.0):
    d = (input - target).abs() / scale
    return d + torch.nn.functional.softplus(-2 * d)


def custom_loss() -> str:
    """What became of it."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        return "no compiler for a custom loss"
    there = custom.cache_info()["losses"]
    x, t = torch.randn(2, 1000, dtype=torch.float64)
    found = log_cosh(x.requires_grad_(), t, scale=0.5)
    if found.grad_fn.name() != "FusedLossBackward":
        sys.exit(f"log_cosh: not compiled, {found.grad_fn.name()}")
    torch.testing.assert_close(found, log_cosh.reference(x, t, scale=0.5).mean())
    return f"a custom loss {'compiled' if custom.cache_info()['losses'] > there else 'found'}"


def main() -> None:
    rows = list(check())
    wrong = [f"{row['loss']}: {row['wrong']}" for row in rows if row["wrong"]]
    wrong += [f"{row['loss']}: compiled, other bits" for row in rows if compiled_differs(row["loss"])]
    if wrong or not second_derivative():
        sys.exit("\n".join(wrong) or "cross_entropy: second derivative")
    print(f"{len(rows)} losses: values, gradients, torch.compile, a second derivative; {custom_loss()}")


if __name__ == "__main__":
    main()
