"""A few training steps of a real model of each library, with and without the patch: the same curve."""

from __future__ import annotations

import pytest
import torch
from peers import fallbacks, required  # noqa: F401

from fused_losses import compat

STEPS = 4


def curve(model, loss, *batch, rate):
    """The losses of STEPS steps of a copy of the model on one batch; batch: what `loss` takes after the model."""
    model.load_state_dict(START[id(model)]) if id(model) in START else START.update({id(model): saved(model)})
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    found = []
    for _ in range(STEPS):
        value = loss(model, *batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


def saved(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


START: dict[int, dict] = {}


def assert_same_curve(library, model, make, *batch, rel=1e-6, rate=0.05):
    """`make()` gives the loss, once with the library as it is and once patched.

    In float64: batch normalisation of few values multiplies the rounding of a step by thousands.
    """
    model.double()
    torch.manual_seed(0)
    before = curve(model, make(), *batch, rate=rate)
    torch.manual_seed(0)
    with compat.patch(library) as patch:
        assert patch
        after = curve(model, make(), *batch, rate=rate)
    assert before[-1] < before[0], f"the model does not learn: {before}"
    assert after == pytest.approx(before, rel=rel)


IMAGES = torch.randn(2, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = (IMAGES + 0.2).gt(0).long() + IMAGES.gt(1).long()  # three classes that can be learnt


@pytest.mark.parametrize("name", ["DiceLoss", "DiceCELoss", "DiceFocalLoss", "FocalLoss", "TverskyLoss"])
def test_monai(name, fallbacks):  # noqa: F811
    losses = required("monai.losses", "1.6.1")
    nets = required("monai.networks.nets")
    torch.manual_seed(0)
    model = nets.UNet(2, in_channels=1, out_channels=3, channels=(8, 16), strides=(2,))
    options = {} if name == "FocalLoss" else {"softmax": True}

    def make():
        loss = getattr(losses, name)(to_onehot_y=True, **options)
        return lambda model, x, y: loss(model(x), y)

    in_float32 = "Focal" in name  # MONAI's is, whatever its input
    assert_same_curve("monai", model, make, IMAGES, LABELS, rel=1e-4 if in_float32 else 1e-6)
    assert not fallbacks


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss", "SoftCrossEntropyLoss"])
def test_smp(name, fallbacks):  # noqa: F811
    losses = required("segmentation_models_pytorch.losses", "0.6.0")
    smp = required("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = smp.Unet("resnet18", 3, None, decoder_channels=(32, 16, 8), in_channels=1, classes=3)

    def make():
        loss = losses.SoftCrossEntropyLoss(smooth_factor=0.1) if name.startswith("Soft") else None
        loss = loss or getattr(losses, name)("multiclass")
        return lambda model, x, y: loss(model(x), y)

    assert_same_curve("smp", model, make, IMAGES, LABELS[:, 0])
    assert not fallbacks


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss", "FocalLoss", "focal_loss"])
def test_kornia(name, fallbacks):  # noqa: F811
    losses = required("kornia.losses", "0.9.0")
    vit = required("kornia.models.vit")
    torch.manual_seed(0)
    body = vit.VisionTransformer(image_size=32, patch_size=8, in_channels=1, embed_dim=32, depth=1, num_heads=2)
    model = torch.nn.Sequential(body, torch.nn.Linear(32, 3 * 64))

    def logits(model, x):
        patches = model(x)[:, 1:]  # (B, 16, 3 * 8 * 8) of a 4 x 4 grid, without the class token
        return patches.reshape(-1, 4, 4, 3, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 32, 32)

    def make():
        if name == "focal_loss":
            return lambda model, x, y: losses.focal_loss(logits(model, x), y, 0.5, reduction="mean")
        options = {"DiceLoss": (), "TverskyLoss": (0.5, 0.5), "FocalLoss": (0.5, 2.0, "mean")}[name]
        loss = getattr(losses, name)(*options)
        return lambda model, x, y: loss(logits(model, x), y)

    assert_same_curve("kornia", model, make, IMAGES, LABELS[:, 0])
    assert not fallbacks


def test_torchvision(fallbacks):  # noqa: F811
    detection = required("torchvision.models.detection")
    torch.manual_seed(0)
    model = detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, trainable_backbone_layers=0
    )
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    target = [{"boxes": boxes, "labels": torch.tensor([1])}]

    def make():
        return lambda model, image, target: model([image], target)["classification"]

    assert_same_curve("torchvision", model, make, torch.rand(3, 64, 64, dtype=torch.float64), target)
    assert not fallbacks


def towers():
    """A CLIP of one layer a tower, and pictures with their texts."""
    open_clip = required("open_clip")
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=32)
    text = open_clip.CLIPTextCfg(context_length=6, vocab_size=50, width=32, heads=2, layers=1)
    pictures, texts = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.randint(1, 50, (5, 6))
    return open_clip.CLIP(16, vision, text, init_logit_bias=-2.0), pictures, texts


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_open_clip(name, fallbacks):  # noqa: F811
    losses = required("open_clip.loss", "3.3.0")
    model, *batch = towers()

    def make():
        loss = getattr(losses, name)()

        def of(model, pictures, texts):
            *features, bias = model(pictures, texts)
            return loss(*features, None if name == "ClipLoss" else bias)

        return of

    assert_same_curve("open_clip", model, make, *batch, rate=1e-5)
    assert not fallbacks


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss", "ContrastiveLoss"])
def test_pml(name, fallbacks):  # noqa: F811
    """The library has no networks: its examples train torchvision's."""
    losses = required("pytorch_metric_learning.losses", "2.9.0")
    models = required("torchvision.models")
    torch.manual_seed(0)
    model = models.resnet18(num_classes=16)
    pictures, kinds = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(4).repeat(2)

    def make():
        loss = getattr(losses, name)()
        return lambda model, x, y: loss(model(x), y)

    assert_same_curve("pml", model, make, pictures, kinds)
    assert not fallbacks
