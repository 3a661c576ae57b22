"""The textbook functions: rnn_cell_forward ... lstm_backward, and the same four for the GRU.

Layouts are the textbook's: x (n_x, m, T_x), a (n_a, m, T_x), y (n_y, m, T_x), columns are examples, biases (n, 1),
parameters a dict. They are thin: the parameters are renamed, and `polyrnn.recurrence` does the work.

Source of the names and layouts: A. Ng, Sequence Models, week 1 (DeepLearning.AI).
"""

from __future__ import annotations

from typing import Any

from ._door import check_float
from ._textbook import GRU, LSTM, RNN, cell_backward, cell_forward, sequence_backward, sequence_forward
from .activations import accurate_sigmoid
from .activations import softmax as _softmax
from .backends import backend_of

__all__ = [
    "gru_backward",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_forward",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "softmax",
]


def softmax(z: Any) -> Any:
    """exp(z) / sum(exp(z)) over axis 0.

    Parameters
    ----------
    z : array (n, ...)
        Scores.

    Returns
    -------
    array (n, ...)
        Columns that sum to 1.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> pr.softmax(np.array([[1000.0], [1000.0]])).ravel()
    array([0.5, 0.5])
    """
    xp = backend_of(z, "z").xp
    check_float("z", z)
    if z.ndim < 1 or z.shape[0] < 1:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, ...) with n >= 1: softmax is over axis 0")
    return _softmax(xp, z, axis=0)


def sigmoid(z: Any) -> Any:
    """1 / (1 + exp(-z)), to full relative accuracy for large negative z too.

    Parameters
    ----------
    z : array
        Any shape.

    Returns
    -------
    array
        Of the same shape, between 0 and 1.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> pr.sigmoid(np.array([0.0, -1000.0]))
    array([0.5, 0. ])
    """
    xp = backend_of(z, "z").xp
    check_float("z", z)
    return accurate_sigmoid(xp, z)


def rnn_cell_forward(xt: Any, a_prev: Any, parameters: dict) -> tuple[Any, Any, tuple]:
    """One step of the simple RNN: a_next = tanh(Wax xt + Waa a_prev + ba), yt_pred = softmax(Wya a_next + by).

    Parameters
    ----------
    xt : array (n_x, m)
        The input at this step.
    a_prev : array (n_a, m)
        The previous hidden state.
    parameters : dict
        Wax (n_a, n_x), Waa (n_a, n_a), Wya (n_y, n_a), ba (n_a, 1), by (n_y, 1).

    Returns
    -------
    a_next : array (n_a, m)
    yt_pred : array (n_y, m)
    cache : tuple
        (a_next, a_prev, xt, parameters), for `rnn_cell_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.
    """
    return cell_forward(RNN, xt, {"a_prev": a_prev}, parameters)


def rnn_forward(x: Any, a0: Any, parameters: dict) -> tuple[Any, Any, tuple]:
    """The simple RNN over a sequence.

    Parameters
    ----------
    x : array (n_x, m, T_x)
        The inputs.
    a0 : array (n_a, m)
        The initial hidden state.
    parameters : dict
        As for `rnn_cell_forward`.

    Returns
    -------
    a : array (n_a, m, T_x)
    y_pred : array (n_y, m, T_x)
    caches : tuple
        (list of the steps' caches, x), for `rnn_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rng = np.random.default_rng(0)
    >>> shapes = {"Wax": (5, 3), "Waa": (5, 5), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
    >>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    >>> a, y_pred, caches = pr.rnn_forward(rng.standard_normal((3, 10, 4)), np.zeros((5, 10)), parameters)
    >>> a.shape, y_pred.shape, len(caches[0])
    ((5, 10, 4), (2, 10, 4), 4)
    >>> sorted(pr.rnn_backward(np.ones_like(a), caches))
    ['dWaa', 'dWax', 'da0', 'dba', 'dx']
    """
    return sequence_forward(RNN, x, {"a0": a0}, parameters)


def rnn_cell_backward(da_next: Any, cache: tuple, *, dy: Any = None, dz: Any = None) -> dict[str, Any]:
    """Back through one step of the simple RNN.

    Parameters
    ----------
    da_next : array (n_a, m) or None
        The gradient of a_next; None means zero.
    cache : tuple
        From `rnn_cell_forward`.
    dy, dz : array (n_y, m), optional
        The gradient of the prediction yt_pred, or of the scores before its softmax (for softmax and cross-entropy
        together, dz = yt_pred - yt). With one of them dWya and dby come out too.

    Returns
    -------
    dict
        dxt (n_x, m), da_prev (n_a, m), dWax, dWaa, dba.
    """
    grads, dx, (da,) = cell_backward(RNN, {"da_next": da_next}, cache, dy, dz)
    return {"dxt": dx, "da_prev": da} | grads


def rnn_backward(da: Any, caches: tuple, *, dy: Any = None, dz: Any = None) -> dict[str, Any]:
    """Back through time for the simple RNN.

    Parameters
    ----------
    da : array (n_a, m, T_x) or None
        The gradient of every hidden state, from above; T_x may be less than that of x. None means zero.
    caches : tuple
        From `rnn_forward`.
    dy, dz : array (n_y, m, T_x), optional
        The gradients of the predictions y_pred, or of the scores before their softmax. With one of them dWya and dby
        come out too.

    Returns
    -------
    dict
        dx (n_x, m, T_x), da0 (n_a, m), dWax (n_a, n_x), dWaa (n_a, n_a), dba (n_a, 1).
    """
    grads, dx, (da0,) = sequence_backward(RNN, {"da": da}, caches, dy, dz)
    return {"dx": dx, "da0": da0} | grads


def lstm_cell_forward(xt: Any, a_prev: Any, c_prev: Any, parameters: dict) -> tuple[Any, Any, Any, tuple]:
    """One step of the LSTM.

    ft, it, ot = sigmoid(W [a_prev; xt] + b) with Wf, Wi, Wo; cct = tanh(Wc [a_prev; xt] + bc);
    c_next = ft * c_prev + it * cct; a_next = ot * tanh(c_next); yt_pred = softmax(Wy a_next + by).

    Parameters
    ----------
    xt : array (n_x, m)
        The input at this step.
    a_prev, c_prev : array (n_a, m)
        The previous hidden and cell state.
    parameters : dict
        Wf, Wi, Wc, Wo (n_a, n_a + n_x), bf, bi, bc, bo (n_a, 1), Wy (n_y, n_a), by (n_y, 1).

    Returns
    -------
    a_next, c_next : array (n_a, m)
    yt_pred : array (n_y, m)
    cache : tuple
        (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters), for `lstm_cell_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.
    """
    return cell_forward(LSTM, xt, {"a_prev": a_prev, "c_prev": c_prev}, parameters)


def lstm_forward(x: Any, a0: Any, parameters: dict, *, c0: Any = None) -> tuple[Any, Any, Any, tuple]:
    """The LSTM over a sequence.

    Parameters
    ----------
    x : array (n_x, m, T_x)
        The inputs.
    a0 : array (n_a, m)
        The initial hidden state.
    parameters : dict
        As for `lstm_cell_forward`.
    c0 : array (n_a, m), optional
        The initial cell state; zeros by default, as in the textbook.

    Returns
    -------
    a : array (n_a, m, T_x)
    y : array (n_y, m, T_x)
    c : array (n_a, m, T_x)
    caches : tuple
        (list of the steps' caches, x), for `lstm_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rng = np.random.default_rng(0)
    >>> shapes = {f"W{gate}": (5, 8) for gate in "fico"} | {f"b{gate}": (5, 1) for gate in "fico"}
    >>> shapes |= {"Wy": (2, 5), "by": (2, 1)}
    >>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    >>> a, y, c, caches = pr.lstm_forward(rng.standard_normal((3, 10, 7)), np.zeros((5, 10)), parameters)
    >>> grads = pr.lstm_backward(np.ones_like(a), caches)
    >>> grads["dx"].shape, grads["dWf"].shape
    ((3, 10, 7), (5, 8))
    """
    c0 = backend_of(a0, "a0").xp.zeros_like(a0) if c0 is None else c0
    a, c, y, caches = sequence_forward(LSTM, x, {"a0": a0, "c0": c0}, parameters)
    return a, y, c, caches


def lstm_cell_backward(da_next: Any, dc_next: Any, cache: tuple, *, dy: Any = None, dz: Any = None) -> dict[str, Any]:
    """Back through one step of the LSTM.

    Parameters
    ----------
    da_next, dc_next : array (n_a, m) or None
        The gradients of a_next and c_next; None means zero.
    cache : tuple
        From `lstm_cell_forward`.
    dy, dz : array (n_y, m), optional
        The gradient of the prediction yt_pred, or of the scores before its softmax. With one of them dWy and dby come
        out too.

    Returns
    -------
    dict
        dxt (n_x, m), da_prev, dc_prev (n_a, m), dWf, dbf, dWi, dbi, dWc, dbc, dWo, dbo.
    """
    grads, dx, (da, dc) = cell_backward(LSTM, {"da_next": da_next, "dc_next": dc_next}, cache, dy, dz)
    return {"dxt": dx, "da_prev": da, "dc_prev": dc} | grads


def lstm_backward(
    da: Any, caches: tuple, *, dc: Any = None, dy: Any = None, dz: Any = None, with_dc0: bool = False
) -> dict[str, Any]:
    """Back through time for the LSTM; both the hidden and the cell gradient go from step to step.

    Parameters
    ----------
    da : array (n_a, m, T_x) or None
        The gradient of every hidden state, from above; T_x may be less than that of x. None means zero.
    caches : tuple
        From `lstm_forward`.
    dc : array (n_a, m, T_x), optional
        The gradient of every cell state, from above.
    dy, dz : array (n_y, m, T_x), optional
        The gradients of the predictions y, or of the scores before their softmax. With one of them dWy and dby come
        out too.
    with_dc0 : bool
        Whether the gradient of c0 comes out too.

    Returns
    -------
    dict
        dx (n_x, m, T_x), da0 (n_a, m), dWf, dbf, dWi, dbi, dWc, dbc, dWo, dbo.
    """
    grads, dx, (da0, dc0) = sequence_backward(LSTM, {"da": da, "dc": dc}, caches, dy, dz)
    return {"dx": dx, "da0": da0} | ({"dc0": dc0} if with_dc0 else {}) | grads


def gru_cell_forward(xt: Any, a_prev: Any, parameters: dict) -> tuple[Any, Any, tuple]:
    """One step of the GRU, in the textbook's form (the update gate admits the new, the reset gate acts before).

    ut, rt = sigmoid(W [a_prev; xt] + b) with Wu, Wr; cct = tanh(Wc [rt * a_prev; xt] + bc);
    a_next = ut * cct + (1 - ut) * a_prev; yt_pred = softmax(Wy a_next + by).

    Parameters
    ----------
    xt : array (n_x, m)
        The input at this step.
    a_prev : array (n_a, m)
        The previous hidden state.
    parameters : dict
        Wu, Wr, Wc (n_a, n_a + n_x), bu, br, bc (n_a, 1), Wy (n_y, n_a), by (n_y, 1).

    Returns
    -------
    a_next : array (n_a, m)
    yt_pred : array (n_y, m)
    cache : tuple
        (a_next, a_prev, ut, rt, cct, xt, parameters), for `gru_cell_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.
    """
    return cell_forward(GRU, xt, {"a_prev": a_prev}, parameters)


def gru_forward(x: Any, a0: Any, parameters: dict) -> tuple[Any, Any, tuple]:
    """The GRU over a sequence.

    Parameters
    ----------
    x : array (n_x, m, T_x)
        The inputs.
    a0 : array (n_a, m)
        The initial hidden state.
    parameters : dict
        As for `gru_cell_forward`.

    Returns
    -------
    a : array (n_a, m, T_x)
    y : array (n_y, m, T_x)
    caches : tuple
        (list of the steps' caches, x), for `gru_backward`.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or a missing parameter; for mixed backends or dtypes.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rng = np.random.default_rng(0)
    >>> shapes = {f"W{gate}": (5, 8) for gate in "urc"} | {f"b{gate}": (5, 1) for gate in "urc"}
    >>> shapes |= {"Wy": (2, 5), "by": (2, 1)}
    >>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    >>> a, y, caches = pr.gru_forward(rng.standard_normal((3, 10, 7)), np.zeros((5, 10)), parameters)
    >>> grads = pr.gru_backward(np.ones_like(a), caches)
    >>> grads["dx"].shape, grads["dWu"].shape
    ((3, 10, 7), (5, 8))
    """
    return sequence_forward(GRU, x, {"a0": a0}, parameters)


def gru_cell_backward(da_next: Any, cache: tuple, *, dy: Any = None, dz: Any = None) -> dict[str, Any]:
    """Back through one step of the GRU.

    Parameters
    ----------
    da_next : array (n_a, m) or None
        The gradient of a_next; None means zero.
    cache : tuple
        From `gru_cell_forward`.
    dy, dz : array (n_y, m), optional
        The gradient of the prediction yt_pred, or of the scores before its softmax. With one of them dWy and dby come
        out too.

    Returns
    -------
    dict
        dxt (n_x, m), da_prev (n_a, m), dWu, dbu, dWr, dbr, dWc, dbc.
    """
    grads, dx, (da,) = cell_backward(GRU, {"da_next": da_next}, cache, dy, dz)
    return {"dxt": dx, "da_prev": da} | grads


def gru_backward(da: Any, caches: tuple, *, dy: Any = None, dz: Any = None) -> dict[str, Any]:
    """Back through time for the GRU.

    Parameters
    ----------
    da : array (n_a, m, T_x) or None
        The gradient of every hidden state, from above; T_x may be less than that of x. None means zero.
    caches : tuple
        From `gru_forward`.
    dy, dz : array (n_y, m, T_x), optional
        The gradients of the predictions y, or of the scores before their softmax. With one of them dWy and dby come
        out too.

    Returns
    -------
    dict
        dx (n_x, m, T_x), da0 (n_a, m), dWu, dbu, dWr, dbr, dWc, dbc.
    """
    grads, dx, (da0,) = sequence_backward(GRU, {"da": da}, caches, dy, dz)
    return {"dx": dx, "da0": da0} | grads
