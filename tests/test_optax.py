"""optax and polyrnn's optimisers do the same, and each can take the other's place."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import subjects

import polyrnn as pr
from polyrnn.backends import backend_of
from polyrnn.testing import assert_close, assert_equal

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install jax optax")
optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")

JAX = subjects.ALL["jax"]
MODEL = pr.Sequential(l=pr.LSTM(3, 5, num_layers=2, bidirectional=True), h=pr.Linear(10, 2))
OPTIMIZERS = {  # of learning rate 1, so that updates are as large as their errors are relative
    "sgd": (pr.SGD(1.0), optax.sgd(1.0)),
    "momentum": (pr.SGD(1.0, momentum=0.7), optax.sgd(1.0, momentum=0.7)),
    "nesterov": (pr.SGD(1.0, momentum=0.7, nesterov=True), optax.sgd(1.0, momentum=0.7, nesterov=True)),
    "adam": (pr.Adam(1.0, betas=(0.6, 0.95), eps=1e-3), optax.adam(1.0, b1=0.6, b2=0.95, eps=1e-3)),
    "adamw": (pr.AdamW(1.0, weight_decay=0.07), optax.adamw(1.0, weight_decay=0.07)),
}


@pytest.fixture(autouse=True)
def _in_jax(request: pytest.FixtureRequest) -> Iterator[None]:
    request.node.user_properties.append(("subject", "jax"))
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an int32
        yield


def data() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(7)
    x, targets = JAX.array((rng.standard_normal((7, 3, 3)), rng.standard_normal((7, 3, 2))))
    return MODEL.init(seed=0, backend="jax", dtype="float64"), x, targets


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_of_the_same_gradients_are_the_same(name):
    """Plain descent to the bit, the others to rounding."""
    ours, theirs = OPTIMIZERS[name]
    rng = np.random.default_rng(3)
    params, *_ = data()
    state, memory = ours.init(params), theirs.init(params)
    for _ in range(5):
        grads = JAX.array({key: rng.standard_normal(p.shape) for key, p in params.items()})
        found, state = ours.update(grads, state, params)
        expected, memory = theirs.update(grads, memory, params)
        assert_close(found, expected, 7e-14)  # measured: 7.2e-15, by which 1 - beta^t differs
        if name == "sgd":
            assert_equal(found, expected)
        params = optax.apply_updates(params, found)


def test_optax_drives_train_step_and_jax_grad():
    """polyrnn's step with optax's Adam, JAX's with polyrnn's: the same parameters after three of them."""
    params, x, targets = data()
    ours, theirs = pr.Adam(0.01), optax.adam(0.01)
    step = pr.train_step(MODEL, pr.mean_squared_error, theirs)

    @jax.jit
    def other(params: dict, memory: Any) -> tuple[dict, Any]:
        grads = jax.grad(lambda params: ((MODEL(params, x)[0] - targets) ** 2).mean())(params)
        updates, memory = ours.update(grads, memory, params)
        return pr.apply_updates(params, updates), memory

    one, memory, two, state = params, theirs.init(params), params, ours.init(params)
    for _ in range(3):
        one, memory, *_ = step(one, memory, x, targets)
        two, state = other(two, state)
    assert backend_of(one).name == "jax"
    JAX.close(two, JAX.host(one), "gradient", "float64")
