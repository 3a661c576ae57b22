r"""The long short-term memory cell with what the literature has added to it, each part for itself or all together.

Equations
---------
With columns as examples, x_t (I, N), h_t and c_t (H, N). Each of these parts may be absent: the layer normalisation
Norm (then it is the identity, without a gain), the peepholes p, the limits of clip, the coupling; s_i, s_f, s_g, s_o
and s_h are activations, by default those of the LSTM:

    (1)  a_t = gain_ih Norm(W x_t) + gain_hh Norm(U h_{t-1}) + b_ih + b_hh
    (2)  i = s_i(clip(a_i + p_i * c_{t-1}))    f = s_f(clip(a_f + p_f * c_{t-1}))    g = s_g(clip(a_g))
         coupled: i = 1 - f
    (3)  c_t = clip(f * c_{t-1} + i * g)
    (4)  o = s_o(clip(a_o + p_o * c_t))
    (5)  u = s_h(gain_c Norm(c_t) + bias_c)
    (6)  h_t = o * u, with a projection R (o * u)

Backward
--------
With dh and dc the gradients of h_t and c_t (from above and from step t+1). The gradient of clip goes through within the
limits, else it is zero; Norm' is the derivative of the normalisation:

    (7)  with a projection  dm = R^T dh, else dm = dh
    (8)  do = dm * u        da_o = do * s_o'
    (9)  dn = dm * o * s_h'
    (10) dc <- clip'(dc + Norm'(gain_c dn) + p_o * da_o)
    (11) di = dc * g        df = dc * c_{t-1}, coupled df <- df - di        dg = dc * i
    (12) da_i = di * s_i'    da_f = df * s_f'    da_g = dg * s_g'
    (13) dc_prev = dc * f + p_i * da_i + p_f * da_f
    (14) dp = Norm'(gain_ih da)    dq = Norm'(gain_hh da)
    (15) dh_prev = U^T dq
    (16) dx_t    = W^T dp
    (17) dW = sum_t dp_t x_t^T,  dU = sum_t dq_t h_{t-1}^T,  db_ih = db_hh = sum_t sum_n da_t
         dR = sum_t dh_t (o * u)^T
    (18) dp_i = sum_t sum_n da_i * c_{t-1},  dp_f likewise,  dp_o = sum_t sum_n da_o * c_t
    (19) dgain_ih = sum_t sum_n da_t Norm(W x_t),  dgain_hh = sum_t sum_n da_t Norm(U h_{t-1})
         dgain_c = sum_t sum_n dn_t Norm(c_t),  dbias_c = sum_t sum_n dn_t

Parameters: those of the LSTM; blocks i f g o, coupled f g o. weight_peephole = p (3H,), blocks i f o, coupled (2H,),
f o; weight_layer_norm_ih = gain_ih and weight_layer_norm_hh = gain_hh (4H,), weight_layer_norm_c = gain_c and
bias_layer_norm_c = bias_c (H,); weight_hr = R (P, H).

Source: the peepholes: F. Gers, N. Schraudolph and J. Schmidhuber, Learning precise timing with LSTM recurrent networks,
JMLR 3 (2002); the coupling: K. Greff et al., LSTM: a search space odyssey, arXiv:1503.04069 (2015), who keep i and have
f = 1 - i, the same up to the gate's sign; the normalisation: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer
normalization, arXiv:1607.06450 (2016); clipping of the arguments and activations of all kinds: ONNX' LSTM; clipping
of c and the projection: H. Sak, A. Senior and F. Beaufays (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .._door import wide
from ..activations import Activation
from ._cell import Cell, blocks, over_steps, over_steps_and_examples
from ._parts import add_scaled, clip, clip_backward, normalize, normalize_backward

SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")


class Residual(NamedTuple):
    """What one step leaves for its backward pass, each (H, N); z are the gates' clipped arguments, c is clipped."""

    h_prev: Any
    c_prev: Any
    z: Any
    i: Any
    f: Any
    g: Any
    o: Any
    c: Any
    u: Any
    norm_ih: Any
    norm_hh: Any
    norm_c: Any


class Recurrent(NamedTuple):
    """The gradients that the weights' gradients need beside dp, which is the input's."""

    dh: Any
    da: Any
    dq: Any
    dn: Any


@dataclass(frozen=True)
class LSTMVariantCell(Cell):
    """Peepholes, coupled gates, clipping, layer normalisation, activations of any kind, a projection."""

    states: ClassVar[tuple[str, ...]] = ("h", "c")
    drops_state: ClassVar[bool] = True

    peephole: bool = False
    coupled: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    layer_norm: bool = False
    activations: tuple[Activation, ...] = (SIGMOID, SIGMOID, TANH, SIGMOID, TANH)  # i f g o h
    proj_size: int = 0

    @property
    def gate_names(self) -> str:  # type: ignore[override]
        """Without i where it is 1 - f."""
        return "fgo" if self.coupled else "ifgo"

    @property
    def gates(self) -> int:  # type: ignore[override]
        """G."""
        return len(self.gate_names)

    @property
    def analytic(self) -> bool:  # type: ignore[override]
        """Whether there is no bend in it."""
        smooth = all(phi.analytic for phi in self.activations)
        return smooth and self.clip is None and self.cell_clip is None

    def state_sizes(self, hidden_size: int) -> tuple[int, ...]:
        """P or H for h, H for c."""
        return self.proj_size or hidden_size, hidden_size

    def shapes(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Those of the LSTM, and those of the parts."""
        H, rows = hidden_size, self.gates * hidden_size
        shapes = super().shapes(input_size, H, bias) | {"weight_hh": (rows, self.proj_size or H)}
        if self.peephole:
            shapes = shapes | {"weight_peephole": ((self.gates - 1) * H,)}
        if self.layer_norm:
            gains = {"weight_layer_norm_ih": (rows,), "weight_layer_norm_hh": (rows,), "weight_layer_norm_c": (H,)}
            shapes = shapes | gains | ({"bias_layer_norm_c": (H,)} if bias else {})
        if self.proj_size:
            shapes = shapes | {"weight_hr": (self.proj_size, H)}
        return shapes

    def projected_bias(self, xp: Any, params: dict) -> Any:
        """None: it stands behind the normalisation, in the step."""
        return None

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Residual]:
        """Equations (1) to (6)."""
        h_prev, c_prev = state
        s_i, s_f, s_g, s_o, s_h = self.activations
        p_i, p_f, p_o = self._peepholes(params)
        p, norm_ih = normalize(xp, pre, params.get("weight_layer_norm_ih"))  # (1)
        q, norm_hh = normalize(xp, params["weight_hh"] @ self.dropped(xp, h_prev), params.get("weight_layer_norm_hh"))
        a = p + q + (params["bias_ih"] + params["bias_hh"])[..., None] if "bias_ih" in params else p + q
        a_i, a_f, a_g, a_o = self._four(a)
        z_f = clip(xp, add_scaled(a_f, p_f, c_prev), self.clip)  # (2)
        z_g = clip(xp, a_g, self.clip)
        f, g = s_f(xp, z_f), s_g(xp, z_g)
        z_i = None if self.coupled else clip(xp, add_scaled(a_i, p_i, c_prev), self.clip)
        i = 1 - f if self.coupled else s_i(xp, z_i)
        c = clip(xp, f * c_prev + i * g, self.cell_clip)  # (3)
        z_o = clip(xp, add_scaled(a_o, p_o, c), self.clip)  # (4)
        o = s_o(xp, z_o)
        n, norm_c = normalize(xp, c, params.get("weight_layer_norm_c"))  # (5)
        u = s_h(xp, n + params["bias_layer_norm_c"][..., None] if "bias_layer_norm_c" in params else n)
        h = params["weight_hr"] @ (o * u) if self.proj_size else o * u  # (6)
        z = None if self.clip is None else (z_i, z_f, z_g, z_o)
        return (h, c), Residual(h_prev, c_prev, z, i, f, g, o, c, u, norm_ih, norm_hh, norm_c)

    def step_backward(self, xp: Any, params: dict, residual: Residual, dstate: tuple) -> tuple[Any, Recurrent, tuple]:
        """Equations (7) to (15)."""
        dh, dc = dstate
        _, c_prev, z, i, f, g, o, c, u, norm_ih, norm_hh, norm_c = residual
        s_i, s_f, s_g, s_o, s_h = self.activations
        p_i, p_f, p_o = self._peepholes(params)
        z_i, z_f, z_g, z_o = (None,) * 4 if z is None else z
        dm = params["weight_hr"].mT @ dh if self.proj_size else dh  # (7)
        da_o = clip_backward(xp, dm * u * s_o.derivative(xp, o), z_o, self.clip)  # (8)
        dn = dm * o * s_h.derivative(xp, u)  # (9)
        dc = dc + normalize_backward(xp, dn, params.get("weight_layer_norm_c"), norm_c)  # (10)
        dc = clip_backward(xp, add_scaled(dc, p_o, da_o), c, self.cell_clip)
        di, df, dg = dc * g, dc * c_prev, dc * i  # (11)
        df = df - di if self.coupled else df
        da_f = clip_backward(xp, df * s_f.derivative(xp, f), z_f, self.clip)  # (12)
        da_g = clip_backward(xp, dg * s_g.derivative(xp, g), z_g, self.clip)
        dc_prev = add_scaled(dc * f, p_f, da_f)  # (13)
        if self.coupled:
            da = xp.concat((da_f, da_g, da_o), axis=-2)
        else:
            da_i = clip_backward(xp, di * s_i.derivative(xp, i), z_i, self.clip)  # (12)
            dc_prev = add_scaled(dc_prev, p_i, da_i)  # (13)
            da = xp.concat((da_i, da_f, da_g, da_o), axis=-2)
        dp = normalize_backward(xp, da, params.get("weight_layer_norm_ih"), norm_ih)  # (14)
        dq = normalize_backward(xp, da, params.get("weight_layer_norm_hh"), norm_hh)
        dh_prev = self.dropped(xp, params["weight_hh"].mT @ dq)  # (15)
        return dp, Recurrent(dh, da, dq, dn), (dh_prev, dc_prev)

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """Equations (17) to (19)."""
        dh, da, dq, dn = drec
        r = residuals
        grads = {"weight_ih": over_steps(xp, dpre, x), "weight_hh": self.recurrent_gradients(xp, r, dq)}  # (17)
        if "bias_ih" in params:
            db = over_steps_and_examples(xp, da)
            grads = grads | {"bias_ih": db, "bias_hh": db}
        if self.proj_size:
            grads = grads | {"weight_hr": over_steps(xp, dh, r.o * r.u)}
        if self.peephole:  # (18)
            da_i, da_f, _, da_o = self._four(da)
            products = [da_f * r.c_prev, da_o * r.c]
            products = products if self.coupled else [da_i * r.c_prev, *products]
            grads = grads | {"weight_peephole": over_steps_and_examples(xp, xp.concat(products, axis=-2))}
        if self.layer_norm:  # (19)
            grads = grads | {
                "weight_layer_norm_ih": over_steps_and_examples(xp, wide(xp, da) * r.norm_ih.values),
                "weight_layer_norm_hh": over_steps_and_examples(xp, wide(xp, da) * r.norm_hh.values),
                "weight_layer_norm_c": over_steps_and_examples(xp, wide(xp, dn) * r.norm_c.values),
            }
        if "bias_layer_norm_c" in params:
            grads = grads | {"bias_layer_norm_c": over_steps_and_examples(xp, dn)}
        return grads

    def _four(self, a: Any) -> tuple[Any, ...]:
        """The blocks i f g o; coupled there is no i."""
        return (None, *blocks(a, 3)) if self.coupled else blocks(a, 4)

    def _peepholes(self, params: dict) -> tuple[Any, ...]:
        """p_i, p_f and p_o, (H,) each, or None."""
        if not self.peephole:
            return (None,) * 3
        p, count = params["weight_peephole"], self.gates - 1
        size = p.shape[-1] // count
        parts = [p[..., k * size : (k + 1) * size] for k in range(count)]
        return tuple([None, *parts] if self.coupled else parts)
