"""Deep, bidirectional, projected layers with dropout, lengths and learned states inside JAX's transformations.

What is expected comes from the hand-written backward pass on NumPy, which other files prove.
"""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import subjects
from cases import packed, unpacked
from subjects import near
from test_jax import Compilations

import polyrnn as pr
from polyrnn.backends import tree_map
from polyrnn.testing import assert_close

JAX = subjects.ALL["jax"]
STEPS, BATCH, INPUTS, HIDDEN = 7, 3, 2, 5
LENGTHS, SEED = (4, 7, 0), 11
LAYERS = {
    "rnn": pr.RNN(INPUTS, HIDDEN, num_layers=2, dropout=0.4, bidirectional=True),
    "lstm": pr.LSTM(INPUTS, HIDDEN, num_layers=2, dropout=0.4, bidirectional=True, proj_size=3),
    "gru": pr.GRU(INPUTS, HIDDEN, num_layers=2, dropout=0.4, bidirectional=True, learned_state=True),
}
ONE_WAY = {kind: replace(layer, bidirectional=False) for kind, layer in LAYERS.items()}
# For what compiles slowly: one deep layer with dropout is enough.
SMALL = {
    "rnn": ONE_WAY["rnn"],
    "lstm": pr.LSTM(INPUTS, HIDDEN, proj_size=3),
    "gru": pr.GRU(INPUTS, HIDDEN, learned_state=True),
}
kinds = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> None:
    request.node.user_properties.append(("subject", "jax"))


@cache
def point_of(layer: Any) -> dict[str, Any]:
    """Everything that has a gradient, on the host; a layer that learns its initial state is given none."""
    rng = np.random.default_rng(list(repr(layer).encode()))
    count = layer.num_layers * (1 + layer.bidirectional)
    state = tuple(rng.standard_normal((count, BATCH, s)) for s in layer.cell.state_sizes(HIDDEN))
    return {
        "params": {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()},
        "x": rng.standard_normal((STEPS, BATCH, INPUTS)),
        "state": None if layer.learned_state else packed(state),
    }


@cache
def upstream(layer: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(list(f"{layer} upstream".encode()))
    D, sizes = 1 + layer.bidirectional, layer.cell.state_sizes(HIDDEN)
    dstate = tuple(rng.standard_normal((layer.num_layers * D, BATCH, size)) for size in sizes)
    return rng.standard_normal((STEPS, BATCH, D * sizes[0])), packed(dstate)


def weighed(layer: Any, y: Any, state: Any) -> Any:
    dy, dstate = upstream(replace(layer, traced=False))
    return (y * dy).sum() + sum((s * d).sum() for s, d in zip(unpacked(state), unpacked(dstate), strict=True))


def loss(layer: Any, point: dict, lengths: Any = LENGTHS, seed: Any = SEED) -> Any:
    return weighed(layer, *layer(point["params"], point["x"], point["state"], lengths, seed))


def by_numpy(layer: Any, point: dict, lengths: Any = LENGTHS, seed: Any = SEED) -> tuple[float, dict]:
    """The loss and its gradient in the form of the point."""
    y, state, tape = layer.forward(point["params"], point["x"], point["state"], lengths, seed)
    grads = layer.backward(tape, *upstream(layer))
    start = None if point["state"] is None else grads.state
    return weighed(layer, y, state), {"params": grads.params, "x": grads.x, "state": start}


def check(found: tuple[Any, Any], expected: tuple[float, dict]) -> None:
    near(found[0], expected[0], "gradient", "loss")  # a sum, as a gradient is
    JAX.close(found[1], expected[1], "gradient", "float64")


# ---- first derivatives -----------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("traced", [False, True], ids=["by hand", "traced"])
def test_jit_of_value_and_grad(kind, traced):
    layer = LAYERS[kind]
    function = jax.jit(jax.value_and_grad(partial(loss, replace(layer, traced=traced))))
    found = function(JAX.array(point_of(layer)), jnp.asarray(LENGTHS), jnp.asarray(SEED))
    check(found, by_numpy(layer, point_of(layer)))


@kinds
def test_vmap_of_checkpoint_over_parameters_sequences_lengths_and_seeds(kind):
    """The forward pass that runs again in the backward pass meets the same masks."""
    layer = LAYERS[kind]
    points = [tree_map(lambda a, by=factor: by * a, point_of(layer)) for factor in (1.0, -0.5)]
    lengths, seeds = np.asarray([LENGTHS, (1, 0, 6)]), np.asarray([SEED, 13])
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *points)
    function = jax.vmap(jax.value_and_grad(jax.checkpoint(partial(loss, layer))))
    values, grads = jax.jit(function)(stacked, *JAX.array((lengths, seeds)))
    for k, point in enumerate(points):
        own = values[k], tree_map(lambda a, k=k: a[k], grads)
        check(own, by_numpy(layer, point, lengths[k], int(seeds[k])))


# ---- lax.scan --------------------------------------------------------------------------------------------------


def by_steps(layer: Any, point: dict) -> tuple[Any, Any]:
    def body(state: Any, x: Any) -> tuple[Any, Any]:
        y, state = layer.step(point["params"], x, state)
        return state, y

    first, state = layer.step(point["params"], point["x"][0], point["state"])  # which may be one that is learned
    state, rest = jax.lax.scan(body, state, point["x"][1:])
    return jnp.concat((first[None], rest)), state


def by_pieces(layer: Any, point: dict) -> tuple[Any, Any]:
    """Three pieces of two steps after the first step, the state carried from each to the next."""

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        y, state = layer(point["params"], x, state)
        return state, y

    first, state = layer(point["params"], point["x"][:1], point["state"])
    state, rest = jax.lax.scan(body, state, point["x"][1:].reshape(3, 2, BATCH, INPUTS))
    return jnp.concat((first, rest.reshape(STEPS - 1, *rest.shape[2:]))), state


@pytest.mark.parametrize(
    ("run", "kind"), [(by_steps, "rnn"), (by_steps, "lstm"), (by_steps, "gru"), (by_pieces, "lstm")]
)
def test_a_layer_inside_scan_is_the_whole_call(run, kind):
    """Outputs, final states, and the gradients through the scan."""
    layer = ONE_WAY[kind]

    def function(point: dict) -> tuple[Any, Any]:
        y, state = run(layer, point)
        return weighed(layer, y, state), (y, state)

    (value, found), grads = jax.jit(jax.value_and_grad(function, has_aux=True))(JAX.array(point_of(layer)))
    point = point_of(layer)
    JAX.close(found, layer(point["params"], point["x"], point["state"]), "forward", "float64")
    check((value, grads), by_numpy(layer, point, None, None))


# ---- second derivatives ----------------------------------------------------------------------------------------


def along(layer: Any, point: dict, direction: dict, lengths: Any, seed: Any) -> Any:
    """The Hessian's product with the direction, as the gradient of the gradient's slope."""

    def slope(point: dict) -> Any:
        grads = jax.grad(partial(loss, layer))(point, lengths, seed)
        return sum((g * d).sum() for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True))

    return jax.grad(slope)(point)


@kinds
def test_hessian_vector_products(kind):
    """Of the hand-written backward pass and of the traced forward pass the same; and differences of gradients."""
    layer, rng = SMALL[kind], np.random.default_rng(5)
    point = point_of(layer)
    direction = tree_map(lambda a: rng.standard_normal(a.shape), point)
    length = np.sqrt(sum((d * d).sum() for d in jax.tree.leaves(direction)))
    direction = tree_map(lambda d: d / length, direction)
    arguments = JAX.array((point, direction, np.asarray(LENGTHS), np.asarray(SEED)))
    by_hand = JAX.host(jax.jit(partial(along, layer))(*arguments))
    traced = JAX.host(jax.jit(partial(along, replace(layer, traced=True)))(*arguments))
    step, ends = 1e-5, []
    for sign in (1, -1):
        moved = jax.tree.map(lambda a, d, by=sign * step: a + by * d, point, direction)
        ends.append(by_numpy(layer, moved)[1])
    for found, other, up, down in zip(*map(jax.tree.leaves, (by_hand, traced, *ends)), strict=True):
        near(found, other, "gradient")
        near(found, (up - down) / (2 * step), "differences")


# ---- forward mode and Jacobians --------------------------------------------------------------------------------


def last(layer: Any, point: dict, x: Any) -> Any:
    return layer(point["params"], x, point["state"])[0][-1]


@kinds
def test_forward_mode_is_refused_of_the_hand_written_backward(kind):
    layer = SMALL[kind]
    point = JAX.array(point_of(layer))
    function = partial(last, layer, point)
    for forward_mode in (jax.jacfwd(function), lambda x: jax.jvp(function, (x,), (x,))):
        with pytest.raises(TypeError, match="custom_vjp"):
            forward_mode(point["x"])


def test_forward_mode_of_the_traced_layer():
    """The Jacobian by columns and a slope, against the Jacobian by rows of the hand-written backward pass."""
    layer = SMALL["lstm"]
    point = JAX.array(point_of(layer))
    traced, x = partial(last, replace(layer, traced=True), point), point["x"]
    by_hand = jax.jit(jax.jacrev(partial(last, layer, point)))(x)
    by_columns, (_, slope) = jax.jit(lambda x, v: (jax.jacfwd(traced)(x), jax.jvp(traced, (x,), (v,))))(x, jnp.cos(x))
    assert by_hand.shape == (BATCH, layer.proj_size, STEPS, BATCH, INPUTS)
    JAX.close(by_columns, JAX.host(by_hand), "gradient", "float64")
    JAX.close(slope, JAX.host(jnp.tensordot(by_hand, jnp.cos(x), axes=3)), "gradient", "float64")


# ---- compilation -----------------------------------------------------------------------------------------------


def counted(everything: Any) -> int:
    """What a second and a third call compile, with other values of the same forms."""
    everything(1)
    with Compilations() as seen:
        everything(2)
        everything(3)
    return seen.count


def test_other_lengths_seeds_and_masks_compile_nothing():
    layer = pr.GRU(INPUTS, HIDDEN, num_layers=2, dropout=0.4)
    host = point_of(layer)

    def everything(factor: int) -> None:
        point = JAX.array(tree_map(lambda a: a / factor, host))
        mask = np.random.default_rng(factor).random((STEPS, BATCH, HIDDEN)) < 0.6
        for lengths in ([factor, 0, 7], JAX.array(np.asarray([7, factor, 2]))):
            for dropout in ({"seed": factor}, {"masks": {"dropout_l0": JAX.array(mask)}}):
                *_, tape = layer.forward(point["params"], point["x"], point["state"], lengths, **dropout)
                layer.backward(tape, JAX.array(upstream(layer)[0] * factor))
                layer(point["params"], point["x"], point["state"], lengths, **dropout)

    assert counted(everything) == 0


def test_a_training_step_compiles_once():
    model = pr.Sequential(e=pr.Embedding(11, 3), d=pr.Dropout(0.4), l=pr.LSTM(3, 5), h=pr.Linear(5, 11))
    optimizer = pr.Adam()
    step = pr.train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=1.0)
    params = model.init(seed=0, backend="jax", dtype="float64")
    held: list[Any] = [params, optimizer.init(params), None]

    def everything(factor: int) -> None:
        ids = JAX.array(np.random.default_rng(factor).integers(0, 11, (2, STEPS, BATCH)))
        held[:] = step(*held[:2], ids[0], ids[1], held[2], seed=factor, lengths=[factor, 0, 7])[:3]

    assert counted(everything) == 0


def test_value_and_grad_compiles_once():
    """Eager, and inside jax.jit, where a counter of traces says the same."""
    model = ONE_WAY["rnn"]
    eager, traces = pr.value_and_grad(model, pr.mean_squared_error), []
    params = model.init(seed=0, backend="jax", dtype="float64")

    @jax.jit
    def jitted(*arguments: Any) -> Any:
        traces.append(1)
        return eager(*arguments)

    def everything(factor: int) -> None:
        rng = np.random.default_rng(factor)
        x, targets = JAX.array(tuple(rng.standard_normal((STEPS, BATCH, size)) for size in (INPUTS, HIDDEN)))
        lengths, seed = JAX.array((np.asarray([7, factor, 0]), np.asarray(factor)))
        eager(params, x, targets, None, lengths, factor)
        jitted(params, x, targets, None, lengths, seed)

    assert counted(everything) == 0
    assert len(traces) == 1


def test_a_traced_layer_runs_its_segments_again():
    """With `remat`, jax.grad of the forward pass keeps the states between segments: it says so, and is right."""
    layer = pr.GRU(2, 5, num_layers=2, remat=40, traced=True)
    rng = np.random.default_rng(0)
    host = {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()}
    params, x = JAX.array((host, rng.standard_normal((101, 29, 2))))

    def loss(layer, params):
        y, h = layer(params, x)
        return (y * y).sum() + (h * h * h).sum()

    found = jax.grad(partial(loss, layer))(params)
    assert_close(found, jax.grad(partial(loss, replace(layer, traced=False)))(params), "gradient")
    assert_close(found, jax.grad(partial(loss, replace(layer, remat=0)))(params), "gradient")
    for remat in (0, 40):
        text = str(jax.make_jaxpr(jax.grad(partial(loss, replace(layer, remat=remat))))(params))
        assert ("checkpoint" in text or "remat" in text) == bool(remat)
