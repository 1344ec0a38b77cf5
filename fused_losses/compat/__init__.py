"""Drop-in classes and functions of other libraries, and `patch`, which puts them inside an installed one.

`compat.monai.DiceLoss` has the constructor, call, defaults, shapes, result dtype and exceptions of
`monai.losses.DiceLoss`. What the fused losses cannot express goes to the library's own class where it is installed,
else it raises one sentence that names the option. No library is imported before it is needed.
"""

from __future__ import annotations

from types import ModuleType

from . import kornia, monai, open_clip, pml, smp, torchvision
from ._patch import Patch, give_back, put_in_place

__all__ = ["kornia", "monai", "open_clip", "patch", "pml", "smp", "torchvision", "unpatch"]

LIBRARIES = {
    "kornia": kornia, "monai": monai, "open_clip": open_clip, "pytorch_metric_learning": pml,
    "segmentation_models_pytorch": smp, "torchvision": torchvision,
}  # fmt: skip
_SHORT = {"pml": "pytorch_metric_learning", "smp": "segmentation_models_pytorch"}
_NAMES = ", ".join([*LIBRARIES, *_SHORT])


def patch(*libraries: str) -> Patch:
    """Lets installed libraries compute their losses with the fused ones: one line at the start of a program.

        from fused_losses import compat
        print(compat.patch("monai"))

    Args:
        libraries: names among "kornia", "monai", "open_clip", "pytorch_metric_learning" (or "pml"),
            "segmentation_models_pytorch" (or "smp") and "torchvision".

    Returns:
        What was replaced: prints a line for each class and function, and as a context manager gives the library back
        at the end of the block.

    Of a class the ``forward`` is replaced: instances that exist and names imported before are served too; a subclass
    with a forward of the library's keeps it. A function is replaced under every name inside its library; a name that
    a program has imported before stays the library's own. Classes and functions without an adapter stay as they are.
    Raises ValueError on another name, ModuleNotFoundError where a library is not installed and RuntimeError where it
    is an older release or takes other arguments; then nothing is replaced. Warns of a release newer than those that
    the adapters are compared with.
    """
    return put_in_place([adapter for module in _modules("patch", libraries) for adapter in _adapters(module)])


def unpatch(*libraries: str) -> None:
    """Gives the libraries (default: all) back what :func:`patch` has replaced; does nothing where nothing was."""
    modules = _modules("unpatch", libraries or tuple(LIBRARIES))
    give_back([adapter for module in modules for adapter in _adapters(module) if adapter.peer.found is not None])


def _modules(name: str, libraries: tuple[str, ...]) -> list[ModuleType]:
    if not libraries:
        raise ValueError(f"{name}: expected libraries among {_NAMES}, got none")
    found = [isinstance(name, str) and LIBRARIES.get(_SHORT.get(name, name)) for name in libraries]
    unknown = [name for name, module in zip(libraries, found) if not module]
    if unknown:
        raise ValueError(f"{name}: expected libraries among {_NAMES}, got {unknown[0]!r}")
    return found


def _adapters(module: ModuleType) -> list:
    return [getattr(module, name) for name in module.__all__]
