"""The checker: it catches every planted error, passes what is right whatever the seed, and says what it found."""

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import polyrnn as pr
from polyrnn import capabilities, losses
from polyrnn.cells import GRUCell, LSTMCell, RNNCell
from polyrnn.gradcheck import (
    TOLERANCES,
    Report,
    Row,
    WrongGradient,
    check,
    check_layer,
    check_loss,
    check_textbook,
    compare_backends,
)
from polyrnn.gradcheck._examine import agree, examine
from polyrnn.gradcheck._methods import why_not

JAX = importlib.util.find_spec("jax") is not None
METHODS = ("jax.grad", "complex step", "differences") if JAX else ("complex step", "differences")
README = Path(__file__).resolve().parents[1] / "README.md"


# ---- what is right passes ------------------------------------------------------------------


@pytest.mark.parametrize("subject", capabilities.SUBJECTS, ids=lambda s: s.name)
def test_every_hand_written_gradient_is_right(subject):
    # Where a complex step has named the elements, differences along directions are enough.
    report = examine(subject.problem(0), elementwise=0 if subject.problem(0).analytic else 100)
    report.raise_if_wrong()
    expected = {method for method in METHODS if why_not(method, subject.problem(0)) is None}
    assert {row.method for row in report.rows} == expected
    assert "differences" in expected


@pytest.mark.parametrize("seed", range(1, 16))
def test_no_seed_makes_what_is_right_wrong(seed):
    for subject in capabilities.SUBJECTS[seed % 5 :: 5]:
        examine(subject.problem(seed), methods=["differences"], seed=seed, elementwise=0).raise_if_wrong()


def test_layers_on_every_subject(subject):
    for layer in (pr.LSTM(3, 5), pr.GRU(3, 5, reset_after=False)):
        check_layer(layer, backend=subject.library, lengths=True, methods=["complex step"]).raise_if_wrong()
        check_layer(
            layer, backend=subject.library, methods=["differences"], dtype="float32", elementwise=0
        ).raise_if_wrong()


@pytest.mark.parametrize("layer", [pr.RNN(2, 3, nonlinearity="relu"), pr.LSTM(2, 3), pr.GRU(2, 3)], ids=repr)
def test_sequences_of_several_blocks(layer):
    # 200 columns a step: the recurrence works in blocks of two steps, of which the last one is shorter.
    check_layer(layer, steps=5, batch=200, lengths=True, methods=["differences"], elementwise=30).raise_if_wrong()


def test_textbook_and_losses_take_the_same_options():
    rng = np.random.default_rng(0)
    check_textbook("gru", one_step=True, dtype="float32", methods=["complex step"]).raise_if_wrong()
    logits, labels = rng.normal(size=(4, 3, 5)), rng.integers(0, 5, (4, 3))
    check_loss(losses.softmax_cross_entropy, logits, labels, seed=3).raise_if_wrong()


def network(x, w, b):
    return np.tanh(w @ x + b)


def network_backward(dy, x, w, b):
    dz = dy * (1 - network(x, w, b) ** 2)
    return w.T @ dz, dz @ x.T, dz.sum(axis=1, keepdims=True)


def point(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, 2)), rng.normal(size=(3, 3)), rng.normal(size=(3, 1))]


@pytest.mark.parametrize("methods", [[m] for m in METHODS if m != "jax.grad"])
def test_functions_of_ones_own(methods):
    report = check(network, network_backward, point(), methods=methods)
    report.raise_if_wrong()
    assert [row.name for row in report.rows if row.where is not None] == ["x", "w", "b"]


@pytest.mark.skipif(not JAX, reason="JAX is not installed")
def test_functions_of_ones_own_through_jax():
    def forward(x, w):
        return (w @ x) ** 3

    def backward(dy, x, w):
        dz = 3 * dy * (w @ x) ** 2
        return w.T @ dz, dz @ x.T

    check(forward, backward, point()[:2], methods=["jax.grad"], backend="jax").raise_if_wrong()
    assert not check(forward, lambda dy, x, w: (dy, dy @ x.T), point()[:2], methods=["jax.grad"]).ok


def test_tapes_dicts_tuples_integers_and_scalars():
    rng = np.random.default_rng(0)

    def forward(params, ids, scale):
        rows = params["table"][ids]
        return ({"rows": rows * scale, "total": rows.sum()}, rows), (params["table"].shape, ids, scale, rows)

    def backward(doutput, tape):
        (shape, ids, scale, rows) = tape
        above, drows = doutput
        dtable = np.zeros(shape)
        np.add.at(dtable, ids, above["rows"] * scale + above["total"] + drows)
        return {"table": dtable}, None, np.sum(above["rows"] * rows)

    inputs = [{"table": rng.normal(size=(5, 2))}, rng.integers(0, 5, (7,)), 1.5]
    report = check(forward, backward, inputs, tape=True)
    report.raise_if_wrong()
    assert {row.name for row in report.rows} == {"params.table", "scale"}


def test_a_single_input_takes_a_bare_gradient():
    check(np.sin, lambda dy, x: dy * np.cos(x), [np.array([0.1, 0.7])]).raise_if_wrong()


# ---- kinks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_kinks_beside_the_point_do_no_harm(seed):
    rng = np.random.default_rng(seed)

    def forward(x, w):
        return np.maximum(w @ x, 0), np.abs(x), np.max(x, axis=0)

    def backward(above, x, w):
        dz = above[0] * (w @ x > 0)
        return w.T @ dz + above[1] * np.sign(x) + above[2] * (x == x.max(axis=0)), dz @ x.T

    x = rng.normal(size=(11, 7))
    x[0, 0], x[1, 1] = 1e-4, -1e-5  # within the first step
    check(forward, backward, [x, rng.normal(size=(13, 11))], seed=seed, elementwise=200).raise_if_wrong()


def test_at_a_kink_there_is_no_derivative():
    report = check(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0), [np.array([1.0, 0.0, -1.0])])
    assert not report.ok
    assert report.rows[-1].where == (1,)


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_float32_inside_is_reported_and_does_not_pass(size):
    def forward(x):
        return np.sin(x).astype("float32").astype("float64") + size * np.float32(1), np.sum(x)

    x = [np.array([0.1, 0.7])]
    right = check(forward, lambda dy, x: dy[0] * np.cos(x) + dy[1], x)
    assert not right.ok
    assert "moves in steps" in str(right)
    assert not check(forward, lambda dy, x: np.full_like(x, dy[1]), x).ok  # as small steps would have it


def test_noise_is_reported_and_does_not_pass():
    rng = np.random.default_rng(0)
    report = check(lambda x: np.sin(x) + 1e-8 * rng.normal(), lambda dy, x: dy * np.cos(x), [np.array([0.1, 0.7])])
    assert not report.ok
    assert "do not settle" in str(report)


# ---- planted errors: functions -------------------------------------------------------------


def one_element(g):
    g = g.copy()
    g[0, 0] = g[0, 0] * 1.001
    return g


def first_column(g):
    g = g.copy()
    g[:, 1:] = 0
    return g


def with_nan(g):
    g = g.copy()
    g[-1, -1] = np.nan
    return g


# What each does to a gradient of two axes.
PLANTED: dict[str, Callable] = {
    "wrong sign": lambda g: -g,
    "factor 2": lambda g: 2 * g,
    "factor 0.5": lambda g: g / 2,
    "zero": np.zeros_like,
    "relative 1e-5": lambda g: g * (1 + 1e-5),
    "relative 1e-5 in one column": lambda g: g * (1 + 1e-5 * (np.arange(g.shape[1]) == 0)),
    "one element": one_element,
    "first column only": first_column,
    "constant added": lambda g: g + 1e-4,
    "rolled": lambda g: np.roll(g, 1, axis=0),
    "reversed": lambda g: g[::-1],
    "NaN": with_nan,
    "infinite": lambda g: np.full_like(g, -np.inf),
    "axis more": lambda g: g[None],
    "axis less": lambda g: g.sum(axis=0),
    "flat": np.ravel,
    "float32": lambda g: g.astype("float32"),
    "missing": lambda g: None,
}


@pytest.mark.parametrize("method", ["complex step", "differences"])
@pytest.mark.parametrize(
    ("error", "k"),
    [(e, k) for e in PLANTED for k in range(3) if (e, k) != ("first column only", 2)],  # b has one column
)
def test_a_planted_error_is_caught_and_named(error, k, method):
    def backward(dy, x, w, b):
        grads = list(network_backward(dy, x, w, b))
        wrong = PLANTED[error](grads[k])
        if wrong is not None and wrong.shape == grads[k].shape and np.array_equal(wrong, grads[k]):
            pytest.fail("nothing was planted")
        grads[k] = wrong
        return tuple(grads)

    report = check(network, backward, point(), methods=[method])
    assert not report.ok
    assert {row.name for row in report.rows if not row.ok} == {"xwb"[k]}
    assert report.worst.name == "xwb"[k]


@pytest.mark.parametrize("elementwise", [0, 100])
def test_a_transposed_square_weight_is_caught(elementwise):
    def backward(dy, x, w, b):
        dx, dw, db = network_backward(dy, x, w, b)
        return dx, dw.T, db

    def through(dy, x, w, b):
        dz = dy * (1 - network(x, w, b) ** 2)
        return w @ dz, dz @ x.T, dz.sum(axis=1, keepdims=True)

    assert not check(network, backward, point(), elementwise=elementwise).ok
    assert not check(network, through, point(), elementwise=elementwise).ok


def test_the_place_of_an_error_is_told():
    def backward(dy, x, w, b):
        dx, dw, db = network_backward(dy, x, w, b)
        dw[2, 1] += 1e-3
        return dx, dw, db

    report = check(network, backward, point())
    (row,) = [row for row in report.rows if not row.ok and row.where]
    assert (row.name, row.where) == ("w", (2, 1))
    assert row.absolute == pytest.approx(1e-3, rel=1e-4)
    assert "[2, 1]" in str(report)


def test_too_few_or_too_many_gradients_are_caught():
    few = check(network, lambda dy, *inputs: network_backward(dy, *inputs)[:2], point())
    assert [row.name for row in few.rows if not row.ok] == ["b"]
    many = check(network, lambda dy, *inputs: (*network_backward(dy, *inputs), dy), point())
    assert not many.ok
    with pytest.raises(TypeError, match="expected 3 gradients"):
        check(network, lambda dy, *inputs: dy, point())


def test_a_changed_argument_is_caught():
    def forward(x):
        return x * x

    def backward(dy, x):
        gradient = 2 * dy * x
        x *= 2
        return gradient

    report = check(forward, backward, [np.array([1.0, 3.0])])
    assert [row.note for row in report.rows if not row.ok] == ["an argument was changed"]


def test_an_ignored_output_is_caught():
    def forward(x):
        return np.sin(x), np.cumsum(x)

    assert not check(forward, lambda above, x: above[0] * np.cos(x), [np.array([0.1, 0.7])]).ok


# ---- planted errors: layers ----------------------------------------------------------------


class WrongSign(RNNCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, _, (dh,) = super().step_backward(xp, params, residual, dstate)
        return dz, dz, (-dh,)


class Transposed(RNNCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, _, _ = super().step_backward(xp, params, residual, dstate)
        return dz, dz, (params["weight_hh"] @ dz,)


class NoDerivative(RNNCell):
    def step_backward(self, xp, params, residual, dstate):
        return dstate[0], dstate[0], (params["weight_hh"].mT @ dstate[0],)


class FirstStepOnly(RNNCell):
    def weight_gradients(self, xp, params, x, residuals, dpre, drec):
        first = type(residuals)(*(part[:1] for part in residuals))
        return super().weight_gradients(xp, params, x[:1], first, dpre[:1], drec[:1])


class UnshiftedState(RNNCell):
    def recurrent_gradients(self, xp, residuals, drec):
        return super().recurrent_gradients(xp, residuals._replace(h_prev=residuals.h), drec)


class NothingThroughTime(RNNCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, drec, (dh,) = super().step_backward(xp, params, residual, dstate)
        return dz, drec, (xp.zeros_like(dh),)


class BiasTwice(RNNCell):
    def weight_gradients(self, *arguments):
        grads = super().weight_gradients(*arguments)
        return grads | {"bias_hh": 2 * grads["bias_hh"]}


class MeanOverBatch(RNNCell):
    def weight_gradients(self, xp, params, x, residuals, dpre, drec):
        grads = super().weight_gradients(xp, params, x, residuals, dpre, drec)
        return {name: g / x.shape[2] for name, g in grads.items()}


class CellGradientDropped(LSTMCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, drec, (dh, dc) = super().step_backward(xp, params, residual, dstate)
        return dz, drec, (dh, xp.zeros_like(dc))


class CellNotThroughOutput(LSTMCell):
    def step_backward(self, xp, params, residual, dstate):
        flat = residual._replace(tanh_c=residual.tanh_c * 0 + 1)  # 1 - tanh(c)^2 = 0
        dz, _, (_, dc) = super().step_backward(xp, params, flat, dstate)
        right = super().step_backward(xp, params, residual, dstate)
        return dz, dz, (right[2][0], dc)


class GatesSwapped(LSTMCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, _, (dh, dc) = super().step_backward(xp, params, residual._replace(i=residual.f, f=residual.i), dstate)
        return dz, dz, (dh, dc)


class OneGateOff(LSTMCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, _, states = super().step_backward(xp, params, residual, dstate)
        factor = 1 + 1e-5 * (np.arange(dz.shape[0]) < dz.shape[0] // 4)[:, None]
        return dz * factor, dz * factor, states


class StatesSwapped(LSTMCell):
    def step_backward(self, xp, params, residual, dstate):
        dz, drec, (dh, dc) = super().step_backward(xp, params, residual, dstate)
        return dz, drec, (dc, dh)


class OneOperand(GRUCell):
    def step_backward(self, xp, params, residual, dstate):
        dp, _, states = super().step_backward(xp, params, residual, dstate)
        return dp, dp, states  # as if no reset gate stood between the biases


class ResetNotDerived(GRUCell):
    def step_backward(self, xp, params, residual, dstate):
        return super().step_backward(xp, params, residual._replace(operand=residual.operand * 0), dstate)


class UpdateGateInverted(GRUCell):
    def step_backward(self, xp, params, residual, dstate):
        return super().step_backward(xp, params, residual._replace(z=1 - residual.z), dstate)


LAYERS = {RNNCell: pr.RNN, LSTMCell: pr.LSTM, GRUCell: pr.GRU}
WRONG_CELLS = [
    WrongSign,
    Transposed,
    NoDerivative,
    FirstStepOnly,
    UnshiftedState,
    NothingThroughTime,
    BiasTwice,
    MeanOverBatch,
    CellGradientDropped,
    CellNotThroughOutput,
    GatesSwapped,
    OneGateOff,
    StatesSwapped,
    OneOperand,
    ResetNotDerived,
    UpdateGateInverted,
]


def layer_with(cell_type):
    base = LAYERS[next(c for c in LAYERS if issubclass(cell_type, c))]

    @dataclass(frozen=True)
    class Planted(base):
        @property
        def cell(self):
            return cell_type()

    return Planted(2, 5)


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("cell", WRONG_CELLS, ids=lambda c: c.__name__)
def test_a_cell_with_a_planted_error_is_caught(cell, lengths):
    for method in ("complex step", "differences"):
        report = check_layer(layer_with(cell), lengths=lengths, methods=[method], elementwise=0)
        assert not report.ok, method


@pytest.mark.skipif(not JAX, reason="JAX is not installed")
@pytest.mark.parametrize("cell", [WrongSign, CellGradientDropped, OneOperand], ids=lambda c: c.__name__)
def test_a_cell_with_a_planted_error_is_caught_by_jax(cell):
    assert not check_layer(layer_with(cell), methods=["jax.grad"]).ok


def test_a_subclass_without_an_error_passes():
    class Same(LSTMCell):
        pass

    check_layer(layer_with(Same), lengths=True, methods=["complex step", "differences"]).raise_if_wrong()


def zero_first_steps(grads):
    x = grads.x.copy()
    x[1:] = 0
    return grads._replace(x=x)


WRONG_BACKWARD: dict[str, Callable] = {
    "x zero": lambda g: g._replace(x=np.zeros_like(g.x)),
    "x of the first step only": zero_first_steps,
    "x 1e-5": lambda g: g._replace(x=g.x * (1 + 1e-5)),
    "x float32": lambda g: g._replace(x=g.x.astype("float32")),
    "x shape": lambda g: g._replace(x=np.moveaxis(g.x, 0, 1)),
    "x NaN": lambda g: g._replace(x=g.x + np.where(np.arange(g.x.shape[0]) == 3, np.nan, 0)[:, None, None]),
    "x missing": lambda g: g._replace(x=None),
    "state zero": lambda g: g._replace(state=tuple(np.zeros_like(s) for s in g.state)),
    "states swapped": lambda g: g._replace(state=g.state[::-1]),
    "state missing": lambda g: g._replace(state=None),
    "one parameter missing": lambda g: g._replace(params={k: v for k, v in g.params.items() if "bias_hh" not in k}),
    "one parameter too many": lambda g: g._replace(params=g.params | {"weight_hr_l0": g.x}),
    "parameter zero": lambda g: g._replace(params=g.params | {"bias_ih_l0": 0 * g.params["bias_ih_l0"]}),
    "parameters swapped": lambda g: g._replace(params=g.params | {"bias_ih_l0": g.params["bias_ih_l0"][::-1]}),
}


@pytest.mark.parametrize("error", WRONG_BACKWARD)
def test_a_layer_with_a_wrong_backward_is_caught(error):
    @dataclass(frozen=True)
    class Planted(pr.LSTM):
        def backward(self, tape, dy=None, dstate=None):
            return WRONG_BACKWARD[error](super().backward(tape, dy, dstate))

    @dataclass(frozen=True)
    class Right(pr.LSTM):
        def backward(self, tape, dy=None, dstate=None):
            return super().backward(tape, dy, dstate)

    check_layer(Right(2, 5), methods=["complex step"]).raise_if_wrong()
    report = check_layer(Planted(2, 5), methods=["complex step"])
    assert not report.ok
    with pytest.raises(WrongGradient, match="WRONG"):
        report.raise_if_wrong()


@pytest.mark.parametrize("part", ["dy", "dstate"])
def test_an_ignored_upstream_gradient_is_caught(part):
    @dataclass(frozen=True)
    class Planted(pr.GRU):
        def backward(self, tape, dy=None, dstate=None):
            return super().backward(tape, **({"dy": dy, "dstate": dstate} | {part: None}))

    assert not check_layer(Planted(2, 5), methods=["complex step"]).ok


@pytest.mark.parametrize("what", ["outputs", "padding"])
def test_padding_that_leaks_is_caught(what):
    @dataclass(frozen=True)
    class Planted(pr.Linear):
        def backward(self, tape, dy=None, dstate=None):
            if what == "outputs":  # the upstream gradient in the padding counts
                return super().backward(tape._replace(valid=None), dy, dstate)
            grads = super().backward(tape, dy, dstate)
            return grads if tape.valid is None else grads._replace(x=grads.x + 1e-6 * ~tape.valid[..., None])

    assert check_layer(Planted(2, 5), methods=["complex step"]).ok
    assert not check_layer(Planted(2, 5), lengths=True, methods=["complex step"]).ok


def test_a_wrong_loss_is_caught():
    rng = np.random.default_rng(0)
    prediction, target, mask = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3, 5)), rng.random((4, 3)) < 0.5

    def doubled(prediction, target, mask=None):
        value, gradient = losses.mean_squared_error(prediction, target, mask=mask)
        return value, 2 * gradient

    def unmasked(prediction, target, mask=None):
        value, _ = losses.mean_squared_error(prediction, target, mask=mask)
        return value, losses.mean_squared_error(prediction, target).gradient

    assert not check_loss(doubled, prediction, target, methods=["differences"]).ok
    assert not check_loss(unmasked, prediction, target, mask=mask, methods=["differences"]).ok


def test_float32_is_held_against_float64():
    @dataclass(frozen=True)
    class Planted(pr.LSTM):
        def backward(self, tape, dy=None, dstate=None):
            grads = super().backward(tape, dy, dstate)
            return grads._replace(x=grads.x * np.float32(1.001))

    check_layer(pr.LSTM(3, 5), dtype="float32", methods=["complex step"]).raise_if_wrong()
    assert not check_layer(Planted(3, 5), dtype="float32", methods=["complex step"]).ok


# ---- planted errors: step -----------------------------------------------------------------

STEPPING = "step by step"


def without_state(step, params, x, state):
    return step(params, x)


def standing_still(step, params, x, state):
    return step(params, x, state)[0], state


def states_swapped(step, params, x, state):
    y, state = step(params, x, state)
    return y, state[::-1]


def one_state_of_two(step, params, x, state):
    y, (h, _) = step(params, x, state)
    return y, (h, state[1])


def a_little_off(step, params, x, state):
    y, state = step(params, x, state)
    return y * (1 + 1e-9), state


def with_a_time_axis(step, params, x, state):
    y, state = step(params, x, state)
    return y[None], state


def in_float32(step, params, x, state):
    y, state = step(params, x, state)
    return y.astype("float32"), state


# What each does to an LSTM's step, and the rows that must tell.
ALL = {"outputs", "final state.0", "final state.1"}
WRONG_STEPS: dict[Callable, set[str]] = {
    without_state: ALL,
    standing_still: ALL,
    states_swapped: ALL,
    one_state_of_two: ALL,
    a_little_off: {"outputs"},
    with_a_time_axis: {"outputs"},
    in_float32: {"outputs"},
}


def stepping(wrong):
    @dataclass(frozen=True)
    class Planted(pr.LSTM):
        def step(self, params, x, state=None):
            return wrong(super().step, params, x, state)

    return Planted


@pytest.mark.parametrize("wrong", WRONG_STEPS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_step_is_caught(wrong):
    report = check_layer(stepping(wrong)(2, 5), methods=["complex step"])
    assert {row.name for row in report.rows if not row.ok} == WRONG_STEPS[wrong]
    assert {row.method for row in report.rows if not row.ok} == {STEPPING}
    assert report.of("complex step").ok
    model = pr.Sequential(head=pr.Linear(2, 3), dropout=pr.Dropout(0.4), lstm=stepping(wrong)(3, 5))
    report = check_layer(model, lengths=True, methods=["complex step"])
    assert {row.method for row in report.rows if not row.ok} == {STEPPING}


def test_a_right_step_passes_whatever_the_size_and_dtype():
    def right(step, params, x, state):
        return step(params, x, state)

    small = {"methods": ["complex step"], "lengths": True}
    for layer in (stepping(right)(2, 5), pr.GRU(2, 5), pr.Sequential(pr.Embedding(7, 2), pr.RNN(2, 3))):
        for dtype in ("float64", "float32"):
            report = check_layer(layer, dtype=dtype, **small)
            report.raise_if_wrong()
            assert STEPPING in {row.method for row in report.rows}
    wide = check_layer(pr.RNN(64, 64), steps=60, methods=["differences"], elementwise=0).of(STEPPING)
    wide.raise_if_wrong()


def test_what_has_no_states_or_no_step():
    assert check_layer(pr.Linear(2, 5), methods=["complex step"]).of(STEPPING).rows == ()

    @dataclass(frozen=True)
    class Whole(pr.GRU):
        def step(self, params, x, state=None):
            raise NotImplementedError

    report = check_layer(Whole(2, 5), methods=["complex step"])
    report.raise_if_wrong()
    assert report.skipped == {STEPPING: "there is no `step`"}


# ---- agreement -----------------------------------------------------------------------------


def test_agreement_says_that_it_is_no_proof():
    report = compare_backends(pr.GRU(3, 5), backends=["numpy"], lengths=True)
    report.raise_if_wrong()
    assert "not proof" in str(report)
    assert {row.method for row in report.rows} == {"numpy float64", "numpy float32"}
    assert any(row.name.endswith("outputs.0") for row in report.rows)


def test_agreement_sees_a_deviation_and_not_a_wrong_derivative():
    assert compare_backends(layer_with(WrongSign), backends=["numpy"]).ok  # equally wrong everywhere
    problem = capabilities.SUBJECTS[0].problem(0)

    def off(chosen, inputs, upstream):
        outputs, gradients = problem.by_hand(chosen, inputs, upstream)
        factor = 1 + 1e-3 * (inputs["x"].dtype == "float32")
        return outputs, gradients | {"x": gradients["x"] * inputs["x"].dtype.type(factor)}

    report = agree(dataclasses.replace(problem, by_hand=off), "numpy", "float32")
    assert [row.name for row in report.rows if not row.ok] == ["x"]


# ---- what it says, and what it refuses -----------------------------------------------------


def test_a_report_that_checked_nothing_is_not_ok():
    report = Report("nothing", ())
    assert not report.ok
    with pytest.raises(WrongGradient, match="nothing was checked"):
        report.raise_if_wrong()
    with pytest.raises(ValueError, match="nothing was checked"):
        report.worst  # noqa: B018


def test_nan_is_not_ok():
    assert not Row("x", "differences", relative=float("nan"), tolerance=1.0).ok


def test_a_report_reads_well():
    report = check_layer(pr.GRU(3, 5, bias=False), lengths=[7, 2, 0], methods=["complex step"])
    lines = str(report).splitlines()
    assert lines[0] == "GRU(3, 5, bias=False), lengths [7, 2, 0]: ok"
    assert lines[1].split() == ["input", "compared", "with", "absolute", "relative", "allowed", "at"]
    assert lines[2].split()[:3] == ["params.weight_ih_l0", "complex", "step"]


def test_what_cannot_run_is_listed_or_refused():
    layer = pr.RNN(3, 5, nonlinearity="relu")
    assert "complex step" in check_layer(layer, elementwise=0).skipped
    with pytest.raises(ValueError, match="'complex step' cannot be used for RNN"):
        check_layer(layer, methods=["complex step"])
    with pytest.raises(ValueError, match=r"no method 'magic'; expected some of jax.grad, complex step, differences"):
        check_layer(layer, methods=["magic"])
    with pytest.raises(ValueError, match="methods is empty"):
        check_layer(layer, methods=[])
    with pytest.raises(ValueError, match=r"cell='lstn'; expected one of rnn, lstm, gru"):
        check_textbook("lstn")
    with pytest.raises(ValueError, match="names has 2 entries for 3 inputs"):
        check(network, network_backward, point(), names=["x", "w"])
    with pytest.raises(ValueError, match="none of the inputs is floating"):
        check(np.negative, lambda dy, x: None, [np.arange(3)])


def test_a_gradient_that_is_rightly_zero_is_remarked():
    report = check(lambda x, y: x * x, lambda dy, x, y: (2 * dy * x, 0 * y), [np.ones(2), np.ones(3)])
    report.raise_if_wrong()
    assert any("does not reach" in row.note for row in report.rows if row.name == "y")


@pytest.mark.parametrize("elementwise", [0, 100])
@pytest.mark.parametrize("method", METHODS)
def test_where_every_reference_is_zero_nothing_was_checked(method, elementwise):
    def forward(x, w):
        return 0 * x + 0 * w

    report = check(
        forward, lambda dy, x, w: (0 * x, 0 * w), point()[1:2] * 2, methods=[method], elementwise=elementwise
    )
    assert not report.ok
    assert not any(row.ok for row in report.rows)
    assert "every reference is zero: nothing was compared" in str(report)
    almost = check(forward, lambda dy, x, w: (1e-16 * x, 0 * w), point()[1:2] * 2, methods=[method])
    assert not almost.ok
    with pytest.raises(WrongGradient, match="nothing was compared"):
        check_layer(pr.Linear(2, 5), lengths=[0, 0, 0], methods=["complex step"]).raise_if_wrong()


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), -1e-9])
def test_a_tolerance_that_lets_everything_pass_is_refused(tolerance):
    words = f"tolerance={tolerance}: expected a finite number >= 0, or None"
    with pytest.raises(ValueError, match=words):
        check(network, network_backward, point(), tolerance=tolerance)
    with pytest.raises(ValueError, match=words):
        check_layer(pr.Linear(2, 5), tolerance=tolerance)
    with pytest.raises(ValueError, match=words):
        check_textbook("rnn", tolerance=tolerance)
    with pytest.raises(ValueError, match=words):
        check_loss(losses.mean_squared_error, np.ones(3), np.zeros(3), tolerance=tolerance)
    with pytest.raises(TypeError, match="tolerance='a': expected a finite number"):
        check(network, network_backward, point(), tolerance="a")


def test_tolerances_are_far_below_the_errors_that_are_planted():
    assert max(limit for (_, dtype), limit in TOLERANCES.items() if dtype == "float64") < 1e-7


# ---- the table of capabilities -------------------------------------------------------------


def test_the_table_names_every_cell_option_and_module():
    names = [subject.name for subject in capabilities.SUBJECTS]
    assert len(set(names)) == len(names)
    modules = {type(subject.module) for subject in capabilities.SUBJECTS if subject.module}
    assert modules == {pr.RNN, pr.LSTM, pr.GRU, pr.Embedding, pr.Linear, pr.Dropout, pr.Pool, pr.Sequential}
    assert set(capabilities.BACKENDS) == set(pr.available_backends())
    assert {name for subject in capabilities.SUBJECTS for name in subject.unsupported} <= set(capabilities.BACKENDS)


def test_the_readme_holds_the_table():
    begin, end = "<!-- capabilities -->", "<!-- /capabilities -->"
    text = README.read_text("utf-8")
    assert text.count(begin) == 1
    assert text.count(end) == 1
    inside = text.partition(begin)[2].partition(end)[0]
    assert inside.strip() == capabilities.markdown(), "paste the output of `python -m polyrnn.capabilities` there"
