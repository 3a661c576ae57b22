"""Reads safetensors files without copying them: a header that is checked, and read-only views of the mapped file.

The format (https://huggingface.co/docs/safetensors): 8 bytes with the length of a header, the header, which is JSON,
and the tensors' bytes one after the other. Nothing is allocated beyond what the file holds, and nothing is executed.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from os import PathLike
from typing import Any

import numpy as np

# bfloat16 has no NumPy dtype: its numbers are widened to float32, exactly, which copies them.
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    # Not numbers of NumPy's: their bytes, which a layer refuses, and beside which other tensors can be read.
    "F8_E4M3": "V1",
    "F8_E5M2": "V1",
    "F8_E8M0": "V1",
    "C64": "V8",
}
LONGEST_HEADER = 100_000_000  # bytes; the limit of the format's own library


def read(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file, read-only and as they lie in it, and its metadata.

    The file stays mapped while one of them lives: it may be replaced or deleted meanwhile, but not cut short.
    Tensors that do not lie at multiples of their item's size are copied, and so is bfloat16, which becomes float32.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no safetensors file, or damaged; the message names the tensor.
    """
    check_regular(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f"{path}: {size} bytes; a safetensors file has at least 8")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(content[:8], "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"{path}: not a safetensors file, or cut short: a header of {length} in {size} bytes")
    header = _header(path, content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__ is {metadata!r:.100}; expected texts by name")
    begin, end = 8 + length, 0
    places = {name: _place(f"{path}: {name}", entry, size - begin) for name, entry in header.items()}
    for name, (_, _, first, last) in sorted(places.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise ValueError(f"{path}: {name} begins at byte {first} of the data; expected {end}, where the last ended")
        end = last
    if end != size - begin:
        raise ValueError(f"{path}: {size - begin} bytes of data, of which its tensors are {end}")
    return {
        name: _array(content, dtype, shape, begin + first) for name, (dtype, shape, first, _) in places.items()
    }, metadata


def check_regular(path: str | PathLike[str]) -> None:
    """OSError if there is no such file; ValueError if it is a pipe, a device or a folder: these may have no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path}: no regular file")


def _header(path: Any, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # a wrong encoding too is a ValueError
        word = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path}: not a safetensors file, or damaged: its header is no JSON ({word})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a safetensors file: its header is a {type(header).__name__}")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return found


def _place(where: str, entry: Any, size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, first and last byte of a tensor's entry."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: {entry!r:.100}; expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where}: dtype {dtype!r:.40}; expected one of {', '.join(DTYPES)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{where}: {what} {numbers!r:.100}; expected whole numbers")
    if len(shape) > 32:
        raise ValueError(f"{where}: {len(shape)} axes; expected at most 32")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise ValueError(f"{where}: data_offsets {offsets!r:.100} in {size} bytes of data")
    bytes_ = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    largest = math.prod(max(n, 1) for n in shape) * 8  # of an empty array, too, NumPy limits the other axes
    if bytes_ != offsets[1] - offsets[0] or largest > 2**62:
        raise ValueError(f"{where}: shape {shape!r:.100} of {dtype} is {bytes_} bytes, stored are {offsets}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _array(content: mmap.mmap, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    of = np.dtype(DTYPES[dtype])
    if 0 in shape:
        return np.empty(shape, np.float32 if dtype == "BF16" else of)
    array = np.ndarray(shape, of, content, offset)
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array if array.flags.aligned else array.copy()
