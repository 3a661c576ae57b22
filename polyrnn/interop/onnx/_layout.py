"""The operators that move elements and make shapes; backward moves them back."""

from __future__ import annotations

import math
from typing import Any

import numpy

from ._base import (
    MANY,
    REQUIRED,
    At,
    Attributes,
    Operator,
    axes_of,
    axis_of,
    check_large,
    put_back,
    unbroadcast,
    whole,
)

_MANY = (1, MANY)
AXES: Attributes = {"axes": ("ints", None)}


def _reshaped_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    """Of all that change the shape alone."""
    return (at.xp.reshape(gradients[0], inputs[0].shape), *[None] * (len(inputs) - 1))


def reshaped(run: Any, **options: Any) -> Operator:
    """With run(at, x, ...) -> the new shape."""
    return Operator(lambda at, x, *rest: at.xp.reshape(x, run(at, x, *rest)), _reshaped_back, **options)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def _shape_of(at: At, x: Any, shape: Any = None) -> tuple[int, ...]:
    """0 is the size that the axis has, with `allowzero` zero; -1 is what is left."""
    sizes = list(at["shape"] if shape is None else whole(shape, "shape"))
    if any(size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"shape {sizes}; expected sizes of at least 0, and one -1 at most")
    if not at.attributes.get("allowzero"):
        if any(size == 0 and k >= x.ndim for k, size in enumerate(sizes)):
            raise ValueError(f"shape {sizes}: a 0 beyond the axes of {x.shape}")
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    elif 0 in sizes and -1 in sizes:
        raise ValueError(f"shape {sizes}: with allowzero, not both 0 and -1")
    count, rest = math.prod(x.shape), math.prod(size for size in sizes if size != -1)
    if -1 in sizes and rest and count % rest == 0:
        sizes[sizes.index(-1)] = count // rest
    if -1 in sizes or math.prod(sizes) != count:
        raise ValueError(f"shape {sizes}; there are {count} elements, of shape {tuple(x.shape)}")
    return tuple(sizes)


def _flat(at: At, x: Any) -> tuple[int, int]:
    axis = at["axis"] if at["axis"] == x.ndim else axis_of(at["axis"], x.ndim)
    return math.prod(x.shape[:axis]), math.prod(x.shape[axis:])


def _squeezed(at: At, x: Any, axes: Any = None) -> tuple[int, ...]:
    given = at.attributes.get("axes") if axes is None else whole(axes, "axes")
    gone = axes_of(given, x.ndim) if given is not None else tuple(k for k, size in enumerate(x.shape) if size == 1)
    if any(x.shape[k] != 1 for k in gone):
        raise ValueError(f"axes={gone}: not all of size 1 in {tuple(x.shape)}")
    return tuple(size for k, size in enumerate(x.shape) if k not in gone)


def _unsqueezed(at: At, x: Any, axes: Any = None) -> tuple[int, ...]:
    given = at["axes"] if axes is None else whole(axes, "axes")
    new, sizes = axes_of(given, x.ndim + len(given)), iter(x.shape)
    return tuple(1 if k in new else next(sizes) for k in range(x.ndim + len(new)))


def _transposed(at: At, x: Any) -> Any:
    return at.xp.permute_dims(x, _perm(at, x.ndim))


def _perm(at: At, axes: int) -> tuple[int, ...]:
    perm = tuple(reversed(range(axes))) if at["perm"] is None else at["perm"]
    if sorted(perm) != list(range(axes)):
        raise ValueError(f"perm={perm}: there are {axes} axes")
    return perm


def _transposed_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    perm = _perm(at, inputs[0].ndim)
    return (at.xp.permute_dims(gradients[0], tuple(perm.index(k) for k in range(len(perm)))),)


def _shape(at: At, x: Any) -> Any:
    shape, ends = tuple(x.shape), at.attributes
    return numpy.asarray(shape[ends.get("start", 0) : ends.get("end")], dtype="int64")


# ---- arrays from shapes ---------------------------------------------------------------------------------------------


def _filled(at: At, shape: Any) -> Any:
    sizes = whole(shape, "input")
    check_large(sizes)
    value = at["value"]
    return numpy.full(sizes, 0.0 if value is None else value.reshape(()), dtype="float32" if value is None else None)


def _check_filled(attributes: dict[str, Any], *_: Any) -> None:
    if attributes["value"] is not None and attributes["value"].size != 1:
        raise ValueError(f"value has the shape {attributes['value'].shape}; expected one element")


def _expanded(at: At, x: Any, shape: Any) -> Any:
    sizes = whole(shape, "shape")
    check_large(sizes)
    sizes = numpy.broadcast_shapes(x.shape, sizes)
    check_large(sizes)
    return at.xp.broadcast_to(x, sizes)


def _expanded_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    return unbroadcast(at.xp, gradients[0], inputs[0]), None


def _range(at: At, start: Any, limit: Any, delta: Any) -> Any:
    first, last, step = start.item(), limit.item(), delta.item()
    length = (last - first) / step if step else math.nan
    if not abs(length) < MANY:
        raise ValueError(f"start {first}, limit {last}, delta {step}: no such range, or one too long")
    count = max(math.ceil(length), 0)
    check_large((count,))
    return (first + numpy.arange(count) * step).astype(start.dtype)


def _repeats(x: Any, repeats: Any) -> tuple[int, ...]:
    found = whole(repeats, "repeats")
    if len(found) != x.ndim or any(number < 0 for number in found):
        raise ValueError(f"repeats {found}; expected one number of at least 0 for each axis of {tuple(x.shape)}")
    check_large(tuple(size * number for size, number in zip(x.shape, found, strict=True)))
    return found


def _tiled(at: At, x: Any, repeats: Any) -> Any:
    return at.xp.tile(x, _repeats(x, repeats))


def _tiled_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    x, repeats = inputs
    pairs = [n for pair in zip(_repeats(x, repeats), x.shape, strict=True) for n in pair]
    blocks = at.xp.reshape(gradients[0], tuple(pairs))
    return at.xp.sum(blocks, axis=tuple(range(0, len(pairs), 2)), dtype=blocks.dtype), None


# ---- parts ----------------------------------------------------------------------------------------------------------


def _joined(at: At, *arrays: Any) -> Any:
    axis_of(at["axis"], arrays[0].ndim)
    return at.xp.concat(arrays, axis=at["axis"])


def _joined_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    axis = axis_of(at["axis"], inputs[0].ndim)
    return tuple(_cut(gradients[0], axis, [array.shape[axis] for array in inputs]))


def _cut(array: Any, axis: int, sizes: list[int]) -> list[Any]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
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
    key = tuple(
        slice(r.start, None if r.step < 0 and r.stop < 0 else max(r.stop, 0), r.step) if len(r) else slice(0, 0)
        for r in _index(at, x, *vectors)
    )
    return x[key] if key else x


def _sliced_back(at: At, _: Any, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    x, dx = inputs[0], gradients[0]
    for axis, positions in enumerate(_index(at, *inputs)):
        if positions != range(x.shape[axis]):
            index = at.backend.asarray(numpy.asarray(positions, dtype="int64"))
            dx = put_back(at, dx, axis, index, x.shape[axis])
    return (dx, *[None] * (len(inputs) - 1))


def _gathered(at: At, x: Any, indices: Any) -> Any:
    xp, axis = at.xp, axis_of(at["axis"], x.ndim)
    flat = _rows(at, x, indices, axis)
    return xp.reshape(xp.take(x, flat, axis=axis), (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


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


_RATIO: Attributes = {"ratio": ("float", 0.5)}
_OLD_DROPOUT: Attributes = {**_RATIO, "is_test": ("int", 0), "consumed_inputs": ("ints", ())}
_OLD_SLICE: Attributes = {"starts": ("ints", REQUIRED), "ends": ("ints", REQUIRED), **AXES}
_START_END: Attributes = {"start": ("int", 0), "end": ("int", None)}
_PARTS: Attributes = {"axis": ("int", 0), "num_outputs": ("int", None)}


def _axis(default: Any) -> Attributes:
    return {"axis": ("int", default)}


LAYOUT: dict[str, tuple[Operator, ...]] = {
    "Reshape": (
        reshaped(_shape_of, attributes={"shape": ("ints", REQUIRED), "consumed_inputs": ("ints", ())}),
        reshaped(_shape_of, inputs=(2, 2), since=5, host=(1,)),
        reshaped(_shape_of, attributes={"allowzero": ("int", 0)}, inputs=(2, 2), since=14, host=(1,)),
    ),
    "Flatten": (reshaped(_flat, attributes=_axis(1)),),
    "Squeeze": (
        reshaped(_squeezed, attributes=AXES),
        reshaped(_squeezed, inputs=(1, 2), since=13, host=(1,)),
    ),
    "Unsqueeze": (
        reshaped(_unsqueezed, attributes={"axes": ("ints", REQUIRED)}),
        reshaped(_unsqueezed, inputs=(2, 2), since=13, host=(1,)),
    ),
    "Transpose": (Operator(_transposed, _transposed_back, {"perm": ("ints", None)}),),
    "Shape": (Operator(_shape, None), Operator(_shape, None, _START_END, since=15)),
    "Size": (Operator(lambda at, x: numpy.asarray(math.prod(x.shape), dtype="int64"), None),),
    "ConstantOfShape": (Operator(_filled, None, {"value": ("tensor", None)}, since=9, host=(0,), check=_check_filled),),
    "Expand": (Operator(_expanded, _expanded_back, inputs=(2, 2), since=8, host=(1,)),),
    "Range": (Operator(_range, None, inputs=(3, 3), since=11, host=(0, 1, 2)),),
    "Tile": (Operator(_tiled, _tiled_back, inputs=(2, 2), since=6, host=(1,)),),
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
}
