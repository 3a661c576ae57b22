"""The operators that make shapes, and change them."""

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
    unbroadcast,
    whole,
)

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


_START_END: Attributes = {"start": ("int", 0), "end": ("int", None)}

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


SHAPES: dict[str, tuple[Operator, ...]] = {
    "Reshape": (
        reshaped(_shape_of, attributes={"shape": ("ints", REQUIRED), "consumed_inputs": ("ints", ())}),
        reshaped(_shape_of, inputs=(2, 2), since=5, host=(1,)),
        reshaped(_shape_of, attributes={"allowzero": ("int", 0)}, inputs=(2, 2), since=14, host=(1,)),
    ),
    "Flatten": (reshaped(_flat, attributes={"axis": ("int", 1)}),),
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
}
