"""The operators on single elements: arithmetic with broadcasting, activations, comparisons."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy

from ... import activations
from ._base import MANY, At, Attributes, Operator, check_broadcast, is_float, unbroadcast
from ._tensors import dtype_of

OLD: Attributes = {"consumed_inputs": ("ints", ())}  # of opset 1, of no meaning
OLD_BINARY: Attributes = {**OLD, "broadcast": ("int", 0)}  # its `axis` meant another broadcasting, and is refused

# ---- of one array ---------------------------------------------------------------------------------------------------


def unary(run: Callable, derivative: Callable | None, attributes: Attributes = OLD, since: int = 1) -> Operator:
    """With run(xp, x, **attributes) and derivative(xp, x, y, **attributes)."""

    def constants(at: At) -> dict[str, Any]:
        return {name: value for name, value in at.attributes.items() if name not in OLD}

    def back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
        assert derivative is not None
        return (gradients[0] * derivative(at.xp, inputs[0], outputs[0], **constants(at)),)

    def forward(at: At, x: Any) -> Any:
        return run(at.xp, x, **constants(at))

    return Operator(forward, back if derivative else None, attributes, since=since)


def _of_output(name: str, attributes: Attributes = OLD, since: int = 1) -> Operator:
    """An activation of the table that the gates have too; its derivative is written in the output."""
    kind = activations.ACTIVATIONS[name]

    def derivative(xp: Any, x: Any, y: Any, **constants: float) -> Any:
        return kind.derivative(xp, y, *constants.values())

    def run(xp: Any, x: Any, **constants: float) -> Any:
        return kind.function(xp, x, *constants.values())

    return unary(run, derivative, attributes, since)


def _leaky_relu_derivative(xp: Any, x: Any, _: Any, alpha: float) -> Any:
    return xp.where(x > 0, xp.ones_like(x), xp.full_like(x, alpha))  # of x: alpha may be negative here


def _elu_derivative(xp: Any, x: Any, y: Any, alpha: float) -> Any:
    return xp.where(x > 0, xp.ones_like(x), y + alpha)


def _thresholded_relu_derivative(xp: Any, x: Any, _: Any, alpha: float) -> Any:
    return xp.astype(x > alpha, x.dtype)


def _clipped(at: At, x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else at.xp.maximum(x, low)
    return x if high is None else at.xp.minimum(x, high)


def _clipped_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    x, low, high = (*inputs, None, None)[:3]
    inside = at.xp.ones_like(x, dtype=at.xp.bool)
    inside = inside if low is None else inside & (x >= low)
    inside = inside if high is None else inside & (x <= high)
    return (at.xp.where(inside, gradients[0], at.xp.zeros_like(gradients[0])), *[None] * (len(inputs) - 1))


def _old_limits(at: At, x: Any) -> tuple[Any, Any]:
    return tuple(None if at[k] is None else at.xp.asarray(at[k], dtype=x.dtype) for k in ("min", "max"))  # type: ignore


def _old_clip_back(at: At, residual: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return _clipped_back(at, residual, (*inputs, *_old_limits(at, inputs[0])), outputs, gradients)[:1]


# ---- of two arrays --------------------------------------------------------------------------------------------------


def _alike(a: Any, b: Any) -> None:
    if a.dtype != b.dtype:
        raise ValueError(f"dtypes {a.dtype} and {b.dtype}; expected one")


def binary(run: Callable, back: Callable | None, attributes: Attributes = OLD_BINARY, alike: bool = True) -> Operator:
    """With run(xp, a, b) and back(xp, a, b, y, dy), which returns the gradients before the broadcasting is undone."""

    def forward(at: At, a: Any, b: Any) -> Any:
        if alike:
            _alike(a, b)
        check_broadcast(a, b)
        return run(at.xp, a, b)

    def backward(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
        assert back is not None
        found = back(at.xp, *inputs, outputs[0], gradients[0])
        return tuple(None if d is None else unbroadcast(at.xp, d, of) for d, of in zip(found, inputs, strict=True))

    return Operator(forward, backward if back else None, attributes, inputs=(2, 2))


def _quotient(xp: Any, a: Any, b: Any) -> Any:
    if is_float(a):
        return a / b
    down = a // b  # ONNX rounds towards zero
    return xp.where((down * b != a) & ((a < 0) != (b < 0)), down + 1, down)


def _power(xp: Any, x: Any, p: Any) -> Any:
    if is_float(x) or not is_float(p):
        return xp.pow(x, xp.astype(p, x.dtype))
    return xp.astype(xp.pow(xp.astype(x, p.dtype), p), x.dtype)


def _power_back(xp: Any, x: Any, p: Any, y: Any, dy: Any) -> tuple[Any, Any]:
    q = xp.astype(p, x.dtype)
    one, zero = xp.ones_like(x), xp.zeros_like(x)
    slope = xp.where(q == 0, xp.zeros_like(dy), q * xp.pow(x, xp.where(q == 0, xp.ones_like(q), q - 1)))
    dp = dy * y * xp.log(xp.where(x > 0, x, one)) if is_float(p) else None
    return dy * slope, None if dp is None else xp.where(x > zero, dp, xp.zeros_like(dp))


def _where(at: At, condition: Any, a: Any, b: Any) -> Any:
    _alike(a, b)
    check_broadcast(condition, a, b)
    return at.xp.where(condition, a, b)


def _where_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    (condition, a, b), (dy,), zero = inputs, gradients, at.xp.zeros_like(gradients[0])
    chosen, other = at.xp.where(condition, dy, zero), at.xp.where(condition, zero, dy)
    return None, unbroadcast(at.xp, chosen, a), unbroadcast(at.xp, other, b)


# ---- of any number --------------------------------------------------------------------------------------------------


def _folded(step: str) -> Callable:
    def run(at: At, *arrays: Any) -> Any:
        check_broadcast(*arrays)
        return functools.reduce(getattr(at.xp, step), arrays)

    return run


def _sum_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return tuple(unbroadcast(at.xp, gradients[0], array) for array in inputs)


def _mean(at: At, *arrays: Any) -> Any:
    return _folded("add")(at, *arrays) / len(arrays)


def _mean_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return _sum_back(at, _, inputs, outputs, (gradients[0] / len(inputs),))


def _extreme_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    """The gradient goes to the first of those that are equal to the result."""
    xp, (y,), (dy,) = at.xp, outputs, gradients
    free, found = xp.ones_like(y, dtype=xp.bool), []
    for array in inputs:
        here = free & (array == y)
        found.append(unbroadcast(xp, xp.where(here, dy, xp.zeros_like(dy)), array))
        free = free & ~here
    return tuple(found)


# ---- of other types -------------------------------------------------------------------------------------------------


def _cast(at: At, x: Any) -> Any:
    name = dtype_of(at["to"], "to")
    # By way of an array: where a library has 32 bits only, integers are cut quietly and floats are refused.
    return at.xp.astype(x, at.backend.asarray(numpy.zeros(1, dtype=name)).dtype)


def _cast_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return (at.xp.astype(gradients[0], inputs[0].dtype) if is_float(inputs[0]) else None,)


def _check_cast(attributes: dict[str, Any], *_: Any) -> None:
    dtype_of(attributes["to"], "to")


def _alpha(alpha: float, since: int = 1) -> Attributes:
    return {**OLD, "alpha": ("float", alpha)}


def _compared(run: Callable) -> Operator:
    return binary(run, None, {"broadcast": ("int", 0)})


_CAST: Attributes = {"to": ("int", None), "saturate": ("int", 1), "round_mode": ("string", "up")}  # these: of 8 bits
_LIMITS: Attributes = {**OLD, "min": ("float", None), "max": ("float", None)}
_MANY = (1, MANY)

POINTWISE: dict[str, tuple[Operator, ...]] = {
    "Identity": (unary(lambda xp, x: x, lambda xp, x, y: 1),),
    "Neg": (unary(lambda xp, x: -x, lambda xp, x, y: -1),),
    "Abs": (unary(lambda xp, x: xp.abs(x), lambda xp, x, y: xp.sign(x)),),
    "Exp": (unary(lambda xp, x: xp.exp(x), lambda xp, x, y: y),),
    "Log": (unary(lambda xp, x: xp.log(x), lambda xp, x, y: 1 / x),),
    "Sqrt": (unary(lambda xp, x: xp.sqrt(x), lambda xp, x, y: 0.5 / y),),
    "Reciprocal": (unary(lambda xp, x: 1 / x, lambda xp, x, y: -y * y),),
    "Sigmoid": (unary(activations.accurate_sigmoid, lambda xp, x, y: y * (1 - y)),),
    "Tanh": (_of_output("tanh"),),
    "Relu": (_of_output("relu"),),
    "LeakyRelu": (unary(activations.leaky_relu, _leaky_relu_derivative, _alpha(0.01)),),
    "ThresholdedRelu": (unary(activations.thresholded_relu, _thresholded_relu_derivative, _alpha(1.0), 10),),
    "Elu": (unary(activations.elu, _elu_derivative, _alpha(1.0)),),
    "HardSigmoid": (_of_output("hard_sigmoid", {**OLD, "alpha": ("float", 0.2), "beta": ("float", 0.5)}),),
    "Softsign": (_of_output("softsign"),),
    "Softplus": (_of_output("softplus"),),
    "Clip": (
        Operator(lambda at, x: _clipped(at, x, *_old_limits(at, x)), _old_clip_back, _LIMITS),
        Operator(_clipped, _clipped_back, inputs=(1, 3), since=11),
    ),
    "Add": (binary(lambda xp, a, b: a + b, lambda xp, a, b, y, dy: (dy, dy)),),
    "Sub": (binary(lambda xp, a, b: a - b, lambda xp, a, b, y, dy: (dy, -dy)),),
    "Mul": (binary(lambda xp, a, b: a * b, lambda xp, a, b, y, dy: (dy * b, dy * a)),),
    "Div": (binary(_quotient, lambda xp, a, b, y, dy: (dy / b, -dy * y / b)),),
    "Pow": (binary(_power, _power_back, alike=False),),
    "Sum": (Operator(_folded("add"), _sum_back, OLD, inputs=_MANY),),
    "Mean": (Operator(_mean, _mean_back, OLD, inputs=_MANY),),
    "Max": (Operator(_folded("maximum"), _extreme_back, OLD, inputs=_MANY),),
    "Min": (Operator(_folded("minimum"), _extreme_back, OLD, inputs=_MANY),),
    "Where": (Operator(_where, _where_back, inputs=(3, 3), since=9),),
    "Equal": (_compared(lambda xp, a, b: a == b),),
    "Less": (_compared(lambda xp, a, b: a < b),),
    "Greater": (_compared(lambda xp, a, b: a > b),),
    "LessOrEqual": (_compared(lambda xp, a, b: a <= b)._replace(since=12),),
    "GreaterOrEqual": (_compared(lambda xp, a, b: a >= b)._replace(since=12),),
    "And": (_compared(lambda xp, a, b: a & b),),
    "Or": (_compared(lambda xp, a, b: a | b),),
    "Not": (unary(lambda xp, x: ~x, None),),
    "Cast": (Operator(_cast, _cast_back, _CAST, since=6, check=_check_cast),),
}
