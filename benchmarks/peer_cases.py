"""The usual configurations of the losses that fused_losses.compat stands in for: theirs, the adapter, the bare call.

`make` takes the library's module of losses or the adapter's; both then take the same tensors.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import partial
from typing import Callable

import torch

import fused_losses.functional as F
from fused_losses import compat


@dataclass(frozen=True)
class PeerCase:
    """One configuration of one loss of a library.

    library, losses: what is imported; adapters: the module of fused_losses.compat. written: as a user writes it.
    tensors(shape, generator): input and target; bare(input, target): the fused call that says the same.
    """

    library: str
    losses: str
    adapters: object
    written: str
    make: Callable
    tensors: Callable
    bare: Callable
    shape: tuple[int, ...]
    small: tuple[int, ...]


_declared: list[torch.library.Library] = []


def imported(module: str):
    """The module of a library; of torchvision its Python alone where its operators were built for another torch."""
    for _ in range(4):
        try:
            return importlib.import_module(module)
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
            _declared[-1].define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    raise ImportError(f"{module} wants more operators than are known here", name=module)


MAPS, MASKS, ROWS = (4, 16, 256, 256), (16, 1, 512, 512), (4096, 1024)
EMBEDDINGS, FEW_EMBEDDINGS = (2048, 512), (256, 128)


def with_labels(shape, generator):
    x = torch.randn(shape, generator=generator)
    return x, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


def with_labels_of_one_channel(shape, generator):
    x, y = with_labels(shape, generator)
    return x, y.unsqueeze(1)


def with_bits(shape, generator):
    return torch.randn(shape, generator=generator), torch.randint(0, 2, shape, generator=generator).float()


def with_features(shape, generator):
    unit = torch.nn.functional.normalize
    return unit(torch.randn(shape, generator=generator)), unit(torch.randn(shape, generator=generator))


def with_pairs(shape, generator):
    """Two rows of each label."""
    return torch.randn(shape, generator=generator), torch.arange(shape[0] // 2).repeat(2)


def with_kinds(shape, generator):
    """About eight rows of each label."""
    return torch.randn(shape, generator=generator), torch.randint(0, shape[0] // 8, shape[:1], generator=generator)


def _family(library, losses, adapters):
    def of(written, make, tensors, bare, shape=MAPS):
        small = (2, 8, 32, 32) if shape is MAPS else (2, 1, 64, 64) if shape is MASKS else (64, 128)
        return PeerCase(library, losses, adapters, written, make, tensors, bare, shape, small)

    return of


_monai = _family("monai", "monai.losses", compat.monai)
_smp = _family("segmentation_models_pytorch", "segmentation_models_pytorch.losses", compat.smp)
_kornia = _family("kornia", "kornia.losses", compat.kornia)
_open_clip = _family("open_clip", "open_clip.loss", compat.open_clip)
_pml = _family("pytorch_metric_learning", "pytorch_metric_learning.losses", compat.pml)
_torchvision = _family("torchvision", "torchvision.ops", compat.torchvision)

SCALE = 10.0


def _at_scale(loss, x, y, bias=None):
    return loss(x, y, SCALE, bias)


SOFTMAX = {"softmax": True, "to_onehot_y": True}
CLASS_WEIGHT = torch.linspace(0.5, 2.0, 16)
TVERSKY = {"alpha": 0.3, "beta": 0.7}
UNSMOOTHED = {"smooth_nr": 0.0, "smooth_dr": 0.0}
OF_BATCH = {"batch": True, "absent": "zero", **UNSMOOTHED}

CASES = [
    _monai("DiceLoss(softmax=True, to_onehot_y=True)", lambda m: m.DiceLoss(**SOFTMAX), with_labels_of_one_channel,
           lambda x, y: F.dice_loss(x, y[:, 0], activation="softmax")),
    _monai("DiceLoss(sigmoid=True)", lambda m: m.DiceLoss(sigmoid=True), with_bits, F.dice_loss, MASKS),
    _monai("TverskyLoss(softmax=True, to_onehot_y=True)", lambda m: m.TverskyLoss(**SOFTMAX, **TVERSKY),
           with_labels_of_one_channel, lambda x, y: F.tversky_loss(x, y[:, 0], activation="softmax", **TVERSKY)),
    _monai("DiceCELoss(softmax=True, to_onehot_y=True)", lambda m: m.DiceCELoss(**SOFTMAX), with_labels_of_one_channel,
           lambda x, y: F.dice_cross_entropy_loss(x, y[:, 0])),
    _monai("DiceCELoss(softmax=True, to_onehot_y=True, weight=weight)",
           lambda m: m.DiceCELoss(**SOFTMAX, weight=CLASS_WEIGHT), with_labels_of_one_channel,
           lambda x, y: F.dice_cross_entropy_loss(x, y[:, 0], weight=CLASS_WEIGHT, class_weight=CLASS_WEIGHT)),
    _monai("DiceFocalLoss(softmax=True, to_onehot_y=True)", lambda m: m.DiceFocalLoss(**SOFTMAX),
           with_labels_of_one_channel, lambda x, y: F.dice_focal_loss(x, y[:, 0], focal_activation="sigmoid")),
    _monai("FocalLoss(to_onehot_y=True)", lambda m: m.FocalLoss(to_onehot_y=True), with_labels_of_one_channel,
           lambda x, y: F.sigmoid_focal_loss(x, y[:, 0], alpha=-1, reduction="mean")),
    _monai("FocalLoss(to_onehot_y=True, use_softmax=True)", lambda m: m.FocalLoss(to_onehot_y=True, use_softmax=True),
           with_labels_of_one_channel, lambda x, y: F.softmax_focal_loss(x, y[:, 0]) / x.shape[1]),
    _monai("FocalLoss()", lambda m: m.FocalLoss(), with_bits,
           lambda x, y: F.sigmoid_focal_loss(x, y, alpha=-1, reduction="mean"), MASKS),
    _smp('DiceLoss("multiclass")', lambda m: m.DiceLoss("multiclass"), with_labels,
         lambda x, y: F.dice_loss(x, y, activation="softmax", **OF_BATCH)),
    _smp('DiceLoss("binary")', lambda m: m.DiceLoss("binary"), with_bits, lambda x, y: F.dice_loss(x, y, **OF_BATCH),
         MASKS),
    _smp('JaccardLoss("multiclass")', lambda m: m.JaccardLoss("multiclass"), with_labels,
         lambda x, y: F.jaccard_loss(x, y, activation="softmax", **OF_BATCH)),
    _smp('TverskyLoss("multiclass")', lambda m: m.TverskyLoss("multiclass", **TVERSKY), with_labels,
         lambda x, y: F.tversky_loss(x, y, activation="softmax", **OF_BATCH, **TVERSKY)),
    _smp('FocalLoss("multiclass")', lambda m: m.FocalLoss("multiclass"), with_labels,
         lambda x, y: F.sigmoid_focal_loss(x, y, alpha=-1, reduction="mean")),
    _smp('FocalLoss("binary")', lambda m: m.FocalLoss("binary"), with_bits,
         lambda x, y: F.sigmoid_focal_loss(x, y, alpha=-1, reduction="mean"), MASKS),
    _smp("SoftBCEWithLogitsLoss(smooth_factor=0.1)", lambda m: m.SoftBCEWithLogitsLoss(smooth_factor=0.1), with_bits,
         lambda x, y: F.weighted_binary_cross_entropy_with_logits(x, y, label_smoothing=0.2), MASKS),
    _smp("SoftCrossEntropyLoss(smooth_factor=0.1)", lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1), with_labels,
         lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
    _kornia('FocalLoss(0.5, reduction="mean")', lambda m: m.FocalLoss(0.5, reduction="mean"), with_labels,
            lambda x, y: F.softmax_focal_loss(x, y, 0.5) / x.shape[1]),
    _kornia('BinaryFocalLossWithLogits(0.25, reduction="mean")',
            lambda m: m.BinaryFocalLossWithLogits(0.25, reduction="mean"), with_bits,
            lambda x, y: F.sigmoid_focal_loss(x, y, reduction="mean"), MASKS),
    _kornia("DiceLoss()", lambda m: m.DiceLoss(), with_labels,
            lambda x, y: F.dice_loss(x, y, activation="softmax", average="micro", smooth_nr=0.0, smooth_dr=1e-8)),
    _kornia('DiceLoss("macro")', lambda m: m.DiceLoss("macro"), with_labels,
            lambda x, y: F.dice_loss(x, y, activation="softmax", smooth_nr=0.0, smooth_dr=1e-8)),
    _kornia("TverskyLoss(0.3, 0.7)", lambda m: m.TverskyLoss(0.3, 0.7), with_labels,
            lambda x, y: F.tversky_loss(x, y, activation="softmax", smooth_nr=0.0, smooth_dr=1e-8, **TVERSKY)),
    _torchvision('sigmoid_focal_loss(reduction="mean")',
                 lambda m: lambda x, y: m.sigmoid_focal_loss(x, y, reduction="mean"), with_bits,
                 lambda x, y: F.sigmoid_focal_loss(x, y, reduction="mean"), ROWS),
    _open_clip("ClipLoss()", lambda m: partial(_at_scale, m.ClipLoss()), with_features,
               lambda x, y: F.clip_loss(x, y, SCALE), EMBEDDINGS),
    _open_clip("SigLipLoss()", lambda m: partial(_at_scale, m.SigLipLoss(), bias=-SCALE), with_features,
               lambda x, y: F.siglip_loss(x, y, SCALE, -SCALE), EMBEDDINGS),
    _pml("NTXentLoss()", lambda m: m.NTXentLoss(), with_pairs,
         lambda x, y: F.sup_con_loss(x, y, temperature=0.07), FEW_EMBEDDINGS),
    _pml("SupConLoss()", lambda m: m.SupConLoss(), with_kinds, lambda x, y: F.sup_con_loss(x, y, temperature=0.1),
         EMBEDDINGS),
]  # fmt: skip
