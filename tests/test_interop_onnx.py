"""ONNX models in: the recurrent operators against ONNX Runtime, whole models against PyTorch's exports, every
operator's gradient against differences, and all that is refused.

That the operators compute what ONNX says, its own node cases show: `test_interop_onnx_nodes.py`.
"""

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from oracle.stored import FILE
from safetensors import safe_open
from safetensors.numpy import load_file
from subjects import near, running, without_kernels

pytest.importorskip("onnx")

from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper, reference

import polyrnn as pr
from polyrnn.interop import onnx

subject = without_kernels  # the graph's operators have none, and those of the layers have tests of their own
table = importlib.import_module("polyrnn.interop.onnx._table")
ORDER = {"RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h")}
ORDER |= {"GRU": ORDER["RNN"], "LSTM": (*ORDER["RNN"], "initial_c", "P")}
RESULTS = {"RNN": ("Y", "Y_h"), "GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c")}
T, N, I, H = 5, 3, 2, 7


def value(name: str, array: Any) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def model(
    nodes: list, inputs: dict[str, np.ndarray], outputs: tuple[str, ...], opset: int = 22, fixed: Any = (), **more: Any
) -> ModelProto:
    """With the shapes and dtypes of these inputs, and `fixed` as initializers; outputs of any shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [value(name, array) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(fixed).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10, **more)


def recurrent(kind: str, arrays: dict, attributes: dict, opset: int = 22, fixed: bool = False) -> ModelProto:
    """One node; its inputs are inputs of the graph, or with `fixed` the weights are in the file."""
    names = [name if name in arrays else "" for name in ORDER[kind]]
    node = helper.make_node(kind, names, RESULTS[kind], name="cell", **attributes)
    weights = {name: arrays[name] for name in ("W", "R", "B", "P") if name in arrays} if fixed else {}
    inputs = {name: array for name, array in arrays.items() if name not in weights}
    return model([node], inputs, RESULTS[kind], opset, weights)


def arrays_of(kind: str, seed: int = 0, D: int = 1, **more: Any) -> dict[str, np.ndarray]:
    """Random weights, states and input, float64."""
    rng, rows = np.random.default_rng([seed, len(kind), D]), {"RNN": 1, "GRU": 3, "LSTM": 4}[kind] * H
    shapes = {"X": (T, N, I), "W": (D, rows, I), "R": (D, rows, H), "B": (D, 2 * rows), "initial_h": (D, N, H)}
    shapes |= {"initial_c": (D, N, H), "P": (D, 3 * H)} if kind == "LSTM" else {}
    scale = {"W": 0.7, "R": 0.4, "B": 0.5}
    found = {name: scale.get(name, 1.0) * rng.standard_normal(shape) for name, shape in shapes.items()}
    return found | more


# ---- the recurrent operators ----------------------------------------------------------------------------------------

with safe_open(FILE.with_name("onnx_variants.safetensors"), framework="numpy") as _file:
    STORED = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118
    OPERATORS = json.loads(_file.metadata()["about"])["cases"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_those_of_onnx_runtime(name, dtype):
    kind, attributes = OPERATORS[name]
    found = {key: STORED[f"{name}/{key}"] for key in ORDER[kind] if f"{name}/{key}" in STORED}
    found = {key: a.astype(dtype) if a.dtype == np.float32 else a for key, a in found.items()}
    attributes = {key: v for key, v in attributes.items() if key not in ("P", "B", "sequence_lens")}
    results = onnx.load(recurrent(kind, found, attributes | {"hidden_size": 7})).run(found)
    for key in RESULTS[kind]:
        assert results[key].dtype == dtype
        near(results[key], STORED[f"{name}/{key}"], "forward", key, "float32")


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("lengths", [None, (3, 0, 5)])
def test_directions_are_two_of_one(kind, lengths):
    """Both at once, with activations of their own, are one forward and one in reverse; with a length of 0 too."""
    functions = {"RNN": ["Tanh", "Softsign"], "GRU": ["Sigmoid", "Tanh", "HardSigmoid", "Elu"]}
    functions["LSTM"] = ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Softsign", "Affine"]
    constants = {"GRU": ([0.3, 0.6], [0.4]), "LSTM": ([0.3, 0.7], [0.4, 0.1]), "RNN": ([], [])}[kind]
    more = {} if lengths is None else {"sequence_lens": np.int32(lengths)}
    a, half = arrays_of(kind, D=2, **more), len(functions[kind]) // 2
    options = {"activation_alpha": constants[0], "activation_beta": constants[1]} if constants[0] else {}
    both = {"direction": "bidirectional", "activations": functions[kind], **options}
    results = onnx.load(recurrent(kind, a, both)).run(a)
    for d, (direction, own) in enumerate(
        (("forward", functions[kind][:half]), ("reverse", functions[kind][half:])),
    ):
        one = {key: v if key in ("X", "sequence_lens") else v[d : d + 1] for key, v in a.items()}
        given = {"direction": direction, "activations": own} | (options if d else {})
        alone = onnx.load(recurrent(kind, one, given)).run(one)
        near(results["Y"][:, d], alone["Y"][:, 0], "same")
        for key in RESULTS[kind][1:]:
            near(results[key][d], alone[key][0], "same")
            if lengths is not None:
                np.testing.assert_array_equal(alone[key][0, 1], a["initial" + key[1:]][d, 1])
    if lengths is not None:
        past = np.arange(T)[:, None] >= np.asarray(lengths)
        assert not results["Y"].transpose(0, 2, 1, 3)[past].any()


@pytest.mark.parametrize("kind", ORDER)
def test_reverse_is_forward_on_the_reversed_sequence(kind):
    a, lengths = arrays_of(kind), [4, 2, 5]
    turned = a["X"].copy()
    for n, length in enumerate(lengths):
        turned[:length, n] = a["X"][:length, n][::-1]
    a["sequence_lens"] = np.int32(lengths)
    one = onnx.load(recurrent(kind, a, {"direction": "reverse"})).run(a)
    other = onnx.load(recurrent(kind, a, {})).run(a | {"X": turned})
    for n, length in enumerate(lengths):
        near(one["Y"][:length, 0, n], other["Y"][:length, 0, n][::-1], "same")
    for key in RESULTS[kind][1:]:
        near(one[key], other[key], "same")


@pytest.mark.parametrize("kind", ORDER)
def test_layout(kind):
    a = arrays_of(kind, D=2, sequence_lens=np.int32([4, 5, 2]))
    turned = {n: v.swapaxes(0, 1) if n == "X" or n.startswith("initial") else v for n, v in a.items()}
    one = onnx.load(recurrent(kind, a, {"direction": "bidirectional"})).run(a)
    other = onnx.load(recurrent(kind, turned, {"direction": "bidirectional", "layout": 1})).run(turned)
    assert other["Y"].shape == (N, T, 2, H)
    near(other["Y"], one["Y"].transpose(2, 0, 1, 3), "same")
    for key in RESULTS[kind][1:]:
        near(other[key], one[key].swapaxes(0, 1), "same")


@pytest.mark.parametrize("kind", ORDER)
def test_what_is_absent_is_zero(kind):
    a = arrays_of(kind)
    bare = {name: a[name] for name in ("X", "W", "R")}
    zeros = {name: np.zeros_like(v) for name, v in a.items() if name not in bare}
    one, other = onnx.load(recurrent(kind, bare, {})).run(bare), onnx.load(recurrent(kind, a, {})).run(bare | zeros)
    for key in RESULTS[kind]:
        near(one[key], other[key], "same")
    node = helper.make_node(kind, ["X", "W", "R"], ["", "Y_h"])  # and Y may be absent
    near(onnx.load(model([node], bare, ("Y_h",))).run(bare)["Y_h"], one["Y_h"], "same")


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("sizes", [(0, 3), (4, 0), (0, 0)])
def test_no_steps_and_no_examples(kind, sizes):
    a = arrays_of(kind)
    a = {n: v[:, : sizes[1]] if n == "X" or n.startswith("initial") else v for n, v in a.items()} | {}
    a["X"] = a["X"][: sizes[0]]
    results = onnx.load(recurrent(kind, a, {})).run(a)
    assert results["Y"].shape == (sizes[0], 1, sizes[1], H)
    if not sizes[0]:
        np.testing.assert_array_equal(results["Y_h"], a["initial_h"])


def test_half_precision():
    a = {n: v.astype("float16") for n, v in arrays_of("LSTM").items()}
    results = onnx.load(recurrent("LSTM", a, {})).run(a)
    exact = {n: v.astype("float64") for n, v in a.items()}
    expected = onnx.load(recurrent("LSTM", exact, {})).run(exact)
    for key in RESULTS["LSTM"]:
        assert results[key].dtype == np.float16
        np.testing.assert_allclose(results[key], expected[key], atol=5e-3)


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("opset", [1, 3, 7, 14, 22, 28])
def test_opsets(kind, opset):
    """The same from the beginning, but for what was added."""
    a = arrays_of(kind)
    newest = onnx.load(recurrent(kind, a, {})).run(a)
    old = {"output_sequence": 1} if opset < 7 else {}
    results = onnx.load(recurrent(kind, a, old, opset)).run(a)
    for key in RESULTS[kind]:
        np.testing.assert_array_equal(results[key], newest[key])
    if opset < 7:
        with pytest.raises(ValueError, match="output_sequence=0"):
            onnx.load(recurrent(kind, a, {}, opset))
    else:
        with pytest.raises(ValueError, match=f"'output_sequence'.*opset {opset}"):
            onnx.load(recurrent(kind, a, {"output_sequence": 1}, opset))
    if opset < 14:
        with pytest.raises(ValueError, match=f"'layout'.*opset {opset}"):
            onnx.load(recurrent(kind, a, old | {"layout": 1}, opset))


BAD_ATTRIBUTES = [
    ("LSTM", {"activations": ["Sigmoid", "Tanh"]}, "expected 3 for each of 1"),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Swish"]}, "no 'Swish'"),
    ("GRU", {"activations": ["Sigmoid"] * 2, "direction": "bidirectional"}, "expected 2 for each of 2"),
    ("RNN", {"activations": ["Affine"]}, "Affine needs activation_alpha"),
    ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [1.0]}, "needs activation_alpha and activation_beta"),
    ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.0], "activation_beta": [1.0]}, "alpha not 0"),
    ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [float("nan")]}, "no finite number"),
    ("RNN", {"activation_alpha": [0.3]}, "more numbers than"),
    ("RNN", {"direction": "sideways"}, "direction='sideways'"),
    ("RNN", {"direction": 1}, r"'direction' \(int\)"),
    ("RNN", {"clip": -1.0}, "clip=-1.0"),
    ("RNN", {"clip": float("nan")}, "clip=nan"),
    ("RNN", {"layout": 2}, "layout=2"),
    ("RNN", {"linear_before_reset": 1}, "'linear_before_reset'"),
    ("LSTM", {"input_forget": 1, "activations": ["Tanh"] * 3}, "input_forget with the activation tanh"),
]


@pytest.mark.parametrize(("kind", "attributes", "message"), BAD_ATTRIBUTES)
def test_bad_attributes(kind, attributes, message):
    with pytest.raises(ValueError, match=message) as error:
        onnx.load(recurrent(kind, arrays_of(kind), attributes))
    assert "node 'cell'" in str(error.value)


BAD_SHAPES = [
    ({"hidden_size": 5}, {}, "hidden_size=5"),
    ({}, {"W": (1, 4 * H, I + 1)}, "x has shape"),
    ({}, {"W": (2, 4 * H, I)}, "W has the shape"),
    ({}, {"R": (1, 3 * H, H)}, "R has the shape"),
    ({}, {"R": ()}, "H = 0 of R"),
    ({}, {"B": (1, 4 * H)}, "B has the shape"),
    ({}, {"P": (1, 4 * H)}, "P has the shape"),
    ({}, {"X": (T, N)}, "X has the shape"),
    ({}, {"initial_h": (2, N, H)}, "initial_h has 2 directions"),
    ({}, {"initial_c": (1, N + 1, H)}, "state c"),
    ({}, {"initial_h": (H,)}, "initial_h|state h"),
    ({"direction": "bidirectional"}, {}, "W has the shape"),
]


@pytest.mark.parametrize(("attributes", "shapes", "message"), BAD_SHAPES)
def test_bad_shapes(attributes, shapes, message):
    a = arrays_of("LSTM") | {name: np.ones(shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message) as error:
        onnx.load(recurrent("LSTM", a, attributes)).run(a)
    assert "node 'cell'" in str(error.value)


@pytest.mark.parametrize("lengths", [[3, 1], [3, 1, 6], [3, 1, -1], [[3, 1, 5]]])
def test_bad_lengths(lengths):
    a = arrays_of("GRU", sequence_lens=np.int32(lengths))
    with pytest.raises(ValueError, match="lengths"):
        onnx.load(recurrent("GRU", a, {})).run(a)


# ---- whole models ---------------------------------------------------------------------------------------------------

EXPORTS = sorted((FILE.parent / "onnx_exports").glob("*.onnx"))


def parts(path: Any) -> tuple[dict, ...]:
    """Inputs, outputs, the outputs' gradients, and the gradients that PyTorch has."""
    found = load_file(path.with_suffix(".safetensors"))
    split = (
        {n.removeprefix(p): a for n, a in found.items() if n.startswith(p)} for p in ("in/", "out/", "up/", "grad/")
    )
    return tuple(split)


def test_the_exports_are_there():
    assert len(EXPORTS) >= 5


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_exports(subject, path):
    """Results are ONNX Runtime's, gradients PyTorch's; on every backend, with what moves to it moved."""
    inputs, outputs, ups, gradients = parts(path)
    graph = onnx.load(path)
    assert {v.name: v.dtype for v in graph.inputs} == {n: a.dtype.name for n, a in inputs.items()}
    given, above = subject.array(inputs), subject.array(ups)
    with pr.testing.unchanged((given, above)):
        results = graph.run(given)
        again, tape = graph.forward(given)
        found = graph.backward(tape, above)
    for name, expected in outputs.items():
        subject.close(results[name], expected, "forward", "float32", name)
        subject.close(again[name], expected, "forward", "float32", name)
    floats = {n for n, a in inputs.items() if a.dtype == np.float32}
    assert set(found) == floats | set(graph.params)
    assert gradients
    for name, expected in gradients.items():
        assert np.abs(expected).max() > 1e-3
        subject.close(found[name], expected, "gradient", "float32", name)


def test_other_sizes_than_those_of_the_export():
    path = FILE.parent / "onnx_exports" / "torch_classifier.onnx"
    graph = onnx.load(str(path))
    ids = np.random.default_rng(0).integers(0, 11, (4, 9))
    whole = graph.run({"ids": ids})
    for n in range(4):
        one = graph.run({"ids": ids[n : n + 1]})
        near(one["p"][0], whole["p"][n], "forward", "p", "float32")
    assert repr(graph) == "Graph(ids -> p, h, 22 nodes, opset 20)"
    assert graph.inputs == (onnx.Value("ids", "int64", ("N", "T")),)


def test_fine_tuning():
    """Steps along the gradient make the loss smaller, and the file's own parameters stay as they are."""
    path = FILE.parent / "onnx_exports" / "torch_simple.onnx"
    graph, (inputs, *_) = onnx.load(path), parts(path)
    before = {name: a.copy() for name, a in graph.params.items()}
    params, target = dict(graph.params), np.float32([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    losses = []
    for _ in range(5):
        outputs, tape = graph.forward(inputs, params=params)
        losses.append(float(((outputs["p"] - target) ** 2).sum()))
        grads = graph.backward(tape, {"p": 2 * (outputs["p"] - target)})
        params = {name: a - np.float32(0.1) * grads[name] for name, a in params.items()}
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    for name, a in graph.params.items():
        np.testing.assert_array_equal(a, before[name])
    assert np.abs(graph.run(inputs, params=params)["p"] - graph.run(inputs)["p"]).max() > 1e-3


def test_under_jit():
    """Shapes are on the host, so a graph traces as a whole."""
    if "jax" not in {subject.name for subject in running()}:
        pytest.skip("JAX is no subject of this run")
    jax = importlib.import_module("jax")
    path = FILE.parent / "onnx_exports" / "torch_simple.onnx"
    graph, (inputs, outputs, *_) = onnx.load(path), parts(path)
    x = pr.backend("jax").asarray(inputs["x"])
    found = jax.jit(lambda x: graph.run({"x": x})["p"])(x)
    near(np.asarray(found), outputs["p"], "forward", "p", "float32")
    near(np.asarray(graph.run({"x": x})["p"]), outputs["p"], "forward", "p", "float32")  # nothing of the trace is kept


def test_jax_without_64_bits():
    """The positions of an export, of 64 bits with the largest number for "the end", are no trouble there."""
    if "jax" not in {subject.name for subject in running()}:
        pytest.skip("JAX is no subject of this run")
    path = FILE.parent / "onnx_exports" / "torch_classifier.onnx"
    code = f"""
import warnings; warnings.simplefilter("error")
import numpy as np, polyrnn as pr
from polyrnn.interop import onnx
graph = onnx.load({str(path)!r})
ids = np.int32([[1, 2, 3]])
wide = graph.run({{"ids": ids.astype("int64")}})["p"]
assert (graph.run({{"ids": ids}})["p"] == wide).all()
near = graph.run({{"ids": pr.backend("jax").asarray(ids)}})["p"]
assert abs(np.asarray(near) - wide).max() < 1e-6
"""
    environment = {n: v for n, v in os.environ.items() if n != "JAX_ENABLE_X64"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_without_inputs():
    nodes = [helper.make_node("Add", ["w", "c"], ["y"]), helper.make_node("Identity", ["w"], ["z"])]
    nodes.insert(0, helper.make_node("Constant", [], ["c"], value_float=2.0))
    graph = onnx.load(model(nodes, {}, ("y", "z"), fixed={"w": np.float32([1, 2])}))
    np.testing.assert_array_equal(graph.run({})["y"], np.float32([3, 4]))
    outputs, tape = graph.forward({}, params={"w": np.float32([5, 6])})
    np.testing.assert_array_equal(outputs["z"], np.float32([5, 6]))
    np.testing.assert_array_equal(graph.backward(tape, {})["w"], np.float32([0, 0]))
    both = graph.backward(tape, {"y": np.float32([1, 2]), "z": np.float32([10, 20])})
    np.testing.assert_array_equal(both["w"], np.float32([11, 22]))


# ---- gradients ------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One operator: floating arrays are inputs with a gradient; `fixed` are not differentiated."""

    kind: str
    inputs: dict[str, np.ndarray]
    attributes: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # of the node's inputs, if they are not these in order
    outputs: tuple[str, ...] = ("y",)
    opset: int = 22

    def graph(self) -> Any:
        names = self.names or (*self.inputs, *self.fixed)
        node = helper.make_node(self.kind, names, self.outputs, **self.attributes)
        return onnx.load(model([node], self.inputs, self.outputs, self.opset, self.fixed))


def error_of(case: Case) -> float:
    """The largest difference between slopes along random directions, relative to the gradient's largest element."""
    graph, rng = case.graph(), np.random.default_rng(list(case.kind.encode()))
    outputs, tape = graph.forward(case.inputs)
    ups = {n: rng.standard_normal(a.shape) for n, a in outputs.items() if a.dtype == np.float64}
    own, worst, step = graph.backward(tape, ups), 0.0, 1e-6

    def loss(point: dict) -> float:
        return sum(float((graph.run(point)[n] * up).sum()) for n, up in ups.items())

    for name, array in case.inputs.items():
        if array.dtype == np.float64:
            assert own[name].shape == array.shape
            assert own[name].dtype == array.dtype
            assert np.abs(own[name]).max() > 1e-3, f"{name}: no gradient"
            for _ in range(3):
                along = rng.standard_normal(array.shape)
                ends = [loss(case.inputs | {name: array + s * step * along}) for s in (1, -1)]
                slope, scale = (ends[0] - ends[1]) / (2 * step), max(1.0, np.abs(own[name]).max())
                worst = max(worst, abs(float((own[name] * along).sum()) - slope) / scale)
    return worst


def ints(*numbers: int) -> np.ndarray:
    return np.int64(numbers)


def some(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray:
    found = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.abs(found) + 0.3 if positive else found


X = {"x": some(2, 3, 5)}
TWO = {"a": some(2, 3, 5), "b": some(3, 1, seed=1)}
PLUS = {"a": some(2, 3, 5, positive=True), "b": some(5, seed=1, positive=True)}
CASES = {
    **{
        name: Case(name, X)
        for name in (
            *("Identity", "Neg", "Abs", "Exp", "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Transpose"),
            *("HardSigmoid", "Dropout", "Flatten"),
        )
    },
    **{name: Case(name, {"x": some(2, 3, 5, positive=True)}) for name in ("Log", "Sqrt", "Reciprocal")},
    **{
        f"{name} {alpha}": Case(name, X, {"alpha": alpha})
        for name in ("LeakyRelu", "Elu", "ThresholdedRelu")
        for alpha in (0.3, -0.4)
    },
    "HardSigmoid wide": Case("HardSigmoid", X, {"alpha": 0.7, "beta": 0.4}),
    **{name: Case(name, TWO) for name in ("Add", "Sub", "Mul")},
    "Mul by itself": Case("Mul", X, names=("x", "x")),
    "Add old": Case("Add", TWO, {"broadcast": 1}, opset=6),
    **{name: Case(name, PLUS) for name in ("Div", "Pow")},
    "Pow integer": Case("Pow", X, fixed={"p": ints(0, 1, 2, 3, 2)}),
    **{name: Case(name, TWO | {"c": some(5, seed=2)}) for name in ("Sum", "Mean", "Max", "Min")},
    "Clip": Case("Clip", X, fixed={"low": np.float64(-0.4), "high": np.float64(0.6)}),
    "Clip below": Case("Clip", X, fixed={"low": np.float64(-0.4)}),
    "Clip above": Case("Clip", X, fixed={"high": np.float64(0.6)}, names=("x", "", "high")),
    "Clip old": Case("Clip", X, {"min": -0.4, "max": 0.6}, opset=6),
    "Where": Case("Where", TWO, fixed={"c": np.array([True, False, True, False, True])}, names=("c", "a", "b")),
    "Cast": Case("Cast", X, {"to": TensorProto.DOUBLE}),
    "MatMul": Case("MatMul", {"a": some(2, 3, 5), "b": some(5, 7)}),
    "MatMul batch": Case("MatMul", {"a": some(3, 1, 2, 5), "b": some(4, 5, 7)}),
    "MatMul vectors": Case("MatMul", {"a": some(5), "b": some(5, seed=1)}),
    "MatMul row": Case("MatMul", {"a": some(5), "b": some(2, 5, 3)}),
    "MatMul column": Case("MatMul", {"a": some(2, 3, 5), "b": some(5)}),
    "Gemm": Case("Gemm", {"a": some(3, 5), "b": some(5, 2), "c": some(2)}),
    "Gemm all": Case(
        "Gemm",
        {"a": some(5, 3), "b": some(2, 5), "c": some(3, 1)},
        {"alpha": 0.7, "beta": -1.3, "transA": 1, "transB": 1},
    ),
    "Gemm two": Case("Gemm", {"a": some(3, 5), "b": some(5, 2)}, {"alpha": 0.7}),
    "Gemm 6": Case("Gemm", {"a": some(3, 5), "b": some(5, 2), "c": some(2)}, {"broadcast": 1, "beta": 0.3}, opset=6),
    "Gemm 7": Case("Gemm", {"a": some(3, 5), "b": some(5, 2), "c": some(2)}, {"beta": 0.3}, opset=7),
    **{
        f"{name} {keep}": Case(name, X, {"keepdims": keep}, {"axes": ints(0, -1)})
        for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
        for keep in (0, 1)
    },
    **{
        f"{name} old": Case(name, X, {"keepdims": 0, "axes": [1]}, opset=11)
        for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
    },
    "ReduceMean all": Case("ReduceMean", X),
    "ReduceSum none": Case("ReduceSum", X, {"noop_with_empty_axes": 1}),
    "ReduceProd zero": Case(
        "ReduceProd", {"x": some(2, 3) * np.float64([[1, 0, 1], [1, 1, 1]])}, {}, {"axes": ints(1)}
    ),
    **{f"{name} {axis}": Case(name, X, {"axis": axis}) for name in ("Softmax", "LogSoftmax") for axis in (0, -1)},
    **{f"{name} old": Case(name, X, {"axis": 1}, opset=11) for name in ("Softmax", "LogSoftmax")},
    "Reshape": Case("Reshape", X, fixed={"shape": ints(0, -1)}),
    "Reshape zero": Case("Reshape", X, {"allowzero": 1}, {"shape": ints(5, 6)}, opset=14),
    "Reshape 5": Case("Reshape", X, fixed={"shape": ints(5, -1)}, opset=5),
    "Reshape 1": Case("Reshape", X, {"shape": [6, 5]}, opset=1),
    "Flatten 2": Case("Flatten", X, {"axis": 2}),
    "Squeeze": Case("Squeeze", {"x": some(2, 1, 3, 1)}, fixed={"axes": ints(-1)}),
    "Squeeze all": Case("Squeeze", {"x": some(2, 1, 3, 1)}),
    "Squeeze old": Case("Squeeze", {"x": some(2, 1, 3, 1)}, {"axes": [1]}, opset=11),
    "Unsqueeze": Case("Unsqueeze", X, fixed={"axes": ints(0, -1)}),
    "Unsqueeze old": Case("Unsqueeze", X, {"axes": [0, 3]}, opset=11),
    "Transpose perm": Case("Transpose", X, {"perm": [2, 0, 1]}),
    "Expand": Case("Expand", {"x": some(3, 1)}, fixed={"shape": ints(2, 1, 5)}),
    "Tile": Case("Tile", {"x": some(2, 3)}, fixed={"repeats": ints(2, 3)}),
    "Concat": Case("Concat", {"a": some(2, 3), "b": some(2, 5)}, {"axis": -1}),
    "Concat 1": Case("Concat", {"a": some(2, 3), "b": some(2, 5)}, opset=1),
    "Split": Case("Split", {"x": some(2, 7)}, {"axis": 1, "num_outputs": 3}, outputs=("y", "z", "w")),
    "Split sizes": Case("Split", {"x": some(2, 7)}, {"axis": -1}, {"s": ints(4, 3)}, outputs=("y", "z"), opset=13),
    "Split old": Case("Split", {"x": some(2, 7)}, {"axis": 1, "split": [2, 5]}, outputs=("y", "z"), opset=11),
    "Slice": Case("Slice", X, fixed={"s": ints(1), "e": ints(2**63 - 1), "a": ints(-1)}),
    "Slice steps": Case(
        "Slice", X, fixed={"s": ints(-1, 2), "e": ints(-(2**63), 0), "a": ints(2, 1), "t": ints(-2, -1)}
    ),
    "Slice old": Case("Slice", X, {"starts": [0, 1], "ends": [3, 100], "axes": [1, 2]}, opset=9),
    "Gather": Case("Gather", {"x": some(5, 3)}, fixed={"i": np.int64([[0, -1, 2], [4, 4, 0]])}),
    "Gather axis": Case("Gather", X, {"axis": -1}, {"i": ints(3, 3, -5)}),
    "Gather scalar": Case("Gather", X, {"axis": 1}, {"i": np.int64(-1)}),
    "TopK": Case("TopK", X, {"axis": 1}, {"k": ints(2)}, outputs=("y", "i")),
    "TopK least": Case("TopK", X, {"largest": 0}, {"k": ints(3)}, outputs=("y", "i")),
    "TopK 10": Case("TopK", X, {}, {"k": ints(3)}, outputs=("y", "i"), opset=10),
    "TopK 1": Case("TopK", X, {"k": 3}, outputs=("y", "i"), opset=1),
    "Dropout mask": Case("Dropout", X, {}, {"r": np.float64(0.5)}, outputs=("y", "m"), opset=13),
    "Dropout 7": Case("Dropout", X, {"ratio": 0.3}, opset=7),
    "Dropout 1": Case("Dropout", X, {"is_test": 1}, opset=1),
}


def recurrent_case(kind: str, D: int = 1, without: tuple[str, ...] = (), opset: int = 22, **attributes: Any) -> Case:
    a = {name: v for name, v in arrays_of(kind, D=D).items() if name not in without}
    fixed = {} if "sequence_lens" in without else {"sequence_lens": np.int32([4, 0, 5])}
    if attributes.get("layout"):
        a = {n: v.swapaxes(0, 1).copy() if n == "X" or n.startswith("initial") else v for n, v in a.items()}
    names = tuple(name if name in a or name in fixed else "" for name in ORDER[kind])
    return Case(kind, a, attributes, fixed, names, RESULTS[kind], opset)


BOTH = {"D": 2, "direction": "bidirectional"}
CASES |= {
    **{f"{kind} bare": recurrent_case(kind, without=("B", "sequence_lens", "initial_h", "P")) for kind in ORDER},
    **{f"{kind} both": recurrent_case(kind, **BOTH, clip=0.9, layout=1) for kind in ORDER},
    **{f"{kind} reverse": recurrent_case(kind, direction="reverse") for kind in ORDER},
    **{f"{kind} 7": recurrent_case(kind, opset=7) for kind in ORDER},
    **{f"{kind} 1": recurrent_case(kind, opset=1, output_sequence=1) for kind in ORDER},
    "GRU after": recurrent_case("GRU", **BOTH, linear_before_reset=1),
    "GRU functions": recurrent_case(
        "GRU", **BOTH, activations=["HardSigmoid", "Softsign", "Sigmoid", "Elu"], activation_alpha=[0.3, 0.6]
    ),
    "RNN functions": recurrent_case("RNN", **BOTH, activations=["Softsign", "LeakyRelu"], activation_alpha=[0.3]),
    "LSTM plain": recurrent_case("LSTM", **BOTH, without=("P", "sequence_lens")),
    "LSTM coupled": recurrent_case("LSTM", **BOTH, input_forget=1, clip=1.2),
    "LSTM coupled functions": recurrent_case(
        "LSTM",
        input_forget=1,
        activations=["HardSigmoid", "Softsign", "Tanh"],
        activation_alpha=[0.3],
        activation_beta=[0.4],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    near(error_of(CASES[name]), 0.0, "differences", name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind not in ORDER])
def test_results_are_those_of_the_reference(name):
    """Of onnx.reference, in all opsets; the node cases are of the newest one."""
    case = CASES[name]
    node = helper.make_node(case.kind, case.names or (*case.inputs, *case.fixed), case.outputs, **case.attributes)
    proto = model([node], case.inputs, case.outputs, case.opset, case.fixed)
    results = case.graph().run(case.inputs)
    x = case.inputs.get("x")
    if name == "Concat 1":  # it has no default axis there
        expected = [np.concatenate(list(case.inputs.values()), axis=1)]
    elif name in ("Reshape 1", "Dropout 1"):  # it has none
        expected = [x.reshape(6, 5) if name == "Reshape 1" else x]
    elif name in ("Softmax old", "LogSoftmax old"):  # it takes the axis alone, where all from the axis on is meant
        rows = np.exp(x.reshape(2, 15))
        y = (rows / rows.sum(1, keepdims=True)).reshape(x.shape)
        expected = [y if name == "Softmax old" else np.log(y)]
    else:
        expected = reference.ReferenceEvaluator(proto).run(None, case.inputs)
    for key, a in zip(case.outputs, expected, strict=True):
        assert results[key].dtype == a.dtype
        # a default such as 0.2 is a float32 there
        np.testing.assert_allclose(results[key], a, rtol=0, atol=1e-8 if case.kind == "HardSigmoid" else 1e-14)


def test_ties():
    """Where differences have none: the first of several arrays, and equal parts within one."""
    x, up = np.float64([[1, 3, 3], [2, 2, 2]]), np.float64([[1, 2, 4], [8, 16, 32]])
    graph = onnx.load(model([helper.make_node("Max", ["x", "z"], ["y"])], {"x": x, "z": x}, ("y",)))
    grads = graph.backward(graph.forward({"x": x, "z": x})[1], {"y": up})
    np.testing.assert_array_equal(grads["x"], up)
    np.testing.assert_array_equal(grads["z"], 0 * up)
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)
    graph = onnx.load(model([node], {"x": x}, ("y",), 13))
    grads = graph.backward(graph.forward({"x": x})[1], {"y": np.float64([6, 9])})
    np.testing.assert_array_equal(grads["x"], np.float64([[0, 3, 3], [3, 3, 3]]))


def test_one_of_several_outputs():
    """The gradients of the others are zero."""
    for name in ("Split", "LSTM both", "GRU reverse"):
        case = CASES[name]
        graph = case.graph()
        outputs, tape = graph.forward(case.inputs)
        ups = {key: some(*a.shape) for key, a in outputs.items()}
        whole, found = graph.backward(tape, ups), {}
        for key, up in ups.items():
            for root, gradient in graph.backward(tape, {key: up}).items():
                found[root] = found.get(root, 0) + gradient
        for root, gradient in whole.items():
            near(found[root], gradient, "gradient", root)
        for gradient in graph.backward(tape, {}).values():
            assert not gradient.any()


def test_every_operator_has_a_case():
    have = {(c.kind, table.step_of(*node_of(c)).operator.since) for c in CASES.values()}
    all_of = {(kind, op.since) for kind, ops in onnx.OPERATORS.items() for op in ops if op.back is not None}
    assert all_of <= have, sorted(all_of - have)


def node_of(case: Case) -> tuple:
    read = importlib.import_module("polyrnn.interop.onnx._read").read
    names = case.names or (*case.inputs, *case.fixed)
    node = helper.make_node(case.kind, names, case.outputs, **case.attributes)
    found = read(model([node], case.inputs, case.outputs, case.opset, case.fixed))
    return found.nodes[0], found.opset, found.initializers


@pytest.mark.parametrize("name", CASES)
def test_a_planted_error_is_found(name, monkeypatch):
    """The largest element of one input's gradient is a hundredth too large: for each input the differences tell."""
    case = CASES[name]
    names = case.names or (*case.inputs, *case.fixed)
    for k, input_name in enumerate(names):
        if input_name not in case.inputs:
            continue

        def wrong(operator: Any, k: int = k) -> Any:
            if operator.back is None:
                return operator

            def back(*arguments: Any) -> tuple:
                found = list(operator.back(*arguments))
                at = np.unravel_index(np.abs(found[k]).argmax(), found[k].shape)
                found[k] = found[k].copy()
                found[k][at] *= 1.01
                return tuple(found)

            return operator._replace(back=back)

        changed = tuple(wrong(operator) for operator in onnx.OPERATORS[case.kind])
        with monkeypatch.context() as patch:
            patch.setitem(onnx.OPERATORS, case.kind, changed)
            assert error_of(case) > 1e-5, input_name


@pytest.mark.parametrize("name", [n for n in CASES if " " not in n or n.endswith((" both", " coupled", "steps"))])
def test_gradients_on_every_backend(subject, name):
    if "compiles" in subject.tags and name.split()[0] in ORDER and "both" not in name:
        return  # the layers have tests of their own there
    case, rng = CASES[name], np.random.default_rng(3)
    graph = case.graph()
    outputs, tape = graph.forward(case.inputs)
    ups = {n: rng.standard_normal(a.shape) for n, a in outputs.items() if a.dtype == np.float64}
    expected = graph.backward(tape, ups)
    found, there = graph.forward(subject.array(case.inputs))
    for key, a in outputs.items():
        subject.close(found[key], a, "same", a.dtype.name, key)
    grads = graph.backward(there, subject.array(ups))
    for key, a in expected.items():
        subject.close(grads[key], a, "gradient", a.dtype.name, key)


# ---- recurrent nodes as layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDER)
@pytest.mark.parametrize("layout", [0, 1])
def test_find(kind, layout):
    a = arrays_of(kind, D=2)
    if layout:
        a = {n: v.swapaxes(0, 1).copy() if n == "X" or n.startswith("initial") else v for n, v in a.items()}
    more = {"LSTM": {"input_forget": 1}, "GRU": {"linear_before_reset": 1}, "RNN": {"activations": ["Softsign"] * 2}}
    proto = recurrent(kind, a, {"direction": "bidirectional", "layout": layout, "clip": 1.5, **more[kind]}, fixed=True)
    layer, params = onnx.find(proto)["cell"]
    assert (layer.batch_first, layer.bidirectional, layer.clip) == (bool(layout), True, 1.5)
    assert {n: v.shape for n, v in params.items()} == layer.shapes()
    state = tuple(v.swapaxes(0, 1) if layout else v for n, v in a.items() if n.startswith("initial"))
    y, end = layer(params, a["X"], state if kind == "LSTM" else state[0])
    results = onnx.load(proto).run({n: a[n] for n in a if n == "X" or n.startswith("initial")})
    expected = results["Y"] if layout else results["Y"].transpose(0, 2, 1, 3)
    near(y, expected.reshape(y.shape), "same")
    for part, key in zip(end if kind == "LSTM" else (end,), RESULTS[kind][1:], strict=True):
        near(part, results[key].swapaxes(0, 1) if layout else results[key], "same")


def test_find_in_exports():
    simple = onnx.find(FILE.parent / "onnx_exports" / "torch_simple.onnx")["/rnn/RNN"].layer
    assert simple == pr.RNN(3, 7, bidirectional=True, nonlinearity="relu")  # for which there is a kernel
    found = onnx.find(FILE.parent / "onnx_exports" / "torch_classifier.onnx")
    assert list(found) == ["/lstm/LSTM", "/lstm/LSTM_1"]
    assert found["/lstm/LSTM_1"].layer == pr.LSTM(10, 5, bidirectional=True)


def test_find_leaves_out():
    """What is not one layer; but not what stands beside operators that are not supported, or whose weights are made."""
    a = arrays_of("GRU", D=1)
    weights = {n: a[n] for n in ("W", "R")} | {"half": np.float64(0.5), "V": arrays_of("GRU", D=2)["W"][:, :, :]}
    weights["S"] = arrays_of("GRU", D=2)["R"]
    two = ["Sigmoid", "Tanh", "Sigmoid", "Softsign"]
    nodes = [
        helper.make_node("Mul", ["W", "half"], ["W2"]),
        helper.make_node("GRU", ["x", "W2", "R"], ["a"], name="made"),
        helper.make_node("GRU", ["x", "W", "R"], ["b"], name="backwards", direction="reverse"),
        helper.make_node("GRU", ["x", "V", "S"], ["c"], name="two", direction="bidirectional", activations=two),
        helper.make_node("GRU", ["x", "w", "R"], ["d"], name="given"),
        helper.make_node("Mystery", ["W"], ["W3"], name="unknown"),
        helper.make_node("GRU", ["x", "W3", "R"], ["e"], name="mysterious"),
        helper.make_node("GRU", ["x", "W", "R"], ["unnamed"]),
        helper.make_node("GRU", ["x", "W", "R"], ["g"], name="made"),
    ]
    found = onnx.find(model(nodes, {"x": a["X"], "w": a["W"]}, tuple("abcde"), fixed=weights))
    assert list(found) == ["made", "unnamed", "made (g)"]
    near(found["made"].params["weight_ih_l0"] * 2, found["unnamed"].params["weight_ih_l0"], "same")
    bad = helper.make_node("GRU", ["x", "W", "R"], ["a"], name="bad", hidden_size=3)
    with pytest.raises(ValueError, match=r"node 'bad' \(GRU\): hidden_size=3"):
        onnx.find(model([bad], {"x": a["X"]}, ("a",), fixed=weights))


# ---- what is refused ------------------------------------------------------------------------------------------------


def small() -> ModelProto:
    """y = relu(x w)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"], name="first"), helper.make_node("Relu", ["z"], ["y"])]
    return model(nodes, {"x": np.ones((2, 3))}, ("y",), fixed={"w": np.ones((3, 5))})


def stored(**fields: Any) -> ModelProto:
    """With one initializer of these fields."""
    proto = model([helper.make_node("Identity", ["w"], ["y"])], {}, ("y",))
    proto.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT))
    for name, content in fields.items():
        target = proto.graph.initializer[0]
        setattr(target, name, content) if np.isscalar(content) else getattr(target, name).extend(content)
    return proto


def of_node(node: Any, *arrays: np.ndarray, opset: int = 22) -> ModelProto:
    """With the inputs a, b, ... as these arrays, fixed."""
    return model([node], {}, tuple(filter(None, node.output)), opset, dict(zip("abcde", arrays, strict=False)))


@contextlib.contextmanager
def frugal(limit: float = 1e6) -> Iterator[None]:
    """Without taking more memory than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


BRANCH = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
ONE = np.float32(1)
BAD_MODELS = {
    "no graph": (ModelProto(), "no graph with an output"),
    "huge": (stored(dims=[2**40, 2**20], raw_data=b"1234"), "bytes; there are 4"),
    "huge without data": (stored(dims=[2**40]), "bytes; there are 0"),
    "huge typed": (stored(dims=[2**50], float_data=[1.0]), "numbers; there are 1"),
    "no elements, huge": (stored(dims=[0, 2**62, 2**62]), "initializer 'w' has the shape"),
    "negative": (stored(dims=[-2, -2], raw_data=b"0" * 16), r"shape \(-2, -2\)"),
    "too short": (stored(dims=[3], raw_data=b"0" * 11), "12 bytes; there are 11"),
    "too many": (stored(dims=[1], float_data=[1.0, 2.0]), "1 numbers; there are 2"),
    "too many axes": (stored(dims=[1] * 33, float_data=[1.0]), "has the shape"),
    "raw and typed": (stored(dims=[1], raw_data=b"0000", float_data=[1.0]), "in float_data alone"),
    "wrong field": (stored(dims=[1], int64_data=[1]), "numbers in int64_data; expected them in float_data"),
    "beyond the type": (stored(dims=[1], data_type=TensorProto.INT8, int32_data=[300]), "are no int8"),
    "text": (stored(dims=[1], data_type=TensorProto.STRING, string_data=[b"a"]), "element type 8"),
    "complex": (stored(dims=[1], data_type=TensorProto.COMPLEX64, float_data=[1, 1]), "element type 14"),
    "bfloat16": (stored(dims=[1], data_type=TensorProto.BFLOAT16, int32_data=[1]), "element type 16"),
    "no type": (stored(dims=[1], data_type=0, float_data=[1.0]), "element type 0"),
    "unknown type": (stored(dims=[1], data_type=999, float_data=[1.0]), "element type 999"),
    "no name": (stored(name="", dims=[1], float_data=[1.0]), "expected a name of its own"),
    "outside, no file": (stored(dims=[1], data_location=1), "load it by its path"),
    "unknown": (of_node(helper.make_node("Mystery", ["a"], ["y"], name="n"), ONE), "node 'n' .Mystery. is not supp"),
    "domain": (of_node(helper.make_node("Relu", ["a"], ["y"], domain="com.example"), ONE), "domain 'com.example'"),
    "attribute": (of_node(helper.make_node("Relu", ["a"], ["y"], slope=1.0), ONE), "the attribute 'slope' .float"),
    "attribute's type": (of_node(helper.make_node("Concat", ["a"], ["y"], axis=1.5), ONE), "'axis' .float"),
    "attribute is missing": (of_node(helper.make_node("Concat", ["a"], ["y"]), ONE), "lacks the attribute axis"),
    "too many inputs": (of_node(helper.make_node("Relu", ["a", "b"], ["y"]), ONE, ONE), "at least 1 and at most 1"),
    "too few inputs": (of_node(helper.make_node("Add", ["a"], ["y"]), ONE), "at least 2 and at most 2"),
    "absent input": (of_node(helper.make_node("Add", ["a", ""], ["y"]), ONE), "at least 2 and at most 2"),
    "too many outputs": (of_node(helper.make_node("Relu", ["a"], ["y", "z"]), ONE), "outputs are"),
    "If": (
        of_node(helper.make_node("If", ["a"], ["y"], then_branch=BRANCH, else_branch=BRANCH), ONE),
        "graphs, sparse",
    ),
    "sequence": (of_node(helper.make_node("SequenceConstruct", ["a"], ["y"]), ONE), "SequenceConstruct"),
    "to text": (of_node(helper.make_node("Cast", ["a"], ["y"], to=TensorProto.STRING), ONE), "element type 8"),
    "to nothing": (of_node(helper.make_node("Cast", ["a"], ["y"]), ONE), "to"),
    "before its time": (of_node(helper.make_node("Where", ["a", "b", "c"], ["y"]), ONE, ONE, ONE, opset=8), "from 9"),
    "axes too early": (of_node(helper.make_node("Squeeze", ["a", "b"], ["y"]), ONE, ints(0), opset=12), "opset 12"),
    "axes too late": (of_node(helper.make_node("Squeeze", ["a"], ["y"], axes=[0]), ONE, opset=13), "opset 13"),
    "old axis": (of_node(helper.make_node("Add", ["a", "b"], ["y"], axis=0), ONE, ONE, opset=6), "'axis'.*opset 6"),
    "training": (of_node(helper.make_node("Dropout", ["a"], ["y"]), ONE, opset=6), "is_test=0 is training"),
    "training mode": (
        of_node(helper.make_node("Dropout", ["a", "", "b"], ["y"]), ONE, np.array(True)),
        "training_mode is not false",
    ),
    "constant of nothing": (model([helper.make_node("Constant", [], ["y"])], {}, ("y",)), "expected one of value"),
    "constant text": (model([helper.make_node("Constant", [], ["y"], value_string="a")], {}, ("y",)), "one of value"),
    "constant too early": (model([helper.make_node("Constant", [], ["y"], value_int=1)], {}, ("y",), 11), "opset 11"),
    "opset": (model([], {"y": ONE}, ("y",), 29), "opset 29"),
    "opset 0": (model([], {"y": ONE}, ("y",), 0), "opset 0"),
    "output": (model([], {"x": ONE}, ("y",)), "output 'y' is computed by no node"),
    "outputs": (model([], {"x": ONE}, ("x", "x")), "expected each once"),
    "unsorted": (
        model([helper.make_node("Relu", ["z"], ["y"]), helper.make_node("Relu", ["x"], ["z"])], {"x": ONE}, ("y",)),
        "a circle, or nodes out of order",
    ),
    "circle": (
        model([helper.make_node("Relu", ["z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])], {}, ("y",)),
        "a circle, or nodes out of order",
    ),
    "itself": (model([helper.make_node("Relu", ["y"], ["y"])], {}, ("y",)), "a circle"),
    "nowhere": (model([helper.make_node("Relu", ["z"], ["y"])], {}, ("y",)), "'z' is nowhere"),
    "twice": (
        model([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Exp", ["x"], ["y"])], {"x": ONE}, ("y",)),
        "'y' is there already",
    ),
    "over an input": (model([helper.make_node("Relu", ["x"], ["x"])], {"x": ONE}, ("x",)), "'x' is there already"),
    "long names": (model([helper.make_node("M" * 9999, ["x"], ["y"])], {"x": ONE}, ("y",)), "MMM\\.\\.\\."),
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("form", ["proto", "bytes", "path"])
def test_bad_models(name, form, tmp_path):
    proto, message = BAD_MODELS[name]
    source: Any = proto if form == "proto" else proto.SerializeToString()
    if form == "path":
        (tmp_path / "bad.onnx").write_bytes(source)
        source = tmp_path / "bad.onnx"
    if form == "path" and name == "outside, no file":
        message = "expected a relative path"
    with frugal(), pytest.raises(ValueError, match=message) as error:
        onnx.load(source)
    assert len(str(error.value)) < 2000
    if form == "path":
        assert str(error.value).startswith(str(tmp_path / "bad.onnx"))


def test_more_bad_models():
    proto = small()
    del proto.opset_import[:]
    with pytest.raises(ValueError, match="no version"):
        onnx.load(proto)
    proto.opset_import.extend([helper.make_opsetid("", 7), helper.make_opsetid("ai.onnx", 9)])
    with pytest.raises(ValueError, match=r"\[7, 9\]"):
        onnx.load(proto)
    proto = small()
    proto.graph.initializer.append(proto.graph.initializer[0])
    with pytest.raises(ValueError, match="initializer 'w': expected a name of its own"):
        onnx.load(proto)
    proto = small()
    proto.graph.input.append(proto.graph.input[0])
    with pytest.raises(ValueError, match="input 'x': expected a name of its own"):
        onnx.load(proto)
    proto = small()
    proto.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(ValueError, match="input 'x' is a sequence_type"):
        onnx.load(proto)
    proto = small()
    proto.graph.sparse_initializer.add()
    with pytest.raises(ValueError, match="sparse initializers"):
        onnx.load(proto)
    proto = small()
    proto.functions.add(name="Relu", domain="")
    with pytest.raises(ValueError, match="functions of the model"):
        onnx.load(proto)
    proto = small()
    proto.graph.node[1].attribute.extend([helper.make_attribute("a", 1), helper.make_attribute("a", 2)])
    with pytest.raises(ValueError, match=r"node 'y' .Relu. has the attribute 'a' twice"):
        onnx.load(proto)
    proto = small()
    proto.graph.node[1].attribute.add(name="a", type=AttributeProto.STRING, s=b"\xff")
    with pytest.raises(ValueError, match="is no text"):
        onnx.load(proto)
    proto = small()
    proto.graph.node[1].attribute.add(name="a", type=AttributeProto.FLOAT, ref_attr_name="b")
    with pytest.raises(ValueError, match="attribute 'a'"):
        onnx.load(proto)


def test_a_nest_of_graphs():
    """An If in an If, and so on: bytes by hand, since protobuf would not make them."""

    def piece(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 128:
            length, size = length + bytes([size % 128 + 128]), size // 128
        return bytes([number * 8 + 2]) + length + bytes([size]) + content

    for depth in (3, 50, 10_000):
        graph = output = piece(12, helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]).SerializeToString())
        for _ in range(depth):
            attribute = piece(1, b"then_branch") + bytes([20 * 8 % 128 + 128, 1, AttributeProto.GRAPH])
            node = piece(2, b"y") + piece(4, b"If") + piece(5, attribute + piece(6, graph))
            graph = piece(1, node) + output
        with pytest.raises(ValueError, match=r"damaged|graphs, sparse tensors"):
            onnx.load(bytes([8, 10]) + piece(7, graph) + piece(8, bytes([16, 20])))


@pytest.mark.parametrize("name", [b"first", b"MatMul", b"w\x12"])
def test_names_that_are_no_text(name):
    """Protobuf hands them out as bytes."""
    raw = small().SerializeToString()
    assert name in raw
    with pytest.raises(ValueError, match=r"is no text|damaged|is nowhere"):
        onnx.load(raw.replace(name, b"\xff" + name[1:]))


def test_what_is_no_model(tmp_path):
    for raw in (b"", b"hello", b"\x00" * 100, bytes(range(256)), b"PK\x03\x04" + b"0" * 50, b"\xff" * 1000):
        with pytest.raises(ValueError, match="no ONNX model"):
            onnx.load(raw)
    for source in (None, 3, {"x": 1}, np.ones(3), [b"a"]):
        with pytest.raises(TypeError, match=r"expected a path, bytes or an onnx.ModelProto"):
            onnx.load(source)
    with pytest.raises(FileNotFoundError):
        onnx.load(tmp_path / "none.onnx")
    with pytest.raises(IsADirectoryError):
        onnx.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        onnx.load(tmp_path / "pipe")


def test_damaged_files():
    """Cut anywhere, and with bytes changed: a ValueError, or a graph that runs or raises one."""
    raw = (FILE.parent / "onnx_exports" / "torch_with_state.onnx").read_bytes()
    inputs, *_ = parts(FILE.parent / "onnx_exports" / "torch_with_state.onnx")
    rng, refused, ran = np.random.default_rng(0), 0, 0
    variants = [raw[:cut] for cut in range(0, len(raw), 41)]
    for _ in range(400):
        changed = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        variants.append(bytes(changed))
    for variant in variants:
        try:
            graph = onnx.load(variant)
            found = graph.run(inputs)
            ran += 1
            assert all(a.size < 1e6 for a in found.values())
        except ValueError as error:
            assert "the model" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100
    assert ran > 50  # most bytes are weights


# ---- tensors in other files -----------------------------------------------------------------------------------------


def outside(folder: Any, count: int = 1, **entries: str) -> Any:
    """A model with `count` initializers of six float32 that are in other files, each with these entries."""
    proto = model([helper.make_node("Identity", ["w0"], ["y"])], {}, ("y",))
    for k in range(count):
        tensor = proto.graph.initializer.add(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[2, 3], data_location=1)
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text.format(k=k))
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return folder / "model.onnx"


@pytest.fixture
def folder(tmp_path):
    """With a file of 40 bytes, the same outside, and links."""
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    data = np.arange(10, dtype="<f4").tobytes()
    for path in (inside / "data", inside / "deep" / "data", tmp_path / "data"):
        path.write_bytes(data)
    (inside / "link").symlink_to(tmp_path / "data")
    (inside / "up").symlink_to(tmp_path)
    (inside / "fine").symlink_to(inside / "data")
    (inside / "loop").symlink_to(inside / "loop")
    return inside


@pytest.mark.parametrize("location", ["data", "deep/data", "./data", "fine"])
def test_tensors_in_other_files(folder, location):
    path = outside(folder, location=location, offset="8", length="24")
    np.testing.assert_array_equal(onnx.load(path).run({})["y"], np.float32([[2, 3, 4], [5, 6, 7]]))
    path = outside(folder, location=location)
    np.testing.assert_array_equal(onnx.load(path).run({})["y"], np.float32([[0, 1, 2], [3, 4, 5]]))


BAD_OUTSIDE = [
    ({"location": "../data"}, "expected a relative path"),
    ({"location": "deep/../../data"}, "expected a relative path"),
    ({"location": "/etc/passwd"}, "expected a relative path"),
    ({"location": "C:/data"}, "expected a relative path"),
    ({"location": "..\\data"}, "expected a relative path"),
    ({"location": "data\0"}, "expected a relative path"),
    ({"location": ""}, "expected a relative path"),
    ({}, "expected a relative path"),
    ({"location": "link"}, "leads out"),
    ({"location": "up/data"}, "leads out"),
    ({"location": "data", "offset": "17"}, "24 at offset 17 of data, which has 40"),
    ({"location": "data", "length": "28"}, "names 28"),
    ({"location": "data", "offset": "-1"}, "external offset='-1'"),
    ({"location": "data", "offset": "1e3"}, "external offset='1e3'"),
    ({"location": "data", "offset": "9" * 30}, "external offset="),
    ({"location": "data", "offset": "²"}, "external offset="),
    ({"location": "data", "length": "many"}, "external length='many'"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_OUTSIDE)
def test_bad_places_of_tensors(folder, entries, message):
    with pytest.raises(ValueError, match=message) as error:
        onnx.load(outside(folder, **entries))
    assert "initializer 'w0'" in str(error.value)


def test_places_that_are_not_there(folder):
    with pytest.raises(FileNotFoundError, match="no such file"):
        onnx.load(outside(folder, location="none"))
    with pytest.raises((OSError, ValueError), match=r"loop|no such file|leads nowhere"):
        onnx.load(outside(folder, location="loop"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        onnx.load(outside(folder, location="deep"))


def test_tensors_cannot_multiply_a_file(folder):
    """The same place many times is read once; overlapping ones only as far as the file goes."""
    assert len(onnx.load(outside(folder, 50, location="data")).params) == 50
    with pytest.raises(ValueError, match="tensors overlap in data"):
        onnx.load(outside(folder, 9, location="data", offset="{k}"))


# ---- bad arguments --------------------------------------------------------------------------------------------------

GIVEN = {"x": np.ones((2, 3))}
BAD_INPUTS = [
    ({}, ValueError, "lack x"),
    ({"x": GIVEN["x"], "q": ONE}, ValueError, "unknown are q"),
    ({"x": np.ones((2, 3), "float32")}, ValueError, "of float32; expected .* of float64"),
    ({"x": np.ones((2, 3), "int64")}, ValueError, "of int64; expected .* of float64"),
    ({"x": np.ones((2, 4))}, ValueError, r"\(2, 4\)"),
    ({"x": np.ones(3)}, ValueError, r"\(3,\)"),
    ({"x": [[1.0] * 3] * 2}, TypeError, "input 'x' is a list|list where an array"),
    ([GIVEN["x"]], TypeError, "expected a dict"),
]


@pytest.mark.parametrize(("inputs", "kind", "message"), BAD_INPUTS)
def test_bad_inputs(inputs, kind, message):
    with pytest.raises(kind, match=message):
        onnx.load(small()).run(inputs)


def test_names_of_axes_stand_for_one_size():
    proto = model(
        [helper.make_node("Concat", ["a", "b"], ["y"], axis=1)], {"a": np.ones((2, 3)), "b": np.ones((2, 3))}, ("y",)
    )
    for info in proto.graph.input:
        info.type.tensor_type.shape.dim[0].dim_param = "N"
    graph = onnx.load(proto)
    assert graph.run({"a": np.ones((4, 3)), "b": np.ones((4, 3))})["y"].shape == (4, 6)
    with pytest.raises(ValueError, match=r"input 'b' has the shape \(5, 3\).*N=4"):
        graph.run({"a": np.ones((4, 3)), "b": np.ones((5, 3))})


def test_bad_params():
    graph = onnx.load(small())
    for params, message in (
        ({}, "params lack w"),
        ({"w": np.ones((3, 4))}, "shape"),
        ({"w": np.ones((3, 5), "f4")}, "f"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.run(GIVEN, params=params)
    if "array_api_strict" in {subject.library for subject in running()}:
        strict = pr.backend("array_api_strict").asarray(graph.params)
        with pytest.raises(TypeError, match="mixed"):
            graph.run(GIVEN, params=strict)


def test_bad_gradients():
    graph = onnx.load(small())
    outputs, tape = graph.forward(GIVEN)
    for gradients, message in (
        ({"z": outputs["y"]}, "'z'; expected some of y"),
        ({"y": outputs["y"][:1]}, "shape"),
        ({"y": outputs["y"].astype("f4")}, "float32"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.backward(tape, gradients)
    with pytest.raises(TypeError, match="expected a dict"):
        graph.backward(tape, outputs["y"])
    for other in (None, onnx.load(small()).forward(GIVEN)[1]):
        with pytest.raises(TypeError, match="what this graph's forward returned"):
            graph.backward(other, {})


FAR = 2**40
BAD_RUNS = {
    "filled": (("ConstantOfShape", {}), [ints(FAR)], "results of at most"),
    "filled, many axes": (("ConstantOfShape", {}), [ints(*[2**16] * 4)], "results of at most"),
    "filled, negative": (("ConstantOfShape", {}), [ints(-1)], "results of at most"),
    "filled, text": (("ConstantOfShape", {}), [some(2)], "vector of integers"),
    "expanded": (("Expand", {}), [some(3, 1), ints(3, FAR)], "results of at most"),
    "expanded, both": (("Expand", {}), [some(2**10, 1), ints(1, 2**20)], "results of at most"),
    "expanded wrongly": (("Expand", {}), [some(3), ints(2)], "broadcast"),
    "tiled": (("Tile", {}), [some(3), ints(FAR)], "results of at most"),
    "tiled wrongly": (("Tile", {}), [some(3), ints(1, 2)], "repeats"),
    "range": (("Range", {}), [np.int64(0), np.int64(FAR), np.int64(1)], "too long"),
    "range, large": (("Range", {}), [np.int64(0), np.int64(2**30), np.int64(1)], "results of at most"),
    "range, endless": (("Range", {}), [np.float64(0), np.float64(1), np.float64(0)], "no such range"),
    "range, NaN": (("Range", {}), [np.float64(0), np.float64("nan"), np.float64(1)], "no such range"),
    "reshaped": (("Reshape", {}), [some(6), ints(FAR)], "there are 6 elements"),
    "reshaped, two": (("Reshape", {}), [some(6), ints(-1, -1)], "one -1 at most"),
    "reshaped, zero": (("Reshape", {}), [some(6), ints(1, 0)], "beyond the axes"),
    "reshaped, both": (("Reshape", {"allowzero": 1}), [some(6), ints(-1, 0)], "not both"),
    "reshaped, left": (("Reshape", {}), [some(6), ints(4, -1)], "there are 6"),
    "gathered": (("Gather", {}), [some(3), ints(3)], "indices beyond an axis of 3"),
    "gathered, before": (("Gather", {}), [some(3), ints(-4)], "indices beyond an axis of 3"),
    "gathered, axis": (("Gather", {"axis": 1}), [some(3), ints(0)], "axis=1: there are 1 axes"),
    "added": (("Add", {}), [some(3), some(4)], "broadcast"),
    "added, dtypes": (("Add", {}), [some(3), ints(1, 2, 3)], "dtypes float64 and int64"),
    "product": (("MatMul", {}), [some(2, 3), some(2, 3)], "MatMul"),
    "product, vectors": (("Gemm", {}), [some(3), some(2, 3)], "Gemm"),
    "squeezed": (("Squeeze", {}), [some(2, 3), ints(0)], "not all of size 1"),
    "squeezed, axes": (("Squeeze", {}), [some(1, 3), ints(5)], "axes=5"),
    "unsqueezed": (("Unsqueeze", {}), [some(3), ints(0, 0)], "twice"),
    "turned": (("Transpose", {"perm": [0, 0]}), [some(2, 3)], "perm="),
    "flat": (("Flatten", {"axis": 4}), [some(2, 3)], "axis=4"),
    "joined": (("Concat", {"axis": 2}), [some(2, 3)], "axis=2"),
    "cut": (("Slice", {}), [some(3), ints(0), ints(2), ints(0), ints(0)], "steps"),
    "cut, axes": (("Slice", {}), [some(3), ints(0), ints(2), ints(1)], "axes=1"),
    "cut, counts": (("Slice", {}), [some(3), ints(0), ints(2, 3)], "starts="),
    "first": (("TopK", {}), [some(3), ints(4)], "K=4"),
    "split": (("Split", {}), [some(3), ints(2)], "parts of"),
    "softmax": (("Softmax", {"axis": 3}), [some(3)], "axis=3"),
    "sum": (("ReduceSum", {}), [some(3), ints(1)], "axes=1"),
    "mean": (("ReduceMean", {}), [ints(3)], "floating"),
}


def test_nothing_grows_without_end(monkeypatch):
    """Twice as much at every step, in each of the ways there are; with a smaller limit, for speed."""
    base = importlib.import_module("polyrnn.interop.onnx._base")
    assert base.LARGEST == 2**28
    monkeypatch.setattr(base, "LARGEST", 2**20)
    x = np.ones(2**8, "uint8")
    ways = {
        "Concat": lambda k: helper.make_node("Concat", [f"x{k}", f"x{k}"], [f"x{k + 1}"], axis=0),
        "Tile": lambda k: helper.make_node("Tile", [f"x{k}", "two"], [f"x{k + 1}"]),
    }
    for kind, way in ways.items():
        graph = onnx.load(model([way(k) for k in range(60)], {"x0": x}, ("x60",), fixed={"two": ints(2)}))
        with frugal(2**23), pytest.raises(ValueError, match=f"{kind}.*results of at most"):
            graph.run({"x0": x})
    wide, tall = np.ones((1, 2**11), "uint8"), np.ones((2**11, 1), "uint8")
    for kind in ("Add", "Max", "Where", "Pow", "Equal"):
        names = ["c", "a", "b"] if kind == "Where" else ["a", "b"]
        fixed = {"c": np.array(True)} if kind == "Where" else {}
        graph = onnx.load(model([helper.make_node(kind, names, ["y"])], {"a": wide, "b": tall}, ("y",), fixed=fixed))
        with frugal(), pytest.raises(ValueError, match=f"{kind}.*results of at most"):
            graph.run({"a": wide, "b": tall})
    rows, many = np.ones((2, 2**11), "uint8"), np.zeros(2**11, "int64")
    graph = onnx.load(model([helper.make_node("Gather", ["a", "b"], ["y"])], {"a": rows, "b": many}, ("y",)))
    with frugal(), pytest.raises(ValueError, match=r"Gather.*results of at most"):
        graph.run({"a": rows, "b": many})


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs(name):
    (kind, attributes), arrays, message = BAD_RUNS[name]
    node = helper.make_node(kind, list("abcde")[: len(arrays)], ["y"], name="n", **attributes)
    graph = onnx.load(of_node(node, *arrays))
    with frugal(), pytest.raises(ValueError, match=message) as error:
        graph.run({})
    assert f"node 'n' ({kind})" in str(error.value)


# ---- without the package --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["load", "find"])
def test_without_the_package(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'polyrnn[onnx]'")):
        getattr(onnx, function)("model.onnx")


def test_import_needs_no_package():
    code = "import sys; sys.modules['onnx'] = None; from polyrnn.interop import onnx; print(len(onnx.OPERATORS))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(onnx.OPERATORS) > 50


def test_names():
    assert dir(onnx) == sorted(onnx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        onnx.nothing  # noqa: B018
