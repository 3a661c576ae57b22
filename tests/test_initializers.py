"""The schemes of initial parameters: their bounds, moments and structure, for every layer of a stack."""

import numpy as np
import pytest

import polyrnn as pr
from polyrnn.initializers import SCHEMES, Chrono

I, H = 37, 41
LAYERS = {"RNN": (pr.RNN, 1), "LSTM": (pr.LSTM, 4), "GRU": (pr.GRU, 3)}


def drawn(kind: str, scheme: object, **options: object) -> dict[str, np.ndarray]:
    return LAYERS[kind][0](I, H, initializer=scheme, **options).init(seed=3, dtype="float64")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_parameter_of_every_layer_is_drawn_anew(kind, scheme):
    layer = LAYERS[kind][0](I, H, num_layers=2, bidirectional=True, initializer=scheme)
    params = layer.init(seed=3, dtype="float64")
    assert {name: value.shape for name, value in params.items()} == layer.shapes()
    weights = [value for name, value in params.items() if name.startswith("weight_hh")]
    assert len(weights) == 4
    for k, one in enumerate(weights):
        assert all(np.abs(one - other).max() > 0.01 for other in weights[:k])
    again = LAYERS[kind][0](I, H, num_layers=2, bidirectional=True, initializer=scheme).init(seed=3, dtype="float64")
    assert all(np.array_equal(params[name], again[name]) for name in params)


@pytest.mark.parametrize("kind", LAYERS)
def test_pytorchs(kind):
    for value in drawn(kind, "pytorch").values():
        assert np.abs(value).max() <= H**-0.5
        assert np.abs(value).max() > 0.8 * H**-0.5


@pytest.mark.parametrize(("kind", "gates"), [(kind, gates) for kind, (_, gates) in LAYERS.items()])
def test_keras(kind, gates):
    params = drawn(kind, "keras")
    bound = (6 / (I + gates * H)) ** 0.5
    assert 0.98 * bound < np.abs(params["weight_ih_l0"]).max() <= bound
    U = params["weight_hh_l0"]
    np.testing.assert_allclose(U.T @ U, np.eye(H), rtol=0, atol=1e-14)  # measured: 1.1e-15
    assert not params["bias_hh_l0"].any()
    expected = np.zeros((gates, H))
    if kind == "LSTM":
        expected[1] = 1.0  # i f g o
    np.testing.assert_array_equal(params["bias_ih_l0"].reshape(gates, H), expected)


def test_an_orthogonal_matrix_is_not_biased():
    """QR alone gives a positive or negative diagonal, always the same; the mean must vanish."""
    mean = np.mean([pr.initializers.orthogonal(np.random.default_rng(k), (5, 3)) for k in range(2000)], axis=0)
    assert np.abs(mean).max() < 5 * (5 * 2000) ** -0.5
    wide = pr.initializers.orthogonal(np.random.default_rng(0), (3, 5))
    np.testing.assert_allclose(wide @ wide.T, np.eye(3), rtol=0, atol=1e-14)  # measured: 6.7e-16


@pytest.mark.parametrize("kind", LAYERS)
def test_lecuns(kind):
    params = drawn(kind, "lecun")
    for name, inputs in (("weight_ih_l0", I), ("weight_hh_l0", H)):
        assert abs(params[name].std() * inputs**0.5 - 1) < 0.05
        assert abs(params[name].mean()) < 5 * (params[name].size * inputs) ** -0.5
    assert not params["bias_ih_l0"].any() and not params["bias_hh_l0"].any()


@pytest.mark.parametrize("base", SCHEMES)
def test_chrono_of_an_lstm(base):
    params = drawn("LSTM", Chrono(200, base))
    i, f, g, o = params["bias_ih_l0"].reshape(4, H)
    np.testing.assert_array_equal(i, -f)
    assert (f >= 0).all() and (f <= np.log(199)).all()
    steps = np.exp(f)  # uniform between 1 and 199
    assert abs(steps.mean() - 100) < 5 * 198 / (12 * H) ** 0.5
    assert not g.any() and not o.any() and not params["bias_hh_l0"].any()
    assert np.array_equal(params["weight_hh_l0"], drawn("LSTM", base)["weight_hh_l0"])


def test_chrono_of_a_gru_lets_the_gate_that_keeps_the_past_keep_it():
    params = drawn("GRU", Chrono(200))
    r, z, n = params["bias_ih_l0"].reshape(3, H)
    assert (z > 0).all() and z.max() > np.log(100)
    assert not r.any() and not n.any() and not params["bias_hh_l0"].any()
    layer = pr.GRU(I, H, initializer=Chrono(200))
    _, h = layer(params, np.zeros((1, 1, I)), np.ones((1, 1, H)))
    assert h.mean() > 0.9  # of the weights' random share, and of the state 1, the state is left


@pytest.mark.parametrize("base", SCHEMES)
def test_chrono_of_a_coupled_lstm_sets_the_gate_that_there_is(base):
    params = drawn("LSTM", Chrono(200, base), coupled=True, peephole=True, layer_norm=True)
    f, g, o = params["bias_ih_l0"].reshape(3, H)
    assert (f >= 0).all() and f.max() > np.log(100) and (f <= np.log(199)).all()
    assert not g.any() and not o.any() and not params["bias_hh_l0"].any()


@pytest.mark.parametrize("scheme", [*SCHEMES, Chrono(200), Chrono(200, "keras")], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("bias", [False, True])
def test_gains_are_one_whatever_the_scheme(kind, scheme, bias):
    if isinstance(scheme, Chrono) and not bias:
        with pytest.raises(ValueError, match="has no biases"):
            drawn(kind, scheme, layer_norm=True, bias=False)
        return
    params = drawn(kind, scheme, layer_norm=True, bias=bias, num_layers=2, bidirectional=True)
    gains = {name: value for name, value in params.items() if name.startswith("weight_layer_norm")}
    assert len(gains) == 4 * (3 if kind == "LSTM" else 2)
    assert all((value == 1).all() for value in gains.values())
    shifts = [value for name, value in params.items() if name.startswith("bias_layer_norm")]
    assert len(shifts) == (4 if bias and kind == "LSTM" else 0)
    assert all(value.any() == (scheme in ("pytorch", Chrono(200))) for value in shifts)


@pytest.mark.parametrize("coupled", [False, True])
def test_peepholes_follow_the_scheme(coupled):
    options = {"peephole": True, "coupled": coupled}
    drawn_by = {scheme: drawn("LSTM", scheme, **options)["weight_peephole_l0"] for scheme in SCHEMES}
    assert all(value.shape == ((2 if coupled else 3) * H,) for value in drawn_by.values())
    assert 0.8 * H**-0.5 < np.abs(drawn_by["pytorch"]).max() <= H**-0.5
    assert not drawn_by["keras"].any() and not drawn_by["lecun"].any()
    chrono = drawn("LSTM", Chrono(200), **options)["weight_peephole_l0"]
    np.testing.assert_array_equal(chrono, drawn_by["pytorch"])
    bias = drawn("LSTM", "keras", **options)["bias_ih_l0"].reshape(-1, H)
    np.testing.assert_array_equal(bias.any(axis=1), [letter == "f" for letter in ("fgo" if coupled else "ifgo")])


def test_a_scheme_of_ones_own_is_not_asked_for_gains():
    def ones(generator, cell, shapes, hidden_size):
        assert set(shapes) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "bias_layer_norm_c"}
        return {name: np.full(shape, 2.0) for name, shape in shapes.items()}

    params = drawn("LSTM", ones, peephole=True, layer_norm=True)
    assert (params["weight_layer_norm_c_l0"] == 1).all() and (params["weight_peephole_l0"] == 2).all()


def test_a_scheme_of_ones_own():
    def ones(generator, cell, shapes, hidden_size):
        return {name: np.ones(shape) for name, shape in shapes.items()}

    assert all((value == 1).all() for value in drawn("LSTM", ones, num_layers=2).values())
