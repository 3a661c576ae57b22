"""The oracle is itself right: against PyTorch's stored results, published numbers and known derivatives."""

import ast
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import numpy_loops as oracle
from .stored import ARRAYS, OPTIONS, RECURRENT, VERSION, case

# about ten times the largest error measured, which stands in the comment
FORWARD = 5e-14  # 5.8e-15 (cross-entropy of logits of about 1000; layers 1.4e-15)
GRADIENT = 1e-14  # 8.7e-16
DIFFERENCES = 2e-8  # 2.3e-9 (rnn_relu, whose loss is about 100: rounding)
JAX = 1e-14  # 1.2e-15

STATES = {"rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}


def generator(*names: str) -> np.random.Generator:
    """A generator seeded by the test's own name."""
    return np.random.default_rng(list("/".join(names).encode()))


def error(actual: Any, expected: Any) -> float:
    """The largest difference, relative where the expected values are larger than 1; shapes must agree."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected), initial=0.0) / max(1.0, np.max(np.abs(expected), initial=0)))


def padding(lengths: Any, steps: int) -> np.ndarray:
    """True past the end, (T, N)."""
    return np.arange(steps)[:, None] >= np.asarray(lengths)[None, :]


class Case:
    """One stored recurrent case: its inputs in the oracle's layout, NaN in the padding, and the results."""

    def __init__(self, name: str) -> None:
        self.arrays, self.options = case(name), OPTIONS[name]
        self.states = STATES[self.options["cell"]]
        self.lengths = self.arrays.get("lengths")
        self.inputs = {k: v.copy() for k, v in self.arrays.items() if k.startswith(("weight_", "bias_"))}
        self.params = list(self.inputs)
        self.inputs["x"] = self.arrays["x"].copy()
        if self.lengths is not None:
            self.inputs["x"][padding(self.lengths, len(self.inputs["x"]))] = np.nan
        self.inputs |= {s + "0": self.arrays[s + "0"][0].copy() for s in self.states}

    def run(self, loops: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """y and the final states as ``loops`` computes them."""
        extra = {k: v for k, v in self.options.items() if k == "nonlinearity"}
        states = [inputs[s + "0"] for s in self.states]
        params = {k: inputs[k] for k in self.params}
        out = getattr(loops, self.options["cell"])(params, inputs["x"], *states, lengths=self.lengths, **extra)
        return dict(zip(("y", *self.states), out, strict=True))

    def loss(self, loops: Any, inputs: dict[str, Any]) -> Any:
        """The sum of the results times their upstream gradients."""
        out = self.run(loops, inputs)
        return sum((value * self.upstream(k)).sum() for k, value in out.items())

    def upstream(self, name: str) -> np.ndarray:
        """dy (T, N, H), dh or dc (N, H)."""
        return self.arrays["d" + name] if name == "y" else self.arrays["d" + name][0]

    def gradient(self, name: str) -> np.ndarray:
        """PyTorch's gradient of `loss`, in the layout of the inputs."""
        g = self.arrays["grad/" + name]
        return g[0] if name in ("h0", "c0") else g


@pytest.fixture
def jax_loops() -> Iterator[Any]:
    """The JAX oracle, in float64."""
    jax = pytest.importorskip("jax")
    from . import jax_loops

    with jax.enable_x64(True):
        yield jax_loops


# The stored file


def test_stored_cases_are_what_the_readme_says() -> None:
    assert VERSION.startswith("2.13.0")
    assert len(RECURRENT) == 16
    assert all(np.isfinite(a).all() and a.size for a in ARRAYS.values())
    for name in RECURRENT:
        c = Case(name)
        sizes = (*c.inputs["x"].shape, c.inputs["h0"].shape[1])
        assert len(set(sizes)) == 4, name
        assert all(np.all(v[..., :1] != 0) for k, v in c.inputs.items() if k != "x"), name
        assert all(np.abs(c.gradient(k)).max() > 1e-3 for k in c.inputs), name
        if c.lengths is not None:
            assert {1, sizes[0]} < set(c.lengths.tolist()), name
            assert sorted(c.lengths) != list(c.lengths) != sorted(c.lengths)[::-1], name


# Recurrent layers


@pytest.mark.parametrize("name", RECURRENT)
def test_forward_is_pytorchs(name: str) -> None:
    c = Case(name)
    out = c.run(oracle, c.inputs)
    assert error(out["y"], c.arrays["y"]) < FORWARD
    for s in c.states:
        assert error(out[s], c.arrays[s][0]) < FORWARD
    if c.lengths is not None:
        assert not out["y"][padding(c.lengths, len(out["y"]))].any()


@pytest.mark.parametrize("name", RECURRENT)
def test_differences_are_pytorchs_gradients(name: str) -> None:
    c, rng = Case(name), generator("differences", name)
    for k in c.inputs:
        direction = rng.standard_normal(c.inputs[k].shape)
        direction /= np.linalg.norm(direction)
        expected = np.sum(c.gradient(k) * direction)
        found = oracle.central_difference(lambda v: c.loss(oracle, v), c.inputs, {k: direction})
        assert abs(expected) > 1e-3
        assert error(found, expected) < DIFFERENCES, k


@pytest.mark.parametrize("name", ["lstm/bias/lengths", "gru/nobias/lengths", "rnn_relu/bias/lengths"])
def test_elementwise_differences_are_pytorchs_gradients(name: str) -> None:
    c = Case(name)
    names = [k for k in c.inputs if not k.startswith("weight_")]
    found = oracle.elementwise_gradient(lambda v: float(c.loss(oracle, v)), c.inputs, names)
    for k in names:
        assert error(found[k], c.gradient(k)) < DIFFERENCES, k
    assert not found["x"][padding(c.lengths, len(found["x"]))].any()


@pytest.mark.parametrize("name", RECURRENT)
def test_jax_loops_are_the_numpy_loops(name: str, jax_loops: Any) -> None:
    c = Case(name)
    out, expected = c.run(jax_loops, c.inputs), c.run(oracle, c.inputs)
    for k, value in expected.items():
        assert error(out[k], value) < JAX, k


@pytest.mark.parametrize("name", RECURRENT)
def test_jax_gradients_are_pytorchs(name: str, jax_loops: Any) -> None:
    import jax

    c = Case(name)
    grads = jax.grad(lambda v: c.loss(jax_loops, v))(c.inputs)
    for k in c.inputs:
        assert error(grads[k], c.gradient(k)) < GRADIENT, k


def test_jax_loops_refuse_float32(jax_loops: Any) -> None:
    import jax

    c = Case("gru/bias/full")
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        c.run(jax_loops, c.inputs)


@pytest.mark.parametrize("lengths", [None, (5, 2, 0)])
def test_reset_before_in_jax_loops_is_numpy_loops(lengths: Any, jax_loops: Any) -> None:
    import jax

    rng = generator("reset before", str(lengths))
    params = random_params(rng, 3, inputs=2, hidden=7)
    x, h0, dy, dh = (rng.standard_normal(s) for s in ((5, 3, 2), (3, 7), (5, 3, 7), (3, 7)))

    def loss(loops: Any, v: dict[str, Any]) -> Any:
        y, h = loops.gru(v, v["x"], v["h0"], lengths, reset_after=False)
        return (y * dy).sum() + (h * dh).sum()

    inputs = {**params, "x": x, "h0": h0}
    found = jax_loops.gru(params, x, h0, lengths, reset_after=False)
    for a, b in zip(found, oracle.gru(params, x, h0, lengths, reset_after=False), strict=True):
        assert error(a, b) < JAX
    grads = jax.grad(lambda v: loss(jax_loops, v))(inputs)
    for k, v in inputs.items():
        direction = rng.standard_normal(v.shape)
        direction /= np.linalg.norm(direction)
        expected = oracle.central_difference(lambda w: loss(oracle, w), inputs, {k: direction})
        assert error(np.sum(grads[k] * direction), expected) < DIFFERENCES, k


def random_params(rng: np.random.Generator, gates: int, inputs: int, hidden: int) -> dict[str, np.ndarray]:
    """Random weights and biases under PyTorch's names."""
    shapes = {
        "weight_ih_l0": (gates * hidden, inputs),
        "weight_hh_l0": (gates * hidden, hidden),
        "bias_ih_l0": (gates * hidden,),
        "bias_hh_l0": (gates * hidden,),
    }
    return {k: 0.5 * rng.standard_normal(s) for k, s in shapes.items()}


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_of_one_unit_by_hand(reset_after: bool) -> None:
    w, u, b, d = (0.3, -0.7, 0.9), (1.1, 0.4, -0.6), (0.2, -0.1, 0.5), (-0.4, 0.6, 0.8)  # r z n
    x, h = 0.7, -1.3
    r = 1 / (1 + math.exp(-(w[0] * x + b[0] + u[0] * h + d[0])))
    z = 1 / (1 + math.exp(-(w[1] * x + b[1] + u[1] * h + d[1])))
    inner = r * (u[2] * h + d[2]) if reset_after else u[2] * (r * h) + d[2]
    expected = (1 - z) * math.tanh(w[2] * x + b[2] + inner) + z * h
    params = dict(zip(("weight_ih_l0", "weight_hh_l0"), (np.array([w]).T, np.array([u]).T), strict=True))
    params |= {"bias_ih_l0": np.array(b), "bias_hh_l0": np.array(d)}
    y, last = oracle.gru(params, np.array([[[x]]]), np.array([[h]]), reset_after=reset_after)
    assert y.item() == last.item()
    assert error(y, np.array([[[expected]]])) < FORWARD


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_lengths_zero_and_no_steps_leave_the_state(cell: str) -> None:
    rng = generator("zero", cell)
    params = random_params(rng, {"rnn": 1, "lstm": 4, "gru": 3}[cell], inputs=2, hidden=7)
    states = [rng.standard_normal((3, 7)) for _ in STATES[cell]]
    x = rng.standard_normal((5, 3, 2))
    whole = getattr(oracle, cell)(params, x, *states)
    x[:, 1] = np.nan
    y, *last = getattr(oracle, cell)(params, x, *states, lengths=np.array([5, 0, 5]))
    assert not y[:, 1].any()
    for s, before, after in zip(last, states, whole[1:], strict=True):
        assert np.array_equal(s[1], before[1])
        assert np.array_equal(s[[0, 2]], after[[0, 2]])
    y, *last = getattr(oracle, cell)(params, x[:0], *states)
    assert y.shape == (0, 3, 7)
    assert all(np.array_equal(s, before) for s, before in zip(last, states, strict=True))


# Textbook forms


def prediction_weights(rng: np.random.Generator, name: str, hidden: int) -> dict[str, np.ndarray]:
    return {name: rng.standard_normal((3, hidden)), "by": rng.standard_normal((3, 1))}


def joined(params: dict[str, np.ndarray], letters: str) -> dict[str, np.ndarray]:
    """PyTorch's stacked weights as W (n_a, n_a + n_x) on [a_prev; xt] and b (n_a, 1), a letter a gate."""
    hidden = params["weight_hh_l0"].shape[1]
    out = {}
    for k, letter in enumerate(letters):
        r = slice(k * hidden, (k + 1) * hidden)
        out["W" + letter] = np.hstack([params["weight_hh_l0"][r], params["weight_ih_l0"][r]])
        out["b" + letter] = (params["bias_ih_l0"][r] + params["bias_hh_l0"][r])[:, None]
    return out


def textbook_of(cell: str, params: dict[str, np.ndarray]) -> tuple[Callable[..., tuple], dict[str, Any]]:
    """The textbook oracle and its parameters for a layer's parameters."""
    if cell == "rnn":
        bias = (params["bias_ih_l0"] + params["bias_hh_l0"])[:, None]
        own = {"Wax": params["weight_ih_l0"], "Waa": params["weight_hh_l0"], "ba": bias}
        return oracle.textbook_rnn, own
    if cell == "lstm":
        return oracle.textbook_lstm, joined(params, "ifco")
    own = joined(params, "ruc")
    return oracle.textbook_gru, own | {"Wu": -own["Wu"], "bu": -own["bu"]}  # ut = 1 - z


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_textbook_forms_are_the_layers(cell: str) -> None:
    rng = generator("textbook", cell)
    params = random_params(rng, {"rnn": 1, "lstm": 4, "gru": 3}[cell], inputs=2, hidden=7)
    x, states = rng.standard_normal((11, 5, 2)), [rng.standard_normal((5, 7)) for _ in STATES[cell]]
    extra = {"reset_after": False} if cell == "gru" else {}
    y, *last = getattr(oracle, cell)(params, x, *states, **extra)

    function, own = textbook_of(cell, params)
    out_weight = "Wya" if cell == "rnn" else "Wy"
    own |= prediction_weights(rng, out_weight, 7)
    more = {"c0": states[1].T} if cell == "lstm" else {}
    a, predictions, *c = function(x.transpose(2, 1, 0), states[0].T, own, **more)

    assert error(a.transpose(2, 1, 0), y) < FORWARD
    assert error(a[:, :, -1].T, last[0]) < FORWARD
    if cell == "lstm":
        assert error(c[0][:, :, -1].T, last[1]) < FORWARD
    z = np.einsum("yh,tnh->ynt", own[out_weight], y) + own["by"][:, :, None]
    assert error(predictions, np.exp(z) / np.exp(z).sum(axis=0)) < FORWARD


def test_textbook_lstm_starts_from_zero_cells() -> None:
    rng = generator("c0")
    _, own = textbook_of("lstm", random_params(rng, 4, inputs=2, hidden=7))
    own |= prediction_weights(rng, "Wy", 7)
    x, a0 = rng.standard_normal((2, 3, 5)), rng.standard_normal((7, 3))
    absent, zero = (oracle.textbook_lstm(x, a0, own, **k) for k in ({}, {"c0": np.zeros((7, 3))}))
    assert all(np.array_equal(p, q) for p, q in zip(absent, zero, strict=True))
    assert not np.array_equal(absent[0], oracle.textbook_lstm(x, a0, own, c0=a0)[0])


def test_textbook_rnn_has_the_published_gradients() -> None:
    random = np.random.RandomState(1)
    draw = {k: random.randn(*s) for k, s in {"x": (3, 10, 4), "a0": (5, 10)}.items()}
    shapes = {"Wax": (5, 3), "Waa": (5, 5), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
    draw |= {k: random.randn(*s) for k, s in shapes.items()}
    da = random.randn(5, 10, 4)

    def loss(v: dict[str, np.ndarray]) -> float:
        a, _ = oracle.textbook_rnn(v["x"], v["a0"], {k: v[k] for k in shapes})
        return float(np.sum(a * da))

    g = oracle.elementwise_gradient(loss, draw, ["x", "a0", "Wax", "Waa", "ba"])
    published = np.array([-2.07101689, -0.59255627, 0.02466855, 0.01483317])
    assert error(g["x"][1][2], published) < 2e-8  # published with eight decimals
    assert error(g["a0"][2][3], np.float64(-0.3149423751266499)) < DIFFERENCES
    assert error(g["Wax"][3][1], np.float64(11.264104496527779)) < DIFFERENCES
    assert error(g["Waa"][1][2], np.float64(2.3033331265798935)) < DIFFERENCES
    assert error(g["ba"][4], np.array([-0.74747722])) < 2e-8


# Losses, optimizers, clipping, modules


@pytest.mark.parametrize("which", ["all", "mask"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_are_pytorchs(loss: str, which: str) -> None:
    c = {k: v.copy() for k, v in case(f"{loss}/{which}").items()}
    function, name, target = {
        "cross_entropy": (oracle.softmax_cross_entropy, "logits", "labels"),
        "mse": (oracle.mean_squared_error, "prediction", "target"),
    }[loss]
    mask = None if which == "all" else c["mask"]
    at = {name: c[name]}
    if mask is not None:
        at[name][~mask] = np.nan  # what does not count is never read
    value, gradient = function(at[name], c[target], mask)
    assert error(np.float64(value), c["value"]) < FORWARD
    assert error(gradient, c["grad/" + name]) < FORWARD
    found = oracle.elementwise_gradient(lambda v: function(v[name], c[target], mask)[0], at, [name])
    assert error(found[name], gradient) < DIFFERENCES


def test_losses_of_nothing_are_zero() -> None:
    rng = generator("nothing")
    logits, labels, none = rng.standard_normal((5, 3, 7)), rng.integers(0, 7, (5, 3)), np.zeros((5, 3), bool)
    for value, gradient in (
        oracle.softmax_cross_entropy(logits, labels, none),
        oracle.mean_squared_error(logits, -logits, none),
    ):
        assert value == 0.0
        assert gradient.shape == (5, 3, 7)
        assert not gradient.any()


@pytest.mark.parametrize("name", [k for k in OPTIONS if k.startswith("optimizer/")])
def test_optimizers_are_pytorchs(name: str) -> None:
    c, options = case(name), OPTIONS[name]
    settings = {k: v for k, v in options["settings"].items() if k != "centered"}
    if options["optimizer"] == "RMSprop":
        assert not options["settings"].get("centered")
        assert settings.pop("momentum", 0.0) == 0.0
    assert len(c["p"]) == 5
    found = oracle.optimize(options["optimizer"], c["p0"], c["gradients"], **settings)
    assert error(found, c["p"]) < FORWARD


@pytest.mark.parametrize("name", ["clip/above", "clip/below"])
def test_clipping_is_pytorchs(name: str) -> None:
    c, max_norm = case(name), OPTIONS[name]["max_norm"]
    clipped, norm = oracle.clip_by_global_norm({"a": c["a"], "b": c["b"]}, max_norm)
    assert (norm > max_norm) == (name == "clip/above")
    assert error(np.float64(norm), c["norm"]) < FORWARD
    for k, g in clipped.items():
        assert error(g, c["clipped_" + k]) < FORWARD


def test_stored_embedding_and_linear() -> None:
    c = case("embedding")
    rows = np.zeros_like(c["weight"])
    for k in np.ndindex(*c["ids"].shape):
        rows[c["ids"][k]] += c["dy"][k]
    assert len(np.unique(c["ids"])) < c["ids"].size
    assert not rows[-1].any()
    assert np.array_equal(c["y"], c["weight"][c["ids"]])
    assert error(rows, c["grad/weight"]) < FORWARD
    for name in ("linear/bias", "linear/nobias"):
        c = case(name)
        assert ("bias" in c) == (name == "linear/bias")
        y = np.einsum("oi,tni->tno", c["weight"], c["x"]) + c.get("bias", np.zeros(7))
        assert error(y, c["y"]) < FORWARD
        assert error(np.einsum("tno,oi->tni", c["dy"], c["weight"]), c["grad/x"]) < FORWARD
        assert error(np.einsum("tno,tni->oi", c["dy"], c["x"]), c["grad/weight"]) < FORWARD
        if "bias" in c:
            assert error(c["dy"].sum(axis=(0, 1)), c["grad/bias"]) < FORWARD


# The differences, and what they must catch


def test_differences_of_a_known_function() -> None:
    rng = generator("known")
    point = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(5)}

    def f(v: dict[str, np.ndarray]) -> float:
        return float(np.sum(np.sin(v["a"])) * np.sum(v["b"] ** 3))

    a, b = np.cos(point["a"]) * np.sum(point["b"] ** 3), 3 * point["b"] ** 2 * np.sum(np.sin(point["a"]))
    before = {k: v.copy() for k, v in point.items()}
    found = oracle.elementwise_gradient(f, point, ["a", "b"])
    # Measured: 2.7e-11, and 1.4e-10 along a direction.
    assert error(found["a"], a) < 1e-9
    assert error(found["b"], b) < 1e-9
    direction = {k: rng.standard_normal(v.shape) for k, v in point.items()}
    expected = np.sum(a * direction["a"]) + np.sum(b * direction["b"])
    assert error(np.float64(oracle.central_difference(f, point, direction)), expected) < 1e-9
    assert all(np.array_equal(point[k], v) for k, v in before.items())


def wrong_conventions(c: Case) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The inputs as somebody with another convention would read them."""
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[c.options["cell"]]
    for a, b in itertools.combinations(range(gates), 2):
        order = list(range(gates))
        order[a], order[b] = b, a
        blocks = {k: np.split(c.inputs[k], gates) for k in c.params}
        yield (
            f"gates {order}",
            c.inputs | {k: np.concatenate([v[j] for j in order]) for k, v in blocks.items()},
        )
    for s in c.states:
        yield f"no {s}0", c.inputs | {s + "0": np.zeros_like(c.inputs[s + "0"])}
    for k in c.params:
        yield f"no {k}", c.inputs | {k: np.zeros_like(c.inputs[k])}
    if c.options["cell"] == "lstm":
        yield "states swapped", c.inputs | {"h0": c.inputs["c0"], "c0": c.inputs["h0"]}
    if c.options["cell"] == "gru" and c.options["bias"]:
        one, other = "bias_ih_l0", "bias_hh_l0"
        yield "biases swapped", c.inputs | {one: c.inputs[other], other: c.inputs[one]}


@pytest.mark.parametrize("name", RECURRENT)
def test_wrong_conventions_are_far_away(name: str) -> None:
    """The stored cases can tell one convention from another."""
    c = Case(name)
    plants = list(wrong_conventions(c))
    assert len(plants) >= len(c.inputs) - 1
    for plant, inputs in plants:
        out = c.run(oracle, inputs)
        assert error(out["y"], c.arrays["y"]) > 1e-3, plant


def test_reset_before_is_not_reset_after() -> None:
    c = Case("gru/bias/full")
    y, h = oracle.gru(c.inputs, c.inputs["x"], c.inputs["h0"], reset_after=False)
    assert error(y, c.arrays["y"]) > 1e-3
    assert error(h, c.arrays["h"][0]) > 1e-3


def test_the_oracle_imports_nothing_from_the_library() -> None:
    here = Path(__file__).parent
    allowed = {
        "numpy_loops.py": {"numpy"},
        "variant_loops.py": {"numpy"},
        "jax_loops.py": {"jax"},
        "__init__.py": set(),
    }
    for file, libraries in allowed.items():
        for node in ast.walk(ast.parse((here / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert name.split(".")[0] in libraries | sys.stdlib_module_names, (file, name)
