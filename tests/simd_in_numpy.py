"""Stands in for `simd.py` and `tile.py` of `polyrnn/kernels/_numba/`: vectors are NumPy arrays, nothing is compiled.

The source of the compiled kernels is Python and runs by this as it is. Planted errors need no compilation then, and
vectors and tiles of other processors can be tried: `source` gives the text of the module for a width and a number of
rows, `TILE` that of the product, `BUILD` that of the module that compiles.
"""

BUILD = """
from . import loops


def compiled(name, dtype):
    return getattr(loops, name)
"""


def source(register: int = 32, rows: int = 6) -> str:
    """The module's text, for registers of so many bytes and products of so many rows."""
    return _BODY.replace("REGISTER_BYTES", str(register)).replace("ROWS_OF_A_TILE", str(rows))


_BODY = """
import ctypes

import numpy as np

REGISTER, ROWS = REGISTER_BYTES, ROWS_OF_A_TILE
BYTES = 2 * REGISTER


def njit(function):
    return function


def memory(at, count, like):
    size = count * np.dtype(type(like)).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(int(at)), type(like))


def lanes(like):
    return BYTES // itemsize(like)


def itemsize(like):
    return np.dtype(type(like)).itemsize


def zero(like):
    return type(like)(0)


def zeros(like):
    return np.zeros(lanes(like), type(like))


def get(at, like):
    return memory(at, 1, like)[0]


def put(at, value):
    memory(at, 1, value)[0] = value


def whole(at, like):
    return memory(at, lanes(like), like).copy()


def put_whole(at, value):
    memory(at, value.size, value.dtype.type(0))[...] = value


def load(at, count, like):
    found = zeros(like)
    some = min(int(count), lanes(like))
    found[:some] = memory(at, some, like)
    return found


def store(at, value, count, like):
    some = min(int(count), lanes(like))
    assert value.dtype == type(like)
    memory(at, some, like)[...] = value[:some]


def fma(a, b, c):
    return a * b + c


def least(a, b):
    return np.where(a > b, b, a).astype(a.dtype)


def most(a, b):
    return np.where(a < b, b, a).astype(a.dtype)


def where_positive(a, b):
    return np.where(b > 0, a, 0).astype(a.dtype)


def power_of_two(n):
    whole, mantissa, bias = (np.int32, 23, 127) if n.dtype == np.float32 else (np.int64, 52, 1023)
    return ((n.view(whole) + whole(bias)) << whole(mantissa)).view(n.dtype)
"""

TILE = """
import numpy as np

from .simd import BYTES, ROWS, get, lanes, memory, put_whole, whole


def _tile(panels, rows):
    def tile(number, w, panel, x, x_step, x_pitch, K, start, start_pitch, out, out_pitch, count, like):
        assert 1 <= count <= rows and number >= 1
        sums = {}
        for n in range(count):
            numbers = np.array([get(x + n * x_pitch + k * x_step, like) for k in range(K)], type(like))
            for p in range(number * panels):
                weights = memory(w + p * panel, K * lanes(like), like).reshape(K, lanes(like)) if K else None
                sums[n, p] = whole(start + n * start_pitch + p * BYTES, like)
                sums[n, p] += numbers @ weights if K else 0
        for (n, p), total in sums.items():
            put_whole(out + n * out_pitch + p * BYTES, total)

    return tile


tile, two_panels, four_panels = _tile(1, ROWS), _tile(2, 2), _tile(4, 1)
"""
