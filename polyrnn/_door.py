"""The checks at the door: what every public function asks of its arguments, and the words in which it refuses."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy

from .backends import Backend

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")

_NAMES: dict[Any, str] = {}  # a dtype's name, found once: str() of a dtype costs more than all the rest of a check


def dtype_name(array: Any) -> str:
    """The name of an array's dtype, such as "float32", whatever the library."""
    dtype = array.dtype
    key = (type(dtype), dtype)  # with the type: dtypes of two libraries may hash alike and must not be compared
    name = _NAMES.get(key)
    if name is None:
        name = getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
        _NAMES[key] = name
    return name


def check_size(name: str, value: Any, least: int = 1) -> None:
    """A whole number of at least `least`, else ValueError or TypeError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: expected a whole number") from None
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}")


def check_number(name: str, value: Any, *, positive: bool = False, below: float = math.inf, also: str = "") -> float:
    """A finite number >= 0, or > 0 if `positive`, and < `below`, as a Python float; else TypeError or ValueError.

    NumPy's scalars and arrays of shape () are numbers, truth values are not; `also` says what else would do.
    """
    least = f"a finite number {'>' if positive else '>='} 0"
    expected = least if below == math.inf else f"a number, 0 {'<' if positive else '<='} number < {below:g}"
    try:
        if isinstance(value, (bool, numpy.bool_)) or not hasattr(value, "__float__"):  # float("1") would do
            raise TypeError
        number = float(value)
    except TypeError:  # an array of several numbers too
        raise TypeError(f"{name}={value!r}: expected {expected}{also}") from None
    except OverflowError:  # an int beyond all floats
        number = math.inf
    if not (number > 0 if positive else number >= 0) or not number < below:
        raise ValueError(f"{name}={value!r}: expected {expected}{also}")
    return number


def check_flag(name: str, value: Any) -> None:
    """True or False, and nothing that only looks like it."""
    if not isinstance(value, (bool, numpy.bool_)):
        raise TypeError(f"{name}={value!r}: expected True or False")


def check_rate(name: str, value: Any) -> float:
    """A probability below 1, as a Python float: NumPy's scalars would promote float32."""
    if not isinstance(value, (int, float, numpy.floating)):
        raise TypeError(f"{name}={value!r}: expected a number, 0 <= {name} < 1")
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}: expected 0 <= {name} < 1")
    return float(value)


def check_float(name: str, array: Any) -> str:
    """The dtype's name, if it is a floating one."""
    found = dtype_name(array)
    if found not in FLOATS:
        raise TypeError(f"{name} has dtype {found}; expected a floating one, as in {name}.astype('float32')")
    return found


def check_array(
    name: str, array: Any, shape: tuple[int | None, ...], dtype: str, letters: str = "", other: str = "the parameters"
) -> None:
    """An array of this dtype, that of `other`, and shape, in which None is any size; `letters` names the axes."""
    found = array.shape
    if found != shape and (
        len(found) != len(shape) or any(e not in (None, f) for e, f in zip(shape, found, strict=True))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        expected = f"({expected},)" if len(shape) == 1 else f"({expected})"
        meaning = f" = {letters}" if letters else ""
        raise ValueError(f"{name} has shape {tuple(found)}; expected {expected}{meaning}")
    if dtype_name(array) != dtype:
        raise TypeError(
            f"{name} has dtype {dtype_name(array)}, but {other} {dtype}; nothing is converted on the way: "
            "convert one of them"
        )


def check_params(params: Any, shapes: dict[str, tuple[int, ...]], owner: str) -> str:
    """The parameters that `shapes` names, no others, all of one floating dtype, which is returned."""
    if not isinstance(params, dict):
        raise TypeError(f"params is a {type(params).__name__}; expected the dict that {owner}.init returns")
    if params.keys() != shapes.keys():
        missing, extra = sorted(shapes.keys() - params.keys()), sorted(params.keys() - shapes.keys())
        parts = [f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("has unknown", extra)) if names]
        raise ValueError(f"params {' and '.join(parts)}; {owner} expects {', '.join(shapes) or 'none'}")
    if not shapes:
        return ""
    first = next(iter(shapes))
    for name in shapes:
        if not hasattr(params[name], "shape"):
            raise TypeError(f"params[{name!r}] is {type(params[name]).__name__}; expected an array")
    kind, dtype = params[first].dtype, check_float(f"params[{first!r}]", params[first])
    for name, shape in shapes.items():
        array = params[name]
        if array.shape != shape or array.dtype is not kind:
            check_array(f"params[{name!r}]", array, shape, dtype)
    return dtype


def valid_steps(backend: Backend, lengths: Any, x: Any, batch_first: bool = False) -> Any:
    """The mask (T, N) of steps before each sequence's end; or of those that a mask in x's layout, (T, N), names.

    Concrete lengths are checked once; under a trace they are clamped to 0 ... T by the comparison itself.
    """
    leading = tuple(x.shape[:2])
    steps, batch = leading[::-1] if batch_first else leading
    if isinstance(lengths, (list, tuple)):
        try:
            lengths = numpy.asarray(lengths, dtype=None if lengths else "int32")
        except ValueError:
            raise ValueError(f"lengths={lengths!r}: expected N whole numbers") from None
    if getattr(lengths, "ndim", 1) == 2:
        check_array("lengths", lengths, leading, "bool", "(N, T)" if batch_first else "(T, N)", "a mask")
        mask = backend.asarray(lengths)
        return mask.mT if batch_first else mask
    if getattr(lengths, "shape", None) != (batch,):
        found = f"has shape {tuple(lengths.shape)}" if hasattr(lengths, "shape") else f"is {lengths!r}"
        raise ValueError(f"lengths {found}; expected ({batch},) = (N,), or a mask {leading}")
    if dtype_name(lengths) not in INTEGERS:
        raise TypeError(f"lengths has dtype {dtype_name(lengths)}; expected whole numbers")
    if batch and backend.is_concrete(lengths):
        host = lengths if isinstance(lengths, numpy.ndarray) else backend.to_numpy(lengths)
        if host.min() < 0 or host.max() > steps:
            n = int(numpy.argmax((host < 0) | (host > steps)))
            raise ValueError(f"lengths[{n}] = {int(host[n])}; expected 0 <= length <= T = {steps}")
    xp = backend.xp
    lengths = xp.astype(backend.asarray(lengths), xp.int32)
    return xp.arange(steps, dtype=xp.int32, device=getattr(x, "device", None))[:, None] < lengths[None, :]


def clean(xp: Any, valid: Any, array: Any) -> Any:
    """The array (T, N, ...) with zeros wherever not valid (T, N): masking after a product would let 0 * NaN through."""
    if valid is None or array is None:
        return array
    while valid.ndim < array.ndim:
        valid = valid[..., None]
    return xp.where(valid, array, xp.zeros_like(array))


def wide(xp: Any, array: Any) -> Any:
    """The array in float32 if it is of half precision: a long sum carried in that would stand still."""
    return xp.astype(array, xp.float32) if xp.finfo(array.dtype).bits < 32 else array
