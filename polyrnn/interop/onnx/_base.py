"""What an operator is: its two directions, its attributes, and the opset from which on it is so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy

from ..._door import FLOATS, dtype_name
from ...backends import Backend

REQUIRED = object()  # in place of a default
LARGEST = 2**28  # elements of what is made out of shapes, or by repeating what is there: 1 GiB of float32
MANY = 2**31  # no limit

# By name, how the reader calls the kind of value, and the default.
Attributes = Mapping[str, tuple[str, Any]]


@dataclass(frozen=True)
class At:
    """Where an operator runs: a backend, its namespace, the node's attributes as items, the count of its outputs.

    `memo` is the node's own, for what it makes of inputs that never change; None where they may.
    """

    backend: Backend
    xp: Any
    attributes: dict[str, Any]
    count: int = 1
    memo: dict | None = None

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` makes, if there is a memo only once; under a trace nothing is kept."""
        if self.memo is None:
            return make()
        found = self.memo.get(key)
        if found is None:
            found = make()
            if self.backend.is_concrete(found):
                self.memo[key] = found
        return found

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


class Operator(NamedTuple):
    """An operator as of an opset.

    Attributes
    ----------
    run : callable
        (at, *inputs) -> the output or a tuple of them; absent inputs are None.
    back : callable or None
        (at, residual, inputs, outputs, gradients of the outputs) -> a gradient or None for each input; a gradient
        of the outputs may be None, where it is zero, but not all are. None: nothing has a gradient.
    attributes : mapping
        What is allowed, each with its kind and default.
    inputs, outputs : pair of int
        The least and the most of them.
    since : int
        The opset.
    host : tuple of int
        The inputs that tell shapes and the like: NumPy arrays, wherever the others are.
    once : tuple of int
        The inputs on which depends what is kept in `at.memo`.
    forward : callable, optional
        As `run`, and a residual for `back`.
    check : callable, optional
        (attributes, the names of the outputs, the constants by input position, None for what is known later alone)
        -> None, or ValueError when a model is loaded.
    """

    run: Callable[..., Any]
    back: Callable[..., Any] | None
    attributes: Attributes = MappingProxyType({})
    inputs: tuple[int, int] = (1, 1)
    outputs: tuple[int, int] = (1, 1)
    since: int = 1
    host: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    forward: Callable[..., Any] | None = None
    check: Callable[[dict[str, Any], tuple[str, ...], dict[int, numpy.ndarray | None]], None] | None = None


def is_float(array: Any) -> bool:
    """Whether there can be a gradient."""
    return dtype_name(array) in FLOATS


def axis_of(axis: int, axes: int, what: str = "axis") -> int:
    """The axis counted from the front; ValueError if there is none."""
    if not -axes <= axis < axes:
        raise ValueError(f"{what}={axis}: there are {axes} axes")
    return axis % axes


def axes_of(axes: Any, count: int) -> tuple[int, ...]:
    """The axes counted from the front, each once."""
    found = tuple(axis_of(int(axis), count, "axes") for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"axes={tuple(axes)}: one of them stands there twice")
    return found


def whole(array: Any, what: str) -> tuple[int, ...]:
    """The numbers of a vector of integers on the host."""
    if array.ndim > 1 or array.dtype.kind not in "iu" or array.size > 2**16:
        raise ValueError(f"{what} has the shape {array.shape} of {array.dtype}; expected a vector of integers")
    return tuple(int(number) for number in array.reshape(-1))


def check_large(shape: tuple[int, ...]) -> None:
    """Refuse what would be beyond LARGEST, or has a negative size."""
    if math.prod(shape) > LARGEST or any(size < 0 or size > MANY for size in shape):
        raise ValueError(f"the shape {shape}; results of at most {LARGEST} elements are made")


def check_broadcast(*arrays: Any) -> None:
    """The same of arrays that an operator broadcasts together."""
    first, *others = [tuple(array.shape) for array in arrays]
    if any(shape != first for shape in others):
        check_large(numpy.broadcast_shapes(first, *others))


def unbroadcast(xp: Any, gradient: Any, like: Any) -> Any:
    """The gradient of an array that was broadcast: the sum over the axes along which it was."""
    extra = gradient.ndim - like.ndim
    axes = tuple(range(extra)) + tuple(
        extra + k for k, size in enumerate(like.shape) if size == 1 and gradient.shape[extra + k] != 1
    )
    if not axes:
        return gradient
    return xp.reshape(xp.sum(gradient, axis=axes, dtype=gradient.dtype), like.shape)


def put_back(at: At, gradient: Any, axis: int, index: Any, size: int) -> Any:
    """Zeros with this size of an axis, to which the gradient is added at the indices (K,) of it."""
    xp = at.xp
    front = xp.moveaxis(gradient, axis, 0)
    rows = at.backend.scatter_add(xp.reshape(front, (front.shape[0], math.prod(front.shape[1:]))), index, size)
    return xp.moveaxis(xp.reshape(rows, (size, *front.shape[1:])), 0, axis)
