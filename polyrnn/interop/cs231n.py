"""The parameters of CS231n's recurrent networks (Stanford, assignment 2, `rnn_layers.py`): Wx, Wh and b.

    RNN    h' = tanh(x Wx + h Wh + b)                Wx (D, H), Wh (H, H), b (H,)
    LSTM   a = x Wx + h Wh + b, blocks i f o g       Wx (D, 4H), Wh (H, 4H), b (4H,)

The one bias becomes bias_ih, and bias_hh is zero; on the way out the two are added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._converted import OURS, Converted, kind_of, only, refuse, reorder
from ._tree import array, at, children, each, holding, join, one

__all__ = ["dump", "find", "join", "load"]

_THEIRS = {"rnn": "h", "lstm": "ifog"}


def find(source: Any, *, allow_nan: bool = False) -> dict[str, Converted]:
    """All recurrent layers of a dict, or of nested dicts.

    Parameters
    ----------
    source : dict
        Such as the `params` of a CaptioningRNN; what stands there beside Wx, Wh and b (W_embed, W_vocab...) is no part
        of the recurrent layer and left out.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        By the path of the dict that holds the three; "" if it is the source. An RNN or an LSTM by the number of blocks.

    Raises
    ------
    ValueError
        If there is no b, for a wrong shape or dtype, and for an LSTM with attention (Wattn).
    TypeError
        If the source is no dict.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.interop import cs231n
    >>> cs231n.find({"Wx": np.ones((3, 20)), "Wh": np.ones((5, 20)), "b": np.ones(20)})[""].layer.hidden_size
    5
    """
    return {name: _read(*found, allow_nan) for name, found in holding(source, _is_layer).items()}


def load(source: Any, name: str | None = None, *, allow_nan: bool = False) -> Converted:
    """One recurrent layer of a dict, or of nested dicts.

    Parameters
    ----------
    source, allow_nan
        As for `find`.
    name : str, optional
        The path of its dict; not needed if there is but one.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError, TypeError
        As `find` does, and if there is no such layer.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import cs231n
    >>> layer, params = cs231n.load({"Wx": np.ones((3, 5)), "Wh": np.ones((5, 5)), "b": np.ones(5)})
    >>> layer == pr.RNN(3, 5)
    True
    """
    return _read(*only(holding(source, _is_layer), name, "the dict"), allow_nan)


def dump(layer: Any, params: Any, *, allow_nan: bool = False) -> dict[str, Any]:
    """The dict of Wx, Wh and b.

    Parameters
    ----------
    layer : RNN or LSTM
    params : dict of str to array
        Its parameters.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict
        NumPy arrays Wx, Wh and b. A layer of more than one recurrence gives a dict of such dicts: "l0", "l1" and so on,
        each followed by its other direction, "l0_reverse", if it is bidirectional.

    Raises
    ------
    ValueError
        If they cannot represent the layer.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import cs231n
    >>> lstm = pr.LSTM(3, 5)
    >>> {name: array.shape for name, array in cs231n.dump(lstm, lstm.init(seed=0)).items()}
    {'Wx': (3, 20), 'Wh': (5, 20), 'b': (20,)}
    """
    kind = kind_of(layer)
    if kind not in _THEIRS:
        raise ValueError("GRU: CS231n has none; expected an RNN or an LSTM")
    refuse(layer, f"CS231n's {type(layer).__name__}", ("num_layers", "bidirectional", "bias"))

    def write(own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        theirs = {"Wx": own["weight_ih"], "Wh": own["weight_hh"], "b": own["bias_ih"] + own["bias_hh"]}
        return {name: np.ascontiguousarray(reorder(a, OURS[kind], _THEIRS[kind]).T) for name, a in theirs.items()}

    trees: dict[str, Any] = each(layer, params, write, allow_nan)
    return trees


def _is_layer(node: Any) -> bool:
    return {"Wx", "Wh"} <= (children(node) or {}).keys()


def _read(path: str, node: Any, allow_nan: bool) -> Converted:
    """The layer at a node, checked."""
    found = children(node) or {}
    if "Wattn" in found:
        raise ValueError(f"{at(path, 'Wattn')}: an LSTM with attention, which polyrnn's cannot represent")
    if "b" not in found:
        raise ValueError(f"{path or 'the dict'}: a recurrent layer lacks b; expected Wx, Wh, b")
    H, columns = array(found["Wh"], at(path, "Wh"), (None, None), allow_nan).shape
    kind = next((kind for kind, order in _THEIRS.items() if columns == len(order) * H), None)
    if kind is None:
        raise ValueError(f"{at(path, 'Wh')} has shape {(H, columns)}; expected (H, H), an RNN's, or (H, 4H), an LSTM's")
    shapes = {"Wx": (None, columns), "Wh": (H, columns), "b": (columns,)}
    theirs = [array(found[name], at(path, name), shape, allow_nan).T for name, shape in shapes.items()]
    ours = [reorder(a, _THEIRS[kind], OURS[kind]) for a in theirs]
    return one(path, kind, dict(zip(("weight_ih", "weight_hh", "bias_ih"), ours, strict=True)))
