"""open_clip 3.3.0: the losses of image and text features, within one process or spread over those of the default group.

Spread, the fused losses give the loss of the whole batch in every process, with the gradients that open_clip gives the
features. Where open_clip gives each process the loss of its own rows (`local_loss`, SigLIP), the mean over the
processes of value and gradients, which DDP takes, is the same.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from .. import functional as F
from .._op import autocasts
from ._adapter import Adapter, needs
from ._targets import loss_dtype

__all__ = ["ClipLoss", "SigLipLoss"]


def _operands(image_features, text_features, logit_scale):
    """Features as autocast gives them to a product, the scale without dimensions, the dtype of the loss.

    Autocast leaves float64 as it is.
    """
    factors = [logit_scale] if isinstance(logit_scale, torch.Tensor) and logit_scale.ndim else []
    dtype = loss_dtype(image_features, *factors, cross_entropy=True)
    features = [image_features, text_features]
    if autocasts(image_features):
        half = torch.get_autocast_dtype(image_features.device.type)
        features = [t if t.dtype is torch.float64 else t.to(half) for t in features]
    return *features, _single(logit_scale), dtype


def _single(number):
    """A number, or a tensor of one element without its dimensions."""
    return number.reshape(()) if isinstance(number, torch.Tensor) and number.numel() == 1 else number


def _group(loss):
    """The processes that the batch is spread over; None for one."""
    if loss.world_size == 1:
        return None
    ready = dist.is_available() and dist.is_initialized()
    given = (dist.get_world_size(), dist.get_rank()) if ready else (1, 0)
    needs(given == (loss.world_size, loss.rank), f"world_size={loss.world_size} and rank={loss.rank}")
    return dist.group.WORLD


def _of_own_rows(features, size):
    """The features; their gradient is that of the loss in this process alone, not of the sum over the processes."""
    if not features.requires_grad:
        return features
    features = features.view_as(features)
    features.register_hook(lambda gradient: gradient / size)
    return features


class ClipLoss(Adapter, peer="open_clip.loss.ClipLoss"):
    """:func:`fused_losses.functional.clip_loss`, of the whole batch with `local_loss` too."""

    def __init__(
        self, local_loss=False, gather_with_grad=False, cache_labels=False, rank=0, world_size=1, use_horovod=False
    ):
        self.prev_num_logits, self.labels = 0, {}

    def forward(self, image_features, text_features, logit_scale, logit_bias=None, output_dict=False):
        needs(logit_bias is None, "logit_bias")
        group = _group(self)
        if group is not None:
            needs(not self.use_horovod, "use_horovod=True")
            needs(self.gather_with_grad or not self.local_loss, "local_loss=True with gather_with_grad=False")
        x, y, scale, dtype = _operands(image_features, text_features, logit_scale)
        if group is not None and not self.gather_with_grad:
            x, y = _of_own_rows(x, self.world_size), _of_own_rows(y, self.world_size)
        loss = F.clip_loss(x, y, scale, group=group).to(dtype)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(Adapter, peer="open_clip.loss.SigLipLoss"):
    """:func:`fused_losses.functional.siglip_loss`, of the whole batch; without a `logit_bias` it is 0.

    All of `dist_impl` are one computation here.
    """

    def __init__(self, cache_labels=False, rank=0, world_size=1, dist_impl=None):
        self.dist_impl = dist_impl or "bidir"
        if self.dist_impl not in ("bidir", "shift", "reduce", "gather"):
            raise AssertionError(f"expected dist_impl to be one of bidir, shift, reduce, gather, got {dist_impl!r}")
        self.prev_num_logits, self.labels = 0, {}

    def forward(self, image_features, text_features, logit_scale, logit_bias, output_dict=False):
        group = _group(self)
        x, y, scale, dtype = _operands(image_features, text_features, logit_scale)
        bias = 0.0 if logit_bias is None else _single(logit_bias)
        loss = F.siglip_loss(x, y, scale, bias, group=group).to(dtype)
        return {"contrastive_loss": loss} if output_dict else loss
