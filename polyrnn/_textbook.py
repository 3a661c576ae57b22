"""How the textbook's functions map onto the cells: names and layouts here, the work in `polyrnn.recurrence`.

Each kind of function (`RNN`, `LSTM`, `GRU`) is a `Textbook`: the textbook's parameters and caches in the terms of one
cell of the core, and back. The four functions at the end are what `polyrnn.functional` calls.
"""

from __future__ import annotations

from typing import Any

from . import recurrence
from ._door import check_array, check_float
from .activations import softmax, softmax_backward
from .backends import Backend, backend_of
from .cells import Cell, GRUResetBeforeCell, LSTMCell, RNNCell, gru, lstm, rnn


class Textbook:
    """How one kind of textbook function maps onto a cell of the core, and back.

    `weights` names, for each gate block of the core, the textbook's matrix on [a_prev; xt] and its bias; the RNN, whose
    two matrices are apart, overrides `to_core` and `from_core`.
    """

    name: str
    cell: Cell
    weights: tuple[tuple[str, str], ...]
    prediction = ("Wy", "by")
    names: tuple[str, ...]  # of the parameters, in the order of the textbook's dicts

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
        n_a = both.shape[0] // len(self.weights)
        result: dict[str, Any] = {}
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


class _RNNForm(Textbook):
    name = "rnn"
    cell = RNNCell("tanh")
    prediction = ("Wya", "by")
    names = ("Wax", "Waa", "ba", "Wya", "by")

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


class _LSTMForm(Textbook):
    name = "lstm"
    cell = LSTMCell()
    weights = (("Wi", "bi"), ("Wf", "bf"), ("Wc", "bc"), ("Wo", "bo"))
    names = ("Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by")

    def cache(self, state: tuple, residual: Any) -> tuple:
        r = residual
        return (*state, r.h_prev, r.c_prev, r.f, r.i, r.g, r.o)

    def residual(self, xp: Any, cache: tuple) -> Any:
        _, c_next, a_prev, c_prev, ft, it, cct, ot = cache[:8]
        return lstm.Residual(a_prev, c_prev, i=it, f=ft, g=cct, o=ot, tanh_c=xp.tanh(c_next))


class _GRUForm(Textbook):
    """The textbook's update gate u is 1 - z: its weights change sign on the way to the core and back."""

    name = "gru"
    cell = GRUResetBeforeCell()
    weights = (("Wr", "br"), ("Wu", "bu"), ("Wc", "bc"))
    names = ("Wu", "bu", "Wr", "br", "Wc", "bc", "Wy", "by")

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


RNN, LSTM, GRU = _RNNForm(), _LSTMForm(), _GRUForm()


# ---- behind the doors: pure, compiled once a kind on JAX. Core arrays: x (T, n_x, m), states (n_a, m) -------------


def _predict(xp: Any, kind: Textbook, parameters: dict, a: Any) -> Any:
    """Y = softmax(Wy a + by) for a (..., n_a, m)."""
    W, b = kind.prediction
    return softmax(xp, parameters[W] @ a + parameters[b], axis=-2)


def _run(static: tuple[Textbook, Backend], parameters: dict, x: Any, state: tuple) -> tuple:
    """All steps -> the states, the predictions and what the caches hold, stacked over time in front."""
    kind, backend = static
    xp = backend.xp
    core = kind.to_core(xp, parameters)
    a, end, tape = recurrence.forward(backend, recurrence.Options(kind.cell), core, x, state)
    residual = tape.residuals
    states: tuple = (a,)
    if len(state) > 1:  # c_t is the c_prev of step t + 1
        states = (a, xp.concat((residual.c_prev[1:, ...], end[1][None, ...]), axis=0)[: x.shape[0], ...])
    return states, _predict(xp, kind, parameters, a), kind.cache(states, residual)


def _back(
    static: tuple[Textbook, Backend], parameters: dict, x: Any, cache: tuple, above: tuple, dy: Any, dz: Any
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
            through = softmax_backward(xp, _predict(xp, kind, parameters, a), dy, axis=-2)
            dz = through if dz is None else dz + through
        extra = {f"d{W}": xp.tensordot(dz, a, axes=((0, 2), (0, 2))), f"d{b}": xp.sum(dz, axis=(0, 2))[:, None]}
        da = parameters[W].mT @ dz
        above = (da if above[0] is None else above[0] + da, *above[1:])
    tape = recurrence.Tape(x, recurrence.QUIET, residual)
    end = tuple(xp.zeros_like(residual.h_prev[0, ...]) for _ in kind.cell.states)
    grads, dx, start = recurrence.backward(backend, recurrence.Options(kind.cell), core, tape, above, end)
    return kind.from_core(xp, grads) | extra, dx, start


# ---- the doors --------------------------------------------------------------------------------------------------


def _enter(kind: Textbook, x: Any, states: dict[str, Any], parameters: Any, sequence: bool) -> Backend:
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters is a {type(parameters).__name__}; expected a dict")
    name = "x" if sequence else "xt"
    first = next(iter(states))
    for argument, value in {name: x, **states}.items():
        if getattr(value, "ndim", None) is None:
            raise TypeError(f"{argument} is {type(value).__name__}; expected an array")
    rank = 3 if sequence else 2
    letters = "(n_x, m, T_x)" if sequence else "(n_x, m)"
    if x.ndim != rank:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {letters}")
    if states[first].ndim != 2:
        raise ValueError(f"{first} has shape {tuple(states[first].shape)}; expected (n_a, m)")
    dtype = check_float(name, x)
    n_a = states[first].shape[0]
    for state, value in states.items():
        check_array(state, value, (n_a, x.shape[1]), dtype, "(n_a, m)", other=name)
    shapes = kind.shapes(parameters, x.shape[0], n_a)
    missing = sorted(shapes.keys() - parameters.keys())
    if missing:
        raise ValueError(f"parameters lacks {', '.join(missing)}; {kind.name} expects {', '.join(shapes)}")
    backend = backend_of(({key: parameters[key] for key in shapes}, x, states), "the arguments")
    for key, shape in shapes.items():
        check_array(f"parameters[{key!r}]", parameters[key], shape, dtype, other=name)
    return backend


def sequence_forward(kind: Textbook, x: Any, states: dict[str, Any], parameters: dict) -> tuple:
    backend = _enter(kind, x, states, parameters, sequence=True)
    xp = backend.xp
    known = {name: parameters[name] for name in kind.shapes(parameters, x.shape[0], 0)}  # others may be no arrays
    inputs = xp.permute_dims(x, (2, 0, 1))
    out, y, stacked = backend.call(_run, (kind, backend), known, inputs, tuple(states.values()))
    steps = zip(*(backend.unstack(part) for part in (*stacked, inputs)), strict=True)
    caches = [(*step, parameters) for step in steps]
    return (*(xp.permute_dims(part, (1, 2, 0)) for part in (*out, y)), (caches, x))


def cell_forward(kind: Textbook, xt: Any, states: dict[str, Any], parameters: dict) -> tuple:
    backend = _enter(kind, xt, states, parameters, sequence=False)
    known = {name: parameters[name] for name in kind.shapes(parameters, xt.shape[0], 0)}
    out, y, stacked = backend.call(_run, (kind, backend), known, xt[None, ...], tuple(states.values()))
    cache = (*(part[0, ...] for part in stacked), xt, parameters)
    return (*(part[0, ...] for part in (*out, y)), cache)


def sequence_backward(kind: Textbook, upstream: dict[str, Any], caches: Any, dy: Any, dz: Any) -> tuple:
    """-> gradients of the parameters, dx (n_x, m, T), and the tuple of initial-state gradients (n_a, m)."""
    if not isinstance(caches, tuple) or len(caches) != 2 or not isinstance(caches[0], list) or not caches[0]:
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
        check_array(name, d, (rows, m, T), dtype, f"({'n_a' if name in upstream else 'n_y'}, m, T_x)", other="x")
    known = {name: parameters[name] for name in kind.shapes(parameters, x.shape[0], n_a)}
    stacked = tuple(xp.stack(part) for part in zip(*(step[:-2] for step in steps[:T]), strict=True))
    turned = {name: xp.permute_dims(d, (2, 0, 1)) for name, d in given.items()}
    above = tuple(turned.get(name) for name in upstream)
    inputs = xp.permute_dims(x[:, :, :T], (2, 0, 1))
    grads, dx, start = backend.call(
        _back, (kind, backend), known, inputs, stacked, above, turned.get("dy"), turned.get("dz")
    )
    grads = {f"d{name}": grads[f"d{name}"] for name in kind.names if f"d{name}" in grads}  # JAX sorts the keys
    return grads, xp.permute_dims(dx, (1, 2, 0)), start


def cell_backward(kind: Textbook, upstream: dict[str, Any], cache: tuple, dy: Any, dz: Any) -> tuple:
    """One step: the same, as a sequence of one."""

    def last(d: Any) -> Any:
        return d if d is None else d[..., None]

    if not isinstance(cache, tuple) or len(cache) < 4 or not isinstance(cache[-1], dict):
        raise TypeError(f"cache: expected what {kind.name}_cell_forward returned")
    caches = ([cache], cache[-2][..., None])
    grads, dx, start = sequence_backward(
        kind, {name: last(d) for name, d in upstream.items()}, caches, last(dy), last(dz)
    )
    return grads, dx[..., 0], start
