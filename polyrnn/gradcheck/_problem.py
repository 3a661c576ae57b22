"""What a method needs to know of a function with a hand-written gradient; and trees of arrays with names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from ..backends import Backend, tree_map

MISSING = object()  # stands where a tree lacks what another one has


@dataclass(frozen=True)
class Problem:
    """A function, its hand-written gradient, and the point at which they are compared.

    `inputs` and `upstream` (the gradient of the outputs) are trees of NumPy arrays in float64; arrays of integers and
    booleans are held fixed.
    """

    title: str
    inputs: Any
    upstream: Any
    # (backend, inputs, upstream) -> outputs, gradients in the form of the inputs; the arrays are the backend's
    by_hand: Callable[[Backend, Any, Any], tuple[Any, Any]]
    # (backend, inputs) -> outputs, such that the library's own differentiation does not meet what was written by hand
    forward: Callable[[Backend, Any], Any]
    # the forward pass on complex NumPy arrays; None if the function is not analytic
    analytic: Callable[[Any], Any] | None = None
    # whether `by_hand` can be compiled as a whole where the backend compiles; a user's function need not be traceable
    whole: bool = True


def is_real(leaf: Any) -> bool:
    """Whether a leaf is differentiated: an array of floating point numbers."""
    return getattr(leaf, "dtype", None) is not None and leaf.dtype.kind == "f"


def cast(tree: Any, dtype: str) -> Any:
    """The tree's floating arrays in another dtype."""
    return tree_map(lambda leaf: leaf.astype(dtype) if is_real(leaf) else leaf, tree)


def walk(tree: Any, *others: Any, name: str = "") -> Iterator[tuple[Any, ...]]:
    """(name, leaf, the others' leaves) over a tree; an other's leaf is MISSING where it has no such branch."""
    if isinstance(tree, dict):
        for key in tree:
            yield from walk(tree[key], *(_at(o, key) for o in others), name=f"{name}.{key}" if name else str(key))
    elif isinstance(tree, tuple):
        for k, branch in enumerate(tree):
            yield from walk(branch, *(_at(o, k) for o in others), name=f"{name}.{k}" if name else str(k))
    elif tree is not None:
        yield name, tree, *others


def _at(tree: Any, key: Any) -> Any:
    if isinstance(tree, dict):
        return tree.get(key, MISSING)
    if isinstance(tree, tuple):
        return tree[key] if key < len(tree) else MISSING
    return MISSING


def unknown(tree: Any, other: Any, name: str = "") -> Iterator[str]:
    """The names of what `other` has and `tree` has not."""
    if isinstance(tree, (dict, tuple)) and isinstance(other, type(tree)):
        keys = list(other) if isinstance(other, dict) else range(len(other))
        for key in keys:
            here = f"{name}.{key}" if name else str(key)
            inside = _at(tree, key)
            if inside is MISSING:
                yield here
            else:
                yield from unknown(inside, _at(other, key), here)


def dot(tree: Any, other: Any) -> Any:
    """The sum of the products of two trees' elements."""
    return sum(numpy.sum(a * b) for _, a, b in walk(tree, other))


def normal(rng: numpy.random.Generator, tree: Any) -> Any:
    """Random numbers in the form of a tree."""
    return tree_map(lambda leaf: rng.standard_normal(leaf.shape), tree)
