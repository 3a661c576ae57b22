"""Equinox' LSTMCell and GRUCell: trees of weight_ih, weight_hh, bias and, of a GRU, bias_n, or the live modules.

Gate blocks stand in polyrnn's order, i f g o and r z n, and weights are (gates, inputs), as polyrnn's. The one bias,
(4H,) or (3H,), becomes bias_ih, and a GRU's bias_n (H,) the last block of bias_hh, of which the others are zero; on the
way out the two are added. Cells are unbatched, for `jax.lax.scan` and `jax.vmap`; an LSTM's state is (h, c), as
polyrnn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._converted import OURS, Converted, kind_of, only, refuse
from ._tree import array, at, children, each, exactly, holding, join, one

__all__ = ["dump", "find", "join", "load"]


def find(source: Any, *, allow_nan: bool = False) -> dict[str, Converted]:
    """All recurrent cells of a tree or a live module.

    Parameters
    ----------
    source : nested dict or Equinox module
        What holds weight_ih and weight_hh is a cell; it is a GRU's or an LSTM's by the number of gate blocks.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        By the cells' paths, such as "encoder.layers.0"; "" if the source is one. Each is a layer of one recurrence;
        `join` puts several together. With use_bias=False it has bias=False.

    Raises
    ------
    ValueError
        If a cell lacks arrays, has others beside, or such of other shapes or dtypes.
    TypeError
        If the source is no tree.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.interop import equinox
    >>> cell = {"weight_ih": np.ones((20, 3)), "weight_hh": np.ones((20, 5)), "bias": np.ones(20)}
    >>> equinox.find({"encoder": cell})["encoder"].layer.input_size
    3
    """
    return {name: _read(*found, allow_nan) for name, found in holding(source, _is_cell).items()}


def load(source: Any, name: str | None = None, *, allow_nan: bool = False) -> Converted:
    """One recurrent cell of a tree or a live module.

    Parameters
    ----------
    source, allow_nan
        As for `find`.
    name : str, optional
        The cell's path; not needed if there is but one.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError, TypeError
        As `find` does, and if there is no such cell.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import equinox
    >>> gru = pr.GRU(3, 5)
    >>> layer, params = equinox.load(equinox.dump(gru, gru.init(seed=0)))
    >>> y, h = layer(params, np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape
    (7, 2, 5)
    """
    return _read(*only(holding(source, _is_cell), name, "the tree"), allow_nan)


def dump(layer: Any, params: Any, *, allow_nan: bool = False) -> dict[str, Any]:
    """The arrays of Equinox' cell of the layer's kind, by the cell's fields, for `eqx.tree_at`.

    Parameters
    ----------
    layer : LSTM or GRU
    params : dict of str to array
        Its parameters.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict
        NumPy arrays weight_ih, weight_hh, bias and of a GRU bias_n; without `bias` the first two, for a cell with
        use_bias=False. A layer of more than one recurrence gives a dict of such dicts, for as many cells: "l0", "l1"
        and so on, each followed by its other direction, "l0_reverse", if it is bidirectional.

    Raises
    ------
    ValueError
        If Equinox' cell cannot represent the layer.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import equinox
    >>> gru = pr.GRU(3, 5)
    >>> {name: array.shape for name, array in equinox.dump(gru, gru.init(seed=0)).items()}
    {'weight_ih': (15, 3), 'weight_hh': (15, 5), 'bias': (15,), 'bias_n': (5,)}
    """
    kind, H = kind_of(layer), getattr(layer, "hidden_size", 0)
    if kind == "rnn":
        raise ValueError("RNN: Equinox has no simple recurrent cell; expected an LSTM or a GRU")
    refuse(layer, f"Equinox' {type(layer).__name__}Cell", ("num_layers", "bidirectional", "bias"))

    def write(own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tree = {"weight_ih": own["weight_ih"], "weight_hh": own["weight_hh"]}
        if layer.bias:
            tree["bias"] = own["bias_ih"] + own["bias_hh"]
            if kind == "gru":
                tree["bias"][2 * H :] = own["bias_ih"][2 * H :]
                tree["bias_n"] = own["bias_hh"][2 * H :].copy()
        return tree

    trees: dict[str, Any] = each(layer, params, write, allow_nan)
    return trees


def _is_cell(node: Any) -> bool:
    return {"weight_ih", "weight_hh"} <= (children(node) or {}).keys()


def _read(path: str, node: Any, allow_nan: bool) -> Converted:
    """The cell at a node, checked."""
    found = children(node) or {}
    rows, H = array(found["weight_hh"], at(path, "weight_hh"), (None, None), allow_nan).shape
    kind = next((kind for kind in ("lstm", "gru") if rows == len(OURS[kind]) * H), None)
    if kind is None:
        raise ValueError(
            f"{at(path, 'weight_hh')} has shape {(rows, H)}; expected (4H, H), an LSTMCell's, or (3H, H), a GRUCell's"
        )
    shapes: dict[str, tuple[int | None, ...]] = {"weight_ih": (rows, None), "weight_hh": (rows, H)}
    if "bias" in found or "bias_n" in found:
        shapes |= {"bias": (rows,), "bias_n": (H,)} if kind == "gru" else {"bias": (rows,)}
    exactly(found, shapes, path, f"a cell ({kind})")
    arrays = {name: array(found[name], at(path, name), shape, allow_nan) for name, shape in shapes.items()}
    if "bias" in arrays:
        arrays["bias_ih"] = arrays.pop("bias")
    if "bias_n" in arrays:
        inner = arrays.pop("bias_n")
        arrays["bias_hh"] = np.concatenate([np.zeros(2 * H, inner.dtype), inner])
    return one(path, kind, arrays)
