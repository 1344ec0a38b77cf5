"""What a CUDA kernel refuses: values inside tensors, by an assertion. On a GPU that ends the context, so only the
emulated device runs these tests.
"""

from __future__ import annotations

import emulated_device
import pytest
import torch
from cases import BY_NAME
from emulated_device import emulated

from fused_losses import functional as F

pytestmark = pytest.mark.skipif(not emulated_device.BUILT, reason="not built: python tools/emulator.py")


def asserts(call, *words):
    """`call` fails an assertion of a kernel, and the next call works."""
    with emulated():
        with pytest.raises(RuntimeError, match="assertion `") as caught:
            call()
        problem = BY_NAME["mse_loss"].problem()
        assert problem.call().item() == pytest.approx(problem.call(problem.case.reference).item(), rel=1e-5)
    for word in words:
        assert word in str(caught.value), caught.value


@pytest.mark.promise(
    "What is refused",
    "On CUDA, where no value is read back, a class out of range is a device assertion.",
)
@pytest.mark.parametrize("where", [0, 40, 69])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("classes", [5, 40, 1030, 40000])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.softmax_focal_loss])
def test_class_index(loss, classes, dtype, where):
    if dtype is torch.uint8 and classes > 255:
        pytest.skip("every uint8 is a class")
    x, y = torch.randn(70, classes), torch.zeros(70, dtype=dtype)
    for wrong in (classes, -1) if dtype is not torch.uint8 else (classes,):
        y[where] = wrong
        for reduction in ("none", "mean", "sum"):
            asserts(lambda reduction=reduction: loss(x, y, reduction=reduction), "class index", "softmax.cuh")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("name", ["dice_loss", "jaccard_loss", "tversky_loss", "dice_cross_entropy_loss"])
def test_class_index_of_a_region(name, classes, activation):
    x, y = torch.randn(2, classes, 300), torch.zeros(2, 300, dtype=torch.int64)
    for wrong in (classes, -1):
        y[1, 299] = wrong
        asserts(lambda: getattr(F, name)(x, y, activation=activation), "class index", "overlap.cuh")


@pytest.mark.parametrize("where", [0, 40, 69])
def test_hinge_target(where):
    y = torch.ones(70)
    y[where] = 0.5
    asserts(lambda: F.hinge_loss(torch.randn(70), y), "elementwise.cu")


@pytest.mark.promise("What is refused", "On CUDA an integer mask of other values is a device assertion.")
def test_mask_of_an_integer_dtype():
    y = torch.zeros(70, dtype=torch.uint8)
    y[69] = 255
    asserts(lambda: F.binary_cross_entropy_with_logits(torch.randn(70), y), "elementwise.cu")


@pytest.mark.promise("What is refused", "On CUDA a number that is no probability is a device assertion.")
def test_probabilities():
    for wrong in (1.5, -0.25, float("inf")):
        x = torch.full((70,), 0.5)
        x[33] = wrong
        asserts(lambda x=x: F.binary_cross_entropy(x, torch.zeros(70)), "elementwise.cu")
        code = torch.zeros(7, 2)
        asserts(lambda x=x, z=code: F.vae_loss(x.view(7, 10), torch.zeros(7, 10), z, z), "row_sums.cuh")


def test_tokens():
    logits, target = torch.randn(2, 6, 9), torch.zeros(2, 5, dtype=torch.int64)
    target[1, 4] = 9
    asserts(lambda: F.expected_bleu_loss(logits, target), "class index in [0, V)")


@pytest.mark.parametrize("argument, longest", [("logits_lengths", 6), ("target_lengths", 5)])
def test_lengths(argument, longest):
    logits, target = torch.randn(2, 6, 9), torch.zeros(2, 5, dtype=torch.int64)
    for wrong in (longest + 1, -1):
        lengths = {argument: torch.tensor([longest, wrong])}
        asserts(lambda lengths=lengths: F.expected_bleu_loss(logits, target, **lengths), f"{argument} in [0, ")
