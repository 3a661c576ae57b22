"""The activations that a gate may have: ONNX' formulas, their derivatives, and what they do far from zero."""

import math

import numpy as np
import pytest
import subjects
from oracle import variant_loops
from subjects import near

import polyrnn as pr

subject = subjects.without_kernels

SPECS = [
    "sigmoid",
    "tanh",
    "relu",
    "softsign",
    "softplus",
    ("affine", 0.6, 0.2),
    ("affine", -1.3, 0.7),
    "leaky_relu",
    ("leaky_relu", 0.3),
    ("leaky_relu", 0.0),
    ("leaky_relu", 1.7),
    "thresholded_relu",
    ("thresholded_relu", 0.3),
    ("thresholded_relu", 0.0),
    ("scaled_tanh", 1.3, 0.7),
    ("scaled_tanh", -0.4, 2.1),
    "hard_sigmoid",
    ("hard_sigmoid", 0.3),
    ("hard_sigmoid", -0.4, 0.7),
    "elu",
    ("elu", 0.6),
    ("elu", 0.0),
]
FAR = (30.0, 700.0, 1e4, 1e30)


def values(spec):
    """Points between -6 and 6, none of them at a bend, in both dtypes."""
    rng = np.random.default_rng(list(str(spec).encode()))
    return rng.uniform(-6, 6, (7, 5)).astype("float32").astype("float64")


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values_and_derivatives(subject, spec, dtype):
    phi = pr.activations.activation(spec)
    x, formula = values(spec), variant_loops.activation(spec)
    a = phi(subject.xp, subject.array(x, dtype))
    subject.close(a, formula(x), "forward", dtype, "value")
    slope = np.imag(formula(x + 1e-30j)) / 1e-30
    subject.close(phi.derivative(subject.xp, a), slope, "gradient", dtype, "derivative")
    if spec != ("elu", 0.0):
        step = 1e-6
        near(slope, (formula(x + step) - formula(x - step)) / (2 * step), "differences", "the oracle's own slope")


# The value and the derivative towards -infinity and towards +infinity; None: as large as x.
LIMITS = {
    "sigmoid": ((0, 0), (1, 0)),
    "tanh": ((-1, 0), (1, 0)),
    "relu": ((0, 0), (None, 1)),
    "softsign": ((-1, 0), (1, 0)),
    "softplus": ((0, 0), (None, 1)),
    ("leaky_relu", 0.25): ((None, 0.25), (None, 1)),
    ("thresholded_relu", 0.3): ((0, 0), (None, 1)),
    ("scaled_tanh", 1.5, 0.5): ((-1.5, 0), (1.5, 0)),
    "hard_sigmoid": ((0, 0), (1, 0)),
    ("elu", 0.5): ((-0.5, 0), (None, 1)),
    ("affine", 0.5, 0.25): ((None, 0.5), (None, 0.5)),
}


@pytest.mark.parametrize("spec", LIMITS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_far_from_zero_nothing_overflows(subject, spec, dtype):
    phi = pr.activations.activation(spec)
    for sign, (limit, slope) in zip((-1, 1), LIMITS[spec], strict=True):
        x = subject.array(sign * np.asarray(FAR), dtype)
        a = phi(subject.xp, x)
        value, derivative = subject.host(a), subject.host(phi.derivative(subject.xp, a))
        assert np.isfinite(value).all() and np.isfinite(derivative).all()
        if limit is None:
            factor = slope if sign < 0 or spec[0] == "affine" else 1
            assert np.abs(value / (factor * subject.host(x)) - 1).max() < 0.02
        else:
            assert np.abs(value - limit)[1:].max() < 2e-3  # softsign comes near as 1/x
        assert np.abs(derivative - slope)[1:].max() < 1e-5


def test_every_activation_is_here():
    for specs in (SPECS, LIMITS):
        assert {s if isinstance(s, str) else s[0] for s in specs} == set(pr.activations.ACTIVATIONS)
    assert set(variant_loops.FUNCTIONS) == set(pr.activations.ACTIVATIONS)


def test_small_values_are_accurate():
    """Where the output is small, its derivative keeps its relative accuracy."""
    x = np.asarray([-40.0, -100.0, -600.0])
    for spec in ("softplus", "elu"):
        phi = pr.activations.activation(spec)
        np.testing.assert_allclose(phi.derivative(np, phi(np, x)), np.exp(x), rtol=1e-12, atol=1e-16)
    phi = pr.activations.activation("softplus")
    np.testing.assert_allclose(phi.derivative(np, phi(np, x)), np.exp(x), rtol=1e-12)


def test_at_the_bends():
    """The slope from the left, as relu's."""
    for spec, x, value, slope in (
        ("relu", 0.0, 0.0, 0.0),
        (("leaky_relu", 0.3), 0.0, 0.0, 0.3),
        (("thresholded_relu", 0.5), 0.5, 0.0, 0.0),
        (("elu", 0.6), 0.0, 0.0, 0.6),
        (("hard_sigmoid", 0.5, 0.5), -1.0, 0.0, 0.0),
        (("hard_sigmoid", 0.5, 0.5), 1.0, 1.0, 0.0),
    ):
        phi = pr.activations.activation(spec)
        a = phi(np, np.asarray([x]))
        assert (a[0], phi.derivative(np, a)[0]) == (value, slope), spec


def test_the_defaults_are_those_of_onnx():
    for name, (_, constants) in variant_loops.FUNCTIONS.items():
        if name not in ("affine", "scaled_tanh"):  # ONNX has none
            assert pr.activations.activation(name) == pr.activations.Activation(name, constants)
    assert pr.activations.activation(("hard_sigmoid", 0.3)).constants == (0.3, 0.5)
    assert pr.activations.activation(("affine", 1, np.float32(0.5))).constants == (1.0, 0.5)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("swish", ValueError, ("'swish'", "expected one of", "'sigmoid'")),
        ("Tanh", ValueError, ("'Tanh'", "'tanh'")),
        (None, ValueError, ("None", "expected one of")),
        ((), ValueError, ("()", "expected one of")),
        (math.tanh, ValueError, ("tanh", "expected one of")),
        (("tanh", 0.5), ValueError, ("tanh has no constants",)),
        ("affine", ValueError, ("affine has alpha, beta",)),
        (("scaled_tanh", 1.0), ValueError, ("scaled_tanh has alpha, beta",)),
        (("elu", 1.0, 2.0), ValueError, ("elu has alpha (by default 1.0)",)),
        (("hard_sigmoid", 1, 2, 3), ValueError, ("alpha (by default 0.2), beta (by default 0.5)",)),
        (("elu", "1"), TypeError, ("'1' is no finite number",)),
        (("elu", True), TypeError, ("True is no finite number",)),
        (("elu", math.nan), TypeError, ("nan is no finite number",)),
        (("elu", math.inf), TypeError, ("inf is no finite number",)),
        (("elu", -0.5), ValueError, ("expected alpha >= 0",)),
        (("leaky_relu", -0.1), ValueError, ("expected alpha >= 0",)),
        (("thresholded_relu", -1), ValueError, ("expected alpha >= 0",)),
        (("scaled_tanh", 0, 1), ValueError, ("expected alpha not 0",)),
        (["elu", 1.0], ValueError, ("['elu', 1.0]", "a tuple of its name and its constants")),
    ],
    ids=str,
)
def test_bad_ones(spec, error, words):
    with pytest.raises(error) as caught:
        pr.activations.activation(spec, "phi")
    message = str(caught.value)
    assert type(caught.value) is error and message.startswith("phi=") and all(w in message for w in words), message
