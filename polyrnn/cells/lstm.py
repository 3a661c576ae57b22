r"""The long short-term memory cell, with forget gate.

Equations
---------
With columns as examples, x_t (I, N), h_t and c_t (H, N); the gates i, f, g, o are the four blocks of H rows of z:

    (1)  z_t = W x_t + b_ih + b_hh + U h_{t-1}
    (2)  i = sigmoid(z_i)    f = sigmoid(z_f)    g = tanh(z_g)    o = sigmoid(z_o)
    (3)  c_t = f * c_{t-1} + i * g
    (4)  h_t = o * tanh(c_t)

Backward
--------
With dh and dc the gradients of h_t and c_t (from above and from step t+1):

    (5)  dc <- dc + dh * o * (1 - tanh(c_t)^2)
    (6)  dz_i = dc * g * i (1 - i)               dz_f = dc * c_{t-1} * f (1 - f)
         dz_g = dc * i * (1 - g^2)               dz_o = dh * tanh(c_t) * o (1 - o)
    (7)  dc_prev = dc * f
    (8)  dh_prev = U^T dz
    (9)  dx_t    = W^T dz
    (10) dW      = sum_t dz_t x_t^T,  dU = sum_t dz_t h_{t-1}^T,  db_ih = db_hh = sum_t sum_n dz_t

With a projection (LSTMP), what (4) gives is m_t, and the output is smaller, h_t (P, N):

    (11) h_t = R m_t
    (12) dm  = R^T dh, which takes the place of dh in (5) and (6)
    (13) dR  = sum_t dh_t m_t^T

Parameters: weight_ih = W (4H, I), weight_hh = U (4H, H), bias_ih, bias_hh (4H,); blocks i f g o. With a projection U is
(4H, P), and weight_hr = R (P, H).

Source: S. Hochreiter and J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997); F. Gers,
J. Schmidhuber and F. Cummins, Learning to forget, Neural Computation 12 (2000); the projection: H. Sak, A. Senior and
F. Beaufays, Long short-term memory based recurrent neural network architectures (2014). The form is torch.nn.LSTM's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from ._cell import Cell, blocks, over_steps


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N)."""

    h_prev: Any
    c_prev: Any
    i: Any
    f: Any
    g: Any
    o: Any
    tanh_c: Any


@dataclass(frozen=True)
class LSTMCell(Cell):
    """c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)."""

    gates: ClassVar[int] = 4
    gate_names: ClassVar[str] = "ifgo"
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    drops_state: ClassVar[bool] = True

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) to (4)."""
        h_prev, c_prev = state
        z = pre + params["weight_hh"] @ self.dropped(xp, h_prev)  # (1)
        z_i, z_f, z_g, z_o = blocks(z, 4)
        i, f, g, o = sigmoid(xp, z_i), sigmoid(xp, z_f), tanh(xp, z_g), sigmoid(xp, z_o)  # (2)
        c = f * c_prev + i * g  # (3)
        tanh_c = tanh(xp, c)
        h = o * tanh_c  # (4)
        return (h, c), Residual(h_prev, c_prev, i, f, g, o, tanh_c)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (5) to (8)."""
        dh, dc = dstate
        _, c_prev, i, f, g, o, tanh_c = residual
        dc = dc + dh * o * tanh_derivative(xp, tanh_c)  # (5)
        dz_i = dc * g * sigmoid_derivative(xp, i)  # (6)
        dz_f = dc * c_prev * sigmoid_derivative(xp, f)
        dz_g = dc * i * tanh_derivative(xp, g)
        dz_o = dh * tanh_c * sigmoid_derivative(xp, o)
        dz = xp.concat((dz_i, dz_f, dz_g, dz_o), axis=-2)
        dc_prev = dc * f  # (7)
        dh_prev = self.dropped(xp, params["weight_hh"].mT @ dz)  # (8)
        return dz, dz, (dh_prev, dc_prev)


@dataclass(frozen=True)
class ProjectedLSTMCell(LSTMCell):
    """The same with h_t = R m_t, m_t = o tanh(c_t)."""

    proj_size: int = 1

    def state_sizes(self, hidden_size: int) -> tuple[int, ...]:
        """P for h, H for c."""
        return self.proj_size, hidden_size

    def shapes(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Those of the LSTM, U narrower, and R."""
        shapes = super().shapes(input_size, hidden_size, bias)
        return shapes | {"weight_hh": (4 * hidden_size, self.proj_size), "weight_hr": (self.proj_size, hidden_size)}

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) to (4) and (11)."""
        (m, c), residual = super().step(xp, params, pre, state)
        return (params["weight_hr"] @ m, c), residual  # (11)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (12) and (5) to (8); `drec` is the gradient of h, which (13) needs."""
        dh, dc = dstate
        dm = params["weight_hr"].mT @ dh  # (12)
        dz, _, before = super().step_backward(xp, params, residual, (dm, dc))
        return dz, dh, before

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """Equations (10) and (13)."""
        grads = super().weight_gradients(xp, params, x, residuals, dpre, dpre)
        return grads | {"weight_hr": over_steps(xp, drec, residuals.o * residuals.tanh_c)}  # (13)
