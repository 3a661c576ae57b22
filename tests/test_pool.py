"""The reduction over time, and models that end in one answer for a sequence, on every subject."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import subjects
from subjects import near, tagged

import polyrnn as pr
from polyrnn.testing import unchanged

subject = subjects.without_kernels  # a pool has none

HOW = ("last", "mean", "max")
T, N, F = 7, 5, 3
LENGTHS = np.array([3, 7, 0, 1, 5])
WITHIN = np.arange(T)[:, None] < LENGTHS
GAPS = np.array(  # the first step, the last and several inside are missing; one sequence has none, one all
    [[0, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0, 0]],
    dtype=bool,
).T
STEPS = {"full": (None, np.ones((T, N), bool)), "lengths": (LENGTHS, WITHIN), "mask": (GAPS, GAPS)}
V, E, H, C = 11, 3, 5, 2


def reference(how: str, x: np.ndarray, valid: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y (N, F) and dx (T, N, F), entry by entry."""
    y, dx = np.zeros(x.shape[1:]), np.zeros(x.shape)
    for n in range(x.shape[1]):
        steps = [t for t in range(x.shape[0]) if valid[t, n]]
        for f in range(x.shape[2] if steps else 0):
            values = [x[t, n, f] for t in steps]
            if how == "last":
                y[n, f], dx[steps[-1], n, f] = values[-1], dy[n, f]
            elif how == "mean":
                y[n, f] = sum(values) / len(values)
                for t in steps:
                    dx[t, n, f] = dy[n, f] / len(values)
            else:
                y[n, f] = max(values)
                for t in steps:
                    dx[t, n, f] = dy[n, f] / values.count(max(values)) if x[t, n, f] == max(values) else 0.0
    return y, dx


def poison(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], x, np.nan)


def turned(array: Any, first: bool) -> Any:
    return array.swapaxes(0, 1) if first and array.ndim > 1 else array


@pytest.mark.parametrize(("first", "dtype"), [(False, "float64"), (True, "float64"), (True, "float32")])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("how", HOW)
def test_values_and_gradients(subject, rng, how, steps, first, dtype):
    given, valid = STEPS[steps]
    x, dy = (rng.standard_normal(s).astype(dtype).astype("float64") for s in ((T, N, F), (N, F)))
    y, dx = reference(how, x, valid, dy)
    dy[~valid.any(axis=0)] = np.nan  # nothing of a sequence without steps reaches anybody
    pool = subject.module(pr.Pool(how, batch_first=first))
    lengths = None if given is None else subject.array(turned(given, first))
    x, dx = turned(poison(x, valid), first), turned(dx, first)
    x, dy = subject.array((x, dy), dtype)
    with unchanged((x, dy, lengths)):
        found, state, tape = pool.forward({}, x, lengths=lengths)
        grads = pool.backward(tape, dy)
        again = pool.backward(tape, dy)
    assert state is None and grads.state is None and grads.params == {}
    subject.close(found, y, "forward", dtype)
    subject.close(grads.x, dx, "gradient", dtype)
    subject.equal(again.x, subject.host(grads.x), dtype)
    assert not subject.host(grads.x)[~turned(valid, first)].any()  # to the bit
    subject.equal(pool({}, x, lengths=lengths)[0], subject.host(found), dtype)
    if how != "mean":
        subject.equal(found, y.astype(dtype), dtype)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_one_sequence(subject, rng, how, first):
    x, dy = rng.standard_normal((T, F)), rng.standard_normal(F)
    y, dx = reference(how, x[:, None], np.ones((T, 1), bool), dy[None])
    pool = subject.module(pr.Pool(how, batch_first=first))
    found, _, tape = pool.forward({}, subject.array(x))
    subject.close(found, y[0], "forward", "float64")
    subject.close(pool.backward(tape, subject.array(dy)).x, dx[:, 0], "gradient", "float64")


@pytest.mark.parametrize("lengths", [None, np.zeros(N, int)], ids=["full", "lengths"])
@pytest.mark.parametrize("how", HOW)
def test_of_no_steps_comes_zero(subject, how, lengths):
    pool, dy = subject.module(pr.Pool(how)), subject.array(np.full((N, F), 3.0))
    lengths = None if lengths is None else subject.array(lengths)
    y, _, tape = pool.forward({}, subject.array(np.zeros((0, N, F))), lengths=lengths)
    subject.equal(y, np.zeros((N, F)), "float64")
    subject.equal(pool.backward(tape, dy).x, np.zeros((0, N, F)), "float64")
    first = subject.module(pr.Pool(how, batch_first=True))
    subject.equal(first({}, subject.array(np.zeros((N, 0, F))), lengths=lengths)[0], np.zeros((N, F)), "float64")
    subject.equal(pool({}, subject.array(np.zeros((T, 0, F))))[0], np.zeros((0, F)), "float64")
    subject.equal(pool({}, subject.array(np.zeros((0, F))))[0], np.zeros(F), "float64")


@pytest.mark.parametrize("steps", STEPS)
def test_steps_that_tie_for_the_maximum_share_its_gradient(subject, rng, steps):
    """And those of the padding that hold the same number do not."""
    given, valid = STEPS[steps]
    x, dy = rng.integers(-1, 2, (T, N, F)) * 0.1, rng.standard_normal((N, F))
    x[:, 0, 0] = -np.inf  # a maximum too
    y, dx = reference("max", x, valid, dy)
    assert ((dx != 0) & (dx != dy)).any()
    pool = subject.module(pr.Pool("max"))
    lengths = None if given is None else subject.array(given)
    for other in (poison(x, valid), np.where(valid[..., None], x, y)):
        found, _, tape = pool.forward({}, subject.array(other), lengths=lengths)
        subject.equal(found, y, "float64")
        subject.close(pool.backward(tape, subject.array(dy)).x, dx, "gradient", "float64")


@pytest.mark.parametrize("how", HOW)
def test_without_an_upstream_gradient(subject, rng, how):
    pool = subject.module(pr.Pool(how))
    *_, tape = pool.forward({}, subject.array(rng.standard_normal((T, N, F))))
    assert pool.backward(tape) == pr.Gradients({}, None, None)


@tagged("strided", kernels=False)
@pytest.mark.parametrize("how", HOW)
def test_strided_views(subject, rng, how):
    x, dy = rng.standard_normal((F, N, 2 * T)), rng.standard_normal((F, 2 * N))
    y, dx = reference(how, x[..., ::2].T, WITHIN, dy[:, ::2].T)
    pool = pr.Pool(how)
    view = subject.xp.permute_dims(subject.array(x)[..., ::2], (2, 1, 0))
    found, _, tape = pool.forward({}, view, lengths=subject.array(LENGTHS))
    above = subject.xp.permute_dims(subject.array(dy)[:, ::2], (1, 0))
    subject.close(found, y, "forward", "float64")
    subject.close(pool.backward(tape, above).x, dx, "gradient", "float64")


@tagged("jit", kernels=False)
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("how", HOW)
def test_jax_grad_agrees(subject, rng, how, steps, ties):
    """At ties too, and with NaN in the padding."""
    import jax

    given, valid = STEPS[steps]
    x = rng.integers(-1, 2, (T, N, F)).astype(float) if ties else rng.standard_normal((T, N, F))
    x, dy = subject.array((poison(x, valid), rng.standard_normal((N, F))))
    lengths = None if given is None else subject.array(given)
    pool = pr.Pool(how)
    dx = jax.jit(jax.grad(lambda x, lengths: (pool({}, x, lengths=lengths)[0] * dy).sum()))(x, lengths)
    *_, tape = pool.forward({}, x, lengths=lengths)
    subject.close(pool.backward(tape, dy).x, subject.host(dx), "gradient", "float64")


@tagged("jit", kernels=False)
@pytest.mark.parametrize("how", HOW)
def test_traced_lengths_are_clamped(subject, rng, how):
    x, pool = subject.array(rng.standard_normal((T, N, F))), subject.module(pr.Pool(how))
    found = pool({}, x, lengths=subject.array(np.array([99, 7, -3, 1, 0])))[0]
    wanted = pool({}, x, lengths=subject.array(np.array([7, 7, 0, 1, 0])))[0]
    subject.equal(found, subject.host(wanted), "float64")


# ---- in a model ------------------------------------------------------------------------------------------------


def classifier(how: str) -> pr.Sequential:
    return pr.Sequential(
        embedding=pr.Embedding(V, E),
        gru=pr.GRU(E, H, bidirectional=True),
        pool=pr.Pool(how),
        drop=pr.Dropout(0.4),
        head=pr.Linear(2 * H, C),
    )


def drawn(rng: np.random.Generator, model: pr.Sequential) -> tuple[dict, np.ndarray, np.ndarray]:
    params = {k: 0.5 * rng.standard_normal(s) for k, s in model.shapes().items()}
    return params, rng.integers(0, V, (T, N)), rng.integers(0, C, N)


@pytest.mark.parametrize("how", HOW)
def test_a_classifier_sees_each_sequence_as_if_it_were_alone(subject, rng, how):
    """The loss over (N,) labels, and its gradient, are the means of those of the sequences without their padding."""
    model = classifier(how)
    params, ids, labels = drawn(rng, model)
    call = subject.function(pr.value_and_grad(model, pr.softmax_cross_entropy))
    value, grads = call(*subject.array((params, np.where(WITHIN, ids, 0), labels)), lengths=subject.array(LENGTHS))
    alone = pr.value_and_grad(model, pr.softmax_cross_entropy)
    parts = [alone(params, ids[:length, n : n + 1], labels[n : n + 1]) for n, length in enumerate(LENGTHS)]
    near(float(value), sum(float(v) for v, _ in parts) / N, "same")
    expected = {name: sum(g[name] for _, g in parts) / N for name in params}
    subject.close(grads, expected, "same", "float64")


@pytest.mark.parametrize("how", HOW)
def test_a_regression_counts_the_sequences_that_a_mask_names(subject, rng, how):
    """Each sequence counts, unless the loss has a mask (N,) of its own."""
    model, counts = classifier(how), LENGTHS > 0
    params, ids, _ = drawn(rng, model)
    target = rng.standard_normal((N, C))
    call = subject.function(pr.value_and_grad(model, pr.mean_squared_error))
    arguments = subject.array((params, ids, target))
    value, grads = call(*arguments, lengths=subject.array(LENGTHS), mask=subject.array(counts))
    kept = call(*arguments[:1], *subject.array((ids[:, counts], target[counts], None, LENGTHS[counts])))
    near(float(value), float(kept[0]), "same")
    subject.close(grads, subject.host(kept[1]), "same", "float64")


@pytest.mark.parametrize("how", HOW)
def test_a_classifier_with_final_states_alone(subject, rng, how):
    """No gradient of the output: the layer below still gets that of its state."""
    model = classifier(how)
    params, ids, _ = drawn(rng, model)
    _, end, tape = model.forward(*subject.array((params, ids)), lengths=subject.array(LENGTHS))
    dend = rng.standard_normal((2, N, H))
    grads = model.backward(tape, None, (None, subject.array(dend), None, None, None))
    *_, alone = model.members[1][1].forward(
        {k.removeprefix("gru."): v for k, v in params.items() if k.startswith("gru.")},
        params["embedding.weight"][ids],
        lengths=LENGTHS,
    )
    wanted = model.members[1][1].backward(alone, None, dend).params
    subject.close({k: grads.params[f"gru.{k}"] for k in wanted}, wanted, "same", "float64")
    assert not subject.host(grads.params["head.weight"]).any()
    assert [part is None for part in end] == [True, False, True, True, True]


@tagged("concrete", kernels=False)
@pytest.mark.parametrize("how", HOW)
def test_a_training_step(subject, rng, how):
    model, optimizer = classifier(how), pr.SGD(0.1)
    params, ids, labels = drawn(rng, model)
    step = pr.train_step(model, pr.softmax_cross_entropy, optimizer)
    weights = subject.array(params)
    done = step(weights, optimizer.init(weights), *subject.array((ids, labels)), lengths=[int(n) for n in LENGTHS])
    value, grads = pr.value_and_grad(model, pr.softmax_cross_entropy)(params, ids, labels, lengths=LENGTHS)
    near(float(done.value), float(value), "same")
    subject.close(done.params, {k: params[k] - 0.1 * grads[k] for k in params}, "same", "float64")


def test_a_model_that_pools_has_no_step_and_no_windows():
    model = pr.Sequential(pr.GRU(3, 5), pr.Pool("mean"))
    params = model.init()
    with pytest.raises(ValueError, match=r"step: Pool\(how='mean', batch_first=False\) needs the whole sequence"):
        model.step(params, np.zeros((2, 3), "float32"))
    from polyrnn.training import evaluate

    with pytest.raises(ValueError, match="model: it pools over time"):
        evaluate(model, pr.mean_squared_error, params, [])


def test_a_nested_model_pools_as_a_flat_one(rng):
    flat = classifier("max")
    params, ids, _ = drawn(rng, flat)
    (_, table), (_, gru), (_, pool), (_, drop), (_, head) = flat.members
    nested = pr.Sequential(inner=pr.Sequential(table, gru, pool), outer=pr.Sequential(drop, head))
    assert nested.pools and not nested.stepwise and nested.members[1][1].stepwise and not nested.members[1][1].pools
    own = dict(zip(nested.shapes(), params.values(), strict=True))
    np.testing.assert_array_equal(nested(own, ids, lengths=LENGTHS)[0], flat(params, ids, lengths=LENGTHS)[0])


def test_pools_are_values():
    assert pr.Pool("last") == pr.Pool("last") and hash(pr.Pool("last")) == hash(pr.Pool("last"))
    assert len({pr.Pool("last"), pr.Pool("mean"), pr.Pool("last", batch_first=True)}) == 3
    assert pr.Pool("max").init() == {} == pr.Pool("max").shapes()
    with pytest.raises(dataclasses.FrozenInstanceError):
        pr.Pool("max").how = "mean"
