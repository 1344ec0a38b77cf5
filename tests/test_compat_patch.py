"""`compat.patch` on a library made for the test: what it replaces, says and gives back."""

from __future__ import annotations

import pickle
import sys
import types

import pytest
from torch import nn

from fused_losses import compat
from fused_losses.compat import _adapter, _patch

LIBRARY = """
import torch

def double(x, factor=2.0):
    return x * factor

class Loss(torch.nn.Module):
    def __init__(self, factor=2.0):
        super(Loss, self).__init__()
        self.factor = factor

    def forward(self, x):
        return self.scaled(x)

    def scaled(self, x):
        return x * self.factor

class Derived(Loss):
    def scaled(self, x):
        return x * self.factor + 1
"""


@pytest.fixture
def library(monkeypatch):
    """A library `fake_losses` with a module that imports a name of another, and adapters that add 100."""
    package, inner = types.ModuleType("fake_losses"), types.ModuleType("fake_losses.inner")
    exec(LIBRARY, inner.__dict__)
    for name in ("double", "Loss", "Derived"):
        getattr(inner, name).__module__ = "fake_losses.inner"
        setattr(package, name, getattr(inner, name))
    package.inner = inner
    for module in (package, inner):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    @_adapter.adapts("fake_losses.double")
    def double(x, factor=2.0):
        _adapter.needs(factor > 0, "factor <= 0")
        return x * factor + 100

    class Loss(_adapter.Adapter, peer="fake_losses.Loss"):
        def __init__(self, factor=2.0):
            pass

        def forward(self, x):
            _adapter.needs(self.factor > 0, "factor <= 0")
            return x * self.factor + 100

    class Derived(_adapter.Adapter, peer="fake_losses.Derived"):
        def __init__(self, factor=2.0):
            pass

        def forward(self, x):
            return x * self.factor + 101

    package.adapters = [double, Loss, Derived]
    return package


def test_patch_replaces_and_gives_back(library):
    before, early = library.Loss(), library.double
    patch = _patch.put_in_place(library.adapters)
    assert library.double(1) == library.inner.double(1) == 102
    assert library.Loss()(1) == before(1) == 102
    assert library.Derived()(1) == 103  # inherits the forward it has of its own
    assert isinstance(library.Loss(), nn.Module)
    assert early(1) == 2
    patch.undo()
    patch.undo()
    assert library.double is early
    assert library.Loss()(1) == before(1) == 2
    assert library.Derived()(1) == 3
    assert "forward" not in vars(library.Derived)


def test_patch_says_what_it_replaced(library):
    patch = _patch.put_in_place(library.adapters)
    assert [replaced.names for replaced in patch] == [
        ("fake_losses.double", "fake_losses.inner.double"),
        ("fake_losses.inner.Loss.forward",),
        ("fake_losses.inner.Derived.forward",),
    ]
    assert str(patch).count("\n") == 2
    assert str(patch).startswith("fake_losses.double, fake_losses.inner.double -> ")


def test_patch_as_a_context_manager(library):
    with _patch.put_in_place(library.adapters):
        assert library.Loss()(1) == 102
        with _patch.put_in_place(library.adapters) as again:
            assert not again
        assert library.double(1) == 102
    assert library.double(1) == library.Loss()(1) == 2
    with pytest.raises(KeyError), _patch.put_in_place(library.adapters):
        raise KeyError
    assert library.Loss()(1) == 2


def test_a_function_imported_before_is_pickled_only_unpatched(library):
    early = library.double
    with _patch.put_in_place(library.adapters), pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(early)
    assert pickle.loads(pickle.dumps(early)) is early


def test_what_cannot_be_expressed_is_the_librarys(library):
    loss = library.Loss(-1.0)
    with _patch.put_in_place(library.adapters):
        assert loss(1) == -1
        assert library.double(1, -1.0) == -1
    adapter = library.adapters[1]
    assert adapter(-1.0)(1) == -1
    assert adapter(3.0)(1) == 103


def test_a_subclass_keeps_the_librarys_forward(library):
    class Own(library.Loss):
        def scaled(self, x):
            return x - 1

    class WithForward(library.Loss):
        def forward(self, x):
            return super().forward(x) + 5

    with _patch.put_in_place(library.adapters):
        assert Own()(1) == 0
        assert WithForward()(1) == 7


def test_a_subclass_of_a_drop_in_has_no_hooks_that_nothing_calls(library, monkeypatch):
    _, Loss, _ = library.adapters

    class Mixed:
        def scaled(self, x):
            return x

    class Own(Loss):
        def __init__(self):
            super().__init__(3.0)
            self.scaled_once = True

        def other(self, x):
            return x

        def extra_repr(self):
            return "own"

    assert Own()(1) == 103
    message = r"^Bad: expected fake_losses.Loss as the base of a class that has scaled, got its drop-in$"
    with pytest.raises(TypeError, match=message):
        type("Bad", (Own,), {"scaled": Mixed.scaled})
    with pytest.raises(TypeError, match=message):
        type("Bad", (Mixed, Loss), {})
    monkeypatch.setattr(_adapter.Peer, "original", None)
    assert type("Alone", (Mixed, Loss), {})()(1) == 102


def test_a_module_imported_while_patched_is_given_back_too(library, monkeypatch):
    with _patch.put_in_place(library.adapters):
        late = types.ModuleType("fake_losses.late")
        late.double = library.double
        monkeypatch.setitem(sys.modules, late.__name__, late)
    assert late.double(1) == 2


def test_another_version_is_refused_whole(library):
    class Loss(_adapter.Adapter, peer="fake_losses.Loss"):
        def __init__(self, factor=2.0, other=None):
            pass

        def forward(self, x):
            return x

    with pytest.raises(RuntimeError, match=r"patch: expected fake_losses.Loss\(.*other.*, got .*: another version"):
        _patch.put_in_place([library.adapters[0], Loss])
    assert library.double(1) == library.Loss()(1) == 2


@pytest.mark.parametrize("version, oldest", [("0.8.1", "0.9"), ("1.9.3", "2.10"), ("2.9", "2.10")])
def test_an_older_release_is_refused_whole(library, version, oldest, monkeypatch):
    """Under the same signature its rules may be others."""
    release = tuple(map(int, oldest.split(".")))
    monkeypatch.setitem(_adapter.RELEASES, "fake_losses", (release, release))
    monkeypatch.setattr(library, "__version__", version, raising=False)
    said = f"expected fake_losses of version {oldest} or newer, got {version}$"
    with pytest.raises(RuntimeError, match=f"^patch: {said}"):
        _patch.put_in_place(library.adapters)
    assert library.double(1) == library.Loss()(1) == 2
    double, Loss, _ = library.adapters
    assert Loss()(1) == 102
    for call, path in ((lambda: double(1, -1.0), "double"), (lambda: Loss(-1.0)(1), "Loss")):
        with pytest.raises(RuntimeError, match=f"^fake_losses.{path}: {said}"):
            call()
    with pytest.raises(TypeError):
        double()


def test_a_newer_release_is_patched_with_a_warning(library, monkeypatch):
    monkeypatch.setitem(_adapter.RELEASES, "fake_losses", ((1, 2), (1, 9)))
    monkeypatch.setattr(library, "__version__", "1.10.0", raising=False)
    with pytest.warns(UserWarning, match=r"^patch: compared with fake_losses 1.9, found 1.10.0$") as said:
        _patch.put_in_place(library.adapters).undo()
    assert len(said) == 1


def test_every_library_has_known_releases():
    assert _adapter.RELEASES.keys() == compat.LIBRARIES.keys()
    assert all(oldest <= newest for oldest, newest in _adapter.RELEASES.values())


def test_a_library_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(_adapter.Peer, "original", None)
    with pytest.raises(ModuleNotFoundError, match="patch: expected monai to be installed, got none"):
        compat.patch("monai")
    compat.unpatch()
    compat.unpatch("monai")


@pytest.mark.parametrize("function", [compat.patch, compat.unpatch])
def test_patch_knows_its_libraries(function):
    with pytest.raises(ValueError, match=r"patch: expected libraries among kornia, monai, .*, pml, smp, got 'torch'"):
        function("monai", "torch")
    with pytest.raises(ValueError, match=r"patch: expected libraries among .*, got \['monai'\]"):
        function(["monai"])
    if function is compat.patch:
        with pytest.raises(ValueError, match=r"expected libraries among .*, got none"):
            function()
