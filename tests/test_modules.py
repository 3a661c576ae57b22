"""What stands around a layer: Embedding, Linear, Dropout and Sequential, on every subject."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from oracle import numpy_loops as oracle
from oracle.stored import case
from subjects import near, tagged

import polyrnn as pr
from polyrnn import masks
from polyrnn.testing import unchanged

DTYPES = ("float64", "float32")
LENGTHS = np.array([5, 2, 0])


def padding(steps: int = 5) -> np.ndarray:
    return np.arange(steps)[:, None] >= LENGTHS


# ---- Embedding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_embedding(subject, dtype, kind):
    c = case("embedding")
    table = subject.module(pr.Embedding(*c["weight"].shape))
    params, ids = subject.array({"weight": c["weight"]}, dtype), subject.array(c["ids"].astype(kind))
    dy = subject.array(c["dy"], dtype)
    with unchanged((params, ids, dy)):
        y, state, tape = table.forward(params, ids)
        grads = table.backward(tape, dy)
    assert state is None and grads.x is None and grads.state is None
    subject.equal(y, c["weight"].astype(dtype)[c["ids"]], dtype)
    subject.close(grads.params, {"weight": c["grad/weight"]}, "gradient", dtype)
    assert not subject.host(grads.params["weight"])[-1].any()  # a row that no id names
    subject.equal(table(params, ids)[0], subject.host(y), dtype)
    subject.equal(table.step(params, ids[1, ...])[0], subject.host(y)[1], dtype)
    subject.equal(table.backward(tape).params, {"weight": np.zeros_like(c["weight"])}, dtype)


@pytest.mark.parametrize("kind", ["int8", "int16", "uint8"])
def test_ids_of_any_integer_dtype(subject, rng, kind):
    weight, ids = rng.standard_normal((11, 3)), rng.integers(0, 11, (5, 2))
    table = subject.module(pr.Embedding(11, 3))
    y, _, tape = table.forward(subject.array({"weight": weight}), subject.array(ids.astype(kind)))
    subject.equal(y, weight[ids], "float64")
    dy = rng.standard_normal(y.shape)
    expected = np.zeros_like(weight)
    np.add.at(expected, ids, dy)
    subject.close(table.backward(tape, subject.array(dy)).params["weight"], expected, "gradient", "float64")


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (7,), (1, 1), (2, 3, 5)], ids=str)
def test_ids_of_any_shape(subject, rng, shape):
    weight, ids = rng.standard_normal((11, 3)), rng.integers(0, 11, shape)
    table = subject.module(pr.Embedding(11, 3))
    y, _, tape = table.forward(subject.array({"weight": weight}), subject.array(ids))
    subject.equal(y, weight[ids], "float64")
    dy = rng.standard_normal(y.shape)
    expected = np.zeros_like(weight)
    np.add.at(expected, ids, dy)
    subject.close(table.backward(tape, subject.array(dy)).params["weight"], expected, "gradient", "float64")


def test_ids_in_the_padding_are_never_looked_up(subject, rng):
    weight, ids, dy = rng.standard_normal((11, 2)), rng.integers(0, 11, (5, 3)), rng.standard_normal((5, 3, 2))
    table = subject.module(pr.Embedding(11, 2))
    params, lengths = subject.array({"weight": weight}), subject.array(LENGTHS)
    found = []
    for wrong, fill in ((-7, np.nan), (99, 2.0)):
        ids[padding()], dy[padding()] = wrong, fill
        y, _, tape = table.forward(params, subject.array(ids), lengths=lengths)
        found.append(subject.host((y, table.backward(tape, subject.array(dy)).params["weight"])))
    (y, gradient), other = found
    assert np.array_equal(y, other[0]) and np.array_equal(gradient, other[1])
    valid = ~padding()
    assert np.array_equal(y[valid], weight[ids[valid]]) and not y[padding()].any()
    expected = np.zeros_like(weight)
    np.add.at(expected, ids[valid], dy[valid])
    subject.close(subject.array(gradient), expected, "gradient", "float64")


# ---- Linear ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear/bias", "linear/nobias"])
def test_linear(subject, name, dtype):
    c = case(name)
    bias = name == "linear/bias"
    layer = subject.module(pr.Linear(2, 7, bias=bias))
    keys = ["weight", "bias"] if bias else ["weight"]
    params, x, dy = subject.array(({k: c[k] for k in keys}, c["x"], c["dy"]), dtype)
    with unchanged((params, x, dy)):
        y, state, tape = layer.forward(params, x)
        grads = layer.backward(tape, dy)
        again = layer.backward(tape, dy)
    assert state is None and grads.state is None
    subject.close(y, c["y"], "forward", dtype)
    subject.close(grads.params, {k: c["grad/" + k] for k in keys}, "gradient", dtype)
    subject.close(grads.x, c["grad/x"], "gradient", dtype)
    subject.equal(again, subject.host(grads), dtype)
    subject.close(layer(params, x)[0], c["y"], "forward", dtype)
    subject.close(layer.step(params, x[1, ...])[0], c["y"][1], "forward", dtype)
    absent = layer.backward(tape)
    assert not any(subject.host(g).any() for g in absent.params.values())


@pytest.mark.parametrize("leading", [(), (5,), (0, 3), (5, 0), (2, 3, 5)], ids=str)
def test_linear_on_any_leading_axes(subject, rng, leading):
    W, b, x = rng.standard_normal((7, 2)), rng.standard_normal(7), rng.standard_normal((*leading, 2))
    layer = subject.module(pr.Linear(2, 7))
    y, _, tape = layer.forward(subject.array({"weight": W, "bias": b}), subject.array(x))
    subject.close(y, np.einsum("oi,...i->...o", W, x) + b, "forward", "float64")
    dy = rng.standard_normal((*leading, 7))
    grads = layer.backward(tape, subject.array(dy))
    flat = dy.reshape(-1, 7)
    subject.close(grads.x, np.einsum("...o,oi->...i", dy, W), "gradient", "float64")
    expected = {"weight": np.einsum("ko,ki->oi", flat, x.reshape(-1, 2)), "bias": flat.sum(axis=0)}
    subject.close(grads.params, expected, "gradient", "float64")


def test_linear_with_lengths(subject, rng):
    W, b = rng.standard_normal((7, 2)), rng.standard_normal(7)
    x, dy = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 3, 7))
    x[padding()], dy[padding()] = np.nan, np.nan
    layer = subject.module(pr.Linear(2, 7))
    params, lengths = subject.array({"weight": W, "bias": b}), subject.array(LENGTHS)
    y, _, tape = layer.forward(params, subject.array(x), lengths=lengths)
    grads = layer.backward(tape, subject.array(dy))
    valid = ~padding()[..., None]
    x, dy = np.where(valid, x, 0.0), np.where(valid, dy, 0.0)
    subject.close(y, np.where(valid, x @ W.T + b, 0.0), "forward", "float64")
    subject.close(grads.x, dy @ W, "gradient", "float64")
    expected = {"weight": np.einsum("tno,tni->oi", dy, x), "bias": dy.sum(axis=(0, 1))}
    subject.close(grads.params, expected, "gradient", "float64")
    assert not subject.host(y)[padding()].any() and not subject.host(grads.x)[padding()].any()


@tagged("strided", kernels=False)
def test_linear_on_strided_views(subject, rng):
    W, x, dy = rng.standard_normal((7, 2)), rng.standard_normal((2, 3, 10)), rng.standard_normal((7, 3, 10))
    layer = pr.Linear(2, 7, bias=False)

    def view(array: np.ndarray) -> Any:
        return subject.xp.permute_dims(subject.array(array)[..., ::2], (2, 1, 0))

    params = {"weight": subject.xp.permute_dims(subject.array(np.ascontiguousarray(W.T)), (1, 0))}
    y, _, tape = layer.forward(params, view(x))
    grads = layer.backward(tape, view(dy))
    x, dy = x[..., ::2].T, dy[..., ::2].T
    subject.close(y, x @ W.T, "forward", "float64")
    subject.close(grads.x, dy @ W, "gradient", "float64")
    subject.close(grads.params, {"weight": np.einsum("tno,tni->oi", dy, x)}, "gradient", "float64")


# ---- Dropout ---------------------------------------------------------------------------------------------------


def test_dropout_does_nothing_without_a_seed(subject, rng):
    x, dy = rng.standard_normal((5, 3, 7)), rng.standard_normal((5, 3, 7))
    drop = subject.module(pr.Dropout(0.4))
    y, state, tape = drop.forward({}, subject.array(x))
    grads = drop.backward(tape, subject.array(dy))
    assert state is None and grads.params == {}
    subject.equal(y, x, "float64")
    subject.equal(grads.x, dy, "float64")
    subject.equal(pr.Dropout(0.0)({}, subject.array(x), seed=3)[0], x, "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_has_the_same_mask_everywhere_and_backward_uses_its_own(subject, rng, dtype):
    x, dy = rng.standard_normal((5, 3, 7)), rng.standard_normal((5, 3, 7))
    drop = subject.module(pr.Dropout(0.4))
    seeds = (11, 2**40 + 3)
    runs = [drop.forward({}, subject.array(x, dtype), seed=subject.array(np.asarray(seed))) for seed in seeds]
    kept = []
    for (y, _, tape), seed in reversed(list(zip(runs, seeds, strict=True))):  # the first one's backward comes last
        mask = masks.keep_mask(np, masks.fold(np, seed, 0), x.shape, 0.4)
        subject.close(y, np.where(mask, x / 0.6, 0.0), "forward", dtype)
        assert np.array_equal(subject.host(y) != 0, mask)
        grads = drop.backward(tape, subject.array(dy, dtype))
        subject.close(grads.x, np.where(mask, dy / 0.6, 0.0), "gradient", dtype)
        assert np.array_equal(subject.host(grads.x) != 0, mask)
        kept.append(mask)
    assert not np.array_equal(*kept)


def test_dropout_with_a_mask(subject, rng):
    x, dy, mask = rng.standard_normal((5, 3, 7)), rng.standard_normal((5, 3, 7)), rng.random((5, 3, 7)) < 0.5
    x[~mask] = np.nan  # what is dropped is not read
    drop = subject.module(pr.Dropout(0.25))
    y, _, tape = drop.forward({}, subject.array(x), masks=subject.array(mask))
    subject.close(y, np.where(mask, x / 0.75, 0.0), "forward", "float64")
    subject.close(drop.backward(tape, subject.array(dy)).x, np.where(mask, dy / 0.75, 0.0), "gradient", "float64")


def test_dropout_with_lengths(subject, rng):
    x, dy = rng.standard_normal((5, 3, 7)), rng.standard_normal((5, 3, 7))
    x[padding()], dy[padding()] = np.nan, np.nan
    drop = subject.module(pr.Dropout(0.5))
    y, _, tape = drop.forward({}, subject.array(x), lengths=subject.array(LENGTHS), seed=3)
    mask = masks.keep_mask(np, masks.fold(np, 3, 0), x.shape, 0.5) & ~padding()[..., None]
    subject.close(y, np.where(mask, 2 * x, 0.0), "forward", "float64")
    subject.close(drop.backward(tape, subject.array(dy)).x, np.where(mask, 2 * dy, 0.0), "gradient", "float64")


def test_dropout_keeps_what_it_says():
    y, _ = pr.Dropout(0.3)({}, np.ones((101, 103), dtype="float64"), seed=0)
    assert np.mean(y != 0) == pytest.approx(0.7, abs=0.02)
    assert np.mean(y) == pytest.approx(1.0, abs=0.03)


# ---- Sequential ------------------------------------------------------------------------------------------------

V, E, H = 11, 5, 7
KINDS = {"lstm": pr.LSTM, "gru": pr.GRU}


def model_of(kind: str) -> pr.Sequential:
    make = {"lstm": pr.LSTM, "gru": pr.GRU}[kind]
    return pr.Sequential(embedding=pr.Embedding(V, E), drop=pr.Dropout(0.4), layer=make(E, H), head=pr.Linear(H, 2))


class Drawn:
    """A model's arguments, drawn once a test."""

    def __init__(self, rng: np.random.Generator, kind: str, steps: int = 5) -> None:
        self.model, self.kind = model_of(kind), kind
        self.params = {k: 0.5 * rng.standard_normal(s) for k, s in self.model.shapes().items()}
        self.ids = rng.integers(0, V, (steps, 3))
        self.start = tuple(rng.standard_normal((1, 3, H)) for _ in range(1 if kind == "gru" else 2))
        self.dy = rng.standard_normal((steps, 3, 2))
        self.dend = tuple(rng.standard_normal(s.shape) for s in self.start)
        self.mask = rng.random((steps, 3, E)) < 0.6

    def state(self, parts: tuple) -> tuple:
        return (None, None, parts if self.kind == "lstm" else parts[0], None)

    def oracle(self, point: dict[str, np.ndarray], lengths: Any, mask: Any) -> tuple[np.ndarray, tuple]:
        """The model by scalar loops, but for the products of the head."""
        steps = self.ids.shape[0]
        valid = np.ones((steps, 3, 1), bool) if lengths is None else ~padding(steps)[..., None]
        x = np.where(valid, point["embedding.weight"][self.ids], 0.0)
        x = x if mask is None else np.where(mask, x / 0.6, 0.0)
        own = {k.removeprefix("layer."): v for k, v in point.items() if k.startswith("layer.")}
        y, *end = getattr(oracle, self.kind)(own, x, *(point[f"s{k}"][0] for k in range(len(self.start))), lengths)
        y = np.where(valid, y @ point["head.weight"].T + point["head.bias"], 0.0)
        return y, tuple(s[None] for s in end)

    def loss(self, point: dict[str, np.ndarray], lengths: Any, mask: Any) -> float:
        y, end = self.oracle(point, lengths, mask)
        return float((y * self.dy).sum() + sum((s * d).sum() for s, d in zip(end, self.dend, strict=True)))

    def point(self) -> dict[str, np.ndarray]:
        return self.params | {f"s{k}": s for k, s in enumerate(self.start)}


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
def test_sequential(subject, rng, kind, lengths, masked):
    d = Drawn(rng, kind)
    model = subject.module(d.model)
    mask = d.mask if masked else None
    params, ids, state, dy, dstate = subject.array((d.params, d.ids, d.state(d.start), d.dy, d.state(d.dend)))
    own = None if lengths is None else subject.array(lengths)
    given = None if mask is None else (None, subject.array(mask), None, None)
    with unchanged((params, ids, state, dy, dstate)):
        y, end, tape = model.forward(params, ids, state, lengths=own, masks=given)
        grads = model.backward(tape, dy, dstate)
        called, called_end = model(params, ids, state, lengths=own, masks=given)
    expected, ends = d.oracle(d.point(), lengths, mask)
    subject.close(y, expected, "forward", "float64")
    subject.close(end, d.state(ends), "forward", "float64")
    subject.close((called, called_end), (expected, d.state(ends)), "forward", "float64")
    assert grads.x is None and grads.params.keys() == d.params.keys()
    parts = grads.state[2] if kind == "lstm" else grads.state[2:3]
    found = subject.host(grads.params | {f"s{k}": part for k, part in enumerate(parts)})
    for key, value in d.point().items():
        direction = rng.standard_normal(value.shape)
        direction /= np.linalg.norm(direction)
        slope = oracle.central_difference(lambda p: d.loss(p, lengths, mask), d.point(), {key: direction})
        assert abs(slope) > 1e-4
        near(np.sum(found[key] * direction), slope, "differences", key)


@pytest.mark.parametrize("kind", KINDS)
def test_sequential_is_its_members(subject, rng, kind):
    """With a seed: each member gets its own, folded with its position."""
    d = Drawn(rng, kind)
    model = subject.module(d.model)
    params, ids, dy = subject.array((d.params, d.ids, d.dy))
    y, _, tape = model.forward(params, ids, seed=5)
    mask = masks.keep_mask(np, masks.fold(np, masks.fold(np, 5, 1), 0), (5, 3, E), 0.4)
    other, _, masked = model.forward(params, ids, masks=(None, subject.array(mask), None, None))
    subject.close(y, subject.host(other), "same", "float64")
    a, b = model.backward(tape, dy), model.backward(masked, dy)
    subject.close(a.params, subject.host(b.params), "same", "float64")
    plain = subject.host(model(params, ids)[0])
    assert not np.allclose(plain, subject.host(y))


@pytest.mark.parametrize("kind", KINDS)
def test_sequential_in_halves_and_steps(subject, rng, kind):
    d = Drawn(rng, kind)
    model = subject.module(d.model)
    params, ids, state, dy, dend = subject.array((d.params, d.ids, d.state(d.start), d.dy, d.state(d.dend)))
    y, end, tape = model.forward(params, ids, state)
    whole = model.backward(tape, dy, dend)
    y1, between, tape1 = model.forward(params, ids[:2, ...], state)
    y2, last, tape2 = model.forward(params, ids[2:, ...], between)
    second = model.backward(tape2, dy[2:, ...], dend)
    first = model.backward(tape1, dy[:2, ...], second.state)
    subject.close(subject.xp.concat([y1, y2]), subject.host(y), "same", "float64")
    subject.close(last, subject.host(end), "same", "float64")
    sums = {k: first.params[k] + second.params[k] for k in first.params}
    subject.close(sums, subject.host(whole.params), "same", "float64")
    subject.close(first.state, subject.host(whole.state), "same", "float64")
    now = state
    for t in range(5):
        y_t, now = model.step(params, ids[t, ...], now)
        subject.close(y_t, subject.host(y)[t], "same", "float64")
    subject.close(now, subject.host(end), "same", "float64")


def test_sequential_without_an_upstream_gradient(subject, rng):
    d = Drawn(rng, "gru")
    model = subject.module(d.model)
    params, ids = subject.array((d.params, d.ids))
    *_, tape = model.forward(params, ids)
    grads = model.backward(tape)
    subject.equal(grads.params, {k: np.zeros_like(v) for k, v in d.params.items()}, "float64")
    only = model.backward(tape, None, subject.array(d.state(d.dend)))
    assert np.abs(subject.host(only.params["embedding.weight"])).max() > 1e-3
    assert not subject.host(only.params["head.weight"]).any()


# ---- descriptions ----------------------------------------------------------------------------------------------


def test_modules_are_values():
    pairs = [
        (pr.Embedding(7, 3), pr.Embedding(7, 3), pr.Embedding(7, 5)),
        (pr.Linear(3, 2), pr.Linear(3, 2), pr.Linear(3, 2, bias=False)),
        (pr.Dropout(0.3), pr.Dropout(0.3), pr.Dropout(0.4)),
        (model_of("lstm"), model_of("lstm"), model_of("gru")),
        (pr.Sequential(a=pr.Linear(3, 2)), pr.Sequential(a=pr.Linear(3, 2)), pr.Sequential(b=pr.Linear(3, 2))),
    ]
    for one, same, other in pairs:
        assert one == same and hash(one) == hash(same) and one != other
        name = dataclasses.fields(one)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, None)


def test_names_and_shapes_of_parameters():
    expected = {
        "embedding.weight": (V, E),
        "layer.weight_ih_l0": (4 * H, E),
        "layer.weight_hh_l0": (4 * H, H),
        "layer.bias_ih_l0": (4 * H,),
        "layer.bias_hh_l0": (4 * H,),
        "head.weight": (2, H),
        "head.bias": (2,),
    }
    assert list(model_of("lstm").shapes().items()) == list(expected.items())
    assert list(pr.Sequential(pr.Linear(3, 2), pr.Linear(2, 5)).shapes()) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_seed_gives_the_same_numbers_everywhere(subject, dtype):
    model = model_of("lstm")
    host = model.init(seed=7, backend="numpy", dtype="float64")
    found = model.init(seed=7, backend=subject.library, dtype=dtype)
    subject.equal(found, {k: v.astype(dtype) for k, v in host.items()}, dtype)
    assert len({float(v.ravel()[0]) for v in host.values()}) == len(host)
    assert np.abs(host["head.weight"]).max() <= H**-0.5
    assert np.abs(host["embedding.weight"]).max() > 1
