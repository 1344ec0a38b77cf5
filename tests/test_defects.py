"""Defects of other libraries' releases, each a test that this one is free of it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from cases import CASES, each_case
from problems import as_tuple, differentiable, gradients, incoming
from tolerances import assert_agrees

from fused_losses import functional as F

OVERLAP = ["dice_loss", "jaccard_loss", "tversky_loss"]
NDCG = ["approx_ndcg_loss", "lambda_ndcg_loss"]


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("x", [40.0, -40.0, 88.0, 200.0, 1e4])
def test_sigmoid_focal_gradient_below_gamma_one_is_no_nan(x, gamma, device):
    """torchvision, SMP: NaN at x = 40, gamma = 0.5."""
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
    """MONAI: NaN where the softmax is 1."""
    logits = torch.tensor([[60.0, -60.0, 0.0], [1e4, -1e4, 0.0]], device=device, requires_grad=True)
    for classes in ([0, 0], [1, 1], [2, 0]):
        loss = F.softmax_focal_loss(logits, torch.tensor(classes, device=device), gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("name", OVERLAP)
def test_dice_in_float16_does_not_overflow(name, side, device):
    """MONAI, SMP: the sum over 512 x 512 halves is infinite."""
    half = torch.full((1, 2, side, side), 3.0, dtype=torch.float16, device=device, requires_grad=True)
    target = torch.ones((1, 2, side, side), dtype=torch.float16, device=device)
    loss = getattr(F, name)(half, target)
    (gradient,) = torch.autograd.grad(loss * 65536, half)
    double = torch.full((1, 2, 8, 8), 3.0, dtype=torch.float64)
    want = getattr(F, name)(double, torch.ones_like(double))
    torch.testing.assert_close(loss.item(), want.item(), rtol=1e-4, atol=1e-6)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("name", OVERLAP)
def test_false_positives_on_an_empty_mask_cost(name, device):
    """SMP: an empty mask gives loss 0 and gradient 0 whatever was predicted."""
    x = torch.zeros(2, 3, 8, 8, device=device, requires_grad=True)
    loss = getattr(F, name)(x, torch.zeros_like(x), reduction="none")
    assert (loss > 0.99).all()
    getattr(F, name)(x, torch.zeros_like(x), smooth_nr=1.0, smooth_dr=1.0).backward()
    assert (x.grad > 0).all(), "descent lowers the prediction"


def test_gradient_at_distance_zero(device):
    """Siamese codes: sqrt at 0 gives NaN or gradients of 4e5."""
    for eps in (0.0, 1e-30, 1e-20):
        a = torch.zeros(2, 64, device=device, requires_grad=True)
        b = torch.full((2, 64), eps, device=device, requires_grad=True)
        F.contrastive_loss(a, b, torch.tensor([1.0, 0.0], device=device), reduction="sum").backward()
        for leaf in (a, b):
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().max() <= 2.001, "at most twice the margin"
    c = torch.zeros(2, 8, device=device, requires_grad=True)
    F.contrastive_loss(c, c, torch.tensor([1.0, 0.0], device=device)).backward()
    assert not c.grad.any()


def test_gradient_at_the_mean(device):
    x = torch.ones(3, 4, device=device, requires_grad=True)
    F.mahalanobis_distance(x, torch.ones(4, device=device), torch.eye(4, device=device)).sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("n", [1, 2, 25, 26, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_contrastive_of_any_batch_in_any_dtype(n, dtype, device):
    """PML: torch.cdist raises in bf16, and under double backward below 26 rows."""
    a = torch.randn(n, 5, device=device).to(dtype).requires_grad_()
    b = torch.randn(n, 5, device=device).to(dtype)
    loss = F.contrastive_loss(a, b, torch.ones(n, device=device))
    (first,) = torch.autograd.grad(loss, a, create_graph=True)
    (second,) = torch.autograd.grad(first.float().square().sum(), a)
    want = 2 * first.detach().double() * 2 / n  # loss = mean |a - b|^2
    torch.testing.assert_close(second.double(), want, rtol=2e-2 if dtype is not torch.float32 else 1e-5, atol=1e-3)


@each_case
def test_second_order_terms_are_not_dropped(case, device):
    """apex, Liger, flash-attn, fused-ssim return a saved gradient without a graph."""
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    for reduction in case.reductions:
        mine = problem.leaves([name])
        outputs = differentiable(mine.call(None, reduction))
        ones = incoming(outputs, "one")
        (first,) = torch.autograd.grad(outputs, mine.arguments[name], ones, create_graph=True)
        assert first.requires_grad, f"{reduction}: the gradient has no graph"


@each_case
def test_second_backward_is_the_first(case, device):
    """apex focal, Liger: the saved gradient is scaled in place."""
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    for reduction in case.reductions:
        mine = problem.leaves([name])
        leaf, outputs = mine.arguments[name], differentiable(mine.call(None, reduction))
        scaled = [torch.full_like(o, 3.0) for o in outputs]
        first = torch.autograd.grad(outputs, leaf, scaled, retain_graph=True)[0]
        second = torch.autograd.grad(outputs, leaf, scaled)[0]
        assert torch.equal(first, second), reduction
        assert first.data_ptr() != second.data_ptr()


@each_case
def test_input_survives_the_backward(case, device):
    """Liger's cross-entropy overwrites the logits with their gradient."""
    problem = case.problem(None, torch.float32, device)
    mine = problem.leaves(case.fused)
    copies = {n: t.detach().clone() for n, t in mine.arguments.items() if isinstance(t, torch.Tensor)}
    total = sum(o.sum() for o in as_tuple(mine.call(None, case.reduced())))
    total.backward()
    for n, copy in copies.items():
        assert torch.equal(mine.arguments[n].detach(), copy), n
        grad = mine.arguments[n].grad
        assert grad is None or grad.data_ptr() != mine.arguments[n].data_ptr()


@each_case
def test_gradient_without_reduction(case, device):
    """Liger 678, 968: reduction "none" ignores the incoming gradient of each element."""
    if "none" not in case.reductions:
        pytest.skip("always reduced")
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    mine = problem.leaves([name])
    each = as_tuple(mine.call(None, "none"))[0]
    chosen = torch.zeros_like(each)
    chosen.view(-1)[-1] = 2.0
    (found,) = torch.autograd.grad(each, mine.arguments[name], chosen)
    double = problem.double().leaves([name])
    want_each = as_tuple(double.call(case.reference, "none"))[0]
    (want,) = torch.autograd.grad(want_each, double.arguments[name], chosen.double().cpu())
    assert_agrees(found, want, n_terms=problem.n_terms)


@each_case
def test_same_bits_every_time(case, device):
    """apex focal: float atomics add in the order of arrival."""
    problem = case.problem(None, torch.float32, device, case.big)
    outputs, found = gradients(problem, [case.fused[0]], None, case.reduced())
    for _ in range(3):
        again, again_found = gradients(problem, [case.fused[0]], None, case.reduced())
        for a, b in zip((*outputs, *found.values()), (*again, *again_found.values())):
            assert torch.equal(a, b)


def test_mean_does_not_divide_by_ignored(device):
    """SMP, kornia: ignored pixels stay in the denominator."""
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


@pytest.mark.parametrize("name", ["cross_entropy", "softmax_focal_loss", *OVERLAP])
def test_labels_out_of_range_are_not_read(name):
    """apex, mmcv read out of bounds."""
    x = torch.randn(2, 3, 4)
    options = {"activation": "softmax"} if name in OVERLAP else {}
    for label in (3, 2**31 + 1, -5):
        target = torch.zeros(2, 4, dtype=torch.int64)
        target[1, 3] = label
        with pytest.raises((RuntimeError, IndexError), match=str(label)):
            getattr(F, name)(x, target, **options)


@each_case
def test_same_under_compile(case, device):
    """Liger 1338: the loss is wrong under torch.compile, here with two incoming gradients."""
    problem = case.problem(None, torch.float32, device)
    name = case.fused[0]
    compiled = torch.compile(case.function, backend="aot_eager", fullgraph=True)
    for factor in (1.0, -2.5):
        results = []
        for function in (case.function, compiled):
            mine = problem.leaves([name])
            total = sum(o.sum() for o in as_tuple(mine.call(function, case.reduced()))) * factor
            results.append((total.detach(), torch.autograd.grad(total, mine.arguments[name])[0]))
        for a, b in zip(*results):
            assert_agrees(a, b.double(), n_terms=problem.n_terms)
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_cpu_kernel_in_every_dtype(case):
    """mmcv, apex, Liger have no CPU kernel."""
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        outputs, found = gradients(case.problem(None, dtype), [case.fused[0]], None, case.reduced())
        assert all(o.isfinite().all() for o in outputs)
        assert found[case.fused[0]].isfinite().all()
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fused_losses::{case.name}", "CPU")


def test_divergence_of_a_log_target_of_minus_infinity(device):
    """torch: NaN."""
    target = torch.tensor([[0.5, 0.5, 0.0]], device=device).log().requires_grad_()
    input = torch.tensor([[0.25, 0.5, 0.25]], device=device).log().requires_grad_()
    loss = F.kl_div(input, target, "sum", log_target=True)
    torch.testing.assert_close(loss.item(), 0.5 * torch.tensor(2.0).log().item())
    loss.backward()
    assert target.grad.isfinite().all()
    assert target.grad[0, 2] == 0
    torch.testing.assert_close(input.grad, torch.tensor([[-0.5, -0.5, 0.0]], device=device))


@pytest.mark.parametrize("beta", [0.01, 0.5, 0.99])
def test_jensen_shannon_of_underflowing_probabilities(beta, device):
    """Liger 1453: NaN where a probability underflows."""
    for gap in (50.0, 200.0, 1e4):
        p = torch.tensor([[gap, 0.0, -gap]], device=device, requires_grad=True)
        q = torch.tensor([[-gap, 0.0, gap]], device=device, requires_grad=True)
        loss = F.js_div_with_logits(p, q, beta=beta)
        entropy = -(beta * torch.tensor(beta).log() + (1 - beta) * torch.tensor(1 - beta).log())
        torch.testing.assert_close(loss.item(), entropy.item(), rtol=1e-5, atol=1e-6)
        for gradient in torch.autograd.grad(loss, [p, q]):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NDCG)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_padded_slate_and_half_precision(name, dtype, device):
    """allRank: NaN on a fully padded slate; the lambda loss fails in fp16."""
    scores = torch.randn(2, 5, device=device).to(dtype).requires_grad_()
    relevance = torch.tensor([[3.0, 0, 1, 2, 0]] * 2, device=device)
    mask = torch.tensor([[True] * 5, [False] * 5], device=device)
    loss = getattr(F, name)(scores, relevance, mask=mask)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()
    assert not scores.grad[1].any()
    assert scores.grad[0].any()


def test_import_does_not_need_a_compiler_or_cuda():
    """flash-attn, apex, gsplat fail at install or import; here importing runs no compiler and touches no GPU."""
    code = (
        "import sys, torch, fused_losses; assert not torch.cuda.is_initialized(); "
        "assert 'torch.utils.cpp_extension' not in sys.modules; "
        "print(fused_losses.functional.__all__[0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_no_value_of_a_tensor_is_read_in_python():
    """Liger, mmcv: `.item()`, `torch.equal`, `target.max()` stop the GPU at every step."""
    for name in F.__all__:
        source = inspect.getsource(inspect.unwrap(getattr(F, name)))
        for word in (".item(", "torch.equal", ".max()", ".min()", ".tolist(", ".any()", ".all()", ".cpu()"):
            assert word not in source, f"{name} reads values: {word}"
