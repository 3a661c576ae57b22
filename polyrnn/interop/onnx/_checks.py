"""What a graph asks of the arrays that it is given; `where` is its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._door import dtype_name
from ...backends import Backend
from ._base import is_float
from ._model import Value, short


def names(where: str, what: str, given: Any, expected: list[str]) -> None:
    """A dict with these names, and no others."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} is a {type(given).__name__}; expected a dict of arrays by name")
    if set(given) != set(expected):
        missing, extra = [n for n in expected if n not in given], [str(n) for n in given if n not in expected]
        raise ValueError(
            f"{where}: {what} lack {', '.join(missing) or 'nothing'}, unknown are "
            f"{', '.join(extra) or 'none'}; expected {', '.join(expected) or 'none'}"
        )


def array(where: str, what: str, given: Any, value: Value, sizes: dict[str, int]) -> None:
    """Of the value's dtype, int32 for int64 too, and shape; `sizes` are those of the named axes, as they are found."""
    if not hasattr(given, "shape") or not hasattr(given, "dtype"):
        raise TypeError(f"{what} is a {type(given).__name__}; expected an array")
    shape = tuple(given.shape)
    expected = shape if value.shape is None else value.shape
    fits = len(shape) == len(expected)
    for size, want in zip(shape, expected, strict=False):
        want = sizes.setdefault(want, size) if isinstance(want, str) else want
        fits = fits and want in (None, size)
    if not fits or (dtype_name(given), value.dtype) not in ((value.dtype, value.dtype), ("int32", "int64")):
        named = f", where {', '.join(f'{n}={s}' for n, s in sizes.items())}" if sizes else ""
        raise ValueError(
            f"{where}: {what} has the shape {shape} of {dtype_name(given)}; expected {expected} of {value.dtype}{named}"
        )


def gradients(where: str, outputs: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Each of a floating output, and as that is."""
    if not isinstance(given, Mapping):
        raise TypeError(f"gradients is a {type(given).__name__}; expected a dict of arrays by name")
    for name, gradient in given.items():
        if name not in outputs or not is_float(outputs[name]):
            floats = [n for n, a in outputs.items() if is_float(a)]
            raise ValueError(f"{where}: gradients: {name!r}; expected some of {', '.join(floats) or 'none'}")
        y = outputs[name]
        array(where, f"the gradient of {short(name)}", gradient, Value(name, dtype_name(y), tuple(y.shape)), {})


def widened(on: Backend, values: tuple[Value, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Integers of 32 bits become those of 64 where the model has them, but where the library has none."""
    found = dict(inputs)
    for value in values:
        if value.dtype == "int64" and dtype_name(inputs[value.name]) == "int32":
            wide = on.asarray(np.zeros(1, dtype="int64")).dtype
            found[value.name] = on.xp.astype(inputs[value.name], wide)
    return found
