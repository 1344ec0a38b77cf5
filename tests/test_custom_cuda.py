"""The CUDA side of custom losses: on the emulated device, through nvcc, and on a GPU where there is one."""

from __future__ import annotations

import shutil
import subprocess

import emulated_custom
import emulated_device
import gallery
import pytest
import test_custom_gallery as on_the_cpu
import torch

from fused_losses.custom import builder

# Of one to four tensors, with and without options, with ignored elements, a loss each of the other families.
ELEMENTWISE = [gallery.lsgan_generator, gallery.log_cosh, gallery.distillation, gallery.student_t_nll,
               gallery.asymmetric_focal]  # fmt: skip
OTHERS = {
    gallery.generalized_cross_entropy: on_the_cpu.test_softmax,
    gallery.matthews: on_the_cpu.test_overlap,
    gallery.triplet: on_the_cpu.test_row_sums,
    gallery.mahalanobis_hinge: on_the_cpu.test_row_sums,
}


@pytest.fixture(scope="module")
def emulated(gallery_built):
    if not emulated_device.BUILT or emulated_device.KIND != "plain":
        pytest.skip("no emulated device: python tools/emulator.py")
    emulated_device.device()
    emulated_custom.load([*ELEMENTWISE, *OTHERS])


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
def test_elementwise_on_the_emulated_device(emulated, loss):
    same = on_the_cpu.TestElementwise()
    with emulated_device.emulated():
        assert loss.op.forward.name().startswith(emulated_custom.NAMESPACE)
        same.test_values_and_gradients(None, loss)
        same.test_half_precision(None, loss)
        same.test_layouts(None, loss)
    assert loss.op.forward.name().startswith("fused_losses_custom::")


@pytest.mark.parametrize("loss", OTHERS, ids=lambda f: f.__name__)
def test_other_families_on_the_emulated_device(emulated, loss):
    with emulated_device.emulated():
        OTHERS[loss](None, loss)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_the_generated_source(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "nvcc", lambda: shutil.which("nvcc"))
    losses = [gallery.asymmetric_focal, gallery.mahalanobis_hinge]
    functors = {loss.custom.op_name: loss.custom.functor for loss in losses}
    units = builder.write_sources(tmp_path, functors, "cuda")
    command = builder.compile_command(tmp_path, "cuda")
    started = [
        subprocess.Popen([*command, "-c", unit, "-o", unit.with_suffix(".o")], stderr=subprocess.PIPE, text=True)
        for unit in units
    ]
    for unit, process in zip(units, started):
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert b"sm_90" in unit.with_suffix(".o").read_bytes()


ON_A_GPU = {
    gallery.log_cosh: lambda: (list(torch.randn(2, 61, 53)), []),
    gallery.generalized_cross_entropy: lambda: ([torch.randn(4, 5, 3)], [torch.arange(12).view(4, 3) % 5]),
    gallery.matthews: lambda: ([torch.randn(2, 3, 4, 5)], [(torch.rand(2, 3, 4, 5) > 0.5).float()]),
    gallery.triplet: lambda: (list(torch.randn(3, 4, 100)), []),
}


@pytest.fixture(scope="module")
def built_for_the_gpu(custom_folder):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    functors = {loss.custom.op_name: loss.custom.functor for loss in ON_A_GPU}
    if any(builder.find(name, "cuda") is None for name in functors):
        builder.build(functors, "cuda")


@pytest.mark.parametrize("loss", ON_A_GPU, ids=lambda f: f.__name__)
def test_on_a_gpu(built_for_the_gpu, loss):
    """Its own kernel, and the numbers of the plain function."""
    leaves, others = ([t.cuda() for t in tensors] for tensors in ON_A_GPU[loss]())
    on_the_cpu.same(loss, leaves, others)
    assert loss.custom.op.has_cuda_kernel
