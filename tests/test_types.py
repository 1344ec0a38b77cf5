"""py.typed: a user's file that calls every function and Module, checked by pyright in strict mode.

The right calls are those of the test cases. In the wrong ones each argument in turn is something else; a comment
ignores the error there, and an error that does not come is one for the comment.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import CASES
from problems import Case, Variant

import fused_losses
from fused_losses import compat, custom

PACKAGE = Path(fused_losses.__file__).parent
HEAD = """
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import assert_type

import fused_losses
import fused_losses.functional as F
from fused_losses import compat, custom, reference
from fused_losses import build_info


class Wrong:
    pass


tensor = torch.zeros(1)
assert_type(fused_losses.fit_gaussian(tensor, shrinkage=0.1), tuple[Tensor, Tensor])
assert_type(fused_losses.__version__, str)
fused_losses.fit_gaussian(Wrong())  # type: ignore[arg-type]
fused_losses.no_such_name  # type: ignore[attr-defined]
print(build_info()["cpu"])


@custom.elementwise
def relative(input: Tensor, target: Tensor, *, scale: float = 1.0) -> Tensor:
    return (input - target).abs() / scale


@custom.softmax(name="poly")
def poly(log_p: Tensor, p: Tensor) -> Tensor:
    return 1 - p - log_p


assert_type(relative(tensor, tensor, scale=2.0, reduction="sum"), Tensor)
assert_type(poly(tensor, tensor), Tensor)
print(relative.Module(scale=2.0), relative.reference, relative.source, custom.cache_info(), custom.build("losses.py"))
F.clip_loss(tensor, tensor, None)  # type: ignore[arg-type]
F.siglip_loss(tensor, tensor, tensor, None)  # type: ignore[arg-type]
F.nt_xent_loss(tensor, tensor, temperature=None)  # type: ignore[arg-type]
F.info_nce_loss(tensor, tensor, temperature=None)  # type: ignore[arg-type]
fused_losses.SupConLoss(temperature=None)  # type: ignore[arg-type]
custom.elementwise(Wrong())  # type: ignore[arg-type]
custom.overlap(relative, no_option=1)  # type: ignore[call-arg]
custom.row_sums(relative)  # type: ignore[call-arg]
assert_type(F.clip_loss(tensor, tensor, tensor, group=dist.group.WORLD), Tensor)
assert_type(fused_losses.LinearCrossEntropyLoss(group=dist.group.WORLD)(tensor, tensor, tensor), Tensor)
with compat.patch("monai"):
    compat.unpatch()
"""
WRONG = "  # type: ignore[arg-type]"
MADE_WITH = {"mode": "'binary'", "alpha": "0.5", "beta": "0.5"}  # what some adapters have to be given


def module_of(case: Case) -> type:
    classes = (getattr(fused_losses, name) for name in fused_losses.__all__)
    return next(c for c in classes if getattr(c, "function", None) is case.function)


def written(arguments: dict) -> str:
    """Arguments of a call; a tensor, or what is drawn as one, is the variable `tensor`."""
    shown = {k: "tensor" if isinstance(v, torch.Tensor) or callable(v) else repr(v) for k, v in arguments.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def right_calls(case: Case, variant: Variant) -> list[str]:
    """The function, its reference and its Module with the variant's arguments and each reduction."""
    tensors, cls = case.problem(variant).tensors, module_of(case)
    of_call = {name: value for name, value in tensors.items() if name in cls.tensors}
    given = {**tensors, **variant.options}
    called = {name: value for name, value in given.items() if name in cls.tensors}
    options = {name: value for name, value in given.items() if name not in called}
    assert of_call.items() <= called.items()
    result = "Tensor" if case.function.op.losses == 1 else "tuple[Tensor, Tensor, Tensor]"
    lines = []
    for reduction in [r for r in case.reductions if r is not None] or [None]:
        reduced = {} if reduction is None else {"reduction": reduction}
        arguments = written({**given, **reduced})
        lines += [f"assert_type({space}.{case.name}({arguments}), {result})" for space in ("F", "reference")]
        made = f"fused_losses.{cls.__name__}({written({**options, **reduced})})"
        lines += [f"assert_type({made}({written(called)}), {result})"]
    return lines


def wrong_calls(case: Case) -> list[str]:
    """Each argument in turn an object of no use, and each word one that is no choice."""
    cls, lines = module_of(case), []
    needed = {name: torch.zeros(1) for name in case.problem().tensors}
    for name, parameter in inspect.signature(case.function).parameters.items():
        for value in ["Wrong()", *(["'no choice'"] if isinstance(parameter.default, str) else [])]:
            others = written({n: v for n, v in needed.items() if n != name})
            lines.append(f"F.{case.name}({', '.join(filter(None, [others, f'{name}={value}']))}){WRONG}")
            if name not in cls.tensors:
                others = written({n: v for n, v in needed.items() if n not in cls.tensors and n != name})
                made = ", ".join(filter(None, [others, f"{name}={value}"]))
                lines.append(f"fused_losses.{cls.__name__}({made}){WRONG}")
    given = written({n: v for n, v in needed.items() if n not in cls.tensors})
    others = written({n: v for n, v in needed.items() if n in cls.tensors[1:]})
    made = f"fused_losses.{cls.__name__}({given})"
    lines.append(f"{made}({', '.join(filter(None, [f'{cls.tensors[0]}=Wrong()', others]))}){WRONG}")
    lines.append(
        f"fused_losses.{cls.__name__}({', '.join(filter(None, [given, 'no_option=1']))})  # type: ignore[call-arg]"
    )
    return lines


def adapters() -> list[tuple[str, Callable]]:
    return [
        (f"compat.{module.__name__.rpartition('.')[2]}.{name}", getattr(module, name))
        for module in compat.LIBRARIES.values()
        for name in module.__all__
    ]


def calls_of_adapter(path: str, adapter: Callable) -> list[str]:
    """With what has to be given, each option as it is by default, and each in turn an object of no use."""

    def parts(function, own=()):
        found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        given = [p for p in found if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        needed = [f"{p.name}={'tensor' if p in given[:2] and own else MADE_WITH.get(p.name, 'tensor')}" for p in given]
        return needed, [p for p in found if p.default not in (p.empty, None)], found[-1].kind is found[-1].VAR_KEYWORD

    def written(called, needed, *more):
        return f"{called}({', '.join([*needed, *more])})"

    needed, options, takes_all = parts(adapter, own=inspect.isfunction(adapter))
    wrong = [f"{written(path, needed, f'{p.name}=Wrong()')}{WRONG}" for p in options]
    if not takes_all:
        wrong.append(f"{written(path, needed, 'no_option=1')}  # type: ignore[call-arg]")
    right = written(path, needed, *(f"{p.name}={p.default!r}" for p in options))
    if inspect.isclass(adapter):
        needed, options, _ = parts(adapter.forward, own=True)
        wrong += [f"{written(right, [needed[0]], 'no_option=1', *needed[1:])}  # type: ignore[call-arg]"]
        wrong += [f"{written(right, [needed[0].replace('tensor', 'Wrong()'), *needed[1:]])}{WRONG}"]
        right = written(right, needed, *(f"{p.name}={p.default!r}" for p in options))
    result = "Any" if "output_dict" in right else "Tensor"
    return [f"assert_type({right}, {result})", *wrong]


def users_file() -> str:
    lines = [line for case in CASES for v in case.all_variants for line in right_calls(case, v)]
    lines += [line for case in CASES for line in wrong_calls(case)]
    lines += [line for path, adapter in adapters() for line in calls_of_adapter(path, adapter)]
    return HEAD + "\n".join(dict.fromkeys(lines)) + "\n"


def test_types_hold_in_strict_mode(tmp_path):
    pytest.importorskip("pyright", reason="needs pyright, as in the extra `test`")
    (tmp_path / "usage.py").write_text(users_file())
    settings = {
        "include": ["usage.py"], "typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": "error",
        "extraPaths": [str(PACKAGE.parent)],
    }  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=tmp_path)
    report = json.loads(done.stdout)
    lines = (tmp_path / "usage.py").read_text().splitlines()
    found = [f"{lines[d['range']['start']['line']]}\n    {d['message']}" for d in report["generalDiagnostics"]]
    assert report["summary"]["filesAnalyzed"] == 1
    assert not found, "\n".join(found[:20])


def test_stub_of_custom_losses_has_the_arguments_of_the_functions():
    stub = ast.parse((PACKAGE / "custom" / "__init__.pyi").read_text())
    functions = [node for node in stub.body if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in functions} == set(custom.__all__)
    for node in functions:
        every = (*node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg)
        written = [argument.arg for argument in every if argument]
        assert written == list(inspect.signature(getattr(custom, node.name)).parameters), node.name
