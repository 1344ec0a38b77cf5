"""open_clip 3.3.0: the losses of image and text features within one process."""

from __future__ import annotations

import torch

from .. import functional as F
from ._adapter import Adapter, needs

__all__ = ["ClipLoss", "SigLipLoss"]


def _operands(loss, image_features, text_features, logit_scale):
    """Features as autocast gives them to a product, the scale without dimensions, the dtype of the loss."""
    needs(loss.world_size == 1, f"world_size={loss.world_size}")
    device = image_features.device.type
    if torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        return image_features.to(half), text_features.to(half), _single(logit_scale), torch.float32
    return image_features, text_features, _single(logit_scale), torch.result_type(image_features, logit_scale)


def _single(number):
    """A number, or a tensor of one element without its dimensions."""
    return number.reshape(()) if isinstance(number, torch.Tensor) and number.numel() == 1 else number


class ClipLoss(Adapter, peer="open_clip.loss.ClipLoss"):
    """:func:`fused_losses.functional.clip_loss`."""

    def __init__(
        self, local_loss=False, gather_with_grad=False, cache_labels=False, rank=0, world_size=1, use_horovod=False
    ):
        self.prev_num_logits, self.labels = 0, {}

    def forward(self, image_features, text_features, logit_scale, logit_bias=None, output_dict=False):
        needs(logit_bias is None, "logit_bias")
        x, y, scale, dtype = _operands(self, image_features, text_features, logit_scale)
        loss = F.clip_loss(x, y, scale).to(dtype)
        return {"contrastive_loss": loss} if output_dict else loss


class SigLipLoss(Adapter, peer="open_clip.loss.SigLipLoss"):
    """:func:`fused_losses.functional.siglip_loss`; without a `logit_bias` it is 0."""

    def __init__(self, cache_labels=False, rank=0, world_size=1, dist_impl=None):
        self.dist_impl = dist_impl or "bidir"
        if self.dist_impl not in ("bidir", "shift", "reduce", "gather"):
            raise AssertionError(f"expected dist_impl to be one of bidir, shift, reduce, gather, got {dist_impl!r}")
        self.prev_num_logits, self.labels = 0, {}

    def forward(self, image_features, text_features, logit_scale, logit_bias, output_dict=False):
        x, y, scale, dtype = _operands(self, image_features, text_features, logit_scale)
        loss = F.siglip_loss(x, y, scale, 0.0 if logit_bias is None else _single(logit_bias)).to(dtype)
        return {"contrastive_loss": loss} if output_dict else loss
