"""Writes onnx_variants.safetensors: ONNX Runtime's results for variants of LSTM, GRU and RNN, in float32.

Keys are "NAME/X", "NAME/W", ..., "NAME/Y", "NAME/Y_h", "NAME/Y_c", in ONNX' own layout; the operators' attributes are
in the metadata. What ONNX Runtime 1.32.0 does where the specification can be read in two ways, found by trying:

- `clip` is applied "to the input of activations": to those of the gates, not to that of an LSTM's h. With clip=0.7 it
  is 2e-7 from h(C_t) and 0.26 from h(clip(C_t)). polyrnn does the same.
- The final state of a sequence of length 0 is zero, where polyrnn's is the initial one: no such length here.
- Without its constant ThresholdedRelu has the threshold 0, where the operator of that name has 1, and Affine and
  ScaledTanh give nothing but 0: the constants of these three are always given here.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from safetensors.numpy import save_file

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 2, 7
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NAMES = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]

CASES: dict[str, tuple[str, dict]] = {
    "lstm/peephole": ("LSTM", {"P": True}),
    "lstm/clip": ("LSTM", {"clip": 0.7}),
    "lstm/clip/peephole": ("LSTM", {"clip": 0.7, "P": True, "sequence_lens": True}),
    "lstm/coupled": ("LSTM", {"input_forget": 1}),
    "lstm/coupled/everything": (
        "LSTM",
        {"input_forget": 1, "P": True, "clip": 0.9, "direction": "bidirectional", "sequence_lens": True},
    ),
    "lstm/reverse": ("LSTM", {"P": True, "direction": "bidirectional", "clip": 1.3, "B": False}),
    "lstm/constants": (
        "LSTM",
        {
            "activations": ["HardSigmoid", "ScaledTanh", "Affine"],
            "activation_alpha": [0.3, 1.3, 0.6],
            "activation_beta": [0.4, 0.7, 0.2],
            "P": True,
        },
    ),
    "lstm/softsign": ("LSTM", {"activations": ["Sigmoid", "Softsign", "Softsign"], "P": True, "clip": 0.8}),
    "gru/clip": ("GRU", {"clip": 0.7}),
    "gru/clip/after": ("GRU", {"clip": 0.7, "linear_before_reset": 1, "sequence_lens": True}),
    "gru/clip/both": ("GRU", {"clip": 1.1, "direction": "bidirectional", "B": False}),
    "gru/clip/after/both": ("GRU", {"clip": 1.1, "direction": "bidirectional", "linear_before_reset": 1}),
    "gru/constants": (
        "GRU",
        {
            "activations": ["HardSigmoid", "LeakyRelu"],
            "activation_alpha": [0.3, 0.2],
            "activation_beta": [0.4],
            "linear_before_reset": 1,
        },
    ),
    "gru/constants/before": (
        "GRU",
        {"activations": ["HardSigmoid", "Elu"], "activation_alpha": [0.3, 0.6], "activation_beta": [0.4]},
    ),
    "rnn/clip": ("RNN", {"clip": 0.7}),
    "rnn/clip/reverse": ("RNN", {"clip": 0.9, "direction": "bidirectional", "sequence_lens": True}),
}
ALL = {"Relu": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "Tanh": (), "Affine": (0.6, 0.2), "LeakyRelu": (0.2,)}
ALL |= {"ThresholdedRelu": (0.3,), "ScaledTanh": (1.3, 0.7), "HardSigmoid": (0.3, 0.4), "Elu": (0.6,)}
for _name, _constants in ALL.items():
    _given = {f"activation_{n}": [c] for n, c in zip(("alpha", "beta"), _constants, strict=False)}
    CASES[f"rnn/{_name}"] = ("RNN", {"activations": [_name], **_given})
for _name in ("LeakyRelu", "HardSigmoid", "Elu"):
    CASES[f"rnn/{_name}/default"] = ("RNN", {"activations": [_name]})


def inputs(kind: str, options: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The operator's, those that the options ask for."""
    D, rows = 2 if options.get("direction") == "bidirectional" else 1, GATES[kind] * HIDDEN
    shapes = {"X": (STEPS, BATCH, INPUTS), "W": (D, rows, INPUTS), "R": (D, rows, HIDDEN)}
    shapes |= {"B": (D, 2 * rows)} if options.get("B", True) else {}
    shapes |= {"initial_h": (D, BATCH, HIDDEN)}
    shapes |= {"initial_c": (D, BATCH, HIDDEN)} if kind == "LSTM" else {}
    shapes |= {"P": (D, 3 * HIDDEN)} if options.get("P") else {}
    scale = {"W": 0.7, "R": 0.4, "B": 0.5}
    found = {name: np.float32(scale.get(name, 1.0) * rng.standard_normal(shape)) for name, shape in shapes.items()}
    return found | ({"sequence_lens": np.int32([3, 1, 5])} if options.get("sequence_lens") else {})


def run(kind: str, options: dict, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the operator puts out."""
    names = NAMES if kind == "LSTM" else NAMES[:6]
    outputs = ["Y", "Y_h", "Y_c"] if kind == "LSTM" else ["Y", "Y_h"]
    attributes = {name: value for name, value in options.items() if name not in ("P", "B", "sequence_lens")}
    node = helper.make_node(kind, [n if n in given else "" for n in names], outputs, hidden_size=HIDDEN, **attributes)
    types = {name: TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT for name in given}
    graph = helper.make_graph(
        [node],
        kind,
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(None, given), strict=True))


arrays: dict[str, np.ndarray] = {}
for name, (kind, options) in CASES.items():
    given = inputs(kind, options, np.random.default_rng(list(name.encode())))
    arrays |= {f"{name}/{key}": value for key, value in (given | run(kind, options, given)).items()}
about = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "cases": CASES}
save_file(arrays, Path(__file__).with_name("onnx_variants.safetensors"), metadata={"about": json.dumps(about)})
