"""An ONNX graph while it is written: arrays that stand for its values, and a namespace whose functions add nodes.

The namespace has what the steps of polyrnn's cells use of the array API standard. So a cell's own equations, run on
these arrays, write themselves down; what does not depend on a step lands outside the loop, because a node belongs to
the innermost graph among those of its operands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int | str, ...]  # "T" and "N" are known when the graph is run

FLIP = slice(None, None, -1)  # an index: the other way round


class Graph:
    """Nodes in the order in which they run; a Scan's body has the graph around it as `outer`."""

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[Any] = []
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.root: Graph = self if outer is None else outer.root
        self.scope = ""  # of the root: what the names of new nodes begin with
        self.initializers: dict[str, np.ndarray] = {}  # of the root
        self.constants: dict[str, Array] = {}  # of the root, by name
        self.counts: Counter[str] = Counter()  # of the root: how many nodes have a name already

    def initializer(self, name: str, array: np.ndarray) -> Array:
        """An array that the file holds, under that name."""
        self.root.initializers[name] = array
        return Array(self.root, name, array.shape, array.dtype)

    def constant(self, value: Any, dtype: Any) -> Array:
        """A number or numbers, there once however often they are used; no parameter, so no initializer."""
        from onnx import helper, numpy_helper

        array = np.asarray(value, dtype=dtype)
        name = f"{array.dtype}:{array.tolist()}"
        if name not in self.root.constants:
            node = helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(array))
            self.root.nodes.append(node)
            self.root.constants[name] = Array(self.root, name, array.shape, array.dtype)
        return self.root.constants[name]

    def node(
        self, kind: str, inputs: Sequence[Array | None], outputs: Sequence[tuple], label: str = "", **attributes: Any
    ) -> list[Array]:
        """Add a node -> its outputs, of these shapes and dtypes; an input that is None is absent.

        Without a label it is called by its kind and a number; in front stands the scope.
        """
        from onnx import helper

        name = f"{self.root.scope}{label or kind}"
        self.root.counts[name] += 1
        name = name if label else f"{name}_{self.root.counts[name]}"
        names = [name] if len(outputs) == 1 else [f"{name}.{k}" for k in range(len(outputs))]
        given = ["" if array is None else array.name for array in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(helper.make_node(kind, given, names, name, **attributes))
        return [Array(self, each, *form) for each, form in zip(names, outputs, strict=True)]


class Array:
    """A value of a graph. Its last two axes are rows and columns, as everywhere."""

    def __init__(self, graph: Graph, name: str, shape: Shape, dtype: Any) -> None:
        self.graph, self.name, self.shape, self.dtype = graph, name, tuple(shape), np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def mT(self) -> Array:
        """With the last two axes exchanged."""
        return permute_dims(self, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2))

    def __add__(self, other: Any) -> Array:
        return pointwise("Add", self, other)

    def __radd__(self, other: Any) -> Array:
        return pointwise("Add", other, self)

    def __sub__(self, other: Any) -> Array:
        return pointwise("Sub", self, other)

    def __rsub__(self, other: Any) -> Array:
        return pointwise("Sub", other, self)

    def __mul__(self, other: Any) -> Array:
        return pointwise("Mul", self, other)

    def __rmul__(self, other: Any) -> Array:
        return pointwise("Mul", other, self)

    def __truediv__(self, other: Any) -> Array:
        return pointwise("Div", self, other)

    def __rtruediv__(self, other: Any) -> Array:
        return pointwise("Div", other, self)

    def __neg__(self) -> Array:
        return pointwise("Neg", self)

    def __lt__(self, other: Any) -> Array:
        return pointwise("Less", self, other, dtype=bool)

    def __gt__(self, other: Any) -> Array:
        return pointwise("Greater", self, other, dtype=bool)

    def __matmul__(self, other: Array) -> Array:
        *lead, rows, inner = self.shape
        *other_lead, other_inner, columns = other.shape
        if inner != other_inner:
            raise ValueError(f"a product of shapes {self.shape} and {other.shape}")
        shape = (*_broadcast(tuple(lead), tuple(other_lead)), rows, columns)
        return apply("MatMul", self, other, shape=shape)

    def __getitem__(self, index: Any) -> Array:
        """Slices, numbers, None for a new axis, and one Ellipsis, after which there are slices and None alone."""
        index = index if isinstance(index, tuple) else (index,)
        entries = len(index) - index.count(None) - (Ellipsis in index)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (self.ndim - entries), *index[at + 1 :])
        found, axis = self, 0
        for entry in index:
            if entry is None:
                shape = (*found.shape[:axis], 1, *found.shape[axis:])
                found = apply("Unsqueeze", found, found.graph.constant([axis], "int64"), shape=shape)
            elif isinstance(entry, slice):
                found = _slice(found, entry, axis)
            else:
                shape = (*found.shape[:axis], *found.shape[axis + 1 :])
                found = apply("Gather", found, found.graph.constant(entry, "int64"), shape=shape, axis=axis)
                continue
            axis += 1
        return found


def apply(kind: str, *operands: Any, shape: Shape, dtype: Any = None, **attributes: Any) -> Array:
    """The one output of a new node, by default of the first operand's dtype, which numbers take too."""
    like = next(a for a in operands if isinstance(a, Array))
    inputs = [a if a is None or isinstance(a, Array) else like.graph.constant(a, like.dtype) for a in operands]
    innermost = max((a.graph for a in inputs if a is not None), key=lambda graph: graph.depth)
    dtype = like.dtype if dtype is None else dtype
    return innermost.node(kind, inputs, [(shape, dtype)], **attributes)[0]


def pointwise(kind: str, *operands: Any, dtype: Any = None) -> Array:
    """A node whose operands are broadcast."""
    shape = _broadcast(*[a.shape for a in operands if isinstance(a, Array)])
    return apply(kind, *operands, shape=shape, dtype=dtype)


def equal(a: Array, b: Array) -> Array:
    """Where the two are equal."""
    return pointwise("Equal", a, b, dtype=bool)


def permute_dims(a: Array, axes: tuple[int, ...]) -> Array:
    """The axes in this order."""
    return apply("Transpose", a, shape=tuple([a.shape[k] for k in axes]), perm=axes)


def reshape(a: Array, shape: Shape) -> Array:
    """Of this shape; what is not a number must stand where it stood."""
    target = [0 if isinstance(size, str) else size for size in shape]
    return apply("Reshape", a, a.graph.constant(target, "int64"), shape=shape)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """One behind the other along an axis whose sizes are numbers."""
    first = arrays[0]
    sizes = [a.shape[axis] for a in arrays]
    shape = list(first.shape)
    shape[axis] = sum(size for size in sizes if isinstance(size, int))
    return first if len(arrays) == 1 else apply("Concat", *arrays, shape=tuple(shape), axis=axis)


def reduce(kind: str, a: Array, axis: int, keepdims: bool = False) -> Array:
    """ReduceSum, ReduceMean or ReduceMax along an axis."""
    shape = list(a.shape)
    shape[axis : axis + 1 or None] = [1] if keepdims else []
    axes = a.graph.constant([axis], "int64")
    return apply(kind, a, axes, shape=tuple(shape), keepdims=int(keepdims))


def where(condition: Array, a: Any, b: Any) -> Array:
    """A where the condition holds, else b; one of them may be a number."""
    like = a if isinstance(a, Array) else b
    a, b = (each if isinstance(each, Array) else like.graph.constant(each, like.dtype) for each in (a, b))
    return pointwise("Where", condition, a, b, dtype=like.dtype)


def astype(a: Array, dtype: Any, copy: bool = True) -> Array:
    """Cast, if it is of another dtype."""
    from onnx import helper

    dtype = np.dtype(dtype)
    if dtype == a.dtype:
        return a
    return apply("Cast", a, shape=a.shape, dtype=dtype, to=helper.np_dtype_to_tensor_dtype(dtype))


def expand(held: Array, x: Array, size: int) -> Array:
    """A number, or an array (..., 1, size), as (..., N, size), with N of x (T, N, ...)."""
    batch = apply("Shape", x, shape=(1,), dtype="int64", start=1, end=2)
    target = concat([batch, x.graph.constant([size], "int64")], 0)
    return apply("Expand", held, target, shape=(*held.shape[:-2], "N", size))


def value_info(array: Array) -> Any:
    """An input or output as a graph declares it."""
    from onnx import helper

    return helper.make_tensor_value_info(array.name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


class _Namespace:
    """What cells use of the standard, to write a step; backward they are not run here."""

    float32 = np.dtype("float32")
    where = staticmethod(where)
    concat = staticmethod(concat)
    astype = staticmethod(astype)
    permute_dims = staticmethod(permute_dims)

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"the cell uses xp.{name}, which cannot be written as ONNX here")

    def tanh(self, x: Array) -> Array:
        return pointwise("Tanh", x)

    def exp(self, x: Array) -> Array:
        return pointwise("Exp", x)

    def expm1(self, x: Array) -> Array:
        return self.exp(x) - 1

    def log1p(self, x: Array) -> Array:
        return pointwise("Log", 1 + x)

    def sqrt(self, x: Array) -> Array:
        return pointwise("Sqrt", x)

    def abs(self, x: Array) -> Array:
        return pointwise("Abs", x)

    def clip(self, x: Array, least: float, most: float) -> Array:
        return apply("Clip", x, least, most, shape=x.shape)

    def mean(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        return reduce("ReduceMean", x, axis, keepdims)

    def full_like(self, x: Array, value: float) -> Array:
        """The number: wherever it meets x, it has x's shape."""
        return x.graph.constant(value, x.dtype)

    def zeros_like(self, x: Array) -> Array:
        return self.full_like(x, 0.0)

    def ones_like(self, x: Array) -> Array:
        return self.full_like(x, 1.0)

    def finfo(self, dtype: Any) -> Any:
        return SimpleNamespace(bits=8 * np.dtype(dtype).itemsize)


XP = _Namespace()


def _broadcast(*shapes: Shape) -> Shape:
    ndim = max(map(len, shapes))
    found: list[int | str] = []
    for sizes in zip(*[(1,) * (ndim - len(shape)) + shape for shape in shapes], strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not fit together")
        found.append(wide.pop() if wide else 1)
    return tuple(found)


def _slice(a: Array, entry: slice, axis: int) -> Array:
    if entry == slice(None):
        return a
    size = a.shape[axis]
    if entry == FLIP:
        start, stop, step = -1, np.iinfo(np.int64).min, -1
    elif isinstance(size, int):
        start, stop, step = entry.indices(size)
        size = len(range(start, stop, step))
    else:
        raise ValueError(f"a part of an axis whose size is {size}")
    bounds = [a.graph.constant([bound], "int64") for bound in (start, stop, axis, step)]
    return apply("Slice", a, *bounds, shape=(*a.shape[:axis], size, *a.shape[axis + 1 :]))
