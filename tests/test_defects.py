"""Defects of other libraries' releases, and for each the test that this one is free of it: here or where it belongs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from cases import each_in

from fused_losses import functional as F

# (library, defect, test); a test without a file is below
DEFECTS = [
    ("torchvision, SMP", "focal gradient is NaN at x = 40, gamma = 0.5",
     "test_sigmoid_focal_gradient_below_gamma_one_is_no_nan"),
    ("MONAI", "focal gradient is NaN where the softmax is 1", "test_softmax_focal_gradient_below_gamma_one_is_no_nan"),
    ("MONAI, SMP", "the sum over 512 x 512 halves is infinite", "test_dice_in_float16_does_not_overflow"),
    ("SMP", "an empty mask gives loss 0 and gradient 0 whatever was predicted",
     "test_false_positives_on_an_empty_mask_cost"),
    ("Siamese codes", "sqrt at 0 gives NaN or gradients of 4e5", "test_gradient_near_distance_zero"),
    ("Siamese codes", "NaN at the mean", "test_special_values.py::test_zero_distance_of_points"),
    ("PML", "torch.cdist raises in bfloat16, and under double backward below 26 rows",
     "test_contrastive_of_any_batch_in_any_dtype"),
    ("apex, Liger, flash-attn, fused-ssim", "a saved gradient without a graph: second-order terms are dropped",
     "test_gradients.py::test_double_backward"),
    ("apex focal, Liger", "the saved gradient is scaled in place: a second backward differs",
     "test_gradients.py::test_repeated_backward"),
    ("Liger", "cross-entropy overwrites the logits with their gradient",
     "test_layouts.py::test_inputs_are_not_written"),
    ("Liger 678, 968", "reduction none ignores the incoming gradient of each element",
     "test_reference_agreement.py::test_value_and_gradient"),
    ("Liger 1338", "the loss is wrong under torch.compile", "test_transforms.py::test_compile"),
    ("Liger 1453", "Jensen-Shannon is NaN where a probability underflows",
     "test_jensen_shannon_of_underflowing_probabilities"),
    ("apex focal", "float atomics add in the order of arrival", "test_determinism.py::test_runs_and_threads"),
    ("SMP, kornia", "ignored pixels stay in the denominator", "test_mean_does_not_divide_by_ignored"),
    ("apex, mmcv", "labels out of range are read out of bounds", "test_errors.py::test_class_out_of_range"),
    ("mmcv, apex, Liger", "no CPU kernel", "test_operators.py::test_the_kernel_is_used"),
    ("Liger, mmcv", "`.item()`, `torch.equal`, `target.max()` stop the GPU at every step",
     "test_operators.py::test_no_value_of_a_tensor_is_read_in_python"),
    ("torch", "kl_div of a log-target of -inf is NaN", "test_special_values.py::test_zero_target_of_a_divergence"),
    ("allRank", "NaN on a fully padded slate; the lambda loss fails in float16",
     "test_special_values.py::test_lists_without_relevance"),
    ("flash-attn, apex, gsplat", "install or import needs a compiler or a GPU",
     "test_build.py::test_import_needs_no_compiler_and_no_gpu"),
]  # fmt: skip


@pytest.mark.parametrize("library, defect, test", DEFECTS)
def test_a_test_answers_each_defect(library, defect, test):
    file, _, name = test.rpartition("::")
    tree = ast.parse((Path(__file__).parent / (file or Path(__file__).name)).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{library}: {defect}"


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("x", [40.0, -40.0, 88.0, 200.0, 1e4])
def test_sigmoid_focal_gradient_below_gamma_one_is_no_nan(x, gamma, device):
    for t in (0.0, 1.0):
        leaf = torch.full((33,), x, device=device, requires_grad=True)
        F.sigmoid_focal_loss(leaf, torch.full_like(leaf, t), gamma=gamma, reduction="mean").backward()
        assert leaf.grad.isfinite().all()
        right = (x > 0) == (t == 1)
        if right:
            assert leaf.grad.abs().max() < 1e-6, "nothing left to learn"
        else:
            assert leaf.grad.abs().min() * 33 > 0.2, "a confident mistake is pushed back"


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_softmax_focal_gradient_below_gamma_one_is_no_nan(gamma, device):
    logits = torch.tensor([[60.0, -60.0, 0.0], [1e4, -1e4, 0.0]], device=device, requires_grad=True)
    nothing = [0.0, 0.0, 0.0]
    for classes, want, slopes in (
        ([0, 0], 0.0, [nothing, nothing]),
        ([1, 1], (120 + 2e4) / 2, [[0.5, -0.5, 0.0]] * 2),
        ([2, 0], 60 / 2, [[0.5, 0.0, -0.5], nothing]),
    ):
        loss = F.softmax_focal_loss(logits, torch.tensor(classes, device=device), gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(loss.item(), want, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient.cpu(), torch.tensor(slopes), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("side", [512, 1024])
@each_in("overlap")
def test_dice_in_float16_does_not_overflow(case, side, device):
    half = torch.full((1, 2, side, side), 3.0, dtype=torch.float16, device=device, requires_grad=True)
    target = torch.ones((1, 2, side, side), dtype=torch.float16, device=device)
    loss = case.function(half, target)
    (gradient,) = torch.autograd.grad(loss * 65536, half)
    double = torch.full((1, 2, 8, 8), 3.0, dtype=torch.float64, requires_grad=True)
    want = case.function(double, torch.ones_like(double))
    (slope,) = torch.autograd.grad(want * 65536, double)
    torch.testing.assert_close(loss.item(), want.item(), rtol=1e-4, atol=1e-6)
    spread = slope.mean().half().item() * (8 / side) ** 2  # the same slope for each element, over more of them
    assert spread != 0
    torch.testing.assert_close(
        gradient.cpu().double(), torch.full_like(gradient.cpu().double(), spread), rtol=2e-3, atol=0
    )


@each_in("overlap")
def test_false_positives_on_an_empty_mask_cost(case, device):
    x = torch.zeros(2, 3, 8, 8, device=device, requires_grad=True)
    loss = case.function(x, torch.zeros_like(x), reduction="none")
    assert (loss > 0.99).all()
    case.function(x, torch.zeros_like(x), smooth_nr=1.0, smooth_dr=1.0).backward()
    assert (x.grad > 0).all(), "descent lowers the prediction"


def test_gradient_near_distance_zero(device):
    for eps in (0.0, 1e-30, 1e-20):
        a = torch.zeros(2, 64, device=device, requires_grad=True)
        b = torch.full((2, 64), eps, device=device, requires_grad=True)
        F.contrastive_loss(a, b, torch.tensor([1.0, 0.0], device=device), reduction="sum").backward()
        for leaf in (a, b):
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().max() <= 2.001, "at most twice the margin"


@pytest.mark.parametrize("n", [1, 2, 25, 26, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_contrastive_of_any_batch_in_any_dtype(n, dtype, device):
    a = torch.randn(n, 5, device=device).to(dtype).requires_grad_()
    b = torch.randn(n, 5, device=device).to(dtype)
    loss = F.contrastive_loss(a, b, torch.ones(n, device=device))
    (first,) = torch.autograd.grad(loss, a, create_graph=True)
    (second,) = torch.autograd.grad(first.float().square().sum(), a)
    want = 2 * first.detach().double() * 2 / n  # loss = mean |a - b|^2
    torch.testing.assert_close(second.double(), want, rtol=2e-2 if dtype is not torch.float32 else 1e-5, atol=1e-3)


def test_mean_does_not_divide_by_ignored(device):
    x = torch.randn(2, 3, 4, device=device)
    classes = torch.tensor([[0, 255, 1, 255], [255, 255, 2, 255]], device=device)
    binary = torch.where(torch.rand(2, 3, 4, device=device) < 0.5, 255.0, 1.0)
    binary[0, 0, 0] = 1.0
    for name, target, count in (
        ("cross_entropy", classes, 3),
        ("softmax_focal_loss", classes, 3),
        ("sigmoid_focal_loss", binary, int((binary == 1).sum())),
        ("weighted_binary_cross_entropy_with_logits", binary, int((binary == 1).sum())),
    ):
        function = getattr(F, name)
        total = function(x, target, ignore_index=255, reduction="sum")
        mean = function(x, target, ignore_index=255, reduction="mean")
        torch.testing.assert_close(mean, total / count)


@pytest.mark.parametrize("beta", [0.01, 0.5, 0.99])
def test_jensen_shannon_of_underflowing_probabilities(beta, device):
    for gap in (50.0, 200.0, 1e4):
        p = torch.tensor([[gap, 0.0, -gap]], device=device, requires_grad=True)
        q = torch.tensor([[-gap, 0.0, gap]], device=device, requires_grad=True)
        loss = F.js_div_with_logits(p, q, beta=beta)
        entropy = -(beta * torch.tensor(beta).log() + (1 - beta) * torch.tensor(1 - beta).log())
        torch.testing.assert_close(loss.item(), entropy.item(), rtol=1e-5, atol=1e-6)
        for gradient in torch.autograd.grad(loss, [p, q]):
            assert gradient.isfinite().all()
