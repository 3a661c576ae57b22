"""Keras' files read without trust: what a file claims is compared with what it holds before any of it is believed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from ._hdf5 import SIGNATURE, File

_EXPANSION = 100  # a member of an archive is refused that unpacks to more than so many times its size; Keras' limit
_PIECE = 1 << 20  # an archive is unpacked in pieces of so many bytes, so that a lie about a size costs no more
_ZIP = b"PK\x03\x04"
_BROKEN = (OSError, EOFError, KeyError, RuntimeError, NotImplementedError, TypeError, OverflowError, MemoryError)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[File, dict | None]]:
    """The arrays in a .keras or .weights.h5 file, readable inside the block, and its config if it has one."""
    where = os.fspath(path)
    if not isinstance(where, str):
        raise TypeError(f"source is the path {where!r}; expected a str or a path of one")
    if not stat.S_ISREG(os.stat(where).st_mode):
        raise OSError(f"{where}: no regular file")
    with open(where, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(SIGNATURE))
        file.seek(0)
        config: dict | None = None
        weights: IO[bytes] = file
        if start.startswith(_ZIP):
            config, weights, size = _unpacked(file, where, size)
            where = f"{where}: model.weights.h5"
        elif start != SIGNATURE:
            raise ValueError(f"{where}: neither a .keras archive nor HDF5")
        yield File(weights, size, where), config


@contextlib.contextmanager
def _sound(where: str) -> Iterator[None]:
    """The many errors of damaged files as one."""
    try:
        yield
    except (*_BROKEN, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{where}: damaged, or not of this format: {error}") from error


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
