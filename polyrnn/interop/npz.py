"""NumPy's own archives: a dict of arrays that `numpy.load` reads, with the module's description as JSON beside them.

An archive without a description is read as a state dict of PyTorch's names. Members are stored uncompressed, as
`numpy.savez` stores them, so that none is larger than the file; compressed ones are refused.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from os import PathLike, fspath
from typing import Any

import numpy as np

from .._module import Module
from .._recurrent import Recurrent
from .._safetensors import check_regular
from ..backends import backend_of
from ..checkpoint import write_atomically
from ..model import Model, build, check_fit, describe
from . import torch
from ._converted import Converted, check_finite, checked, members, only

__all__ = ["dump", "find", "load", "read", "save"]

DESCRIPTION = "polyrnn.json"  # the name of the array with the description


def find(source: str | PathLike[str], *, allow_nan: bool = False, **options: Any) -> dict[str, Converted]:
    """All recurrent layers, by the prefix of their names; "" where there is none.

    Parameters
    ----------
    source : path
    allow_nan : bool
        Whether parameters may be NaN or infinite.
    **options
        Where the archive has no description, as for `polyrnn.interop.torch.find`.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError, TypeError
        If it is no archive of numeric arrays, or damaged, or the arrays do not fit; the message names the array.
    """
    found = read(source, allow_nan=allow_nan)
    if isinstance(found, Model):
        return members(found)
    try:
        return torch.find(found, allow_nan=allow_nan, **options)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{fspath(source)}: {error}") from None


def load(source: str | PathLike[str], name: str | None = None, *, allow_nan: bool = False, **options: Any) -> Converted:
    """One recurrent layer: the only one, or that of this prefix; else as `find`."""
    return only(find(source, allow_nan=allow_nan, **options), name, fspath(source))


def dump(layer: Recurrent, params: Any) -> dict[str, np.ndarray]:
    """The arrays of an archive: the parameters, and the description."""
    return _arrays(layer, checked(layer, params))


def save(path: str | PathLike[str], layer: Module, params: Any) -> None:
    """Write a module, a recurrent layer or any other, to an archive: whole, or not at all.

    Examples
    --------
    >>> import tempfile, polyrnn as pr
    >>> lstm = pr.LSTM(3, 5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/lstm.npz", lstm, lstm.init(seed=0))
    ...     sorted(np.load(folder + "/lstm.npz"))[:2], load(folder + "/lstm.npz").layer == lstm
    (['bias_hh_l0', 'bias_ih_l0'], True)
    """
    host = backend_of(params, "params").to_numpy(dict(params)) if params else {}
    arrays = _arrays(layer, host)
    with write_atomically(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read(path: str | PathLike[str], *, allow_nan: bool = False) -> Any:
    """A Model, where the archive has a description; else its arrays by name."""
    arrays = _members(fspath(path))
    described = arrays.pop(DESCRIPTION, None)
    if not allow_nan:
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                check_finite(f"{fspath(path)}: {name}", array)
    if described is None:
        return arrays
    try:
        module = build(json.loads(described.tobytes()))
        check_fit(module, arrays)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{fspath(path)}: {DESCRIPTION}: {error}") from None
    return Model(module, arrays)


def _arrays(module: Module, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    text = json.dumps(describe(module)).encode()
    return {**params, DESCRIPTION: np.frombuffer(text, np.uint8)}


def _members(path: str) -> dict[str, np.ndarray]:
    check_regular(path)
    size = os.stat(path).st_size
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                where = f"{info.filename!r:.80}"
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise ValueError(f"{where} is compressed or encrypted; expected what numpy.savez writes")
                if info.file_size > size or not info.filename.endswith(".npy"):
                    raise ValueError(f"{where}: no array, or larger than the file")
                name = info.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError(f"{where} is there twice")
                with archive.open(info) as file:
                    found[name] = _array(where, file, info.file_size)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: not an archive of NumPy's, or damaged: {error}") from None
    return found


def _array(where: str, file: Any, size: int) -> np.ndarray:
    """One array, whose header is read first: what it claims must be there."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{where}: format {version}; expected 1.0 or 2.0")
    shape, columns, dtype = readers[version](file)
    if (
        dtype.hasobject
        or dtype.kind not in "fiub"
        or any(type(n) is not int or n < 0 for n in shape)
        or len(shape) > 32
    ):
        raise ValueError(f"{where}: dtype {dtype}, shape {shape!r:.60}; expected an array of numbers")
    count = math.prod(shape) * dtype.itemsize
    content = file.read(size)
    if len(content) != count:
        raise ValueError(f"{where}: {len(content)} bytes, of shape {shape!r:.60} and {dtype} {count} were expected")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if columns else "C").astype(dtype.newbyteorder("="), copy=False)
