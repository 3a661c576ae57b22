"""The tools of the proof are themselves right: assertions that fail when they should, and the account of subjects."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import subjects

from polyrnn.backends import tree_map
from polyrnn.testing import TOLERANCES, assert_close, assert_equal, largest_error, unchanged

TREE = {"w": np.array([1.0, -2.0]), "s": (np.array([[0.5]]), None)}


def changed(**leaves):
    return TREE | leaves


WRONG = {
    "a value": (changed(w=np.array([1.0, -2.1])), r"actual\['w'\]: "),
    "a value in a tuple": (changed(s=(np.array([[0.6]]), None)), r"actual\['s'\]\[0\]: "),
    "not a number": (changed(w=np.array([1.0, np.nan])), r"actual\['w'\]: "),
    "infinite": (changed(w=np.array([np.inf, -2.0])), r"actual\['w'\]: "),
    "a dtype": (changed(w=np.array([1.0, -2.0], dtype="float32")), "dtype float32; expected float64"),
    "a shape": (changed(w=np.array([[1.0, -2.0]])), r"shape \(1, 2\); expected \(2,\)"),
    "one that would broadcast": (changed(s=(np.array([0.5]), None)), r"shape \(1,\); expected \(1, 1\)"),
    "a key too many": (changed(more=np.zeros(1)), "expected a dict of"),
    "a key too few": ({"w": TREE["w"]}, "expected a dict of"),
    "a tuple too long": (changed(s=(np.array([[0.5]]), None, None)), "expected a tuple of 2"),
    "an array for None": (changed(s=(np.array([[0.5]]), np.zeros(1))), "ndarray; expected NoneType"),
    "None for an array": (changed(w=None), "NoneType; expected ndarray"),
}


@pytest.mark.parametrize("assertion", [assert_close, assert_equal])
@pytest.mark.parametrize("name", WRONG)
def test_a_difference_is_found(name, assertion):
    actual, message = WRONG[name]
    assertion(TREE, TREE)
    with pytest.raises(AssertionError, match=message):
        assertion(actual, TREE)


@subjects.vary(lambda subject: subject.library != "numpy" and "jit" not in subject.tags)
def test_another_namespace_is_found(subject):
    own = subject.array(TREE)
    assert_close(own, tree_map(subject.array, TREE))
    with pytest.raises(AssertionError, match=f"namespace {subject.library}; expected numpy"):
        assert_close(own, TREE)
    with pytest.raises(AssertionError, match=f"namespace numpy; expected {subject.library}"):
        assert_close(TREE, TREE, like=own["w"])
    assert_close(own, TREE, like=own["w"])
    with pytest.raises(AssertionError, match="dtype float32; expected float64"):
        subject.close(subject.array(TREE, "float32"), TREE, "forward", "float64")


def test_limits():
    limit = TOLERANCES["forward", "float64"].limit
    assert assert_close(np.array([1 + limit / 2]), np.ones(1)) == pytest.approx(limit / 2, rel=0.1)
    with pytest.raises(AssertionError, match="expected at most"):
        assert_close(np.array([1 + 2 * limit]), np.ones(1))
    assert_close(np.array([1.4]), np.ones(1), 0.5)
    with pytest.raises(AssertionError):
        assert_close(np.array([3]), np.array([4]), 2.0)  # integers must be equal
    assert all(t.measured < t.limit < 20 * t.measured for t in TOLERANCES.values())


def test_the_largest_error():
    assert largest_error([0.0, 1.0], [0.0, 1.5]) == pytest.approx(1 / 3)
    assert largest_error([0.25], [0.5]) == 0.25
    assert largest_error([np.nan, np.inf], [np.nan, np.inf]) == 0
    assert largest_error([np.nan], [0.0]) == largest_error([0.0], [np.inf]) == np.inf
    assert largest_error([1e300, 2.0], [1e300, 1.0]) < 1e-299
    assert largest_error([], []) == 0


def test_a_changed_argument_is_found():
    x = {"a": np.zeros(3), "b": (np.zeros((2, 2)), None)}
    with unchanged(x):
        x["a"] + 1
    with pytest.raises(AssertionError, match="was changed"), unchanged(x):
        x["b"][0][1, 0] = -0.0  # equal, but not the same bits


# ---- the account of subjects -----------------------------------------------------------------------------------


def session(asked: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and output of a session of its own on one file of tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | environment
    file = Path(__file__).with_name("test_modules.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), *arguments]
    done = subprocess.run(
        command, env=env | {subjects.VARIABLE: asked}, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_a_subject_that_ran_passes():
    code, output = session("numpy", "-k", "test_dropout_with_a_mask")
    assert code == 0, output
    assert re.search("^numpy: [1-9][0-9]* tests", output, re.MULTILINE), output
    assert "strict: not asked for" in output


def test_a_subject_that_ran_no_test_fails_the_session():
    code, output = session("numpy,numpy_readonly", "-k", "test_dropout_with_a_mask and not readonly")
    assert code == 1
    assert "FAILED numpy_readonly was asked for in POLYRNN_TEST_SUBJECTS and ran no test" in output


def test_a_subject_that_cannot_run_fails_the_session():
    code, output = session("numpy,cupy", CUDA_VISIBLE_DEVICES="", CUPY_ON_CPU="0")  # no device, whatever is there
    assert code != 0
    assert "cupy was asked for and cannot run: " in output


def test_an_unknown_subject_fails_the_session():
    code, output = session("nunpy")
    assert code != 0
    assert "'nunpy'; expected some of numpy, numpy_readonly" in output
