"""What JAX adds: its own derivatives use ours, and everything composes with jit, vmap and grad, compiled once."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subjects
from cases import LAYERS, packed, unpacked
from oracle import jax_loops
from subjects import near

import polyrnn as pr
from polyrnn.cells import GRUCell
from polyrnn.testing import assert_close, largest_error

JAX = subjects.ALL["jax"]


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> None:
    request.node.user_properties.append(("subject", "jax"))


def point_of(case: cases.Case) -> dict:
    return JAX.array(case.point)


def run(layer: Any, case: cases.Case, point: dict) -> tuple[Any, Any]:
    state = packed(tuple(point[s] for s in layer.cell.states))
    lengths = None if case.lengths is None else jnp.asarray(case.lengths)
    return layer({k: point[k] for k in case.params}, point["x"], state, lengths=lengths)


def loss(layer: Any, case: cases.Case, point: dict) -> Any:
    y, state = run(layer, case, point)
    return (y * case.dy).sum() + sum((s * d).sum() for s, d in zip(unpacked(state), case.dstate, strict=True))


# ---- the oracle's own gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", ["full", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_references_are_jax_grad_of_the_oracle(kind, lengths):
    case, expected = cases.get(f"{kind}/bias/{lengths}"), cases.expected(f"{kind}/bias/{lengths}")
    name = type(case.layer).__name__.lower()
    options = {"nonlinearity": case.layer.nonlinearity} if name == "rnn" else {}
    options |= {"reset_after": case.layer.reset_after} if name == "gru" else {}

    def of_the_oracle(point: dict) -> Any:
        states = [point[s][0] for s in case.layer.cell.states]
        y, *state = getattr(jax_loops, name)(point, point["x"], *states, case.lengths, **options)
        return (y * case.dy).sum() + sum((s * d[0]).sum() for s, d in zip(state, case.dstate, strict=True))

    found = JAX.host(jax.grad(of_the_oracle)(point_of(case)))
    wanted = {**expected.params, "x": expected.x, **dict(zip(case.layer.cell.states, expected.dstate0, strict=True))}
    for key, value in wanted.items():
        near(found[key], value, "gradient", key)


# ---- jax.grad --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True], ids=["by hand", "traced"])
@pytest.mark.parametrize("lengths", ["full", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_jax_grad_of_a_layer(kind, lengths, traced):
    name = f"{kind}/bias/{lengths}"
    case, expected = cases.get(name), cases.expected(name)
    layer = replace(case.layer, traced=traced)
    found = jax.grad(partial(loss, layer, case))(point_of(case))
    wanted = {**expected.params, "x": expected.x, **dict(zip(layer.cell.states, expected.dstate0, strict=True))}
    for key, value in wanted.items():
        JAX.close(found[key], value, "gradient", "float64", key)


@dataclass(frozen=True)
class WrongCell(GRUCell):
    """Its derivative is twice what it should be."""

    def step_backward(self, xp: Any, params: dict, residual: Any, dstate: tuple) -> tuple:
        dpre, drec, before = super().step_backward(xp, params, residual, dstate)
        return 2 * dpre, 2 * drec, before


@dataclass(frozen=True)
class WrongGRU(pr.GRU):
    """A GRU of that cell."""

    @cached_property
    def cell(self) -> Any:
        return WrongCell()


def test_jax_grad_uses_the_hand_written_backward():
    """A wrong one is seen in jax.grad; with `traced` it is not."""
    case = cases.get("gru/bias/full")
    expected = case.point | {"x": cases.expected("gru/bias/full").x}
    sizes = case.layer.input_size, case.layer.hidden_size
    by_hand = jax.grad(partial(loss, WrongGRU(*sizes), case))(point_of(case))
    traced = jax.grad(partial(loss, WrongGRU(*sizes, traced=True), case))(point_of(case))
    JAX.close(traced["x"], expected["x"], "gradient", "float64")
    assert largest_error(by_hand["x"], expected["x"]) > 0.1


def test_jax_grad_without_a_state_or_of_a_part():
    case = cases.get("lstm/bias/full")
    params, x = JAX.array(case.params), JAX.array(case.x)

    def of(params: dict, x: Any) -> Any:
        y, (h, _) = case.layer(params, x)
        return (y * case.dy).sum() + (h * case.dstate[0]).sum()

    grads, dx = jax.grad(of, argnums=(0, 1))(params, x)
    *_, tape = case.layer.forward(params, x)
    wanted = case.layer.backward(tape, JAX.array(case.dy), (JAX.array(case.dstate[0]), None))
    assert_close((grads, dx), (wanted.params, wanted.x), "same")


def test_value_and_grad_inside_jit():
    case = cases.get("lstm/bias/lengths")
    f = jax.jit(jax.value_and_grad(partial(loss, case.layer, case)))
    value, grads = f(point_of(case))
    near(value, float(cases.loss(case, *case.oracle())), "forward")
    JAX.close(grads["x"], cases.expected("lstm/bias/lengths").x, "gradient", "float64")
    assert not np.asarray(grads["x"])[case.padding()].any()


def test_nan_in_the_padding_stays_there_under_jax_grad():
    case = cases.get("gru/bias/lengths")
    x = case.x.copy()
    x[case.padding()] = np.nan
    grads = jax.grad(partial(loss, case.layer, replace(case, x=x)))(point_of(replace(case, x=x)))
    expected = cases.expected("gru/bias/lengths")
    JAX.close({k: grads[k] for k in case.params}, expected.params, "gradient", "float64")
    JAX.close(grads["x"], expected.x, "gradient", "float64")


def test_gradients_of_gradients():
    """Of the hand-written backward, which is differentiable itself, and of the traced forward: the same."""
    case = cases.get("lstm/bias/full")
    direction = {k: np.cos(np.arange(v.size)).reshape(v.shape) for k, v in case.point.items()}

    def along(layer: Any) -> Any:
        def slope(point: dict) -> Any:
            grads = jax.grad(partial(loss, layer, case))(point)
            return sum((grads[k] * direction[k]).sum() for k in grads)

        return jax.grad(slope)(point_of(case))

    by_hand, traced = along(case.layer), along(replace(case.layer, traced=True))
    assert_close(by_hand, traced, "gradient")
    step = 1e-5
    ends = []
    for sign in (1, -1):
        point = {k: v + sign * step * direction[k] for k, v in case.point.items()}
        ends.append(JAX.host(jax.grad(partial(loss, case.layer, case))(JAX.array(point))))
    for key in case.point:  # the Hessian is symmetric: its product with the direction is the slope of the gradient
        near(np.asarray(by_hand[key]), (ends[0][key] - ends[1][key]) / (2 * step), "differences", key)


def test_forward_mode_needs_the_traced_layer():
    case = cases.get("gru/bias/full")
    point = point_of(case)
    tangent = {k: jnp.cos(v) for k, v in point.items()}
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(partial(loss, case.layer, case), (point,), (tangent,))
    _, slope = jax.jvp(partial(loss, replace(case.layer, traced=True), case), (point,), (tangent,))
    grads = jax.grad(partial(loss, case.layer, case))(point)
    near(slope, sum(float((grads[k] * tangent[k]).sum()) for k in grads), "gradient")


# ---- vmap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "gru_before"])
def test_vmap_over_sequences_and_over_parameters(kind):
    case = cases.get(f"{kind}/bias/lengths")
    point = point_of(case)
    stacked = {k: jnp.stack([v, 0.5 * v, -v]) for k, v in point.items()}
    y, state = jax.vmap(partial(run, case.layer, case))(stacked)
    grads = jax.vmap(jax.grad(partial(loss, case.layer, case)))(stacked)
    for k, factor in enumerate((1.0, 0.5, -1.0)):
        own = {key: factor * v for key, v in point.items()}
        wanted_y, wanted_state = run(case.layer, case, own)
        wanted = jax.grad(partial(loss, case.layer, case))(own)
        assert_close(y[k], wanted_y, "same")
        assert_close(tuple(s[k] for s in unpacked(state)), unpacked(wanted_state), "same")
        assert_close({key: g[k] for key, g in grads.items()}, wanted, "gradient")


def test_vmap_over_lengths():
    case = cases.get("gru/bias/lengths")
    params, x, lengths = JAX.array((case.params, case.x, case.lengths))
    several = jnp.stack([lengths, lengths[::-1], jnp.zeros_like(lengths)])
    y, _ = jax.vmap(lambda own: case.layer(params, x, lengths=own))(several)
    for k in range(3):
        assert_close(y[k], case.layer(params, x, lengths=several[k])[0], "same")


# ---- compilation -----------------------------------------------------------------------------------------------


class Compilations(logging.Handler):
    """Counts what `jax_log_compiles` says."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith("Compiling ")

    def __enter__(self) -> "Compilations":
        self.loggers = [logging.getLogger(name) for name in ("jax._src.interpreters.pxla", "jax._src.dispatch")]
        for logger in self.loggers:
            logger.addHandler(self)
            logger.propagate = False
        jax.config.update("jax_log_compiles", True)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.config.update("jax_log_compiles", False)
        for logger in self.loggers:
            logger.removeHandler(self)
            logger.propagate = True


def test_the_counter_counts():
    with Compilations() as seen:
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(17))
    assert seen.count >= 1


@pytest.mark.parametrize(("length", "size", "lengths"), [(10, 4, [2]), (12, 4, [4]), (11, 4, [3, 4]), (3, 4, [3])])
def test_blocks_are_equal_where_they_can_be_and_compile_once(length, size, lengths):
    seen = []

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        seen.append(x.shape[0])
        return carry + x.sum(), x * 2

    carry, ys = JAX.backend.scan_blocks(body, jnp.zeros(()), jnp.arange(float(length)), size)
    assert carry == length * (length - 1) / 2 and np.array_equal(ys, 2 * np.arange(length))
    assert sorted(set(seen)) == lengths


def test_repeated_eager_calls_compile_nothing():
    """Neither the same arguments nor others of the same shapes, nor an equal layer made anew."""

    def everything(factor: float) -> None:
        layer = pr.LSTM(case.layer.input_size, case.layer.hidden_size)
        x = JAX.array(case.x * factor)
        y, state = layer(params, x, lengths=lengths)
        y, state, tape = layer.forward(params, x, state, lengths=lengths)
        layer.backward(tape, y, state)
        layer.step(params, x[0], state)

    case = cases.get("lstm/bias/lengths")
    params, lengths = JAX.array(case.params), JAX.array(case.lengths)
    everything(1.0)
    with Compilations() as seen:
        for factor in (1.0, 2.0, -0.5):
            everything(factor)
    assert seen.count == 0


def test_repeated_textbook_calls_compile_nothing():
    rng = np.random.default_rng(0)
    shapes = {"Wax": (5, 3), "Waa": (5, 5), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
    parameters = JAX.array({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    x, a0 = JAX.array((rng.standard_normal((3, 2, 7)), rng.standard_normal((5, 2))))
    first = pr.rnn_forward(x, a0, parameters)
    pr.rnn_backward(first[0], first[-1])
    with Compilations() as seen:
        a, _, caches = pr.rnn_forward(x, a0, parameters)
        pr.rnn_backward(a, caches)
    assert seen.count == 0


def test_a_jitted_function_of_a_layer_is_traced_once():
    case, traces = cases.get("gru/bias/full"), []

    @jax.jit
    def f(params: dict, x: Any) -> Any:
        traces.append(1)
        return case.layer(params, x)[0]

    params, x = JAX.array(case.params), JAX.array(case.x)
    for factor in (1.0, 2.0, 3.0):
        f(params, x * factor)
    assert len(traces) == 1


def test_layers_are_static_arguments():
    f = jax.jit(lambda layer, params, x: layer(params, x)[0], static_argnums=0)
    case = cases.get("lstm/bias/full")
    params, x = JAX.array(case.params), JAX.array(case.x)
    y = f(case.layer, params, x)
    assert_close(f(pr.LSTM(case.layer.input_size, case.layer.hidden_size), params, x), y, "same")
    assert f._cache_size() == 1


def test_a_tape_crosses_jit():
    case = cases.get("lstm/bias/lengths")
    params, x, dy = JAX.array((case.params, case.x, case.dy))
    forward = jax.jit(partial(case.layer.forward, lengths=JAX.array(case.lengths)))
    _, _, tape = forward(params, x)
    inside = jax.jit(case.layer.backward)(tape, dy)
    *_, eager = case.layer.forward(params, x, lengths=JAX.array(case.lengths))
    assert_close(inside, case.layer.backward(eager, dy), "same")


# ---- modules ---------------------------------------------------------------------------------------------------


def test_jax_grad_of_a_model():
    """Embedding, Dropout, LSTM and Linear: jax.grad of the call against the model's own backward."""
    model = pr.Sequential(e=pr.Embedding(11, 3), d=pr.Dropout(0.4), l=pr.LSTM(3, 5), h=pr.Linear(5, 2))
    rng = np.random.default_rng(0)
    params = JAX.array({k: rng.standard_normal(s) for k, s in model.shapes().items()})
    ids, dy = JAX.array((rng.integers(0, 11, (7, 2)), rng.standard_normal((7, 2, 2))))
    seed = jnp.asarray(5)

    def of(params: dict) -> Any:
        return (model(params, ids, lengths=jnp.asarray([7, 4]), seed=seed)[0] * dy).sum()

    *_, tape = model.forward(params, ids, lengths=[7, 4], seed=5)
    assert_close(jax.jit(jax.grad(of))(params), model.backward(tape, dy).params, "gradient")
