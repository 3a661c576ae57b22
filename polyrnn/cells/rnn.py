r"""The simple (Elman) recurrent cell.

Equations
---------
With columns as examples, x_t (I, N), h_t (H, N), and phi = tanh or relu:

    (1)  z_t = W x_t + b_ih + b_hh + U h_{t-1}
    (2)  h_t = phi(z_t)

Backward
--------
With dh the gradient of h_t (from above and from step t+1):

    (3)  dz      = dh * phi'(z_t)             tanh: 1 - h_t^2;  relu: 1 where h_t > 0
    (4)  dh_prev = U^T dz
    (5)  dx_t    = W^T dz
    (6)  dW      = sum_t dz_t x_t^T,  dU = sum_t dz_t h_{t-1}^T,  db_ih = db_hh = sum_t sum_n dz_t

Parameters: weight_ih = W (H, I), weight_hh = U (H, H), bias_ih, bias_hh (H,).

Source: J. L. Elman, Finding structure in time, Cognitive Science 14 (1990); the form is that of torch.nn.RNN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..activations import relu, relu_derivative, tanh, tanh_derivative
from ._cell import Cell

PHI = {"tanh": (tanh, tanh_derivative), "relu": (relu, relu_derivative)}


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N)."""

    h_prev: Any
    h: Any


@dataclass(frozen=True)
class RNNCell(Cell):
    """h_t = phi(W x_t + U h_{t-1} + b)."""

    gates: ClassVar[int] = 1
    nonlinearity: str = "tanh"

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) and (2)."""
        (h_prev,) = state
        phi, _ = PHI[self.nonlinearity]
        z = pre + params["weight_hh"] @ h_prev  # (1)
        h = phi(xp, z)  # (2)
        return (h,), Residual(h_prev, h)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (3) and (4)."""
        (dh,) = dstate
        _, derivative = PHI[self.nonlinearity]
        dz = dh * derivative(xp, residual.h)  # (3)
        dh_prev = params["weight_hh"].mT @ dz  # (4)
        return dz, dz, (dh_prev,)
