"""The kernels of RNN, LSTM and GRU for NumPy: what a step does, forward and back, in place.

The equations and their numbers are those of the cells; what the recurrences share is in `_in_place.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..cells import gru, lstm, rnn
from . import _memory as memory
from ._in_place import Array, Fixed, InPlace, side_by_side


def _halve(weight: Array | None, rows: int, order: tuple[slice, ...] = ()) -> Array | None:
    """A copy of the weight or bias with its gate blocks in `order` and the first `rows` rows halved."""
    if weight is None:
        return None
    copy = np.concatenate([weight[block] for block in order]) if order else weight.copy()
    copy[:rows] *= 0.5
    return copy


def _parts(gates: Array, count: int) -> tuple[Array, ...]:
    """The `count` gates of (k, count*H, N), each (k, H, N)."""
    H = gates.shape[1] // count
    return tuple(gates[:, m * H : (m + 1) * H] for m in range(count))


def _logistic(a: Array, half: Array) -> None:
    """tanh(z/2) -> sigmoid(z)."""
    a *= half
    a += half


def _one_minus_square(a: Array, out: Array) -> None:
    np.multiply(a, a, out=out)
    np.subtract(1, out, out=out)


@functools.cache
def _scales(H: int, dtype: np.dtype) -> tuple[Array, Array]:
    """What takes gates i f g o to tanh and back: z becomes scale * tanh(scale * z) + shift, a sigmoid but for g."""
    scale, shift = np.full((4 * H, 1), 0.5, dtype), np.full((4 * H, 1), 0.5, dtype)
    scale[2 * H : 3 * H], shift[2 * H : 3 * H] = 1, 0
    return scale, shift


def _sum(weight: Array, x: Array, bias: Array | None) -> Array:
    z = np.dot(weight, x)
    if bias is not None:
        z += bias[:, None]
    return z


def _slope(s: Array, out: Array) -> None:
    """S (1 - s), the derivative of the sigmoid."""
    np.subtract(1, s, out=out)
    out *= s


class RNN(InPlace):
    """z becomes h by (1) and (2) of `cells/rnn.py`; backward, dz = dh * phi'(z)."""

    def make(self, k: int, H: int, N: int, dtype: Any) -> tuple[Array, ...]:
        return ()

    def step(self, fixed: Fixed, z: Array, pre: Any, row: tuple) -> None:
        _, h = row
        if pre is not None:
            z += pre  # (1)
        if fixed.cell.nonlinearity == "tanh":  # (2)
            np.tanh(z, out=h)
        else:
            np.maximum(z, 0, out=h)

    def once(self, cell: Any, params: dict, x: Array, state: tuple) -> tuple:
        """One step of streaming."""
        z = _sum(params["weight_ih"], x, params.get("bias_ih"))
        z += _sum(params["weight_hh"], state[0], params.get("bias_hh"))  # (1)
        return (np.tanh(z, out=z) if cell.nonlinearity == "tanh" else np.maximum(z, 0, out=z),)  # (2)

    def residual(self, states: tuple, buffers: tuple) -> rnn.Residual:
        (h,) = states
        return rnn.Residual(h[:-1], h[1:])

    def coefficients(self, cell: Any, residual: Any, valid: Array | None) -> tuple[Array, ...]:
        A = memory.empty(residual.h.shape, residual.h.dtype)
        if cell.nonlinearity == "tanh":
            _one_minus_square(residual.h, A)
        else:
            np.greater(residual.h, 0, out=A, casting="unsafe")
        if valid is None:
            return (A,)
        A *= valid
        return A, ~valid

    def step_backward(self, parts: tuple, U_T: Array, dstate: tuple, spare: Array) -> None:
        (dh,) = dstate
        A, *stands = parts
        A *= dh  # (3)
        _carry(U_T, A, dh, stands, spare)  # (4)


def _carry(U_T: Array, dz: Array, dh: Array, stands: list, spare: Array) -> None:
    """Write U^T dz into dh; where the state stood still, dh stays."""
    if stands:
        np.multiply(dh, stands[0], out=spare)
    np.dot(U_T, dz, out=dh)
    if stands:
        dh += spare


class LSTM(InPlace):
    """Gates in the order i f o g forward, so that the sigmoids stand together; i f g o, the parameters', backward."""

    def prepare(self, cell: Any, params: dict) -> tuple[Array, Array, Array | None, Array | None]:
        W, U, b, _ = super().prepare(cell, params)
        H = U.shape[1]
        order = (slice(0, 2 * H), slice(3 * H, 4 * H), slice(2 * H, 3 * H))
        return _halve(W, 3 * H, order), _halve(U, 3 * H, order), _halve(b, 3 * H, order), None  # type: ignore[return-value]

    def make(self, k: int, H: int, N: int, dtype: Any) -> tuple[Array, ...]:
        gates = memory.empty((k, 4 * H, N), dtype)
        return gates, gates[:, : 3 * H], *_parts(gates, 4), memory.empty((k, H, N), dtype)

    def step(self, fixed: Fixed, z: Array, pre: Any, row: tuple) -> None:
        _, c_prev, h, c, gates, sigmoids, i, f, o, g, tanh_c = row
        if pre is not None:
            z += pre  # (1)
        np.tanh(z, out=gates)  # (2)
        _logistic(sigmoids, fixed.half)
        np.multiply(f, c_prev, out=c)  # (3)
        np.multiply(i, g, out=tanh_c)
        c += tanh_c
        np.tanh(c, out=tanh_c)  # (4)
        np.multiply(o, tanh_c, out=h)

    def once(self, cell: Any, params: dict, x: Array, state: tuple) -> tuple:
        """One step of streaming."""
        h_prev, c_prev = state
        H = len(h_prev)
        z = _sum(params["weight_ih"], x, params.get("bias_ih"))
        z += _sum(params["weight_hh"], h_prev, params.get("bias_hh"))  # (1)
        scale, shift = _scales(H, z.dtype)
        z *= scale  # (2)
        np.tanh(z, out=z)
        z *= scale
        z += shift
        c = z[H : 2 * H] * c_prev  # (3)
        i = z[:H]
        i *= z[2 * H : 3 * H]
        c += i
        h = np.tanh(c)
        h *= z[3 * H :]  # (4)
        return h, c

    def residual(self, states: tuple, buffers: tuple) -> lstm.Residual:
        (h, c), (*_, i, f, o, g, tanh_c) = states, buffers
        return lstm.Residual(h[:-1], c[:-1], i, f, g, o, tanh_c)

    def coefficients(self, cell: Any, residual: Any, valid: Array | None) -> tuple[Array, ...]:
        _, c_prev, i, f, g, o, tanh_c = residual
        k, H, N = i.shape
        A = memory.empty((k, 4, H, N), i.dtype)
        _slope(i, A[:, 0])  # (6), but for dc and dh
        A[:, 0] *= g
        _slope(f, A[:, 1])
        A[:, 1] *= c_prev
        _one_minus_square(g, A[:, 2])
        A[:, 2] *= i
        _slope(o, A[:, 3])
        A[:, 3] *= tanh_c
        into_c = memory.empty((k, H, N), i.dtype)  # (5)
        _one_minus_square(tanh_c, into_c)
        into_c *= o
        if valid is None:
            return A, into_c, f
        A *= valid[:, None]
        into_c *= valid
        return A, into_c, np.where(valid, f, np.ones((), f.dtype)), ~valid

    def step_backward(self, parts: tuple, U_T: Array, dstate: tuple, spare: Array) -> None:
        dh, dc = dstate
        A, into_c, f, *stands = parts
        np.multiply(dh, into_c, out=into_c)  # (5)
        dc += into_c
        A[:3] *= dc  # (6)
        A[3] *= dh
        dc *= f  # (7)
        _carry(U_T, A.reshape(-1, A.shape[-1]), dh, stands, spare)  # (8)

    def gradients(self, dz: Array) -> tuple[Array, Array]:
        return super().gradients(dz.reshape(dz.shape[0], -1, dz.shape[-1]))


class GRU(InPlace):
    """Reset after. Backward, the four blocks are dp_n, dr, dz, dq_n: the last three are the recurrent operand."""

    fuses = False  # the reset gate stands between the two shares

    def prepare(self, cell: Any, params: dict) -> tuple[Array, Array, Array | None, Array | None]:
        W, U, b, b_hh = params["weight_ih"], params["weight_hh"], params.get("bias_ih"), params.get("bias_hh")
        H = U.shape[1]
        if b is not None and b_hh is not None:  # of b_hh only b_hn must wait for the reset gate
            b = b.copy()
            b[: 2 * H] += b_hh[: 2 * H]
            b_hh = b_hh[2 * H :, None]
        return _halve(W, 2 * H), _halve(U, 2 * H), _halve(b, 2 * H), b_hh  # type: ignore[return-value]

    def make(self, k: int, H: int, N: int, dtype: Any) -> tuple[Array, ...]:
        gates = memory.empty((k, 3 * H, N), dtype)
        return gates[:, : 2 * H], *_parts(gates, 3), memory.empty((k, H, N), dtype)

    def step(self, fixed: Fixed, z: Array, pre: Any, row: tuple) -> None:
        h_prev, h, sigmoids, r, update, n, q_n = row
        two = len(sigmoids)
        np.add(z[:two], pre[:two], out=sigmoids)  # (2)
        np.tanh(sigmoids, out=sigmoids)
        _logistic(sigmoids, fixed.half)
        if fixed.bias is None:
            q_n[...] = z[two:]
        else:
            np.add(z[two:], fixed.bias, out=q_n)
        np.multiply(r, q_n, out=n)  # (3)
        n += pre[two:]
        np.tanh(n, out=n)
        np.subtract(h_prev, n, out=h)  # (4), as n + z (h_prev - n)
        h *= update
        h += n

    def once(self, cell: Any, params: dict, x: Array, state: tuple) -> tuple:
        """One step of streaming."""
        (h_prev,) = state
        H = len(h_prev)
        p = _sum(params["weight_ih"], x, params.get("bias_ih"))
        q = _sum(params["weight_hh"], h_prev, params.get("bias_hh"))
        gates, half = p[: 2 * H], np.asarray(0.5, p.dtype)
        gates += q[: 2 * H]  # (2)
        gates *= half
        np.tanh(gates, out=gates)
        _logistic(gates, half)
        n = q[2 * H :]
        n *= p[:H]  # (3)
        n += p[2 * H :]
        np.tanh(n, out=n)
        h = h_prev - n  # (4), as n + z (h_prev - n)
        h *= p[H : 2 * H]
        h += n
        return (h,)

    def residual(self, states: tuple, buffers: tuple) -> gru.Residual:
        (h,), (_, r, z, n, q_n) = states, buffers
        return gru.Residual(h[:-1], r, z, n, q_n)

    def coefficients(self, cell: Any, residual: Any, valid: Array | None) -> tuple[Array, ...]:
        h_prev, r, z, n, q_n = residual
        k, H, N = r.shape
        A = memory.empty((k, 4, H, N), r.dtype)
        dp_n, dr, dz, dq_n = (A[:, m] for m in range(4))
        np.subtract(1, z, out=dp_n)  # (5), but for dh
        _one_minus_square(n, dq_n)
        dp_n *= dq_n
        np.multiply(dp_n, r, out=dq_n)  # (6)
        _slope(r, dr)  # (7)
        dr *= q_n
        dr *= dp_n
        _slope(z, dz)
        dz *= h_prev - n
        if valid is None:
            return A, z
        A *= valid[:, None]
        return A, np.where(valid, z, np.ones((), z.dtype))

    def step_backward(self, parts: tuple, U_T: Array, dstate: tuple, spare: Array) -> None:
        (dh,) = dstate
        A, z = parts
        A *= dh
        np.multiply(dh, z, out=spare)
        np.dot(U_T, A[1:].reshape(-1, A.shape[-1]), out=dh)  # (8)
        dh += spare

    def gradients(self, dz: Array) -> tuple[Array, Array]:
        flat = side_by_side(dz.reshape(dz.shape[0], -1, dz.shape[-1]))
        H = dz.shape[2]
        return np.concatenate((flat[H : 3 * H], flat[:H])), flat[H:]
