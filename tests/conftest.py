"""Devices, threads and hypothesis profiles shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import emulated_device
import pytest
import torch
from hypothesis import HealthCheck, settings

from fused_losses import _C

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; test_determinism sets its own numbers
    torch.set_num_threads(1)

CUDA = ["cuda"] if torch.cuda.is_available() else []
EMULATED = pytest.param(
    "emulated", marks=pytest.mark.skipif(not emulated_device.BUILT, reason="not built: python tools/emulator.py")
)


def pytest_generate_tests(metafunc):
    """Tests that take `device` run on each that is there; those marked `not_emulated` on the CPU and on a GPU."""
    if "device" in metafunc.fixturenames:
        real = metafunc.definition.get_closest_marker("not_emulated")
        metafunc.parametrize("device", ["cpu", *([] if real else [EMULATED]), *CUDA], indirect=True)


def pytest_report_header():
    emulated = "the emulated one" if emulated_device.BUILT else "no emulated one (python tools/emulator.py builds it)"
    return f"devices: the CPU, {emulated}, {'a GPU' if CUDA else 'no GPU'}"


@pytest.fixture
def device(request):
    """Where the tensors of a test are. On the emulated CUDA device they are the CPU's, and the ops are the emulated."""
    if request.param != "emulated":
        yield request.param
    else:
        with emulated_device.emulated():
            yield "cpu"


@pytest.fixture(scope="session")
def custom_folder():
    """Custom losses are compiled for this machine alone, into the tree's own build folder."""
    folder = Path(__file__).parents[1] / "build" / "custom"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSED_LOSSES_CUSTOM_ISA", "native")
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def gallery_built(custom_folder):
    """The losses of tests/gallery.py, compiled at once."""
    import gallery

    from fused_losses.custom.ahead import build_losses

    build_losses([value.custom for value in vars(gallery).values() if hasattr(value, "custom")])


@pytest.fixture(scope="module")
def mesh():
    """A mesh of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same random state and leaves the number of threads as it was."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def tile_bytes():
    """Sets the size of a tile; automatic again afterwards."""
    yield _C.set_tile_bytes
    _C.set_tile_bytes(0)


@pytest.fixture
def every_isa():
    """The instruction sets of this CPU; the automatic choice is restored afterwards."""
    yield _C.cpu_isas()
    _C.set_cpu_isa("")
