"""Any eager library that follows the array API standard: all that the core needs, from the standard alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy

from ._tree import leaves, rebuild, tree_map


class Backend:
    """An array library, one of its devices, and what the array API standard lacks.

    Get one from `polyrnn.backend`; do not construct it.

    Attributes
    ----------
    name : str
        "numpy", "cupy", "jax", "torch" or "array_api_strict".
    xp : module
        The library's array API namespace.
    device : object
        Where `asarray` puts arrays; None stands for the library's default.
    """

    traces = False  # True: functions may run on abstract values, as under jax.jit

    def __init__(self, name: str, xp: ModuleType, device: Any = None) -> None:
        self.name = name
        self.xp: Any = xp
        self.device = device

    def __repr__(self) -> str:
        return f"Backend({self.name!r})" if self.device is None else f"Backend({self.name!r}, {str(self.device)!r})"

    def __reduce__(self) -> Any:
        from . import backend  # the registry, which imports this file

        return backend, (self.name, None if self.device is None else str(self.device))

    # ---- what users call ------------------------------------------------------------------

    def asarray(self, tree: Any, dtype: Any = None) -> Any:
        """Arrays of this backend, from host arrays, numbers, lists or its own arrays.

        Parameters
        ----------
        tree : array_like, or a dict or tuple of them
            What to move; a dict of parameters moves whole.
        dtype : str or dtype, optional
            Such as "float32"; by default each array keeps its own.

        Returns
        -------
        array, or the same dict or tuple of arrays

        Examples
        --------
        >>> import polyrnn as pr
        >>> pr.backend("numpy").asarray({"w": [1, 2]}, dtype="float32")
        {'w': array([1., 2.], dtype=float32)}
        """
        kind = self.dtype(dtype) if isinstance(dtype, str) else dtype
        return tree_map(lambda leaf: self._array(leaf, kind), tree)

    def to_numpy(self, tree: Any) -> Any:
        """The same tree with every array copied to the host as a NumPy array."""
        return tree_map(self._to_numpy, tree)

    def synchronize(self) -> None:
        """Wait until the device has finished everything; nothing to wait for on a CPU library."""

    def dtype(self, name: str) -> Any:
        """The library's dtype of that name, such as "float32"."""
        found = getattr(self.xp, str(name), None)
        if found is None:
            raise ValueError(f"dtype={name!r}: {self.name} has no such dtype; use for example 'float32' or 'float64'")
        return found

    # ---- the seam -------------------------------------------------------------------------

    def _array(self, value: Any, dtype: Any) -> Any:
        if type(value).__module__.partition(".")[0] not in ("builtins", "numpy", self.name):
            value = numpy.asarray(value)
        if self.name != "numpy" and isinstance(value, numpy.ndarray) and not value.flags.writeable:
            value = value.copy()  # a library that shares the memory would not keep it from being written to
        return self.xp.asarray(value, dtype=dtype, device=self.device)

    def _to_numpy(self, array: Any) -> numpy.ndarray:
        return numpy.from_dlpack(array)

    def scan(self, step: Callable, carry: Any, xs: Any, reverse: bool = False) -> tuple[Any, Any]:
        """`jax.lax.scan`: step(carry, x) -> carry, y over the leading axis; outputs stacked in time order.

        On an eager library a loop with preallocated outputs.
        """
        xp, inputs = self.xp, leaves(xs)
        length = inputs[0].shape[0]
        if length == 0:  # one step on zeros tells the shapes of the outputs
            zeros = [xp.zeros(a.shape[1:], dtype=a.dtype, device=a.device) for a in inputs]
            _, y = step(carry, rebuild(xs, zeros))
            carry = tree_map(lambda a: xp.asarray(a, copy=True), carry)  # what is returned is nobody's argument
            return carry, tree_map(lambda a: xp.zeros((0, *a.shape), dtype=a.dtype, device=a.device), y)
        stacked: list[Any] = []
        for t in range(length - 1, -1, -1) if reverse else range(length):
            carry, y = step(carry, rebuild(xs, [a[t, ...] for a in inputs]))
            outputs = leaves(y)
            if not stacked:
                stacked = [xp.empty((length, *a.shape), dtype=a.dtype, device=a.device) for a in outputs]
            for whole, part in zip(stacked, outputs, strict=True):
                whole[t, ...] = part
        return carry, rebuild(y, stacked)

    def scan_blocks(
        self, body: Callable, carry: Any, xs: Any, size: int, reverse: bool = False, rows: Any = None
    ) -> tuple[Any, Any]:
        """`scan` over blocks of `size` steps, the last one perhaps shorter; where it compiles, of at most `size`.

        body(carry, xs of a block) -> carry, ys of that block, each with the block's steps in front, or one row for the
        block as a whole. `rows`, if given, are such rows, and body's second argument is (xs of the block, its row).
        """
        xp, inputs, marks = self.xp, leaves(xs), leaves(rows)
        length = inputs[0].shape[0]
        whole: list[Any] = []
        starts = range(0, max(length, 1), size)
        for start in reversed(starts) if reverse else starts:
            end = min(start + size, length)
            block = rebuild(xs, [a[start:end, ...] for a in inputs])
            if marks:
                block = block, rebuild(rows, [a[start // size, ...] for a in marks])
            carry, y = body(carry, block)
            outputs = leaves(y)
            if len(starts) == 1:
                return carry, y
            if not whole:
                counts = [length if a.shape[0] == end - start else len(starts) for a in outputs]
                shapes = [(count, *a.shape[1:]) for count, a in zip(counts, outputs, strict=True)]
                whole = [xp.empty(s, dtype=a.dtype, device=a.device) for s, a in zip(shapes, outputs, strict=True)]
            for full, part in zip(whole, outputs, strict=True):
                at = start if full.shape[0] == length else start // size
                full[at : at + part.shape[0], ...] = part
        return carry, rebuild(y, whole)

    def transposable(self, params: dict) -> Callable:
        """A function () -> params, to be called inside a loop whose products are with transposes of matrices."""
        return lambda: params  # a BLAS takes a transpose as it is

    def unstack(self, array: Any) -> tuple[Any, ...]:
        """The arrays along the leading axis."""
        return self.xp.unstack(array)

    def jit(self, function: Callable) -> Callable:
        """The function compiled as a whole where the library can, itself elsewhere."""
        return function

    def call(self, function: Callable, static: Any, *arguments: Any) -> Any:
        """function(static, *arguments), compiled once for each `static` where the library compiles."""
        return function(static, *arguments)

    def custom_vjp(self, function: Callable, forward: Callable, backward: Callable) -> Callable:
        """`function`, of which the library's own differentiation shall use forward and backward."""
        return function

    def recomputed(self, function: Callable) -> Callable:
        """`function`, of which the library's own differentiation shall keep the arguments alone."""
        return function

    def quick(self, function: Callable) -> Callable:
        """As `jit`, for a function that runs once: compiled fast rather than to run fast."""
        return function

    def vjp(self, function: Callable, inputs: Any, upstream: Any) -> Any:
        """The gradients of `inputs` by the library's own differentiation of function(inputs), where it has one."""
        raise NotImplementedError(f"{self.name}: its own differentiation is not used here")

    def exact(self) -> contextlib.AbstractContextManager:
        """A `with` block in which float64 and products of full precision are to be had, for this thread alone."""
        return contextlib.nullcontext()

    def is_concrete(self, tree: Any) -> bool:
        """Whether values can be looked at now, and without waiting for a trace to be run."""
        return True

    def check_device(self, arrays: list[Any]) -> None:
        """Raise TypeError unless all arrays are on one device."""

    def scatter_add(self, values: Any, index: Any, size: int) -> Any:
        """Zeros (size, D) with values[k], (K, D), added at row index[k], (K,)."""
        rows = self.xp.arange(size, dtype=index.dtype, device=index.device)
        return self.xp.astype(rows[:, None] == index[None, :], values.dtype) @ values
