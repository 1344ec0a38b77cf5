"""What PyTorch's operations are as expressions: the pointwise ones that a custom loss may use, and their backwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .expressions import Expr, boolean, const, make, real


def _scaled(other, alpha):
    return other if alpha == 1 else make("mul", other, alpha)


def _clamp(x, min=None, max=None):
    if isinstance(min, Expr) and min.varies and max is not None:  # a bound that is the upper one, too, has no slope
        min = make("where", make("lt", min, max), min, make("detach", min))
    if min is not None:
        x = make("at_least", x, min)
    return x if max is None else make("at_most", x, max)


def _gelu(x, approximate="none"):
    if approximate != "none":
        inner = make("mul", math.sqrt(2 / math.pi), make("add", x, make("mul", 0.044715, make("pow", x, 3))))
        return make("mul", make("mul", x, 0.5), make("add", 1, make("tanh", inner)))
    return make("mul", make("mul", x, 0.5), make("add", 1, make("erf", make("mul", x, math.sqrt(0.5)))))


def _elu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    below = make("mul", alpha, make("expm1", make("mul", make("at_most", x, 0), input_scale)))
    return make("mul", scale, make("where", make("gt", x, 0), x, below))


def _celu(x, alpha=1.0):
    return _elu(x, alpha, 1.0, make("div", 1, alpha))


def _hardtanh(x, low=-1.0, high=1.0):
    """A clamp whose derivative at the bounds is 0."""
    return make("where", make("le", x, low), low, make("where", make("ge", x, high), high, x))


def _hardsigmoid(x):
    return make("div", _hardtanh(make("add", x, 3), 0, 6), 6)


def _hardswish(x):
    near = _clamp(x, -3, 3)  # an infinity that is not chosen would have a slope of 0 times infinity
    between = make("mul", near, make("div", make("add", near, 3), 6))
    return make("where", make("le", x, -3), make("mul", x, 0), make("where", make("ge", x, 3), x, between))


def _sinc(x):
    at_zero = make("eq", x, 0)
    angle = make("mul", make("where", at_zero, 1, x), math.pi)
    return make("where", at_zero, 1, make("div", make("sin", angle), angle))


def _softplus(x, beta=1, threshold=20):
    found = make("div", make("softplus", make("mul", x, beta)), beta)
    if threshold == 20:  # what it leaves out is below the rounding of float32
        return found
    return make("where", make("gt", make("mul", x, beta), threshold), x, found)


def _log_sigmoid(x):
    return make("neg", make("softplus_neg", x)), const(0)  # the second is a buffer of torch's kernel


def _logaddexp(a, b):
    high, low = make("maximum", a, b), make("minimum", a, b)
    apart = make("where", make("eq", a, b), 0, make("sub", low, high))  # two infinities have no difference
    return make("add", high, make("softplus", apart))


def _unreduced(formula: Callable[..., Expr]) -> Callable:
    """Of a loss of torch's that is not reduced."""
    return lambda x, t, *rest: formula(x, t, *rest[1:]) if (rest or (1,))[0] == 0 else None


def _huber(x, t, delta=1.0):
    d = make("abs", make("sub", x, t))
    near = make("at_most", d, delta)
    return make("mul", near, make("sub", d, make("mul", 0.5, near)))


def _smooth_l1(x, t, beta=1.0):
    return make("div", _huber(x, t, beta), beta) if beta else make("abs", make("sub", x, t))


def _squared_error(x, t):
    d = make("sub", x, t)
    return make("mul", d, d)


def _binary_cross_entropy(p, t, weight=None, reduction=1):
    return make("log_loss", p, t) if reduction == 0 and weight is None else None


def _binary_cross_entropy_backward(g, p, t, weight=None, reduction=1):
    if reduction != 0 or weight is not None:
        return None
    return make("mul", g, make("div", make("sub", p, t), make("at_least", make("mul", make("sub", 1, p), p), 1e-12)))


def _to_copy(x, dtype=None, **_):
    """A cast to float32 or float64 is none: the formula has one accumulation dtype. One to a half would round."""
    if dtype is None or dtype in (torch.float32, torch.float64):
        return real(x)
    return boolean(x) if dtype is torch.bool else None


def _identity(x, *_, **__):
    return x


def _plain(op: str) -> Callable[..., Expr]:
    return lambda *args: make(op, *args)


def _are_bool(*args) -> bool:
    return all(isinstance(a, Expr) and a.is_bool for a in args)


def _bitwise(op: str):
    """Of truth values alone."""
    return lambda *args: make(op, *args) if _are_bool(*args) else None


def _add(a, b, alpha=1):
    """Of truth values "or", as PyTorch's."""
    return make("or", a, b) if _are_bool(a, b) and alpha else make("add", a, _scaled(b, alpha))


def _mul(a, b):
    return make("and" if _are_bool(a, b) else "mul", a, b)


def _div(a, b, rounding_mode=None):
    if rounding_mode == "floor":
        return make("floor_div", a, b)
    quotient = make("div", a, b)
    return quotient if rounding_mode is None else make("trunc", quotient)


# By the name of the ATen operation, of any overload, in place or not; None is an operation that cannot be fused.
OPERATIONS: dict[str, Callable] = {
    **{name: _plain(name) for name in (
        "neg abs exp expm1 log log1p sqrt tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc lgamma "
        "floor ceil trunc round sgn sigmoid pow maximum minimum where atan2 fmod remainder lt le gt ge eq ne"
    ).split()},
    "sign": _plain("sgn"),
    "add": _add,
    "mul": _mul,
    "sub": lambda a, b, alpha=1: make("sub", a, _scaled(b, alpha)),
    "rsub": lambda a, b, alpha=1: make("sub", b, _scaled(a, alpha)),
    "div": _div,
    "floor_divide": _plain("floor_div"),
    "reciprocal": lambda x: make("div", 1, x),
    "rsqrt": lambda x: make("div", 1, make("sqrt", x)),
    "square": lambda x: make("mul", x, x),
    "exp2": lambda x: make("exp", make("mul", x, math.log(2))),
    "log2": lambda x: make("div", make("log", x), math.log(2)),
    "log10": lambda x: make("div", make("log", x), math.log(10)),
    "clamp": _clamp,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "sinc": _sinc,
    "celu": _celu,
    "clamp_min": lambda x, low: make("at_least", x, low),
    "clamp_max": lambda x, high: make("at_most", x, high),
    "relu": _plain("relu"),
    "silu": lambda x: make("mul", x, make("sigmoid", x)),
    "gelu": _gelu,
    "leaky_relu": lambda x, slope=0.01: make("where", make("gt", x, 0), x, make("mul", x, slope)),
    "elu": _elu,
    "softplus": _softplus,
    "log_sigmoid_forward": _log_sigmoid,
    "logaddexp": _logaddexp,
    "xlogy": _plain("xlogy"),
    "special_xlog1py": _plain("xlog1py"),
    "special_entr": _plain("entr"),
    "logical_and": _plain("and"),
    "logical_or": _plain("or"),
    "logical_not": _plain("not"),
    "logical_xor": lambda a, b: make("ne", real(boolean(a)), real(boolean(b))),
    "bitwise_and": _bitwise("and"),
    "bitwise_or": _bitwise("or"),
    "bitwise_not": _bitwise("not"),
    "isnan": lambda x: make("ne", x, x),
    "isinf": lambda x: make("eq", make("abs", x), math.inf),
    "isfinite": lambda x: make("lt", make("abs", x), math.inf),
    "masked_fill": lambda x, mask, value: make("where", mask, value, x),
    "scalar_tensor": lambda value, **_: const(value),
    "full": lambda size, value, **_: const(value),
    "full_like": lambda x, value, **_: const(value),
    "fill": lambda x, value: value if isinstance(value, Expr) else const(value),
    "zero": lambda x: const(0),
    "copy": lambda x, value, *_: value,
    **{name: lambda *_, **__: const(1) for name in ("ones_like", "ones", "new_ones")},
    **{name: lambda *_, **__: const(0) for name in ("zeros_like", "zeros", "new_zeros", "empty_like", "new_empty",
                                                  "_efficientzerotensor")},
    **{name: _identity for name in ("alias", "view", "_unsafe_view", "expand", "clone", "lift_fresh", "contiguous",
                                    "expand_as", "view_as", "reshape", "unsqueeze", "squeeze")},
    "_to_copy": _to_copy,
    "to": _to_copy,
    "mse_loss": _unreduced(_squared_error),
    "huber_loss": _unreduced(_huber),
    "smooth_l1_loss": _unreduced(_smooth_l1),
    "binary_cross_entropy": _binary_cross_entropy,
    # Backwards of the operations that an expression is evaluated by.
    "sigmoid_backward": lambda g, p: make("mul", g, make("mul", p, make("sub", 1, p))),
    "tanh_backward": lambda g, y: make("mul", g, make("sub", 1, make("mul", y, y))),
    "softplus_backward": lambda g, x, *_: make("mul", g, make("sigmoid", x)),
    "binary_cross_entropy_backward": _binary_cross_entropy_backward,
    "threshold_backward": lambda g, x, threshold: make("where", make("le", x, threshold), 0, g),
}  # fmt: skip
