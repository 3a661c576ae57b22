"""Optimisers and schedules against scalar transcriptions of the papers' formulas, in PyTorch's conventions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import subjects

from polyrnn import initializers
from polyrnn.backends import backend
from polyrnn.clipping import clip_by_global_norm, global_norm
from polyrnn.optimizers import SGD, Adam, AdamW, RMSProp, apply_updates
from polyrnn.schedules import Constant, CosineDecay, ExponentialDecay, LinearWarmup, StepDecay

SHAPES = {"0.weight": (5, 3), "lstm.bias_ih_l0": (7,), "scale": ()}
STEPS = 6
RTOL = {"float64": 6e-14, "float32": 3e-5}  # of the updates; measured: 6e-15 and 3e-6


subject = subjects.without_kernels


def draw(seed, dtype="float64"):
    random = np.random.default_rng(seed)
    return {name: np.asarray(random.normal(size=shape), dtype=dtype) for name, shape in SHAPES.items()}


# ---- the oracles: one number at a time, yielding the updates to it --------------------------


def sgd(p, grads, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    velocity = 0.0
    for k, g in enumerate(grads):
        g += weight_decay * p
        velocity = momentum * velocity + g
        u = -lr(k) * (g + momentum * velocity if nesterov else velocity)
        p += u
        yield u


def adam(p, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0.0
    for k, g in enumerate(grads):
        g += 0.0 if decoupled else weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** (k + 1)), v / (1 - betas[1] ** (k + 1))
        u = -lr(k) * m_hat / (math.sqrt(v_hat) + eps)
        u -= lr(k) * weight_decay * p if decoupled else 0.0
        p += u
        yield u


def rmsprop(p, grads, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0):
    v = b = 0.0
    for k, g in enumerate(grads):
        g += weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        b = momentum * b + g / (math.sqrt(v) + eps)
        u = -lr(k) * b
        p += u
        yield u


def constant(value):
    return lambda count: value


CASES = {
    "sgd": (SGD(), sgd, {"lr": constant(1e-3)}),
    "sgd-momentum": (SGD(0.3, momentum=0.7), sgd, {"lr": constant(0.3), "momentum": 0.7}),
    "sgd-all": (
        SGD(0.2, momentum=0.9, nesterov=True, weight_decay=0.11),
        sgd,
        {"lr": constant(0.2), "momentum": 0.9, "nesterov": True, "weight_decay": 0.11},
    ),
    "adam": (Adam(), adam, {"lr": constant(1e-3)}),
    "adam-all": (
        Adam(0.05, betas=(0.6, 0.95), eps=1e-3, weight_decay=0.07),
        adam,
        {"lr": constant(0.05), "betas": (0.6, 0.95), "eps": 1e-3, "weight_decay": 0.07},
    ),
    "adam-beta-zero": (Adam(0.05, betas=(0, 0)), adam, {"lr": constant(0.05), "betas": (0.0, 0.0)}),
    "adamw": (AdamW(), adam, {"lr": constant(1e-3), "weight_decay": 0.01, "decoupled": True}),
    "adamw-all": (
        AdamW(0.05, betas=(0.6, 0.95), eps=1e-3, weight_decay=0.3),
        adam,
        {
            "lr": constant(0.05),
            "betas": (0.6, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.3,
            "decoupled": True,
        },
    ),
    "rmsprop": (RMSProp(), rmsprop, {"lr": constant(1e-2)}),
    "rmsprop-all": (
        RMSProp(0.03, alpha=0.8, eps=1e-2, weight_decay=0.05, momentum=0.6),
        rmsprop,
        {"lr": constant(0.03), "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.05, "momentum": 0.6},
    ),
    "adam-schedule": (
        Adam(CosineDecay(0.1, total_steps=5, warmup_steps=2, start=0.02)),
        adam,
        {"lr": lambda count: CosineDecay(0.1, total_steps=5, warmup_steps=2, start=0.02)(count)},
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("optimizer", "oracle", "options"), CASES.values(), ids=CASES)
def test_updates_are_the_formulas(subject, optimizer, oracle, options, dtype):
    start, gradients = draw(0, dtype), [draw(k + 1, dtype) for k in range(STEPS)]
    params, state = subject.array(start), optimizer.init(subject.array(start))
    traced = []

    def step(grads, state, params):
        traced.append(1)
        updates, state = optimizer.update(grads, state, params)
        return updates, state, apply_updates(params, updates)

    step = subject.function(step)
    history = []
    for grads in gradients:
        updates, state, params = step(subject.array(grads), state, params)
        for name, shape in SHAPES.items():
            subject.formed(updates[name], dtype, shape)
            subject.formed(params[name], dtype, shape)
        subject.formed(state.count, "int32", ())
        history.append(subject.host(updates))
    assert int(state.count) == STEPS
    assert "jit" not in subject.tags or len(traced) == 1, "compiled again"
    for moments in state[1:]:
        for name, moment in (moments or {}).items():
            subject.formed(moment, dtype, SHAPES[name])
    for name, shape in SHAPES.items():
        for where in np.ndindex(*shape):
            own = [float(grads[name][where]) for grads in gradients]
            expected = list(oracle(float(start[name][where]), own, **options))
            found = [float(updates[name][where]) for updates in history]
            assert max(map(abs, expected)) > 1e-5
            np.testing.assert_allclose(found, expected, rtol=RTOL[dtype], atol=RTOL[dtype] * 1e-2)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), AdamW(), RMSProp(momentum=0.5)])
def test_arguments_are_left_alone(optimizer):
    params, grads = draw(0), draw(1)
    state = optimizer.update(grads, optimizer.init(params), params)[1]
    before = [{k: a.copy() for k, a in tree.items()} for tree in (params, grads, *state[1:])]
    apply_updates(params, optimizer.update(grads, state, params)[0])
    for tree, copy in zip((params, grads, *state[1:]), before, strict=True):
        for name, array in tree.items():
            np.testing.assert_array_equal(array, copy[name])


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSProp])
def test_a_numpy_scalar_does_not_promote(make):
    """A schedule of the user's may give a numpy.float64, which is a float and would promote float32."""
    optimizer = make(lambda count: 0.5 * 0.9**count)
    assert type(optimizer.learning_rate(np.asarray(1, dtype=np.int32))) is np.float64
    params, grads = draw(0, "float32"), draw(1, "float32")
    state = optimizer.init(params)._replace(count=np.asarray(3, dtype=np.int32))
    updates, _ = optimizer.update(grads, state, params)
    expected, _ = make(0.5 * 0.9**3).update(grads, state, params)
    for name, update in updates.items():
        assert update.dtype == np.float32
        np.testing.assert_allclose(update, expected[name], rtol=1e-6)  # measured: 0; a power may round otherwise


def test_float32_keeps_the_bias_correction(subject):
    """1 - 0.999 in float32 has lost four digits; the first step of Adam must not."""
    params = {"w": subject.array(np.ones(3), "float32")}
    grads = {"w": subject.array(np.array([1e-3, -2.0, 30.0]), "float32")}
    optimizer = Adam(0.25, eps=0.0)
    updates, _ = subject.function(optimizer.update)(grads, optimizer.init(params), params)
    np.testing.assert_allclose(subject.host(updates["w"]), [-0.25, 0.25, -0.25], rtol=5e-7)  # measured: 1.2e-7


def test_optimizers_are_values():
    for a, b, other in [
        (Adam(), Adam(), AdamW()),
        (SGD(0.1), SGD(0.1), SGD(0.2)),
        (Adam(betas=[0.9, 0.99]), Adam(betas=(0.9, 0.99)), Adam()),
        (RMSProp(StepDecay(1.0, 0.5, 3)), RMSProp(StepDecay(1.0, 0.5, 3)), RMSProp(StepDecay(1.0, 0.5, 4))),
    ]:
        assert a == b
        assert hash(a) == hash(b)
        assert a != other
    assert type(SGD(np.float64(0.1)).learning_rate) is float


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(-0.1), "learning_rate=-0.1: expected a finite number >= 0"),
        (lambda: SGD(math.nan), "learning_rate=nan"),
        (lambda: SGD(nesterov=True), "nesterov=True"),
        (lambda: SGD(momentum=-1), "momentum=-1"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas\[1\]=1.0: expected a number, 0 <= number < 1"),
        (lambda: Adam(betas=(0.9,)), "betas="),
        (lambda: AdamW(weight_decay=math.inf), "weight_decay=inf"),
        (lambda: Adam(eps=-1e-8), "eps="),
        (lambda: RMSProp(alpha=1.0), "alpha=1.0"),
        (lambda: StepDecay(1.0, 0.5, 0), "decay_steps=0"),
        (lambda: ExponentialDecay(1.0, -0.5), "factor=-0.5"),
        (lambda: LinearWarmup(1.0, 1.5), "warmup_steps=1.5"),
        (lambda: CosineDecay(1.0, total_steps=3, warmup_steps=4), "total_steps=3.*warmup_steps=4"),
        (lambda: clip_by_global_norm(draw(0), 0.0), "max_norm=0.0"),
        (lambda: clip_by_global_norm(draw(0), math.inf), "max_norm=inf"),
        (lambda: SGD(10**400), "learning_rate=1000"),
        (lambda: initializers.uniform(-1.0), "bound=-1.0"),
        (lambda: initializers.normal(math.nan), "std=nan"),
        (lambda: initializers.recurrent(0), "hidden_size=0"),
    ],
)
def test_bad_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


NUMBER = "expected a finite number >= 0"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Adam("a"), f"learning_rate='a': {NUMBER}, or a schedule$"),
        (lambda: AdamW(None), "learning_rate=None"),
        (lambda: RMSProp([0.1]), r"learning_rate=\[0.1\]"),
        (lambda: SGD("0.1"), "learning_rate='0.1'"),
        (lambda: SGD(True), "learning_rate=True"),
        (lambda: SGD(1j), "learning_rate=1j"),
        (lambda: SGD(np.array([0.1, 0.2])), r"learning_rate=array\(\[0.1, 0.2\]\)"),
        (lambda: SGD(momentum="a"), f"momentum='a': {NUMBER}$"),
        (lambda: SGD(momentum=0.9, nesterov="no"), "nesterov='no': expected True or False"),
        (lambda: Adam(betas=0.9), "betas=0.9: expected two numbers, 0 <= beta < 1"),
        (lambda: Adam(betas="ab"), r"betas\[0\]='a'"),
        (lambda: AdamW(eps=None), "eps=None"),
        (lambda: AdamW(weight_decay="a"), "weight_decay='a'"),
        (lambda: RMSProp(alpha="a"), "alpha='a': expected a number, 0 <= number < 1"),
        (lambda: Constant("a"), f"value='a': {NUMBER}$"),
        (lambda: LinearWarmup(None, 5), "peak=None"),
        (lambda: CosineDecay(1.0, 5, end="a"), "end='a'"),
        (lambda: ExponentialDecay([1.0], 0.5), r"initial=\[1.0\]"),
        (lambda: StepDecay(1.0, "a", 3), "factor='a'"),
        (lambda: clip_by_global_norm(draw(0), "a"), "max_norm='a': expected a finite number > 0"),
    ],
)
def test_what_is_no_number_is_refused(make, words):
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize("number", [1, np.float32(0.5), np.int64(1), np.array(0.25), Fraction(1, 3)], ids=repr)
def test_every_kind_of_number_becomes_a_float(number):
    assert type(Adam(number).learning_rate) is type(Constant(number).value) is float
    assert Adam(number).learning_rate == Constant(number).value == float(number)


@pytest.mark.parametrize("optimizer", [SGD(), Adam(), RMSProp()])
def test_gradients_that_do_not_fit_are_refused(optimizer):
    params, grads = draw(0), draw(1)
    state = optimizer.init(params)
    for change, error, words in [
        ({"lstm.bias_ih_l0": np.zeros((1,))}, ValueError, r"grads\['lstm.bias_ih_l0'\]: shape \(1,\); .*\(7,\)"),
        ({"0.weight": np.zeros((5, 3), dtype="float32")}, TypeError, r"grads\['0.weight'\]: dtype float32"),
        ({"more": np.zeros(2)}, ValueError, r"missing \[\], too many \['more'\]"),
    ]:
        with pytest.raises(error, match=words):
            optimizer.update({**grads, **change}, state, params)
    with pytest.raises(ValueError, match=r"missing \['0.weight'\]"):
        optimizer.update({k: g for k, g in grads.items() if k != "0.weight"}, state, params)
    with pytest.raises(ValueError, match="updates: expected the names of params"):
        apply_updates(params, {})
    with pytest.raises(TypeError):
        optimizer.init({})


# ---- clipping --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clipping(subject, dtype):
    grads = draw(3, dtype)
    expected = math.sqrt(math.fsum(float(g) ** 2 for array in grads.values() for g in array.flat))
    rtol = 2e-15 if dtype == "float64" else 7e-7  # measured: 1.6e-16 and 7e-8
    arrays = subject.array(grads)
    norm = subject.function(global_norm)(arrays)
    subject.formed(norm, dtype, ())
    np.testing.assert_allclose(float(norm), expected, rtol=rtol)
    for max_norm, scale in ((expected / 3, 1 / 3), (expected * 2, 1.0)):
        clipped, norm = subject.function(lambda g, m=max_norm: clip_by_global_norm(g, m))(arrays)
        subject.formed(norm, dtype, ())
        for name, shape in SHAPES.items():
            subject.formed(clipped[name], dtype, shape)
            if scale == 1:
                np.testing.assert_array_equal(subject.host(clipped[name]), grads[name])
            np.testing.assert_allclose(subject.host(clipped[name]), grads[name] * scale, rtol=4 * rtol)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_stops_everything(subject, bad):
    grads = draw(4)
    grads["0.weight"][2, 1] = bad
    clipped, norm = subject.function(lambda g: clip_by_global_norm(g, 1.0))(subject.array(grads))
    assert not math.isfinite(float(norm))
    for array in clipped.values():
        assert np.all(subject.host(array) == 0)


def test_zero_gradients_stay(subject):
    grads = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    clipped, norm = subject.function(lambda g: clip_by_global_norm(g, 1.0))(subject.array(grads))
    assert float(norm) == 0
    for array in clipped.values():
        assert np.all(subject.host(array) == 0)


# ---- schedules -------------------------------------------------------------------------------

SCHEDULES = [
    (Constant(0.3), lambda k: 0.3),
    (LinearWarmup(0.5, 7, start=0.1), lambda k: 0.1 + 0.4 * min(k / 7, 1)),
    (LinearWarmup(0.5, 0), lambda k: 0.5),
    (
        CosineDecay(0.5, total_steps=17, warmup_steps=5, start=0.1, end=0.02),
        lambda k: 0.1 + 0.4 * k / 5 if k < 5 else 0.02 + 0.48 * (1 + math.cos(math.pi * min((k - 5) / 12, 1))) / 2,
    ),
    (CosineDecay(0.5, total_steps=0), lambda k: 0.0),
    (ExponentialDecay(0.5, 0.7, 3), lambda k: 0.5 * 0.7 ** (k / 3)),
    (StepDecay(0.5, 0.7, 3), lambda k: 0.5 * 0.7 ** (k // 3)),
]


@pytest.mark.parametrize(("schedule", "formula"), SCHEDULES)
def test_schedules(subject, schedule, formula):
    hash(schedule)
    call = subject.function(schedule)
    for k in (0, 1, 3, 4, 5, 9, 17, 40):
        assert type(schedule(k)) is float
        assert math.isclose(schedule(k), formula(k), rel_tol=4e-15)  # measured: 3.3e-16
        value = call(subject.array(np.asarray(k, dtype=np.int32)))
        assert tuple(value.shape) == ()
        assert math.isclose(float(value), formula(k), rel_tol=6e-15)  # measured: 6e-16


# ---- the device ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [AdamW(case[0]) for case in SCHEDULES] + [SGD(momentum=0.9), RMSProp()])
def test_nothing_waits_for_the_device(optimizer):
    emulation = pytest.importorskip("cupy_on_cpu", reason="counts what CuPy asks of a device")
    cupy = backend("cupy")
    params, grads = cupy.asarray(draw(0)), cupy.asarray(draw(1))

    def step(state):
        clipped, _ = clip_by_global_norm(grads, 1.0)
        updates, state = optimizer.update(clipped, state, params)
        return apply_updates(params, updates), state

    state = step(optimizer.init(params))[1]
    with emulation.count() as counted:
        step(state)
    assert counted.launches > 0
    assert counted.syncs == counted.d2h == 0


# ---- initial values --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initializer", "mean_square"),
    [
        (initializers.zeros, 0.0),
        (initializers.uniform(0.3), 0.03),
        (initializers.normal(0.2), 0.04),
        (initializers.recurrent(25), 0.04 / 3),
    ],
)
def test_initial_values(initializer, mean_square):
    one, two = (initializer(np.random.default_rng(8), (211, 503)) for _ in range(2))
    assert one.dtype == np.float64
    assert one.shape == (211, 503)
    np.testing.assert_array_equal(one, two)
    assert abs(one.mean()) < 5 * math.sqrt(mean_square / one.size) + 1e-300
    np.testing.assert_allclose((one**2).mean(), mean_square, rtol=0.03)
