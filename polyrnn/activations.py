"""Activation functions, and their derivatives written in the output.

Each function takes the array namespace `xp` first; each derivative takes the function's *output*. `ACTIVATIONS` has
those that a gate may have by their names, with the constants that ONNX lists for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple


def tanh(xp: Any, x: Any) -> Any:
    """Hyperbolic tangent."""
    return xp.tanh(x)


def tanh_derivative(xp: Any, a: Any) -> Any:
    """D tanh(x)/dx = 1 - a^2, with a = tanh(x)."""
    return 1 - a * a


def relu(xp: Any, x: Any) -> Any:
    """max(x, 0)."""
    return xp.where(x > 0, x, xp.zeros_like(x))


def relu_derivative(xp: Any, a: Any) -> Any:
    """D relu(x)/dx = 1 where a > 0, else 0 (at x = 0 too), with a = relu(x)."""
    return xp.astype(a > 0, a.dtype)


def sigmoid(xp: Any, x: Any) -> Any:
    """1/(1 + exp(-x)) as (tanh(x/2) + 1)/2: nothing overflows. The cells use it.

    For very negative x in float32 the sum cancels: below about -17 the result is exactly 0.
    """
    return xp.tanh(x * 0.5) * 0.5 + 0.5


def sigmoid_derivative(xp: Any, s: Any) -> Any:
    """D sigmoid(x)/dx = s (1 - s), with s = sigmoid(x)."""
    return s * (1 - s)


def accurate_sigmoid(xp: Any, x: Any) -> Any:
    """1/(1 + exp(-x)) to full relative accuracy for every x; exp is never taken of a positive number."""
    e = xp.exp(-xp.abs(x))
    return xp.where(x < 0, e, xp.ones_like(x)) / (1 + e)


def softmax(xp: Any, z: Any, axis: int) -> Any:
    """exp(z_k) / sum_j exp(z_j); the largest z is subtracted first, so that exp cannot overflow."""
    e = xp.exp(z - xp.max(z, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def softmax_backward(xp: Any, y: Any, dy: Any, axis: int) -> Any:
    """The gradient of z: dz = y (dy - sum_j dy_j y_j), with y = softmax(z)."""
    return y * (dy - xp.sum(dy * y, axis=axis, keepdims=True))


# ---- those of ONNX, of which some have constants ---------------------------------------------------------------


def affine(xp: Any, x: Any, alpha: float, beta: float) -> Any:
    """Alpha x + beta."""
    return x * alpha + beta


def affine_derivative(xp: Any, a: Any, alpha: float, beta: float) -> Any:
    """Alpha."""
    return xp.full_like(a, alpha)


def leaky_relu(xp: Any, x: Any, alpha: float) -> Any:
    """X where x > 0, else alpha x; alpha >= 0, else the output would not tell which."""
    return xp.where(x > 0, x, x * alpha)


def leaky_relu_derivative(xp: Any, a: Any, alpha: float) -> Any:
    """1 where a > 0, else alpha."""
    return xp.where(a > 0, xp.ones_like(a), xp.full_like(a, alpha))


def thresholded_relu(xp: Any, x: Any, alpha: float) -> Any:
    """X where x > alpha, else 0; alpha >= 0."""
    return xp.where(x > alpha, x, xp.zeros_like(x))


def scaled_tanh(xp: Any, x: Any, alpha: float, beta: float) -> Any:
    """Alpha tanh(beta x); alpha not 0."""
    return xp.tanh(x * beta) * alpha


def scaled_tanh_derivative(xp: Any, a: Any, alpha: float, beta: float) -> Any:
    """Alpha beta (1 - tanh(beta x)^2) = beta (alpha - a^2 / alpha)."""
    return (alpha - a * a * (1 / alpha)) * beta


def hard_sigmoid(xp: Any, x: Any, alpha: float, beta: float) -> Any:
    """Alpha x + beta, but not below 0 nor above 1."""
    return xp.clip(x * alpha + beta, 0, 1)


def hard_sigmoid_derivative(xp: Any, a: Any, alpha: float, beta: float) -> Any:
    """Alpha where 0 < a < 1, else 0."""
    return xp.where((a > 0) & (a < 1), xp.full_like(a, alpha), xp.zeros_like(a))


def elu(xp: Any, x: Any, alpha: float) -> Any:
    """X where x > 0, else alpha (exp(x) - 1); alpha >= 0."""
    return xp.where(x > 0, x, xp.expm1(xp.where(x > 0, xp.zeros_like(x), x)) * alpha)


def elu_derivative(xp: Any, a: Any, alpha: float) -> Any:
    """1 where a > 0, else alpha exp(x) = a + alpha."""
    return xp.where(a > 0, xp.ones_like(a), a + alpha)


def softsign(xp: Any, x: Any) -> Any:
    """X / (1 + |x|)."""
    return x / (1 + xp.abs(x))


def softsign_derivative(xp: Any, a: Any) -> Any:
    """1 / (1 + |x|)^2 = (1 - |a|)^2."""
    return (1 - xp.abs(a)) * (1 - xp.abs(a))


def softplus(xp: Any, x: Any) -> Any:
    """log(1 + exp(x)); exp is never taken of a positive number."""
    return xp.where(x > 0, x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))


def softplus_derivative(xp: Any, a: Any) -> Any:
    """sigmoid(x) = 1 - exp(-a)."""
    return -xp.expm1(-a)


class Kind(NamedTuple):
    """A function, its derivative, the names and defaults of its constants, and what these may be."""

    function: Callable[..., Any]
    derivative: Callable[..., Any]
    constants: Mapping[str, float | None] = MappingProxyType({})  # None: there is no default
    allowed: Callable[..., bool] = lambda *constants: True
    condition: str = ""


ACTIVATIONS = {
    "sigmoid": Kind(sigmoid, sigmoid_derivative),
    "tanh": Kind(tanh, tanh_derivative),
    "relu": Kind(relu, relu_derivative),
    "affine": Kind(affine, affine_derivative, {"alpha": None, "beta": None}),
    "leaky_relu": Kind(leaky_relu, leaky_relu_derivative, {"alpha": 0.01}, lambda alpha: alpha >= 0, "alpha >= 0"),
    "thresholded_relu": Kind(
        thresholded_relu,
        lambda xp, a, alpha: relu_derivative(xp, a),
        {"alpha": 1.0},
        lambda alpha: alpha >= 0,
        "alpha >= 0",
    ),
    "scaled_tanh": Kind(
        scaled_tanh,
        scaled_tanh_derivative,
        {"alpha": None, "beta": None},
        lambda alpha, beta: alpha != 0,
        "alpha not 0",
    ),
    "hard_sigmoid": Kind(hard_sigmoid, hard_sigmoid_derivative, {"alpha": 0.2, "beta": 0.5}),
    "elu": Kind(elu, elu_derivative, {"alpha": 1.0}, lambda alpha: alpha >= 0, "alpha >= 0"),
    "softsign": Kind(softsign, softsign_derivative),
    "softplus": Kind(softplus, softplus_derivative),
}


@dataclass(frozen=True)
class Activation:
    """A function of ACTIVATIONS with its constants."""

    name: str
    constants: tuple[float, ...] = ()

    def __call__(self, xp: Any, x: Any) -> Any:
        """Its value."""
        return ACTIVATIONS[self.name].function(xp, x, *self.constants)

    @property
    def analytic(self) -> bool:
        """Whether it may be taken of complex numbers."""
        return self.name in ("sigmoid", "tanh", "affine", "scaled_tanh")

    def derivative(self, xp: Any, a: Any) -> Any:
        """Its derivative, of the value."""
        return ACTIVATIONS[self.name].derivative(xp, a, *self.constants)


def activation(spec: Any, name: str = "activation") -> Activation:
    """The activation that somebody names: "tanh", or with its constants ("hard_sigmoid", 0.2, 0.5).

    Raises
    ------
    ValueError, TypeError
        If there is none of that name, or it has other constants; `name` is the argument's.
    """
    kind, *constants = spec if isinstance(spec, tuple) and spec else (spec,)
    if not isinstance(kind, str) or kind not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{name}={spec!r}; expected one of {known}, or a tuple of its name and its constants")
    found = ACTIVATIONS[kind]
    for constant in constants:
        if isinstance(constant, bool) or not isinstance(constant, Real) or not math.isfinite(constant):
            raise TypeError(f"{name}={spec!r}: {constant!r} is no finite number")
    default = list(found.constants.values())
    values = [float(constant) for constant in constants] + default[len(constants) :]
    if len(values) != len(default) or None in values:
        expected = ", ".join(f"{n} (by default {d})" if d is not None else n for n, d in found.constants.items())
        raise ValueError(f"{name}={spec!r}: {kind} has {expected or 'no constants'}")
    if not found.allowed(*values):
        raise ValueError(f"{name}={spec!r}: expected {found.condition}")
    return Activation(kind, tuple(values))  # type: ignore[arg-type]
