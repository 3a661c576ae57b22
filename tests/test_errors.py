"""Bad input at the doors: one exception of the right type, which names the argument, its value and what is wanted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from subjects import Subject, tagged, vary

import polyrnn as pr

T, N, I, H = 5, 3, 2, 7
LSTM, GRU, RNN = pr.LSTM(I, H), pr.GRU(I, H), pr.RNN(I, H)
DEEP = pr.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3, dropout=0.4)
TABLE, HEAD = pr.Embedding(11, 3), pr.Linear(3, 2)
POOL, TURNED = pr.Pool("mean"), pr.Pool("max", batch_first=True)
MODEL = pr.Sequential(table=TABLE, layer=pr.GRU(3, 5), head=pr.Linear(5, 2))


class Bad(NamedTuple):
    """A call of `do(a)`, where `a` makes arrays, that must raise `error` with all of `words` in its message."""

    do: Callable[[Callable[..., Any]], Any]
    error: type[Exception]
    words: tuple[str, ...]


def params(a: Callable[..., Any], layer: Any = LSTM, dtype: str = "float64") -> dict:
    return {k: a(*s, dtype=dtype) for k, s in layer.shapes().items()}


def without(tree: dict, key: str) -> dict:
    return {k: v for k, v in tree.items() if k != key}


def tape(a: Callable[..., Any], layer: Any = LSTM, x: Any = None) -> Any:
    return layer.forward(params(a, layer), a(T, N, I) if x is None else x)[2]


def ids(a: Callable[..., Any], *numbers: int, dtype: str = "int64") -> Any:
    return a.of(np.asarray([numbers], dtype=dtype))


def textbook(a: Callable[..., Any], kind: str = "rnn") -> dict:
    if kind == "rnn":
        shapes = {"Wax": (H, I), "Waa": (H, H), "Wya": (2, H), "ba": (H, 1), "by": (2, 1)}
    else:
        shapes = {f"W{g}": (H, H + I) for g in ("fico" if kind == "lstm" else "urc")}
        shapes |= {f"b{g}": (H, 1) for g in ("fico" if kind == "lstm" else "urc")} | {"Wy": (2, H), "by": (2, 1)}
    return {k: a(*s) for k, s in shapes.items()}


def caches(a: Callable[..., Any]) -> tuple:
    return pr.rnn_forward(a(I, N, T), a(H, N), textbook(a))[-1]


DOORS = {
    # -- rank and size
    "x of rank 1": Bad(lambda a: LSTM(params(a), a(I)), ValueError, ("x has shape (2,)", "(T, N, I)")),
    "x of another size": Bad(lambda a: LSTM(params(a), a(T, N, 3)), ValueError, ("x has shape (5, 3, 3)", "2)")),
    "x for forward": Bad(lambda a: GRU.forward(params(a, GRU), a(T, N, 3)), ValueError, ("x has shape (5, 3, 3)",)),
    "state of another batch": Bad(
        lambda a: GRU(params(a, GRU), a(T, N, I), a(1, 2, H)), ValueError, ("state h has shape (1, 2, 7)", "(1, 3, 7)")
    ),
    "state without its first axis": Bad(
        lambda a: GRU(params(a, GRU), a(T, N, I), a(N, H)),
        ValueError,
        ("state h has shape (3, 7)", "(1, 3, 7) = (L*D, N, H)"),
    ),
    "c of another size": Bad(
        lambda a: LSTM(params(a), a(T, N, I), (a(1, N, H), a(1, N, 5))), ValueError, ("state c has shape (1, 3, 5)",)
    ),
    "state h alone for an LSTM": Bad(
        lambda a: LSTM(params(a), a(T, N, I), a(1, N, H)), TypeError, ("state is", "a tuple (h, c)")
    ),
    "state of three": Bad(lambda a: LSTM(params(a), a(T, N, I), (None,) * 3), TypeError, ("state is tuple", "(h, c)")),
    "dy of another length": Bad(
        lambda a: LSTM.backward(tape(a), a(4, N, H)), ValueError, ("dy has shape (4, 3, 7)", "(5, 3, 7)")
    ),
    "dy that would broadcast": Bad(
        lambda a: LSTM.backward(tape(a), a(T, 1, H)), ValueError, ("dy has shape (5, 1, 7)", "(5, 3, 7)")
    ),
    "dstate of another size": Bad(
        lambda a: LSTM.backward(tape(a), None, (None, a(1, N, 3))), ValueError, ("dstate c has shape (1, 3, 3)",)
    ),
    "dstate h alone for an LSTM": Bad(
        lambda a: LSTM.backward(tape(a), None, a(1, N, H)), TypeError, ("dstate is", "(h, c)")
    ),
    "a step of rank 3": Bad(
        lambda a: LSTM.step(params(a), a(1, N, I)), ValueError, ("x has shape (1, 3, 2)", "(N, I)")
    ),
    "a step of another size": Bad(lambda a: LSTM.step(params(a), a(N, 3)), ValueError, ("x has shape", "3)")),
    "weight of another shape": Bad(
        lambda a: LSTM(params(a) | {"weight_hh_l0": a(H, 4 * H)}, a(T, N, I)),
        ValueError,
        ("params['weight_hh_l0'] has shape (7, 28)", "(28, 7)"),
    ),
    "parameters of another layer": Bad(
        lambda a: LSTM(params(a, GRU), a(T, N, I)), ValueError, ("params['weight_ih_l0']", "(21, 2)", "(28, 2)")
    ),
    # -- keys
    "a parameter lacks": Bad(
        lambda a: LSTM(without(params(a), "bias_hh_l0"), a(T, N, I)), ValueError, ("params lacks bias_hh_l0", "LSTM")
    ),
    "a parameter too many": Bad(
        lambda a: LSTM(params(a) | {"weight": a(2)}, a(T, N, I)), ValueError, ("has unknown weight", "LSTM expects")
    ),
    "parameters in a list": Bad(lambda a: LSTM(list(params(a).values()), a(T, N, I)), TypeError, ("list",)),
    "a member's parameter lacks": Bad(
        lambda a: MODEL(without(params(a, MODEL), "head.bias"), ids(a, 1)),
        ValueError,
        ("lacks head.bias", "Sequential"),
    ),
    # -- dtypes
    "x of another dtype": Bad(
        lambda a: LSTM(params(a), a(T, N, I, dtype="float32")), TypeError, ("x has dtype float32", "float64")
    ),
    "integers for x": Bad(
        lambda a: LSTM(params(a), a(T, N, I, dtype="int64")), TypeError, ("x has dtype int64", "float64")
    ),
    "parameters of two dtypes": Bad(
        lambda a: LSTM(params(a) | {"bias_hh_l0": a(4 * H, dtype="float32")}, a(T, N, I)),
        TypeError,
        ("params['bias_hh_l0'] has dtype float32", "float64"),
    ),
    "parameters of integers": Bad(
        lambda a: LSTM(params(a, LSTM, "int64"), a(T, N, I)), TypeError, ("params['weight_ih_l0'] has dtype int64",)
    ),
    "state of another dtype": Bad(
        lambda a: GRU(params(a, GRU), a(T, N, I), a(1, N, H, dtype="float32")),
        TypeError,
        ("state h has dtype float32",),
    ),
    "dy of another dtype": Bad(
        lambda a: GRU.backward(tape(a, GRU), a(T, N, H, dtype="float32")), TypeError, ("dy has dtype float32",)
    ),
    "dstate of another dtype": Bad(
        lambda a: GRU.backward(tape(a, GRU), None, a(1, N, H, dtype="float32")), TypeError, ("dstate h has dtype",)
    ),
    "ids of floats": Bad(lambda a: TABLE(params(a, TABLE), a(T, N)), TypeError, ("x has dtype float64", "integer")),
    "ids of booleans": Bad(
        lambda a: TABLE(params(a, TABLE), a(T, N, dtype="bool")), TypeError, ("x has dtype bool", "integer")
    ),
    "masks of floats": Bad(
        lambda a: pr.Dropout(0.5)({}, a(T, N), masks=a(T, N)), TypeError, ("masks has dtype float64", "bool")
    ),
    "dropout of integers": Bad(
        lambda a: pr.Dropout(0.5)({}, a(T, N, dtype="int64")), TypeError, ("x has dtype int64",)
    ),
    # -- lengths
    "lengths of another shape": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[1, 2]), ValueError, ("lengths has shape (2,)", "(3,) = (N,)")
    ),
    "lengths of rank 2": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[[1, 2, 3]]), ValueError, ("lengths has shape (1, 3)",)
    ),
    "one length": Bad(lambda a: LSTM(params(a), a(T, N, I), lengths=3), ValueError, ("lengths", "(3,) = (N,)")),
    "lengths of floats": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[1.0, 2.0, 3.0]), TypeError, ("lengths has dtype float64",)
    ),
    "lengths of booleans": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[True, False, True]), TypeError, ("lengths has dtype bool",)
    ),
    "no lengths for examples": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[]), ValueError, ("lengths has shape (0,)",)
    ),
    "lengths for rank 1": Bad(
        lambda a: HEAD(params(a, HEAD), a(3), lengths=[1]), ValueError, ("x has shape (3,)", "(T, N)")
    ),
    # -- what is not there
    "a state for Linear": Bad(
        lambda a: HEAD(params(a, HEAD), a(N, 3), a(N, 3)), ValueError, ("state", "Linear has none")
    ),
    "dstate for Linear": Bad(
        lambda a: HEAD.backward(HEAD.forward(params(a, HEAD), a(N, 3))[2], None, a(N, 3)),
        ValueError,
        ("dstate", "Linear"),
    ),
    "masks for a layer without dropout": Bad(
        lambda a: LSTM(params(a), a(T, N, I), masks=a(T, N, I, dtype="bool")), ValueError, ("masks", "LSTM")
    ),
    "masks of another shape": Bad(
        lambda a: pr.Dropout(0.5)({}, a(T, N), masks=a(T, 1, dtype="bool")),
        ValueError,
        ("masks has shape (5, 1)", "(5, 3)"),
    ),
    "too few states for members": Bad(
        lambda a: MODEL(params(a, MODEL), ids(a, 1), (None, None)), ValueError, ("state", "3 members")
    ),
    "too few masks for members": Bad(
        lambda a: MODEL(params(a, MODEL), ids(a, 1), masks=(None,)), ValueError, ("masks", "3 members")
    ),
    "Linear of another size": Bad(
        lambda a: HEAD(params(a, HEAD), a(T, N, 2)), ValueError, ("x has shape (5, 3, 2)", "3)", "in_features")
    ),
    "dy for Linear": Bad(
        lambda a: HEAD.backward(HEAD.forward(params(a, HEAD), a(T, N, 3))[2], a(T, N, 1)),
        ValueError,
        ("dy has shape (5, 3, 1)", "(5, 3, 2)"),
    ),
    # -- pooling over time
    "x for Pool of rank 1": Bad(
        lambda a: POOL({}, a(T)), ValueError, ("x has shape (5,)", "(T, N, F), or one sequence (T, F)")
    ),
    "x for Pool of rank 4": Bad(lambda a: TURNED({}, a(1, N, T, I)), ValueError, ("x has shape", "(N, T, F)")),
    "integers for Pool": Bad(lambda a: POOL({}, a(T, N, I, dtype="int64")), TypeError, ("x has dtype int64",)),
    "parameters for Pool": Bad(lambda a: POOL({"weight": a(2)}, a(T, N, I)), ValueError, ("has unknown weight",)),
    "a state for Pool": Bad(lambda a: POOL({}, a(T, N, I), a(N, I)), ValueError, ("state: Pool has none",)),
    "a step of Pool": Bad(lambda a: POOL.step({}, a(N, I)), ValueError, ("step: Pool(", "the whole sequence")),
    "lengths for Pool of another shape": Bad(
        lambda a: TURNED({}, a(N, T, I), lengths=[1, 2, 3, 4, 5]), ValueError, ("lengths has shape (5,)", "(3,) = (N,)")
    ),
    "a mask for Pool of another layout": Bad(
        lambda a: TURNED({}, a(N, T, I), lengths=a(T, N, dtype="bool")),
        ValueError,
        ("lengths has shape (5, 3)", "(3, 5) = (N, T)"),
    ),
    "lengths of one sequence for Pool": Bad(
        lambda a: POOL({}, a(T, I), lengths=[3]), ValueError, ("lengths", "one sequence, (T, F)")
    ),
    "dy for Pool": Bad(
        lambda a: POOL.backward(POOL.forward({}, a(T, N, I))[2], a(T, N, I)),
        ValueError,
        ("dy has shape (5, 3, 2)", "(3, 2) = (N, F)"),
    ),
    "dy for Pool of another dtype": Bad(
        lambda a: POOL.backward(POOL.forward({}, a(T, I))[2], a(I, dtype="float32")),
        TypeError,
        ("dy has dtype float32", "y float64"),
    ),
    "dstate for Pool": Bad(
        lambda a: POOL.backward(POOL.forward({}, a(T, N, I))[2], None, a(N, I)), ValueError, ("dstate: Pool",)
    ),
    # -- the textbook functions
    "textbook x of rank 2": Bad(
        lambda a: pr.rnn_forward(a(I, N), a(H, N), textbook(a)), ValueError, ("x has shape (2, 3)", "(n_x, m, T_x)")
    ),
    "textbook xt of rank 3": Bad(
        lambda a: pr.rnn_cell_forward(a(I, N, T), a(H, N), textbook(a)),
        ValueError,
        ("xt has shape (2, 3, 5)", "(n_x, m)"),
    ),
    "textbook a0 of another batch": Bad(
        lambda a: pr.rnn_forward(a(I, N, T), a(H, 2), textbook(a)), ValueError, ("a0 has shape (7, 2)", "(7, 3)")
    ),
    "textbook a0 of rank 1": Bad(
        lambda a: pr.rnn_forward(a(I, N, T), a(H), textbook(a)), ValueError, ("a0 has shape (7,)", "(n_a, m)")
    ),
    "textbook c_prev": Bad(
        lambda a: pr.lstm_cell_forward(a(I, N), a(H, N), a(5, N), textbook(a, "lstm")),
        ValueError,
        ("c_prev has shape (5, 3)",),
    ),
    "textbook parameter lacks": Bad(
        lambda a: pr.lstm_forward(a(I, N, T), a(H, N), without(textbook(a, "lstm"), "bo")),
        ValueError,
        ("parameters lacks bo",),
    ),
    "textbook parameters in a list": Bad(
        lambda a: pr.rnn_forward(a(I, N, T), a(H, N), [1]), TypeError, ("parameters is a list", "dict")
    ),
    "a deep state too shallow": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), (a(2, N, 3), a(4, N, H))),
        ValueError,
        ("state h has shape (2, 3, 3)", "(4, 3, 3) = (L*D, N, P)"),
    ),
    "a deep cell state of the projection's size": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), (a(4, N, 3), a(4, N, 3))),
        ValueError,
        ("state c has shape (4, 3, 3)", "(4, 3, 7) = (L*D, N, H)"),
    ),
    "a gradient of one direction": Bad(
        lambda a: DEEP.backward(DEEP.forward(params(a, DEEP), a(T, N, I))[2], a(T, N, 3)),
        ValueError,
        ("dy has shape (5, 3, 3)", "(5, 3, 6) = (T, N, D*P)"),
    ),
    "a gradient of another layout": Bad(
        lambda a: DEEP.backward(DEEP.forward(params(a, DEEP), a(T, I))[2], a(T, N, 6)),
        ValueError,
        ("dy has shape (5, 3, 6)", "(5, 6) = (T, D*P)"),
    ),
    "x of rank 4": Bad(lambda a: DEEP(params(a, DEEP), a(1, T, N, I)), ValueError, ("x has shape (1, 5, 3, 2)",)),
    "a step in both directions": Bad(
        lambda a: DEEP.step(params(a, DEEP), a(N, I)), ValueError, ("step", "bidirectional=False")
    ),
    "lengths of one sequence": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, I), lengths=[3]), ValueError, ("lengths", "(T, I)")
    ),
    "a mask of valid steps turned": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), lengths=a(N, T, dtype="bool")),
        ValueError,
        ("lengths has shape (3, 5)", "(5, 3) = (T, N)"),
    ),
    "a mask of valid steps of numbers": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), lengths=a(T, N)), TypeError, ("lengths has dtype float64", "bool")
    ),
    "masks without dropout": Bad(
        lambda a: LSTM(params(a), a(T, N, I), masks={"dropout_l0": a(T, N, H, dtype="bool")}),
        ValueError,
        ("masks: LSTM has no dropout",),
    ),
    "masks of another name": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), masks={"dropout_l1": a(T, N, 6, dtype="bool")}),
        ValueError,
        ("dropout_l1", "expected a dict of dropout_l0"),
    ),
    "a mask too narrow": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), masks={"dropout_l0": a(T, N, 3, dtype="bool")}),
        ValueError,
        ("masks['dropout_l0'] has shape (5, 3, 3)", "(5, 3, 6)"),
    ),
    "a mask of numbers": Bad(
        lambda a: DEEP(params(a, DEEP), a(T, N, I), masks={"dropout_l0": a(T, N, 6)}),
        TypeError,
        ("masks['dropout_l0'] has dtype float64", "bool"),
    ),
    "a seed of text": Bad(lambda a: DEEP(params(a, DEEP), a(T, N, I), seed="one"), TypeError, ("seed='one'", "an int")),
    "textbook bias of rank 1": Bad(
        lambda a: pr.rnn_forward(a(I, N, T), a(H, N), textbook(a) | {"ba": a(H)}),
        ValueError,
        ("parameters['ba'] has shape (7,)", "(7, 1)"),
    ),
    "textbook dtype": Bad(
        lambda a: pr.rnn_forward(a(I, N, T), a(H, N, dtype="float32"), textbook(a)),
        TypeError,
        ("a0 has dtype float32",),
    ),
    "textbook da longer than x": Bad(
        lambda a: pr.rnn_backward(a(H, N, T + 1), caches(a)), ValueError, ("da has shape (7, 3, 6)", "T_x <= 5")
    ),
    "textbook da of rank 2": Bad(
        lambda a: pr.rnn_backward(a(H, N), caches(a)), ValueError, ("da has shape (7, 3)", "T_x")
    ),
    "textbook da of another size": Bad(
        lambda a: pr.rnn_backward(a(5, N, T), caches(a)), ValueError, ("da has shape (5, 3, 5)", "(7, 3, 5)")
    ),
    "textbook dy of another size": Bad(
        lambda a: pr.rnn_backward(a(H, N, T), caches(a), dy=a(5, N, T)),
        ValueError,
        ("dy has shape (5, 3, 5)", "(2, 3, 5)"),
    ),
    "textbook dy of another length": Bad(
        lambda a: pr.rnn_backward(a(H, N, T), caches(a), dy=a(2, N, 3)),
        ValueError,
        ("dy has shape (2, 3, 3)", "(2, 3, 5)"),
    ),
    "textbook without a gradient": Bad(
        lambda a: pr.rnn_backward(None, caches(a)), ValueError, ("da", "dy", "at least one")
    ),
    "textbook caches": Bad(lambda a: pr.rnn_backward(a(H, N, T), None), TypeError, ("caches", "rnn_forward")),
    "textbook cache": Bad(
        lambda a: pr.gru_cell_backward(a(H, N), (a(H, N),)), TypeError, ("cache", "gru_cell_forward")
    ),
    "softmax of integers": Bad(lambda a: pr.softmax(a(3, 2, dtype="int64")), TypeError, ("z has dtype int64",)),
    "softmax of nothing": Bad(lambda a: pr.softmax(a(0, 3)), ValueError, ("z has shape (0, 3)", "n >= 1")),
    "sigmoid of a list": Bad(lambda a: pr.sigmoid([1.0]), TypeError, ("z", "list")),
}


def maker(subject: Subject) -> Any:
    """a(*shape, dtype=): arrays of 0 and 1s; a.of(array): this array."""

    def make(*shape: int, dtype: str = "float64") -> Any:
        return subject.array(np.arange(int(np.prod(shape))).reshape(shape) % 2, dtype)

    make.of = subject.array
    return make


@pytest.mark.parametrize("name", DOORS)
def test_shapes_and_dtypes_are_refused_everywhere(subject, name):
    """Under a trace too: they are known there."""
    bad, a = DOORS[name], maker(subject)
    call = subject.function(lambda: bad.do(a)) if "jit" in subject.tags else lambda: bad.do(a)
    with pytest.raises(bad.error) as error:
        call()
    assert type(error.value) is bad.error
    for word in bad.words:
        assert word in str(error.value), str(error.value)


# ---- values, which can be seen where they are concrete ---------------------------------------------------------

VALUES = {
    "an id too large": Bad(
        lambda a: TABLE(params(a, TABLE), ids(a, 1, 11, 3)),
        ValueError,
        ("x holds the id 11", "0 <= id < num_embeddings = 11"),
    ),
    "a negative id": Bad(
        lambda a: TABLE(params(a, TABLE), ids(a, 1, -1, 3)), ValueError, ("x holds the id -1", "0 <= id")
    ),
    "an id of one byte": Bad(
        lambda a: TABLE(params(a, TABLE), ids(a, 1, 200, dtype="uint8")), ValueError, ("x holds the id 200",)
    ),
    "an id in a sequential": Bad(
        lambda a: MODEL.forward(params(a, MODEL), ids(a, 1, 12)), ValueError, ("x holds the id 12",)
    ),
    "an id in a step": Bad(
        lambda a: TABLE.step(params(a, TABLE), ids(a, 1, -5)[0, ...]), ValueError, ("x holds the id -5",)
    ),
    "a length too large": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[5, 6, 1]), ValueError, ("lengths[1] = 6", "0 <= length <= T = 5")
    ),
    "a negative length": Bad(
        lambda a: LSTM(params(a), a(T, N, I), lengths=[5, 4, -1]), ValueError, ("lengths[2] = -1", "0 <= length")
    ),
    "a length on the device": Bad(
        lambda a: GRU.forward(params(a, GRU), a(T, N, I), lengths=ids(a, 5, 9, 1)[0, ...]),
        ValueError,
        ("lengths[1] = 9",),
    ),
    "a length for Pool": Bad(
        lambda a: TURNED({}, a(N, T, I), lengths=[5, 6, 1]), ValueError, ("lengths[1] = 6", "<= T = 5")
    ),
    "a length for Linear": Bad(
        lambda a: HEAD(params(a, HEAD), a(T, N, 3), lengths=[5, 6, 1]), ValueError, ("lengths[1] = 6",)
    ),
}


@pytest.mark.parametrize("name", VALUES)
@tagged("concrete")
def test_values_are_refused(subject, name):
    bad = VALUES[name]
    with pytest.raises(bad.error) as error:
        bad.do(maker(subject))
    for word in bad.words:
        assert word in str(error.value), str(error.value)


@tagged("jit", kernels=False)
def test_values_under_a_trace_are_clamped(subject, rng):
    weight = rng.standard_normal((11, 3))
    table = subject.module(TABLE)
    y, _, kept = table.forward(subject.array({"weight": weight}), subject.array(np.array([[1, 99, -5]])))
    subject.equal(y, weight[[[1, 10, 0]]], "float64")
    assert subject.host(table.backward(kept, y).params["weight"]).any()
    x, layer = rng.standard_normal((T, N, I)), subject.module(GRU)
    weights = subject.array({k: rng.standard_normal(s) for k, s in GRU.shapes().items()})
    found = layer(weights, subject.array(x), lengths=subject.array(np.array([5, 99, -3])))
    wanted = layer(weights, subject.array(x), lengths=subject.array(np.array([5, 5, 0])))
    subject.equal(found, subject.host(wanted), "float64")


@vary(lambda s: "jit" not in s.tags and s.library != "numpy")
def test_mixed_backends(subject):
    own, host = maker(subject), lambda *shape: np.ones(shape)
    weights = params(own)
    kept = tape(own)
    for name, call in {
        "params, x and state": lambda: LSTM(weights, host(T, N, I)),
        "tape, dy and dstate": lambda: LSTM.backward(kept, host(T, N, H)),
        "params and x": lambda: HEAD(params(own, HEAD), host(T, N, 3)),
        "the arguments": lambda: pr.rnn_forward(host(I, N, T), own(H, N), textbook(own)),
    }.items():
        with pytest.raises(TypeError, match="are mixed") as error:
            call()
        for word in (name, "numpy", subject.library):
            assert word in str(error.value), str(error.value)


# ---- options ---------------------------------------------------------------------------------------------------

OPTIONS = {
    "no inputs": (lambda: pr.LSTM(0, 5), ValueError, ("input_size=0", "at least 1")),
    "negative": (lambda: pr.LSTM(3, -5), ValueError, ("hidden_size=-5", "at least 1")),
    "a float": (lambda: pr.GRU(3.0, 5), TypeError, ("input_size=3.0", "whole number")),
    "text": (lambda: pr.RNN(3, "5"), TypeError, ("hidden_size='5'", "whole number")),
    "true": (lambda: pr.LSTM(True, 5), ValueError, ("input_size=True",)),
    "no layers": (lambda: pr.LSTM(3, 5, num_layers=0), ValueError, ("num_layers=0", "at least 1")),
    "half a layer": (lambda: pr.LSTM(3, 5, num_layers=1.5), TypeError, ("num_layers=1.5", "whole number")),
    "directions of text": (lambda: pr.LSTM(3, 5, bidirectional="yes"), TypeError, ("bidirectional='yes'", "True")),
    "batch first of a number": (lambda: pr.GRU(3, 5, batch_first=1), TypeError, ("batch_first=1", "True")),
    "a projection too wide": (lambda: pr.LSTM(3, 5, proj_size=5), ValueError, ("proj_size=5", "hidden_size=5")),
    "a projection below zero": (lambda: pr.LSTM(3, 5, proj_size=-1), ValueError, ("proj_size=-1", "at least 0")),
    "a projection of a GRU": (lambda: pr.GRU(3, 5, proj_size=2), ValueError, ("proj_size=2", "only an LSTM")),
    "a projection of an RNN": (lambda: pr.RNN(3, 5, proj_size=2), ValueError, ("proj_size=2", "only an LSTM")),
    "a learned state of a number": (lambda: pr.GRU(3, 5, learned_state=1), TypeError, ("learned_state=1", "True")),
    "an unknown initializer": (
        lambda: pr.LSTM(3, 5, initializer="best"),
        ValueError,
        ("initializer='best'", "'keras'"),
    ),
    "chrono of two steps": (lambda: pr.initializers.Chrono(2), ValueError, ("t_max=2", "at least 3")),
    "chrono on an unknown base": (lambda: pr.initializers.Chrono(9, "best"), ValueError, ("base='best'", "'lecun'")),
    "chrono of an RNN": (
        lambda: pr.RNN(3, 5, initializer=pr.initializers.Chrono(9)).init(),
        ValueError,
        ("Chrono(t_max=9", "RNNCell has no gate"),
    ),
    "chrono without biases": (
        lambda: pr.LSTM(3, 5, bias=False, initializer=pr.initializers.Chrono(9)).init(),
        ValueError,
        ("Chrono(t_max=9", "no biases"),
    ),
    "dropout of one": (lambda: pr.GRU(3, 5, num_layers=2, dropout=1.0), ValueError, ("dropout=1.0", "< 1")),
    "dropout below zero": (lambda: pr.GRU(3, 5, num_layers=2, dropout=-0.1), ValueError, ("dropout=-0.1",)),
    "dropout of text": (lambda: pr.GRU(3, 5, num_layers=2, dropout="some"), TypeError, ("dropout='some'", "number")),
    "nonlinearity": (
        lambda: pr.RNN(3, 5, nonlinearity="gelu"),
        ValueError,
        ("nonlinearity='gelu'", "'tanh'", "'relu'"),
    ),
    "p of one": (lambda: pr.Dropout(1.0), ValueError, ("p=1.0", "0 <= p < 1")),
    "p below zero": (lambda: pr.Dropout(-0.1), ValueError, ("p=-0.1",)),
    "no ids": (lambda: pr.Embedding(0, 3), ValueError, ("num_embeddings=0",)),
    "no features": (lambda: pr.Linear(3, 0), ValueError, ("out_features=0",)),
    "no members": (lambda: pr.Sequential(), ValueError, ("at least one module",)),
    "no module": (
        lambda: pr.Sequential(pr.Linear(3, 2), lambda x: x),
        TypeError,
        ("Sequential: 1 is", "expected a module"),
    ),
    "how to pool": (lambda: pr.Pool("sum"), ValueError, ("how='sum'", "'last', 'mean', 'max'")),
    "how to pool in a list": (lambda: pr.Pool(["max"]), ValueError, ("how=['max']", "'last'")),
    "batch first of a text": (lambda: pr.Pool("max", "no"), TypeError, ("batch_first='no'", "True")),
    "a layer after the pool": (
        lambda: pr.Sequential(pool=pr.Pool("mean"), head=pr.Linear(3, 5), lstm=pr.LSTM(5, 7)),
        ValueError,
        ("lstm runs over time", "pool has taken away", "Linear"),
    ),
    "a pool of a pool": (
        lambda: pr.Sequential(pr.Sequential(pr.Pool("mean"), pr.Linear(3, 2)), pr.Pool("max")),
        ValueError,
        ("1 runs over time", "0 has taken away"),
    ),
    "two layouts": (
        lambda: pr.Sequential(lstm=pr.LSTM(5, 7, batch_first=True), drop=pr.Dropout(0.1), pool=pr.Pool("mean")),
        ValueError,
        ("lstm has batch_first=True, but pool False", "one layout"),
    ),
    "a dtype of integers": (lambda: pr.LSTM(3, 5).init(dtype="int64"), (TypeError, ValueError), ("int64",)),
    "a seed of text": (lambda: pr.LSTM(3, 5).init(seed="one"), (TypeError, ValueError), ("seed",)),
    "a negative seed": (lambda: pr.LSTM(3, 5).init(seed=-1), ValueError, ("seed",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    call, error_type, words = OPTIONS[name]
    with pytest.raises(error_type) as error:
        call()
    for word in words:
        assert word in str(error.value), str(error.value)
