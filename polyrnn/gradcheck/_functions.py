"""Any pair of functions, forward and backward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backends import Backend, tree_map
from ..backends import backend as open_backend
from ._examine import examine
from ._problem import Problem, normal
from ._report import Report


def check(
    forward: Callable,
    backward: Callable,
    inputs: Sequence[Any],
    *,
    tape: bool = False,
    methods: Sequence[str] = ("differences",),
    names: Sequence[str] | None = None,
    backend: Any = "numpy",
    seed: int = 0,
    tolerance: float | None = None,
    elementwise: int = 100,
) -> Report:
    """Compare the hand-written gradients of any function with ones found without them.

    Parameters
    ----------
    forward : callable
        forward(*inputs) -> output, an array or a tuple or dict of arrays; with `tape`, (output, tape).
    backward : callable
        backward(doutput, *inputs), or with `tape` backward(doutput, tape), -> the gradients, one for each input
        (that of an input of integers may be None); for a single input the bare gradient will do. `doutput` has the
        output's form.
    inputs : sequence
        The point at which to check: arrays, or dicts or tuples of arrays. Floating ones are taken in float64; those of
        integers or booleans are held fixed. Choose none that stands on a kink (relu at 0): there is no derivative.
    tape : bool
        Whether forward leaves a tape for backward.
    methods : sequence of str
        Of "differences" (for any function), "complex step" (if it is analytic and takes complex arrays), "jax.grad"
        (if it runs on arrays of JAX).
    names : sequence of str, optional
        What to call the inputs; by default the names of forward's parameters.
    backend : str or Backend
        Whose arrays backward is given; forward is differenced on NumPy.
    seed : int
        For the upstream gradients and the directions.
    tolerance : float, optional
        The largest relative error that counts as right; by default that of `TOLERANCES`.
    elementwise : int
        Inputs of at most so many elements are differenced element by element as well as along random directions.

    Returns
    -------
    Report
        A row for each input and method: the largest absolute and relative error, and where it sits.

    Raises
    ------
    ValueError
        For an unknown method, one that cannot be used here, or inputs of which none is floating.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.gradcheck import check
    >>> def forward(x, w):
    ...     return np.tanh(w @ x)
    >>> def backward(dy, x, w):
    ...     dz = dy * (1 - np.tanh(w @ x) ** 2)
    ...     return w.T @ dz, dz @ x.T
    >>> rng = np.random.default_rng(0)
    >>> check(forward, backward, [rng.normal(size=(3, 2)), rng.normal(size=(5, 3))]).raise_if_wrong()
    >>> report = check(forward, lambda dy, x, w: (w.T @ dy, dy @ x.T), [np.ones((3, 2)), np.ones((5, 3))])
    >>> [row.name for row in report.rows if not row.ok]
    ['x', 'x', 'w', 'w']
    """
    arrays = [tree_map(_array, _tuples(value)) for value in inputs]
    called = list(names) if names is not None else _names(forward, len(arrays))
    if len(called) != len(arrays):
        raise ValueError(f"names has {len(called)} entries for {len(arrays)} inputs")

    def outputs(values: list) -> tuple[Any, Any]:
        result = forward(*values)
        return result if tape else (result, None)

    def by_hand(chosen: Backend, given: dict, upstream: Any) -> tuple[Any, Any]:
        values = list(given.values())
        output, left = outputs(values)
        found = _tuples(backward(upstream, left) if tape else backward(upstream, *values))
        if len(values) == 1 and not (isinstance(found, tuple) and len(found) == 1):
            found = (found,)
        if not isinstance(found, tuple):
            raise TypeError(f"backward returned {type(found).__name__}; expected {len(values)} gradients, one an input")
        more = {f"gradient {k}": g for k, g in enumerate(found) if k >= len(called)}
        return _tuples(output), dict(zip(called, found, strict=False)) | more

    def plain(chosen: Backend, given: dict) -> Any:
        return _tuples(outputs(list(given.values()))[0])

    at = dict(zip(called, arrays, strict=True))
    host = open_backend("numpy")
    rng = numpy.random.default_rng([seed, 0])
    upstream = normal(rng, tree_map(numpy.asarray, plain(host, tree_map(numpy.copy, at))))
    title = getattr(forward, "__name__", type(forward).__name__)
    problem = Problem(title, at, upstream, by_hand, plain, lambda given: plain(host, given), whole=False)
    return examine(problem, backend, "float64", methods, seed, tolerance, elementwise)


def _array(value: Any) -> Any:
    array = numpy.asarray(value)
    return numpy.array(array, dtype="float64" if array.dtype.kind == "f" else None)


def _tuples(tree: Any) -> Any:
    """The tree with tuples for lists."""
    if isinstance(tree, list):
        return tuple(_tuples(branch) for branch in tree)
    return tree


def _names(forward: Callable, count: int) -> list[str]:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        found = [p.name for p in inspect.signature(forward).parameters.values() if p.kind in plain]
    except (TypeError, ValueError):  # a function written in C
        found = []
    return found[:count] if len(found) >= count else [f"input {k}" for k in range(count)]
