"""The C++ of a loss: its functor, as the drivers of its family take them, and the table of a library of losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .._op import argument_names
from .emitter import Code
from .expressions import Expr, fresh

INDENT = "  "


@dataclass(frozen=True)
class Functor:
    """What a table of losses says of one, and its text."""

    family: str
    differentiable: str
    options: int
    text: str = field(repr=False)  # with the loss's name as NAME
    ignores: bool = False
    labelled: bool = False  # a row has a number that goes with it

    def row(self, name: str) -> str:
        options = " ".join([f"custom_{i}" for i in range(self.options)] + self.family_options())
        return f'X({name}, {functor_name(name)}, "{self.differentiable}", "{options}")'

    def family_options(self) -> list[str]:
        if self.family == "elementwise":
            return ["ignore_index"] * self.ignores
        return list(FAMILY_OPTIONS[self.family])

    @property
    def differentiable_bits(self) -> int:
        """As `Op.differentiable`."""
        slots = argument_names(ARGUMENTS[self.family])
        return sum(1 << slots.index(t) for t in self.differentiable.split())

    @property
    def incoming(self) -> list[str]:
        """What the backward takes before the tensors."""
        return argument_names(INCOMING[self.family])

    def named(self, name: str) -> str:
        return self.text.replace("NAME", functor_name(name))


FAMILY_OPTIONS = {
    "elementwise": (),
    "softmax": ("ignore_index", "label_smoothing"),
    "overlap": ("activation", "batch", "include_background", "ignore_index", "squared"),
    "row_sums": (),
}


def functor_name(name: str) -> str:
    return "Functor_" + name


def leaf_names(tensors: Sequence[str], options: Sequence[str]) -> Callable[[Expr], str]:
    """Of C++ for a Python name: prefixed, since it may be a keyword or a function there."""
    known = {("tensor", t): _safe("t", t, i) for i, t in enumerate(tensors)}
    known |= {("option", o): _safe("o", o, i) for i, o in enumerate(options)}
    return lambda e: known[e.op, e.args[0]]


def _safe(prefix: str, name: str, position: int) -> str:
    return f"{prefix}_{name}" if re.fullmatch(r"[A-Za-z0-9_]+", name) else f"{prefix}_{position}"


def for_both_types(write: Callable[[str, object], str], float32: object, float64: object) -> str:
    """The functor of both types, or one of each where a formula asks which it computes in."""
    texts = [write("NAME", found) for found in (float32, float64)]
    if texts[0] == texts[1]:
        return texts[0]
    texts = [write(f"NAME_{suffix}", found) for suffix, found in (("float", float32), ("double", float64))]
    choice = "using NAME = std::conditional_t<std::is_same_v<A, double>, NAME_double<A>, NAME_float<A>>;"
    return "\n".join([*texts, f"template <class A>\n{choice}\n"])


def structure(
    name: str, code: Code, options: dict[str, str], *, base: str, constants: Sequence[str] = (), ignores: bool = False,
    methods: Sequence[str],
) -> str:  # fmt: skip
    """A functor: constants, members, a constructor from the options, and methods.

    options: the member of `Options` behind the name of each option; base: "" for a functor of doubles alone.
    """
    names = leaf_names((), list(options))
    members = {_option(names, o): member for o, member in options.items()}
    declared = [f"A {m};" for m in members] + code.member_declarations()
    if ignores:
        declared.insert(0, "A ignore_index;")
        methods = ["FL_HD bool ignored(A t) const { return t == ignore_index; }", *methods]
    setup = [f"const double {m} = options.{member};" for m, member in members.items()]
    setup += [f"this->{m} = static_cast<A>({m});" for m in members]
    setup += code.constructor()
    setup += ["ignore_index = static_cast<A>(options.ignore_index);"] * ignores
    lines = [*constants, *declared, f"explicit {name}(const Options&{' options' if setup else ''}) {{"]
    lines += [INDENT + line for line in setup] + ["}"]
    for text in methods:
        lines += ["", *text.splitlines()]
    body = "".join(f"{INDENT}{line}".rstrip() + "\n" for line in lines)
    return f"{f'template <class A>{chr(10)}struct {name} : {base}' if base else f'struct {name}'} {{\n{body}}};\n"


def numbered(options: Sequence[str]) -> dict[str, str]:
    """A custom option by its number among `Options`."""
    return {o: f"custom_{i}" for i, o in enumerate(options)}


def _option(names: Callable[[Expr], str], name: str) -> str:
    return names(_Leaf("option", name))


class _Leaf:
    """A name of a kind, "option" or "tensor", as a leaf for `leaf_names`."""

    def __init__(self, op: str, name: str):
        self.op, self.args = op, (name,)


def method(signature: str, lines: Sequence[str], result: str) -> str:
    body = "".join(f"{INDENT}{line}\n" for line in [*lines, f"return {result};"])
    return f"FL_HD {signature} const {{\n{body}}}"


def elementwise_functor(formula, tensors, differentiable, options, ignores) -> Functor:
    """formula(dtype) -> (value, {tensor: derivative}) for each accumulation dtype."""
    places = ("input", "target", "third", "fourth")
    slots = [places[tensors.index(t)] for t in tensors if t in differentiable]

    def write(name: str, dtype) -> str:
        with fresh():
            value, slopes = formula(dtype)
            zero = [slopes.get(t) for t in tensors]
            code = Code([value, *(s for s in zero if s is not None)], leaf_names(tensors, options))
            return _elementwise_text(name, code, tensors, zero, options, ignores)

    text = for_both_types(write, torch.float32, torch.float64)
    return Functor("elementwise", " ".join(slots), len(options), text, ignores=ignores)


def _elementwise_text(name, code: Code, tensors, slopes, options, ignores) -> str:
    first = code.names(_Leaf("tensor", tensors[0]))
    logistic = [e.args[0] for e in code.order if e.op == "sigmoid_terms"]
    code.ahead = next((x for x in logistic if x.op == "tensor" and x.args[0] == tensors[0]), None)
    if len(tensors) > 2:
        code.ahead = None
    lines, (value, *rest) = code.body()
    results, following = [value], iter(rest)
    results += [next(following) if s is not None else "A(0)" for s in slopes]
    results += ["A(0)"] * (3 - len(results))
    names = [code.names(_Leaf("tensor", t)) for t in tensors]
    arguments = [f"A {n}" for n in names] + ["A"] * (3 - len(names))
    base = f"Plain<{name}<A>>"
    constants = [f"static constexpr Work kWork = {code.work};", f"static constexpr int kTensors = {len(tensors)};"]
    constants += ["static constexpr bool kIgnores = true;"] * ignores
    methods = [method(f"Terms<A> operator()({', '.join(arguments)})", lines, f"{{{', '.join(results)}}}")]
    if code.ahead is not None:
        base = f"InTwoSteps<{name}<A>, A>"
        arguments.insert(1, "A e")
        methods = [
            f"FL_HD static A ahead(A {first}) {{ return exp_minus_abs({first}); }}",
            method(f"Terms<A> terms({', '.join(arguments)})", lines, f"{{{', '.join(results)}}}"),
        ]
    return structure(name, code, numbered(options), base=base, constants=constants, ignores=ignores, methods=methods)


ARGUMENTS = {
    "elementwise": "Tensor input, Tensor? target, Tensor? weight, Tensor? pos_weight, Tensor? third, Tensor? fourth",
    "softmax": "Tensor input, Tensor target, Tensor? weight",
    "overlap": "Tensor input, Tensor target, Tensor? weight",
    "row_sums": "Tensor first, Tensor? second, Tensor? third, Tensor? fourth, Tensor? labels",
}
# The lists of losses that the drivers of a family read; the first holds the custom ones.
LISTS = {
    "elementwise": ("FL_ELEMENTWISE_LOSSES",),
    "softmax": ("FL_SOFTMAX_LOSSES", "FL_SOFTMAX_PAIR_LOSSES"),
    "overlap": ("FL_OVERLAP_LOSSES", "FL_COMPOUND_LOSSES"),
    "row_sums": ("FL_ROW_SUMS",),
}
INCOMING = {
    "elementwise": "Tensor grad_output", "softmax": "Tensor grad_output", "row_sums": "Tensor grad_output",
    "overlap": "Tensor grad_output, Tensor sums",
}  # fmt: skip


def table(losses: dict[str, Functor]) -> str:
    """custom_losses.h: the table of a library of these losses, by the names of their ops."""
    text = "// The table of a library of custom losses.\n#pragma once\n"
    families = {f: {n: loss for n, loss in losses.items() if loss.family == f} for f in LISTS}
    families = {f: found for f, found in families.items() if found}
    for family, found in families.items():
        rows = " \\\n".join(f"  {loss.row(name)}" for name, loss in found.items())
        text += f"#define FL_HAS_{family.upper()} 1\n#define {LISTS[family][0]}(X) \\\n{rows}\n"
        text += "".join(f"#define {other}(X)\n" for other in LISTS[family][1:])
        if family == "row_sums":
            layouts = " ".join(f"X({name}, {str(loss.labelled).lower()})" for name, loss in found.items())
            text += f"#define FL_CUSTOM_LAYOUTS(X) {layouts}\n"
        text += f'#define FL_{family.upper()}_ARGUMENTS "{ARGUMENTS[family]}"\n'
    entries = " \\\n".join(f'  F({f}, {LISTS[f][0]}, FL_{f.upper()}_ARGUMENTS, "{INCOMING[f]}")' for f in families)
    return f"{text}#define FL_FAMILIES(F) \\\n{entries}\n"


def formulas(losses: dict[str, Functor]) -> str:
    """<family>_formulas.h: the functors of losses of one family."""
    texts = [loss.named(name) for name, loss in losses.items()]
    numerics = '#ifndef FL_ISA\n#ifndef FL_CUDA\n#include "math/numerics.h"\n#endif\n#endif'  # in host code alone
    return "\n".join(["// Formulas of custom losses.", numerics, '#include "math/elementary.h"', "", *texts])


def softmax_functor(formula, tensors, options) -> Functor:
    """formula(dtype) -> (loss of a class, its derivative by log p), both of log p and p."""

    def write(name: str, dtype) -> str:
        with fresh():
            code = Code(formula(dtype), leaf_names(tensors, options))
            lines, results = code.body()
            arguments = ", ".join(f"A {code.names(_Leaf('tensor', t))}" for t in tensors)
            constants = [
                f"static constexpr bool {k};" for k in ("kPair = false", "kWeightedMean = true", "kFills = false")
            ]
            call = method(f"ClassTerms<A> operator()({arguments})", lines, f"{{{', '.join(results)}}}")
            return structure(
                name, code, numbered(options), base=f"Plain<{name}<A>>", constants=constants, methods=[call]
            )

    return Functor("softmax", "input", len(options), for_both_types(write, torch.float32, torch.float64))


def row_sums_functor(formula, tensors, of_sum, options) -> Functor:
    """formula(dtype) -> (term, its derivatives), of `tensors`; (loss, its derivative by the sum), of `of_sum`."""

    def write(name: str, dtype) -> str:
        with fresh():
            term, slopes, loss, coefficient = formula(dtype)
            names = leaf_names([*tensors, *of_sum], options)
            code = Code([term, *slopes, loss, coefficient], names)
            arguments = ", ".join([f"A {names(_Leaf('tensor', t))}" for t in tensors] + ["A"] * (4 - len(tensors)))
            lines, results = code.body_of(code.roots[: len(tensors) + 1])
            gradients = ", ".join([*results[1:], *["A(0)"] * (4 - len(tensors))])
            call = method(f"RowTerms<A> operator()({arguments})", lines, f"{{{results[0]}, {{{gradients}}}}}")
            arguments = ", ".join([f"A {names(_Leaf('tensor', t))}" for t in of_sum] + ["A"] * (2 - len(of_sum)))
            lines, results = code.body_of(code.roots[len(tensors) + 1 :])
            finish = method(f"RowLoss<A> finish({arguments})", lines, f"{{{', '.join(results)}}}")
            constants = [f"static constexpr Work kWork = {code.work};"]
            base = f"RowFunctor<{name}<A>, {len(tensors)}, false>"
            return structure(name, code, numbered(options), base=base, constants=constants, methods=[call, finish])

    slots = argument_names(ARGUMENTS["row_sums"])[: len(tensors)]
    text = for_both_types(write, torch.float32, torch.float64)
    return Functor("row_sums", " ".join(slots), len(options), text, labelled=len(of_sum) > 1)


def overlap_functor(formula, sums, count, options) -> Functor:
    """formula(dtype) -> loss of a class and its derivatives by I and P; `count` names the number of positions."""
    with fresh():
        code = Code(formula(None), leaf_names(sums, [*count, *options]))
        lines, results = code.body()
        arguments = ", ".join(f"A {code.names(_Leaf('tensor', t))}" for t in sums)
        call = method(f"OverlapLoss loss({arguments})", lines, f"{{{', '.join(results)}, A(1)}}")
        members = {**dict.fromkeys(count, "count"), **numbered(options)}
        text = structure("NAME", code, members, base="", constants=["using A = double;"], methods=[call])
    evaluation = (
        "FL_HD OverlapLoss overlap_loss(const NAME& f, double I, double P, double G, bool counts) {\n"
        "  return counts ? f.loss(I, P, G) : OverlapLoss{0, 0, 0, 0};\n}\n"
    )
    return Functor("overlap", "input", len(options), f"{text}\n{evaluation}")
