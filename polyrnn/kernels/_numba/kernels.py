"""The kernels of RNN, LSTM and GRU compiled by Numba: arrays into addresses, work into shares, and back.

A compiled call does everything: the products with packed weights, the point-wise work on their sums while these are in
the first cache, in backward the gradients of the weights too. BLAS is not used, so that its threads and these do not
meet. Numba is imported when such a kernel first runs; what it compiles is kept on the disk.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from typing import Any, ClassVar

import numpy as np

from ...cells import gru, lstm, rnn
from ...cells._cell import HeldResidual
from .. import _memory as memory
from .. import _threads as threads
from .. import decline

Array = np.ndarray
LEAST_STEPS = 2  # one is streaming, for which Numba must not be loaded
OPERATIONS = 1 << 20  # multiplications for which a thread is worth waking
ROWS = 32  # of the input's share that are formed at once
CHUNK = 8 << 20  # bytes of dz that are held at once


LEAST_VERSION = (0, 61)  # of Numba


@functools.cache
def _build() -> Any:
    """The module that compiles; it imports Numba, and is therefore imported at first use."""
    return importlib.import_module(".build", __package__)


@functools.cache
def _usable() -> bool:
    """Whether Numba can be used here: it may be too old, refuse the NumPy that there is, or be switched off."""
    try:
        import numba

        if numba.config.DISABLE_JIT:
            raise RuntimeError("NUMBA_DISABLE_JIT is set")
        if numba.version_info.short < LEAST_VERSION:
            raise RuntimeError(f"version {numba.__version__} is too old")
        _build()
    except Exception as error:  # whatever it is, NumPy's own kernels and the reference still run
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        decline(Compiled.name, f"Numba does not run here ({reason})")
        return False
    return True


class Compiled:
    """What the recurrences share."""

    name = "numpy numba"
    prefix: ClassVar[str]  # of the names of its compiled functions
    gates: ClassVar[int]
    apart: ClassVar[int] = 0  # the last gates, whose recurrent product does not simply add to the input's
    kept: ClassVar[int] = 0  # numbers of a unit and step that are kept beside the states
    names: ClassVar[tuple[str, ...]]  # what backward takes of the residual, beside the states before
    # Of each gate the block of dz with its gradient, on the input's side and on the recurrent one. A product meets
    # blocks that stand together: the input's are the first ones, the recurrent ones the last.
    x_gates: ClassVar[tuple[int, ...]]
    h_gates: ClassVar[tuple[int, ...]]

    def supports(self, x: Array, valid: Any) -> bool:
        """Sequences of two steps or more, of one example or more, in float32 or float64."""
        T, *rest = x.shape
        fits = T >= LEAST_STEPS and len(rest) == 2 and rest[1] > 0 and x.dtype in (np.float32, np.float64)
        return fits and _usable()

    def kind(self, cell: Any) -> int:
        """What the compiled step has to know of the cell."""
        return 0

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> Any:
        """The cell's own residuals, as views; `states` are (T + 1, H, N), `kept` (T, H, N)."""
        raise NotImplementedError

    def forward(
        self, cell: Any, params: dict, x: Array, state: tuple, valid: Array | None, size: int, keep: bool
    ) -> tuple[Array, tuple, Any]:
        """From x (T, I, N): y (T, H, N), the final state, the cell's residuals if `keep`."""
        (T, I, N), H, G, dtype = x.shape, params["weight_hh"].shape[1], self.gates, x.dtype
        like, kind, joint = _zero(dtype), self.kind(cell), G - self.apart
        inside = _rows(x)  # compiled code has its address alone: what may be a copy needs a name for as long
        states = [memory.empty((T + 1 if keep else 2, N, H), dtype) for _ in state]
        for own, first in zip(states, state, strict=True):
            own[0] = first.T
        kept = memory.empty((T, N, self.kept, H), dtype) if keep else _none(4, dtype)
        y = np.empty((T, N, H), dtype)
        room = _room(dtype, (H, G * I), (H, G * H), (H, G), (H, max(1, self.apart)))
        table = np.empty((_loops().LINES, 3), np.int64)
        weights = (*_native(params, ("weight_ih", "weight_hh"), dtype), *_biases(params, dtype))
        c = states[1] if len(states) > 1 else _none(3, dtype)
        packed = _compiled("start_forward", dtype)(
            *(table, *room, *weights, inside, states[0], c, y, kept, _runs(valid), G, joint, like)
        )
        function = _compiled(f"{self.prefix}_forward", dtype)

        def share(first: int, last: int) -> None:
            steps = min(T, max(1, ROWS // (last - first)))
            function(table, packed, T, H, I, first, last, steps, keep, kind, like)

        threads.run(share, threads.shares(N, _parts(T * N * G * H * (I + H))))
        end = tuple([own[T if keep else T % 2].T.copy(order="K") for own in states])
        if not keep:
            return y.transpose(0, 2, 1), end, None
        gates = tuple(kept.transpose(2, 0, 3, 1))
        residual = self.residual(tuple(own.transpose(0, 2, 1) for own in states), gates)
        residual = residual if valid is None else HeldResidual(residual, (valid,) * len(states))
        return y.transpose(0, 2, 1), end, residual

    def backward(
        self,
        cell: Any,
        params: dict,
        x: Array,
        valid: Array | None,
        residuals: Any,
        dy: tuple,
        dstate: tuple,
        size: int,
        sums: dict,
    ) -> tuple[dict, Array, tuple]:
        """-> the sums with the gradients of the parameters added, the gradients of x and of the initial state."""
        (T, I, N), H, dtype = x.shape, params["weight_hh"].shape[1], x.dtype
        residual, like, kind = residuals if valid is None else residuals.cell, _zero(dtype), self.kind(cell)
        none, inside = _none(3, dtype), _rows(x)
        parts = {name: _rows(np.asarray(part, dtype)) for name, part in residual._asdict().items()}
        kept = [parts[name] for name in self.names]
        d = [np.array(part.T, dtype, order="C") for part in dstate]
        above = [none if part is None else _rows(np.asarray(part, dtype)) for part in dy]
        x_gates, h_gates = np.array(self.x_gates), np.array(self.h_gates)
        blocks, K_x, K_h = 1 + max(self.h_gates), len(x_gates) * H, len(h_gates) * H
        chunk = min(T, max(1, CHUNK // (size * N * blocks * H * dtype.itemsize)) * size)

        loops, room = _loops(), _room(dtype, (H, K_h), (I, K_x), (I, 1), (0, 0))
        dz = memory.empty((chunk * N * blocks * H + loops.BYTES,), dtype)  # compiled code reads behind it
        dz, dx = dz[: chunk * N * blocks * H].reshape(chunk, N, blocks, H), np.empty((T, N, I), dtype)
        dw, du = (np.array(sums[name], dtype, order="C") for name in ("weight_ih", "weight_hh"))
        db = np.zeros((blocks, H), dtype)
        if "bias_ih" in sums:
            db[x_gates], db[h_gates] = sums["bias_ih"].reshape(-1, H), sums["bias_hh"].reshape(-1, H)
        table = np.empty((loops.LINES, 3), np.int64)
        packed = _compiled("start_backward", dtype)(
            *(table, *room, *_native(params, ("weight_ih", "weight_hh"), dtype)),
            *(x_gates.argsort(), h_gates.argsort()),
            *(inside, *[part[None] for part in d], *[none] * (2 - len(d)), *above, *[none] * (2 - len(d))),
            *(parts["h_prev"], parts.get("c_prev", none), *kept, *[none] * (5 - len(kept)), dz, _runs(valid), like),
        )
        step_back, gradients = _compiled(f"{self.prefix}_backward", dtype), _compiled("gradients", dtype)
        by_example = threads.shares(N, _parts(chunk * N * K_h * H))
        by_unit = threads.shares(H, _parts(chunk * N * K_h * (I + H)), loops.ROWS)
        origin = int(table[loops.DZ, 0])
        for start in reversed(range(0, T, chunk)):
            end = min(start + chunk, T)
            table[loops.DZ, 0] = origin - start * dz.strides[0]  # as if it had all steps

            def recurrence(first: int, last: int, start: int = start, end: int = end) -> None:
                step_back(table, packed, H, first, last, start, end, kind, like)

            def products(low: int, high: int, start: int = start, end: int = end) -> None:
                gradients(*(table, packed, x_gates, h_gates, low, high, N, start, end, size, dw, du, db, dx, like))

            threads.run(recurrence, by_example)
            threads.run(products, by_unit)
        grads = {"weight_ih": dw, "weight_hh": du}
        if "bias_ih" in sums:
            grads |= {"bias_ih": db[x_gates].reshape(-1), "bias_hh": db[h_gates].reshape(-1)}
        return grads, dx.transpose(0, 2, 1), tuple([part.T for part in d])


class RNN(Compiled):
    """z becomes h; backward, dz = dh * phi'(z)."""

    prefix, gates, names = "rnn", 1, ("h",)
    x_gates = h_gates = (0,)

    def kind(self, cell: Any) -> int:
        return int(cell.nonlinearity == "relu")

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> rnn.Residual:
        (h,) = states
        return rnn.Residual(h[:-1], h[1:])


class LSTM(Compiled):
    """Gates, and blocks of dz, i f g o."""

    prefix, gates, kept, names = "lstm", 4, 5, ("i", "f", "g", "o", "tanh_c")
    x_gates = h_gates = (0, 1, 2, 3)

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> lstm.Residual:
        h, c = states
        return lstm.Residual(h[:-1], c[:-1], *kept)


class GRU(Compiled):
    """Reset after: gates r z n; blocks of dz da_n, dp_r, dp_z, dq_n."""

    prefix, gates, apart, kept, names = "gru", 3, 1, 4, ("r", "z", "n", "operand")
    x_gates, h_gates = (1, 2, 0), (1, 2, 3)

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> gru.Residual:
        (h,) = states
        return gru.Residual(h[:-1], *kept)


def _loops() -> Any:
    return _build().loops


def _compiled(name: str, dtype: np.dtype) -> Any:
    """A compiled function for this dtype."""
    return _build().compiled(name, dtype)


def _room(dtype: np.dtype, *forms: tuple[int, int]) -> tuple[Array, tuple[int, ...]]:
    """Memory for weights as compiled products want them, for each (units, K) a matrix of whole vectors; where each is.

    The first one is at the first line of the cache; compiled code finds that.
    """
    vector = _loops().BYTES
    lanes = vector // dtype.itemsize
    sizes = [-(-units // lanes) * K * vector for units, K in forms]
    return memory.empty((sum(sizes) + _loops().LINE,), np.uint8), tuple(itertools.accumulate(sizes[:-1], initial=0))


def _parts(multiplications: int) -> int:
    return max(1, min(threads.threads(), multiplications // OPERATIONS))


def _rows(array: Array) -> Array:
    """(T, F, N) as (T, N, F) whose last axis is dense: a view where it is that already."""
    turned = array.transpose(0, 2, 1)
    return turned if turned.strides[2] == array.itemsize else np.ascontiguousarray(turned)


def _runs(valid: Array | None) -> Array:
    """(T, 1, N) as (T, N)."""
    return _none(2, np.dtype(bool)) if valid is None else valid[:, 0, :]


def _native(params: dict, names: tuple[str, str], dtype: np.dtype) -> tuple[Array, Array]:
    """Two parameters in the byte order of this machine."""
    first, second = names
    return np.asarray(params[first], dtype), np.asarray(params[second], dtype)


def _biases(params: dict, dtype: np.dtype) -> tuple[Array, Array]:
    if "bias_ih" in params:
        return _native(params, ("bias_ih", "bias_hh"), dtype)
    return _none(1, dtype), _none(1, dtype)


@functools.cache
def _none(axes: int, dtype: np.dtype) -> Array:
    """An array that is not there."""
    return np.empty((0,) * axes, dtype)


@functools.cache
def _zero(dtype: np.dtype) -> Any:
    """A number that tells compiled code the dtype."""
    return dtype.type(0)
