"""The node test cases that the package onnx carries: every one whose operator is supported, by name.

Those of RNN, LSTM and GRU must all pass; of the others all but those that the table below leaves out, with the reason.
"""

import functools
import re
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from polyrnn.interop import onnx

RECURRENT = ("RNN", "LSTM", "GRU")
ALL = {*onnx.OPERATORS, "Constant"}
# Refused when the model is loaded, and rightly so; by what the message says.
REFUSED = {
    r"of the element type|has the element type": "types other than float16 to float64, integers of 8 to 64 bits, bool",
    r"training_mode is not false": "dropout while training",
    r"select_last_index": "ArgMax",
    r"is a (sequence|optional)_type": "sequences and optional values",
}


@functools.cache
def cases() -> dict[str, Any]:
    """Those models whose nodes are all of operators that are supported; the package computes them when asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of the cases that it makes
        found = load_model_tests(kind="node")
    return {case.name: case for case in found if {node.op_type for node in case.model.graph.node} <= ALL}


def kinds(name: str) -> set[str]:
    return {node.op_type for node in cases()[name].model.graph.node}


NAMES = sorted(cases())
OURS = [name for name in NAMES if kinds(name) & set(RECURRENT)]


def values(protos: list[Any]) -> list[np.ndarray]:
    return [np.asarray(a) if isinstance(a, (np.ndarray, np.generic)) else numpy_helper.to_array(a) for a in protos]


@functools.cache
def refused() -> dict[str, str]:
    """By name the reason, of those that are refused when they are loaded."""
    found = {}
    for name in NAMES:
        try:
            onnx.load(cases()[name].model.SerializeToString())
        except ValueError as error:
            found[name] = str(error)
    return found


def test_there_are_enough():
    assert len(OURS) == 18
    assert len(NAMES) - len(refused()) > 550
    assert not set(OURS) & refused().keys()


@pytest.mark.parametrize("name", OURS)
def test_recurrent(name):
    run(name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(OURS) - refused().keys()))
def test_others(name):
    run(name)


@pytest.mark.parametrize("name", refused())
def test_refused(name):
    """For one of the reasons in the table, and before anything runs."""
    assert [reason for pattern, reason in REFUSED.items() if re.search(pattern, refused()[name])], refused()[name]


def run(name: str) -> None:
    case = cases()[name]
    graph = onnx.load(case.model)
    for inputs, outputs in case.data_sets:
        given = {value.name: array for value, array in zip(case.model.graph.input, values(inputs), strict=True)}
        found = graph.run({value.name: given[value.name] for value in graph.inputs})
        for value, expected in zip(graph.outputs, values(outputs), strict=True):
            array = found[value.name]
            assert array.dtype == expected.dtype == value.dtype
            assert array.shape == expected.shape
            np.testing.assert_allclose(array, expected, rtol=case.rtol, atol=case.atol)
