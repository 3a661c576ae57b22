"""Depth, directions, projections, layouts, lengths and dropout between layers, together, on every subject.

PyTorch's stored results for random configurations; the oracle's loops for what PyTorch has not (dropout masks that are
given, lengths of 0, gaps); complex-step differences for the gradients there.
"""

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import stacks
import subjects
from cases import packed, unpacked
from oracle.stored import FILE
from safetensors.numpy import load_file
from subjects import Subject, near, tagged, vary

import polyrnn as pr
from polyrnn.backends import tree_map
from polyrnn.gradcheck import check_layer
from polyrnn.testing import unchanged

STORED = load_file(FILE.with_name("torch_stacks.safetensors"))
SIZES = (7, 5, 3, 2)  # T, N, I, H
LENGTHS = (7, 0, 4, 1, 6)
DEEP = {  # T, N and the options vary over these
    "rnn": lambda **o: pr.RNN(3, 2, num_layers=3, dropout=0.3, **o),
    "relu": lambda **o: pr.RNN(3, 2, num_layers=2, dropout=0.3, nonlinearity="relu", **o),
    "lstm": lambda **o: pr.LSTM(3, 2, num_layers=2, dropout=0.4, **o),
    "gru": lambda **o: pr.GRU(3, 2, num_layers=2, dropout=0.4, **o),
    "gru_before": lambda **o: pr.GRU(3, 2, num_layers=2, dropout=0.4, reset_after=False, **o),
}


def some(subject: Subject, k: int) -> bool:
    """All on NumPy; elsewhere, where each one is compiled or slow, enough of them to meet every option."""
    if subject.library == "numpy":
        return True
    if "jit" in subject.tags:
        return k in (4, 11)
    return k < 12 if "compiles" in subject.tags else k % 4 == 0


@vary(some, k=range(stacks.COUNT))
def test_results_and_gradients_are_pytorchs(subject, k):
    check(subject, k, {name.removeprefix(f"{k}/"): a for name, a in STORED.items() if name.startswith(f"{k}/")})


@pytest.mark.torch
@pytest.mark.parametrize("k", range(1000, 1100))
def test_results_and_gradients_are_those_of_pytorch_itself(k):
    check(subjects.ALL["numpy"], k, stacks.by_torch(k))


def check(subject: Subject, k: int, expected: dict[str, np.ndarray]) -> None:
    c = stacks.configuration(k)
    layer = getattr(pr, c.kind)(*c.sizes[2:], **c.options)
    host = stacks.arrays(k, layer.shapes())
    a = subject.array(host)
    state = packed(a["state"]) if c.with_state else None

    def everything(params: Any, x: Any, state: Any, dy: Any, dstate: Any) -> Any:
        y, end, tape = layer.forward(params, x, state, lengths=c.lengths)
        return layer(params, x, state, lengths=c.lengths), (y, end), layer.backward(tape, dy, dstate)

    arguments = (a["params"], a["x"], state, a["dy"], packed(a["dstate"]))
    with unchanged(arguments):
        called, (y, end), grads = subject.function(everything)(*arguments)
    assert set(grads.params) == set(layer.shapes()) == {n.removeprefix("grad/") for n in expected if "_l" in n}
    for found in (called, (y, end)):
        subject.close(found[0], expected["y"], "forward", "float64", "y")
        for m, part in enumerate(unpacked(found[1])):
            subject.close(part, expected[f"state.{m}"], "forward", "float64", f"state.{m}")
    subject.close(grads.x, expected["grad/x"], "gradient", "float64", "grads.x")
    for name, gradient in grads.params.items():
        subject.close(gradient, expected[f"grad/{name}"], "gradient", "float64", name)
    if c.with_state:
        for m, part in enumerate(unpacked(grads.state)):
            subject.close(part, expected[f"grad/state.{m}"], "gradient", "float64", f"grads.state.{m}")


def test_the_configurations_meet_every_option():
    found = [stacks.configuration(k) for k in range(stacks.COUNT)]
    for name in ("num_layers", "bias", "batch_first", "bidirectional", "nonlinearity"):
        assert len({c.options[name] for c in found if name in c.options}) >= 2
    assert sum("proj_size" in c.options and c.options["bidirectional"] for c in found) > 10
    assert sum(c.one for c in found) > 20 and sum(c.lengths is not None for c in found) > 50


# ---- what PyTorch has not ----------------------------------------------------------------------------------------


def point(kind: str, bidirectional: bool) -> dict[str, Any]:
    """A deep layer, and its arguments on the host, masks included."""
    return {"layer": DEEP[kind](bidirectional=bidirectional), **arguments(kind, bidirectional)}


@cache
def arguments(kind: str, bidirectional: bool) -> dict[str, Any]:
    layer = DEEP[kind](bidirectional=bidirectional)
    rng = np.random.default_rng(list(f"{kind} {bidirectional}".encode()))
    (steps, batch, inputs, hidden), D = SIZES, 1 + bidirectional
    names = [f"dropout_l{k}" for k in range(layer.num_layers - 1)]
    return {
        "params": {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()},
        "x": rng.standard_normal((steps, batch, inputs)),
        "state": tuple(rng.standard_normal((layer.num_layers * D, batch, hidden)) for _ in layer.cell.states),
        "masks": {name: rng.random((steps, batch, D * hidden)) < 0.6 for name in names},
        "gaps": rng.random((steps, batch)) < 0.6,
        "dy": rng.standard_normal((steps, batch, D * hidden)),
    }


def eager(subject: Subject, *_: Any) -> bool:
    return "jit" not in subject.tags


@vary(eager, kind=DEEP, bidirectional=[False, True])
def test_masks_and_lengths_by_loops(subject, kind, bidirectional):
    p = point(kind, bidirectional)
    prefix = np.arange(SIZES[0])[:, None] < np.asarray(LENGTHS)
    a = subject.array({name: p[name] for name in ("params", "x", "state", "masks", "gaps")})
    for lengths, valid in ((list(LENGTHS), prefix), (subject.array(prefix), prefix), (a["gaps"], p["gaps"])):
        y, ends = stacks.by_loops(p["layer"], p["params"], p["x"], p["state"], valid, p["masks"])
        found = p["layer"](a["params"], a["x"], packed(a["state"]), lengths=lengths, masks=a["masks"])
        subject.close(found, (y, packed(ends)), "forward", "float64")
        *whole, _ = p["layer"].forward(a["params"], a["x"], packed(a["state"]), lengths=lengths, masks=a["masks"])
        subject.close(tuple(whole), (y, packed(ends)), "forward", "float64")


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_gradients_with_dropout(kind, bidirectional, lengths):
    layer = DEEP[kind](bidirectional=bidirectional)
    method = "differences" if kind == "relu" else "complex step"
    report = check_layer(layer, lengths=lengths, methods=[method])
    assert report.ok, report
    assert {row.name for row in report.rows} > {f"params.{name}" for name in layer.shapes()}


@pytest.mark.parametrize("proj_size", [0, 1])
def test_gradients_of_projections_with_everything(proj_size):
    layer = pr.LSTM(3, 2, num_layers=3, dropout=0.4, bidirectional=True, proj_size=proj_size)
    assert check_layer(layer, lengths=True, methods=["complex step"]).ok


@vary(eager, kind=["rnn", "lstm"], bidirectional=[False, True])
def test_the_backward_pass_uses_the_masks_of_its_forward_pass(subject, kind, bidirectional):
    p = point(kind, bidirectional)
    a = subject.array({name: p[name] for name in ("params", "x", "masks", "dy", "gaps")})
    *_, tape = p["layer"].forward(a["params"], a["x"], lengths=a["gaps"], masks=a["masks"])
    grads = subject.host(p["layer"].backward(tape, a["dy"]))
    zero = tuple(np.zeros_like(s) for s in p["state"])

    def loss(x: np.ndarray, params: dict) -> float:
        return float((stacks.by_loops(p["layer"], params, x, zero, p["gaps"], p["masks"])[0] * p["dy"]).sum())

    rng, h = np.random.default_rng(5), 1e-5
    along = rng.standard_normal(p["x"].shape)
    slope = (loss(p["x"] + h * along, p["params"]) - loss(p["x"] - h * along, p["params"])) / (2 * h)
    near(np.sum(grads.x * along), slope, "differences", "x")
    for name, value in p["params"].items():
        along = rng.standard_normal(value.shape)
        up, down = (loss(p["x"], p["params"] | {name: value + step * along}) for step in (h, -h))
        near(np.sum(grads.params[name] * along), (up - down) / (2 * h), "differences", name)


@pytest.mark.parametrize("kind", DEEP)
def test_nan_in_the_padding_changes_nothing(subject, kind):
    p = point(kind, True)
    a = subject.array({name: p[name] for name in ("params", "state", "masks")})
    past = ~p["gaps"]
    found = []
    for fill in (np.nan, -3.0):
        x, dy = p["x"].copy(), p["dy"].copy()
        x[past], dy[past] = fill, -fill
        x, dy = subject.array((x, dy))
        y, end, tape = p["layer"].forward(
            a["params"], x, packed(a["state"]), lengths=subject.array(p["gaps"]), masks=a["masks"]
        )
        found.append(subject.host((y, end, p["layer"].backward(tape, dy))))
    for one, other in zip(*map(pr.backends.leaves, found), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
    assert not found[0][0][past].any() and not found[0][2].x[past].any()


# ---- layouts -------------------------------------------------------------------------------------------------------


@vary(eager, bidirectional=[False, True])
def test_batch_first_is_the_same_turned(subject, bidirectional):
    p = point("lstm", bidirectional)
    other = DEEP["lstm"](bidirectional=bidirectional, batch_first=True)
    a = subject.array({name: p[name] for name in ("params", "x", "state", "masks", "dy")})
    turned = subject.array(
        tree_map(lambda v: v.swapaxes(0, 1).copy(), {name: p[name] for name in ("x", "masks", "dy", "gaps")})
    )
    y, end, tape = p["layer"].forward(
        a["params"], a["x"], packed(a["state"]), lengths=subject.array(p["gaps"]), masks=a["masks"]
    )
    y_t, end_t, tape_t = other.forward(
        a["params"], turned["x"], packed(a["state"]), lengths=turned["gaps"], masks=turned["masks"]
    )
    host = subject.host(y).swapaxes(0, 1)
    subject.close((y_t, end_t), (host, subject.host(end)), "same", "float64")
    grads, grads_t = p["layer"].backward(tape, a["dy"]), other.backward(tape_t, turned["dy"])
    subject.close(grads_t.x, subject.host(grads.x).swapaxes(0, 1), "same", "float64")
    subject.close(grads_t.params, subject.host(grads.params), "same", "float64")


@vary(eager, kind=["lstm", "gru"])
def test_one_sequence_is_a_batch_of_one(subject, kind):
    p = point(kind, True)
    a = subject.array({name: p[name] for name in ("params", "x", "state", "masks", "dy")})
    one = tree_map(lambda v: v[:, 0, :], {name: a[name] for name in ("x", "masks", "dy", "state")})
    batch = tree_map(lambda v: v[:, :1, :], {name: a[name] for name in ("x", "masks", "dy", "state")})
    found = []
    for v in (batch, one):
        y, end, tape = p["layer"].forward(a["params"], v["x"], packed(v["state"]), masks=v["masks"])
        grads = p["layer"].backward(tape, v["dy"], packed(v["state"]))
        found.append(subject.host({"y": y, "end": end, "x": grads.x, "state": grads.state, "params": grads.params}))
    expected = {n: v if n == "params" else tree_map(lambda s: s[:, 0, :], v) for n, v in found[0].items()}
    for name, value in found[1].items():
        for got, wanted in zip(*map(pr.backends.leaves, (value, expected[name])), strict=True):
            assert got.shape == wanted.shape
            near(got, wanted, "same", name)


@vary(eager, kind=DEEP)
def test_steps_and_pieces_of_a_deep_layer_are_the_sequence(subject, kind):
    p = point(kind, False)
    a = subject.array({name: p[name] for name in ("params", "x", "state")})
    layer = p["layer"]
    y, end = subject.host(layer(a["params"], a["x"], packed(a["state"])))
    state = packed(a["state"])
    for t in range(SIZES[0]):
        y_t, state = layer.step(a["params"], a["x"][t, ...], state)
        subject.close(y_t, y[t], "same", "float64")
    subject.close(state, end, "same", "float64")
    state, at = packed(a["state"]), 0
    for size in (1, 4, 0, 2):
        piece, state = layer(a["params"], a["x"][at : at + size, ...], state)
        subject.close(piece, y[at : at + size], "same", "float64")
        at += size
    subject.close(state, end, "same", "float64")


# ---- learned initial states ----------------------------------------------------------------------------------------


LEARNED = {
    "rnn": lambda **o: pr.RNN(3, 2, num_layers=2, bidirectional=True, **o),
    "lstm": lambda **o: pr.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2, **o),
    "gru": lambda **o: pr.GRU(3, 2, **o),
}


@vary(eager, kind=LEARNED)
def test_learned_states_are_the_state_of_every_sequence_that_has_none(subject, kind):
    layer, plain = LEARNED[kind](learned_state=True), LEARNED[kind]()
    rng = np.random.default_rng(list(kind.encode()))
    params = {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()}
    suffixes = [name.removeprefix("weight_hh") for name in params if name.startswith("weight_hh")]
    names = [[f"state_{s}{suffix}" for suffix in suffixes] for s in layer.cell.states]
    assert set(params) == set(plain.shapes()) | {name for each in names for name in each}
    fresh = layer.init(seed=0)
    assert all(not fresh[name].any() for each in names for name in each)

    x, dy = rng.standard_normal((7, 5, 3)), rng.standard_normal((7, 5, 2 * (1 + layer.bidirectional)))
    state = tuple(np.stack([np.repeat(params[name][None], 5, axis=0) for name in each]) for each in names)
    own = {name: value for name, value in params.items() if name in plain.shapes()}
    a = subject.array({"params": params, "own": own, "x": x, "dy": dy, "state": state})
    y, end, tape = layer.forward(a["params"], a["x"], lengths=LENGTHS)
    given = plain.forward(a["own"], a["x"], packed(a["state"]), lengths=LENGTHS)
    subject.close((y, end), subject.host(given[:2]), "same", "float64")
    subject.close(layer(a["params"], a["x"], lengths=LENGTHS), subject.host(given[:2]), "same", "float64")
    grads, expected = layer.backward(tape, a["dy"]), subject.host(plain.backward(given[2], a["dy"]))
    subject.close({name: grads.params[name] for name in own}, expected.params, "same", "float64")
    for each, part in zip(names, unpacked(expected.state), strict=True):
        for k, name in enumerate(each):
            subject.close(grads.params[name], part[k].sum(axis=0), "same", "float64", name)
            assert np.abs(part[k].sum(axis=0)).max() > 1e-3

    *_, tape = layer.forward(a["params"], a["x"], packed(a["state"]), lengths=LENGTHS)
    zero = layer.backward(tape, a["dy"]).params  # not used, where a state is given
    assert not any(subject.host(zero[name]).any() for each in names for name in each)


def test_jax_learns_initial_states(rng):
    jax = pytest.importorskip("jax")
    layers = LEARNED["lstm"](learned_state=True), LEARNED["lstm"](learned_state=True, traced=True)
    backend = pr.backend("jax")
    with backend.exact():
        shapes = layers[0].shapes()
        params = backend.asarray({name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()})
        x = backend.asarray(rng.standard_normal((7, 5, 3)))
        by_hand, by_itself = (
            jax.grad(lambda p, layer=layer: (layer(p, x, lengths=LENGTHS)[0] ** 2).sum())(params) for layer in layers
        )
        for name in params:
            near(np.asarray(by_hand[name]), np.asarray(by_itself[name]), "gradient", name)
        assert float(abs(by_hand["state_c_l1_reverse"]).max()) > 1e-3


# ---- dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_seed_gives_the_same_masks_everywhere(subject, dtype):
    p = point("gru", True)
    a = subject.array({name: p[name] for name in ("params", "x")}, dtype)
    run = subject.function(lambda params, x, seed: p["layer"](params, x, seed=seed)[0])
    by_seed = {seed: subject.host(run(a["params"], a["x"], subject.array(np.asarray(seed)))) for seed in (3, 4)}
    expected = p["layer"](p["params"], p["x"], seed=3)[0]
    subject.close(run(a["params"], a["x"], subject.array(np.asarray(3))), expected, "forward", dtype)
    assert np.abs(by_seed[3] - by_seed[4]).max() > 1e-3
    assert np.abs(by_seed[3] - p["layer"](p["params"], p["x"])[0]).max() > 1e-3


def test_masks_of_a_seed_drop_at_the_rate_and_differ_from_layer_to_layer():
    layer = pr.RNN(2, 64, num_layers=3, dropout=0.3, nonlinearity="relu", bias=False)
    params = layer.init(seed=0, dtype="float64")
    for name, shape in layer.shapes().items():  # each layer hands on what it gets, so that its mask can be seen
        params[name] = np.ones(shape) if name == "weight_ih_l0" else np.zeros(shape)
        if name.startswith("weight_ih") and name != "weight_ih_l0":
            params[name] = np.eye(64)
    y, _ = layer(params, np.ones((50, 3, 2)), seed=7)
    kept = {round(float(v), 6) for v in np.unique(y)}
    assert kept == {0.0, round(2 / 0.7**2, 6)}
    assert abs((y > 0).mean() - 0.7**2) < 0.02  # of one mask for both layers it would be 0.7
    assert not np.array_equal(y[0] > 0, y[1] > 0)
    np.testing.assert_array_equal(layer(params, np.ones((50, 3, 2)))[0], np.full((50, 3, 64), 2.0))


@tagged("concrete", kernels=False)
def test_given_masks_are_those_of_the_seed(subject):
    """The seed's masks, found by a layer that shows them, given to another layer."""
    layer = DEEP["lstm"]()
    p = point("lstm", False)
    a = subject.array({name: p[name] for name in ("params", "x")})
    key = pr.masks.fold(subject.xp, 11, 0)
    mask = pr.masks.keep_mask(subject.xp, key, (*SIZES[:2], 2), 0.4)
    found = layer(a["params"], a["x"], seed=11)
    subject.equal(layer(a["params"], a["x"], masks={"dropout_l0": mask}), subject.host(found), "float64")


def test_dropout_without_a_place_warns():
    with pytest.warns(UserWarning, match="num_layers=1"):
        layer = pr.LSTM(3, 5, dropout=0.5)
    params, x = layer.init(), np.ones((4, 2, 3), "float32")
    np.testing.assert_array_equal(layer(params, x, seed=3)[0], layer(params, x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pr.LSTM(3, 5, num_layers=2, dropout=0.5)
