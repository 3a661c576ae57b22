"""The kernels of RNN, LSTM and GRU compiled by Numba: arrays into addresses, work into shares, and back.

A compiled call does everything: the products with packed weights, the point-wise work on their sums while these are in
the first cache, in backward the gradients of the weights too. BLAS is not used, so that its threads and these do not
meet. Numba is imported when such a kernel first runs; what it compiles is kept on the disk.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, ClassVar

import numpy as np

from ..cells import gru, lstm, rnn
from ..cells._cell import HeldResidual
from . import _memory as memory
from . import _threads as threads

Array = np.ndarray
LEAST_STEPS = 2  # one is streaming, for which Numba must not be loaded
OPERATIONS = 1 << 20  # multiplications for which a thread is worth waking
ROWS = 32  # of the input's share that are formed at once
CHUNK = 8 << 20  # bytes of dz that are held at once


@functools.cache
def _compiled() -> Any:
    return importlib.import_module("._compiled", __package__)


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
        return T >= LEAST_STEPS and len(rest) == 2 and rest[1] > 0 and x.dtype in (np.float32, np.float64)

    def kind(self, cell: Any) -> int:
        """What the compiled step has to know of the cell."""
        return 0

    def biases(self, params: dict) -> tuple[Array | None, Array | None]:
        """Those that are added to W x, and those of the gates that stand apart."""
        return (params["bias_ih"] + params["bias_hh"], None) if "bias_ih" in params else (None, None)

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> Any:
        """The cell's own residuals, as views; `states` are (T + 1, H, N), `kept` (T, H, N)."""
        raise NotImplementedError

    def forward(
        self, cell: Any, params: dict, x: Array, state: tuple, valid: Array | None, size: int, keep: bool
    ) -> tuple[Array, tuple, Any]:
        """From x (T, I, N): y (T, H, N), the final state, the cell's residuals if `keep`."""
        (T, I, N), H, G, dtype = x.shape, params["weight_hh"].shape[1], self.gates, x.dtype
        weights = _Packed(dtype, (H, G, I), (H, G, H), (H, G, 1), (H, max(1, self.apart), 1))
        weights.put(0, params["weight_ih"], H)
        weights.put(1, params["weight_hh"], H)
        for k, bias in enumerate(self.biases(params)):
            if bias is not None:
                weights.put(2 + k, bias[:, None], H)
        inside, flags = _rows(x), None if valid is None else _flags(valid)
        states = tuple(memory.empty((T + 1 if keep else 2, N, H), dtype) for _ in state)
        for own, first in zip(states, state, strict=True):
            own[0] = first.T
        kept = memory.empty((T, N, self.kept, H), dtype) if keep and self.kept else None
        y = np.empty((T, N, H), dtype)
        table = _table(inside, states[0], states[1] if len(states) > 1 else None, y, kept, flags)
        function, kind, like = getattr(weights.compiled, f"{self.prefix}_forward"), self.kind(cell), dtype.type(0)
        addresses = np.array(weights.addresses)

        def share(first: int, last: int) -> None:
            steps = min(T, max(1, ROWS // (last - first)))
            scratch = _Bytes(steps * (last - first) * weights.sizes[2] + weights.spare * G)
            function(
                _address(table), _address(addresses), T, H, I, first, last, steps, keep, kind, scratch.address, like
            )

        threads.run(share, threads.shares(N, _parts(T * N * G * H * (I + H))))
        end = tuple(own[T if keep else T % 2].T.copy(order="K") for own in states)
        if not keep:
            return y.transpose(0, 2, 1), end, None
        gates = () if kept is None else tuple(kept.transpose(2, 0, 3, 1))
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
        residual, like, kind = residuals if valid is None else residuals.cell, dtype.type(0), self.kind(cell)
        parts = {name: _rows(part) for name, part in residual._asdict().items()}
        inside, h_prev, flags = _rows(x), parts["h_prev"], None if valid is None else _flags(valid)
        d = [np.array(part.T, order="C") for part in dstate]
        above = [None if part is None else _rows(part) for part in dy]
        blocks = 1 + max(self.h_gates)
        chunk = min(T, max(1, CHUNK // (size * N * blocks * H * dtype.itemsize)) * size)
        dz = memory.empty((chunk * N * blocks * H + _compiled().BYTES,), dtype)[: chunk * N * blocks * H]
        dz, dx = dz.reshape(chunk, N, blocks, H), np.empty((T, N, I), dtype)

        # The rows of U^T and W^T stand in the order of the blocks that they meet; the third is a row of zeros.
        K_x, K_h = len(self.x_gates) * H, len(self.h_gates) * H
        weights = _Packed(dtype, (H, 1, K_h), (I, 1, K_x), (I, 1, 1))
        weights.put(0, _by_block(params["weight_hh"], self.h_gates).T, H)
        weights.put(1, _by_block(params["weight_ih"], self.x_gates).T, I)
        u, w, zeros = weights.addresses

        dw, du = np.array(sums["weight_ih"], order="C"), np.array(sums["weight_hh"], order="C")
        db = np.zeros((blocks, H), dtype)
        if "bias_ih" in sums:
            db[list(self.x_gates)] = sums["bias_ih"].reshape(-1, H)
            db[list(self.h_gates)] = sums["bias_hh"].reshape(-1, H)
        x_gates, h_gates = np.array(self.x_gates), np.array(self.h_gates)

        two = [None] * (2 - len(d))
        names = [parts[name] for name in self.names] + [None] * (5 - len(self.names))
        table = _table(*(part[None] for part in d), *two, *above, *two, h_prev, parts.get("c_prev"), *names, dz, flags)
        (dz_line,), (x_line,), (h_line,) = _table(dz), _table(inside), _table(h_prev)
        by_example = threads.shares(N, _parts(chunk * N * K_h * H))
        by_unit = threads.shares(H, _parts(chunk * N * K_h * (I + H)), weights.rows)
        functions = weights.compiled
        step_back = getattr(functions, f"{self.prefix}_backward")
        for start in reversed(range(0, T, chunk)):
            end = min(start + chunk, T)
            table[functions.DZ, 0] = dz_line[0] - start * dz_line[1]  # as if from step 0 on

            def recurrence(first: int, last: int, start: int = start, end: int = end) -> None:
                spare = _Bytes(weights.spare)
                step_back(_address(table), u, H, first, last, start, end, kind, spare.address, like)

            def products(low: int, high: int, start: int = start, end: int = end) -> None:
                tiles = blocks * (high - low + weights.rows) * functions.DEPTH * dtype.itemsize + functions.BYTES
                scratch = _Bytes(functions.DEPTH * functions.BYTES + weights.spare + tiles)
                shared = (H, low, high, N, start, end, size, _address(dw), _address(du), _address(db))
                at, pitch = int(dz_line[0]), int(dz_line[2])
                given = (tuple(x_line), I, x_gates, tuple(h_line), h_gates)
                functions.weight_gradients(at, pitch, blocks, *given, *shared, scratch.address, like)
                first, last = (end - start) * N * low // H, (end - start) * N * high // H
                at += first * pitch
                to = _address(dx) + (start * N + first) * dx.strides[1]
                functions.input_gradient(
                    at, pitch, K_x, w, zeros, to, dx.strides[1], last - first, I, scratch.address, like
                )

            threads.run(recurrence, by_example)
            threads.run(products, by_unit)
        grads = {"weight_ih": dw, "weight_hh": du}
        if "bias_ih" in sums:
            grads |= {"bias_ih": db[list(self.x_gates)].reshape(-1), "bias_hh": db[list(self.h_gates)].reshape(-1)}
        return grads, dx.transpose(0, 2, 1), tuple(part.T for part in d)


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

    def biases(self, params: dict) -> tuple[Array | None, Array | None]:
        if "bias_ih" not in params:
            return None, None
        b, b_hh = params["bias_ih"].copy(), params["bias_hh"]
        two = len(b) // 3 * 2
        b[:two] += b_hh[:two]  # only b_hn must wait for the reset gate
        return b, b_hh[two:]

    def residual(self, states: tuple[Array, ...], kept: tuple[Array, ...]) -> gru.Residual:
        (h,) = states
        return gru.Residual(h[:-1], *kept)


class _Bytes:
    """Memory for a compiled function, from an address on that begins a line of the cache."""

    LINE = 64

    def __init__(self, size: int) -> None:
        self.array = memory.empty((size + self.LINE,), np.uint8)
        self.address = -(-_address(self.array) // self.LINE) * self.LINE


class _Packed:
    """Weights as the compiled products want them: for each (units, gates, K) of `forms` a matrix, of zeros at first."""

    def __init__(self, dtype: np.dtype, *forms: tuple[int, int, int]) -> None:
        self.compiled, self.like, self.forms = _compiled(), dtype.type(0), forms
        vector = self.compiled.BYTES
        self.rows = self.compiled.ROWS  # of one product
        self.spare = self.rows * vector  # bytes of its sums
        units = vector // dtype.itemsize
        self.sizes = [-(-H // units) * G * K * vector for H, G, K in forms]
        self.memory = _Bytes(sum(self.sizes))
        ends = np.cumsum([self.memory.address, *self.sizes])
        self.addresses = [int(end) for end in ends[:-1]]
        for k, (_, _, K) in enumerate(forms):
            if K == 1:  # a bias, which may be absent
                self.put(k, np.zeros((forms[k][0] * forms[k][1], 1), dtype), forms[k][0])

    def put(self, k: int, weight: Array, units: int) -> None:
        """Pack a matrix (gates * units, K) of any strides."""
        _, gates, K = self.forms[k]
        at, strides = _address(weight), weight.strides
        self.compiled.pack_weights(at, *strides, units, gates, K, self.addresses[k], self.like)


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def _parts(multiplications: int) -> int:
    return max(1, min(threads.threads(), multiplications // OPERATIONS))


def _rows(array: Array) -> Array:
    """(T, F, N) as (T, N, F) whose last axis is dense: a view where it is that already."""
    turned = array.transpose(0, 2, 1)
    return turned if turned.strides[2] == array.itemsize else np.ascontiguousarray(turned)


def _flags(valid: Array) -> Array:
    """(T, 1, N) as (T, N) of bytes."""
    return np.ascontiguousarray(valid[:, 0, :]).view(np.uint8)


def _table(*arrays: Array | None) -> Array:
    """Of each array (T, N, ...) address and two pitches; zeros for an absent one."""
    return np.array([(0, 0, 0) if a is None else (_address(a), *a.strides[:2]) for a in arrays], np.int64)


def _by_block(weight: Array, gates: tuple[int, ...]) -> Array:
    """The rows of a weight with its gates in the order of their blocks in dz."""
    H = len(weight) // len(gates)
    order = np.argsort(gates)
    if (order[1:] > order[:-1]).all():
        return weight
    return np.concatenate([weight[g * H : (g + 1) * H] for g in order])
