"""Tensors of ONNX files as NumPy arrays; what does not fit the bytes that are there is refused before it is made."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from ._model import short, text

# TensorProto.DataType -> dtype, and the field of the protobuf that holds its numbers if they are not raw bytes.
DTYPES = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
}
FIELDS = tuple(sorted({field for _, field in DTYPES.values()} | {"string_data"}))
MOST_AXES = 32


def dtype_of(number: int, what: str) -> str:
    """The dtype's name; ValueError for those that are not supported: strings, complex numbers, 8 bits and less."""
    if number not in DTYPES:
        known = ", ".join(name for name, _ in DTYPES.values())
        raise ValueError(f"{what} has the element type {number} of ONNX; supported are {known}")
    return DTYPES[number][0]


class Outside:
    """The files beside a model in which tensors may be; `folder` is None where the model is no file.

    The bytes that are read in all are no more than these files have.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder.resolve()
        self.sizes: dict[Path, int] = {}
        self.parts: dict[tuple[Path, int, int], bytes] = {}
        self.taken = 0

    def read(self, tensor: Any, what: str, size: int) -> bytes:
        """The `size` bytes that a tensor's external_data names."""
        entries = {text(entry.key): text(entry.value) for entry in tensor.external_data}
        path = self._path(entries.get("location", ""), what)
        there = self.sizes.setdefault(path, path.stat().st_size)
        start, length = (
            self._number(entries, key, what, default) for key, default in (("offset", 0), ("length", size))
        )
        if length != size or start + length > there:
            raise ValueError(
                f"{what} has {size} bytes, and names {length} at offset {start} of {path.name}, which has {there}"
            )
        key = path, start, length
        if key not in self.parts:
            self.taken += length
            if self.taken > sum(self.sizes.values()):
                raise ValueError(f"{what}: tensors overlap in {path.name}")
            with path.open("rb") as file:
                file.seek(start)
                self.parts[key] = file.read(length)
        return self.parts[key]

    def _path(self, location: str, what: str) -> Path:
        if self.folder is None:
            raise ValueError(f"{what} is in the file {short(location)}, but the model is no file: load it by its path")
        inside = PurePosixPath(location)
        strange = {"..", ""} & set(location.split("/")) or "\\" in location or "\0" in location
        if strange or inside.is_absolute() or PureWindowsPath(location).drive:
            raise ValueError(f"{what} is in {short(location)}; expected a relative path inside the model's folder")
        try:
            path = (self.folder / inside).resolve()
            if not path.is_relative_to(self.folder):
                raise ValueError(f"{what} is in {short(location)}, a link that leads out of the model's folder")
            if not path.is_file():
                raise FileNotFoundError(f"{what} is in {short(location)}; there is no such file in {self.folder}")
        except RuntimeError:  # links in a circle, before Python 3.13
            raise ValueError(f"{what} is in {short(location)}, a link that leads nowhere") from None
        return path

    @staticmethod
    def _number(entries: dict[str, str], key: str, what: str, default: int) -> int:
        text = entries.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"{what} has external {key}={short(text)}; expected a whole number of at least 0")
        return int(text)


def array_of(tensor: Any, what: str, outside: Outside) -> np.ndarray:
    """The array of a TensorProto, read-only.

    Raises
    ------
    ValueError
        If the type is not supported, or the shape does not fit the numbers that are there.
    OSError
        If a file of external data cannot be read.
    """
    name = dtype_of(tensor.data_type, what)
    shape, field = tuple(tensor.dims), DTYPES[tensor.data_type][1]
    if tensor.HasField("segment") or len(shape) > MOST_AXES or any(size < 0 for size in shape):
        raise ValueError(f"{what} has the shape {shape[:MOST_AXES]}, or is in segments; expected sizes of at least 0")
    count, dtype = math.prod(shape), np.dtype(name)
    filled = [other for other in FIELDS if len(getattr(tensor, other))]
    if tensor.data_location == 1:
        if filled or tensor.raw_data:
            raise ValueError(f"{what} has numbers both in the model and in another file")
        found = _of_bytes(outside.read(tensor, what, count * dtype.itemsize), dtype)
    elif filled:
        if filled != [field] or tensor.raw_data:
            raise ValueError(f"{what} of {name} has numbers in {', '.join(filled)}; expected them in {field} alone")
        found = _of_numbers(getattr(tensor, field), dtype, what)
    else:
        if len(tensor.raw_data) != count * dtype.itemsize:
            raise ValueError(
                f"{what} has the shape {shape} of {name}, {count * dtype.itemsize} bytes; there are "
                f"{len(tensor.raw_data)}"
            )
        found = _of_bytes(tensor.raw_data, dtype)
    if found.size != count:
        raise ValueError(f"{what} has the shape {shape}, {count} numbers; there are {found.size}")
    try:
        found = found.reshape(shape)
    except ValueError as error:  # of no elements, but beyond NumPy's sizes
        raise ValueError(f"{what} has the shape {shape}: {error}") from error
    found.flags.writeable = False
    return found


def _of_bytes(raw: bytes, dtype: np.dtype) -> np.ndarray:
    if dtype.name == "bool":
        return np.frombuffer(raw, dtype="uint8") != 0
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).astype(dtype)


def _of_numbers(numbers: Any, dtype: np.dtype, what: str) -> np.ndarray:
    if dtype.kind == "f" and dtype.itemsize > 2:
        return np.asarray(numbers, dtype=dtype)
    wide = np.asarray(numbers, dtype="uint64" if dtype.name in ("uint32", "uint64") else "int64")
    if dtype.name == "bool":
        return wide != 0
    kind = np.dtype("uint16") if dtype.name == "float16" else dtype  # the bits of a half
    found = wide.astype(kind)
    if not np.array_equal(found.astype(wide.dtype), wide):
        raise ValueError(f"{what} has numbers that are no {dtype.name}")
    return found.view(dtype)
