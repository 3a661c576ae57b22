"""Compiles the functions that Python calls, for one dtype when they are first asked for, and keeps them on the disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.caching import IndexDataCacheFile

from . import loops


def _signatures(number: types.Float) -> dict[str, tuple]:
    """The types of the arguments: one form for arrays of all strides, and for those that may not be written to."""

    def array(axes: int, element: types.Type = number) -> types.Array:
        return types.Array(element, axes, "A", readonly=True, aligned=False)

    def own(axes: int, element: types.Type = number) -> types.Array:
        return types.Array(element, axes, "C")

    i64 = types.int64
    table, four, gates = own(2, i64), types.UniTuple(i64, 4), own(1, i64)
    valid = array(2, types.boolean)
    room = (own(1, types.uint8), four)
    forward = (table, four, *[i64] * 8, number)
    backward = (table, four, *[i64] * 6, number)
    found = {
        f"{cell}_{way}": kind
        for cell in ("rnn", "lstm", "gru")
        for way, kind in (("forward", forward), ("backward", backward))
    }
    return found | {
        "start_forward": (
            *(table, *room, array(2), array(2), array(1), array(1)),
            *(array(3), array(3), array(3), array(3), array(4), valid, i64, i64, number),
        ),
        "start_backward": (
            *(table, *room, array(2), array(2), gates, gates),
            *[array(3)] * 12,
            array(4),
            valid,
            number,
        ),
        "gradients": (table, four, gates, gates, *[i64] * 6, own(2), own(2), own(2), own(3), number),
    }


@functools.cache
def compiled(name: str, dtype: np.dtype) -> Any:
    """A function of `loops.py` compiled for float32 or float64; kept on the disk, where there is a place for it."""
    function = njit(nogil=True)(getattr(loops, name))
    with contextlib.suppress(RuntimeError):  # Numba found no folder that it may write to
        function.enable_caching()
        # Numba looks at the age of the function's own file alone, and another version of the sources, in a process that
        # still runs, would write into the same files.
        cache, digest = function._cache, _digest()
        files = f"{cache._impl.filename_base}-{digest[:16]}"
        cache._cache_file = IndexDataCacheFile(cache._cache_path, files, digest)
    function.compile(_signatures(types.float32 if dtype == np.float32 else types.float64)[name])
    function.disable_compile()
    return function


@functools.cache
def _digest() -> str:
    """Of all that is compiled here."""
    files = (
        Path(__file__).with_name(name)
        for name in ("build.py", "loops.py", "products.py", "simd.py", "steps.py", "tile.py")
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
