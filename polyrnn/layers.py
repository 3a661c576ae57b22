"""The recurrent layers: a cell run over a sequence, behind a door that checks, and in PyTorch's layout and names."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from . import initializers, recurrence
from ._door import check_array, check_flag, check_params, check_size, clean, dtype_name, valid_steps
from ._module import Gradients, Module
from .backends import Backend, backend_of
from .cells import Cell, GRUCell, GRUResetBeforeCell, LSTMCell, RNNCell
from .cells.rnn import PHI

# Options of torch.nn.RNN that have their place in the signature and one value so far.
_NOT_YET = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}


_ACCEPTED = 1024  # kinds of arguments that a layer remembers to have checked


class LayerTape(NamedTuple):
    """What a layer's forward leaves for its backward."""

    params: dict
    recurrence: recurrence.Tape


@dataclass(frozen=True)
class Recurrent(Module):
    """What RNN, LSTM and GRU share: all but the cell."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    traced: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_size("input_size", self.input_size)
        check_size("hidden_size", self.hidden_size)
        for name in ("bias", "batch_first", "bidirectional", "traced"):
            check_flag(name, getattr(self, name))
        check_size("num_layers", self.num_layers)
        for name, only in _NOT_YET.items():
            if getattr(self, name) != only:
                hint = "; put several layers into a polyrnn.Sequential" if name == "num_layers" else ""
                raise ValueError(f"{name}={getattr(self, name)!r}: this version knows only {name}={only!r}{hint}")

    @property
    def cell(self) -> Cell:
        """The cell's equations."""
        raise NotImplementedError

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """The cell's own names of its parameters, by the layer's."""
        return {f"{name}_l0": name for name in self.cell.shapes(1, 1, self.bias)}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self.cell.shapes(self.input_size, self.hidden_size, self.bias)
        return {f"{name}_l0": shape for name, shape in shapes.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes, PyTorch's: weight_ih_l0 (G*H, I), weight_hh_l0 (G*H, H), bias_ih_l0, ..."""
        return dict(self._shapes)

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """U(-1/sqrt(H), 1/sqrt(H)) for everything, as PyTorch."""
        draw = initializers.recurrent(self.hidden_size)
        return {name: draw(rng, shape) for name, shape in self._shapes.items()}

    # ---- the doors ------------------------------------------------------------------------

    def __call__(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any]:
        """The outputs and the final state.

        Parameters
        ----------
        params : dict
            The parameters, as `init` makes them.
        x : array (T, N, I)
            The input sequences.
        state : array or tuple of arrays (1, N, H), optional
            The initial state: h, for an LSTM (h, c). Zeros by default.
        lengths : array of integers (N,), optional
            The number of valid steps of each sequence, in any order, 0 allowed. Outputs past the end are zero, the
            final state is the one after the last valid step, and what stands in the padding changes nothing.
        seed, masks : None
            For layers with dropout; this one has none, and takes a seed without using it.

        Returns
        -------
        y : array (T, N, H)
            h at every step.
        state : array or tuple of arrays (1, N, H)
            The final state, of the form of the initial one.

        Raises
        ------
        ValueError
            For a wrong shape, a wrong set of parameters, or lengths out of range.
        TypeError
            For mixed backends, devices or dtypes.
        """
        backend, state, valid = self._enter(params, x, state, lengths, masks)
        return backend.call(_run, (self, backend), params, x, state, valid)

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any, LayerTape]:
        """The outputs, the final state, and the tape that `backward` needs; arguments as for the call."""
        backend, state, valid = self._enter(params, x, state, lengths, masks)
        y, state, tape = backend.call(_forward, (self, backend), params, x, state, valid)
        return y, state, LayerTape(params, tape)

    def backward(self, tape: LayerTape, dy: Any = None, dstate: Any = None) -> Gradients:
        """The gradients of the parameters, of x and of the initial state.

        Parameters
        ----------
        tape : LayerTape
            What this layer's `forward` returned; it stays whole and can be used again. It borrows x and the
            parameters: do not write into them in between.
        dy : array (T, N, H), optional
            The gradient of the outputs. None means zero.
        dstate : array or tuple of arrays (1, N, H), optional
            The gradient of the final state; None, of all or of a part, means zero.

        Returns
        -------
        Gradients
            `params` under the parameters' names, `x` (T, N, I), `state` of the state's form.
        """
        if not isinstance(tape, LayerTape):
            raise TypeError(f"tape is a {type(tape).__name__}; expected what {type(self).__name__}.forward returned")
        check_params(tape.params, self._shapes, f"the tape of this {type(self).__name__}")
        x = tape.recurrence.x
        steps, batch, dtype = x.shape[0], x.shape[2], dtype_name(x)
        names = self.cell.states
        parts = _split_state("dstate", dstate, names)
        backend = backend_of((x, dy, parts), "tape, dy and dstate")
        if dy is not None:
            check_array("dy", dy, (steps, batch, self.hidden_size), dtype, "(T, N, H)")
        for name, part in zip(names, parts, strict=True):
            if part is not None:
                check_array(f"dstate {name}", part, (1, batch, self.hidden_size), dtype, "(1, N, H)")
        grads, dx, start = backend.call(_backward, (self, backend), *tape, dy, parts)
        return Gradients({name: grads[name] for name in self._names}, dx, start)  # JAX sorts the keys

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One time step: x (N, I) -> y (N, H) and the state, (1, N, H) each part, for streaming."""
        if getattr(x, "ndim", None) != 2:
            raise ValueError(f"x has shape {tuple(getattr(x, 'shape', ()))}; expected (N, {self.input_size}) = (N, I)")
        backend, state, _ = self._enter(params, x[None, ...], state, None, None)
        return backend.call(_step, (self, backend), params, x, state)

    def _enter(self, params: dict, x: Any, state: Any, lengths: Any, masks: Any) -> tuple[Backend, tuple, Any]:
        """Check everything -> the backend, the initial state as a tuple of (1, N, H) or Nones, and the mask (T, N)."""
        if masks is not None:
            raise ValueError(f"masks: {type(self).__name__} has no dropout; expected None")
        parts = _split_state("state", state, self.cell.states)
        try:  # what was found good once is good again: a call costs one look-up
            arrays = (*params.values(), x, *parts)
            key = (*params, *[None if a is None else (type(a), a.shape, a.dtype) for a in arrays])
            backend = self._accepted.get(key)
        except (AttributeError, TypeError):  # not a dict, or not all of them arrays: the checks say it better
            backend, key = None, None
        if backend is None:
            backend = self._check(params, x, parts)
            if len(self._accepted) >= _ACCEPTED:
                self._accepted.clear()
            if key is not None:
                self._accepted[key] = backend
        else:
            backend.check_device([a for a in arrays if a is not None])
        steps, batch, _ = x.shape
        valid = None if lengths is None else valid_steps(backend, lengths, steps, batch, x)
        return backend, parts, valid

    @functools.cached_property
    def _accepted(self) -> dict:
        """The backends by the names, types, shapes and dtypes that passed `_check`."""
        return {}

    def _check(self, params: dict, x: Any, parts: tuple) -> Backend:
        backend = backend_of((params, x, parts), "params, x and state")
        dtype = check_params(params, self._shapes, type(self).__name__)
        check_array("x", x, (None, None, self.input_size), dtype, "(T, N, I)")
        for name, part in zip(self.cell.states, parts, strict=True):
            if part is not None:
                check_array(f"state {name}", part, (1, x.shape[1], self.hidden_size), dtype, "(1, N, H)")
        return backend


def _split_state(name: str, state: Any, parts: tuple[str, ...]) -> tuple:
    """A state h or (h, c) as a tuple; None for what is absent."""
    if state is None:
        return (None,) * len(parts)
    if len(parts) == 1 and not isinstance(state, tuple):
        return (state,)
    if not isinstance(state, tuple) or len(state) != len(parts):
        expected = parts[0] if len(parts) == 1 else f"a tuple ({', '.join(parts)})"
        raise TypeError(f"{name} is {type(state).__name__}; expected {expected} of arrays, or None")
    return state


# ---- behind the doors: pure functions, which JAX compiles once for each (layer, backend) -----------------------


def _run(static: tuple[Recurrent, Backend], params: dict, x: Any, state: tuple, valid: Any) -> tuple[Any, Any]:
    layer, backend = static
    if backend.traces and not layer.traced:
        return _differentiable(layer, backend)(params, clean(backend.xp, valid, x), state, valid)
    y, state, _ = _over_time(layer, backend, params, x, state, valid, keep=False)
    return y, state


def _forward(static: tuple[Recurrent, Backend], params: dict, x: Any, state: tuple, valid: Any) -> tuple:
    return _over_time(*static, params, x, state, valid, keep=True)


def _over_time(
    layer: Recurrent, backend: Backend, params: dict, x: Any, state: tuple, valid: Any, keep: bool
) -> tuple[Any, Any, Any]:
    """From the layout of the door, (T, N, I), to that of the core, (T, I, N), and back."""
    xp = backend.xp
    x = clean(xp, valid, x).mT
    shape = (layer.hidden_size, x.shape[2])
    start = tuple(
        xp.zeros(shape, dtype=x.dtype, device=getattr(x, "device", None)) if s is None else s[0, ...].mT for s in state
    )
    if valid is not None:
        valid = valid[:, None, :]
    y, end, tape = recurrence.forward(backend, layer.cell, _own(layer, params), x, start, valid, keep)
    return y.mT, _outside(end), tape


def _backward(
    static: tuple[Recurrent, Backend], params: dict, tape: recurrence.Tape, dy: Any, dstate: tuple
) -> tuple[dict, Any, Any]:
    layer, backend = static
    xp, x = backend.xp, tape.x
    shape = (layer.hidden_size, x.shape[2])
    end = tuple(
        xp.zeros(shape, dtype=x.dtype, device=getattr(x, "device", None)) if d is None else d[0, ...].mT for d in dstate
    )
    if dy is not None:
        dy = clean(xp, None if tape.valid is None else tape.valid[:, 0, :], dy)
        dy = dy.mT
    above = (dy,) + (None,) * (len(end) - 1)
    grads, dx, start = recurrence.backward(backend, layer.cell, _own(layer, params), tape, above, end)
    outside = {name: grads[inside] for name, inside in layer._names.items()}
    return outside, dx.mT, _outside(start)


def _step(static: tuple[Recurrent, Backend], params: dict, x: Any, state: tuple) -> tuple[Any, Any]:
    y, state = _run(static, params, x[None, ...], state, None)
    return y[0, ...], state


def _own(layer: Recurrent, params: dict) -> dict:
    return {inside: params[name] for name, inside in layer._names.items()}


def _outside(state: tuple) -> Any:
    parts = tuple(part.mT[None, ...] for part in state)
    return parts if len(parts) > 1 else parts[0]


@functools.cache
def _differentiable(layer: Recurrent, backend: Backend) -> Any:
    """The layer as a function whose derivative is the hand-written one."""

    def function(params: dict, x: Any, state: tuple, valid: Any) -> Any:
        return _over_time(layer, backend, params, x, state, valid, keep=False)[:2]

    def forward(params: dict, x: Any, state: tuple, valid: Any) -> tuple[Any, Any]:
        y, end, tape = _over_time(layer, backend, params, x, state, valid, keep=True)
        return (y, end), (params, tape, state)

    def backward(kept: tuple, above: tuple) -> tuple:
        params, tape, state = kept
        dy, dstate = above
        parts = dstate if isinstance(dstate, tuple) else (dstate,)
        grads, dx, start = _backward((layer, backend), params, tape, dy, parts)
        starts = start if isinstance(start, tuple) else (start,)
        return grads, dx, tuple(None if s is None else d for s, d in zip(state, starts, strict=True)), None

    return backend.custom_vjp(function, forward, backward)


# ---- the layers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RNN(Recurrent):
    """The simple recurrent layer, as torch.nn.RNN: h_t = tanh(W x_t + b_ih + U h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers, batch_first, dropout, bidirectional, proj_size
        Have their place; one value each so far: 1, False, 0, False, 0.
    bias : bool
        Whether there are b_ih and b_hh.
    nonlinearity : {"tanh", "relu"}
        The activation.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 and bias_hh_l0 (H,). The state is h (1, N, H).
    The equations and their derivatives: `polyrnn/cells/rnn.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> rnn = pr.RNN(3, 5)
    >>> params = rnn.init(seed=0)
    >>> y, h = rnn(params, np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    nonlinearity: str = field(default="tanh", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.nonlinearity, str) or self.nonlinearity not in PHI:
            raise ValueError(f"nonlinearity={self.nonlinearity!r}; expected one of {', '.join(map(repr, PHI))}")

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/rnn.py`."""
        return RNNCell(self.nonlinearity)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """The long short-term memory layer, as torch.nn.LSTM.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers, batch_first, dropout, bidirectional, proj_size
        Have their place; one value each so far: 1, False, 0, False, 0.
    bias : bool
        Whether there are b_ih and b_hh.
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (4H, I), weight_hh_l0 (4H, H), bias_ih_l0 and bias_hh_l0 (4H,); gate blocks i f g o.
    The state is (h, c), each (1, N, H). The equations and their derivatives: `polyrnn/cells/lstm.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> lstm = pr.LSTM(3, 5)
    >>> params = lstm.init(seed=0)
    >>> x = np.ones((7, 2, 3), dtype="float32")
    >>> y, (h, c), tape = lstm.forward(params, x, lengths=[7, 4])
    >>> grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> grads.x.shape, grads.params["weight_ih_l0"].shape
    ((7, 2, 3), (20, 3))
    """

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/lstm.py`."""
        return LSTMCell()


@dataclass(frozen=True)
class GRU(Recurrent):
    """The gated recurrent unit, as torch.nn.GRU.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers, batch_first, dropout, bidirectional, proj_size
        Have their place; one value each so far: 1, False, 0, False, 0.
    bias : bool
        Whether there are b_ih and b_hh.
    reset_after : bool
        Where the reset gate acts: after the recurrent product (PyTorch, cuDNN, Keras' default) or before it (the
        paper, ONNX' default).
    traced : bool
        On JAX, differentiate through the forward pass instead of using the hand-written backward; `jvp` needs it.

    Notes
    -----
    Parameters: weight_ih_l0 (3H, I), weight_hh_l0 (3H, H), bias_ih_l0 and bias_hh_l0 (3H,); gate blocks r z n.
    The state is h (1, N, H). The equations and their derivatives: `polyrnn/cells/gru.py`.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> gru = pr.GRU(3, 5, reset_after=False)
    >>> y, h = gru(gru.init(seed=0), np.ones((7, 2, 3), dtype="float32"))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    reset_after: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("reset_after", self.reset_after)

    @functools.cached_property
    def cell(self) -> Cell:
        """`polyrnn/cells/gru.py`."""
        return GRUCell() if self.reset_after else GRUResetBeforeCell()
