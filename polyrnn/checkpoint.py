"""Models in files: safetensors, with the configuration as JSON in its metadata. Nothing is ever unpickled."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

from . import _safetensors
from ._door import FLOATS, INTEGERS
from .backends import backend_of

__all__ = ["Checkpoint", "load", "load_extra", "save", "write_atomically"]

Arrays: TypeAlias = dict[str, Any]

_FORMAT, _VERSION = "polyrnn", "1"
_EXTRA = "extra:"  # arrays under this prefix are not parameters
_STORED = (*FLOATS, *INTEGERS, "bool")  # dtypes


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    params : dict of str to NumPy array
    config : dict
    """

    params: dict[str, np.ndarray]
    config: dict[str, Any]


def save(path: str | PathLike[str], params: Arrays, config: dict[str, Any], extra: Arrays | None = None) -> None:
    """Write a model to a file: whole, or not at all.

    Parameters
    ----------
    path : str or path
        An old file of that name is replaced.
    params : dict of str to array
        Of any backend.
    config : dict
        What JSON can hold; tuples come back as lists.
    extra : dict of str to array, optional
        More arrays, such as an optimiser's moments, that `load` leaves out and `load_extra` returns.

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If `path` is no path, a value of `params` is no array or one of complex numbers or objects, or `config` holds
        something that JSON cannot.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/model.safetensors", {"weight": np.eye(2)}, {"cell": "lstm"})
    ...     params, config = load(folder + "/model.safetensors")
    >>> config, params["weight"].shape
    ({'cell': 'lstm'}, (2, 2))
    """
    from safetensors.numpy import save as serialise

    _check_path(path)
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"config: {error}; expected what JSON can hold") from error
    if not isinstance(config, dict):
        raise TypeError(f"config: a {type(config).__name__}; expected a dict")
    if not isinstance(params, dict) or not all(isinstance(name, str) for name in params):
        raise TypeError(f"params: {type(params).__name__}; expected a dict of arrays by name")
    for name in params:
        if name.startswith(_EXTRA):
            raise ValueError(f"params: the name {name!r}; {_EXTRA!r} marks arrays that are no parameters")
    named = {**params, **{_EXTRA + name: array for name, array in (extra or {}).items()}}
    arrays = backend_of(named, "params").to_numpy(named) if named else {}
    for name, array in arrays.items():
        if array.dtype.name not in _STORED:
            key = name.removeprefix(_EXTRA)
            called = f"params[{name!r}]" if name == key else f"extra[{key!r}]"
            raise TypeError(f"{called}: dtype {array.dtype}; expected floating point numbers, integers or booleans")
    # The format takes memory as it lies: contiguous, little-endian.
    arrays = {name: np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "config": text}
    with write_atomically(path) as file:
        file.write(serialise(arrays, metadata))


def load(path: str | PathLike[str], mapped: bool = False) -> Checkpoint:
    """Read a model from a file.

    Parameters
    ----------
    path : str or path
    mapped : bool
        Whether `params` are read-only views of the mapped file in place of copies: nothing is read before it is used.
        bfloat16 becomes float32 then.

    Returns
    -------
    Checkpoint
        `params` as NumPy arrays, and `config`.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    TypeError
        If `path` is no path.
    ValueError
        If the file is no model of polyrnn's, is damaged, or of another version.
    """
    arrays, config = _read(path, mapped)
    return Checkpoint({name: a for name, a in arrays.items() if not name.startswith(_EXTRA)}, config)


def load_extra(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays that `save` was given as `extra`; raises what `load` raises.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to NumPy array
    """
    arrays, _ = _read(path)
    return {name.removeprefix(_EXTRA): a for name, a in arrays.items() if name.startswith(_EXTRA)}


@contextmanager
def write_atomically(
    path: str | PathLike[str], mode: str = "wb", encoding: str | None = None, newline: str | None = None
) -> Iterator[IO[Any]]:
    """A file to write that appears under its name when the block ends, and not at all when the block fails.

    It is written under a temporary name in the same folder and renamed; until then an old file of that name
    stays as it is.

    Parameters
    ----------
    path : str or path
    mode : {"wb", "w"}
        Bytes or text.
    encoding, newline : str, optional
        Of a text, as in `open`; UTF-8 by default.

    Yields
    ------
    file

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written; the message names the path.
    TypeError
        If `path` is no path.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_atomically(folder + "/history.csv", "w", newline="") as file:
    ...         print(file.write("step,loss"), os.path.exists(folder + "/history.csv"))
    ...     print(os.path.exists(folder + "/history.csv"))
    9 False
    True
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode={mode!r}: expected 'wb' or 'w'")
    _check_path(path)
    target = os.path.realpath(path)  # through a link, to what it points at
    if os.path.isdir(target):
        raise IsADirectoryError(f"{path}: a folder; expected the name of a file to write")
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        file = open(  # noqa: SIM115  (closed below, before the renaming)
            temporary,
            mode.replace("w", "x"),
            encoding=(encoding or "utf-8") if mode == "w" else None,
            newline=newline,
        )
    except OSError as error:
        raise type(error)(f"{path}: cannot be written: {error.strerror} (folder {folder})") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the content
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C too leaves no half-written file
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: str | PathLike[str], mapped: bool = False) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    _check_path(path)
    expected = "expected a model that polyrnn saved"
    try:
        with open(path, "rb"):  # errors of the system as Python words them
            pass
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; {expected}") from error
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}; {expected}") from error
    try:
        arrays, metadata = _safetensors.read(path) if mapped else _copied(path)
    except ValueError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error}); {expected}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path}: a safetensors file with format={metadata.get('format')!r}; {expected}")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"{path}: format version={metadata.get('version')!r}; this polyrnn reads version {_VERSION!r}")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no configuration in its metadata, or damaged ({error!r}); {expected}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: its configuration is a {type(config).__name__}; expected a dict")
    return arrays, config


def _copied(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _check_path(path: Any) -> None:
    """A str or a path: `open` would take a number for a file that is open already, and close it."""
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path={path!r}: expected a str or a path, such as 'model.safetensors'")
