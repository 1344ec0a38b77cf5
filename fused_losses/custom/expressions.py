"""Formulas as expressions that are made simpler as they are made; inside `fresh()` equal expressions are one object.

A rule keeps values within a few units of the last place, or makes them better: log(sigmoid(x)), log(1 + exp(x)) and
1 - sigmoid(x) become functions that do not overflow or cancel.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F


class Expr:
    """An operation and its arguments: expressions, the number of a "const", the name of a "tensor" or "option"."""

    __slots__ = ("args", "nonnegative", "op", "serial", "varies")

    def __init__(self, op: str, args: tuple, serial: int):
        self.op, self.args, self.serial = op, args, serial
        # Whether it may differ from element to element.
        self.varies = op == "tensor" or (op not in LEAVES and any(a.varies for a in args))
        self.nonnegative = _is_nonnegative(op, args)  # surely not below 0 (NaN aside)

    @property
    def is_bool(self) -> bool:
        return self.op in BOOLEAN

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, self.args))})"


LEAVES = ("const", "tensor", "option")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
BOOLEAN = frozenset({*COMPARISONS, "and", "or", "not", "true", "false"})
FOLDED: dict[str, Callable] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "neg": operator.neg,
    "abs": abs, "exp": math.exp, "expm1": math.expm1, "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt,
    "tanh": math.tanh, "sin": math.sin, "cos": math.cos, "pow": math.pow, "erf": math.erf, "lgamma": math.lgamma,
}  # fmt: skip

# What each operation is in PyTorch, whose rules differentiate it.
TORCH: dict[str, Callable] = {
    **{name: getattr(torch, name) for name in (
        "add sub mul div neg abs exp expm1 log log1p sqrt tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh "
        "erf erfc lgamma floor ceil trunc round sgn sigmoid pow maximum minimum where atan2 fmod remainder xlogy lt le "
        "gt ge eq ne"
    ).split()},
    "xlog1py": torch.special.xlog1py, "entr": torch.special.entr,
    "floor_div": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not, "detach": torch.detach,
    "at_least": lambda x, low: torch.clamp(x, min=low), "at_most": lambda x, high: torch.clamp(x, max=high),
    "relu": torch.relu, "not_sigmoid": lambda x: torch.sigmoid(-x), "softplus": F.softplus,
    "softplus_neg": lambda x: F.softplus(-x),
    "log_loss": lambda p, t: F.binary_cross_entropy(p, t, reduction="none"),
}  # fmt: skip


TIMES_LOG = {"xlogy": "log", "xlog1py": "log1p"}  # 0 where the first is 0
_TENSORS_ONLY = frozenset({"maximum", "minimum", "and", "or", "atan2"})
_NUMBERS_FIRST = frozenset({"add", "sub", "mul", "div", "pow"})  # which take a number before a tensor


class _Nodes(threading.local):
    def __init__(self):
        self.known: dict[tuple, Expr] = {}
        self.simpler = True


_nodes = _Nodes()


@contextmanager
def fresh(simpler: bool = True) -> Iterator[None]:
    """Expressions made inside are numbered from 0 and share nothing with others. simpler=False: they stay as made."""
    before = _nodes.known, _nodes.simpler
    _nodes.known, _nodes.simpler = {}, simpler
    try:
        yield
    finally:
        _nodes.known, _nodes.simpler = before


def node(op: str, *args) -> Expr:
    """The expression as it is."""
    key = (op, *(repr(a) if op == "const" else a for a in args))
    known = _nodes.known
    found = known.get(key)
    if found is None:
        found = known[key] = Expr(op, args, len(known))
    return found


def const(value: float) -> Expr:
    return node("const", float(value))


def lift(value) -> Expr:
    """A number or an expression as an expression."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool):
        return node("true" if value else "false")
    return const(value)


def number(e: Expr) -> float | None:
    """The value of a constant, else None."""
    return e.args[0] if e.op == "const" else None


def real(e: Expr) -> Expr:
    """A truth value as 1 or 0."""
    return make("where", e, const(1), const(0)) if e.is_bool else e


def boolean(e: Expr) -> Expr:
    return e if e.is_bool else make("ne", e, const(0))


def _is_nonnegative(op: str, args: tuple) -> bool:
    if op == "const":
        return args[0] >= 0
    if op in ("exp", "abs", "sqrt", "sigmoid", "not_sigmoid", "softplus", "softplus_neg", "relu"):
        return True
    if op in ("add", "mul", "div", "minimum", "at_most"):
        return all(a.nonnegative for a in args) or (op == "mul" and args[0] is args[1])
    if op in ("maximum", "at_least"):
        return any(a.nonnegative for a in args)
    if op == "pow":
        return args[0].nonnegative
    return op == "where" and all(a.nonnegative for a in args[1:])


def make(op: str, *args) -> Expr:
    """The operation on expressions and numbers, simplified."""
    values = [lift(a) for a in args]
    if op in ("and", "or", "not"):
        values = [boolean(v) for v in values]
    elif op == "where":
        values = [boolean(values[0]), *map(real, values[1:])]
    else:
        values = [real(v) for v in values]
    if not _nodes.simpler:
        return node(op, *values)
    folded = _fold(op, values)
    if folded is not None:
        return folded
    rule = RULES.get(op)
    found = rule(*values) if rule else None
    return node(op, *values) if found is None else found


def _fold(op: str, values: list[Expr]) -> Expr | None:
    """Of constants alone, where Python computes it."""
    numbers = [number(v) for v in values]
    if None in numbers:
        return None
    if op in COMPARISONS:
        return lift(bool(getattr(operator, op)(*numbers)))
    try:
        return const(FOLDED[op](*numbers)) if op in FOLDED else None
    except (ArithmeticError, ValueError):
        return None


def _ordered(op: str, a: Expr, b: Expr) -> Expr:
    """Of a commutative operation: constants last."""
    a, b = sorted((a, b), key=lambda e: (e.op == "const", e.serial))
    return node(op, a, b)


def _neg(x):
    if x.op == "neg":
        return x.args[0]
    if x.op == "sub":
        return make("sub", x.args[1], x.args[0])
    return None


def _add(a, b):
    for x, y in ((a, b), (b, a)):
        if number(x) == 0:
            return y
        if x.op == "neg":
            return make("sub", y, x.args[0])
    return _ordered("add", a, b)


def _sub(a, b):
    if number(b) == 0:
        return a
    if number(a) == 0:
        return make("neg", b)
    if b.op == "neg":
        return make("add", a, b.args[0])
    if a.op == "neg":
        return make("neg", make("add", a.args[0], b))
    if not a.varies and a.op == "add" and None not in (number(a.args[1]), number(b)):
        return make("add", a.args[0], number(a.args[1]) - number(b))  # an exponent of a derivative: (y + 1) - 1
    if number(a) == 1 and b.op in ("sigmoid", "not_sigmoid"):
        return node("not_sigmoid" if b.op == "sigmoid" else "sigmoid", *b.args)
    return None


def _mul(a, b):
    for x, y in ((a, b), (b, a)):
        value = number(x)
        if value == 1:
            return y
        if value is not None and value < 0:
            return make("neg", make("mul", -value, y))
        if value is not None and y.op == "mul" and number(y.args[1]) is not None:
            return make("mul", value * number(y.args[1]), y.args[0])
        if x.op == "neg":
            return make("neg", make("mul", x.args[0], y))
    return _ordered("mul", a, b)


def _div(a, b):
    value = number(b)
    if value == 1:
        return a
    if value is not None and abs(math.frexp(value)[0]) == 0.5 and 1e-30 < abs(value) < 1e30:  # a power of two
        return make("mul", a, 1 / value)
    for x, y in ((a, b), (b, a)):
        if x.op == "neg":
            return make("neg", make("div", *((x.args[0], y) if x is a else (y, x.args[0]))))
    growth = _one_plus_exp(b)
    if growth is not None and number(a) == 1:  # 1 / (1 + e^x)
        return make("not_sigmoid", growth)
    if growth is not None and a.op == "exp" and a.args[0] is growth:
        return make("sigmoid", growth)
    return None


def _one_plus_exp(e: Expr) -> Expr | None:
    """x of 1 + e^x."""
    if e.op == "add" and number(e.args[1]) == 1 and e.args[0].op == "exp":
        return e.args[0].args[0]
    return None


def _log(x):
    if x.op == "sigmoid":
        return make("neg", make("softplus_neg", *x.args))
    if x.op == "not_sigmoid":
        return make("neg", make("softplus", *x.args))
    growth = _one_plus_exp(x)
    return None if growth is None else make("softplus", growth)


def _log1p(x):
    if x.op == "exp":
        return make("softplus", *x.args)
    if x.op == "neg" and x.args[0].op in ("sigmoid", "not_sigmoid"):
        return make("log", make("sub", 1, x.args[0]))
    return None


def _times_log(log: str):
    """x log y where x is 0, too. The logarithm of what is logistic is a number, but for infinities."""

    def rule(x, y):
        found = make(log, y)
        if found.op == log:
            return None
        empty = make("and", make("eq", x, 0), make("eq", make("abs", found), math.inf))
        return make("mul", x, make("where", empty, 0, found))

    return rule


def _mirrored(other: str):
    """Of a function f with f(-x) = other(x)."""
    return lambda x: make(other, x.args[0]) if x.op == "neg" else None


def _pow(x, y):
    """Whole powers as products. Others stay: the derivative of a product with a root would be 0 / 0 at 0."""
    value = number(y)
    if value == 0:
        return const(1)
    if value is None or abs(value) > 8 or value < -1 or value not in (0.5, int(value)):
        return None
    if value < 0:
        return make("div", 1, x)
    if value == 0.5:
        return make("sqrt", x)
    half = make("pow", x, value // 2) if value >= 2 else const(1)
    return make("mul", make("mul", half, half), x if value % 2 else const(1))


def power_in_products(x: Expr, y: Expr) -> Expr | None:
    """A power that is differentiated no more, by products and a root where its exponent is a half of a whole number."""
    value = number(y)
    if value is None or abs(value) > 8 or 2 * value != int(2 * value):
        return None
    whole, root = divmod(abs(value), 1)
    found = make("pow", x, whole)
    if root:
        found = make("mul", found, make("sqrt", x))
    return make("div", 1, found) if value < 0 else found


def _where(condition, a, b):
    if a is b or condition.op == "true":
        return a
    if condition.op == "false":
        return b
    if condition.op == "not":
        return make("where", condition.args[0], b, a)
    clamped = _clamped_within(condition, a, b)
    if clamped is None:
        return None
    ordered = make("le", condition.args[1], clamped.args[1])  # what options decide is no part of the loop
    inside = node("where", node("eq", clamped, condition.args[0]), a.args[1], b)
    return inside if ordered.op == "true" else node("where", ordered, inside, b)


def _clamped_within(condition, a, b) -> Expr | None:
    """The clamp of x where x >= low, and then max(x, low) <= high, decide: one comparison with it is vectorised by gcc,
    the two are not."""
    if condition.op != "ge" or a.op != "where" or a.args[2] is not b or a.args[0].op != "le":
        return None
    low, (raised, high) = condition.args[1], a.args[0].args
    fits = not low.varies and not high.varies and raised is node("at_least", *condition.args)
    return node("at_most", raised, high) if fits and make("le", low, high).op != "false" else None


def _of_truth(absorbing: str, neutral: str):
    """Of "and" and "or"."""

    def rule(a, b):
        for x, y in ((a, b), (b, a)):
            if x.op == absorbing:
                return x
            if x.op == neutral or x is y:
                return y
        return None

    return rule


def _not(x):
    flipped = {"true": "false", "false": "true"}
    if x.op in flipped:
        return node(flipped[x.op])
    return x.args[0] if x.op == "not" else None


def _commutes(op: str):
    return lambda a, b: a if a is b else _ordered(op, a, b)


RULES: dict[str, Callable] = {
    "neg": _neg, "add": _add, "sub": _sub, "mul": _mul, "div": _div, "log": _log, "log1p": _log1p, "pow": _pow,
    **{op: _times_log(log) for op, log in TIMES_LOG.items()},
    "where": _where, "and": _of_truth("false", "true"), "or": _of_truth("true", "false"), "not": _not,
    "sigmoid": _mirrored("not_sigmoid"), "not_sigmoid": _mirrored("sigmoid"),
    "softplus": _mirrored("softplus_neg"), "softplus_neg": _mirrored("softplus"),
    "maximum": _commutes("maximum"), "minimum": _commutes("minimum"),
    "abs": lambda x: make("abs", x.args[0]) if x.op == "neg" else None,
}  # fmt: skip


def postorder(roots) -> list[Expr]:
    """Every expression below `roots` once, arguments before what uses them."""
    seen: dict[Expr, None] = {}
    for root in roots:
        waiting = [root]
        while waiting:
            e = waiting[-1]
            before = [] if e.op in LEAVES else [a for a in e.args if a not in seen]
            if before:
                waiting += reversed(before)
            else:
                seen[waiting.pop()] = None
    return list(seen)


def evaluate(root: Expr, tensors: dict[str, torch.Tensor]) -> torch.Tensor | float | bool:
    """By PyTorch, with these values of the tensors and options."""
    values: dict[Expr, object] = {}
    for e in postorder([root]):
        if e.op == "const":
            values[e] = e.args[0]
        elif e.op in ("tensor", "option"):
            values[e] = tensors[e.args[0]]
        elif e.op in ("true", "false"):
            values[e] = e.op == "true"
        else:
            given = [values[a] for a in e.args]
            if e.op in _TENSORS_ONLY or not any(isinstance(g, torch.Tensor) for g in given):
                given = [_as_tensor(g, tensors) for g in given]
            elif e.op == "where":  # of two numbers torch makes one of its default dtype
                given[:2] = [_as_tensor(g, tensors) for g in given[:2]]
            elif e.op not in _NUMBERS_FIRST:
                given[0] = _as_tensor(given[0], tensors)
            values[e] = TORCH[e.op](*given)
    return values[root]


def _as_tensor(value, tensors) -> torch.Tensor:
    """A tensor as it is, a number as one without dimensions beside `tensors`."""
    if isinstance(value, torch.Tensor):
        return value
    some = next(iter(tensors.values()))
    return torch.full((), value, dtype=torch.bool if isinstance(value, bool) else some.dtype, device=some.device)
