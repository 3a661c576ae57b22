"""The published equations as plain float64 loops: an oracle that shares no line with polyrnn.

Standard library and NumPy only.  One example and one time step at a time, one matrix per gate, the gates
cut out of PyTorch's stacked weights by name.  Slow on purpose: what counts is that a reader can hold each
line against the page it was taken from.

Sources: PyTorch's documentation of RNN, LSTM, GRU, CrossEntropyLoss, MSELoss, SGD, Adam, AdamW, RMSprop and
clip_grad_norm_; Cho et al. 2014 (arXiv:1406.1078, section 2.3) for the GRU whose reset acts before the
product; the DeepLearning.AI sequence models course for the textbook forms.

Shapes: ``T`` steps, ``N`` examples, ``I`` inputs, ``H`` hidden units, ``G`` gates.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Arrays = Mapping[str, Array]


def float64(value: Any) -> Array:
    """``value`` as a float64 array."""
    return np.asarray(value, dtype=np.float64)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)); where exp overflows the quotient is the right value, 0."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-z))


def relu(z: Array) -> Array:
    """max(z, 0)."""
    return np.where(z > 0.0, z, 0.0)


def softmax(z: Array) -> Array:
    """exp(z_k) / sum_j exp(z_j) of one vector."""
    e = np.exp(z - np.max(z))
    return e / np.sum(e)


# Recurrent layers in PyTorch's layout: x (T, N, I), states (N, H), one layer, one direction


class Gate(NamedTuple):
    """The weights of one gate: W (H, I), U (H, H), b_i (H,), b_h (H,)."""

    W: Array
    U: Array
    b_i: Array
    b_h: Array


def split_gates(params: Arrays, count: int) -> list[Gate]:
    """Cut the stacked weights into ``count`` gates, in PyTorch's order; an absent bias is zero."""
    w_ih, w_hh = float64(params["weight_ih_l0"]), float64(params["weight_hh_l0"])
    size = w_hh.shape[1]
    b_ih = float64(params.get("bias_ih_l0", np.zeros(count * size)))
    b_hh = float64(params.get("bias_hh_l0", np.zeros(count * size)))
    rows = [slice(k * size, (k + 1) * size) for k in range(count)]
    return [Gate(w_ih[r], w_hh[r], b_ih[r], b_hh[r]) for r in rows]


def over_time(
    step: Callable[[Array, tuple], tuple], x: Array, state: tuple, lengths: Any = None
) -> tuple[Array, tuple]:
    """Run ``step`` over each example's own steps: y (T, N, H), zero past the end, and the last states."""
    x = float64(x)
    last = tuple(float64(s).copy() for s in state)
    y = np.zeros((x.shape[0], x.shape[1], last[0].shape[1]))
    for n in range(x.shape[1]):
        now = tuple(s[n].copy() for s in last)
        for t in range(x.shape[0] if lengths is None else int(lengths[n])):
            now = step(x[t, n], now)
            y[t, n] = now[0]
        for s, value in zip(last, now, strict=True):
            s[n] = value
    return y, last


def rnn(params: Arrays, x: Array, h0: Array, lengths: Any = None, nonlinearity: str = "tanh") -> tuple[Array, Array]:
    """h' = tanh(W x + b_i + U h + b_h), or relu; returns y (T, N, H) and the final h (N, H)."""
    (g,) = split_gates(params, 1)
    activations: dict[str, Callable[[Array], Array]] = {"tanh": np.tanh, "relu": relu}
    activation = activations[nonlinearity]

    def step(x_t: Array, state: tuple) -> tuple:
        (h,) = state
        return (activation(g.W @ x_t + g.b_i + g.U @ h + g.b_h),)

    y, (h,) = over_time(step, x, (h0,), lengths)
    return y, h


def lstm(params: Arrays, x: Array, h0: Array, c0: Array, lengths: Any = None) -> tuple[Array, Array, Array]:
    """i, f, o = sigmoid, g = tanh; c' = f c + i g; h' = o tanh(c').  Returns y, the final h and c."""
    i, f, g, o = split_gates(params, 4)

    def step(x_t: Array, state: tuple) -> tuple:
        h, c = state
        i_t = sigmoid(i.W @ x_t + i.b_i + i.U @ h + i.b_h)
        f_t = sigmoid(f.W @ x_t + f.b_i + f.U @ h + f.b_h)
        g_t = np.tanh(g.W @ x_t + g.b_i + g.U @ h + g.b_h)
        o_t = sigmoid(o.W @ x_t + o.b_i + o.U @ h + o.b_h)
        c_t = f_t * c + i_t * g_t
        return o_t * np.tanh(c_t), c_t

    y, (h, c) = over_time(step, x, (h0, c0), lengths)
    return y, h, c


def gru(params: Arrays, x: Array, h0: Array, lengths: Any = None, reset_after: bool = True) -> tuple[Array, Array]:
    """r, z = sigmoid; h' = (1 - z) n + z h.  Returns y (T, N, H) and the final h (N, H).

    Reset after (PyTorch): n = tanh(W x + b_i + r (U h + b_h)).
    Reset before (Cho et al.): n = tanh(W x + b_i + U (r h) + b_h).
    """
    r, z, n = split_gates(params, 3)

    def step(x_t: Array, state: tuple) -> tuple:
        (h,) = state
        r_t = sigmoid(r.W @ x_t + r.b_i + r.U @ h + r.b_h)
        z_t = sigmoid(z.W @ x_t + z.b_i + z.U @ h + z.b_h)
        if reset_after:
            n_t = np.tanh(n.W @ x_t + n.b_i + r_t * (n.U @ h + n.b_h))
        else:
            n_t = np.tanh(n.W @ x_t + n.b_i + n.U @ (r_t * h) + n.b_h)
        return ((1.0 - z_t) * n_t + z_t * h,)

    y, (h,) = over_time(step, x, (h0,), lengths)
    return y, h


# The textbook forms: x (n_x, m, T), a (n_a, m, T), y (n_y, m, T), biases (n, 1)


def columns(parameters: Arrays) -> dict[str, Array]:
    """The parameters in float64, each bias (n, 1) as a vector (n,)."""
    return {k: float64(v)[:, 0] if k.startswith("b") else float64(v) for k, v in parameters.items()}


def textbook_rnn(x: Array, a0: Array, parameters: Arrays) -> tuple[Array, Array]:
    """a = tanh(Wax x + Waa a_prev + ba), y = softmax(Wya a + by); returns a and y."""
    p, x, a0 = columns(parameters), float64(x), float64(a0)
    a = np.zeros((a0.shape[0], x.shape[1], x.shape[2]))
    y = np.zeros((p["Wya"].shape[0], x.shape[1], x.shape[2]))
    for j in range(x.shape[1]):
        a_prev = a0[:, j]
        for t in range(x.shape[2]):
            a_prev = np.tanh(p["Wax"] @ x[:, j, t] + p["Waa"] @ a_prev + p["ba"])
            a[:, j, t] = a_prev
            y[:, j, t] = softmax(p["Wya"] @ a_prev + p["by"])
    return a, y


def textbook_lstm(x: Array, a0: Array, parameters: Arrays, c0: Array | None = None) -> tuple[Array, Array, Array]:
    """c = f c_prev + i cct, a = o tanh(c), y = softmax(Wy a + by); returns a, y and c.

    Each gate acts on [a_prev; xt]; ``c0`` is zero unless given.
    """
    p, x, a0 = columns(parameters), float64(x), float64(a0)
    c0 = np.zeros(a0.shape) if c0 is None else float64(c0)
    a = np.zeros((a0.shape[0], x.shape[1], x.shape[2]))
    c = np.zeros(a.shape)
    y = np.zeros((p["Wy"].shape[0], x.shape[1], x.shape[2]))
    for j in range(x.shape[1]):
        a_prev, c_prev = a0[:, j], c0[:, j]
        for t in range(x.shape[2]):
            concat = np.concatenate([a_prev, x[:, j, t]])
            ft = sigmoid(p["Wf"] @ concat + p["bf"])
            it = sigmoid(p["Wi"] @ concat + p["bi"])
            cct = np.tanh(p["Wc"] @ concat + p["bc"])
            ot = sigmoid(p["Wo"] @ concat + p["bo"])
            c_prev = ft * c_prev + it * cct
            a_prev = ot * np.tanh(c_prev)
            a[:, j, t], c[:, j, t] = a_prev, c_prev
            y[:, j, t] = softmax(p["Wy"] @ a_prev + p["by"])
    return a, y, c


def textbook_gru(x: Array, a0: Array, parameters: Arrays) -> tuple[Array, Array]:
    """a = ut cct + (1 - ut) a_prev, cct from [rt a_prev; xt], y = softmax(Wy a + by); returns a and y.

    The update gate lets the new in, where PyTorch's z keeps the old: ut = 1 - z.
    """
    p, x, a0 = columns(parameters), float64(x), float64(a0)
    a = np.zeros((a0.shape[0], x.shape[1], x.shape[2]))
    y = np.zeros((p["Wy"].shape[0], x.shape[1], x.shape[2]))
    for j in range(x.shape[1]):
        a_prev = a0[:, j]
        for t in range(x.shape[2]):
            xt = x[:, j, t]
            ut = sigmoid(p["Wu"] @ np.concatenate([a_prev, xt]) + p["bu"])
            rt = sigmoid(p["Wr"] @ np.concatenate([a_prev, xt]) + p["br"])
            cct = np.tanh(p["Wc"] @ np.concatenate([rt * a_prev, xt]) + p["bc"])
            a_prev = ut * cct + (1.0 - ut) * a_prev
            a[:, j, t] = a_prev
            y[:, j, t] = softmax(p["Wy"] @ a_prev + p["by"])
    return a, y


# Losses: the mean over the entries that count, and its gradient


def softmax_cross_entropy(logits: Array, labels: Array, mask: Array | None = None) -> tuple[float, Array]:
    """Mean of log(sum_j exp(z_j)) - z_label over the entries where ``mask`` is true; 0 where none is.

    ``logits`` (..., V), ``labels`` and ``mask`` (...); what does not count is never read.
    """
    logits = float64(logits)
    counted = [k for k in np.ndindex(*np.shape(labels)) if mask is None or mask[k]]
    total, gradient = 0.0, np.zeros(logits.shape)
    for k in counted:
        z, label = logits[k], int(labels[k])
        top = float(np.max(z))
        log_sum = top + math.log(sum(math.exp(v - top) for v in z))
        total += log_sum - float(z[label])
        for j, v in enumerate(z):
            gradient[(*k, j)] = (math.exp(v - log_sum) - (1.0 if j == label else 0.0)) / len(counted)
    return total / max(len(counted), 1), gradient


def mean_squared_error(prediction: Array, target: Array, mask: Array | None = None) -> tuple[float, Array]:
    """Mean of (p - t)^2 over the entries that count; 0 where none does.

    ``mask`` has the shape of the prediction, or of its leading axes.
    """
    p, t = float64(prediction), float64(target)
    counted = [k for k in np.ndindex(*p.shape) if mask is None or mask[k[: mask.ndim]]]
    total, gradient = 0.0, np.zeros(p.shape)
    for k in counted:
        total += float(p[k] - t[k]) ** 2
        gradient[k] = 2.0 * (p[k] - t[k]) / len(counted)
    return total / max(len(counted), 1), gradient


# Optimizers: one number, one step; option names are PyTorch's.  ``t`` counts from 1, memories start at 0


def sgd_step(
    p: float,
    g: float,
    t: int,
    buffer: float,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[float, float]:
    """p, buffer after one step of SGD (no dampening)."""
    g = g + weight_decay * p
    buffer = momentum * buffer + g
    return p - lr * (g + momentum * buffer if nesterov else buffer), buffer


def adam_step(
    p: float,
    g: float,
    t: int,
    m: float,
    v: float,
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[float, float, float]:
    """p, m, v after one step of Adam; the decay is added to the gradient."""
    g = g + weight_decay * p
    m = betas[0] * m + (1.0 - betas[0]) * g
    v = betas[1] * v + (1.0 - betas[1]) * g * g
    m_hat = m / (1.0 - betas[0] ** t)
    v_hat = v / (1.0 - betas[1] ** t)
    return p - lr * m_hat / (math.sqrt(v_hat) + eps), m, v


def adamw_step(
    p: float, g: float, t: int, m: float, v: float, *, lr: float, weight_decay: float = 0.01, **options: Any
) -> tuple[float, float, float]:
    """p, m, v after one step of AdamW; the decay acts on the parameter itself, scaled by lr."""
    return adam_step(p - lr * weight_decay * p, g, t, m, v, lr=lr, **options)


def rmsprop_step(
    p: float,
    g: float,
    t: int,
    v: float,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[float, float]:
    """p, v after one step of RMSprop (no momentum, not centred)."""
    g = g + weight_decay * p
    v = alpha * v + (1.0 - alpha) * g * g
    return p - lr * g / (math.sqrt(v) + eps), v


OPTIMIZERS: dict[str, tuple[Callable[..., tuple], int]] = {  # the step, and how many memories it keeps
    "SGD": (sgd_step, 1),
    "Adam": (adam_step, 2),
    "AdamW": (adamw_step, 2),
    "RMSprop": (rmsprop_step, 1),
}


def optimize(optimizer: str, p0: Array, gradients: Array, **options: Any) -> Array:
    """The parameters (S, ...) after each of the S steps with ``gradients`` (S, ...)."""
    step, memories = OPTIMIZERS[optimizer]
    history = np.zeros(np.shape(gradients))
    for k in np.ndindex(*np.shape(p0)):
        p, memory = float(p0[k]), [0.0] * memories
        for t, g in enumerate(gradients, start=1):
            p, *memory = step(p, float(g[k]), t, *memory, **options)
            history[(t - 1, *k)] = p
    return history


def global_norm(gradients: Arrays) -> float:
    """The Euclidean norm of all entries of all arrays together."""
    return math.sqrt(sum(float(v) ** 2 for g in gradients.values() for v in np.ravel(g)))


def clip_by_global_norm(gradients: Arrays, max_norm: float, eps: float = 1e-6) -> tuple[dict[str, Array], float]:
    """Scale by min(1, max_norm / (norm + eps)), as clip_grad_norm_ does; returns the norm before it too."""
    norm = global_norm(gradients)
    scale = min(1.0, max_norm / (norm + eps))
    return {k: float64(g) * scale for k, g in gradients.items()}, norm


# Differences


def central_difference(
    f: Callable[[dict[str, Array]], float], point: Arrays, direction: Arrays, step: float = 1e-5
) -> float:
    """(f(p + s d) - f(p - s d)) / 2s in float64; names without a direction stay where they are."""

    def moved(s: float) -> dict[str, Array]:
        return {k: float64(v) + s * float64(direction[k]) if k in direction else v for k, v in point.items()}

    return (f(moved(step)) - f(moved(-step))) / (2.0 * step)


def elementwise_gradient(
    f: Callable[[dict[str, Array]], float], point: Arrays, names: Sequence[str], step: float = 1e-5
) -> dict[str, Array]:
    """The gradient of ``f`` at ``point`` for each of ``names``, one central difference an entry."""

    def units(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Array]]:
        for k in np.ndindex(*shape):
            unit = np.zeros(shape)
            unit[k] = 1.0
            yield k, unit

    gradient = {name: np.zeros(np.shape(point[name])) for name in names}
    for name, g in gradient.items():
        for k, unit in units(g.shape):
            g[k] = central_difference(f, point, {name: unit}, step)
    return gradient
