"""The textbook functions on every subject: published numbers, scalar loops, differences, and the form of everything."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from oracle import numpy_loops as oracle
from subjects import near, vary

import polyrnn as pr
from polyrnn.testing import unchanged

N_X, M, T_X, N_A, N_Y = 3, 2, 5, 7, 11
GATES = {"rnn": None, "lstm": "fico", "gru": "urc"}
STATES = {"rnn": ("a0",), "lstm": ("a0", "c0"), "gru": ("a0",)}
GRADIENTS = {
    "rnn": ("dWax", "dWaa", "dba"),
    "lstm": ("dWf", "dbf", "dWi", "dbi", "dWc", "dbc", "dWo", "dbo"),
    "gru": ("dWu", "dbu", "dWr", "dbr", "dWc", "dbc"),
}
CACHE = {  # the names of a cache's entries, before xt and parameters
    "rnn": ("a_next", "a_prev"),
    "lstm": ("a_next", "c_next", "a_prev", "c_prev", "ft", "it", "cct", "ot"),
    "gru": ("a_next", "a_prev", "ut", "rt", "cct"),
}


def function(kind: str, name: str) -> Any:
    return getattr(pr, f"{kind}_{name}")


def shapes(kind: str) -> dict[str, tuple[int, int]]:
    if kind == "rnn":
        return {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "Wya": (N_Y, N_A), "ba": (N_A, 1), "by": (N_Y, 1)}
    found: dict[str, tuple[int, int]] = {}
    for gate in GATES[kind]:
        found |= {f"W{gate}": (N_A, N_A + N_X), f"b{gate}": (N_A, 1)}
    return found | {"Wy": (N_Y, N_A), "by": (N_Y, 1)}


@dataclass(frozen=True)
class Textbook:
    """Random arguments of one kind (host, float64)."""

    kind: str
    parameters: dict
    x: np.ndarray
    states: tuple

    @property
    def point(self) -> dict[str, np.ndarray]:
        return {**self.parameters, "x": self.x, **dict(zip(STATES[self.kind], self.states, strict=True))}

    def run(self, point: dict, steps: int = T_X) -> tuple[np.ndarray, ...]:
        """The oracle's a, y and, of an LSTM, c."""
        parameters = {k: point[k] for k in self.parameters}
        extra = {"c0": point["c0"]} if self.kind == "lstm" else {}
        return getattr(oracle, f"textbook_{self.kind}")(point["x"][:, :, :steps], point["a0"], parameters, **extra)

    def scores(self, a: np.ndarray, point: dict) -> np.ndarray:
        W = point["Wya" if self.kind == "rnn" else "Wy"]
        return np.einsum("ya,amt->ymt", W, a) + point["by"][:, :, None]


def draw(rng: np.random.Generator, kind: str) -> Textbook:
    parameters = {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes(kind).items()}
    states = tuple(rng.standard_normal((N_A, M)) for _ in STATES[kind])
    return Textbook(kind, parameters, rng.standard_normal((N_X, M, T_X)), states)


def forward(kind: str, x: Any, states: tuple, parameters: dict) -> tuple:
    """The sequence function -> a, y (and c), caches."""
    extra = {"c0": states[1]} if kind == "lstm" else {}
    return function(kind, "forward")(x, states[0], parameters, **extra)


def check_slopes(grads: dict, value: Any, point: dict, rng: np.random.Generator, left_out: tuple = ()) -> None:
    """Gradients under the names of the point, against central differences along random directions."""
    for key, array in point.items():
        if key not in left_out:
            direction = rng.standard_normal(array.shape)
            direction /= np.linalg.norm(direction)
            slope = oracle.central_difference(value, point, {key: direction})
            assert abs(slope) > 1e-5, key
            assert grads[key].shape == array.shape, key
            near(np.sum(grads[key] * direction), slope, "differences", key)


def named(grads: dict, kind: str) -> dict:
    """dWax -> Wax, da0 -> a0, da_prev -> a0, dxt -> x: the names of the point."""
    own = {"dxt": "x", "da_prev": "a0", "dc_prev": "c0"}
    return {own.get(key, key[1:]): value for key, value in grads.items()}


# ---- the published numbers -------------------------------------------------------------------------------------


def test_the_published_gradients(subject):
    np.random.seed(1)
    x, a0 = np.random.randn(3, 10, 4), np.random.randn(5, 10)
    p = {"Wax": (5, 3), "Waa": (5, 5), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
    p = {name: np.random.randn(*shape) for name, shape in p.items()}

    def run(x: Any, a0: Any, p: dict, da: Any) -> dict:
        return pr.rnn_backward(da, pr.rnn_forward(x, a0, p)[-1])

    da = np.random.randn(5, 10, 4)
    g = subject.host(subject.function(run)(*subject.array((x, a0, p, da))))
    assert np.array_equal(
        g["dx"][1][2].round(8), [-2.07101689, -0.59255627, 0.02466855, 0.01483317]
    )  # published with eight decimals
    near(g["da0"][2][3], -0.3149423751266499, "gradient")
    near(g["dWax"][3][1], 11.264104496527779, "gradient")
    near(g["dWaa"][1][2], 2.3033331265798935, "gradient")
    assert g["dba"][4].round(8) == [-0.74747722]
    assert {k: v.shape for k, v in g.items()} == {
        "dx": (3, 10, 4),
        "da0": (5, 10),
        "dWax": (5, 3),
        "dWaa": (5, 5),
        "dba": (5, 1),
    }


# ---- sequences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", GATES)
def test_sequences(subject, rng, kind, dtype):
    t = draw(rng, kind)
    da, dy, dz = (rng.standard_normal((n, M, T_X)) for n in (N_A, N_Y, N_Y))

    def run(x: Any, states: tuple, parameters: dict, da: Any, dy: Any, dz: Any) -> tuple:
        *outputs, caches = forward(kind, x, states, parameters)
        more = {"with_dc0": True} if kind == "lstm" else {}
        back = function(kind, "backward")
        return tuple(outputs), back(da, caches), back(da, caches, dy=dy, dz=dz, **more)

    arguments = subject.array((t.x, t.states, t.parameters, da, dy, dz), dtype)
    with unchanged(arguments):
        outputs, plain, full = subject.function(run)(*arguments)
    subject.close(outputs, t.run(t.point), "forward", dtype)

    assert set(plain) == {"dx", "da0", *GRADIENTS[kind]}
    prediction = "dWya" if kind == "rnn" else "dWy"
    assert set(full) == set(plain) | {prediction, "dby"} | ({"dc0"} if kind == "lstm" else set())
    if "jit" not in subject.tags:  # under jit they come out sorted
        assert list(plain) == ["dx", "da0", *GRADIENTS[kind]]
    if dtype == "float32":
        exact = run(t.x, t.states, t.parameters, da, dy, dz)
        subject.close((plain, full), exact[1:], "gradient", dtype)
        return
    for grads in (plain, full):  # their values come below, from the host
        subject.equal(grads, subject.host(grads), dtype)

    def of_states(point: dict) -> float:
        return float((t.run(point)[0] * da).sum())

    def of_everything(point: dict) -> float:
        a, y, *_ = t.run(point)
        return float((a * da).sum() + (y * dy).sum() + (t.scores(a, point) * dz).sum())

    wy = prediction[1:]
    check_slopes(named(subject.host(plain), kind), of_states, t.point, rng, (wy, "by", "c0"))
    check_slopes(named(subject.host(full), kind), of_everything, t.point, rng)


@pytest.mark.parametrize("kind", GATES)
def test_backward_of_the_first_steps(subject, rng, kind):
    """T_x is taken from da, which may be shorter than x."""
    t, steps = draw(rng, kind), 3
    da = rng.standard_normal((N_A, M, steps))

    def run(x: Any, states: tuple, parameters: dict, da: Any) -> dict:
        return function(kind, "backward")(da, forward(kind, x, states, parameters)[-1])

    grads = subject.host(subject.function(run)(*subject.array((t.x, t.states, t.parameters, da))))
    assert grads["dx"].shape == (N_X, M, steps)
    short = {**t.point, "x": t.x[:, :, :steps]}
    wy = "Wya" if kind == "rnn" else "Wy"
    check_slopes(named(grads, kind), lambda p: float((t.run(p, steps)[0] * da).sum()), short, rng, (wy, "by", "c0"))


def cells(subject: Any, kind: str) -> bool:
    return "jit" not in subject.tags


@vary(cells, kind=GATES)
def test_caches(subject, rng, kind):
    t = draw(rng, kind)
    x, states, parameters = subject.array((t.x, t.states, t.parameters))
    *_, (steps, x_kept) = outputs = forward(kind, x, states, parameters)
    assert x_kept is x and isinstance(steps, list) and len(steps) == T_X
    a, y = subject.host(outputs[0]), subject.host(outputs[1])
    c = subject.host(outputs[2]) if kind == "lstm" else None
    before = np.concatenate([t.states[0][..., None], a], axis=2)
    p, sigmoid = t.parameters, oracle.sigmoid
    for k, cache in enumerate(steps):
        assert isinstance(cache, tuple) and len(cache) == len(CACHE[kind]) + 2
        assert cache[-1] is parameters
        joint = np.concatenate([before[:, :, k], t.x[:, :, k]])
        expected = {"a_next": a[:, :, k], "a_prev": before[:, :, k]}
        if kind == "lstm":
            expected |= {"c_next": c[:, :, k], "c_prev": c[:, :, k - 1] if k else t.states[1]}
            expected |= {f"{g}t": sigmoid(p[f"W{g}"] @ joint + p[f"b{g}"]) for g in "fio"}
            expected["cct"] = np.tanh(p["Wc"] @ joint + p["bc"])
        if kind == "gru":
            expected |= {f"{g}t": sigmoid(p[f"W{g}"] @ joint + p[f"b{g}"]) for g in "ur"}
            reset = np.concatenate([expected["rt"] * before[:, :, k], t.x[:, :, k]])
            expected["cct"] = np.tanh(p["Wc"] @ reset + p["bc"])
        wanted = (*(expected[name] for name in CACHE[kind]), t.x[:, :, k])
        subject.close(cache[:-1], wanted, "forward", "float64", f"cache {k}")
    assert y.shape == (N_Y, M, T_X)


# ---- one step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GATES)
def test_cells(subject, rng, kind):
    t = draw(rng, kind)
    ds = tuple(rng.standard_normal((N_A, M)) for _ in t.states)
    dy, dz = rng.standard_normal((N_Y, M)), rng.standard_normal((N_Y, M))

    def run(xt: Any, states: tuple, parameters: dict, ds: tuple, dy: Any, dz: Any) -> tuple:
        *outputs, cache = function(kind, "cell_forward")(xt, *states, parameters)
        back = function(kind, "cell_backward")
        return tuple(outputs), cache[:-1], back(*ds, cache), back(*ds, cache, dy=dy, dz=dz)

    arguments = subject.array((t.x[:, :, 0], t.states, t.parameters, ds, dy, dz))
    with unchanged(arguments):
        outputs, cache, plain, full = subject.function(run)(*arguments)
    a, y, *c = (out[:, :, 0] for out in t.run(t.point, 1))
    subject.close(outputs, (a, *c, y), "forward", "float64")
    assert len(cache) == len(CACHE[kind]) + 1
    subject.close(cache[0], a, "forward", "float64")
    subject.equal(cache[-1], t.x[:, :, 0], "float64")

    before = {"dxt", "da_prev", "dc_prev"} if kind == "lstm" else {"dxt", "da_prev"}
    prediction = "dWya" if kind == "rnn" else "dWy"
    assert set(plain) == before | set(GRADIENTS[kind])
    assert set(full) == set(plain) | {prediction, "dby"}

    def value(point: dict) -> float:
        a, _, *c = t.run(point, 1)
        return float(sum((s[:, :, 0] * d).sum() for s, d in zip((a, *c), ds, strict=True)))

    def with_predictions(point: dict) -> float:
        a, y, *_ = t.run(point, 1)
        return value(point) + float((y[:, :, 0] * dy).sum() + (t.scores(a, point)[:, :, 0] * dz).sum())

    point = {**t.point, "x": t.x[:, :, :1]}
    for grads, f, left_out in ((plain, value, (prediction[1:], "by")), (full, with_predictions, ())):
        own = named(subject.host(grads), kind)
        own["x"] = own["x"][:, :, None]
        check_slopes(own, f, point, rng, left_out)


@vary(cells, kind=GATES)
def test_cells_are_the_sequence(subject, rng, kind):
    t = draw(rng, kind)
    x, states, parameters = subject.array((t.x, t.states, t.parameters))
    outputs = subject.host(forward(kind, x, states, parameters)[:-1])
    for k in range(T_X):
        *now, _ = function(kind, "cell_forward")(x[:, :, k], *states, parameters)
        states = tuple(now[:-1])
        a, y, *c = (out[:, :, k] for out in outputs)
        subject.close(tuple(now), (a, *c, y), "same", "float64")


# ---- absent and further gradients ------------------------------------------------------------------------------


@vary(cells, kind=GATES)
def test_predictions_alone(subject, rng, kind):
    """Softmax and cross-entropy together: dz = y - [k = label]; the same through dy."""
    t = draw(rng, kind)
    x, states, parameters = subject.array((t.x, t.states, t.parameters))
    _, y, *_, caches = forward(kind, x, states, parameters)
    chosen = np.zeros((N_Y, M, T_X))
    labels = rng.integers(0, N_Y, (M, T_X))
    np.put_along_axis(chosen, labels[None], 1.0, axis=0)
    probabilities = subject.host(y)
    back = function(kind, "backward")
    a = back(None, caches, dz=subject.array(probabilities - chosen))
    b = back(None, caches, dy=subject.array(-chosen / probabilities))
    subject.close(a, subject.host(b), "same", "float64")
    wy = "Wya" if kind == "rnn" else "Wy"

    def cost(point: dict) -> float:
        return float(-np.log(np.take_along_axis(t.run(point)[1], labels[None], axis=0)).sum())

    check_slopes(named(subject.host(a), kind), cost, t.point, rng, ("c0",))
    assert wy in named(a, kind)


def test_gradients_of_the_cell_states(subject, rng):
    t = draw(rng, "lstm")
    dc = rng.standard_normal((N_A, M, T_X))

    def run(x: Any, states: tuple, parameters: dict, dc: Any) -> dict:
        return pr.lstm_backward(None, forward("lstm", x, states, parameters)[-1], dc=dc, with_dc0=True)

    grads = subject.host(subject.function(run)(*subject.array((t.x, t.states, t.parameters, dc))))
    check_slopes(named(grads, "lstm"), lambda p: float((t.run(p)[2] * dc).sum()), t.point, rng, ("Wy", "by"))


def test_the_cell_state_starts_at_zero(subject, rng):
    t = draw(rng, "lstm")
    x, (a0, _), parameters = subject.array((t.x, t.states, t.parameters))
    found = pr.lstm_forward(x, a0, parameters)[:3]
    zero = subject.array(np.zeros((N_A, M)))
    subject.equal(found, subject.host(pr.lstm_forward(x, a0, parameters, c0=zero)[:3]), "float64")
    subject.close(found, t.run(t.point | {"c0": np.zeros((N_A, M))}), "forward", "float64")


@vary(cells, kind=GATES)
def test_a_zero_gradient_gives_exactly_zero(subject, rng, kind):
    t = draw(rng, kind)
    *_, caches = forward(kind, *subject.array((t.x, t.states, t.parameters)))
    zero = subject.array((np.zeros((N_A, M, T_X)), np.zeros((N_Y, M, T_X))))
    grads = function(kind, "backward")(zero[0], caches, dy=zero[1], dz=zero[1])
    assert not any(subject.host(g).any() for g in grads.values())
    again = function(kind, "backward")(zero[0] + 1.0, caches)
    assert all(subject.host(g).any() for g in again.values())


# ---- softmax and sigmoid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_softmax(subject, rng, dtype):
    z = 5 * rng.standard_normal((7, 3, 2))
    z[:, 0, 0] += 1e4  # exp overflows
    z[0, 1, 1] = -1e4
    expected = np.apply_along_axis(oracle.softmax, 0, z.astype(dtype).astype("float64"))
    subject.close(subject.function(pr.softmax)(subject.array(z, dtype)), expected, "forward", dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sigmoid(subject, rng, dtype):
    z = np.concatenate([10 * rng.standard_normal((5, 3)), [[-30.0, 80.0, -80.0], [-1e4, 1e4, 0.0]]])
    z = z.astype(dtype)
    found = subject.function(pr.sigmoid)(subject.array(z))
    expected = oracle.sigmoid(z.astype("float64"))
    subject.close(found, expected, "forward", dtype)
    host = subject.host(found)
    relative = np.abs(host - expected) / np.where(expected > 1e-38, expected, 1.0)  # for very negative z too
    assert relative.max() < {"float64": 2e-15, "float32": 1e-6}[dtype]  # measured: 2.1e-16 and 1.3e-7
