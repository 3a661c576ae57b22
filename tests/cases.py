"""What the recurrent layers are tested on: PyTorch's stored cases, a GRU that resets before, and random cases."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from oracle import numpy_loops as oracle
from oracle.stored import RECURRENT, case

import polyrnn as pr
from polyrnn import recurrence

LAYERS = {  # name: class, options
    "rnn_tanh": (pr.RNN, {}),
    "rnn_relu": (pr.RNN, {"nonlinearity": "relu"}),
    "lstm": (pr.LSTM, {}),
    "gru": (pr.GRU, {}),
    "gru_before": (pr.GRU, {"reset_after": False}),
}
NAMES = [*RECURRENT, *(n.replace("gru/", "gru_before/") for n in RECURRENT if n.startswith("gru/"))]
ANALYTIC = [name for name in NAMES if not name.startswith("rnn_relu")]


@dataclass(frozen=True)
class Case:
    """A layer, its arguments (NumPy, float64; states (1, N, H) in a tuple), and upstream gradients."""

    layer: Any
    params: dict
    x: np.ndarray
    state: tuple
    lengths: np.ndarray | None
    dy: np.ndarray
    dstate: tuple

    @property
    def point(self) -> dict[str, np.ndarray]:
        """Everything that has a gradient, by name."""
        return {**self.params, "x": self.x, **dict(zip(self.layer.cell.states, self.state, strict=True))}

    def padding(self) -> np.ndarray:
        """True past the end, (T, N)."""
        steps, batch = self.x.shape[:2]
        lengths = np.full(batch, steps) if self.lengths is None else self.lengths
        return np.arange(steps)[:, None] >= lengths

    def oracle(self, point: dict | None = None) -> tuple[np.ndarray, tuple]:
        """y and the final state, by scalar loops."""
        return run_oracle(self, self.point if point is None else point)


@dataclass(frozen=True)
class Expected:
    """What a case must give."""

    y: np.ndarray
    state: tuple
    params: dict
    x: np.ndarray
    dstate0: tuple


def layer_of(kind: str, inputs: int, hidden: int, bias: bool = True, **options: Any) -> Any:
    make, own = LAYERS[kind]
    return make(inputs, hidden, bias=bias, **own, **options)


@functools.cache
def get(name: str) -> Case:
    """The case of that name, such as "lstm/bias/lengths"."""
    kind, bias, _ = name.split("/")
    a = case(name.replace("gru_before", "gru"))
    layer = layer_of(kind, a["x"].shape[2], a["h0"].shape[2], bias == "bias")
    states = layer.cell.states
    return Case(
        layer=layer,
        params={key: a[key] for key in layer.shapes()},
        x=a["x"],
        state=tuple(a[s + "0"] for s in states),
        lengths=a.get("lengths"),
        dy=a["dy"],
        dstate=tuple(a["d" + s] for s in states),
    )


@functools.cache
def expected(name: str) -> Expected:
    """PyTorch's results; for what PyTorch does not have, the oracle's, and complex-step differences."""
    c = get(name)
    if name.startswith("gru_before"):
        y, state = c.oracle()
        grads = complex_step(c)
    else:
        a = case(name)
        y, state = a["y"], tuple(a[s] for s in c.layer.cell.states)
        grads = {key: a["grad/" + (key + "0" if key in ("h", "c") else key)] for key in c.point}
    return Expected(y, state, {k: grads[k] for k in c.params}, grads["x"], tuple(grads[s] for s in c.layer.cell.states))


@functools.cache
def random_case(kind: str, sizes: tuple[int, int, int, int], lengths: tuple[int, ...] | None = None) -> Case:
    """A case of sizes (T, N, I, H), its numbers seeded by these arguments."""
    rng = np.random.default_rng(list(f"{kind} {sizes} {lengths}".encode()))
    steps, batch, inputs, hidden = sizes
    layer = layer_of(kind, inputs, hidden)
    count = len(layer.cell.states)
    return Case(
        layer=layer,
        params={key: 0.5 * rng.standard_normal(shape) for key, shape in layer.shapes().items()},
        x=rng.standard_normal((steps, batch, inputs)),
        state=tuple(rng.standard_normal((1, batch, hidden)) for _ in range(count)),
        lengths=None if lengths is None else np.asarray(lengths, dtype="int64"),
        dy=rng.standard_normal((steps, batch, hidden)),
        dstate=tuple(rng.standard_normal((1, batch, hidden)) for _ in range(count)),
    )


class Proof(NamedTuple):
    """What a random case must give, as far as each method can tell."""

    y: np.ndarray
    state: tuple
    slopes: dict[str, tuple[np.ndarray, float]]  # along a random direction in each argument: central differences
    exact: dict[str, np.ndarray] | None  # everywhere: complex-step differences, of analytic cells


@functools.cache
def proof(kind: str, sizes: tuple[int, int, int, int], lengths: tuple[int, ...] | None = None) -> Proof:
    """The outputs and derivatives of `random_case`, found once for all subjects."""
    c = random_case(kind, sizes, lengths)
    exact = complex_step(c) if kind != "rnn_relu" else None
    return Proof(*c.oracle(), differences(c, np.random.default_rng(list(kind.encode()))), exact)


def run_oracle(c: Case, point: dict) -> tuple[np.ndarray, tuple]:
    kind = type(c.layer).__name__.lower()
    options = {"nonlinearity": c.layer.nonlinearity} if kind == "rnn" else {}
    options |= {"reset_after": c.layer.reset_after} if kind == "gru" else {}
    states = [point[s][0] for s in c.layer.cell.states]
    y, *state = getattr(oracle, kind)(point, point["x"], *states, c.lengths, **options)
    return y, tuple(s[None] for s in state)


def loss(c: Case, y: Any, state: tuple) -> Any:
    """The sum of the results times their upstream gradients."""
    return (y * c.dy).sum() + sum((s * d).sum() for s, d in zip(state, c.dstate, strict=True))


def through_the_core(c: Case, point: dict) -> tuple[Any, tuple]:
    """The library's own forward pass on NumPy, in whatever dtype the point has: complex numbers too."""
    backend, cell = pr.backend("numpy"), c.layer.cell
    params = {key.removesuffix("_l0"): point[key] for key in c.params}
    x = np.transpose(point["x"], (0, 2, 1))
    valid = None if c.lengths is None else ~c.padding()[:, None, :]
    with pr.use_kernels(False):
        y, state, _ = recurrence.forward(
            backend,
            recurrence.Options(cell),
            params,
            x,
            tuple(point[s][0].T for s in cell.states),
            recurrence.Noise(valid),
            keep=False,
        )
    return np.transpose(y, (0, 2, 1)), tuple(s.T[None] for s in state)


def complex_step(c: Case, step: float = 1e-30) -> dict[str, np.ndarray]:
    """The gradient of `loss` at the case's point, an entry at a time: Im f(p + i s e_k) / s, exact to rounding."""
    point = {key: value.astype("complex128") for key, value in c.point.items()}
    gradient = {key: np.zeros(value.shape) for key, value in c.point.items()}
    for key, value in point.items():
        for k in np.ndindex(*value.shape):
            value[k] += 1j * step
            gradient[key][k] = loss(c, *through_the_core(c, point)).imag / step
            value[k] = value[k].real
    return gradient


def differences(c: Case, rng: np.random.Generator, step: float = 1e-5) -> dict[str, tuple[dict, float]]:
    """By name: a random direction there, and the derivative of the oracle's loss along it, by central differences."""

    def value(point: dict) -> float:
        return float(loss(c, *c.oracle(point)))

    found = {}
    for key, array in c.point.items():
        if array.size:
            direction = rng.standard_normal(array.shape)
            direction /= np.linalg.norm(direction)
            found[key] = (direction, oracle.central_difference(value, c.point, {key: direction}, step))
    return found


def packed(state: tuple) -> Any:
    """A state as the layers take it: h alone, or (h, c)."""
    return state if len(state) > 1 else state[0]


def unpacked(state: Any) -> tuple:
    return state if isinstance(state, tuple) else (state,)
