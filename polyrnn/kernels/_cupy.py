"""The kernels of RNN, LSTM and GRU for CuPy: what a thread does in a step, forward and back.

The equations and their numbers are those of the cells; what the recurrences share, and the words in which a step is
written, are in `_fused.py`.
"""

from __future__ import annotations

from typing import Any

from ..cells import gru, lstm, rnn
from ._fused import Array, Fused


class RNN(Fused):
    """h = phi(p + q)."""

    parts = 0
    residual = rnn.Residual

    def definitions(self, cell: Any) -> str:
        phi, d_phi = ("tanh(z)", "d_tanh(h)") if cell.nonlinearity == "tanh" else ("z > 0 ? z : R(0)", "h > 0")
        return f"__device__ R phi(R z) {{ return {phi}; }}\n__device__ R d_phi(R h) {{ return {d_phi}; }}\n"

    forward_step = """
    const R h = phi(p(0) + q(0));  // (1), (2)
    after(0, h);
    """
    backward_step = """
    const R h = part(1), dh = above(0);
    const R dz = dh * d_phi(h);  // (3)
    gates(0, dz, dz);
    below(0, 0);  // (4): all of it is U^T dz
    """

    def residuals(self, states: Array, parts: Array) -> rnn.Residual:
        return rnn.Residual(states[0, :-1], states[0, 1:])


class LSTM(Fused):
    """Four gates i f g o and a cell state, which stays in the thread that made it."""

    parts = 5
    residual = lstm.Residual
    forward_step = """
    const R c_prev = before(1);
    auto z = [&](int k) { return p(k) + q(k); };  // (1)
    const R i = sigmoid(z(0)), f = sigmoid(z(1)), g = tanh(z(2)), o = sigmoid(z(3));  // (2)
    const R c = f * c_prev + i * g;  // (3)
    const R tanh_c = tanh(c);
    const R h = o * tanh_c;  // (4)
    after(0, h);
    after(1, c);
    leave(0, i);
    leave(1, f);
    leave(2, g);
    leave(3, o);
    leave(4, tanh_c);
    """
    backward_step = """
    const R c_prev = part(1), i = part(2), f = part(3), g = part(4), o = part(5), tanh_c = part(6), dh = above(0);
    const R dc = above(1) + dh * o * d_tanh(tanh_c);  // (5)
    const R dz_i = dc * g * d_sigmoid(i);  // (6)
    const R dz_f = dc * c_prev * d_sigmoid(f);
    const R dz_g = dc * i * d_tanh(g);
    const R dz_o = dh * tanh_c * d_sigmoid(o);
    gates(0, dz_i, dz_i);
    gates(1, dz_f, dz_f);
    gates(2, dz_g, dz_g);
    gates(3, dz_o, dz_o);
    below(1, dc * f);  // (7)
    below(0, 0);  // (8): all of it is U^T dz
    """

    def residuals(self, states: Array, parts: Array) -> lstm.Residual:
        return lstm.Residual(states[0, :-1], states[1, :-1], *parts)


class GRU(Fused):
    """Reset after: the candidate's recurrent share and b_hn wait for the reset gate, so that dp and dq differ."""

    parts = 4
    residual = gru.Residual
    late_bias = True
    forward_step = """
    const R h_prev = before(0);
    const R r = sigmoid(p(0) + q(0)), z = sigmoid(p(1) + q(1));  // (2), with (1)
    const R q_n = q(2);
    const R n = tanh(p(2) + r * q_n);  // (3)
    const R h = (1 - z) * n + z * h_prev;  // (4)
    after(0, h);
    leave(0, r);
    leave(1, z);
    leave(2, n);
    leave(3, q_n);
    """
    backward_step = """
    const R h_prev = part(0), r = part(1), z = part(2), n = part(3), q_n = part(4), dh = above(0);
    const R dz = dh * (h_prev - n);  // (5)
    const R da_n = dh * (1 - z) * d_tanh(n);
    const R dr = da_n * q_n, dq_n = da_n * r;  // (6)
    const R dp_r = dr * d_sigmoid(r), dp_z = dz * d_sigmoid(z);  // (7)
    gates(0, dp_r, dp_r);
    gates(1, dp_z, dp_z);
    gates(2, da_n, dq_n);
    below(0, dh * z);  // (8), beside U^T dq
    """

    def residuals(self, states: Array, parts: Array) -> gru.Residual:
        return gru.Residual(states[0, :-1], *parts)
