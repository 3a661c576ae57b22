r"""The gated recurrent unit with clipping, layer normalisation and activations of any kind.

Equations
---------
With columns as examples, x_t (I, N), h_t (H, N); Norm normalises r and z together and n for itself. The normalisation
(then it is the identity, without a gain) and the limit of clip may be absent; s_r, s_z and s_n are activations:

    (1)  p_t = gain_ih Norm(W x_t) + b_ih
    (2)  r = s_r(clip(p_r + q_r))    z = s_z(clip(p_z + q_z))    with q_r, q_z of q_t = gain_hh Norm(U h_{t-1}) + b_hh
    (3)  reset after:   n = s_n(clip(p_n + r * q_n))
         reset before:  n = s_n(clip(p_n + q_n))   with q_n = gain_hn Norm(U_n (r * h_{t-1})) + b_hn
    (4)  h_t = (1 - z) * n + z * h_{t-1}

Backward
--------
With dh the gradient of h_t (from above and from step t+1). The gradient of clip goes through within the limits, else it
is zero; Norm' is the derivative of the normalisation:

    (5)  dz = dh * (h_{t-1} - n)       da_z = dz * s_z'       da_n = dh * (1 - z) * s_n'
    (6)  reset after:   dq_n = da_n * r       dr = da_n * q_n
         reset before:  dq_n = da_n           dr = dv * h_{t-1}   with dv = U_n^T Norm'(gain_hn dq_n)
    (7)  da_r = dr * s_r'
    (8)  dw = Norm'(gain_ih dp)    with dp of da_r, da_z, da_n;    du = Norm'(gain_hh dq)    with dq of da_r, da_z, dq_n
    (9)  reset after:   dh_prev = dh * z + U^T du
         reset before:  dh_prev = dh * z + dv * r + U_r^T du_r + U_z^T du_z
    (10) dx_t = W^T dw
    (11) dW = sum_t dw_t x_t^T,  db_ih = sum_t sum_n dp_t,  db_hh = sum_t sum_n dq_t,  dU = sum_t du_t h_{t-1}^T
         (reset before: dU_n = sum_t du_n (r * h_{t-1})^T)
    (12) dgain_ih = sum_t sum_n dp_t Norm(W x_t),  dgain_hh = sum_t sum_n dq_t Norm(U h_{t-1}), for n reset before
         Norm(U_n (r * h_{t-1}))

Parameters: those of the GRU, blocks r z n; weight_layer_norm_ih = gain_ih and weight_layer_norm_hh = gain_hh (3H,).

Source: the normalisation: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer normalization, arXiv:1607.06450 (2016), with
the reset after; clipping of the arguments and activations of all kinds: ONNX' GRU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .._door import wide
from ..activations import Activation
from ._cell import Cell, blocks, over_steps, over_steps_and_examples
from ._parts import clip, clip_backward, normalize, normalize_backward
from .gru import split_candidate

SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N): a are the clipped arguments of the gates."""

    h_prev: Any
    a: Any
    r: Any
    z: Any
    n: Any
    q_n: Any
    norm_ih: Any
    norm_rz: Any
    norm_n: Any


class Recurrent(NamedTuple):
    """The gradients that the weights' gradients need beside dw, which is the input's."""

    dp: Any
    dq: Any
    du: Any


@dataclass(frozen=True)
class GRUVariantCell(Cell):
    """Clipping, layer normalisation, activations of any kind; the reset after or before."""

    gates: ClassVar[int] = 3
    gate_names: ClassVar[str] = "rzn"
    drops_state: ClassVar[bool] = True

    reset_after: bool = True
    clip: float | None = None
    layer_norm: bool = False
    activations: tuple[Activation, ...] = (SIGMOID, SIGMOID, TANH)  # r z n

    @property
    def analytic(self) -> bool:  # type: ignore[override]
        """Whether there is no bend in it."""
        return self.clip is None and all(phi.analytic for phi in self.activations)

    def shapes(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Those of the GRU, and the gains."""
        gains = ("weight_layer_norm_ih", "weight_layer_norm_hh") if self.layer_norm else ()
        return super().shapes(input_size, hidden_size, bias) | dict.fromkeys(gains, (3 * hidden_size,))

    def projected_bias(self, xp: Any, params: dict) -> Any:
        """None: it stands behind the normalisation, in the step."""
        return None

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) to (4)."""
        (h_prev,) = state
        s_r, s_z, s_n = self.activations
        U_rz, U_n = split_candidate(params["weight_hh"], -2)
        gain_rz, gain_n = self._gains(params)
        h = self.dropped(xp, h_prev)
        p, norm_ih = normalize(xp, pre, params.get("weight_layer_norm_ih"), (2, 1))  # (1)
        b_rz = b_n = None
        if "bias_ih" in params:
            p = p + params["bias_ih"][..., None]
            b_rz, b_n = split_candidate(params["bias_hh"], -1)
        p_r, p_z, p_n = blocks(p, 3)
        q, norm_rz = normalize(xp, U_rz @ h, gain_rz)  # (2)
        q_r, q_z = blocks(q if b_rz is None else q + b_rz[..., None], 2)
        a_r, a_z = clip(xp, p_r + q_r, self.clip), clip(xp, p_z + q_z, self.clip)
        r, z = s_r(xp, a_r), s_z(xp, a_z)
        q_n, norm_n = normalize(xp, U_n @ (h if self.reset_after else r * h), gain_n)  # (3)
        q_n = q_n if b_n is None else q_n + b_n[..., None]
        a_n = clip(xp, p_n + (r * q_n if self.reset_after else q_n), self.clip)
        n = s_n(xp, a_n)
        new = (1 - z) * n + z * h_prev  # (4)
        a = None if self.clip is None else (a_r, a_z, a_n)
        return (new,), Residual(h_prev, a, r, z, n, q_n, norm_ih, norm_rz, norm_n)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Recurrent, tuple]:
        """Equations (5) to (9)."""
        (dh,) = dstate
        h_prev, a, r, z, n, q_n, norm_ih, norm_rz, norm_n = residual
        a_r, a_z, a_n = (None,) * 3 if a is None else a
        s_r, s_z, s_n = self.activations
        U_rz, U_n = split_candidate(params["weight_hh"], -2)
        gain_rz, gain_n = self._gains(params)
        da_z = clip_backward(xp, dh * (h_prev - n) * s_z.derivative(xp, z), a_z, self.clip)  # (5)
        da_n = clip_backward(xp, dh * (1 - z) * s_n.derivative(xp, n), a_n, self.clip)
        dq_n = da_n * r if self.reset_after else da_n  # (6)
        du_n = normalize_backward(xp, dq_n, gain_n, norm_n)  # (8)
        dv = U_n.mT @ du_n
        dr = da_n * q_n if self.reset_after else dv * self.dropped(xp, h_prev)  # (6)
        da_r = clip_backward(xp, dr * s_r.derivative(xp, r), a_r, self.clip)  # (7)
        dq_rz = xp.concat((da_r, da_z), axis=-2)
        dp, dq = xp.concat((dq_rz, da_n), axis=-2), xp.concat((dq_rz, dq_n), axis=-2)
        dw = normalize_backward(xp, dp, params.get("weight_layer_norm_ih"), norm_ih, (2, 1))  # (8)
        du_rz = normalize_backward(xp, dq_rz, gain_rz, norm_rz)
        dh_prev = dh * z + self.dropped(xp, (dv if self.reset_after else dv * r) + U_rz.mT @ du_rz)  # (9)
        return dw, Recurrent(dp, dq, xp.concat((du_rz, du_n), axis=-2)), (dh_prev,)

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """Equations (11) and (12)."""
        dp, dq, du = drec
        grads = {"weight_ih": over_steps(xp, dpre, x), "weight_hh": self.recurrent_gradients(xp, residuals, du)}
        if "bias_ih" in params:
            grads = grads | {
                "bias_ih": over_steps_and_examples(xp, dp),
                "bias_hh": over_steps_and_examples(xp, dq),
            }
        if self.layer_norm:  # (12)
            values = xp.concat((residuals.norm_rz.values, residuals.norm_n.values), axis=-2)
            grads = grads | {
                "weight_layer_norm_ih": over_steps_and_examples(xp, wide(xp, dp) * residuals.norm_ih.values),
                "weight_layer_norm_hh": over_steps_and_examples(xp, wide(xp, dq) * values),
            }
        return grads

    def recurrent_gradients(self, xp: Any, residuals: Any, drec: Any) -> Any:
        """Equation (11): what U_n meets is h, or r * h."""
        if self.reset_after:
            return super().recurrent_gradients(xp, residuals, drec)
        h = self.dropped(xp, residuals.h_prev)
        du_rz, du_n = split_candidate(drec, -2)
        return xp.concat((over_steps(xp, du_rz, h), over_steps(xp, du_n, residuals.r * h)), axis=-2)

    def _gains(self, params: dict) -> tuple[Any, Any]:
        """Of r and z together, and of n; None if there are none."""
        return split_candidate(params["weight_layer_norm_hh"], -1) if self.layer_norm else (None, None)
