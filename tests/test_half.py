"""float16 and bfloat16: a few ulps from float64 on the same rounded inputs, however long the sequence is."""

from typing import Any

import cases
import numpy as np
import pytest
from cases import packed
from subjects import Subject, vary

import polyrnn as pr
from polyrnn import recurrence
from polyrnn.backends import tree_map
from polyrnn.cells import _cell
from polyrnn.testing import TOLERANCES, largest_error

HALVES = {"float16": ("numpy", "cupy", "jax"), "bfloat16": ("jax",)}
DEEP = pr.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)


# Where each case is compiled, each kind of layer with one of the dtypes is enough. A relu is not among them: rounding
# may switch a unit on that stays off in float64.
KINDS = ("rnn_tanh", "lstm", "gru", "gru_before")
COMPILED = {("jax", "float16"): ("lstm",), ("jax", "bfloat16"): KINDS, ("jax_jit", "float16"): ("gru",)}


def has(subject: Subject, dtype: str, kind: str = "lstm") -> bool:
    """Whether a case is to run there."""
    kinds = COMPILED.get((subject.name, dtype), ()) if "compiles" in subject.tags else KINDS
    return subject.library in HALVES[dtype] and not subject.kernel and kind in kinds


def eager(subject: Subject, dtype: str) -> bool:
    """Whether it has the dtype and runs without jax.jit."""
    return has(subject, dtype) and "jit" not in subject.tags


def arguments(layer: Any, steps: int, batch: int) -> dict[str, Any]:
    """On the host; upstream gradients have a mean, so that sums over time grow with it."""
    rng, bound = np.random.default_rng([steps, batch]), layer.hidden_size**-0.5
    out, *_ = sizes = layer.cell.state_sizes(layer.hidden_size)
    count = layer.num_layers * (1 + layer.bidirectional)
    return {
        "params": {name: rng.uniform(-bound, bound, shape) for name, shape in layer.shapes().items()},
        "x": rng.standard_normal((steps, batch, layer.input_size)),
        "state": tuple(rng.uniform(-1, 1, (count, batch, size)) for size in sizes),
        "dy": 0.1 + 0.1 * rng.standard_normal((steps, batch, out * (1 + layer.bidirectional))),
        "dstate": tuple(rng.standard_normal((count, batch, size)) for size in sizes),
    }


def everything(layer: Any, a: dict, lengths: Any = None) -> tuple[Any, Any]:
    state = packed(a["state"])
    y, end, tape = layer.forward(a["params"], a["x"], state, lengths=lengths)
    grads = layer.backward(tape, a["dy"], packed(a["dstate"]))
    return (y, end, layer(a["params"], a["x"], state, lengths=lengths)[0]), tuple(grads)


def compare(subject: Subject, dtype: str, layer: Any, steps: int, batch: int, lengths: Any = None) -> None:
    half = subject.array(arguments(layer, steps, batch), dtype)
    exact = everything(layer, tree_map(lambda a: a.astype("float64"), subject.host(half)), lengths)
    found = everything(subject.module(layer), half, None if lengths is None else subject.array(np.asarray(lengths)))
    for kind, got, wanted in zip(("forward", "gradient"), found, exact, strict=True):
        subject.close(got, wanted, kind, dtype, kind)


@vary(has, dtype=HALVES, kind=KINDS)
def test_a_long_sequence(subject, dtype, kind):
    compare(subject, dtype, cases.layer_of(kind, 3, 5), 307, 2)


@vary(has, dtype=HALVES)
def test_a_deep_layer_with_lengths(subject, dtype):
    compare(subject, dtype, DEEP, 11, 3, [11, 0, 7])


NORMAL = {
    "lstm": pr.LSTM(3, 5, layer_norm=True, peephole=True),
    "gru": pr.GRU(3, 5, layer_norm=True),
    "gru_before": pr.GRU(3, 5, layer_norm=True, reset_after=False),
}


@vary(lambda subject, dtype, kind: has(subject, dtype, kind), dtype=HALVES, kind=NORMAL)
def test_layer_normalisation_has_its_statistics_in_float32(subject, dtype, kind):
    """Squares of large numbers overflow in float16: the outputs are those of float64 all the same."""
    layer = NORMAL[kind]
    for factor in (1, 600):
        given = arguments(layer, 11, 3)
        half = subject.array(given | {"x": factor * np.abs(given["x"])}, dtype)
        exact = everything(layer, tree_map(lambda a: a.astype("float64"), subject.host(half)))
        found = everything(subject.module(layer), half)
        subject.close(found[0], exact[0], "forward", dtype)
        if factor == 1:
            subject.close(found[1], exact[1], "gradient", dtype)


@vary(has, dtype=HALVES)
def test_many_blocks_of_one_step(subject, dtype):
    assert recurrence.steps_per_block(257) == 1
    compare(subject, dtype, cases.layer_of("rnn_tanh", 3, 5), 601, 257)


@vary(eager, dtype=HALVES)
def test_sums_over_blocks_in_half_precision_are_found(subject, dtype, monkeypatch):
    """Planted: the test above, of a length of its own since JAX would not trace it anew, must then fail."""
    for module in (recurrence, _cell):
        monkeypatch.setattr(module, "wide", lambda xp, array: array)
    with pytest.raises(AssertionError, match=r"gradient.*: error"):
        compare(subject, dtype, cases.layer_of("rnn_tanh", 3, 5), 607, 257)


@vary(eager, dtype=HALVES)
def test_long_products_are_accumulated_in_float32(subject, dtype):
    """The libraries do that by themselves; in half precision the sum of 4096 positive numbers is far off."""
    rng = np.random.default_rng(4096)
    a, b = subject.array((rng.uniform(0.5, 1.5, (2, 4096)) / 64, rng.uniform(0.5, 1.5, (4096, 3)) / 64), dtype)
    products = (subject.function(lambda a, b: a @ b)(a, b), subject.xp.tensordot(a, b, axes=((1,), (0,))))
    wide = subject.host(a).astype("float64"), subject.host(b).astype("float64")
    limit = float(subject.xp.finfo(a.dtype).eps)  # the result is rounded once, by half of this
    for product in products:
        assert largest_error(subject.host(product), wide[0] @ wide[1]) <= limit

    total = np.zeros((2, 3), dtype=subject.host(a).dtype)
    for k in range(4096):  # planted
        total = total + (subject.host(a)[:, k, None] * subject.host(b)[k])
    assert largest_error(total, wide[0] @ wide[1]) > 4 * limit


@vary(eager, dtype=HALVES)
def test_parameters_are_drawn_and_steps_are_taken(subject, dtype):
    layer = pr.GRU(3, 5, num_layers=2)
    params = layer.init(seed=0, backend=subject.backend, dtype=dtype)
    x = subject.array(np.random.default_rng(1).standard_normal((7, 2, 3)), dtype)
    whole, end = layer(params, x)
    state = None
    for t in range(7):
        y, state = layer.step(params, x[t, ...], state)
        subject.close(y, subject.host(whole[t, ...]).astype("float64"), "forward", dtype)
    subject.close(state, subject.host(end).astype("float64"), "forward", dtype)


def test_limits_are_eight_ulps():
    for dtype, eps in (("float16", 2**-10), ("bfloat16", 2**-7)):
        for kind in ("forward", "gradient"):
            assert TOLERANCES[kind, dtype].limit == pytest.approx(8 * eps, rel=0.02)
