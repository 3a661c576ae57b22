"""Activation functions, and their derivatives written in the output.

Each function takes the array namespace `xp` first; each derivative takes the function's *output*.
"""

from typing import Any


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
