"""A sample call of each loss: plausible tensors of moderate size, drawn from a seed."""

from __future__ import annotations

import torch

from . import _C

FAMILIES = {row["name"]: row["family"] for row in _C.losses()}


class Draw:
    """Draws float32 tensors and targets on the CPU, the same for every device."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def probability(self, *shape):
        return torch.rand(shape, generator=self.generator) * 0.9 + 0.05

    def integer(self, high, *shape):
        return torch.randint(high, shape, generator=self.generator)

    def bit(self, *shape):
        return self.integer(2, *shape).float()


def _gaussian(d: Draw) -> list[torch.Tensor]:
    """Mean and lower Cholesky factor."""
    return [d.normal(16), torch.eye(16) + 0.1 * d.normal(16, 16).tril(-1)]


OF_A_FAMILY = {
    "elementwise": lambda d: [d.probability(65536), d.bit(65536)],
    "softmax": lambda d: [d.normal(512, 128), d.normal(512, 128)],
    "overlap": lambda d: [d.normal(4, 4, 64, 64), d.integer(4, 4, 64, 64)],
    "row_sums": lambda d: [d.normal(1024, 64), d.normal(1024, 64)],
    "ranking": lambda d: [d.normal(16, 64), d.integer(5, 16, 64)],
    "all_pairs": lambda d: [d.normal(256, 32), d.integer(16, 256)],
    "extremes": lambda d: [d.normal(256, 32), d.integer(16, 256)],
    "linear": lambda d: [d.normal(256, 32), d.normal(512, 32) / 6, d.normal(256, 48), d.normal(512, 48) / 7],
    "sequence": lambda d: [d.normal(8, 32, 512), d.integer(512, 8, 32)],
}
OF_A_LOSS = {
    "hinge_loss": lambda d: [d.normal(65536), 2 * d.bit(65536) - 1],
    "cross_entropy": lambda d: [d.normal(512, 128), d.integer(128, 512)],
    "softmax_focal_loss": lambda d: [d.normal(512, 128), d.integer(128, 512)],
    "clip_loss": lambda d: [d.normal(256, 32) / 6, d.normal(256, 32) / 6, torch.tensor(10.0)],
    "siglip_loss": lambda d: [d.normal(256, 32) / 6, d.normal(256, 32) / 6, torch.tensor(10.0), torch.tensor(-10.0)],
    "nt_xent_loss": lambda d: [d.normal(128, 32), d.normal(128, 32)],
    "linear_cross_entropy": lambda d: [d.normal(256, 32), d.normal(512, 32) / 6, d.integer(512, 256)],
    "info_nce_loss": lambda d: [d.normal(256, 32), d.normal(256, 32) / 6],
    "contrastive_loss": lambda d: [d.normal(1024, 64) / 8, d.normal(1024, 64) / 8, d.bit(1024)],
    "mahalanobis_distance": lambda d: [d.normal(1024, 16), *_gaussian(d)],
    "mahalanobis_loss": lambda d: [d.normal(1024, 16), d.bit(1024), *_gaussian(d)],
    "vae_loss": lambda d: [d.probability(256, 784), d.bit(256, 784), d.normal(256, 8), d.normal(256, 8)],
}


def sample(loss: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The tensors that a loss needs, in its order; the first requires a gradient."""
    first, *rest = (OF_A_LOSS.get(loss) or OF_A_FAMILY[FAMILIES[loss]])(Draw())
    rest = [t.to(dtype) if t.is_floating_point() else t for t in rest]
    return [first.to(device, dtype).requires_grad_(), *(t.to(device) for t in rest)]
