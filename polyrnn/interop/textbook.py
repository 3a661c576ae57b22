"""The textbook's dicts of parameters (DeepLearning.AI, Sequence Models, week 1), which `polyrnn.functional` takes.

    RNN    Wax (n_a, n_x), Waa (n_a, n_a), ba (n_a, 1)
    LSTM   Wf, Wi, Wc, Wo (n_a, n_a + n_x) on [a_prev; x_t], bf, bi, bc, bo (n_a, 1)
    GRU    Wu, Wr, Wc (n_a, n_a + n_x), bu, br, bc (n_a, 1); the reset gate acts before the product

The textbook's update gate u admits the new, where polyrnn's z keeps the past: u = 1 - z, so Wu and bu change sign. The
one bias becomes bias_ih, and bias_hh is zero; on the way out the two are added. Wya or Wy, and by, of the prediction
are no part of a recurrent layer: they are left out on the way in, and on the way out yours to add.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _textbook
from ._converted import Converted, kind_of, only, refuse
from ._tree import array, at, children, each, exactly, holding, join, one, one_dtype

__all__ = ["dump", "find", "join", "load"]

_FORMS: dict[str, _textbook.Textbook] = {form.name: form for form in (_textbook.RNN, _textbook.LSTM, _textbook.GRU)}


def find(source: Any, *, allow_nan: bool = False) -> dict[str, Converted]:
    """All recurrent layers of a dict of parameters, or of nested dicts.

    Parameters
    ----------
    source : dict
        It tells its kind by the names that it holds.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict of str to Converted
        By the path of the dict that holds the parameters; "" if it is the source. A GRU has reset_after=False.

    Raises
    ------
    ValueError
        If parameters are missing, or there are others; for a wrong shape or dtype.
    TypeError
        If the source is no dict.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import textbook
    >>> parameters = {f"W{gate}": np.ones((5, 8)) for gate in "fico"} | {f"b{gate}": np.ones((5, 1)) for gate in "fico"}
    >>> textbook.find({"encoder": parameters})["encoder"].layer == pr.LSTM(3, 5)
    True
    """
    return {name: _read(*found, allow_nan) for name, found in holding(source, _is_layer).items()}


def load(source: Any, name: str | None = None, *, allow_nan: bool = False) -> Converted:
    """One recurrent layer of a dict of parameters, or of nested dicts.

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
    >>> import numpy as np
    >>> from polyrnn.interop import textbook
    >>> layer, params = textbook.load({"Wax": np.ones((5, 3)), "Waa": np.ones((5, 5)), "ba": np.ones((5, 1))})
    >>> params["bias_ih_l0"].shape
    (5,)
    """
    return _read(*only(holding(source, _is_layer), name, "the dict"), allow_nan)


def dump(layer: Any, params: Any, *, allow_nan: bool = False) -> dict[str, Any]:
    """The textbook's dict of the layer's parameters.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        A GRU of reset_after=False.
    params : dict of str to array
        Its parameters.
    allow_nan : bool
        Whether weights may be NaN or infinite.

    Returns
    -------
    dict
        NumPy arrays; `polyrnn.functional` wants those of a prediction too, Wya (of an RNN) or Wy, and by. A layer of
        more than one recurrence gives a dict of such dicts: "l0", "l1" and so on, each followed by its other direction,
        "l0_reverse", if it is bidirectional.

    Raises
    ------
    ValueError
        If they cannot represent the layer.
    TypeError
        If it is no layer of polyrnn's.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.interop import textbook
    >>> gru = pr.GRU(3, 5, reset_after=False)
    >>> parameters = textbook.dump(gru, gru.init(seed=0, dtype="float64"))
    >>> sorted(parameters)
    ['Wc', 'Wr', 'Wu', 'bc', 'br', 'bu']
    >>> parameters |= {"Wy": np.zeros((2, 5)), "by": np.zeros((2, 1))}
    >>> a, y, caches = pr.gru_forward(np.ones((3, 10, 7)), np.zeros((5, 10)), parameters)
    """
    kind = kind_of(layer)
    refuse(layer, f"the textbook's {type(layer).__name__}", ("num_layers", "bidirectional", "bias", "reset_after"))
    if getattr(layer, "reset_after", False):
        raise ValueError("GRU has reset_after=True, and the textbook's resets before the product; expected False")

    def write(own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        core = {**own, "bias_ih": own["bias_ih"] + own["bias_hh"]}
        # What `from_core` does to gradients it does to parameters: it is linear, and a sign is its own inverse.
        return {name[1:]: np.ascontiguousarray(a) for name, a in _FORMS[kind].from_core(np, core).items()}

    trees: dict[str, Any] = each(layer, params, write, allow_nan)
    return trees


def _kinds(node: Any) -> list[str]:
    """The kinds of which a node holds more than half of the recurrent parameters, the best first."""
    names = (children(node) or {}).keys()
    shared = {kind: len(names & own) / len(own) for kind, own in ((k, _own(f)) for k, f in _FORMS.items())}
    return sorted((kind for kind, part in shared.items() if part > 0.5), key=lambda kind: -shared[kind])


def _own(form: _textbook.Textbook) -> set[str]:
    """The names of the recurrent parameters."""
    return set(form.names) - set(form.prediction)


def _is_layer(node: Any) -> bool:
    return bool(_kinds(node))


def _read(path: str, node: Any, allow_nan: bool) -> Converted:
    """The layer at a node, checked."""
    found, kind = children(node) or {}, _kinds(node)[0]
    form = _FORMS[kind]
    own = {name: value for name, value in found.items() if name not in form.prediction}
    exactly(own, _own(form), path, f"the parameters of a layer ({kind})")
    first = "Wax" if kind == "rnn" else form.weights[0][0]
    n_a, columns = array(own[first], at(path, first), (None, None), allow_nan).shape
    n_x = columns if kind == "rnn" else columns - n_a
    if n_x < 1:
        raise ValueError(f"{at(path, first)} has shape {(n_a, columns)}; expected (n_a, n_a + n_x)")
    shapes = form.shapes({}, n_x, n_a)
    theirs = {name: array(a, at(path, name), shapes[name], allow_nan) for name, a in own.items()}
    one_dtype(path, theirs)
    return one(path, kind, form.to_core(np, theirs), **({"reset_after": False} if kind == "gru" else {}))
