"""The operators that sum: products of matrices, reductions, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ... import activations
from ..._door import dtype_name
from ._base import At, Attributes, Operator, axes_of, axis_of, is_float, unbroadcast, whole
from ._shapes import AXES

# ---- products -------------------------------------------------------------------------------------------------------


def _product(at: At, a: Any, b: Any) -> Any:
    return at.xp.matmul(a, b)


def _product_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    """A vector is a matrix of one row, on the right of one column."""
    xp, (a, b), (dy,) = at.xp, inputs, gradients
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    dy = dy[..., None] if b.ndim == 1 else dy
    dy = dy[..., None, :] if a.ndim == 1 else dy
    da = unbroadcast(xp, xp.matmul(dy, right.mT), left)
    db = unbroadcast(xp, xp.matmul(left.mT, dy), right)
    return xp.reshape(da, a.shape), xp.reshape(db, b.shape)


def _gemm(at: At, a: Any, b: Any, c: Any = None) -> Any:
    a, b = a.mT if at["transA"] else a, b.mT if at["transB"] else b
    y = _scaled(at.xp.matmul(a, b), at["alpha"])
    return y if c is None else y + _scaled(c, at["beta"])


def _scaled(array: Any, factor: float) -> Any:
    return array if factor == 1 else array * factor


def _gemm_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    (a, b, *c), (dy,) = inputs, gradients
    a, b = a.mT if at["transA"] else a, b.mT if at["transB"] else b
    d = _scaled(dy, at["alpha"])
    da, db = at.xp.matmul(d, b.mT), at.xp.matmul(a.mT, d)
    found = (da.mT if at["transA"] else da, db.mT if at["transB"] else db)
    return found + tuple(None if m is None else unbroadcast(at.xp, _scaled(dy, at["beta"]), m) for m in c)


# ---- reductions -----------------------------------------------------------------------------------------------------


def _axes(at: At, x: Any, axes: Any = None) -> tuple[int, ...]:
    given = at.attributes.get("axes") if axes is None else whole(axes, "axes")
    if not given:
        return () if at.attributes.get("noop_with_empty_axes") else tuple(range(x.ndim))
    return axes_of(given, x.ndim)


def reduction(name: str, since: int, run: Any, back: Any) -> dict[str, tuple[Operator, ...]]:
    """With run(xp, x, axis, keepdims) and back(xp, x, y, dy), y and dy having all axes; `axes` is an input later."""

    def forward(at: At, x: Any, *axes: Any) -> Any:
        found = _axes(at, x, *axes)
        return run(at.xp, x, found, bool(at["keepdims"])) if found else x

    def backward(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
        x, *axes = inputs
        found = _axes(at, x, *axes)
        shape = tuple(1 if k in found else size for k, size in enumerate(x.shape))
        y, dy = at.xp.reshape(outputs[0], shape), at.xp.reshape(gradients[0], shape)
        dx = back(at.xp, x, y, dy, math.prod(x.shape[k] for k in found)) if found else dy
        return (at.xp.broadcast_to(dx, x.shape), *[None] * len(axes))

    keep: Attributes = {"keepdims": ("int", 1)}
    empty: Attributes = {"noop_with_empty_axes": ("int", 0)}
    return {
        name: (
            Operator(forward, backward, {**keep, **AXES}),
            Operator(forward, backward, {**keep, **empty}, inputs=(1, 2), since=since, host=(1,)),
        )
    }


def _mean(xp: Any, x: Any, axis: tuple[int, ...], keep: bool) -> Any:
    if not is_float(x):
        raise ValueError(f"dtype {x.dtype}; expected a floating one")
    return xp.mean(x, axis=axis, keepdims=keep)


def _extreme(name: str, of_truth: str) -> Callable[..., Any]:
    def run(xp: Any, x: Any, axis: tuple[int, ...], keep: bool) -> Any:
        if dtype_name(x) == "bool":
            return getattr(xp, of_truth)(x, axis=axis, keepdims=keep)
        if 0 in x.shape:  # of nothing it is the least or the greatest there is
            ends = (-math.inf, math.inf) if is_float(x) else (xp.iinfo(x.dtype).min, xp.iinfo(x.dtype).max)
            shape = tuple(1 if k in axis else size for k, size in enumerate(x.shape) if keep or k not in axis)
            return xp.full(shape, ends[name == "min"], dtype=x.dtype)
        return getattr(xp, name)(x, axis=axis, keepdims=keep)

    return run


def _shared(xp: Any, x: Any, y: Any, dy: Any, count: int) -> Any:
    """Of a maximum or minimum: equal ones share the gradient."""
    hits = xp.astype(x == y, x.dtype)
    axes = tuple(k for k, size in enumerate(y.shape) if size != x.shape[k])
    return hits * (dy / xp.sum(hits, axis=axes, keepdims=True)) if axes else hits * dy


def _product_of_others(xp: Any, x: Any, y: Any, dy: Any, count: int) -> Any:
    """Without a zero it is y / x; a single zero is the only one with a gradient."""
    axes = tuple(k for k, size in enumerate(y.shape) if size != x.shape[k])
    safe = xp.where(x == 0, xp.ones_like(x), x)
    zeros = xp.sum(xp.astype(x == 0, x.dtype), axis=axes, keepdims=True) - xp.astype(x == 0, x.dtype)
    return xp.where(zeros > 0, xp.zeros_like(x), dy * xp.prod(safe, axis=axes, keepdims=True) / safe)


# ---- softmax --------------------------------------------------------------------------------------------------------


def _matrix(at: At, x: Any) -> tuple[Any, int]:
    """Before opset 13: x as a matrix, the axis being that of its columns."""
    axis = at["axis"] if at["axis"] == x.ndim else axis_of(at["axis"], x.ndim)
    return at.xp.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))), 1


def _plain(at: At, x: Any) -> tuple[Any, int]:
    return x, axis_of(at["axis"], x.ndim)


def _log_softmax(xp: Any, x: Any, axis: int) -> Any:
    z = x - xp.max(x, axis=axis, keepdims=True)
    return z - xp.log(xp.sum(xp.exp(z), axis=axis, keepdims=True))


def _log_softmax_back(xp: Any, y: Any, dy: Any, axis: int) -> Any:
    return dy - xp.exp(y) * xp.sum(dy, axis=axis, keepdims=True)


def _along_axis(function: Any, back: Any, form: Any, axis: int, since: int) -> Operator:
    def run(at: At, x: Any) -> Any:
        matrix, along = form(at, x)
        return at.xp.reshape(function(at.xp, matrix, along), x.shape) if math.prod(x.shape) else x

    def backward(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
        (y, along), (dy, _) = form(at, outputs[0]), form(at, gradients[0])
        return (at.xp.reshape(back(at.xp, y, dy, along), inputs[0].shape),)

    return Operator(run, backward, {"axis": ("int", axis)}, since=since)


def _both(function: Any, back: Any) -> tuple[Operator, ...]:
    return _along_axis(function, back, _matrix, 1, 1), _along_axis(function, back, _plain, -1, 13)


_GEMM: Attributes = {"alpha": ("float", 1.0), "beta": ("float", 1.0), "transA": ("int", 0), "transB": ("int", 0)}

LINEAR: dict[str, tuple[Operator, ...]] = {
    "MatMul": (Operator(_product, _product_back, inputs=(2, 2)),),
    "Gemm": (
        Operator(_gemm, _gemm_back, {**_GEMM, "broadcast": ("int", 0)}, inputs=(3, 3)),
        Operator(_gemm, _gemm_back, _GEMM, inputs=(3, 3), since=7),
        Operator(_gemm, _gemm_back, _GEMM, inputs=(2, 3), since=11),
    ),
    **reduction(
        "ReduceSum",
        13,
        lambda xp, x, axis, keep: xp.sum(x, axis=axis, keepdims=keep, dtype=x.dtype),
        lambda xp, x, y, dy, count: dy,
    ),
    **reduction(
        "ReduceMean",
        18,
        _mean,
        lambda xp, x, y, dy, count: dy / count,
    ),
    **reduction(
        "ReduceProd",
        18,
        lambda xp, x, axis, keep: xp.prod(x, axis=axis, keepdims=keep, dtype=x.dtype),
        _product_of_others,
    ),
    **reduction("ReduceMax", 18, _extreme("max", "any"), _shared),
    **reduction("ReduceMin", 18, _extreme("min", "all"), _shared),
    "Softmax": _both(activations.softmax, activations.softmax_backward),
    "LogSoftmax": _both(_log_softmax, _log_softmax_back),
}
