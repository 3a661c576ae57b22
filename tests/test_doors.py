"""Doors beside each other: layouts, masks of valid steps and learned states through training and `Sequential`."""

import warnings

import numpy as np
import pytest
from subjects import near

import polyrnn as pr
from polyrnn.training import initial_state

T = N = 4  # equal on purpose: a mix-up of the axes is then no error of shape
LENGTHS = [4, 0, 3, 2]


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((T, N, 3)), rng.standard_normal((T, N, 5))


def turned(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.swapaxes(0, 1).copy() for a in arrays]


@pytest.mark.parametrize("form", ["lengths", "mask"])
def test_a_loss_over_lengths_is_the_same_batch_first(batch, form):
    found = []
    for first in (False, True):
        layer = pr.LSTM(3, 5, batch_first=first)
        params = layer.init(seed=0, dtype="float64")
        x, target = turned(*batch) if first else batch
        valid = np.arange(T)[:, None] < np.asarray(LENGTHS)
        lengths = LENGTHS if form == "lengths" else valid.T if first else valid
        value, grads = pr.value_and_grad(layer, pr.mean_squared_error)(params, x, target, lengths=lengths)
        found.append((float(value), grads["weight_hh_l0"]))
    near(found[0][0], found[1][0], "same", "value")
    near(found[0][1], found[1][1], "same", "weight_hh_l0")


@pytest.mark.parametrize("form", ["lengths", "mask"])
@pytest.mark.parametrize("how", [None, "last", "mean", "max"])
def test_a_sequential_takes_lengths_in_either_layout(batch, how, form):
    ids, labels = np.random.default_rng(7).integers(0, 7, (T, N)), np.arange(T * N).reshape(T, N) % 2
    found = []
    for first in (False, True):
        inner = [pr.GRU(3, 5, batch_first=first), *([pr.Pool(how, batch_first=first)] if how else [])]
        model = pr.Sequential(pr.Embedding(7, 3), pr.Sequential(*inner), pr.Linear(5, 2))
        params = model.init(seed=0, dtype="float64")
        valid = np.arange(T)[:, None] < np.asarray(LENGTHS)
        lengths = LENGTHS if form == "lengths" else valid.T if first else valid
        x, targets = turned(ids, labels) if first else (ids, labels)
        targets = labels[0] if how else targets
        found.append(pr.value_and_grad(model, pr.softmax_cross_entropy)(params, x, targets, lengths=lengths))
    assert abs(found[0][0] - found[1][0]) < 1e-14
    for name, gradient in found[0][1].items():
        assert np.abs(gradient).max() > 1e-6
        np.testing.assert_allclose(found[1][1][name], gradient, atol=1e-14)


def test_a_sequential_takes_a_mask_of_valid_steps(batch):
    model = pr.Sequential(inner=pr.LSTM(3, 5, bidirectional=True), head=pr.Linear(10, 2))
    params = model.init(seed=0, dtype="float64")
    valid = np.arange(T)[:, None] < np.asarray(LENGTHS)
    y, _ = model(params, batch[0], lengths=valid)
    np.testing.assert_array_equal(y, model(params, batch[0], lengths=LENGTHS)[0])
    assert not y[~valid].any()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_training_step_of_either_layout(batch, first, backend):
    if not pr.available_backends()[backend].available:
        pytest.skip(f"{backend} cannot run here")
    layer = pr.GRU(3, 5, batch_first=first)
    B = pr.backend(backend)
    x, target = turned(*(a[:3] for a in batch)) if first else [a[:3] for a in batch]
    params = layer.init(seed=0, backend=B)
    optimizer = pr.Adam(0.01)
    step = pr.train_step(layer, pr.mean_squared_error, optimizer)
    done = step(params, optimizer.init(params), *B.asarray((x, target), dtype="float32"))
    assert tuple(done.state.shape) == (1, N, 5)
    assert float(done.value) > 0


@pytest.mark.parametrize("first", [False, True])
def test_the_initial_state_of_every_form_of_input(batch, first):
    layer = pr.GRU(3, 5, batch_first=first)
    model = pr.Sequential(table=pr.Embedding(7, 3), inner=layer)
    params, own = layer.init(seed=0), model.init(seed=0)
    x = batch[0][:, :3].astype("float32")  # T and N differ here: 4 and 3
    x = x.swapaxes(0, 1) if first else x
    assert initial_state(layer, params, x).shape == (1, 3, 5)
    assert initial_state(layer, params, x[0]).shape == (1, 5)  # one sequence
    ids = np.zeros(x.shape[:2], "int64")
    assert initial_state(model, own, ids)[1].shape == (1, 3, 5)


def test_a_training_step_learns_the_initial_state(batch):
    for model in (
        pr.GRU(3, 5, learned_state=True),
        pr.Sequential(inner=pr.GRU(3, 5, learned_state=True), head=pr.Linear(5, 5)),
    ):
        params = model.init(seed=0, dtype="float64")
        optimizer = pr.SGD(0.1)
        done = pr.train_step(model, pr.mean_squared_error, optimizer)(params, optimizer.init(params), *batch)
        name = next(name for name in params if name.endswith("state_h_l0"))
        assert not params[name].any() and done.params[name].all()


@pytest.mark.parametrize("make", [pr.RNN, pr.LSTM, pr.GRU])
def test_after_no_steps_nothing_returned_is_an_argument(make):
    layer = make(3, 5)
    params, x = layer.init(seed=0), np.ones((0, 2, 3), "float32")
    h, dh = np.ones((1, 2, 5), "float32"), np.ones((1, 2, 5), "float32")
    state, dstate = ((h, h), (dh, dh)) if make is pr.LSTM else (h, dh)
    _, end, tape = layer.forward(params, x, state)
    before = layer.backward(tape, dstate=dstate).state
    for part in pr.backends.leaves((end, before, layer(params, x, state)[1])):
        assert not np.shares_memory(part, h) and not np.shares_memory(part, dh)


def test_kernels_are_switched_by_a_statement_too():
    with pr.use_kernels(True):
        assert pr.kernels_in_use()
        pr.use_kernels(False)
        assert not pr.kernels_in_use()
        pr.use_kernels(True)
        with pr.use_kernels(False):
            assert not pr.kernels_in_use()
        assert pr.kernels_in_use()


def test_a_parameter_that_is_none_and_an_initializer_that_is_nonsense():
    layer = pr.LSTM(3, 5)
    params, x = layer.init(), np.ones((2, 1, 3), "float32")
    with pytest.raises(TypeError, match=r"params\['bias_hh_l0'\] is NoneType"):
        layer(params | {"bias_hh_l0": None}, x)
    with pytest.raises(ValueError, match=r"initializer=\[\]: expected one of 'pytorch'"):
        pr.LSTM(3, 5, initializer=[])
    for wrong in (lambda g, cell, shapes, H: dict.fromkeys(shapes, np.zeros(1)), lambda *_: 3):
        with pytest.raises(ValueError, match="expected arrays of shapes"):
            pr.LSTM(3, 5, initializer=wrong).init()


@pytest.mark.parametrize("make", [pr.RNN, pr.LSTM, pr.GRU])
def test_a_warning_names_the_line_of_the_user(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(3, 5, dropout=0.5)
    assert [w.filename for w in caught] == [__file__]
