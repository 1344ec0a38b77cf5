"""Writes expressions as C++ on the functions of csrc/math: what options decide once, the rest for each element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence

from .expressions import COMPARISONS, LEAVES, TIMES_LOG, Expr, const, make, node, postorder, power_in_products

_LOGISTIC = {"sigmoid": "p", "not_sigmoid": "q", "softplus": "softplus_pos", "softplus_neg": "softplus_neg"}
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "and": "&", "or": "|",
}  # fmt: skip
_PREFIX = {"neg": "-", "not": "!"}
_CALLS = {
    "maximum": "max_",
    "minimum": "min_",
    "at_least": "max_",
    "at_most": "min_",
    "exp_minus_abs": "exp_minus_abs",
    "log_not": "log1p_neg",
}
_STEPS = frozenset({*COMPARISONS, "floor", "ceil", "trunc", "round", "fmod", "remainder", "floor_div"})
_COSTLY = frozenset({
    "exp", "expm1", "log", "log_not", "log1p", "tanh", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "atan2", "power_of_log", "exp_minus_abs", "sigmoid_terms",
    "fmod", "remainder", "floor_div",
})  # fmt: skip


def work_of(statements: Sequence[Expr]) -> str:
    """How much a loss computes for each element, as contract.h names it."""
    costly = sum(e.op in _COSTLY and e.varies for e in statements)
    return ("kFew", "kExponential")[costly] if costly < 2 else "kMuch"


def lowered(roots: Iterable[Expr]) -> list[Expr]:
    """With powers as products or exponentials of logarithms, quotients by what options decide as products, and all that
    is logistic in one x as parts of one `sigmoid_terms`."""
    roots = _rebuilt(_power, roots)
    # A unit in the last place of a quotient is a whole step there.
    exact = {*postorder(a for e in postorder(roots) if e.op in _STEPS for a in e.args)}
    return _rebuilt(functools.partial(_lower, exact=exact), roots)


def _rebuilt(rule: Callable[[Expr, list[Expr]], Expr], roots: Iterable[Expr]) -> list[Expr]:
    """Every expression as `rule` makes it of its new arguments."""
    new: dict[Expr, Expr] = {}
    roots = list(roots)
    for e in postorder(roots):
        new[e] = e if e.op in LEAVES or not e.args else rule(e, [new[a] for a in e.args])
    return [new[root] for root in roots]


def _power(e: Expr, args: list[Expr]) -> Expr:
    if e.op != "pow" or not e.varies:
        return make(e.op, *args)
    x, y = args
    products = power_in_products(x, y)
    if products is not None:
        return products
    if x.nonnegative:
        return node("power_of_log", make("log", x), y)
    return node("power_of_sign", node("power_of_log", make("log", make("abs", x)), y), x, y)


def _lower(e: Expr, args: list[Expr], exact: set[Expr]) -> Expr:
    if e.op == "detach":
        return args[0]
    if e.op == "div" and e.varies and not args[1].varies and e not in exact:
        return make("mul", args[0], make("div", 1, args[1]))
    if e.op in _LOGISTIC and e.varies:
        return node(f"part_{e.op}", node("sigmoid_terms", *args))
    if e.op in ("relu", "abs") and e.args[0].nonnegative:  # not before it is differentiated, for its slope at 0
        return args[0]
    if e.op == "relu":
        return node("at_least", *args, const(0))
    if e.op in TIMES_LOG:
        x, y = args
        empty = make("and", make("eq", x, 0), make("eq", y, y))
        return make("where", empty, 0, make("mul", x, make(TIMES_LOG[e.op], y)))
    if e.op == "entr":
        x = args[0]
        inside = make("where", make("eq", x, 0), 0, make("neg", make("mul", x, make("log", x))))
        return make("where", make("lt", x, 0), -math.inf, inside)
    if e.op == "log_loss":
        p, t = args
        positive, negative = (make("at_least", node(op, p), -100) for op in ("log", "log_not"))
        return make("neg", make("add", make("mul", t, positive), make("mul", make("sub", 1, t), negative)))
    if e.op == "exp" and args[0].op == "neg" and args[0].args[0].op == "abs":
        return node("exp_minus_abs", args[0].args[0].args[0])
    return make(e.op, *args)


class Code:
    """Statements for some expressions. Leaves are named by `names`; A is the type of numbers."""

    def __init__(self, roots: Sequence[Expr], names: Callable[[Expr], str]):
        self.roots, self.names = lowered(roots), names
        self.order = postorder(self.roots)
        self.uses: dict[Expr, int] = {}
        for e in self.order:
            for a in () if e.op in LEAVES else e.args:
                self.uses[a] = self.uses.get(a, 0) + 1
        for root in self.roots:
            self.uses[root] = self.uses.get(root, 0) + 1
        self.invariants = self._invariants()
        self.members = {e: f"m{i}" for i, e in enumerate(self.invariants)}
        self.ahead: Expr | None = None  # whose e^-|x| is computed beforehand and called `e`

    def _invariants(self) -> list[Expr]:
        """What options alone decide and elements, or nobody, use."""
        found: dict[Expr, None] = {}
        candidates = [*self.roots, *(a for e in self.order if e.varies and e.op not in LEAVES for a in e.args)]
        for e in candidates:
            if not e.varies and e.op not in ("const", "option", "true", "false"):
                found[e] = None
        return list(found)

    @property
    def work(self) -> str:
        return work_of(self.order)

    def member_declarations(self) -> list[str]:
        return [f"{'bool' if e.is_bool else 'A'} {name};" for e, name in self.members.items()]

    def constructor(self) -> list[str]:
        """Statements that set the members, in double."""
        writer = _Writer(self, "double", {})
        lines = [(name, writer.text(e), e) for e, name in self.members.items()]
        return writer.lines + [
            f"{m} = {text};" if e.is_bool else f"{m} = static_cast<A>({text});" for m, text, e in lines
        ]

    def body(self) -> tuple[list[str], list[str]]:
        """Statements for one element, and the text of each root."""
        return self.body_of(self.roots)

    def body_of(self, roots: Sequence[Expr]) -> tuple[list[str], list[str]]:
        """As `body`, of some of the roots, which are lowered."""
        writer = _Writer(self, "A", self.members)
        results = [writer.text(root) for root in roots]
        return writer.lines, results


class _Writer:
    """Writes statements in one type; what is used twice, and what is long, gets a name."""

    def __init__(self, code: Code, type_: str, known: dict[Expr, str]):
        self.code, self.type, self.named, self.lines = code, type_, dict(known), []

    def text(self, root: Expr) -> str:
        for e in postorder([root]):
            if e in self.named or e.op in LEAVES:
                continue
            if self.type == "A" and not e.varies:
                continue  # below a member
            text = self._operation(e)
            if self.code.uses.get(e, 0) > 1 or len(text) > 70 or e.op == "sigmoid_terms":
                name = f"{'s' if e.op == 'sigmoid_terms' else 'b' if e.is_bool else 'v'}{len(self.named)}"
                kind = "auto" if e.op == "sigmoid_terms" else "bool" if e.is_bool else self.type
                self.lines.append(f"const {kind} {name} = {_bare(text)};")
                text = name
            self.named[e] = text
        return self._operand(root)

    def _leaf(self, e: Expr) -> str:
        return _number(e.args[0], self.type) if e.op == "const" else self.code.names(e)

    def _operand(self, e: Expr) -> str:
        return self.named[e] if e in self.named else self._leaf(e) if e.op in LEAVES else self._operation(e)

    def _operation(self, e: Expr) -> str:
        op, args = e.op, [self._operand(a) for a in e.args]
        if op in ("true", "false"):
            return op
        if op in _INFIX:
            return f"({args[0]} {_INFIX[op]} {args[1]})"
        if op in _PREFIX:
            return f"({_PREFIX[op]}{args[0]})"
        if op == "where":
            by_options = e.varies and not e.args[0].varies
            return f"choose({', '.join(args)})" if by_options else f"({args[0]} ? {args[1]} : {args[2]})"
        if op in ("at_least", "at_most") and _is_number(e.args[1]):
            return f"{op}_({args[0]}, {args[1]})"
        if op in ("power_of_log", "power_of_sign"):
            return f"{op}({', '.join(args)})"
        if op.startswith("part_"):
            return f"{args[0]}.{_LOGISTIC[op.removeprefix('part_')]}"
        if op == "sigmoid_terms":
            return f"sigmoid_terms({args[0]}{', e' if e.args[0] is self.code.ahead else ''})"
        if op in _LOGISTIC:  # of options alone
            return f"sigmoid_terms({args[0]}).{_LOGISTIC[op]}"
        return f"{_CALLS.get(op, op + '_')}({', '.join(args)})"


def _is_number(bound: Expr) -> bool:
    """Surely not NaN: options are finite. With such a bound gcc makes vectors where it else makes branches."""
    return all(e.op in ("const", "option", "add", "sub", "mul", "neg", "abs") for e in postorder([bound]))


def _bare(text: str) -> str:
    """Without parentheses around all of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[1:-1] if i == len(text) - 1 else text
    return text


def _number(value: float, type_: str) -> str:
    if math.isnan(value):
        return f"nan_<{type_}>()"
    if math.isinf(value):
        return f"({'-' if value < 0 else ''}infinity_<{type_}>())"
    return f"{type_}({value!r})"
