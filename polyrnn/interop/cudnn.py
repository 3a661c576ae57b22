"""cuDNN's weights: matrices and biases by pseudoLayer and linLayerID, and jax.experimental.rnn's flat vector.

What cudnnGetRNNWeightParams calls pseudoLayer counts recurrences, 0 for l0; with two directions 0 is l0 and 1 is
l0_reverse, 2 l1 and so on. linLayerID tells the gate, first of the input's products, then of the recurrent ones;
matrices are (H, inputs), y = W x, and biases (H,):

| | input | recurrent | projection |
|---|---|---|---|
| CUDNN_RNN_TANH, CUDNN_RNN_RELU | 0 | 1 | |
| CUDNN_LSTM | 0 i, 1 f, 2 g, 3 o | 4 i, 5 f, 6 g, 7 o | 8 (P, H) |
| CUDNN_GRU, its reset after the product | 0 r, 1 z, 2 n | 3 r, 4 z, 5 n | |

These are PyTorch's gate blocks, so polyrnn's. Both biases are kept apart (CUDNN_RNN_DOUBLE_BIAS, the default); where
weights have but one of them, the other is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._recurrent import Recurrent
from ..layers import LSTM
from ._converted import KINDS, OURS, Converted, checked, kind_of, only, refuse, suffixes
from ._tree import array, children, exactly, one_dtype

__all__ = ["dump", "dump_flat", "find", "load", "load_flat"]

_KINDS = {2: "rnn", 6: "gru", 8: "lstm", 9: "lstm"}  # by the number of linLayerIDs


class _Place(NamedTuple):
    """Which rows of which parameters a linLayerID of a pseudoLayer is; a projection has no bias."""

    pseudo_layer: int
    lin_layer: int
    weight: str
    bias: str
    rows: slice


def find(
    source: Any, *, bidirectional: bool = False, nonlinearity: str = "tanh", allow_nan: bool = False
) -> dict[str, Converted]:
    """The layer of a dict of cuDNN's matrices and biases.

    Parameters
    ----------
    source : dict
        {pseudoLayer: {linLayerID: {"matrix": array, "bias": array}}}, as `dump` makes it; lists in place of the outer
        dicts will do. It is an RNN, a GRU or an LSTM by the number of linLayerIDs, 2, 6, 8 or with a projection 9. The
        biases may be absent, or None: all of the input's, all of the recurrent ones, or both.
    bidirectional : bool
        Whether every second pseudoLayer runs from the end, which the dict does not tell.
    nonlinearity : {"tanh", "relu"}
        Of an RNN, which the dict does not tell either.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        The one layer, by "".

    Raises
    ------
    ValueError
        If something is missing, or there is more; for a wrong shape or dtype.
    TypeError
        If the source is no dict.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.interop import cudnn
    >>> ids = {k: {"matrix": np.ones((5, 3 if k < 3 else 5)), "bias": np.ones(5)} for k in range(6)}
    >>> type(cudnn.find({0: ids})[""].layer).__name__
    'GRU'
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity={nonlinearity!r}: cuDNN has 'tanh' and 'relu'")
    tree = _tree(source)
    ways, count = 2 if bidirectional else 1, len(tree[0]) if tree else 0
    if not tree or len(tree) % ways:
        raise ValueError(f"{len(tree)} pseudoLayers do not make layers of {ways} direction{'s' * (ways - 1)}")
    if count not in _KINDS:
        raise ValueError(f"pseudoLayer 0 has {count} linLayerIDs; expected 2 (RNN), 6 (GRU), 8 or 9 (LSTM)")
    kind = _KINDS[count]
    for k, parts in enumerate(tree):
        if len(parts) != count:
            raise ValueError(f"pseudoLayer {k} has {len(parts)} linLayerIDs; expected {count}, as pseudoLayer 0")
    H, I = array(tree[0][0]["matrix"], _where(0, 0, "matrix"), (None, None), True).shape
    options: dict[str, Any] = {"nonlinearity": nonlinearity} if kind == "rnn" else {}
    if count == 9:
        options["proj_size"] = array(tree[0][8]["matrix"], _where(0, 8, "matrix"), (None, H), True).shape[0]
    biased = any("bias" in part for parts in tree for part in parts)
    layer = KINDS[kind](I, H, len(tree) // ways, bias=biased, bidirectional=bool(bidirectional), **options)

    shapes, places = layer.shapes(), [(place, tree[place.pseudo_layer][place.lin_layer]) for place in _places(layer)]
    for side in ("bias_ih", "bias_hh", ""):
        has = ["bias" in part for place, part in places if place.bias[:7] == side]
        if any(has) and not (all(has) and side):
            raise ValueError(
                f"{sum(has)} of {len(has)} linLayerIDs of {side or 'projections'} have a bias; expected "
                f"{'all or none' * bool(side) or 'none'}"
            )
    found: dict[str, tuple[str, slice, np.ndarray]] = {}
    for place, part in places:
        shape = (place.rows.stop - place.rows.start, *shapes[place.weight][1:])
        for what, name, expected in (("matrix", place.weight, shape), ("bias", place.bias, shape[:1])):
            if what in part:
                where = _where(place.pseudo_layer, place.lin_layer, what)
                found[where] = name, place.rows, array(part[what], where, expected, allow_nan)
    one_dtype("source", {where: a for where, (_, _, a) in found.items()})
    params = {name: np.zeros(shape, next(iter(found.values()))[2].dtype) for name, shape in shapes.items()}
    for name, rows, a in found.values():
        params[name][rows] = a
    return {"": Converted(layer, params)}


def load(
    source: Any,
    name: str | None = None,
    *,
    bidirectional: bool = False,
    nonlinearity: str = "tanh",
    allow_nan: bool = False,
) -> Converted:
    """The layer of a dict of cuDNN's matrices and biases.

    Parameters
    ----------
    source, bidirectional, nonlinearity, allow_nan
        As for `find`.
    name : str, optional
        "" or nothing: there is but one.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError, TypeError
        As `find` does.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import cudnn
    >>> lstm = pr.LSTM(3, 5, bidirectional=True)
    >>> params = lstm.init(seed=0)
    >>> layer, same = cudnn.load(cudnn.dump(lstm, params), bidirectional=True)
    >>> layer == lstm, all(np.array_equal(same[name], params[name]) for name in params)
    (True, True)
    """
    found = find(source, bidirectional=bidirectional, nonlinearity=nonlinearity, allow_nan=allow_nan)
    return only(found, name, "the dict")


def dump(layer: Any, params: Any, *, allow_nan: bool = False) -> dict[int, dict[int, dict[str, np.ndarray]]]:
    """The matrices and biases for the places that cudnnGetRNNWeightParams returns.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        Its dropout, and whether it is batch first, are descriptors of cuDNN's.
    params : dict of str to array
        Its parameters.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict
        {pseudoLayer: {linLayerID: {"matrix": (H, inputs), "bias": (H,)}}}, NumPy arrays; without biases, for
        CUDNN_RNN_NO_BIAS, if the layer has none.

    Raises
    ------
    ValueError
        If cuDNN cannot represent the layer.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import cudnn
    >>> lstm = pr.LSTM(3, 5, proj_size=2)
    >>> tree = cudnn.dump(lstm, lstm.init(seed=0))
    >>> tree[0][0]["matrix"].shape, tree[0][4]["matrix"].shape, tree[0][8]["matrix"].shape
    ((5, 3), (5, 2), (2, 5))
    """
    host = _host(layer, params, "cuDNN", allow_nan)
    tree: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for place in _places(layer):
        part = {"matrix": host[place.weight][place.rows].copy()}
        if place.bias in host:
            part["bias"] = host[place.bias][place.rows].copy()
        tree.setdefault(place.pseudo_layer, {})[place.lin_layer] = part
    return tree


def load_flat(layer: Any, weights: Any, *, allow_nan: bool = False) -> Converted:
    """The LSTM of jax.experimental.rnn's vector.

    Parameters
    ----------
    layer : LSTM
        What the vector is of, since it does not tell: input_size, hidden_size, num_layers, bidirectional.
    weights : array (n,)
        Of all recurrences weight_ih and weight_hh, then of all bias_ih and bias_hh; `get_num_params_in_lstm` numbers.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError
        For a wrong length or dtype, or a layer of which there is no such vector.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import cudnn
    >>> lstm = pr.LSTM(3, 5, num_layers=2)
    >>> vector = cudnn.dump_flat(lstm, lstm.init(seed=0))
    >>> vector.shape, cudnn.load_flat(lstm, vector).params["weight_ih_l1"].shape
    ((440,), (20, 5))
    """
    _check_flat(layer)
    names, shapes = _flat(layer), layer.shapes()
    sizes = [int(np.prod(shapes[name])) for name in names]
    vector = array(weights, "weights", (sum(sizes),), allow_nan)
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    params = {name: part.reshape(shapes[name]).copy() for name, part in zip(names, parts, strict=True)}
    return Converted(layer, {name: params[name] for name in shapes})


def dump_flat(layer: Any, params: Any, *, allow_nan: bool = False) -> np.ndarray:
    """The vector that jax.experimental.rnn.lstm takes as `weights`; it runs on a GPU, and is batch first.

    Parameters
    ----------
    layer : LSTM
        With biases.
    params : dict of str to array
        Its parameters.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    array (n,)
        Of the parameters' dtype; jax.experimental.rnn wants float32.

    Raises
    ------
    ValueError
        If there is no such vector of the layer.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import cudnn
    >>> lstm = pr.LSTM(3, 5)
    >>> cudnn.dump_flat(lstm, lstm.init(seed=0)).shape
    (200,)
    """
    _check_flat(layer)
    host = _host(layer, params, "jax.experimental.rnn", allow_nan)
    return np.concatenate([host[name].reshape(-1) for name in _flat(layer)])


def _where(pseudo_layer: int, lin_layer: int, what: str) -> str:
    return f"pseudoLayer {pseudo_layer}, linLayerID {lin_layer}, {what}"


def _tree(source: Any) -> list[list[dict[str, Any]]]:
    """The parts, {"matrix": ..., "bias": ...}, by pseudoLayer and linLayerID."""

    def numbered(node: Any, where: str) -> list[Any]:
        inside = children(node)
        if inside is None:
            raise TypeError(f"{where} is {type(node).__name__}; expected a dict by whole numbers")
        exactly(inside, map(str, range(len(inside))), where, "the dict")
        return [inside[str(k)] for k in range(len(inside))]

    tree = []
    for k, ids in enumerate(numbered(source, "source")):
        parts = []
        for n, node in enumerate(numbered(ids, f"pseudoLayer {k}")):
            part = children(node) or {}
            exactly({*part, "bias"}, ("matrix", "bias"), f"pseudoLayer {k}, linLayerID {n}", "the dict")
            parts.append(part)
        tree.append(parts)
    return tree


def _places(layer: Recurrent) -> Iterator[_Place]:
    """All linLayerIDs of all pseudoLayers."""
    gates, H, P = len(OURS[kind_of(layer)]), layer.hidden_size, layer.proj_size
    for k, suffix in enumerate(suffixes(layer)):
        for n in range(2 * gates):
            side, block = "ih" if n < gates else "hh", n % gates
            rows = slice(block * H, (block + 1) * H)
            yield _Place(k, n, f"weight_{side}{suffix}", f"bias_{side}{suffix}", rows)
        if P:
            yield _Place(k, 2 * gates, f"weight_hr{suffix}", "", slice(0, P))


def _host(layer: Any, params: Any, target: str, allow_nan: bool) -> dict[str, np.ndarray]:
    """The parameters, checked, of a layer that cuDNN has."""
    kind_of(layer)
    refuse(layer, target, ("num_layers", "bidirectional", "proj_size", "bias", "nonlinearity"))
    if getattr(layer, "nonlinearity", "tanh") not in ("tanh", "relu"):
        raise ValueError(f"RNN has nonlinearity={layer.nonlinearity!r}; {target} has 'tanh' and 'relu'")
    return {name: array(a, name, a.shape, allow_nan) for name, a in checked(layer, params).items()}


def _check_flat(layer: Any) -> None:
    if kind_of(layer) != "lstm":
        raise ValueError(f"{type(layer).__name__}: jax.experimental.rnn has an LSTM only")
    refuse(layer, "jax.experimental.rnn", ("num_layers", "bidirectional"))


def _flat(layer: LSTM) -> list[str]:
    """The parameters' names in the vector's order."""
    pairs = ("weight_ih", "weight_hh"), ("bias_ih", "bias_hh")
    return [name + suffix for pair in pairs for suffix in suffixes(layer) for name in pair]
