"""What the options of a loss may be: each kind checks a value and gives the number that travels to the kernels for it.

A number is an int, a float, or what says it is one (a NumPy scalar, a Fraction), never a bool. It must be finite in
the accumulation dtype, and where 0 is excluded also distinct from 0 there.
"""

from __future__ import annotations

import functools
import numbers
import operator
from collections.abc import Callable

import torch

from ._op import BATCHMEAN, MEAN, NONE, SUM, Op, Settings, accumulation_dtype

INFINITY, NAN = float("inf"), float("nan")
_PLAIN_NUMBERS = frozenset({int, float})
_LIMITS = {dtype: torch.finfo(dtype) for dtype in (torch.float32, torch.float64)}
_EXACT = 2**53  # integers below it are themselves as a double
NO_CLASS = -(2.0**63)  # how None travels as the class that is ignored


def _shown(value) -> str:
    """`value` for a message; an integer of hundreds of digits by its size, a tensor of many elements by its shape."""
    if isinstance(value, torch.Tensor) and value.dim() > 0:
        return f"a tensor of shape {tuple(value.shape)}"
    long = isinstance(value, int) and value.bit_length() > 128
    return f"an integer of {value.bit_length()} bits" if long else repr(value)


def _plain_number(what: str, value, or_tensor: bool = False) -> int | float:
    """`value` as a Python number. or_tensor: it might have been a tensor."""
    if type(value) in _PLAIN_NUMBERS:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} to be a number{' or a tensor' * or_tensor}, got {type(value).__name__}")
    return operator.index(value) if isinstance(value, numbers.Integral) else float(value)


def _plain_integer(what: str, value) -> int:
    """`value` as a Python integer."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} to be an integer, got {type(value).__name__}")
    return operator.index(value)


class Option:
    """One option: `read` gives its value as the reference takes it, `encode` the numbers that travel for that value.

    or_tensor: the argument may be a tensor instead, which is then no option; it travels as None.
    for_operands: it changes the op's tensors alone; the op's plain PyTorch does not take it.
    nested: the value is a sequence of values.
    annotation: its type as a type checker reads it, a tensor apart.
    """

    or_tensor = nested = for_operands = False
    annotation: str

    def wire_names(self, argument: str) -> tuple[str, ...]:
        """The names of its numbers in the table of losses."""
        return (argument,)

    def read(self, what: str, value, dtype: torch.dtype, dims: int):
        """`value`, checked; what: "<op>: expected <argument>"; dtype, dims: of the first tensor."""
        raise NotImplementedError

    def encode(self, value) -> tuple[float, ...]:
        return (float(value),)


class Choice(Option):
    """A key of `choices`, which travels as its number."""

    def __init__(self, choices: dict[str | None, int]):
        self.choices = choices
        self.listed = ", ".join("None" if key is None else f'"{key}"' for key in choices)

    @property
    def annotation(self):
        return f"Literal[{', '.join(map(repr, self.choices))}]"

    def read(self, what, value, dtype, dims):
        if not (value is None or isinstance(value, str)) or value not in self.choices:
            raise ValueError(f"{what} to be one of {self.listed}, got {_shown(value)}")
        return value

    def encode(self, value):
        return (float(self.choices[value]),)


REDUCTIONS = Choice({"none": NONE, "mean": MEAN, "sum": SUM})
DIVERGENCE_REDUCTIONS = Choice({**REDUCTIONS.choices, "batchmean": BATCHMEAN})
SCALAR_REDUCTIONS = Choice({"mean": MEAN, "sum": SUM})


class Flag(Option):
    """True or False, NumPy's too: a number, a string or a tensor is no choice."""

    annotation = "bool"

    def read(self, what, value, dtype, dims):
        if isinstance(value, bool):
            return value
        if type(value).__name__ not in ("bool", "bool_") or type(value).__module__ != "numpy":
            raise TypeError(f"{what} to be True or False, got {_shown(value)}")
        return bool(value)


class Number(Option):
    """A number in [low, high], or with `open` between them. `also`: one more; none: what None travels as.

    takes_none: where None travels, a caller may give it too, not a tensor alone.
    divides: 0 is a case of its own, so that a number which is 0 in the accumulation dtype alone is refused.
    """

    def __init__(self, low=-INFINITY, high=INFINITY, *, open=False, also=None, none=None, divides=False,
                 or_tensor=False, takes_none=True):  # fmt: skip
        self.low, self.high, self.open, self.also, self.none = low, high, open, also, none
        self.divides, self.or_tensor, self.takes_none = divides, or_tensor, takes_none and none is not None
        more, less = (">", "<") if open else (">=", "<=")
        bounds = [f"{sign} {end:g}" for sign, end in ((more, low), (less, high)) if abs(end) != INFINITY]
        self.range = " and ".join(bounds) + (f", or {also}" if also is not None else "") or "to be a number"

    @property
    def annotation(self):
        return "float | None" if self.takes_none else "float"

    def read(self, what, value, dtype, dims):
        if value is None and self.none is not None:
            return None
        number = _plain_number(what, value, self.or_tensor)
        if self.also is not None and number == self.also:
            return number
        if not self.low <= number <= self.high:
            raise ValueError(f"{what} {self.range}, got {_shown(number)}")
        dtype = accumulation_dtype(dtype)
        limits = _LIMITS[dtype]
        if not -limits.max <= number <= limits.max:
            raise ValueError(f"{what} to be finite in {_name(dtype)}, got {_shown(number)}")
        inside = not self.open or (self.low + limits.tiny <= number and number <= self.high - limits.eps)
        if not inside or (self.divides and 0 < abs(number) < limits.tiny):
            raise ValueError(f"{what} {self.range} in {_name(dtype)}, got {_shown(number)}")
        return number

    def encode(self, value):
        return (float(self.none if value is None else value),)


class Integer(Option):
    """An integer in [low, high]; none: what None travels as."""

    def __init__(self, low: int, high: int = _EXACT, *, none: int | None = None):
        self.low, self.high, self.none = low, high, none

    @property
    def annotation(self):
        return "int" if self.none is None else "int | None"

    def read(self, what, value, dtype, dims):
        if value is None and self.none is not None:
            return None
        number = _plain_integer(what, value)
        if not self.low <= number <= self.high:
            most = "2**53" if self.high == _EXACT else self.high
            raise ValueError(f"{what} >= {self.low} and <= {most}, got {_shown(number)}")
        return number

    def encode(self, value):
        return (float(self.none if value is None else value),)


class IgnoreIndex(Option):
    """The value of a target that is not counted, or None. Only below 2^53 is it as a double what it is as an integer.

    classes: an integer, compared as such with class indices; None is then NO_CLASS. Else None is NaN, and the
    value is compared in the accumulation dtype with a dense target.
    """

    def __init__(self, classes=False):
        self.classes = classes
        self.none = NO_CLASS if classes else NAN

    @property
    def annotation(self):
        return "int | None" if self.classes else "float | None"

    def read(self, what, value, dtype, dims):
        if value is None:
            return None
        number = _plain_integer(what, value) if self.classes else _plain_number(what, value)
        if not -_EXACT < number < _EXACT:
            raise ValueError(f"{what} > -2**53 and < 2**53, got {_shown(number)}")
        return number

    def encode(self, value):
        return (self.none if value is None else float(value),)


class ClassWeights(Option):
    """Two numbers >= 0, which travel as <argument without its s>_0 and _1."""

    nested = True
    number = Number(low=0)
    annotation = "tuple[float, float] | list[float]"

    def wire_names(self, argument):
        return tuple(f"{argument.removesuffix('s')}_{i}" for i in range(2))

    def read(self, what, value, dtype, dims):
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"{what} to be two numbers, got {_shown(value)}")
        return tuple(self.number.read(what, v, dtype, dims) for v in value)

    def encode(self, value):
        return tuple(float(v) for v in value)


class Dim(Option):
    """A dimension of the first tensor; counted from its end if negative, from its start from here on."""

    annotation = "int"

    def read(self, what, value, dtype, dims):
        number = _plain_integer(what, value)
        if not -dims <= number < dims:
            raise ValueError(f"{what} >= {-dims} and < {dims}, got {_shown(number)}")
        return number % dims


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def settings_reader(
    op: Op, options: dict[str, Option], reductions: Choice | None, otherwise: int = NONE
) -> Callable[..., Settings]:
    """A function (compiling, dtype, dims, *values of `options`, reduction unless `reductions` is None) -> Settings.

    otherwise: what travels as the reduction of a loss without that argument.
    The options are compared with the table's here, once. What was read once is remembered, except while compiling.
    """
    names = [name for argument, option in options.items() for name in option.wire_names(argument)]
    if sorted(names) != sorted(op.options):
        raise TypeError(f"{op.name}: expected the options {sorted(op.options)} of the table, got {sorted(names)}")
    known = options if reductions is None else {**options, "reduction": reductions}

    def read(dtype: torch.dtype, dims: int, *values) -> Settings:
        keywords, numbers = {}, {}
        for (argument, option), given in zip(known.items(), values):
            value = option.read(f"{op.name}: expected {argument}", given, dtype, dims)
            if not option.for_operands:
                keywords[argument] = value
            numbers.update(zip(option.wire_names(argument), option.encode(value)))
        return Settings(tuple(numbers[n] for n in op.options), int(numbers.get("reduction", otherwise)), keywords)

    nested = [2 + i for i, option in enumerate(known.values()) if option.nested]
    return _remembering(read, nested)


def _remembering(read: Callable[..., Settings], nested: list[int]) -> Callable[..., Settings]:
    """`read` with a memory for the arguments it has seen, and for their types, as 1 and True are equal.

    nested: positions of the arguments that hold values; their types are handed on too, and read by nobody.
    """
    remembered = functools.lru_cache(maxsize=1024, typed=True)(read)

    def look_up(compiling: bool, *arguments) -> Settings:
        if not compiling:
            try:
                if nested:
                    return remembered(*arguments, *(type(v) for i in nested for v in arguments[i]))
                return remembered(*arguments)
            except TypeError:  # a value that cannot be hashed, or one that `read` refuses, as it will again
                pass
        return read(*arguments)

    return look_up
