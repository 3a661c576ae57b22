"""A cell of one's own, the minimal gated unit, as a layer: deep, in both directions, with lengths, on every backend.

Run it as

    python examples/minimal_gated_unit.py

The equations, with columns as examples, x_t (I, N), h_t (H, N), and the blocks f and n of H rows of W, U and b. The
products with U see u = m * h_{t-1}, where m is the mask of variational dropout, 1 without:

    (1)  f = sigmoid(W_f x_t + U_f u + b_f)
    (2)  v = f * u
    (3)  n = tanh(W_n x_t + U_n v + b_n)
    (4)  h_t = (1 - f) * h_{t-1} + f * n

and back, with dh the gradient of h_t, from above and from the next step:

    (5)  da_n = dh * f * (1 - n^2)
    (6)  dv   = U_n^T da_n
    (7)  da_f = (dh * (n - h_{t-1}) + dv * u) * f (1 - f)
    (8)  dh_prev = dh * (1 - f) + m * (dv * f + U_f^T da_f)
    (9)  dU_f = sum_t da_f u^T,   dU_n = sum_t da_n v^T

What is not here, the layer does: W x_t + b for all steps in one product, and its derivative.

Source: G. Zhou et al., Minimal gated unit for recurrent neural networks, arXiv:1603.09420 (2016).
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

import polyrnn as pr
from polyrnn.activations import sigmoid, sigmoid_derivative, tanh, tanh_derivative
from polyrnn.cells import Cell, blocks, over_steps


class Residual(NamedTuple):
    """What a step leaves for its backward pass, each (H, N)."""

    h_prev: Any
    f: Any
    n: Any


@dataclass(frozen=True)
class MGUCell(Cell):
    """The mathematics, in the array namespace `xp` of whoever calls."""

    gates: ClassVar[int] = 2
    drops_state: ClassVar[bool] = True  # the products with U see `dropped`

    def step(self, xp, params, pre, state):
        """Equations (1) to (4)."""
        (h_prev,) = state
        U_f, U_n = halves(params["weight_hh"])
        p_f, p_n = blocks(pre, 2)
        u = self.dropped(xp, h_prev)
        f = sigmoid(xp, p_f + U_f @ u)  # (1)
        v = f * u  # (2)
        n = tanh(xp, p_n + U_n @ v)  # (3)
        h = (1 - f) * h_prev + f * n  # (4)
        return (h,), Residual(h_prev, f, n)

    def step_backward(self, xp, params, residual, dstate):
        """Equations (5) to (8)."""
        (dh,) = dstate
        h_prev, f, n = residual
        U_f, U_n = halves(params["weight_hh"])
        da_n = dh * f * tanh_derivative(xp, n)  # (5)
        dv = U_n.mT @ da_n  # (6)
        u = self.dropped(xp, h_prev)
        da_f = (dh * (n - h_prev) + dv * u) * sigmoid_derivative(xp, f)  # (7)
        dh_prev = dh * (1 - f) + self.dropped(xp, dv * f + U_f.mT @ da_f)  # (8)
        da = xp.concat((da_f, da_n), axis=-2)
        return da, da, (dh_prev,)  # of the input's share, of the recurrent share, of the state before

    def recurrent_gradients(self, xp, residuals, drec):
        """Equation (9)."""
        da_f, da_n = blocks(drec, 2)
        u = self.dropped(xp, residuals.h_prev)
        return xp.concat((over_steps(xp, da_f, u), over_steps(xp, da_n, residuals.f * u)), axis=-2)  # (9)


def halves(U):
    """U_f and U_n, (..., H, H)."""
    size = U.shape[-1]
    return U[..., :size, :], U[..., size:, :]


@dataclass(frozen=True)
class MGU(pr.Recurrent):
    """The layer: options, parameters, doors and all else are those of RNN, LSTM and GRU."""

    @functools.cached_property
    def cell(self):
        """The cell's equations."""
        return MGUCell()


if __name__ == "__main__":
    from polyrnn.gradcheck import check_layer

    layer = MGU(3, 5, num_layers=2, bidirectional=True, dropout=0.2, recurrent_dropout=0.2)
    print(check_layer(layer, lengths=True))

    params = layer.init(seed=0)
    y, h = layer(params, np.ones((7, 4, 3), dtype="float32"), lengths=[7, 0, 3, 5], seed=1)
    print("y", y.shape, "h", h.shape)
