"""The textbook functions: rnn_cell_forward ... lstm_backward, and the same four for the GRU.

Layouts are the textbook's: x (n_x, m, T_x), a (n_a, m, T_x), y (n_y, m, T_x), columns are examples, biases (n, 1),
parameters a dict. They are thin: the parameters are renamed, and `polyrnn.recurrence` does the work.

Source of the names and layouts: A. Ng, Sequence Models, week 1 (DeepLearning.AI).
"""

from __future__ import annotations

from typing import Any

from . import recurrence
from ._door import check_array, check_float
from .activations import accurate_sigmoid
from .activations import softmax as _softmax
from .activations import softmax_backward as _softmax_backward
from .backends import Backend, backend_of
from .cells import Cell, GRUResetBeforeCell, LSTMCell, RNNCell, gru, lstm, rnn

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


class _Textbook:
    """How one kind of textbook function maps onto a cell of the core, and back.

    `weights` names, for each gate block of the core, the textbook's matrix on [a_prev; xt] and its bias; the RNN, whose
    two matrices are apart, overrides `to_core` and `from_core`.
    """

    name: str
    cell: Cell
    weights: tuple[tuple[str, str], ...]
    prediction = ("Wy", "by")

    def shapes(self, parameters: Any, n_x: int, n_a: int) -> dict[str, tuple[int | None, int]]:
        shapes: dict[str, tuple[int | None, int]] = {}
        for W, b in self.weights:
            shapes |= {W: (n_a, n_a + n_x), b: (n_a, 1)}
        n_y = parameters["Wy"].shape[0] if "Wy" in parameters and parameters["Wy"].ndim == 2 else None
        return shapes | {"Wy": (n_y, n_a), "by": (n_y, 1)}

    def to_core(self, xp: Any, parameters: dict) -> dict:
        both = xp.concat([parameters[W] for W, _ in self.weights], axis=0)
        n_a = parameters[self.weights[0][0]].shape[0]
        bias = xp.concat([parameters[b] for _, b in self.weights], axis=0)[:, 0]
        core = {"weight_ih": both[:, n_a:], "weight_hh": both[:, :n_a]}
        return core | {"bias_ih": bias, "bias_hh": xp.zeros_like(bias)}

    def from_core(self, xp: Any, grads: dict) -> dict:
        both = xp.concat((grads["weight_hh"], grads["weight_ih"]), axis=1)
        n_a, result = both.shape[0] // len(self.weights), {}
        for k, (W, b) in enumerate(self.weights):
            rows = slice(k * n_a, (k + 1) * n_a)
            result |= {f"d{W}": both[rows, :], f"d{b}": grads["bias_ih"][rows, None]}
        return result

    def cache(self, state: tuple, residual: Any) -> tuple:
        """A step's cache, without xt and parameters."""
        raise NotImplementedError

    def residual(self, xp: Any, cache: tuple) -> Any:
        """The core's residual, from a step's cache or from stacked ones."""
        raise NotImplementedError


class _RNN(_Textbook):
    name = "rnn"
    cell = RNNCell("tanh")
    prediction = ("Wya", "by")

    def shapes(self, parameters: Any, n_x: int, n_a: int) -> dict[str, tuple[int | None, int]]:
        n_y = parameters["Wya"].shape[0] if "Wya" in parameters and parameters["Wya"].ndim == 2 else None
        return {"Wax": (n_a, n_x), "Waa": (n_a, n_a), "ba": (n_a, 1), "Wya": (n_y, n_a), "by": (n_y, 1)}

    def to_core(self, xp: Any, parameters: dict) -> dict:
        bias = parameters["ba"][:, 0]
        core = {"weight_ih": parameters["Wax"], "weight_hh": parameters["Waa"]}
        return core | {"bias_ih": bias, "bias_hh": xp.zeros_like(bias)}

    def from_core(self, xp: Any, grads: dict) -> dict:
        return {"dWax": grads["weight_ih"], "dWaa": grads["weight_hh"], "dba": grads["bias_ih"][:, None]}

    def cache(self, state: tuple, residual: Any) -> tuple:
        return (residual.h, residual.h_prev)

    def residual(self, xp: Any, cache: tuple) -> Any:
        a_next, a_prev = cache[:2]
        return rnn.Residual(a_prev, a_next)


class _LSTM(_Textbook):
    name = "lstm"
    cell = LSTMCell()
    weights = (("Wi", "bi"), ("Wf", "bf"), ("Wc", "bc"), ("Wo", "bo"))

    def cache(self, state: tuple, residual: Any) -> tuple:
        r = residual
        return (*state, r.h_prev, r.c_prev, r.f, r.i, r.g, r.o)

    def residual(self, xp: Any, cache: tuple) -> Any:
        _, c_next, a_prev, c_prev, ft, it, cct, ot = cache[:8]
        return lstm.Residual(a_prev, c_prev, i=it, f=ft, g=cct, o=ot, tanh_c=xp.tanh(c_next))


class _GRU(_Textbook):
    """The textbook's update gate u is 1 - z: its weights change sign on the way to the core and back."""

    name = "gru"
    cell = GRUResetBeforeCell()
    weights = (("Wr", "br"), ("Wu", "bu"), ("Wc", "bc"))

    def to_core(self, xp: Any, parameters: dict) -> dict:
        return super().to_core(xp, parameters | {"Wu": -parameters["Wu"], "bu": -parameters["bu"]})

    def from_core(self, xp: Any, grads: dict) -> dict:
        result = super().from_core(xp, grads)
        return result | {"dWu": -result["dWu"], "dbu": -result["dbu"]}

    def cache(self, state: tuple, residual: Any) -> tuple:
        r = residual
        return (*state, r.h_prev, 1 - r.z, r.r, r.n)

    def residual(self, xp: Any, cache: tuple) -> Any:
        _, a_prev, ut, rt, cct = cache[:5]
        return gru.Residual(a_prev, r=rt, z=1 - ut, n=cct, operand=rt * a_prev)


RNN, LSTM, GRU = _RNN(), _LSTM(), _GRU()


# ---- behind the doors: pure, compiled once a kind on JAX. Core arrays: x (T, n_x, m), states (n_a, m) -------------


def _predict(xp: Any, kind: _Textbook, parameters: dict, a: Any) -> Any:
    """Y = softmax(Wy a + by) for a (..., n_a, m)."""
    W, b = kind.prediction
    return _softmax(xp, parameters[W] @ a + parameters[b], axis=-2)


def _run(static: tuple[_Textbook, Backend], parameters: dict, x: Any, state: tuple) -> tuple:
    """All steps -> the states, the predictions and what the caches hold, stacked over time in front."""
    kind, backend = static
    xp = backend.xp
    core = kind.to_core(xp, parameters)
    a, end, tape = recurrence.forward(backend, kind.cell, core, x, state)
    residual = backend.join(tape.residuals)
    states: tuple = (a,)
    if len(state) > 1:  # c_t is the c_prev of step t + 1
        states = (a, xp.concat((residual.c_prev[1:, ...], end[1][None, ...]), axis=0)[: x.shape[0], ...])
    return states, _predict(xp, kind, parameters, a), kind.cache(states, residual)


def _back(
    static: tuple[_Textbook, Backend], parameters: dict, x: Any, cache: tuple, above: tuple, dy: Any, dz: Any
) -> tuple[dict, Any, tuple]:
    """Back through all steps -> the parameters' gradients, those of x and of the initial state."""
    kind, backend = static
    xp = backend.xp
    core, residual = kind.to_core(xp, parameters), kind.residual(xp, cache)
    extra: dict[str, Any] = {}
    if dy is not None or dz is not None:
        W, b = kind.prediction
        a = cache[0]
        if dy is not None:
            through = _softmax_backward(xp, _predict(xp, kind, parameters, a), dy, axis=-2)
            dz = through if dz is None else dz + through
        extra = {f"d{W}": xp.tensordot(dz, a, axes=((0, 2), (0, 2))), f"d{b}": xp.sum(dz, axis=(0, 2))[:, None]}
        da = parameters[W].mT @ dz
        above = (da if above[0] is None else above[0] + da, *above[1:])
    tape = recurrence.Tape(x, None, backend.split(residual, recurrence.steps_per_block(x.shape[2])))
    end = tuple(xp.zeros_like(residual.h_prev[0, ...]) for _ in kind.cell.states)
    grads, dx, start = recurrence.backward(backend, kind.cell, core, tape, above, end)
    return kind.from_core(xp, grads) | extra, dx, start


# ---- the doors --------------------------------------------------------------------------------------------------


def _enter(kind: _Textbook, x: Any, states: dict[str, Any], parameters: Any, sequence: bool) -> Backend:
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters is a {type(parameters).__name__}; expected a dict")
    name = "x" if sequence else "xt"
    first = next(iter(states))
    backend = backend_of((parameters, x, states), "the arguments")
    rank = 3 if sequence else 2
    letters = "(n_x, m, T_x)" if sequence else "(n_x, m)"
    if x.ndim != rank:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {letters}")
    if states[first].ndim != 2:
        raise ValueError(f"{first} has shape {tuple(states[first].shape)}; expected (n_a, m)")
    dtype = check_float(name, x)
    n_a = states[first].shape[0]
    for state, value in states.items():
        check_array(state, value, (n_a, x.shape[1]), dtype, "(n_a, m)")
    shapes = kind.shapes(parameters, x.shape[0], n_a)
    missing = sorted(shapes.keys() - parameters.keys())
    if missing:
        raise ValueError(f"parameters lacks {', '.join(missing)}; {kind.name} expects {', '.join(shapes)}")
    for key, shape in shapes.items():
        check_array(f"parameters[{key!r}]", parameters[key], shape, dtype)
    return backend


def _sequence_forward(kind: _Textbook, x: Any, states: dict[str, Any], parameters: dict) -> tuple:
    backend = _enter(kind, x, states, parameters, sequence=True)
    xp = backend.xp
    known = {name: parameters[name] for name in kind.shapes(parameters, x.shape[0], 0)}  # others may be no arrays
    inputs = xp.permute_dims(x, (2, 0, 1))
    out, y, stacked = backend.call(_run, (kind, backend), known, inputs, tuple(states.values()))
    steps = zip(*(xp.unstack(part) for part in (*stacked, inputs)), strict=True)
    caches = [(*step, parameters) for step in steps]
    return (*(xp.permute_dims(part, (1, 2, 0)) for part in (*out, y)), (caches, x))


def _cell_forward(kind: _Textbook, xt: Any, states: dict[str, Any], parameters: dict) -> tuple:
    backend = _enter(kind, xt, states, parameters, sequence=False)
    known = {name: parameters[name] for name in kind.shapes(parameters, xt.shape[0], 0)}
    out, y, stacked = backend.call(_run, (kind, backend), known, xt[None, ...], tuple(states.values()))
    cache = (*(part[0, ...] for part in stacked), xt, parameters)
    return (*(part[0, ...] for part in (*out, y)), cache)


def _sequence_backward(kind: _Textbook, upstream: dict[str, Any], caches: Any, dy: Any, dz: Any) -> tuple:
    """-> gradients of the parameters, dx (n_x, m, T), and the tuple of initial-state gradients (n_a, m)."""
    if not isinstance(caches, tuple) or len(caches) != 2 or not caches[0]:
        raise TypeError(f"caches: expected what {kind.name}_forward returned, (list of cache, x), of one step or more")
    steps, x = caches
    parameters = steps[0][-1]
    given = {name: d for name, d in (*upstream.items(), ("dy", dy), ("dz", dz)) if d is not None}
    if not given:
        raise ValueError(f"{', '.join(upstream)}, dy and dz are all None: expected at least one upstream gradient")
    backend = backend_of((x, given, steps[0][:-1]), "the arguments")
    xp = backend.xp
    first = next(iter(given.values()))
    T = first.shape[2] if first.ndim == 3 else 0
    if not 1 <= T <= len(steps):
        name = next(iter(given))
        raise ValueError(f"{name} has shape {tuple(first.shape)}; expected (n, m, T_x) with 1 <= T_x <= {len(steps)}")
    n_a, m = steps[0][0].shape
    dtype = check_float("x", x)
    for name, d in given.items():
        rows = n_a if name in upstream else parameters[kind.prediction[0]].shape[0]
        check_array(name, d, (rows, m, T), dtype, f"({'n_a' if name in upstream else 'n_y'}, m, T_x)")
    known = {name: parameters[name] for name in kind.shapes(parameters, x.shape[0], n_a)}
    stacked = tuple(xp.stack(part) for part in zip(*(step[:-2] for step in steps[:T]), strict=True))
    turned = {name: xp.permute_dims(d, (2, 0, 1)) for name, d in given.items()}
    above = tuple(turned.get(name) for name in upstream)
    inputs = xp.permute_dims(x[:, :, :T], (2, 0, 1))
    grads, dx, start = backend.call(
        _back, (kind, backend), known, inputs, stacked, above, turned.get("dy"), turned.get("dz")
    )
    return grads, xp.permute_dims(dx, (1, 2, 0)), start


def _cell_backward(kind: _Textbook, upstream: dict[str, Any], cache: tuple, dy: Any, dz: Any) -> tuple:
    """One step: the same, as a sequence of one."""

    def last(d: Any) -> Any:
        return d if d is None else d[..., None]

    if not isinstance(cache, tuple) or len(cache) < 4 or not isinstance(cache[-1], dict):
        raise TypeError(f"cache: expected what {kind.name}_cell_forward returned")
    caches = ([cache], cache[-2][..., None])
    grads, dx, start = _sequence_backward(
        kind, {name: last(d) for name, d in upstream.items()}, caches, last(dy), last(dz)
    )
    return grads, dx[..., 0], start


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
    return _cell_forward(RNN, xt, {"a_prev": a_prev}, parameters)


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
    return _sequence_forward(RNN, x, {"a0": a0}, parameters)


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
    grads, dx, (da,) = _cell_backward(RNN, {"da_next": da_next}, cache, dy, dz)
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
    grads, dx, (da0,) = _sequence_backward(RNN, {"da": da}, caches, dy, dz)
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
    return _cell_forward(LSTM, xt, {"a_prev": a_prev, "c_prev": c_prev}, parameters)


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
    a, c, y, caches = _sequence_forward(LSTM, x, {"a0": a0, "c0": c0}, parameters)
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
    grads, dx, (da, dc) = _cell_backward(LSTM, {"da_next": da_next, "dc_next": dc_next}, cache, dy, dz)
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
    grads, dx, (da0, dc0) = _sequence_backward(LSTM, {"da": da, "dc": dc}, caches, dy, dz)
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
    return _cell_forward(GRU, xt, {"a_prev": a_prev}, parameters)


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
    return _sequence_forward(GRU, x, {"a0": a0}, parameters)


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
    grads, dx, (da,) = _cell_backward(GRU, {"da_next": da_next}, cache, dy, dz)
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
    grads, dx, (da0,) = _sequence_backward(GRU, {"da": da}, caches, dy, dz)
    return {"dx": dx, "da0": da0} | grads
