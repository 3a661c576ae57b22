"""NumPy: the reference."""

from typing import Any

import numpy

from ._eager import Backend

ROOTS = ("numpy",)
REMEDY = "pip install 'numpy>=2'"


class NumPy(Backend):
    """NumPy on the CPU."""

    def _to_numpy(self, array: Any) -> numpy.ndarray:
        return numpy.asarray(array)

    def unstack(self, array: Any) -> tuple[Any, ...]:
        return tuple(array)  # a third of the time of numpy.unstack, and the textbook's caches are made of this

    def scatter_add(self, values: Any, index: Any, size: int) -> Any:
        order = numpy.argsort(index, kind="stable")  # faster than numpy.add.at, and as exact
        rows, starts = numpy.unique(index[order], return_index=True)
        total = numpy.zeros((size, *values.shape[1:]), dtype=values.dtype)
        if rows.size:
            total[rows] = numpy.add.reduceat(values[order], starts, axis=0)
        return total


def open_backend(device: Any) -> Backend:
    if device not in (None, "cpu"):
        raise ValueError(f"device={device!r}: numpy has one device, 'cpu'")
    return NumPy("numpy", _namespace())


def _namespace() -> Any:
    # From 2.1 on NumPy's own namespace has everything. The wrapper, which 2.0 needs, imports half of NumPy's extras
    # (f2py, testing): 0.2 s that every `import polyrnn` would pay.
    if hasattr(numpy, "unstack"):
        return numpy
    import array_api_compat.numpy

    return array_api_compat.numpy


def describe() -> tuple[str, tuple[str, ...]]:
    return numpy.__version__, ("cpu",)


def accepts(kind: type) -> bool:
    # Masked arrays and matrices mean something else by the same operators.
    return issubclass(kind, (numpy.ndarray, numpy.generic)) and not issubclass(
        kind, (numpy.ma.MaskedArray, numpy.matrix)
    )
