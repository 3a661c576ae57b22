"""The variants of the cells as the papers and ONNX' specification write them, one example and one step at a time.

Standard library and NumPy only; no line is shared with polyrnn. Nothing here asks for float64: whoever adds i s to an
entry gets the derivative along it in the imaginary part, since where a function has a bend the real part decides.

Sources: peepholes: Gers, Schraudolph and Schmidhuber 2002 (JMLR 3), equations (1) to (6); coupled gates: Greff et al.
2015 (arXiv:1503.04069), section 3.2, there f = 1 - i, here i = 1 - f; layer normalisation: Ba, Kiros and Hinton 2016
(arXiv:1607.06450), equations (20) to (29) of the supplement, with PyTorch's epsilon under the root; clipping and
activations: the operators LSTM, GRU and RNN of ONNX, opset 22; the limits of c and the projection: Sak, Senior and
Beaufays 2014.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
EPSILON = 1e-5


# The activations in the table of ONNX' operators, with what ONNX' operators of these names have as defaults


def _if(condition: Array, a: Any, b: Any) -> Array:
    return np.where(condition, a, b)


def _e(z: Array) -> Array:
    """exp, of what is not above 0; elsewhere the value is not used."""
    return np.exp(_if(z.real < 0, z, 0 * z))


def _magnitude(z: Array) -> Array:
    return _if(z.real < 0, -z, z)


FUNCTIONS: dict[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "relu": (lambda x: _if(x.real > 0, x, 0), ()),
    "tanh": (np.tanh, ()),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), ()),
    "affine": (lambda x, alpha, beta: alpha * x + beta, ()),
    "leaky_relu": (lambda x, alpha: _if(x.real >= 0, x, alpha * x), (0.01,)),
    "thresholded_relu": (lambda x, alpha: _if(x.real >= alpha, x, 0), (1.0,)),
    "scaled_tanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), ()),
    "hard_sigmoid": (
        lambda x, alpha, beta: _if(
            (alpha * x + beta).real <= 0, 0, _if((alpha * x + beta).real >= 1, 1, alpha * x + beta)
        ),
        (0.2, 0.5),
    ),
    "elu": (lambda x, alpha: _if(x.real >= 0, x, alpha * (_e(x) - 1)), (1.0,)),
    "softsign": (lambda x: x / (1 + _magnitude(x)), ()),
    "softplus": (lambda x: np.log(1 + np.exp(x)), ()),
}


def activation(spec: Any) -> Callable[[Array], Array]:
    """The function of a name, or of a tuple of its name and the first of its constants."""
    name, *constants = spec if isinstance(spec, tuple) else (spec,)
    function, defaults = FUNCTIONS[name]
    return lambda x: function(x, *constants, *defaults[len(constants) :])


def clip(z: Array, limit: float | None) -> Array:
    """Each entry between -limit and limit."""
    if limit is None:
        return z
    return _if(z.real > limit, limit, _if(z.real < -limit, -limit, z))


def layer_norm(a: Array, gain: Array | None) -> Array:
    """gain * (a - mu) / sigma over the entries of one vector; as it is without a gain."""
    if gain is None:
        return a
    mu = sum(a) / len(a)
    sigma = np.sqrt(sum((entry - mu) ** 2 for entry in a) / len(a) + EPSILON)
    return gain * (a - mu) / sigma


# One step: x (I,), states (H,) -> states; "kept" among the parameters is what dropout leaves of h in the products


def lstm_step(p: Mapping[str, Any], o: Mapping[str, Any], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """h' = R (o * s_h(LN(c'))); c' = f c + i g. `p` has the parameters of one recurrence, `o` the options."""
    letters = "fgo" if o.get("coupled") else "ifgo"
    H, default = len(c), ("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh")[5 - len(letters) - 1 :]
    phi = dict(zip([*letters, "h"], map(activation, o.get("activations") or default), strict=True))
    rows = {letter: slice(k * H, (k + 1) * H) for k, letter in enumerate(letters)}
    a_x = np.concatenate([p["weight_ih"][rows[k]] @ x for k in letters])
    a_h = np.concatenate([p["weight_hh"][rows[k]] @ (h * p.get("kept", 1)) for k in letters])
    a = layer_norm(a_x, p.get("weight_layer_norm_ih")) + layer_norm(a_h, p.get("weight_layer_norm_hh"))
    if "bias_ih" in p:
        a = a + p["bias_ih"] + p["bias_hh"]
    peep = dict.fromkeys("ifo", np.zeros(H))
    if o.get("peephole"):
        with_peepholes = [k for k in letters if k != "g"]
        peep |= {k: p["weight_peephole"][m * H : (m + 1) * H] for m, k in enumerate(with_peepholes)}
    f = phi["f"](clip(a[rows["f"]] + peep["f"] * c, o.get("clip")))
    i = 1 - f if o.get("coupled") else phi["i"](clip(a[rows["i"]] + peep["i"] * c, o.get("clip")))
    g = phi["g"](clip(a[rows["g"]], o.get("clip")))
    c = clip(f * c + i * g, o.get("cell_clip"))
    out = phi["o"](clip(a[rows["o"]] + peep["o"] * c, o.get("clip")))
    inner = layer_norm(c, p.get("weight_layer_norm_c"))
    if "bias_layer_norm_c" in p:
        inner = inner + p["bias_layer_norm_c"]
    m = out * phi["h"](inner)
    return (p["weight_hr"] @ m if "weight_hr" in p else m), c


def gru_step(p: Mapping[str, Any], o: Mapping[str, Any], x: Array, h: Array) -> tuple[Array]:
    """h' = (1 - z) n + z h."""
    H = len(h)
    s_r, s_z, s_n = map(activation, o.get("activations") or ("sigmoid", "sigmoid", "tanh"))
    none = np.zeros(3 * H)
    b_x, b_h = p.get("bias_ih", none), p.get("bias_hh", none)
    gain_x, gain_h = p.get("weight_layer_norm_ih"), p.get("weight_layer_norm_hh")

    def normalised(a: Array, gain: Array | None, where: slice) -> Array:
        return layer_norm(a, None if gain is None else gain[where])

    both, last = slice(0, 2 * H), slice(2 * H, 3 * H)
    W, U = p["weight_ih"], p["weight_hh"]
    x_rz = normalised(np.concatenate([W[:H] @ x, W[H : 2 * H] @ x]), gain_x, both) + b_x[both]
    seen = h * p.get("kept", 1)
    h_rz = normalised(np.concatenate([U[:H] @ seen, U[H : 2 * H] @ seen]), gain_h, both) + b_h[both]
    x_n = normalised(W[last] @ x, gain_x, last) + b_x[last]
    r = s_r(clip(x_rz[:H] + h_rz[:H], o.get("clip")))
    z = s_z(clip(x_rz[H:] + h_rz[H:], o.get("clip")))
    if o.get("reset_after", True):
        h_n = r * (normalised(U[last] @ seen, gain_h, last) + b_h[last])
    else:
        h_n = normalised(U[last] @ (r * seen), gain_h, last) + b_h[last]
    n = s_n(clip(x_n + h_n, o.get("clip")))
    return ((1 - z) * n + z * h,)


def rnn_step(p: Mapping[str, Any], o: Mapping[str, Any], x: Array, h: Array) -> tuple[Array]:
    """h' = phi(clip(W x + b_i + U h + b_h))."""
    none = np.zeros(len(h))
    seen = h * p.get("kept", 1)
    z = p["weight_ih"] @ x + p.get("bias_ih", none) + p["weight_hh"] @ seen + p.get("bias_hh", none)
    return (activation(o.get("nonlinearity", "tanh"))(clip(z, o.get("clip"))),)


STEPS: dict[str, Callable[..., tuple]] = {"LSTM": lstm_step, "GRU": gru_step, "RNN": rnn_step}


# Over time, in both directions, one layer above the other


def run(
    kind: str,
    options: Mapping[str, Any],
    params: Mapping[str, Array],
    x: Array,
    state: Sequence[Array],
    lengths: Sequence[int] | None = None,
    kept: Mapping[str, Array] | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """y (T, N, D*P) and the final states (L*D, N, ...) of x (T, N, I); beyond a length y is zero.

    `kept` has by the name of a recurrence, "_l0_reverse", the factors (N, P) of h_{t-1} in its recurrent products.
    """
    steps, batch = x.shape[:2]
    suffixes = ("", "_reverse") if options.get("bidirectional") else ("",)
    dtype = np.result_type(x, *state, *params.values())
    ends = tuple(part.astype(dtype) for part in state)
    for layer in range(options.get("num_layers", 1)):
        outputs = []
        for d, suffix in enumerate(suffixes):
            tail, at = f"_l{layer}{suffix}", layer * len(suffixes) + d
            own = {name.removesuffix(tail): value for name, value in params.items() if name.endswith(tail)}
            y = np.zeros((steps, batch, state[0].shape[-1]), dtype)
            for n in range(batch):
                own |= {} if kept is None else {"kept": kept[tail][n]}
                now = tuple(part[at, n] for part in ends)
                order = range(steps if lengths is None else lengths[n])
                for t in order if not suffix else reversed(order):
                    now = STEPS[kind](own, options, x[t, n], *now)
                    y[t, n] = now[0]
                for part, value in zip(ends, now, strict=True):
                    part[at, n] = value
            outputs.append(y)
        x = np.concatenate(outputs, axis=-1)
    return x, ends


def slope(function: Callable[[dict[str, Array]], Any], point: Mapping[str, Array], name: str, along: Array) -> float:
    """The derivative of a real function of `point` along a direction at one name: Im f(p + i s d) / s."""
    step = 1e-30
    return float(np.imag(function({**point, name: point[name] + 1j * step * along})) / step)
