"""Losses and gradients of whole models, the update, and the mean over a text, on every subject."""

import math

import numpy as np
import pytest
import subjects
from subjects import near

import polyrnn as pr
from polyrnn import masks
from polyrnn.data import evaluation_windows
from polyrnn.training import evaluate, initial_state, train_step, value_and_grad

V, E, H, T, N = 11, 5, 7, 6, 3

# An update is jitted by itself, so that one way to run JAX is enough.
each_once = subjects.tagged("concrete")


def language_model(dropout=0.0):
    between = [pr.Dropout(dropout)] if dropout else []
    return pr.Sequential(pr.Embedding(V, E), *between, pr.LSTM(E, H), pr.Linear(H, V))


def ids(rng, *shape):
    return rng.integers(0, V, shape).astype("int32")


def host(model, dtype="float64"):
    return model.init(seed=3, backend="numpy", dtype=dtype)


def start(subject, model, dtype="float64"):
    return subject.array(host(model, dtype))


def of_model(subject, model, loss, **options):
    """value_and_grad as this subject runs it: inside jit where its tags say so."""
    return subject.function(value_and_grad(model, loss, **options))


def test_the_gradient_agrees_with_differences(subject, rng):
    model = language_model()
    params = host(model)
    x, y = ids(rng, T, N), ids(rng, T, N)
    call = of_model(subject, model, pr.softmax_cross_entropy)
    value, grads = call(subject.array(params), subject.array(x), subject.array(y))

    direction = {name: rng.standard_normal(p.shape) for name, p in params.items()}

    def moved(by):
        there = {name: p + by * direction[name] for name, p in params.items()}
        return float(pr.softmax_cross_entropy(model(there, x)[0], y).value)

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    found = sum(float((subject.host(grads[name]) * direction[name]).sum()) for name in params)
    assert abs(slope) > 0.01
    assert found == pytest.approx(slope, rel=2e-8)  # measured: 2.3e-9
    near(float(value), moved(0.0), "same", "value")
    assert grads.keys() == params.keys()


def test_the_loss_counts_the_steps_within_lengths(subject, rng):
    model = language_model()
    params = start(subject, model)
    x, y = ids(rng, T, N), ids(rng, T, N)
    lengths = np.asarray([4, 0, 6])
    padded_x, padded_y = x.copy(), y.copy()
    for n, length in enumerate(lengths):
        padded_x[length:, n] = padded_y[length:, n] = 0
    call = of_model(subject, model, pr.softmax_cross_entropy)
    value, grads = call(params, subject.array(padded_x), subject.array(padded_y), lengths=subject.array(lengths))

    # The same from the sequences one by one, each without padding.
    alone = value_and_grad(model, pr.softmax_cross_entropy)
    plain = host(model)
    parts = [(length, *alone(plain, x[:length, n : n + 1], y[:length, n : n + 1])) for n, length in enumerate(lengths)]
    near(float(value), sum(w * float(v) for w, v, _ in parts) / lengths.sum(), "same", "value")
    for name in plain:
        expected = sum(w * g[name] for w, _, g in parts) / lengths.sum()
        near(subject.host(grads[name]), expected, "same", name)


def test_the_final_state_comes_along(subject, rng):
    model = language_model()
    x, y = ids(rng, T, N), ids(rng, T, N)
    call = of_model(subject, model, pr.softmax_cross_entropy, has_aux=True)
    (value, state), grads = call(start(subject, model), subject.array(x), subject.array(y))
    plain, plain_grads = value_and_grad(model, pr.softmax_cross_entropy)(host(model), x, y)
    near(float(value), float(plain), "same", "value")
    assert grads.keys() == plain_grads.keys()
    h, c = model(host(model), x)[1][1]
    near(subject.host(state[1][0]), h, "same", "h")
    near(subject.host(state[1][1]), c, "same", "c")


@each_once
def test_a_step_is_gradient_clipping_and_update(subject, rng):
    model, optimizer, clip = language_model(), pr.Adam(0.05), 0.01
    x, y, params, before = ids(rng, T, N), ids(rng, T, N), start(subject, model), host(model)
    step = train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=clip)
    made = step(params, optimizer.init(params), subject.array(x), subject.array(y))

    (value, state), grads = value_and_grad(model, pr.softmax_cross_entropy, has_aux=True)(before, x, y)
    clipped, norm = pr.clip_by_global_norm(grads, clip)
    updates, _ = optimizer.update(clipped, optimizer.init(before), before)
    assert float(norm) > clip
    near(float(made.value), float(value), "same", "value")
    near(float(made.norm), float(norm), "same", "norm")
    for name, expected in pr.apply_updates(before, updates).items():
        near(subject.host(made.params[name]), expected, "same", name)
    near(subject.host(made.state[1][0]), state[1][0], "same", "h")
    assert all((subject.host(params[name]) == old).all() for name, old in before.items()), "an argument was modified"


@each_once
def test_training_lowers_the_loss(subject):
    model = language_model()
    optimizer = pr.Adam(pr.CosineDecay(0.05, 40))
    text = subject.array((np.arange(T * 2 + 1)[:, None] * [1, 2, 3] % V).astype("int32"))
    params = start(subject, model, "float32")
    optimizer_state = optimizer.init(params)
    step = train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=1.0)
    losses = []
    for _ in range(40):
        params, optimizer_state, _, value, _ = step(params, optimizer_state, text[:-1, ...], text[1:, ...])
        losses.append(float(value))
    assert losses[0] == pytest.approx(math.log(V), rel=0.2)
    assert losses[-1] < 0.5 * losses[0]


@each_once
def test_the_state_carries_a_sequence_on(subject, rng):
    model, still = language_model(), pr.SGD(0.0)
    x, y, params = ids(rng, 2 * T, N), ids(rng, 2 * T, N), start(subject, model)
    step = train_step(model, pr.softmax_cross_entropy, still)
    first = step(params, still.init(params), subject.array(x[:T]), subject.array(y[:T]))
    second = step(first.params, first.optimizer_state, subject.array(x[T:]), subject.array(y[T:]), first.state)
    logits, whole = model(host(model), x)
    expected = float(pr.softmax_cross_entropy(logits, y).value)
    near((float(first.value) + float(second.value)) / 2, expected, "same", "value")
    near(subject.host(second.state[1][1]), whole[1][1], "same", "c")
    assert int(second.optimizer_state.count) == 2


@each_once
def test_dropout_draws_anew_at_every_step(subject, rng):
    model, still, seed = language_model(dropout=0.5), pr.SGD(0.0), 2**40 + 7
    x, y, params = ids(rng, T, N), ids(rng, T, N), start(subject, model)
    step = train_step(model, pr.softmax_cross_entropy, still)
    state, values = still.init(params), []
    for _ in range(3):
        _, state, _, value, _ = step(params, state, subject.array(x), subject.array(y), seed=seed)
        values.append(float(value))
    gradient = value_and_grad(model, pr.softmax_cross_entropy)
    for count, value in enumerate(values):  # the same masks on every backend
        expected, _ = gradient(host(model), x, y, seed=masks.fold(np, seed, count))
        near(value, float(expected), "same", "value")
    assert len(set(values)) == 3
    plain = step(params, still.init(params), subject.array(x), subject.array(y)).value
    near(float(plain), float(gradient(host(model), x, y)[0]), "same", "value")


@each_once
def test_the_mean_over_a_text_does_not_depend_on_the_windows(subject, rng):
    model = language_model()
    params, text, streams = start(subject, model), ids(rng, 101), 4
    found = [
        evaluate(model, pr.softmax_cross_entropy, params, evaluation_windows(text, streams, time)) for time in (7, 25)
    ]
    length = -(-100 // streams)
    plain, losses = host(model), []
    for begin in range(0, 100, length):
        x, y = text[begin : begin + length, None], text[begin + 1 : begin + length + 1, None]
        losses.append(len(y) * float(pr.softmax_cross_entropy(model(plain, x)[0], y).value))
    near(found, [sum(losses) / 100] * 2, "same")


def test_nothing_to_evaluate_is_not_a_number():
    model = language_model()
    assert math.isnan(evaluate(model, pr.softmax_cross_entropy, model.init(), []))


@each_once
def test_the_initial_state_is_that_of_no_steps(subject, rng):
    model = pr.Sequential(pr.Embedding(V, E), pr.LSTM(E, H), pr.GRU(H, E))
    found = subject.host(initial_state(model, start(subject, model), subject.array(ids(rng, T, N))))
    assert found[0] is None
    assert [part.shape for part in (*found[1], found[2])] == [(1, N, H), (1, N, H), (1, N, E)]
    assert not any(part.any() for part in (*found[1], found[2]))


def counted(calls):
    """A loss that counts how often Python runs it: under a trace, once a compilation."""

    def loss(prediction, targets, mask=None):
        calls.append(targets.shape)
        return pr.softmax_cross_entropy(prediction, targets, mask)

    return loss


def test_jax_compiles_a_step_once(rng):
    pytest.importorskip("jax")
    backend, calls = pr.backend("jax"), []
    model, optimizer = language_model(dropout=0.5), pr.Adam(pr.CosineDecay(0.01, 10))
    step = train_step(model, counted(calls), optimizer, clip_norm=1.0)
    params, state = model.init(seed=3, backend=backend), None
    optimizer_state = optimizer.init(params)
    for k in range(4):
        x, y = backend.asarray(ids(rng, T, N)), backend.asarray(ids(rng, T, N))
        if k == 2:
            state = None  # a new epoch
        params, optimizer_state, state, _, _ = step(params, optimizer_state, x, y, state, seed=k)
    assert len(calls) == 1


def test_jax_compiles_an_evaluation_once(rng):
    pytest.importorskip("jax")
    calls = []
    model, loss = language_model(), counted(calls)
    for seed in (0, 1):
        evaluate(model, loss, model.init(seed, "jax"), evaluation_windows(ids(rng, 101), 2, 10))
    assert len(calls) == 1


@pytest.mark.parametrize("norm", [0.0, -1.0, math.inf, math.nan])
def test_a_clipping_norm_must_be_positive(norm):
    with pytest.raises(ValueError, match="clip_norm="):
        train_step(language_model(), pr.softmax_cross_entropy, pr.Adam(), clip_norm=norm)
    with pytest.raises(TypeError, match="clip_norm='1': expected a finite number > 0, or None"):
        train_step(language_model(), pr.softmax_cross_entropy, pr.Adam(), clip_norm="1")


def test_mixed_backends_are_refused(rng):
    pytest.importorskip("array_api_strict")
    model, optimizer = language_model(), pr.Adam()
    params, x = model.init(), ids(rng, T, N)
    step = train_step(model, pr.softmax_cross_entropy, optimizer)
    with pytest.raises(TypeError, match=r"numpy.* mixed|mixed.*numpy"):
        step(params, optimizer.init(params), x, pr.backend("array_api_strict").asarray(x))


def test_a_seed_needs_a_count_of_updates(rng):
    model, x = language_model(dropout=0.5), ids(rng, T, N)
    step = train_step(model, pr.softmax_cross_entropy, pr.SGD(0.1))
    with pytest.raises(TypeError, match="count"):
        step(model.init(), None, x, x, seed=0)
