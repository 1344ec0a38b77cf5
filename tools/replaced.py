"""Writes into docs/migration.md what `patch` replaces in a library, what computes it, what is left to the library.

All of it is read from the code of the adapters: their peers, and the fused losses that they call and what they refuse
with `needs`, themselves or in the functions that they reach.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from fused_losses import compat
from fused_losses.compat import _targets

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
NAMED = re.compile(r"\b\w+(?==)|\b[a-z]+_[a-z_]+\b")  # arguments in a sentence
CODE = re.compile(r"\b\w+=[^\s,]+|\b[a-z]+_[a-z_]+\b")  # with their values
HEAD = ["| replaced | computed by | left to the library |", "|---|---|---|"]


class Adapters:
    """The adapters of a module, as they are written."""

    def __init__(self, module):
        self.module = module
        self.definitions = {}
        for source in (_targets, module):
            body = ast.parse(inspect.getsource(source)).body
            self.definitions |= {d.name: d for d in body if isinstance(d, (ast.FunctionDef, ast.ClassDef))}

    def reached(self, name: str) -> list[ast.FunctionDef]:
        """The adapter's function, or its forward, and the functions that lie in the module and are called from it."""
        first = self.definitions[name]
        if isinstance(first, ast.ClassDef):
            first = next(d for d in first.body if getattr(d, "name", "") == "forward")
        found, seen = [first], {name}
        for definition in found:
            named = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
            new = [n for n in self.definitions if n in named - seen]
            seen.update(new)
            found += [self.definitions[n] for n in new if isinstance(self.definitions[n], ast.FunctionDef)]
        return found

    def refusals(self, name: str) -> list[str]:
        """What the adapter refuses, of what its arguments can say."""
        arguments = self.arguments(name)
        calls = [node for d in self.reached(name) for node in ast.walk(d) if isinstance(node, ast.Call)]
        said = [_said(call.args[1]) for call in calls if getattr(call.func, "id", "") == "needs"]
        return [
            text for text in dict.fromkeys(said)
            if text and (arguments is None or all(named in arguments for named in NAMED.findall(text)))
        ]  # fmt: skip

    def arguments(self, name: str) -> set[str] | None:
        """The names of its arguments; None where it takes any."""
        adapter = getattr(self.module, name)
        functions = [adapter.__init__, adapter.forward] if inspect.isclass(adapter) else [adapter]
        parameters = [p for function in functions for p in inspect.signature(function).parameters.values()]
        return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}

    def fused(self, name: str) -> str:
        """The fused losses that it calls."""
        attributes = [node for d in self.reached(name) for node in ast.walk(d) if isinstance(node, ast.Attribute)]
        called = dict.fromkeys(a.attr for a in attributes if getattr(a.value, "id", "") == "F")
        return ", ".join(f"`{loss}`" for loss in called) or "plain PyTorch"


def _said(what: ast.expr) -> str:
    """What a refusal says, … for what depends on the call; nothing where all of it does."""
    if isinstance(what, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in what.values)
    return what.value if isinstance(what, ast.Constant) else ""


def table(module) -> str:
    """The adapters of a module, a row each."""
    written = Adapters(module)
    rows = []
    for name in module.__all__:
        peer = getattr(module, name).peer
        left = "; ".join(CODE.sub(r"`\g<0>`", text) for text in written.refusals(name))
        rows.append(f"| `{peer.path}` | {written.fused(name)} | {left} |")
    return "\n".join([*HEAD, *rows])


def page() -> str:
    """The page with today's tables."""
    text = PAGE.read_text()
    for library, module in compat.LIBRARIES.items():
        begin, end = f"<!-- {library} replaced:begin -->", f"<!-- {library} replaced:end -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{table(module)}\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    for library, module in compat.LIBRARIES.items():
        print(library, table(module), sep="\n")
