"""Adapters without the libraries they stand in for: import, signatures, hand-computed values, refusals, patching."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import subprocess
import sys
import types
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_losses import compat
from fused_losses.compat import _adapter, _targets

LIBRARIES = {"kornia", "monai", "segmentation_models_pytorch", "torchvision", "open_clip", "pytorch_metric_learning"}
SIGNATURES = {
    "kornia.FocalLoss": "(self, alpha, gamma=2.0, reduction='none', weight=None, ignore_index=-100)",
    "kornia.BinaryFocalLossWithLogits":
        "(self, alpha, gamma=2.0, reduction='none', pos_weight=None, weight=None, ignore_index=-100)",
    "kornia.DiceLoss": "(self, average='micro', eps=1e-08, weight=None, ignore_index=-100)",
    "kornia.TverskyLoss": "(self, alpha, beta, eps=1e-08, ignore_index=-100)",
    "kornia.focal_loss": "(pred, target, alpha, gamma=2.0, reduction='none', weight=None, ignore_index=-100)",
    "kornia.binary_focal_loss_with_logits":
        "(pred, target, alpha=0.25, gamma=2.0, reduction='none', pos_weight=None, weight=None, ignore_index=-100)",
    "kornia.dice_loss": "(pred, target, average='micro', eps=1e-08, weight=None, ignore_index=-100)",
    "kornia.tversky_loss": "(pred, target, alpha, beta, eps=1e-08, ignore_index=-100)",
    "monai.DiceLoss":
        "(self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
        "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, "
        "weight=None, soft_label=False, ignore_index=None)",
    "monai.TverskyLoss":
        "(self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, alpha=0.5, "
        "beta=0.5, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, soft_label=False, "
        "ignore_index=None)",
    "monai.FocalLoss":
        "(self, include_background=True, to_onehot_y=False, gamma=2.0, alpha=None, weight=None, reduction='mean', "
        "use_softmax=False, ignore_index=None)",
    "monai.DiceCELoss":
        "(self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
        "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, "
        "weight=None, lambda_dice=1.0, lambda_ce=1.0, label_smoothing=0.0)",
    "monai.DiceFocalLoss":
        "(self, include_background=True, to_onehot_y=False, sigmoid=False, softmax=False, other_act=None, "
        "squared_pred=False, jaccard=False, reduction='mean', smooth_nr=1e-05, smooth_dr=1e-05, batch=False, "
        "gamma=2.0, weight=None, lambda_dice=1.0, lambda_focal=1.0, alpha=None)",
    "smp.DiceLoss":
        "(self, mode, classes=None, log_loss=False, from_logits=True, smooth=0.0, ignore_index=None, eps=1e-07, "
        "class_weights=None)",
    "smp.JaccardLoss":
        "(self, mode, classes=None, log_loss=False, from_logits=True, smooth=0.0, ignore_index=None, eps=1e-07, "
        "class_weights=None)",
    "smp.TverskyLoss":
        "(self, mode, classes=None, log_loss=False, from_logits=True, smooth=0.0, ignore_index=None, eps=1e-07, "
        "alpha=0.5, beta=0.5, gamma=1.0, class_weights=None)",
    "smp.FocalLoss":
        "(self, mode, alpha=None, gamma=2.0, ignore_index=None, from_logits=True, eps=1e-07, reduction='mean', "
        "normalized=False, reduced_threshold=None, class_weights=None)",
    "smp.SoftBCEWithLogitsLoss":
        "(self, weight=None, ignore_index=-100, reduction='mean', smooth_factor=None, pos_weight=None)",
    "smp.SoftCrossEntropyLoss": "(self, reduction='mean', smooth_factor=None, ignore_index=-100, dim=1)",
    "open_clip.ClipLoss":
        "(self, local_loss=False, gather_with_grad=False, cache_labels=False, rank=0, world_size=1, use_horovod=False)",
    "open_clip.SigLipLoss": "(self, cache_labels=False, rank=0, world_size=1, dist_impl=None)",
    "pml.ContrastiveLoss": "(self, pos_margin=0, neg_margin=1, **kwargs)",
    "pml.NTXentLoss": "(self, temperature=0.07, **kwargs)",
    "pml.SupConLoss": "(self, temperature=0.1, **kwargs)",
    "torchvision.sigmoid_focal_loss": "(inputs, targets, alpha=0.25, gamma=2, reduction='none')",
}  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """No library is there."""
    monkeypatch.setattr(_adapter.Peer, "original", None)


def adapters():
    modules = (getattr(compat, name) for name in compat.__all__)
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
        for module in modules
        if isinstance(module, types.ModuleType)
        for name in module.__all__
    }


# ------------------------------------------------------------------------------------------------ import, signatures


def test_import_needs_no_library():
    code = f"import sys, fused_losses.compat; print({LIBRARIES!r} & {{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr


def test_signatures_are_as_recorded():
    found = {}
    for name, adapter in adapters().items():
        function = adapter.__init__ if inspect.isclass(adapter) else adapter
        found[name] = str(inspect.signature(function))
    assert found == SIGNATURES


def test_every_adapter_says_what_computes_it():
    for name, adapter in adapters().items():
        assert ":func:`" in inspect.getdoc(adapter), name
        assert adapter.peer.library in LIBRARIES


# --------------------------------------------------------------------------------------------- hand-computed values


def test_monai_dice_of_labels(alone):
    """Logits 0: p = 1/2 for both classes; two pixels of class 0, none of class 1."""
    loss = compat.monai.DiceLoss(softmax=True, to_onehot_y=True, reduction="none", smooth_nr=0, smooth_dr=1.0)
    found = loss(torch.zeros(1, 2, 2), torch.zeros(1, 1, 2))
    assert found.shape == (1, 2, 1)
    assert found.flatten().tolist() == pytest.approx([1 - 2 * 1 / (1 + 2 + 1), 1 - 0 / 2])


def test_monai_jaccard_smooths_by_half(alone):
    """I = 1, P = 1, G = 2: (2 + n) / (2 (1 + 2 - 1) + d)."""
    loss = compat.monai.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=1.0, smooth_dr=3.0)
    assert loss(torch.zeros(1, 1, 2), torch.ones(1, 1, 2)).item() == pytest.approx(1 - 3 / 7)


def test_monai_tversky(alone):
    """I = 1/2, fp = 1/2, fn = 1/2."""
    loss = compat.monai.TverskyLoss(sigmoid=True, alpha=0.2, beta=0.6, smooth_nr=0, smooth_dr=0)
    assert loss(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0]]])).item() == pytest.approx(1 - 0.5 / 0.9)


def test_monai_focal_with_an_ignored_position_divides_by_the_others(alone):
    """Three elements of (1/2)^2 ln 2; two are the positive and the negative one of a single position that counts."""
    loss = compat.monai.FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=9)
    found = loss(torch.zeros(1, 2, 2), torch.tensor([[[1, 9]]]))
    assert found.item() == pytest.approx(0.25 * math.log(2))


def test_kornia_focal_is_zero_but_at_the_target(alone):
    loss = compat.kornia.focal_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]), alpha=0.25)
    expected = 0.25 * math.log(2)
    assert loss.flatten().tolist() == pytest.approx([0.75 * expected, 0, 0, 0.25 * expected])


def test_kornia_mean_counts_what_is_ignored(alone):
    loss = compat.kornia.focal_loss(torch.zeros(1, 2, 2), torch.tensor([[0, -100]]), None, reduction="mean")
    assert loss.item() == pytest.approx(0.25 * math.log(2) / 4)


def test_kornia_macro_dice_skips_absent_classes(alone):
    """p = 1/3; class 0 has both pixels: I = 2/3, P = 2/3, G = 2."""
    loss = compat.kornia.dice_loss(torch.zeros(1, 3, 1, 2), torch.zeros(1, 1, 2).long(), average="macro", eps=0.0)
    assert loss.item() == pytest.approx(1 - 2 * (2 / 3) / (2 / 3 + 2))


def test_smp_cross_entropies_divide_by_what_is_ignored(alone):
    bce = compat.smp.SoftBCEWithLogitsLoss(smooth_factor=0.1)
    assert bce(torch.zeros(4), torch.tensor([1.0, 0.0, -100.0, -100.0])).item() == pytest.approx(math.log(2) / 2)
    ce = compat.smp.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=1)
    assert ce(torch.zeros(2, 3), torch.tensor([1, 2])).item() == pytest.approx(math.log(3) / 2)


def test_torchvision_focal(alone):
    loss = compat.torchvision.sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.5]))
    expected = 0.25 * math.log(2)
    assert loss.tolist() == pytest.approx([0.25 * expected, 0.5 * expected])


def test_open_clip(alone):
    """Logits a I: log(1 + 2 e^-a) for each row, and softplus(-a) + 2 softplus(0)."""
    x, a = torch.eye(3), 2.0
    assert compat.open_clip.ClipLoss()(x, x, a).item() == pytest.approx(math.log1p(2 * math.exp(-a)))
    found = compat.open_clip.SigLipLoss()(x, x, torch.tensor([a]), None, output_dict=True)["contrastive_loss"]
    assert found.item() == pytest.approx(math.log1p(math.exp(-a)) + 2 * math.log(2))


def test_pml_contrastive_of_batch(alone):
    """Distances 0 of the positive pair, sqrt(2) and 2 of the negative ones; hinges above 0 alone count."""
    z, labels = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([5, 5, 6, 7])
    loss = compat.pml.ContrastiveLoss(pos_margin=-0.5, neg_margin=1.5)
    assert loss(z, labels).item() == pytest.approx(0.5 + 1.5 - math.sqrt(2))


def test_pml_of_two_views(alone):
    """Four rows e1, e2, e1, e2: the positive at e^(1/T), the other two at 1."""
    z, labels = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    for loss in (compat.pml.NTXentLoss(temperature=0.5), compat.pml.SupConLoss(temperature=0.5)):
        assert loss(z, labels).item() == pytest.approx(math.log1p(2 * math.exp(-2)))
        assert loss(z, torch.arange(4)).item() == loss(z[:2], torch.zeros(2).long()).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_have_the_librarys_dtype(dtype, alone):
    x, t = torch.zeros(1, 2, 1, 2, dtype=dtype), torch.zeros(1, 1, 2).long()
    assert compat.torchvision.sigmoid_focal_loss(x, torch.zeros_like(x)).dtype is dtype
    assert compat.kornia.tversky_loss(x, t, 0.5, 0.5).dtype is dtype
    assert compat.kornia.focal_loss(x, t, None, weight=torch.ones(2)).dtype is torch.float32
    assert compat.monai.DiceLoss(softmax=True, to_onehot_y=True)(x, t.unsqueeze(1)).dtype is torch.float32
    assert compat.monai.DiceLoss(softmax=True)(x, x).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", [
    lambda x, t: compat.torchvision.sigmoid_focal_loss(x, t.to(x.dtype), reduction="sum"),
    lambda x, t: compat.smp.FocalLoss("binary", reduction="sum")(x, t),
    lambda x, t: compat.smp.SoftBCEWithLogitsLoss(reduction="sum")(x, t.to(x.dtype)),
    lambda x, t: 1e6 * compat.monai.DiceCELoss(softmax=True)(x.expand(-1, 2, -1), t.expand(-1, 2, -1)),
])  # fmt: skip
def test_losses_under_autocast_are_of_float32(call, dtype, alone):
    """Torch's cross-entropies are in float32 there: neither the sum nor a gradient of a loss scale is beyond it."""
    x, t = torch.full((1, 1, 400_000), 2.0, dtype=dtype).requires_grad_(), torch.zeros(1, 1, 400_000).long()
    with torch.autocast("cpu", dtype):
        loss = call(x, t)
    (loss / loss.detach() * 65536.0).backward()
    assert loss.dtype is torch.float32
    assert math.isfinite(loss.item())
    assert loss.item() > 65504
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_under_autocast_of_a_gpu(dtype):
    """Its list of what is computed in float32 is longer: sums, powers and softmaxes."""
    was = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)  # torch.autocast wants a GPU for it
    try:
        with FakeTensorMode():
            x = torch.empty(3, dtype=dtype, device="cuda")
            assert _targets.loss_dtype(x) is torch.sum(x).dtype is torch.float32
            assert _targets.loss_dtype(x, x.double()) is torch.float64
            assert _targets.loss_dtype(x.cpu()) is dtype
    finally:
        torch.set_autocast_enabled("cuda", was)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("call, option", [
    (lambda x: compat.monai.DiceLoss(soft_label=True)(x, torch.full_like(x, 0.3)), "soft_label=True with soft targets"),
    (lambda x: compat.monai.FocalLoss()(x, torch.full_like(x, 0.3)), "soft targets"),
    (lambda x: compat.monai.DiceCELoss(jaccard=True, softmax=True)(x, x), "jaccard=True"),
    (lambda x: compat.kornia.binary_focal_loss_with_logits(x, torch.full_like(x, 0.3)), "soft targets"),
    (lambda x: compat.kornia.focal_loss(x, x[:, 0].long(), 0.5, reduction="batchmean"), "reduction='batchmean'"),
    (lambda x: compat.smp.FocalLoss("binary", normalized=True)(x, x), "normalized=True"),
    (lambda x: compat.smp.FocalLoss("multiclass")(x[:, :1], x[:, 0].long()), "a single class"),
    (lambda x: compat.smp.SoftCrossEntropyLoss(smooth_factor=0.1, dim=-1)(x, x), "dim=-1"),
    (lambda x: compat.torchvision.sigmoid_focal_loss(x, x.long()), "targets of torch.int64"),
    (lambda x: compat.open_clip.ClipLoss(world_size=2)(x[0], x[0], 1.0), "world_size=2 and rank=0"),
    (lambda x: compat.pml.NTXentLoss()(x[0], torch.zeros(3).long()), "more than two of a label"),
    (lambda x: compat.pml.SupConLoss(distance=None)(x[0], torch.zeros(3).long()), "distance"),
])  # fmt: skip
def test_one_sentence_names_what_cannot_be_expressed(call, option, alone):
    message = rf"\w+\.\w+(\.\w+)*: expected \w+ installed for {option}, got none"
    with pytest.raises(NotImplementedError, match=message):
        call(torch.zeros(2, 3, 4))


def test_errors_of_the_fused_losses_pass_without_the_library(alone):
    with pytest.raises(ValueError, match="sigmoid_focal_loss: expected alpha >= 0 and <= 1, or -1, got 3"):
        compat.torchvision.sigmoid_focal_loss(torch.zeros(2), torch.zeros(2), alpha=3)


@pytest.mark.parametrize("make, error", [
    (lambda: compat.monai.DiceLoss(sigmoid=True, softmax=True), ValueError),
    (lambda: compat.monai.DiceLoss(other_act=3), TypeError),
    (lambda: compat.monai.DiceLoss(reduction="other"), ValueError),
    (lambda: compat.monai.DiceCELoss(lambda_ce=-1), ValueError),
    (lambda: compat.smp.DiceLoss("other"), AssertionError),
    (lambda: compat.smp.DiceLoss(), TypeError),
    (lambda: compat.smp.DiceLoss("binary", class_weights=[1.0]), ValueError),
])  # fmt: skip
def test_constructors_refuse(make, error, alone):
    with pytest.raises(error):
        make()


def test_options_of_several_classes_are_ignored_with_a_warning(alone):
    loss = compat.monai.DiceLoss(softmax=True, to_onehot_y=True, include_background=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loss(torch.rand(1, 1, 4), torch.ones(1, 1, 4))
    assert [str(w.message).partition(": ")[2].partition("=")[0] for w in said] == [
        "softmax", "to_onehot_y", "include_background",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ shared pieces


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_is_hard(dtype):
    target = torch.randint(0, 2, (3, 5, 7)).to(dtype)
    near = torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
    assert _targets.is_hard(target)
    for layout in (target.mT, target[:, ::2], target[:1].expand(4, 5, 7), target.permute(2, 0, 1)):
        assert _targets.is_hard(layout)
    for soft in (near, 0.5, 2.0, -1.0, math.nan, torch.finfo(dtype).tiny):
        changed = target.clone()
        changed[2, 4, 6] = soft
        assert not _targets.is_hard(changed), soft
        assert _targets.is_hard(changed, ignored=soft) == (soft == soft)
    assert _targets.is_hard(target[:0])
    assert not _targets.is_hard(target.clone().requires_grad_())


def test_is_hard_reads_every_part(monkeypatch):
    monkeypatch.setattr(_targets, "_CHUNK", 8)
    target = torch.ones(3, 7)
    assert _targets.is_hard(target)
    for at in range(target.numel()):
        soft = target.clone()
        soft.view(-1)[at] = 0.5
        assert not _targets.is_hard(soft)


def test_tensors_with_metadata_are_read_as_plain(alone):
    class MetaTensor(torch.Tensor):
        pass

    loss, x, t = compat.monai.DiceLoss(sigmoid=True), torch.rand(1, 1, 4), torch.ones(1, 1, 4)
    found = loss(x.as_subclass(MetaTensor), t.as_subclass(MetaTensor))
    assert type(found) is torch.Tensor
    assert found.item() == loss(x, t).item()


@pytest.mark.parametrize("make", [
    lambda: compat.monai.DiceCELoss(softmax=True, weight=torch.rand(3)), lambda: compat.smp.FocalLoss("multiclass"),
    lambda: compat.kornia.FocalLoss(0.5, weight=torch.rand(3)), lambda: compat.smp.TverskyLoss("binary", gamma=2.0),
])  # fmt: skip
def test_modules_are_copied_and_pickled(make):
    loss = make()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin.state_dict().keys() == loss.state_dict().keys()
        assert repr(twin) == repr(loss)
        assert vars(twin).keys() == vars(loss).keys()


def test_weights_move_with_the_module():
    loss = compat.kornia.FocalLoss(0.5, weight=torch.ones(2)).double()
    assert loss.weight.dtype is torch.float64
    assert not loss.state_dict()
    assert list(compat.kornia.FocalLoss(0.5, weight=nn.Parameter(torch.ones(2))).parameters())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", [compat.open_clip.ClipLoss(), compat.open_clip.SigLipLoss()])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_graph_of_features_under_compile(loss, autocast, shape, alone):
    torch.compiler.reset()
    x, y, scale = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), torch.full(shape, 2.0, requires_grad=True)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(compiled(x, y, scale, None), loss(x, y, scale, None))


@pytest.mark.parametrize("make", [
    lambda: compat.monai.DiceLoss(softmax=True, to_onehot_y=True), lambda: compat.monai.TverskyLoss(sigmoid=True),
    lambda: compat.monai.FocalLoss(use_softmax=True, to_onehot_y=True),
])  # fmt: skip
def test_one_graph_under_compile(make, alone):
    torch.compiler.reset()
    loss, x = make(), torch.randn(2, 3, 4, requires_grad=True)
    t = torch.randint(0, 3, (2, 1, 4)) if loss.to_onehot_y else torch.rand(2, 3, 4)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, t), loss(x, t))


@pytest.fixture
def a_library(monkeypatch):
    """One that is imported while a call is traced."""

    class Distance(nn.Module):
        def __init__(self, power=1):
            super().__init__()
            self.power = power

        def forward(self, x, t):
            return (x - t).abs().pow(self.power).mean()

    library = types.ModuleType("a_library")
    library.Distance, library.distance = Distance, lambda x, t: (x - t).abs().mean()
    monkeypatch.setitem(sys.modules, "a_library", library)


def test_what_is_refused_under_compile_is_the_librarys(a_library):
    class Distance(_adapter.Adapter, peer="a_library.Distance"):
        def __init__(self, power=1):
            pass

        def forward(self, x, t):
            _adapter.needs(False, "a distance")

    @_adapter.adapts("a_library.distance")
    def distance(x, t):
        _adapter.needs(False, "a distance")

    torch.compiler.reset()
    x, t = torch.randn(2, 5)
    for _ in range(2):  # imported by the first, known to the second
        assert torch.equal(torch.compile(distance, backend="eager", fullgraph=True)(x, t), (x - t).abs().mean())
        found = torch.compile(Distance(2), backend="eager")(x, t)
        assert torch.equal(found, (x - t).square().mean())
        torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="the fused losses have no option for the call"):
        torch.compile(Distance(), backend="eager", fullgraph=True)(x, t)


def test_each_adapter_is_compiled_under_a_limit_of_its_own():
    codes = [getattr(adapter, "forward", adapter).__code__ for adapter in adapters().values()]
    assert len(codes) == len(set(map(id, codes)))
