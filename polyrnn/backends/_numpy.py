"""NumPy: the reference."""

from typing import Any

import array_api_compat.numpy
import numpy

from ._eager import Backend

ROOTS = ("numpy",)
REMEDY = "pip install 'numpy>=2'"


class NumPy(Backend):
    """NumPy on the CPU."""

    def _to_numpy(self, array: Any) -> numpy.ndarray:
        return numpy.asarray(array)

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
    return NumPy("numpy", array_api_compat.numpy)


def describe() -> tuple[str, tuple[str, ...]]:
    return numpy.__version__, ("cpu",)


def accepts(kind: type) -> bool:
    # Masked arrays and matrices mean something else by the same operators.
    return issubclass(kind, (numpy.ndarray, numpy.generic)) and not issubclass(
        kind, (numpy.ma.MaskedArray, numpy.matrix)
    )
