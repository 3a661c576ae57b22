"""Models that are written as ONNX compute what polyrnn computes.

ONNX Runtime's results are stored, each with the fingerprint of the model that it ran: the same model must be written
here, and polyrnn must give the same results. Where ONNX Runtime is installed, it runs all variants. The loops, which
consist of elementary operators, are run by the reference implementation of the package onnx, which reads RNN, LSTM and
GRU wrongly.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import variants
from oracle.stored import FILE
from safetensors import safe_open
from stored.make_onnx_written import CASES, fingerprint, inputs, leaves
from subjects import near

import polyrnn as pr
from polyrnn.interop.onnx import dump, load, save
from polyrnn.model import build, describe
from polyrnn.testing import unchanged

onnx = pytest.importorskip("onnx")

with safe_open(FILE.with_name("onnx_written.safetensors"), framework="numpy") as _file:
    STORED = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118
    ABOUT = json.loads(_file.metadata()["about"])["cases"]
RUNS = (0, 1)
CALLED = {"LSTM", "GRU", "RNN", "Scan"}


def under(prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): array for key, array in STORED.items() if key.startswith(prefix)}


def own(module: Any, params: dict, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """polyrnn's outputs by ONNX' names, in float64."""

    def wide(array: np.ndarray) -> np.ndarray:
        return array.astype("float64") if array.dtype.kind == "f" else array

    def states(of: Any, scope: str) -> Any:
        if isinstance(of, pr.Sequential):
            found = tuple(states(member, f"{scope}{name}.") for name, member in of.members)
            return None if all(part is None for part in found) else found
        names = [f"{scope}{name}0" for name in of.cell.states] if isinstance(of, pr.layers.Recurrent) else []
        found = tuple(wide(given[name]) for name in names if name in given)
        return None if not found else found[0] if len(found) == 1 else found

    def flat(of: Any, scope: str, end: Any) -> dict[str, np.ndarray]:
        if isinstance(of, pr.Sequential):
            parts = zip(of.members, end, strict=True)
            return {k: v for (name, member), part in parts for k, v in flat(member, f"{scope}{name}.", part).items()}
        if not isinstance(of, pr.layers.Recurrent):
            return {}
        end = end if isinstance(end, tuple) else (end,)
        return {f"{scope}{name}": part for name, part in zip(of.cell.states, end, strict=True)}

    x = wide(given["x"])
    params = {key: wide(array) for key, array in params.items()}
    y, end = module(params, x, states(module, ""), given.get("lengths"))
    return {"y": y} | flat(module, "", end)


def compare(found: dict[str, Any], expected: dict[str, Any], dtype: str, normalised: bool) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == dtype, name
        near(found[name], array, "normalised forward" if normalised else "forward", name, dtype)


def normalised(module: Any) -> bool:
    return any(getattr(layer, "layer_norm", False) for _, layer in leaves(module))


def kinds(model: Any) -> list[str]:
    """The recurrent nodes."""
    return [node.op_type for node in model.graph.node if node.op_type in CALLED]


def names(values: Any) -> list[str]:
    return [value.name for value in values]


# ---- what ONNX Runtime made of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_what_onnx_runtime_ran(name):
    module, options = CASES[name]
    params = under(f"{name}/params/")
    with unchanged(params):
        model = dump(module, params, **options)
    described, told, expected = ABOUT[name]
    assert build(described) == module and told == options, "run tests/stored/make_onnx_written.py again"
    onnx.checker.check_model(model, full_check=True)
    assert fingerprint(model) == expected, "if it ought to differ, run tests/stored/make_onnx_written.py again"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtimes_results_are_polyrnns(name, run):
    module, _ = CASES[name]
    given, expected = under(f"{name}/{run}/inputs/"), under(f"{name}/{run}/outputs/")
    found = own(module, under(f"{name}/params/"), given)
    compare({key: expected[key] for key in found}, found, "float32", normalised(module))
    assert found.keys() == expected.keys()
    assert all(np.abs(array).max() > 0.01 for array in found.values())


def test_the_stored_cases_are_all_there():
    assert list(ABOUT) == list(CASES)
    assert {
        kind for module, options in CASES.values() for kind in kinds(dump(module, module.init(), **options))
    } == CALLED
    shapes = [STORED[f"{name}/{run}/inputs/x"].shape[:2] for name in CASES for run in RUNS]
    assert len(set(shapes)) == 4  # also (N, T)


# ---- all variants ----------------------------------------------------------------------------------------------------


def variant(name: str | int, dtype: str, **more: Any) -> tuple[Any, dict, list[dict]]:
    """The layer, its parameters, and two runs of different sizes."""
    v = variants.get(name)
    layer = replace(v.layer(pr), **more)
    rng = np.random.default_rng(list(f"written {name}".encode()))
    both = {"lengths": True, "state": True}
    params = {key: array.astype(dtype) for key, array in v.params.items()}
    return layer, params, [inputs(layer, both, steps, batch, dtype, rng) for steps, batch in ((5, 3), (3, 2))]


@pytest.mark.parametrize("name", [*variants.NAMED, *range(variants.COUNT)])
def test_onnx_reference_implementation_gives_the_same(name):
    """Of loops, in float64."""
    from onnx.reference import ReferenceEvaluator

    layer, params, runs = variant(name, "float64", batch_first=name in range(0, variants.COUNT, 3))
    model = dump(layer, params, lengths=True, state=True, scan=True)
    onnx.checker.check_model(model, full_check=True)
    evaluator = ReferenceEvaluator(model)
    for given in runs:
        found = dict(zip(names(model.graph.output), evaluator.run(None, given), strict=True))
        compare(found, own(layer, params, given), "float64", True)


def session(model: Any) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", [*variants.NAMED, *range(variants.COUNT)])
def test_onnx_runtime_gives_the_same(name, scan):
    dtype = "float64" if scan else "float32"
    layer, params, runs = variant(name, dtype, batch_first=name in range(0, variants.COUNT, 3))
    model = dump(layer, params, lengths=True, state=True, scan=scan)
    onnx.checker.check_model(model, full_check=True)
    running = session(model)
    for given in runs:
        found = dict(zip(names(model.graph.output), running.run(None, given), strict=True))
        compare(found, own(layer, params, given), dtype, scan or normalised(layer))


ACTIVATIONS = [
    *("tanh", "relu", "sigmoid", "softsign", "softplus", "leaky_relu", "thresholded_relu", "elu", "hard_sigmoid"),
    *(("affine", 0.6, 0.2), ("scaled_tanh", 1.3, 0.7), ("hard_sigmoid", 0.3, 0.4), ("elu", 0.6), ("leaky_relu", 0.2)),
    ("thresholded_relu", 0.3),
]


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_every_activation_in_onnx_runtime(phi, rng):
    gate = "sigmoid" if phi in ("relu", "softplus") else phi  # or else states grow
    layers = [pr.RNN(2, 7, nonlinearity=phi, bidirectional=True), pr.GRU(2, 7, activations=(gate, gate, phi))]
    layers.append(pr.LSTM(2, 7, activations=(gate, gate, phi, gate, "tanh"), bidirectional=True))
    for layer in layers:
        params = {key: (0.3 * rng.standard_normal(shape)).astype("float32") for key, shape in layer.shapes().items()}
        model = dump(layer, params)
        assert kinds(model) == [type(layer).__name__]
        given = inputs(layer, {}, 5, 3, "float32", rng)
        found = dict(zip(names(model.graph.output), session(model).run(None, given), strict=True))
        compare(found, own(layer, params, given), "float32", False)


def test_no_sequences_in_onnx_runtime(rng):
    layer = pr.LSTM(2, 7, bidirectional=True)
    params = layer.init(dtype="float64")
    model = dump(layer, params, lengths=True, state=True, scan=True)
    given = inputs(layer, {"state": True}, 5, 0, "float64", rng) | {"lengths": np.zeros(0, "int32")}
    found = dict(zip(names(model.graph.output), session(model).run(None, given), strict=True))
    compare(found, own(layer, params, given), "float64", False)


# ---- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_read_back_it_gives_the_same(name):
    module, options = CASES[name]
    params = under(f"{name}/params/")
    model = dump(module, params, **options)
    if "Scan" in kinds(model):
        with pytest.raises(ValueError, match="Scan"):
            load(model)
        return
    graph = load(model)
    weights = {key: array for key, array in graph.params.items() if array.size > 1}
    assert len(weights) == len(graph.params), "a number of the formulas has become a parameter"
    for run in RUNS:
        given = under(f"{name}/{run}/inputs/")
        if given["x"].dtype.kind == "i":
            given["x"] = given["x"] % 11  # there ids are looked at before anything is done
        found = graph.run(given)
        compare(found, own(module, params, given), "float32", False)


# ---- what is in a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (pr.LSTM(2, 7, num_layers=3, bidirectional=True), ["LSTM"] * 3),
        (pr.LSTM(2, 7, peephole=True, coupled=True, clip=0.7, learned_state=True), ["LSTM"]),
        (pr.LSTM(2, 7, coupled=True, activations=("sigmoid", "relu", "sigmoid", "elu")), ["LSTM"]),
        (pr.LSTM(2, 7, coupled=True, activations=("tanh", "relu", "tanh", "elu")), ["Scan"]),
        (pr.LSTM(2, 7, activations=("sigmoid", "tanh", "tanh", "sigmoid", "tanh")), ["Scan"]),
        (pr.LSTM(2, 7, proj_size=3, num_layers=2, bidirectional=True), ["Scan"] * 4),
        (pr.LSTM(2, 7, cell_clip=1.0), ["Scan"]),
        (pr.LSTM(2, 7, layer_norm=True), ["Scan"]),
        (pr.LSTM(2, 7, zoneout_c=0.1), ["Scan"]),
        (pr.LSTM(2, 7, input_dropout=0.2, recurrent_dropout=0.3, output_dropout=0.1, remat=3), ["LSTM"]),
        (pr.GRU(2, 7, reset_after=False, clip=0.7, num_layers=2), ["GRU"] * 2),
        (pr.GRU(2, 7, activations=("sigmoid", "tanh", "tanh")), ["Scan"]),
        (pr.GRU(2, 7, layer_norm=True), ["Scan"]),
        (pr.RNN(2, 7, nonlinearity="softplus", clip=0.7), ["RNN"]),
        (pr.RNN(2, 7, zoneout_h=0.1), ["Scan"]),
    ],
)
def test_operators_are_used_where_they_can(layer, expected):
    assert kinds(dump(layer, layer.init())) == expected
    assert set(kinds(dump(layer, layer.init(), scan=True))) == {"Scan"}


@pytest.mark.parametrize(("clip", "expected"), [(0.75, "GRU"), (0.7, "Scan")])
def test_in_float64_a_constant_is_exact(clip, expected):
    """An attribute is of single precision."""
    layer = pr.GRU(2, 7, clip=clip)
    model = dump(layer, layer.init(dtype="float64"))
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == [expected] and kinds(dump(layer, layer.init())) == ["GRU"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("scan", [False, True])
def test_the_dtype_is_that_of_the_parameters(dtype, scan):
    layer = pr.LSTM(2, 7, num_layers=2, layer_norm=scan, learned_state=True)
    model = dump(layer, layer.init(dtype=dtype), lengths=True, scan=scan)
    onnx.checker.check_model(model, full_check=True)
    floats = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output) if v.name != "lengths"]
    assert set(floats) == {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}


def test_names_and_sizes_and_description():
    module, options = CASES["tagger"]
    model = dump(module, module.init(), **options)
    forms = {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    }
    assert forms == {
        "x": ("N", "T"),
        "lengths": ("N",),
        "encoder.gru.h0": (2, "N", 3),
        "lstm.h0": (1, "N", 2),
        "lstm.c0": (1, "N", 7),
        "y": ("N", "T", 5),
        "encoder.gru.h": (2, "N", 3),
        "lstm.h": (1, "N", 2),
        "lstm.c": (1, "N", 7),
    }
    assert names(model.graph.input) == ["x", "lengths", "encoder.gru.h0", "lstm.h0", "lstm.c0"]
    assert set(names(model.graph.initializer)) == {
        "encoder.table.weight",
        "encoder.gru.W_l0",
        "encoder.gru.R_l0",
        "encoder.gru.B_l0",
        *(f"lstm.{key}" for key in dict(module.members)["lstm"].shapes()),
        "head.weight",
        "head.bias",
    }
    (told,) = [each.value for each in model.metadata_props if each.key == "polyrnn"]
    assert json.loads(told) == json.loads(json.dumps(describe(module))) and build(json.loads(told)) == module
    assert model.opset_import[0].version == 22 and model.ir_version == 10 and model.producer_name == "polyrnn"


def test_a_layer_of_ones_own_is_written():
    """Its cell's equations write themselves; only a description in JSON there is none."""
    from onnx.reference import ReferenceEvaluator

    class MyLSTM(pr.LSTM):
        pass

    layer = MyLSTM(2, 7)
    params = layer.init(dtype="float64")
    model = dump(layer, params)
    x = np.random.default_rng(0).standard_normal((5, 3, 2))
    near(ReferenceEvaluator(model).run(["y"], {"x": x})[0], layer(params, x)[0], "forward", "y")
    assert kinds(model) == ["Scan"] and not model.metadata_props


def test_parameters_may_be_in_any_order_and_read_only():
    layer = pr.LSTM(2, 7, num_layers=2, learned_state=True, bidirectional=True)
    params = {key: array + k for k, (key, array) in enumerate(layer.init(seed=0).items())}
    for array in params.values():
        array.flags.writeable = False
    turned = dict(reversed(params.items()))
    assert fingerprint(dump(layer, params)) == fingerprint(dump(layer, turned))


def test_a_file_holds_the_same(tmp_path):
    module, options = CASES["classifier/last"]
    params = module.init(seed=0)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    save(path, module, params, **options)
    assert path.read_bytes() == dump(module, params, **options).SerializeToString(deterministic=True)
    assert os.listdir(tmp_path) == ["model.onnx"]
    onnx.checker.check_model(str(path), full_check=True)
    with pytest.raises(ValueError, match="params"):
        save(path, module, {}, **options)
    with pytest.raises(OSError, match="nowhere"):
        save(tmp_path / "nowhere" / "model.onnx", module, params)
    assert os.listdir(tmp_path) == ["model.onnx"]


# ---- what is refused -------------------------------------------------------------------------------------------------


class Halved(pr.layers.LSTMCell):
    """With a projection of its own."""

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        return super().project(xp, params, x) * 0.5


class Sorted(pr.layers.LSTMCell):
    """With a function that has no counterpart."""

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> Any:
        return super().step(xp, params, xp.sort(pre, axis=-2), state)


class WithHalved(pr.LSTM):
    cell = Halved()


class WithSorted(pr.LSTM):
    cell = Sorted()


class Doubled(pr.modules.Dropout):
    """A module of an unknown type."""


@pytest.mark.parametrize(
    ("module", "options", "error", "words"),
    [
        (pr.LSTM(2, 7, ensemble=3), {}, ValueError, ("ensemble=3", "each member for itself")),
        (pr.Sequential(pr.Linear(2, 3, ensemble=2)), {}, ValueError, ("ensemble=2",)),
        (pr.Linear(2, 3), {"state": True}, ValueError, ("state=True", "Linear has no recurrent layer")),
        (pr.Sequential(pr.LSTM(2, 7), head=pr.Linear(5, 3)), {}, ValueError, ("head.Linear takes 5", "gives 7")),
        (pr.Sequential(a=pr.Linear(2, 7), b=pr.GRU(5, 3)), {}, ValueError, ("b.GRU takes 5", "gives 7")),
        (pr.Sequential(pr.Linear(2, 3), b=pr.Embedding(7, 3)), {}, ValueError, ("b.Embedding takes ids", "float32")),
        (WithHalved(2, 7), {}, ValueError, ("Halved", "`project` of its own")),
        (WithSorted(2, 7), {}, ValueError, ("xp.sort",)),
        (pr.Sequential(a=Doubled(0.5)), {}, TypeError, ("a.Doubled(p=0.5) has no form in ONNX",)),
        (pr.LSTM(2, 7), {"lengths": 3}, TypeError, ("lengths=3", "True or False")),
        (pr.LSTM(2, 7), {"state": None}, TypeError, ("state=None", "True or False")),
        (pr.LSTM(2, 7), {"scan": "yes"}, TypeError, ("scan='yes'", "True or False")),
    ],
)
def test_what_cannot_be_written_is_refused(module, options, error, words):
    with pytest.raises(error) as caught:
        dump(module, module.init(), **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_wrong_parameters_are_refused():
    layer = pr.LSTM(2, 7)
    params = layer.init()
    with pytest.raises(ValueError, match="lacks bias_hh_l0"):
        dump(layer, {key: array for key, array in params.items() if key != "bias_hh_l0"})
    with pytest.raises(ValueError, match="bias_hh_l0"):
        dump(layer, params | {"bias_hh_l0": np.zeros(27, "float32")})
    with pytest.raises(TypeError, match="float64"):
        dump(layer, params | {"bias_hh_l0": np.zeros(28)})
    with pytest.raises(TypeError, match="expected a module"):
        dump(params, layer)


def test_without_onnx_the_message_says_what_to_install():
    code = """
import sys
sys.modules["onnx"] = None
import polyrnn as pr
from polyrnn.interop.onnx import dump
try:
    dump(pr.LSTM(2, 3), pr.LSTM(2, 3).init())
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install" in run.stdout
