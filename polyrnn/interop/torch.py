"""PyTorch: RNN, LSTM and GRU, and their cells, from safetensors files, state dicts and live modules, and back.

polyrnn has PyTorch's names, shapes and gate orders, so nothing is rearranged, and where it lies as NumPy wants it,
nothing is copied. A state dict does not tell everything: `nonlinearity` of an RNN and `batch_first` are arguments here,
and are read from a live module.

Pickles (.pt, .pth, .bin) are programs that run when they are opened, and are refused. Two lines save the other form::

    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in torch.load("m.pt", map_location="cpu").items()}, "m.safetensors")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np

from .. import _safetensors
from .._recurrent import Recurrent
from ..checkpoint import write_atomically
from ._converted import KINDS, Converted, check_finite, checked, only, refuse

__all__ = ["dump", "find", "load", "save"]

_GATES = {4: "lstm", 3: "gru", 1: "rnn"}
_NAME = re.compile(
    r"(?P<prefix>(?:.*\.)?)"
    r"(?P<name>(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(?P<layer>\d{1,4})(?:_reverse)?)?)",
    re.DOTALL,
)
_REFUSED = (
    "a pickle, which runs what its author wrote when it is opened. Where you trust it, save it anew:\n"
    "    from safetensors.torch import save_file\n"
    '    save_file({k: v.contiguous() for k, v in torch.load(PATH, map_location="cpu").items()}, "model.safetensors")'
)


def find(
    source: Any, *, nonlinearity: str | tuple = "tanh", batch_first: bool = False, allow_nan: bool = False
) -> dict[str, Converted]:
    """All recurrent layers, by the prefix of their names without its dot: "encoder.lstm"; "" where there is none.

    Parameters
    ----------
    source : path, dict or torch.nn.Module
        A safetensors file; a state dict, of tensors or arrays; or a live module.
    nonlinearity, batch_first
        Of the layers, where a module does not tell: of an RNN the activation, and whether x is (N, T, I).
    allow_nan : bool
        Whether parameters may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        Parameters as NumPy arrays: of a file read-only views of the mapped file, of tensors on the CPU views of
        their memory; bfloat16 as float32.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is no safetensors file, or damaged; if a layer lacks an array, has one of a wrong shape, or one that is
        not finite. The message names file and tensor.
    TypeError
        If the source is none of these, or the arrays of a layer are not of one floating dtype.

    Examples
    --------
    >>> import polyrnn as pr
    >>> gru = pr.GRU(3, 5, num_layers=2, bidirectional=True)
    >>> find(dump(gru, gru.init(seed=0), prefix="encoder.gru"))["encoder.gru"].layer
    GRU(input_size=3, hidden_size=5, num_layers=2, ..., bidirectional=True, ...)
    """
    return _find(source, None, nonlinearity, batch_first, allow_nan)


def _find(
    source: Any, asked: str | None, nonlinearity: str | tuple, batch_first: bool, allow_nan: bool
) -> dict[str, Converted]:
    """`find`, of which a layer is looked at only if it is the one that is asked for, or all are."""
    where, tensors = _tensors(source)
    options = _live(source)
    groups = parts(tensors, where)
    if asked is not None and f"{asked}." * bool(asked) in groups:
        groups = {f"{asked}." * bool(asked): groups[f"{asked}." * bool(asked)]}
    found = {}
    for prefix, names in groups.items():
        arrays = {own: tensors[name] for own, name in names.items()}
        if "weight_hh_l0" not in arrays and any(name.startswith(f"{prefix}parametrizations.") for name in tensors):
            raise ValueError(f"{where}{prefix}weight_hh_l0: parametrized; remove_parametrizations first, then save")
        if "weight_hh_l0" not in arrays and f"{prefix}weight_hh_l0_g" in tensors:
            raise ValueError(f"{where}{prefix}weight_hh_l0: normalised; remove_weight_norm first, then save")
        told = {"nonlinearity": nonlinearity, "batch_first": batch_first} | options.get(prefix, {})
        params = {name: _array(array) for name, array in arrays.items()}
        layer = _layer(where + prefix, params, told)
        if not allow_nan:
            for name, array in params.items():
                check_finite(f"{where}{prefix}{name}", array)
        found[prefix.removesuffix(".")] = Converted(layer, {name: params[name] for name in layer.shapes()})
    return found


def parts(tensors: Mapping[str, Any], where: str = "") -> dict[str, dict[str, str]]:
    """By prefix, with its dot, the names of what looks like a recurrent layer's, by the layer's own names."""
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match:
            own = match["name"] if match["layer"] is not None else f"{match['name']}_l0"  # of a cell
            if own in found.setdefault(match["prefix"], {}):
                raise ValueError(f"{where}{name}: a cell and a layer under one prefix")
            found[match["prefix"]][own] = name
    return found


def load(
    source: Any,
    name: str | None = None,
    *,
    nonlinearity: str | tuple = "tanh",
    batch_first: bool = False,
    allow_nan: bool = False,
) -> Converted:
    """One recurrent layer: the only one, or that of this prefix; else as `find`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> lstm = pr.LSTM(3, 5)
    >>> layer, params = load(dump(lstm, lstm.init(seed=0)))
    >>> y, (h, c) = layer(params, np.ones((7, 2, 3), dtype="float32"))
    """
    found = _find(source, name, nonlinearity, batch_first, allow_nan)
    return only(found, name, fspath(source) if isinstance(source, (str, PathLike)) else "source")


def dump(layer: Recurrent, params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A state dict for the module of the same class: `module.load_state_dict({k: torch.from_numpy(v.copy()) ...})`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    params : dict of str to array
        Of any backend.
    prefix : str
        Stands before all names, with a dot: "encoder.lstm".

    Returns
    -------
    dict of str to NumPy array

    Raises
    ------
    ValueError
        If PyTorch's layers cannot represent it: reset before, peepholes, layer normalisation, clipping and so on.
    """
    arrays = checked(layer, params)
    refuse(
        layer,
        f"torch.nn.{type(layer).__name__}",
        (
            "num_layers",
            "bias",
            "bidirectional",
            "proj_size",
            *(("nonlinearity",) if type(layer) is KINDS["rnn"] else ()),
        ),
    )
    if getattr(layer, "nonlinearity", "tanh") not in ("tanh", "relu"):
        raise ValueError(f"RNN has nonlinearity={layer.nonlinearity!r}; torch.nn.RNN has tanh and relu")  # type: ignore[attr-defined]
    prefix = f"{prefix}." if prefix else ""
    return {prefix + name: array for name, array in arrays.items()}


def save(path: str | PathLike[str], layer: Recurrent, params: Any, prefix: str = "") -> None:
    """Write `dump` to a safetensors file, whole or not at all; `safetensors.torch.load_file` reads it.

    Raises
    ------
    OSError, ValueError
        As `dump`, or if the file cannot be written.
    """
    from safetensors.numpy import save as serialise

    content = serialise({name: np.ascontiguousarray(a) for name, a in dump(layer, params, prefix).items()})
    with write_atomically(path) as file:
        file.write(content)


def _tensors(source: Any) -> tuple[str, Mapping[str, Any]]:
    """Tensors by name, and how errors begin."""
    if isinstance(source, (str, PathLike)):
        path = fspath(source)
        try:
            return f"{path}: ", _safetensors.read(path)[0]
        except ValueError as error:
            with open(path, "rb") as file:
                begin = file.read(2)
            if begin[:1] == b"\x80" or (begin == b"PK" and not path.endswith((".npz", ".keras"))):
                raise ValueError(f"{path}: {_REFUSED}") from error
            raise
    if isinstance(source, Mapping):
        return "", source
    if hasattr(source, "state_dict") and hasattr(source, "named_modules"):
        return "", source.state_dict()
    raise TypeError(f"source is {type(source).__name__}; expected a path, a dict of tensors or a torch.nn.Module")


def _live(source: Any) -> dict[str, dict[str, Any]]:
    """Of a live module's layers, what a state dict does not tell, by prefix."""
    found: dict[str, dict[str, Any]] = {}
    for name, module in source.named_modules() if hasattr(source, "named_modules") else ():
        told = {key: getattr(module, key) for key in ("nonlinearity", "batch_first", "dropout") if hasattr(module, key)}
        found[f"{name}." if name else ""] = told
    return found


def _array(tensor: Any) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        return (tensor.float() if str(tensor.dtype).endswith("bfloat16") else tensor).numpy()
    return np.asarray(tensor)


def _layer(where: str, params: dict[str, np.ndarray], told: dict[str, Any]) -> Recurrent:
    """The layer whose parameters these are."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in params or params[name].ndim != 2:
            found = f"of shape {params[name].shape}" if name in params else "missing"
            raise ValueError(f"{where}{name}: {found}; expected a matrix")
    rows, inputs = params["weight_ih_l0"].shape
    recurrent_rows, seen = params["weight_hh_l0"].shape
    projected = "weight_hr_l0" in params
    hidden = rows // 4 if projected else seen
    if rows != recurrent_rows or not hidden or rows % hidden or rows // hidden not in _GATES or not inputs or not seen:
        raise ValueError(
            f"{where}weight_ih_l0, weight_hh_l0: shapes {(rows, inputs)} and {(recurrent_rows, seen)}; expected "
            "(G*H, I) and (G*H, H) with G = 4 for an LSTM, 3 for a GRU, 1 for an RNN"
        )
    kind = _GATES[rows // hidden]
    layers = 1 + max(int(re.search(r"_l(\d+)", name)[1]) for name in params)  # type: ignore[index]
    if layers > len(params):
        raise ValueError(f"{where}: the names tell {layers} layers, of which {len(params)} arrays cannot be all")
    options: dict[str, Any] = {
        "num_layers": layers,
        "bias": "bias_ih_l0" in params,
        "batch_first": told["batch_first"],
        "bidirectional": "weight_ih_l0_reverse" in params,
        "dropout": told.get("dropout", 0.0) if layers > 1 else 0.0,
    }
    if projected:
        options["proj_size"] = seen
    if kind == "rnn":
        options["nonlinearity"] = told["nonlinearity"]
    try:
        layer = KINDS[kind](inputs, hidden, **options)
    except ValueError as error:
        raise ValueError(f"{where.removesuffix('.')}: {error}") from None
    expected, there = layer.shapes(), {name: tuple(array.shape) for name, array in params.items()}
    for name in (*expected, *there):
        if expected.get(name) != there.get(name):
            was, should = (f"shape {of[name]}" if name in of else "no such array" for of in (there, expected))
            raise ValueError(f"{where}{name}: {was}; expected {should} of {layer!r}")
    dtypes = {array.dtype for array in params.values()}
    if len(dtypes) != 1 or next(iter(dtypes)).kind != "f":
        raise TypeError(
            f"{where}weight_ih_l0 and others: dtypes {', '.join(sorted(map(str, dtypes)))}; expected one floating dtype"
        )
    return layer
