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

With a limit of clip, phi is taken of clip(z_t), and (3) is zero beyond the limit; phi may be any activation.

Parameters: weight_ih = W (H, I), weight_hh = U (H, H), bias_ih, bias_hh (H,).

Source: J. L. Elman, Finding structure in time, Cognitive Science 14 (1990); the form is that of torch.nn.RNN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..activations import Activation, relu, relu_derivative, tanh, tanh_derivative
from ._cell import Cell
from ._parts import clip, clip_backward

PHI = {"tanh": (tanh, tanh_derivative), "relu": (relu, relu_derivative)}


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N)."""

    h_prev: Any
    h: Any


@dataclass(frozen=True)
class RNNCell(Cell):
    """h_t = phi(W x_t + U h_{t-1} + b)."""

    gates: ClassVar[int] = 1
    drops_state: ClassVar[bool] = True
    nonlinearity: str = "tanh"

    @property
    def analytic(self) -> bool:  # type: ignore[override]
        """Whether there is no bend in it."""
        return self.nonlinearity == "tanh"

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) and (2)."""
        (h_prev,) = state
        phi, _ = PHI[self.nonlinearity]
        z = pre + params["weight_hh"] @ self.dropped(xp, h_prev)  # (1)
        h = phi(xp, z)  # (2)
        return (h,), Residual(h_prev, h)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (3) and (4)."""
        (dh,) = dstate
        _, derivative = PHI[self.nonlinearity]
        dz = dh * derivative(xp, residual.h)  # (3)
        dh_prev = self.dropped(xp, params["weight_hh"].mT @ dz)  # (4)
        return dz, dz, (dh_prev,)


class VariantResidual(NamedTuple):
    """What one step of the variant leaves, each (H, N); z is clipped."""

    h_prev: Any
    h: Any
    z: Any


@dataclass(frozen=True)
class RNNVariantCell(Cell):
    """h_t = phi(clip(W x_t + U h_{t-1} + b)), phi being any activation."""

    gates: ClassVar[int] = 1
    drops_state: ClassVar[bool] = True
    phi: Activation
    clip: float | None = None

    @property
    def analytic(self) -> bool:  # type: ignore[override]
        """Whether there is no bend in it."""
        return self.clip is None and self.phi.analytic

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, VariantResidual]:
        """Equations (1) and (2)."""
        (h_prev,) = state
        z = clip(xp, pre + params["weight_hh"] @ self.dropped(xp, h_prev), self.clip)  # (1)
        h = self.phi(xp, z)  # (2)
        return (h,), VariantResidual(h_prev, h, None if self.clip is None else z)

    def step_backward(self, xp: Any, params: dict, residual: VariantResidual, dstate: tuple) -> tuple[Any, Any, tuple]:
        """Equations (3) and (4)."""
        (dh,) = dstate
        dz = clip_backward(xp, dh * self.phi.derivative(xp, residual.h), residual.z, self.clip)  # (3)
        dh_prev = self.dropped(xp, params["weight_hh"].mT @ dz)  # (4)
        return dz, dz, (dh_prev,)
