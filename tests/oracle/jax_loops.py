"""The recurrent equations of `numpy_loops` again in jax.numpy, so that `jax.grad` can differentiate them.

A Python loop over time, all examples at once, one matrix per gate; nothing from polyrnn.  The oracle is
float64: it needs ``jax_enable_x64`` (without it JAX would cut everything to float32) and says so.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Arrays = Mapping[str, Any]


class Gate(NamedTuple):
    """The weights of one gate: W (H, I), U (H, H), b_i (H,), b_h (H,)."""

    W: jax.Array
    U: jax.Array
    b_i: jax.Array
    b_h: jax.Array


def float64(value: Any) -> jax.Array:
    """``value`` as a float64 array; an error where JAX would make it float32."""
    if not jax.config.jax_enable_x64:
        raise RuntimeError("this oracle is float64: switch jax_enable_x64 on")
    return jnp.asarray(value, dtype=jnp.float64)


def sigmoid(z: jax.Array) -> jax.Array:
    """1 / (1 + exp(-z))."""
    return 1.0 / (1.0 + jnp.exp(-z))


def relu(z: jax.Array) -> jax.Array:
    """max(z, 0), derivative 0 at 0."""
    return jnp.where(z > 0.0, z, 0.0)


def split_gates(params: Arrays, count: int) -> list[Gate]:
    """Cut the stacked weights into ``count`` gates, in PyTorch's order; an absent bias is zero."""
    w_ih, w_hh = float64(params["weight_ih_l0"]), float64(params["weight_hh_l0"])
    size = w_hh.shape[1]
    b_ih = float64(params.get("bias_ih_l0", jnp.zeros(count * size)))
    b_hh = float64(params.get("bias_hh_l0", jnp.zeros(count * size)))
    rows = [slice(k * size, (k + 1) * size) for k in range(count)]
    return [Gate(w_ih[r], w_hh[r], b_ih[r], b_hh[r]) for r in rows]


def over_time(
    step: Callable[[jax.Array, tuple], tuple], x: Any, state: tuple, lengths: Any = None
) -> tuple[jax.Array, tuple]:
    """Run ``step`` over time; a finished example keeps its state and puts out zeros."""
    x, state = float64(x), tuple(float64(s) for s in state)
    y = []
    for t, x_t in enumerate(jnp.unstack(x)):
        if lengths is None:
            state = step(x_t, state)
            y.append(state[0])
        else:
            valid = (t < jnp.asarray(lengths))[:, None]
            # the padding is cleaned before the step: masking a product lets the derivative 0 * NaN through
            after = step(jnp.where(valid, x_t, 0.0), state)
            state = tuple(jnp.where(valid, a, s) for a, s in zip(after, state, strict=True))
            y.append(jnp.where(valid, state[0], 0.0))
    return jnp.stack(y) if y else jnp.zeros((0, *state[0].shape)), state


def rnn(
    params: Arrays, x: Any, h0: Any, lengths: Any = None, nonlinearity: str = "tanh"
) -> tuple[jax.Array, jax.Array]:
    """h' = tanh(W x + b_i + U h + b_h), or relu; returns y (T, N, H) and the final h (N, H)."""
    (g,) = split_gates(params, 1)
    activation = {"tanh": jnp.tanh, "relu": relu}[nonlinearity]

    def step(x_t: jax.Array, state: tuple) -> tuple:
        (h,) = state
        return (activation(x_t @ g.W.T + g.b_i + h @ g.U.T + g.b_h),)

    y, (h,) = over_time(step, x, (h0,), lengths)
    return y, h


def lstm(params: Arrays, x: Any, h0: Any, c0: Any, lengths: Any = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """i, f, o = sigmoid, g = tanh; c' = f c + i g; h' = o tanh(c').  Returns y, the final h and c."""
    i, f, g, o = split_gates(params, 4)

    def step(x_t: jax.Array, state: tuple) -> tuple:
        h, c = state
        i_t = sigmoid(x_t @ i.W.T + i.b_i + h @ i.U.T + i.b_h)
        f_t = sigmoid(x_t @ f.W.T + f.b_i + h @ f.U.T + f.b_h)
        g_t = jnp.tanh(x_t @ g.W.T + g.b_i + h @ g.U.T + g.b_h)
        o_t = sigmoid(x_t @ o.W.T + o.b_i + h @ o.U.T + o.b_h)
        c_t = f_t * c + i_t * g_t
        return o_t * jnp.tanh(c_t), c_t

    y, (h, c) = over_time(step, x, (h0, c0), lengths)
    return y, h, c


def gru(params: Arrays, x: Any, h0: Any, lengths: Any = None, reset_after: bool = True) -> tuple[jax.Array, jax.Array]:
    """r, z = sigmoid; h' = (1 - z) n + z h.  Returns y (T, N, H) and the final h (N, H).

    Reset after (PyTorch): n = tanh(W x + b_i + r (U h + b_h)).
    Reset before (Cho et al.): n = tanh(W x + b_i + U (r h) + b_h).
    """
    r, z, n = split_gates(params, 3)

    def step(x_t: jax.Array, state: tuple) -> tuple:
        (h,) = state
        r_t = sigmoid(x_t @ r.W.T + r.b_i + h @ r.U.T + r.b_h)
        z_t = sigmoid(x_t @ z.W.T + z.b_i + h @ z.U.T + z.b_h)
        if reset_after:
            n_t = jnp.tanh(x_t @ n.W.T + n.b_i + r_t * (h @ n.U.T + n.b_h))
        else:
            n_t = jnp.tanh(x_t @ n.W.T + n.b_i + (r_t * h) @ n.U.T + n.b_h)
        return ((1.0 - z_t) * n_t + z_t * h,)

    y, (h,) = over_time(step, x, (h0,), lengths)
    return y, h
