"""The seam: how a backend is chosen and refused, and what it adds to the standard, against plain references."""

import importlib.util
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from subjects import ALL, running, tagged, vary

import polyrnn as pr
from polyrnn.backends import leaves

NAMES = ("numpy", "cupy", "jax", "torch", "array_api_strict")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "POLYRNN_", "CUPY_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- choosing --------------------------------------------------------------------------------------------------


def test_numpy_is_the_default(monkeypatch):
    monkeypatch.delenv("POLYRNN_BACKEND", raising=False)
    assert pr.backend().name == "numpy"
    assert pr.backend() is pr.backend("numpy") is pr.backend(pr.backend("numpy"))
    assert pr.LSTM(3, 5).init()["weight_ih_l0"].__class__ is np.ndarray
    assert repr(pr.backend()) == "Backend('numpy')"


def test_the_environment_variable_chooses(subject, monkeypatch):
    monkeypatch.setenv("POLYRNN_BACKEND", subject.library)
    assert pr.backend().name == subject.library
    params = pr.LSTM(3, 5).init()
    assert pr.backend_of(params).name == subject.library


@pytest.mark.parametrize("value", ["", "numpy"])
def test_an_empty_variable_is_none(monkeypatch, value):
    monkeypatch.setenv("POLYRNN_BACKEND", value)
    assert pr.backend().name == "numpy"


def test_a_wrong_variable_is_named(monkeypatch):
    monkeypatch.setenv("POLYRNN_BACKEND", "nunpy")
    with pytest.raises(ValueError, match=r"POLYRNN_BACKEND='nunpy'.*numpy, cupy, jax, torch, array_api_strict"):
        pr.backend()


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"name='tensorflow'.*numpy, cupy, jax, torch, array_api_strict"):
        pr.backend("tensorflow")


@pytest.mark.parametrize("device", ["cuda:0", "nowhere", 99])
def test_an_unknown_device_of_numpy(device):
    with pytest.raises(ValueError, match=r"device=.*numpy has one device, 'cpu'"):
        pr.backend("numpy", device)


def test_an_unknown_device(subject):
    with pytest.raises(ValueError, match="device='nowhere:7'"):
        pr.backend(subject.library, "nowhere:7")


def test_the_backend_of_arrays(subject):
    x = subject.array(np.ones((2, 3)))
    assert pr.backend_of(x) is pr.backend(subject.library)
    assert pr.backend_of({"a": x, "b": (None, x)}) is pr.backend(subject.library)


@vary(lambda s: s.library != "numpy" and "jit" not in s.tags)
def test_mixed_backends_are_refused_by_name(subject):
    mixed = {"a": np.ones(3), "b": subject.array(np.ones(3))}
    with pytest.raises(TypeError, match=r"weights: arrays of .* are mixed.*asarray") as error:
        pr.backend_of(mixed, "weights")
    assert "numpy" in str(error.value) and subject.library in str(error.value)


@pytest.mark.parametrize(("thing", "what"), [([1.0], "list"), (1.0, "float"), ("x", "str"), (object(), "object")])
def test_what_is_no_array_is_refused(thing, what):
    with pytest.raises(TypeError, match=rf"x: builtins.{what}.*array of numpy, cupy, jax, torch"):
        pr.backend_of({"x": thing}, "x")


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="MaskedArray"):
        pr.backend_of(np.ma.masked_array([1.0]))


@pytest.mark.parametrize("nothing", [None, {}, (), {"a": None}], ids=str)
def test_no_array_at_all(nothing):
    with pytest.raises(TypeError, match="expected at least one array"):
        pr.backend_of(nothing)


# ---- what can run here -----------------------------------------------------------------------------------------


def test_available_backends():
    found = pr.available_backends()
    assert tuple(found) == NAMES
    for name, entry in found.items():
        assert entry.name == name
        if entry.available:
            assert entry.version and entry.devices and entry.reason is None and entry.remedy is None
            assert pr.backend(name).name == name
        else:
            assert entry.reason and entry.remedy and entry.version is None and entry.devices == ()
            with pytest.raises(pr.BackendUnavailable) as error:
                pr.backend(name)
            assert repr(name) in str(error.value)
            assert entry.reason in str(error.value) and entry.remedy in str(error.value)
    assert found["numpy"].available and found["numpy"].version == np.__version__


def test_what_is_not_installed_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cupy" else real(name, *a))
    found = pr.available_backends()["cupy"]
    assert not found.available
    assert found.reason == "cupy is not installed"
    assert "cupy-cuda13x[ctk]" in found.remedy and "cupy-cuda12x[ctk]" in found.remedy


def test_cupy_without_a_gpu_says_so():
    if importlib.util.find_spec("cupy") is None:
        assert "not installed" in pr.available_backends()["cupy"].reason
        return
    if importlib.util.find_spec("cupy_on_cpu") is None:  # a real GPU may be here
        assert pr.available_backends()["cupy"].available or pr.available_backends()["cupy"].remedy
        return
    code = "import polyrnn as pr; a = pr.available_backends()['cupy']; print(a.available, '|', a.reason, '|', a.remedy)"
    available, reason, remedy = python(code, CUPY_ON_CPU="0").split(" | ")
    assert available == "False"
    assert "no CUDA device can be used" in reason
    assert "driver" in remedy
    code = "import polyrnn as pr\ntry: pr.backend('cupy')\nexcept pr.BackendUnavailable as e: print(e)"
    assert "no CUDA device can be used" in python(code, CUPY_ON_CPU="0")


@vary(lambda s: s.name == "jax")
def test_float64_on_jax_without_its_switch_is_refused(subject):
    code = (
        "import numpy as np, polyrnn as pr\n"
        "b = pr.backend('jax')\n"
        "tries = [lambda: b.asarray(np.ones(3)), lambda: b.asarray([1, 2], 'float64'), lambda: b.dtype('float64'),\n"
        "         lambda: pr.LSTM(3, 5).init(backend='jax', dtype='float64')]\n"
        "for f in tries:\n"
        "    try: print('accepted', f())\n"
        "    except ValueError as e: print(e)\n"
        "print(b.asarray(np.ones(3), 'float32').dtype, pr.LSTM(3, 5).init(backend='jax')['weight_ih_l0'].dtype)\n"
    )
    *refused, last = python(code, JAX_PLATFORMS="cpu").splitlines()
    assert len(refused) == 4
    assert all("float64" in line and "jax_enable_x64" in line for line in refused), refused
    assert last == "float32 float32"


# ---- moving arrays ---------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any


def test_trees_go_there_and_back(subject, rng):
    tree = {"a": rng.standard_normal((2, 3)), "b": Pair(rng.standard_normal(5), None), "c": (np.arange(3), (True,))}
    there = subject.backend.asarray(tree)
    assert isinstance(there, dict) and isinstance(there["b"], Pair) and there["b"].second is None
    assert all(pr.backend_of(leaf) is subject.backend for leaf in leaves(there))
    back = subject.backend.to_numpy(there)
    assert isinstance(back["b"], Pair) and isinstance(back["c"], tuple)
    for a, b in zip(leaves(back), leaves(tree), strict=True):
        assert isinstance(a, (np.ndarray, np.generic)) and np.array_equal(a, b)
    assert back["a"].dtype == "float64" and back["c"][0].dtype == "int64" and back["c"][1][0].dtype == "bool"
    subject.backend.synchronize()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_a_dtype_by_name(subject, dtype):
    array = subject.backend.asarray([[1, 0], [3, 2]], dtype)
    assert array.dtype == subject.backend.dtype(dtype)
    assert np.array_equal(subject.host(array), np.array([[1, 0], [3, 2]], dtype))
    again = subject.backend.asarray(array, dtype)
    assert np.array_equal(subject.host(again), subject.host(array))


def test_an_unknown_dtype(subject):
    with pytest.raises(ValueError, match=f"dtype='float23'.*{subject.library}"):
        subject.backend.dtype("float23")
    with pytest.raises(ValueError, match="float23"):
        pr.LSTM(3, 5).init(backend=subject.library, dtype="float23")


@vary(lambda s: "jit" not in s.tags and s.library != "numpy")
def test_arrays_of_another_library_are_moved_over_the_host(subject):
    there = subject.backend.asarray(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(pr.backend("numpy").asarray(subject.host(there)), np.arange(6.0).reshape(2, 3))
    for other in running():
        if "jit" not in other.tags and other.library not in (subject.library, "numpy"):
            moved = other.backend.asarray(subject.host(there))
            assert pr.backend_of(moved) is other.backend


# ---- what the standard lacks -----------------------------------------------------------------------------------


def reference(step: Any, carry: Any, xs: np.ndarray, order: Any) -> tuple[Any, np.ndarray]:
    ys = {}
    for t in order:
        carry, ys[t] = step(carry, xs[t])
    return carry, np.array([ys[t] for t in sorted(ys)]).reshape(len(xs), *xs.shape[1:])


@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan(subject, rng, reverse, length):
    xs, carry = rng.standard_normal((length, 3, 2)), rng.standard_normal((3, 2))

    def plain(c: Any, x: Any) -> tuple[Any, Any]:
        return 0.5 * c + x, c * x

    def step(carry: Any, xs: Any) -> tuple[Any, Any]:
        (c, none), (x, absent) = carry, (xs["x"], xs["none"])
        assert none is None and absent is None
        c, y = plain(c, x)
        return (c, None), Pair({"y": y}, None)

    def run(carry: Any, xs: Any) -> Any:
        return subject.backend.scan(step, (carry, None), {"x": xs, "none": None}, reverse=reverse)

    (end, none), ys = subject.function(run)(*subject.array((carry, xs)))
    assert none is None and isinstance(ys, Pair) and ys.second is None
    wanted, outputs = reference(plain, carry, xs, range(length - 1, -1, -1) if reverse else range(length))
    subject.close(end, wanted, "forward", "float64")
    subject.close(ys.first["y"], outputs, "forward", "float64")


@pytest.mark.parametrize("length", [0, 1, 4, 8, 11])
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_over_blocks(subject, rng, reverse, length):
    """The body sees 4 steps at a time, the shorter rest last; each kind of output comes back in time order."""
    xs, extra = rng.standard_normal((length, 3, 2)), rng.standard_normal((length, 5))
    carry = rng.standard_normal((3, 2))
    xp = subject.xp

    def body(carry: Any, block: Any) -> tuple[Any, Any]:
        x, (other, none) = block
        assert none is None and x.shape[0] <= 4 and x.shape[0] == other.shape[0]
        weight = 1.0 if reverse else 3.0
        return 0.5 * carry + weight * xp.sum(x, axis=0), (x * carry, Pair(other * 2.0, None))

    def run(carry: Any, xs: Any, extra: Any) -> Any:
        return subject.backend.scan_blocks(body, carry, (xs, (extra, None)), 4, reverse=reverse)

    end, (ys, pair) = subject.function(run)(*subject.array((carry, xs, extra)))
    outputs, starts = np.zeros_like(xs), list(range(0, max(length, 1), 4))
    for start in reversed(starts) if reverse else starts:
        outputs[start : start + 4] = xs[start : start + 4] * carry
        carry = 0.5 * carry + (1.0 if reverse else 3.0) * xs[start : start + 4].sum(axis=0)
    subject.close(end, carry, "forward", "float64")
    subject.close(ys, outputs, "forward", "float64")
    subject.close(pair, Pair(extra * 2.0, None), "forward", "float64")


def test_transposable_weights_are_the_same(subject, rng):
    params = {
        "weight": rng.standard_normal((3, 2)),
        "stack": rng.standard_normal((5, 3, 2)),
        "bias": rng.standard_normal(3),
    }
    found = subject.function(lambda params: subject.backend.transposable(params)())(subject.array(params))
    assert sorted(found) == sorted(params)
    for name, wanted in params.items():
        subject.close(found[name], wanted, "same", "float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("count", [0, 1, 23])
def test_scatter_add(subject, rng, count, dtype):
    values, index = rng.standard_normal((count, 3)), rng.integers(0, 6, count)
    expected = np.zeros((7, 3))
    np.add.at(expected, index, values)

    def run(values: Any, index: Any) -> Any:
        return subject.backend.scatter_add(values, index, 7)

    found = subject.function(run)(subject.array(values, dtype), subject.array(index))
    subject.close(found, expected, "gradient", dtype)
    assert not subject.host(found)[6].any()


@tagged("concrete", kernels=False)
def test_values_are_concrete(subject):
    assert subject.backend.is_concrete(subject.array(np.ones(3)))
    assert subject.backend.is_concrete({"a": (subject.array(np.ones(3)), None)})


@tagged("jit", kernels=False)
def test_values_under_a_trace_are_not(subject):
    seen = []

    def run(x: Any) -> Any:
        seen.append(subject.backend.is_concrete({"a": x}))
        return x

    subject.function(run)(subject.array(np.ones(3)))
    assert seen == [False]


def test_jit_is_the_function(subject, rng):
    x = rng.standard_normal((3, 2))
    doubled = subject.backend.jit(lambda x: {"y": x * 2.0})
    subject.close(doubled(subject.array(x)), {"y": 2 * x}, "forward", "float64")


def test_the_subjects_of_this_run():
    """The table of subjects and the registry name the same libraries."""
    assert {subject.library for subject in ALL.values()} == set(NAMES)
    assert running()
