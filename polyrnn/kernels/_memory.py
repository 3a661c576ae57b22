"""Large arrays whose memory is used again.

The first touch of fresh memory costs more than the arithmetic done in it: the operating system clears it page by
page. A training loop asks for the same large arrays at every step, so the memory of those that nobody holds any
longer is kept, up to `LIMIT`, and handed out again.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

LIMIT = 128 << 20  # bytes kept in all; arrays beyond it come from the allocator, as do those under LEAST
LEAST = 32 << 10  # the allocator itself uses small pieces again, but gives larger ones at its end back to the system

_lock = threading.Lock()
_kept: list[np.ndarray] = []  # flat arrays of bytes


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.empty`; the memory goes back to the store when the last view of the array is gone."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not LEAST <= size <= LIMIT:
        return np.empty(shape, dtype)
    with _lock:
        memory = _free(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
            _kept.append(memory)
            _trim()
        return memory[:size].view(dtype).reshape(shape)


def _free(size: int) -> np.ndarray | None:
    """A piece of that size, or not much larger, which nothing but the store refers to."""
    for k in range(len(_kept)):
        # Two references: the store's, and the argument's. Every view refers to the piece that owns the memory.
        if size <= _kept[k].nbytes <= 2 * size and sys.getrefcount(_kept[k]) == 2:
            _kept.append(_kept.pop(k))  # the last used stands last
            return _kept[-1]
    return None


def _trim() -> None:
    """Forget the pieces that were not used for the longest time, until the rest is within the limit.

    One that is still in use is not freed by that: it goes back to the allocator when its last view is gone.
    """
    while sum(piece.nbytes for piece in _kept) > LIMIT:
        del _kept[0]
