"""Writes onnx_written.safetensors: ONNX Runtime's results for models that `polyrnn.interop.onnx.dump` writes.

Of each case there are the parameters, "NAME/params/KEY", and two runs of different T and N, "NAME/RUN/inputs/KEY" and
"NAME/RUN/outputs/KEY". The metadata has the module's description, dump's options, and a fingerprint of the model, by
which a test tells that what it dumps is what was run. Behind the end of a sequence stands NaN, or an id out of range.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import polyrnn as pr

GATES = ("sigmoid", ("hard_sigmoid", 0.3, 0.4), "softsign", "sigmoid", ("scaled_tanh", 1.3, 0.7))
ONE = (("hard_sigmoid", 0.3, 0.4), ("hard_sigmoid", 0.3, 0.4), ("affine", 0.6, 0.2), ("hard_sigmoid", 0.3, 0.4))
LENGTHS, STATE = {"lengths": True}, {"state": True}
BOTH = LENGTHS | STATE
DEEP = {"num_layers": 2, "bidirectional": True}

CASES: dict[str, tuple[pr.Module, dict[str, bool]]] = {
    "rnn": (pr.RNN(2, 7), STATE),
    "rnn/deep": (pr.RNN(2, 7, nonlinearity="relu", clip=1.1, **DEEP), BOTH),
    "rnn/constants": (pr.RNN(2, 7, nonlinearity=("scaled_tanh", 1.3, 0.7), bidirectional=True, bias=False), LENGTHS),
    "rnn/zoneout": (pr.RNN(2, 7, zoneout_h=0.2), BOTH),
    "rnn/scan": (pr.RNN(2, 7, bidirectional=True), BOTH | {"scan": True}),
    "lstm": (pr.LSTM(2, 7), {}),
    "lstm/deep": (pr.LSTM(2, 7, **DEEP), BOTH),
    "lstm/batch_first": (pr.LSTM(2, 7, batch_first=True, bias=False, **DEEP), BOTH),
    "lstm/peephole": (pr.LSTM(2, 7, peephole=True, clip=0.7, bidirectional=True), BOTH),
    "lstm/coupled": (pr.LSTM(2, 7, peephole=True, coupled=True, clip=0.7, bidirectional=True), BOTH),
    "lstm/constants": (pr.LSTM(2, 7, activations=(*ONE, "softsign"), bidirectional=True), STATE),
    "lstm/learned": (pr.LSTM(2, 7, learned_state=True, **DEEP), LENGTHS),
    "lstm/projection": (pr.LSTM(2, 7, proj_size=3, **DEEP), BOTH),
    "lstm/gates": (pr.LSTM(2, 7, activations=GATES, cell_clip=0.8, peephole=True), BOTH),
    "lstm/layer_norm": (pr.LSTM(2, 7, layer_norm=True, learned_state=True, bidirectional=True), LENGTHS),
    "lstm/zoneout": (pr.LSTM(2, 7, zoneout_h=0.1, zoneout_c=0.3, coupled=True), STATE),
    "lstm/scan": (pr.LSTM(2, 7, batch_first=True, bidirectional=True), BOTH | {"scan": True}),
    "gru": (pr.GRU(2, 7), STATE),
    "gru/before": (pr.GRU(2, 7, reset_after=False, bidirectional=True), BOTH),
    "gru/deep": (pr.GRU(2, 7, clip=0.8, **DEEP), BOTH),
    "gru/constants": (pr.GRU(2, 7, activations=(ONE[0], ONE[1], ("elu", 0.6))), STATE),
    "gru/layer_norm": (pr.GRU(2, 7, layer_norm=True, reset_after=False, activations=GATES[:3]), BOTH),
    "gru/scan": (pr.GRU(2, 7, bidirectional=True), BOTH | {"scan": True}),
    "classifier/last": (
        pr.Sequential(
            table=pr.Embedding(11, 5),
            drop=pr.Dropout(0.1),
            lstm=pr.LSTM(5, 7),
            pool=pr.Pool("last"),
            head=pr.Linear(7, 3),
        ),
        LENGTHS,
    ),
    "classifier/max": (
        pr.Sequential(
            pr.Embedding(11, 5), pr.GRU(5, 7, batch_first=True), pr.Pool("max", True), pr.Linear(7, 3, False)
        ),
        BOTH,
    ),
    "classifier/mean": (pr.Sequential(pr.Linear(2, 5), pr.RNN(5, 7), pr.Pool("mean"), pr.Linear(7, 3)), LENGTHS),
    "pool/last": (pr.Sequential(pr.RNN(2, 7), pr.Pool("last")), {}),
    "pool/max": (pr.Sequential(pr.RNN(2, 7), pr.Pool("max")), {}),
    "pool/mean": (pr.Sequential(pr.RNN(2, 7), pr.Pool("mean")), {}),
    "tagger": (
        pr.Sequential(
            encoder=pr.Sequential(table=pr.Embedding(11, 5), gru=pr.GRU(5, 3, batch_first=True, bidirectional=True)),
            lstm=pr.LSTM(6, 7, batch_first=True, proj_size=2),
            head=pr.Linear(2, 5),
        ),
        BOTH,
    ),
}
SIZES = ((5, 3), (4, 2))  # T and N of the runs


def drawn(name: str, dtype: str = "float32") -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """The parameters of a case, and the model's inputs in each run."""
    module, options = CASES[name]
    rng = np.random.default_rng(list(name.encode()))
    params = {}
    for key, shape in module.shapes().items():
        gain = 1.0 if "weight_layer_norm" in key else 0.0
        params[key] = (gain + 0.5 * rng.standard_normal(shape)).astype(dtype)
    return params, [inputs(module, options, steps, batch, dtype, rng) for steps, batch in SIZES]


def inputs(module: Any, options: dict, steps: int, batch: int, dtype: str, rng: np.random.Generator) -> dict[str, Any]:
    """What a model takes, by name."""
    found: dict[str, Any] = {}
    first = leaves(module)[0][1]
    ids = isinstance(first, pr.Embedding)
    x = rng.integers(11, size=(steps, batch)) if ids else rng.standard_normal((steps, batch, 2)).astype(dtype)
    if options.get("lengths"):
        lengths = np.int32([steps, 0, steps - 2][:batch])
        x[np.arange(steps)[:, None] >= lengths] = 99 if ids else np.nan
        found["lengths"] = lengths
    found["x"] = x.swapaxes(0, 1).copy() if module.batch_first else x
    for scope, layer in leaves(module):
        if options.get("state") and isinstance(layer, pr.layers.Recurrent):
            count = layer.num_layers * (2 if layer.bidirectional else 1)
            for state, size in zip(layer.cell.states, layer.cell.state_sizes(layer.hidden_size), strict=True):
                found[f"{scope}{state}0"] = rng.standard_normal((count, batch, size)).astype(dtype)
    return found


def leaves(module: Any, scope: str = "") -> list[tuple[str, Any]]:
    """All modules but Sequentials, with what stands in front of their names."""
    if not isinstance(module, pr.Sequential):
        return [(scope, module)]
    return [leaf for name, member in module.members for leaf in leaves(member, f"{scope}{name}.")]


def fingerprint(model: Any) -> str:
    """A hash of what a model computes: its inputs, outputs, nodes and tensors, whatever the version of the package."""
    from onnx import helper, numpy_helper

    def value(of: Any) -> Any:
        tensor = of.type.tensor_type
        return of.name, tensor.elem_type, [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]

    def array(of: Any) -> Any:
        found = numpy_helper.to_array(of)
        return str(found.dtype), found.shape, hashlib.sha256(found.tobytes()).hexdigest()

    def attribute(of: Any) -> Any:
        found = helper.get_attribute_value(of)
        form = graph if of.type == of.GRAPH else array if of.type == of.TENSOR else repr
        return of.name, form(found)

    def graph(of: Any) -> Any:
        nodes = [(n.op_type, list(n.input), list(n.output), sorted(map(attribute, n.attribute))) for n in of.node]
        tensors = sorted((each.name, array(each)) for each in of.initializer)
        return list(map(value, of.input)), list(map(value, of.output)), nodes, tensors

    opsets = [(each.domain, each.version) for each in model.opset_import]
    return hashlib.sha256(json.dumps([opsets, model.ir_version, graph(model.graph)]).encode()).hexdigest()


def main() -> None:
    """Run them all."""
    import onnx
    import onnxruntime
    from safetensors.numpy import save_file

    from polyrnn.interop.onnx import dump
    from polyrnn.model import describe

    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "cases": {}}
    for name, (module, options) in CASES.items():
        params, runs = drawn(name)
        model = dump(module, params, **options)
        about["cases"][name] = describe(module), options, fingerprint(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        arrays |= {f"{name}/params/{key}": array for key, array in params.items()}
        for run, given in enumerate(runs):
            arrays |= {f"{name}/{run}/inputs/{key}": array for key, array in given.items()}
            outputs = dict(zip(names, session.run(None, given), strict=True))
            arrays |= {f"{name}/{run}/outputs/{key}": array for key, array in outputs.items()}
    save_file(arrays, Path(__file__).with_name("onnx_written.safetensors"), metadata={"about": json.dumps(about)})


if __name__ == "__main__":
    main()
