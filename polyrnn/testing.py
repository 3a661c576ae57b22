"""What the tests of polyrnn compare with, and what yours can: exact assertions, and one table of tolerances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy

from ._door import FLOATS, dtype_name
from .backends import backend_of, leaves

__all__ = ["TOLERANCES", "Tolerance", "assert_close", "assert_equal", "largest_error", "unchanged"]


class Tolerance(NamedTuple):
    """How far a result may be from the expected one.

    Attributes
    ----------
    limit : float
        The largest error that passes, as `largest_error` measures it.
    measured : float
        The largest error that was seen in the test suite, over all backends; the limit is about ten times that.
    """

    limit: float
    measured: float


# What is compared, and in which dtype: limit, measured. An entry is widened only with a sentence that says why.
TOLERANCES = {
    # outputs and final states against scalar loops in float64, or PyTorch's
    ("forward", "float64"): Tolerance(1e-14, 1.2e-15),
    ("forward", "float32"): Tolerance(5e-6, 6.7e-7),
    # gradients against PyTorch's in float64, or complex-step differences
    ("gradient", "float64"): Tolerance(3e-14, 3.4e-15),
    ("gradient", "float32"): Tolerance(7e-6, 6.7e-7),
    # both against float64 on the same rounded inputs, over hundreds of steps: eight ulps, where a sum over time that is
    # carried in half precision is wrong by 28; the 3.2e-3 is NumPy's sum over a block, the others' is below 1.4e-3
    ("forward", "float16"): Tolerance(7.9e-3, 1.5e-3),
    ("forward", "bfloat16"): Tolerance(6.3e-2, 1.2e-2),
    ("gradient", "float16"): Tolerance(7.9e-3, 3.2e-3),
    ("gradient", "bfloat16"): Tolerance(6.3e-2, 1.2e-2),
    # layers with layer normalisation: it divides by deviations that may be small, and errors grow from layer to layer
    ("normalised forward", "float64"): Tolerance(2e-13, 1.7e-14),
    ("normalised forward", "float32"): Tolerance(7e-6, 7.2e-7),
    ("normalised gradient", "float64"): Tolerance(1.5e-12, 1.5e-13),
    ("normalised gradient", "float32"): Tolerance(1.5e-5, 1.5e-6),
    # the same computation by another way: in halves, step by step, on strided views, under vmap
    ("same", "float64"): Tolerance(8e-15, 8.3e-16),
    # gradients against central differences in float64, whose own error it is
    ("differences", "float64"): Tolerance(3e-8, 3.0e-9),
}


def largest_error(actual: Any, expected: Any) -> float:
    """The largest difference of two host arrays, relative to the largest expected value where that is above 1.

    NaN and infinities count as equal where both have them, else as infinitely wrong.

    Examples
    --------
    >>> largest_error([1.0, 201.0], [1.0, 200.0])
    0.005
    """
    a, e = numpy.asarray(actual, dtype="float64"), numpy.asarray(expected, dtype="float64")
    alike = (a == e) | (numpy.isnan(a) & numpy.isnan(e))
    if not numpy.all(numpy.isfinite(a) & numpy.isfinite(e) | alike):
        return float("inf")
    difference = numpy.abs(numpy.where(alike, 0.0, a) - numpy.where(alike, 0.0, e))
    scale = numpy.max(numpy.abs(numpy.where(numpy.isfinite(e), e, 0.0)), initial=1.0)
    return float(numpy.max(difference, initial=0.0) / scale)


def assert_close(
    actual: Any, expected: Any, tolerance: str | float = "forward", *, like: Any = None, name: str = "actual"
) -> float:
    """Raise AssertionError unless two arrays, or two trees of them, agree; return the largest error.

    Namespace, device, dtype and shape are compared first, values last: an array that has wandered to the host or to
    float64 is wrong, however near its numbers are.

    Parameters
    ----------
    actual : array, or dict or tuple of arrays
        The result.
    expected : array, or dict or tuple of arrays
        What it should be, in the same form.
    tolerance : str or float
        What is compared, a key of `TOLERANCES`, or the largest error itself. Integers and booleans must be equal.
    like : array, optional
        An array whose namespace, device and dtype `actual` must have, if `expected` is of another one, such as a
        float64 reference on the host.
    name : str
        What to call `actual` in a message.

    Raises
    ------
    AssertionError
        Naming the part of the tree, what it was, and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> assert_close({"w": np.ones(3)}, {"w": np.ones(3)})
    0.0
    >>> assert_close(np.ones(3, dtype="float32"), np.ones(3))
    Traceback (most recent call last):
        ...
    AssertionError: actual: dtype float32; expected float64
    """
    worst = 0.0
    for where, a, e in _pairs(actual, expected, name):
        dtype = _check_form(where, a, e, like)
        if dtype not in FLOATS:
            limit = 0.0
        else:
            limit = tolerance if isinstance(tolerance, float) else TOLERANCES[tolerance, dtype].limit
        host, wanted = _host(a), _host(e)
        error = largest_error(host, wanted)
        if not error <= limit:
            raise AssertionError(
                f"{where}: error {error:.3g}; expected at most {limit:.3g} ({tolerance}, {dtype})\n"
                f"actual:\n{host}\nexpected:\n{wanted}"
            )
        worst = max(worst, error)
    return worst


def assert_equal(actual: Any, expected: Any, *, like: Any = None, name: str = "actual") -> None:
    """Like `assert_close`, but every element must be the same; NaN equals NaN.

    Examples
    --------
    >>> import numpy as np
    >>> assert_equal((np.zeros(2), None), (np.zeros(2), None))
    """
    for where, a, e in _pairs(actual, expected, name):
        _check_form(where, a, e, like)
        host, wanted = _host(a), _host(e)
        same = (host == wanted) | ((host != host) & (wanted != wanted))
        if not same.all():
            raise AssertionError(f"{where}: differs\nactual:\n{host}\nexpected:\n{wanted}")


@contextmanager
def unchanged(tree: Any) -> Iterator[None]:
    """A block of code after which the arrays of a tree must hold the same bits as before.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros(3)
    >>> with unchanged({"x": x}):
    ...     x[1] = 7.0
    Traceback (most recent call last):
        ...
    AssertionError: array 0 of shape (3,) was changed
    """
    arrays = leaves(tree)
    before = [_host(array).tobytes() for array in arrays]
    yield
    for k, (array, bits) in enumerate(zip(arrays, before, strict=True)):
        if _host(array).tobytes() != bits:
            raise AssertionError(f"array {k} of shape {tuple(array.shape)} was changed")


def _pairs(actual: Any, expected: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """The arrays of two trees side by side; their forms must be equal."""
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():  # in any order: jax.jit sorts them
            found = list(actual) if isinstance(actual, dict) else type(actual).__name__
            raise AssertionError(f"{name}: {found}; expected a dict of {list(expected)}")
        for key, value in expected.items():
            yield from _pairs(actual[key], value, f"{name}[{key!r}]")
    elif isinstance(expected, tuple):
        if not isinstance(actual, tuple) or len(actual) != len(expected):
            raise AssertionError(f"{name}: {type(actual).__name__}; expected a tuple of {len(expected)}")
        for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
            yield from _pairs(a, e, f"{name}[{k}]")
    elif expected is None or actual is None:
        if actual is not expected:
            raise AssertionError(f"{name}: {type(actual).__name__}; expected {type(expected).__name__}")
    else:
        yield name, actual, expected


def _check_form(name: str, actual: Any, expected: Any, like: Any) -> str:
    """Compare namespace, device, dtype and shape -> the dtype's name."""
    like = expected if like is None else like
    found, wanted = backend_of(actual, name), backend_of(like, "the expected array")
    checks = (
        ("namespace", found.name, wanted.name),
        ("device", str(actual.device), str(like.device)),
        ("dtype", dtype_name(actual), dtype_name(like)),
        ("shape", tuple(actual.shape), tuple(expected.shape)),
    )
    for what, a, e in checks:
        if a != e:
            raise AssertionError(f"{name}: {what} {a}; expected {e}")
    return dtype_name(actual)


def _host(array: Any) -> numpy.ndarray:
    return numpy.asarray(backend_of(array).to_numpy(array))
