"""The worked example of a user's own cell: right, on every subject, with all that the layer adds to it."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from subjects import near

import polyrnn as pr
from polyrnn.gradcheck import check_layer

FILE = Path(__file__).parents[1] / "examples" / "minimal_gated_unit.py"
T, N, I, H = 7, 5, 3, 2
LENGTHS = (7, 0, 4, 1, 6)


@pytest.fixture(scope="module")
def mgu() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_gated_unit", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_loops(params: dict, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """h after the sequence x (T, I), by the paper's equations (1) to (3), a number at a time."""

    def gate(name: str, block: int, x_t: np.ndarray, u: np.ndarray, m: int) -> float:
        row = block * H + m
        total = params[f"bias_ih_{name}"][row] + params[f"bias_hh_{name}"][row]
        total += sum(params[f"weight_ih_{name}"][row, k] * x_t[k] for k in range(len(x_t)))
        return total + sum(params[f"weight_hh_{name}"][row, k] * u[k] for k in range(H))

    for x_t in x:
        f = np.array([1 / (1 + np.exp(-gate("l0", 0, x_t, h, m))) for m in range(H)])
        n = np.array([np.tanh(gate("l0", 1, x_t, f * h, m)) for m in range(H)])
        h = (1 - f) * h + f * n
    return h


def arguments(layer: Any, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    return {
        "params": {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()},
        "x": rng.standard_normal((T, N, I)),
        "h": rng.standard_normal((count, N, H)),
        "dy": rng.standard_normal((T, N, H * (2 if layer.bidirectional else 1))),
    }


def test_the_forward_pass_is_the_papers(mgu, subject):
    layer = mgu.MGU(I, H)
    host = arguments(layer, 3)
    a = subject.array(host)
    y, h = layer(a["params"], a["x"], a["h"], lengths=list(LENGTHS))
    ends = np.stack([by_loops(host["params"], host["x"][: LENGTHS[n], n], host["h"][0, n]) for n in range(N)])
    subject.close(h, ends[None], "forward", "float64")
    last = by_loops(host["params"], host["x"][:3, 2], host["h"][0, 2])
    near(subject.host(y)[2, 2], last, "forward")


@pytest.mark.parametrize("lengths", [False, True])
def test_its_gradients(mgu, lengths):
    layer = mgu.MGU(I, H, num_layers=2, bidirectional=True, dropout=0.3)
    assert check_layer(layer, lengths=lengths, methods=["complex step"]).ok
    assert check_layer(mgu.MGU(I, H), lengths=lengths, methods=["complex step", "differences"]).ok


@pytest.mark.parametrize("options", [{"recurrent_dropout": 0.3}, {"zoneout_h": 0.3}], ids="-".join)
def test_its_gradients_with_noise(mgu, options):
    layer = mgu.MGU(I, H, num_layers=2, bidirectional=True, **options)
    assert check_layer(layer, lengths=True, methods=["complex step", "differences"], seed=0).ok


def test_an_ensemble_of_it_is_its_members(mgu):
    masks = {"recurrent_dropout_l0": np.random.default_rng(9).random((3, N, H)) < 0.7}
    together = mgu.MGU(I, H, recurrent_dropout=0.3, ensemble=3)
    alone = mgu.MGU(I, H, recurrent_dropout=0.3)
    params = together.init(seed=4, dtype="float64")
    x, dy = np.random.default_rng(8).standard_normal((T, N, I)), np.random.default_rng(7).standard_normal((3, T, N, H))
    y, h, tape = together.forward(params, x, lengths=LENGTHS, masks=masks)
    grads = together.backward(tape, dy)
    dx = np.zeros_like(x)
    for e in range(3):
        own, mask = {name: a[e] for name, a in params.items()}, {name: m[e] for name, m in masks.items()}
        y_e, h_e, tape = alone.forward(own, x, lengths=LENGTHS, masks=mask)
        grads_e = alone.backward(tape, dy[e])
        np.testing.assert_allclose(y[e], y_e, rtol=0, atol=1e-14)
        np.testing.assert_allclose(h[e], h_e, rtol=0, atol=1e-14)
        for name in params:
            np.testing.assert_allclose(grads.params[name][e], grads_e.params[name], rtol=0, atol=1e-13)
        dx += grads_e.x
    np.testing.assert_allclose(grads.x, dx, rtol=0, atol=1e-13)


def test_everywhere_the_same(mgu, subject):
    layer = mgu.MGU(I, H, num_layers=2, bidirectional=True, dropout=0.3, recurrent_dropout=0.3)
    host = arguments(layer, 5)

    def everything(params: Any, x: Any, h: Any, dy: Any) -> Any:
        y, end, tape = layer.forward(params, x, h, lengths=LENGTHS, seed=1)
        return y, end, layer.backward(tape, dy)

    found = subject.function(everything)(*subject.array(tuple(host.values())))
    subject.close(found, everything(*host.values()), "gradient", "float64")


def test_a_wrong_derivative_is_caught(mgu):
    class Wrong(mgu.MGUCell):
        def step_backward(self, xp, params, residual, dstate):
            dpre, drec, (dh,) = super().step_backward(xp, params, residual, dstate)
            return dpre, drec, (dh - dstate[0] * (1 - residual.f),)

    class Layer(mgu.MGU):
        cell = Wrong()

    report = check_layer(Layer(I, H), methods=["complex step"])
    assert not report.ok
    assert "params.weight_hh_l0" in {row.name for row in report.rows if not row.ok}


def test_jax_differentiates_it_by_hand_and_by_itself(mgu):
    jax = pytest.importorskip("jax")
    layers = mgu.MGU(I, H, num_layers=2), mgu.MGU(I, H, num_layers=2, traced=True)
    host = arguments(layers[0], 7)
    backend = pr.backend("jax")
    with backend.exact():
        params, x, dy = backend.asarray((host["params"], host["x"], host["dy"]))
        by_hand, by_itself = (
            jax.grad(lambda p, layer=layer: (layer(p, x, lengths=LENGTHS)[0] * dy).sum())(params) for layer in layers
        )
        for name in params:
            near(np.asarray(by_hand[name]), np.asarray(by_itself[name]), "gradient", name)
            assert float(abs(by_hand[name]).max()) > 1e-3
