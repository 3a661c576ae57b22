"""Losses against scalar loops, central differences and jax.grad; their masks, hazards and refusals."""

import math

import numpy as np
import pytest
import subjects

import polyrnn.losses
from polyrnn.losses import Loss, mean_squared_error, softmax_cross_entropy

T, N, V = 5, 3, 7
RTOL = {"float64": 3e-15, "float32": 1e-6}  # measured: 2.2e-16 and 9.3e-8


subject = subjects.without_kernels


# ---- the oracle: scalar loops over the definitions ------------------------------------------


def cross_entropy_oracle(logits, labels, mask):
    value, gradient, count = 0.0, np.zeros(logits.shape), max(int(mask.sum()), 1)
    for where in np.ndindex(*labels.shape):
        if mask[where]:
            z = [float(z) for z in logits[where]]
            total = math.fsum(math.exp(zk) for zk in z)
            value += (math.log(total) - z[labels[where]]) / count
            for k in range(len(z)):
                gradient[(*where, k)] = (math.exp(z[k]) / total - (k == labels[where])) / count
    return value, gradient


def squared_error_oracle(prediction, target, mask):
    value, gradient, count = 0.0, np.zeros(prediction.shape), max(int(mask.sum()), 1)
    for where in np.ndindex(*prediction.shape):
        if mask[where]:
            difference = float(prediction[where]) - float(target[where])
            value += difference**2 / count
            gradient[where] = 2 * difference / count
    return value, gradient


def example(seed=0):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 2, (T, N, V)), random.integers(0, V, (T, N))
    mask = random.random((T, N)) < 0.7
    assert mask.any()
    assert not mask.all()
    return logits, labels, mask


def assert_loss(subject, loss, value, gradient, dtype):
    assert isinstance(loss, Loss)
    subject.formed(loss.value, dtype, ())
    subject.formed(loss.gradient, dtype, gradient.shape)
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(float(subject.host(loss.value)), value, rtol=RTOL[dtype])
    np.testing.assert_allclose(
        subject.host(loss.gradient), gradient, rtol=RTOL[dtype], atol=RTOL[dtype] * np.abs(gradient).max()
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["int32", "int64", "uint8"])
def test_softmax_cross_entropy(subject, dtype, kind, masked):
    logits, labels, mask = example()
    logits = logits.astype(dtype)
    expected = cross_entropy_oracle(logits, labels, mask if masked else np.ones((T, N), dtype=bool))
    if masked:
        logits[~mask], labels[~mask] = np.nan, 255  # padding says nothing
    arguments = (subject.array(logits), subject.array(labels, kind))
    arguments += (subject.array(mask),) if masked else ()
    loss = subject.function(softmax_cross_entropy)(*arguments)
    assert_loss(subject, loss, *expected, dtype)
    np.testing.assert_array_equal(subject.host(arguments[0]), logits)
    if masked:
        assert np.all(subject.host(loss.gradient)[~mask] == 0)


@pytest.mark.parametrize("form", ["none", "rows", "elements"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_mean_squared_error(subject, dtype, form):
    random = np.random.default_rng(1)
    prediction, target = random.normal(size=(2, T, N, V)).astype(dtype)
    mask = {"none": None, "rows": random.random((T, N)) < 0.6, "elements": random.random((T, N, V)) < 0.6}[form]
    elements = np.ones((T, N, V), dtype=bool)
    elements &= True if mask is None else mask.reshape(*mask.shape, *[1] * (3 - mask.ndim))
    expected = squared_error_oracle(prediction, target, elements)
    prediction[~elements], target[~elements] = np.inf, np.inf
    arguments = [subject.array(prediction), subject.array(target)]
    arguments += [] if mask is None else [subject.array(mask)]
    loss = subject.function(mean_squared_error)(*arguments)
    assert_loss(subject, loss, *expected, dtype)
    assert np.all(subject.host(loss.gradient)[~elements] == 0)


@pytest.mark.parametrize("shape", [(), (N,), (0, N), (2, T, N)])
def test_any_number_of_axes(subject, shape):
    random = np.random.default_rng(2)
    logits, labels = random.normal(size=(*shape, V)), np.asarray(random.integers(0, V, shape))
    value, gradient = cross_entropy_oracle(logits, labels, np.ones(shape, dtype=bool))
    loss = subject.function(softmax_cross_entropy)(subject.array(logits), subject.array(labels))
    subject.formed(loss.gradient, "float64", logits.shape)
    np.testing.assert_allclose(float(subject.host(loss.value)), value, rtol=RTOL["float64"])
    np.testing.assert_allclose(subject.host(loss.gradient), gradient, rtol=RTOL["float64"], atol=1e-16)
    loss = subject.function(mean_squared_error)(subject.array(logits), subject.array(-logits))
    subject.formed(loss.value, "float64", ())
    np.testing.assert_allclose(subject.host(loss.gradient), 4 * logits / max(logits.size, 1), rtol=RTOL["float64"])


def test_where_nothing_counts_all_is_zero(subject):
    logits, labels, _ = example()
    nothing = subject.array(np.zeros((T, N), dtype=bool))
    for loss in (
        subject.function(softmax_cross_entropy)(subject.array(logits * np.nan), subject.array(labels), nothing),
        subject.function(mean_squared_error)(subject.array(logits * np.nan), subject.array(logits), nothing),
    ):
        assert float(subject.host(loss.value)) == 0
        assert np.all(subject.host(loss.gradient) == 0)


def test_huge_logits(subject):
    logits = np.array([[1e30, -1e30, 0.0], [1000.0, 1000.0, -1000.0]], dtype="float32")
    loss = subject.function(softmax_cross_entropy)(subject.array(logits), subject.array(np.array([0, 2])))
    np.testing.assert_allclose(float(subject.host(loss.value)), (2000 + math.log(2)) / 2, rtol=RTOL["float32"])
    np.testing.assert_allclose(subject.host(loss.gradient), [[0, 0, 0], [0.25, 0.25, -0.5]], rtol=RTOL["float32"])


def test_a_class_can_be_taken_out(subject):
    logits = np.array([[0.5, -np.inf, 0.5]])
    loss = subject.function(softmax_cross_entropy)(subject.array(logits), subject.array(np.array([2])))
    np.testing.assert_allclose(float(subject.host(loss.value)), math.log(2), rtol=1e-15)  # measured: 0
    np.testing.assert_allclose(subject.host(loss.gradient), [[0.5, 0, -0.5]], rtol=1e-15)  # measured: 0
    loss = subject.function(softmax_cross_entropy)(subject.array(logits), subject.array(np.array([1])))
    assert float(subject.host(loss.value)) == math.inf


# ---- derivatives -----------------------------------------------------------------------------


def assert_derivative(value, gradient, x, step=1e-5):
    """Central differences along random directions, in float64."""
    random = np.random.default_rng(3)
    for _ in range(5):
        direction = random.normal(size=x.shape)
        slope = (float(value(x + step * direction)) - float(value(x - step * direction))) / (2 * step)
        # Measured: 1.3e-10.
        assert abs(slope - float((gradient * direction).sum())) < 1e-9


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_differences(masked):
    logits, labels, mask = example(4)
    mask = mask if masked else None
    loss = softmax_cross_entropy(logits, labels, mask)
    assert_derivative(lambda z: softmax_cross_entropy(z, labels, mask).value, loss.gradient, logits)
    target = np.random.default_rng(5).normal(size=logits.shape)
    loss = mean_squared_error(logits, target, mask)
    assert_derivative(lambda p: mean_squared_error(p, target, mask).value, loss.gradient, logits)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


PLANTED = {  # wrong derivatives that are easily written
    "not divided by the count": (lambda z, y, m, c: (softmax(z) - np.eye(V)[y]) * m),
    "divided by all entries": (lambda z, y, m, c: (softmax(z) - np.eye(V)[y]) * m / (T * N)),
    "without the label": (lambda z, y, m, c: softmax(z) * m / c),
    "of the other sign": (lambda z, y, m, c: (np.eye(V)[y] - softmax(z)) * m / c),
    "without the mask": (lambda z, y, m, c: (softmax(z) - np.eye(V)[y]) / c),
    "through the softmax twice": (lambda z, y, m, c: softmax(z) * (1 - softmax(z)) * m / c),
    "of the next label": (lambda z, y, m, c: (softmax(z) - np.eye(V)[(y + 1) % V]) * m / c),
}


@pytest.mark.parametrize("wrong", PLANTED.values(), ids=PLANTED)
def test_a_wrong_gradient_of_cross_entropy_is_caught(wrong):
    logits, labels, mask = example(4)
    planted = wrong(logits, labels, mask[..., None], mask.sum())
    with pytest.raises(AssertionError):
        assert_derivative(lambda z: softmax_cross_entropy(z, labels, mask).value, planted, logits)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d, m, c: d * m / c,  # without the 2
        lambda d, m, c: -2 * d * m / c,
        lambda d, m, c: 2 * d * m,
        lambda d, m, c: 2 * d / c,  # without the mask
        lambda d, m, c: 2 * d * m / (c / V),  # rows counted, not elements
        lambda d, m, c: 2 * np.abs(d) * m / c,
    ],
)
def test_a_wrong_gradient_of_squared_error_is_caught(wrong):
    prediction, _, mask = example(4)
    target = np.random.default_rng(5).normal(size=prediction.shape)
    planted = wrong(prediction - target, mask[..., None], mask.sum() * V)
    with pytest.raises(AssertionError):
        assert_derivative(lambda p: mean_squared_error(p, target, mask).value, planted, prediction)


def test_a_planted_error_in_the_library_is_caught(monkeypatch):
    logits, labels, _ = example(4)
    right = polyrnn.losses._softmax_cross_entropy

    def without_the_label(xp, logits, labels, mask, device):
        loss = right(xp, logits, labels, mask, device)
        return Loss(loss.value, loss.gradient + np.eye(V)[labels] / labels.size)

    monkeypatch.setattr(polyrnn.losses, "_softmax_cross_entropy", without_the_label)
    loss = softmax_cross_entropy(logits, labels)
    with pytest.raises(AssertionError):
        assert_derivative(lambda z: softmax_cross_entropy(z, labels).value, loss.gradient, logits)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_jax(masked):
    jax = pytest.importorskip("jax")
    logits, labels, mask = example(6)
    target = np.random.default_rng(7).normal(size=logits.shape).astype("float32")
    logits = logits.astype("float32")
    if masked:
        logits[~mask] = np.nan
    mask = jax.numpy.asarray(mask) if masked else None
    for loss, other in ((softmax_cross_entropy, labels), (mean_squared_error, target)):
        other = jax.numpy.asarray(other, dtype="int32" if other is labels else "float32")
        derivative = jax.grad(lambda z, f=loss, o=other: f(z, o, mask).value)(jax.numpy.asarray(logits))
        written = loss(jax.numpy.asarray(logits), other, mask).gradient
        assert float(abs(written).max()) > 0.01
        # Measured: 1.5e-8 of values up to 0.14.
        np.testing.assert_allclose(np.asarray(written), np.asarray(derivative), rtol=3e-6, atol=3e-8)


# ---- the door --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"labels": np.zeros((N, T), dtype=int)}, ValueError, r"labels: shape \(3, 5\); expected \(5, 3\)"),
        ({"labels": np.zeros((T, 1), dtype=int)}, ValueError, r"labels: shape \(5, 1\)"),
        ({"labels": np.zeros((T, N, V), dtype=int)}, ValueError, r"labels: shape \(5, 3, 7\)"),
        ({"labels": np.zeros((T, N))}, TypeError, "labels: dtype float64; expected an integral dtype"),
        ({"labels": [[0] * N] * T}, TypeError, "list"),
        ({"logits": np.zeros((T, N, V), dtype=int)}, TypeError, "logits: dtype int64; expected a real float"),
        ({"logits": np.zeros((T, N, 0))}, ValueError, r"logits: shape \(5, 3, 0\)"),
        ({"mask": np.ones((T, N))}, TypeError, "mask: dtype float64; expected a bool dtype"),
        ({"mask": np.ones((T, 1), dtype=bool)}, ValueError, r"mask: shape \(5, 1\); expected .*\(5, 3\)"),
        ({"mask": np.ones((T, N, V), dtype=bool)}, ValueError, "mask: shape"),
        ({"mask": np.ones((), dtype=bool)}, ValueError, r"mask: shape \(\)"),
    ],
)
def test_cross_entropy_refuses(change, error, words):
    logits, labels, mask = example()
    with pytest.raises(error, match=words):
        softmax_cross_entropy(**{"logits": logits, "labels": labels, "mask": mask, **change})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target": np.zeros((T, N, 1))}, ValueError, r"target: shape \(5, 3, 1\); expected .*\(5, 3, 7\)"),
        ({"target": np.zeros((T, N, V), dtype="float32")}, TypeError, "target: dtype float32; .*float64"),
        ({"prediction": np.zeros((T, N, V), dtype=int)}, TypeError, "prediction: dtype int64"),
        ({"mask": np.ones((T, N, 1), dtype=bool)}, ValueError, r"mask: shape \(5, 3, 1\); .*or \(5, 3\)"),
        ({"mask": np.ones((T,), dtype=bool)}, ValueError, r"mask: shape \(5,\)"),
        ({"mask": np.ones((T, N), dtype=int)}, TypeError, "mask: dtype int64"),
    ],
)
def test_squared_error_refuses(change, error, words):
    good = {"prediction": np.ones((T, N, V)), "target": np.zeros((T, N, V)), "mask": np.ones((T, N), bool)}
    with pytest.raises(error, match=words):
        mean_squared_error(**{**good, **change})


@pytest.mark.parametrize("bad", [-1, V, 1000])
def test_labels_out_of_range(subject, bad):
    logits, labels, mask = example()
    labels[2, 1], mask[2, 1] = bad, True
    arguments = (subject.array(logits), subject.array(labels, "int32"))
    if "jit" not in subject.tags:
        with pytest.raises(ValueError, match=rf"labels: {bad} at \(2, 1\); expected 0 <= label < 7"):
            softmax_cross_entropy(*arguments)
        with pytest.raises(ValueError, match=rf"labels: {bad} at \(2, 1\)"):
            softmax_cross_entropy(*arguments, subject.array(mask))
        return
    loss = subject.function(softmax_cross_entropy)(*arguments)  # under a trace: clamped
    value, _ = cross_entropy_oracle(logits, np.clip(labels, 0, V - 1), np.ones((T, N), dtype=bool))
    np.testing.assert_allclose(float(loss.value), value, rtol=RTOL["float64"])


def test_a_single_label_out_of_range():
    with pytest.raises(ValueError, match=r"labels: 9 at \(\)"):
        softmax_cross_entropy(np.zeros(V), np.asarray(9))
