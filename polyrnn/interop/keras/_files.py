"""Keras' files read without trust: what a file claims is compared with what it holds before any of it is believed."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

_EXPANSION = 100  # a member of an archive is refused that unpacks to more than so many times its size; Keras' limit
_DEPTH = 64  # of groups within groups
_PIECE = 1 << 20  # an archive is unpacked in pieces of so many bytes, so that a lie about a size costs no more
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_BROKEN = (OSError, EOFError, KeyError, RuntimeError, NotImplementedError, TypeError, OverflowError, MemoryError)


class Stored(NamedTuple):
    """What a file holds: arrays by path, not yet read; the layers' own names by path; and the model's config."""

    arrays: dict[str, Array]
    names: dict[str, str]
    config: dict | None


class Array(NamedTuple):
    """An array of an HDF5 file of `size` bytes."""

    where: str
    dataset: Any
    size: int

    def read(self) -> np.ndarray:
        """It, if it is stored as Keras stores arrays, in one piece; memory is taken only for what the file holds."""
        with _sound(self.where):
            made, shape, dtype = self.dataset.id.get_create_plist(), self.dataset.shape, self.dataset.dtype
            plain = made.get_layout() in (0, 1) and made.get_nfilters() == 0 and made.get_external_count() == 0
            brain = dtype == np.dtype("V2") and _text(self.dataset, "dtype") == "bfloat16"
            held = self.dataset.id.get_storage_size()
        if not plain:
            raise ValueError(f"{self.where}: in chunks, compressed or in another file; expected one piece, as of Keras")
        if not brain and not (dtype.kind == "f" and dtype.itemsize in (2, 4, 8)):
            raise ValueError(f"{self.where}: dtype {dtype}; expected floating point numbers")
        claimed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize if shape is not None else -1
        if claimed != held or held > self.size:
            raise ValueError(f"{self.where}: shape {shape} claims {claimed} bytes of {held} that are stored")
        with _sound(self.where):
            array = np.asarray(self.dataset[()])
        if brain:  # the upper half of a float32
            return np.asarray(np.left_shift(array.view("<u2").astype(np.uint32), 16).view(np.float32))
        return array.astype(dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Stored]:
    """What is in a .keras or .weights.h5 file, readable inside the block."""
    where = os.fspath(path)
    if not isinstance(where, str):
        raise TypeError(f"source is the path {where!r}; expected a str or a path of one")
    if not stat.S_ISREG(os.stat(where).st_mode):
        raise OSError(f"{where}: no regular file")
    with open(where, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(_HDF5))
        file.seek(0)
        config: dict | None = None
        weights: IO[bytes] = file
        if start.startswith(_ZIP):
            config, weights, size = _unpacked(file, where, size)
            where = f"{where}: model.weights.h5"
        elif start != _HDF5:
            raise ValueError(f"{where}: neither a .keras archive nor HDF5")
        with _sound(where):
            h5 = h5py().File(weights, "r")
        with h5:
            with _sound(where):
                stored = Stored(*_tree(h5, where, size), config)
            yield stored


def h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        text = "Keras' files are HDF5, which needs h5py: python -m pip install 'polyrnn[keras]'"
        raise ModuleNotFoundError(text, name="h5py") from error


@contextlib.contextmanager
def _sound(where: str) -> Iterator[None]:
    """The many errors of damaged files as one."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except (*_BROKEN, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{where}: damaged, or not of this format: {error}") from error


# ---- HDF5 ------------------------------------------------------------------------------------------------------------


def _tree(h5: Any, where: str, size: int) -> tuple[dict[str, Array], dict[str, str]]:
    """All arrays of a file, and the name attribute of each "vars" by the path of the group that it stands in."""
    if "layer_names" in h5.attrs or "model_config" in h5.attrs or "model_weights" in h5:
        raise ValueError(f"{where}: the older HDF5 format; load it with Keras 3 and save it as .keras or .weights.h5")
    library = h5py()
    arrays: dict[str, Array] = {}
    names: dict[str, str] = {}
    variables, met, todo = False, set(), [("", h5)]
    while todo:
        path, group = todo.pop()
        for key in group:
            inside = f"{path}/{key}" if path else key
            # Links to elsewhere are not followed, and none of Keras' files has two to the same place, as a cycle has.
            if not isinstance(group.get(key, getlink=True), library.HardLink):
                raise ValueError(f"{where}: {inside} is a link; there are none in Keras' files")
            thing = group[key]
            address = library.h5o.get_info(thing.id).addr
            if address in met or inside.count("/") > _DEPTH:
                raise ValueError(f"{where}: {inside} is there twice, or too deep; not so in Keras' files")
            met.add(address)
            if isinstance(thing, library.Dataset):
                arrays[inside] = Array(f"{where}: {inside}", thing, size)
            elif isinstance(thing, library.Group):
                todo.append((inside, thing))
                variables = variables or key == "vars"
                if key == "vars" and (name := _text(thing, "name")):
                    names[path] = name
    if not variables:
        raise ValueError(f"{where}: HDF5, but not the weights of a Keras 3 model: no group of the name vars")
    return arrays, names


def _text(thing: Any, name: str) -> str | None:
    """An attribute that is one string; None if there is no such."""
    if name not in thing.attrs:
        return None
    attribute = thing.attrs.get_id(name)
    if attribute.shape != () or h5py().check_string_dtype(attribute.dtype) is None:
        return None
    value = thing.attrs[name]
    return value if isinstance(value, str) else None


# ---- the archive -----------------------------------------------------------------------------------------------------


def _unpacked(file: IO[bytes], where: str, size: int) -> tuple[dict, IO[bytes], int]:
    """The config of a .keras file, and its HDF5 file with its size."""
    with _sound(where), zipfile.ZipFile(file) as archive:
        text = _member(archive, "config.json", where, size).getvalue()
        weights = _member(archive, "model.weights.h5", where, size)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{where}: config.json: a {type(config).__name__}; expected an object")
    return config, weights, weights.getbuffer().nbytes


def _member(archive: zipfile.ZipFile, name: str, where: str, size: int) -> io.BytesIO:
    """One file of an archive, in memory."""
    if name not in archive.namelist():
        raise ValueError(f"{where}: an archive without {name}; expected one that Keras 3 saved")
    member = archive.getinfo(name)
    times = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _EXPANSION}.get(member.compress_type, 0)
    if member.file_size > times * min(member.compress_size, size):
        raise ValueError(
            f"{where}: {name} claims {member.file_size} bytes, of which {member.compress_size} are stored; refused "
            f"beyond {times} times that"
        )
    unpacked = io.BytesIO()
    with archive.open(member) as file:
        while piece := file.read(_PIECE):
            unpacked.write(piece)
    unpacked.seek(0)
    return unpacked
