"""The operators that join and choose elements; backward puts them back."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy

from ._base import MANY, REQUIRED, At, Attributes, Operator, axes_of, axis_of, check_large, put_back, whole
from ._shapes import AXES

# ---- in a row ------------------------------------------------------------------------------------------------------


def _joined(at: At, *arrays: Any) -> Any:
    axis_of(at["axis"], arrays[0].ndim)
    check_large((sum(math.prod(array.shape) for array in arrays),))
    return at.xp.concat(arrays, axis=at["axis"])


def _joined_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    axis = axis_of(at["axis"], inputs[0].ndim)
    return tuple(_cut(gradients[0], axis, [array.shape[axis] for array in inputs]))


def _cut(array: Any, axis: int, sizes: list[int]) -> list[Any]:
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [
        array[(*[slice(None)] * axis, slice(start, start + size), ...)]
        for start, size in zip(starts, sizes, strict=True)
    ]


def _split(at: At, x: Any, split: Any = None) -> tuple:
    axis = axis_of(at["axis"], x.ndim)
    size, sizes = x.shape[axis], at.attributes.get("split") if split is None else whole(split, "split")
    if sizes is None:
        uneven = at.attributes.get("num_outputs")  # then the last one may be smaller
        if uneven not in (None, at.count) or (uneven is None and size % at.count):
            raise ValueError(f"an axis of {size} in {uneven or at.count} equal parts, for {at.count} outputs")
        part = -(-size // at.count)
        sizes = [max(min(part, size - k * part), 0) for k in range(at.count)]
    if len(sizes) != at.count or any(n < 0 for n in sizes) or sum(sizes) != size:
        raise ValueError(f"an axis of {size} in parts of {list(sizes)}, for {at.count} outputs")
    return tuple(_cut(x, axis, list(sizes)))


def _split_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    parts = [at.xp.zeros_like(y) if dy is None else dy for y, dy in zip(outputs, gradients, strict=True)]
    return (at.xp.concat(parts, axis=at["axis"]), *[None] * (len(inputs) - 1))


def _index(at: At, x: Any, *vectors: Any) -> list[range]:
    """The positions along each axis."""
    if vectors:
        starts, ends, axes, steps = (
            None if v is None else whole(v, name)
            for v, name in zip((*vectors, None, None)[:4], ("starts", "ends", "axes", "steps"), strict=True)
        )
    else:
        starts, ends, axes, steps = at["starts"], at["ends"], at["axes"], None
    assert starts is not None and ends is not None
    axes = tuple(range(len(starts))) if axes is None else axes_of(axes, x.ndim)
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) <= x.ndim or 0 in steps:
        raise ValueError(f"starts={starts}, ends={ends}, axes={axes}, steps={steps} for {x.ndim} axes")
    found = [range(size) for size in x.shape]
    for axis, *bounds in zip(axes, starts, ends, steps, strict=True):
        found[axis] = range(*slice(*bounds).indices(x.shape[axis]))
    return found


def _sliced(at: At, x: Any, *vectors: Any) -> Any:
    ranges = _index(at, x, *vectors)
    upward = [r[::-1] if r.step < 0 else r for r in ranges]  # not every library takes a negative step
    y = x[tuple(slice(r[0], r[-1] + 1, r.step) if len(r) else slice(0, 0) for r in upward)] if ranges else x
    downward = tuple(axis for axis, r in enumerate(ranges) if r.step < 0 and len(r) > 1)
    return at.xp.flip(y, axis=downward) if downward else y


def _sliced_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    x, dx = inputs[0], gradients[0]
    for axis, positions in enumerate(_index(at, *inputs)):
        if positions != range(x.shape[axis]):
            index = at.backend.asarray(numpy.asarray(positions, dtype="int64"))
            dx = put_back(at, dx, axis, index, x.shape[axis])
    return (dx, *[None] * (len(inputs) - 1))


# ---- by number ------------------------------------------------------------------------------------------------------


def _gathered(at: At, x: Any, indices: Any) -> Any:
    xp, axis = at.xp, axis_of(at["axis"], x.ndim)
    flat = _rows(at, x, indices, axis)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    check_large(shape)
    return xp.reshape(xp.take(x, flat, axis=axis), shape)


def _rows(at: At, x: Any, indices: Any, axis: int) -> Any:
    size = x.shape[axis]
    if at.backend.is_concrete(indices) and at.xp.any((indices < -size) | (indices >= size)):
        raise ValueError(f"indices beyond an axis of {size}")
    flat = at.xp.reshape(indices, (-1 if math.prod(indices.shape) else 0,))
    return at.xp.where(flat < 0, flat + size, flat)


def _gathered_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    x, indices = inputs
    axis = axis_of(at["axis"], x.ndim)
    flat = _rows(at, x, indices, axis)
    dy = at.xp.reshape(gradients[0], (*x.shape[:axis], flat.shape[0], *x.shape[axis + 1 :]))
    return put_back(at, dy, axis, flat, x.shape[axis]), None


def _first(at: At, x: Any, count: Any = None) -> tuple[Any, Any]:
    """TopK: the values and their positions; of equal ones the earlier is the first."""
    xp, axis = at.xp, axis_of(at["axis"], x.ndim)
    (k,) = (at["k"],) if count is None else whole(count, "K")
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"K={k} of an axis of {x.shape[axis]}")
    if at.attributes.get("largest", 1):
        order = x.shape[axis] - 1 - xp.flip(xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True), axis=axis)
    else:
        order = xp.argsort(x, axis=axis, stable=True)
    order = _cut(order, axis, [k])[0]
    values = xp.take_along_axis(x, order, axis=axis)
    return values, xp.astype(order, at.backend.asarray(numpy.zeros(1, dtype="int64")).dtype)


def _first_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    xp, axis, size = at.xp, axis_of(at["axis"], inputs[0].ndim), inputs[0].shape[at["axis"]]
    if gradients[0] is None:
        return (None,) * len(inputs)
    order, dy = (xp.moveaxis(a, axis, -1) for a in (outputs[1], gradients[0]))
    here = xp.arange(size, dtype=order.dtype, device=order.device) == order[..., None]
    dx = xp.sum(xp.where(here, dy[..., None], xp.zeros_like(dy[..., None])), axis=-2, dtype=dy.dtype)
    return (xp.moveaxis(dx, -1, axis), *[None] * (len(inputs) - 1))


# ---- dropout --------------------------------------------------------------------------------------------------------


def _kept(at: At, x: Any, *_: Any) -> tuple[Any, Any]:
    return x, at.xp.ones_like(x, dtype=at.xp.bool)


def _kept_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return (gradients[0], *[None] * (len(inputs) - 1))


def _check_test(attributes: dict[str, Any], *_: Any) -> None:
    if not attributes["is_test"]:
        raise ValueError("is_test=0 is training, which is not supported; in opset 7 there is inference alone")


def _check_mode(_: Any, outputs: Any, constants: dict[int, numpy.ndarray | None]) -> None:
    mode = constants.get(2, numpy.asarray(False))
    if mode is None or mode.size != 1 or bool(mode.reshape(())):
        raise ValueError("training_mode is not false, or not known: inference alone is supported")


_MANY = (1, MANY)
_RATIO: Attributes = {"ratio": ("float", 0.5)}
_OLD_DROPOUT: Attributes = {**_RATIO, "is_test": ("int", 0), "consumed_inputs": ("ints", ())}
_OLD_SLICE: Attributes = {"starts": ("ints", REQUIRED), "ends": ("ints", REQUIRED), **AXES}
_PARTS: Attributes = {"axis": ("int", 0), "num_outputs": ("int", None)}


_TOP: Attributes = {"axis": ("int", -1)}
_SORTED: Attributes = {**_TOP, "largest": ("int", 1), "sorted": ("int", 1)}


def _axis(default: Any) -> Attributes:
    return {"axis": ("int", default)}


PARTS: dict[str, tuple[Operator, ...]] = {
    "Concat": (
        Operator(_joined, _joined_back, _axis(1), inputs=_MANY),
        Operator(_joined, _joined_back, _axis(REQUIRED), inputs=_MANY, since=4),
    ),
    "Split": (
        Operator(_split, _split_back, {**_axis(0), "split": ("ints", None)}, outputs=_MANY),
        Operator(_split, _split_back, _axis(0), inputs=(1, 2), outputs=_MANY, since=13, host=(1,)),
        Operator(_split, _split_back, _PARTS, inputs=(1, 2), outputs=_MANY, since=18, host=(1,)),
    ),
    "Slice": (
        Operator(_sliced, _sliced_back, _OLD_SLICE),
        Operator(_sliced, _sliced_back, inputs=(3, 5), since=10, host=(1, 2, 3, 4)),
    ),
    "Gather": (Operator(_gathered, _gathered_back, _axis(0), inputs=(2, 2)),),
    "Dropout": (
        Operator(_kept, _kept_back, _OLD_DROPOUT, outputs=(1, 2), check=_check_test),
        Operator(_kept, _kept_back, _RATIO, outputs=(1, 2), since=7),
        Operator(_kept, _kept_back, {"seed": ("int", 0)}, inputs=(1, 3), outputs=(1, 2), since=12, check=_check_mode),
    ),
    "TopK": (
        Operator(_first, _first_back, {**_TOP, "k": ("int", REQUIRED)}, outputs=(1, 2)),
        Operator(_first, _first_back, _TOP, inputs=(2, 2), outputs=(1, 2), since=10, host=(1,)),
        Operator(_first, _first_back, _SORTED, inputs=(2, 2), outputs=(1, 2), since=11, host=(1,)),
    ),
}
