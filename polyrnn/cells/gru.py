r"""The gated recurrent unit, with the reset gate after or before the recurrent product.

Equations
---------
With columns as examples, x_t (I, N), h_t (H, N); the gates r, z, n are the three blocks of H rows of W, U and b:

    (1)  p_t = W x_t + b_ih
    (2)  r = sigmoid(p_r + U_r h_{t-1} + b_hr)    z = sigmoid(p_z + U_z h_{t-1} + b_hz)
    (3)  reset after:   n = tanh(p_n + r * q)     with q = U_n h_{t-1} + b_hn
         reset before:  n = tanh(p_n + U_n (r * h_{t-1}) + b_hn)
    (4)  h_t = (1 - z) * n + z * h_{t-1}

Backward
--------
With dh the gradient of h_t (from above and from step t+1); dp and dq are the gradients of the pre-activations on the
input's and on the recurrent side, a_n the argument of tanh in (3):

    (5)  dz = dh * (h_{t-1} - n)       dn = dh * (1 - z)       da_n = dn * (1 - n^2)
    (6)  reset after:   dr = da_n * q              dq_n = da_n * r
         reset before:  dv = U_n^T da_n            dr = dv * h_{t-1}        dq_n = da_n       with v = r * h_{t-1}
    (7)  dp_r = dq_r = dr * r (1 - r)      dp_z = dq_z = dz * z (1 - z)      dp_n = da_n
    (8)  reset after:   dh_prev = dh * z + U^T dq
         reset before:  dh_prev = dh * z + dv * r + U_r^T dq_r + U_z^T dq_z
    (9)  dx_t = W^T dp
    (10) dW = sum_t dp_t x_t^T,  db_ih = sum_t sum_n dp_t,  db_hh = sum_t sum_n dq_t,  dU = sum_t dq_t h_{t-1}^T
         (reset before: dU_n = sum_t dq_n v_t^T)

Parameters: weight_ih = W (3H, I), weight_hh = U (3H, H), bias_ih, bias_hh (3H,); blocks r z n.

Source: K. Cho et al., Learning phrase representations using RNN encoder-decoder, arXiv:1406.1078 (2014): version 3
has the reset before, version 1 after, and z keeps the past as here (J. Chung et al., arXiv:1412.3555, and the textbook
have 1 - z for it); the form of reset after is that of torch.nn.GRU and cuDNN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from ._cell import Cell, blocks, over_steps


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N); `operand` is q (reset after) or v (reset before)."""

    h_prev: Any
    r: Any
    z: Any
    n: Any
    operand: Any


@dataclass(frozen=True)
class GRUCell(Cell):
    """Reset after: n = tanh(p_n + r * (U_n h_{t-1} + b_hn)), h_t = (1 - z) n + z h_{t-1}."""

    gates: ClassVar[int] = 3
    gate_names: ClassVar[str] = "rzn"
    drops_state: ClassVar[bool] = True

    def projected_bias(self, xp: Any, params: dict) -> Any:
        """b_ih alone: the reset gate stands between b_hn and b_in."""
        return params.get("bias_ih")

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (2) to (4)."""
        (h_prev,) = state
        q = params["weight_hh"] @ self.dropped(xp, h_prev)
        q = q + params["bias_hh"][..., None] if "bias_hh" in params else q
        p_r, p_z, p_n = blocks(pre, 3)
        q_r, q_z, q_n = blocks(q, 3)
        r, z = sigmoid(xp, p_r + q_r), sigmoid(xp, p_z + q_z)  # (2)
        n = tanh(xp, p_n + r * q_n)  # (3)
        h = (1 - z) * n + z * h_prev  # (4)
        return (h,), Residual(h_prev, r, z, n, q_n)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (5) to (8)."""
        (dh,) = dstate
        h_prev, r, z, n, q_n = residual
        dz = dh * (h_prev - n)  # (5)
        da_n = dh * (1 - z) * tanh_derivative(xp, n)
        dr = da_n * q_n  # (6)
        dq_n = da_n * r
        dp_r, dp_z = dr * sigmoid_derivative(xp, r), dz * sigmoid_derivative(xp, z)  # (7)
        dp = xp.concat((dp_r, dp_z, da_n), axis=-2)
        dq = xp.concat((dp_r, dp_z, dq_n), axis=-2)
        dh_prev = dh * z + self.dropped(xp, params["weight_hh"].mT @ dq)  # (8)
        return dp, dq, (dh_prev,)


@dataclass(frozen=True)
class GRUResetBeforeCell(GRUCell):
    """Reset before: n = tanh(p_n + U_n (r * h_{t-1}) + b_hn), h_t = (1 - z) n + z h_{t-1}."""

    def projected_bias(self, xp: Any, params: dict) -> Any:
        """Both biases: nothing stands between them."""
        return Cell.projected_bias(self, xp, params)

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (2) to (4)."""
        (h_prev,) = state
        U_rz, U_n = split_candidate(params["weight_hh"], -2)
        p_r, p_z, p_n = blocks(pre, 3)
        h = self.dropped(xp, h_prev)
        q_r, q_z = blocks(U_rz @ h, 2)
        r, z = sigmoid(xp, p_r + q_r), sigmoid(xp, p_z + q_z)  # (2)
        v = r * h
        n = tanh(xp, p_n + U_n @ v)  # (3)
        new = (1 - z) * n + z * h_prev  # (4)
        return (new,), Residual(h_prev, r, z, n, v)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (5) to (8)."""
        (dh,) = dstate
        h_prev, r, z, n, _ = residual
        U_rz, U_n = split_candidate(params["weight_hh"], -2)
        dz = dh * (h_prev - n)  # (5)
        da_n = dh * (1 - z) * tanh_derivative(xp, n)
        dv = U_n.mT @ da_n  # (6)
        dr = dv * self.dropped(xp, h_prev)
        dp_rz = xp.concat((dr * sigmoid_derivative(xp, r), dz * sigmoid_derivative(xp, z)), axis=-2)  # (7)
        dp = xp.concat((dp_rz, da_n), axis=-2)
        dh_prev = dh * z + self.dropped(xp, dv * r + U_rz.mT @ dp_rz)  # (8)
        return dp, dp, (dh_prev,)

    def recurrent_gradients(self, xp: Any, residuals: Residual, drec: Any) -> Any:
        """Equation (10): the candidate's recurrent operand is v."""
        dq_rz, dq_n = split_candidate(drec, -2)
        h = self.dropped(xp, residuals.h_prev)
        return xp.concat((over_steps(xp, dq_rz, h), over_steps(xp, dq_n, residuals.operand)), axis=-2)


def split_candidate(z: Any, axis: int) -> tuple[Any, Any]:
    """The blocks r and z together, and that of the candidate n, along an axis from the end."""
    two = z.shape[axis] // 3 * 2
    rows = (slice(None),) * (-axis - 1)
    return z[(..., slice(None, two), *rows)], z[(..., slice(two, None), *rows)]
