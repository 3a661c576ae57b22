"""Writes onnx_exports/: small models as PyTorch exports them, with ONNX Runtime's results and PyTorch's gradients.

NAME.onnx is float32. NAME.safetensors has "in/..." and "out/..." (ONNX Runtime, CPU), "up/...", the gradients of the
outputs, and "grad/...", PyTorch's in float64 of the inputs and of those parameters that the file has by their names.
Run with torch 2.13, onnx 1.23.2, onnxruntime 1.32.0; the exporter is the one without dynamo, which needs nothing more.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

FOLDER = Path(__file__).with_name("onnx_exports")


class Classifier(nn.Module):
    """Token ids to log-probabilities, by way of two bidirectional layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 3)
        self.lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(10, 4)

    def forward(self, ids):
        y, (h, _) = self.lstm(self.embedding(ids))
        return torch.log_softmax(self.linear(y[:, -1]), -1), h


class WithState(nn.Module):
    """A GRU with its state in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 5, num_layers=2)
        self.linear = nn.Linear(5, 3, bias=False)

    def forward(self, x, h):
        y, h = self.gru(x, h)
        return torch.sigmoid(self.linear(torch.cat([y, y.mean(0, keepdim=True).expand_as(y)], 0))), h


class Simple(nn.Module):
    """A simple network; softmax of the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 7, nonlinearity="relu", bidirectional=True)
        self.linear = nn.Linear(14, 2)

    def forward(self, x):
        y, h = self.rnn(x)
        both = h.permute(1, 0, 2).reshape(x.shape[1], -1)
        return torch.softmax(self.linear(both), dim=1), y.transpose(0, 1).max(1)[0]


class Packed(nn.Module):
    """A packed sequence: lengths in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, bidirectional=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths)
        y, (h, c) = self.lstm(packed)
        return pad_packed_sequence(y)[0], h, c


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(list(shape)).standard_normal(shape).astype("float32"))


def varying(**axes: str | dict) -> dict:
    """dynamic_axes: x="TN" names the first axes of x."""
    return {n: letters if isinstance(letters, dict) else dict(enumerate(letters)) for n, letters in axes.items()}


CASES = {
    "torch_classifier": (
        Classifier,
        {"ids": torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 10, 0, 7]])},
        ["p", "h"],
        varying(ids="NT"),
        20,
    ),
    "torch_with_state": (
        WithState,
        {"x": random(7, 3, 2), "h0": random(2, 3, 5)},
        ["y", "h"],
        varying(x="TN", h0={1: "N"}),
        11,
    ),
    "torch_simple": (Simple, {"x": random(5, 3, 3)}, ["p", "m"], varying(x="TN"), 9),
    "torch_simple_14": (Simple, {"x": random(5, 2, 3)}, ["p", "m"], varying(x="TN"), 14),
    "torch_packed": (
        Packed,
        {"x": random(6, 3, 3), "lengths": torch.tensor([6, 4, 2])},
        ["y", "h", "c"],
        varying(x="TN", lengths="N"),
        18,
    ),
}


def gradients(module: nn.Module, inputs: dict, ups: list) -> dict[str, np.ndarray]:
    """Of the floating inputs and all parameters, in float64."""
    module = copy.deepcopy(module).double()
    leaves = {n: a.double().requires_grad_() if a.is_floating_point() else a for n, a in inputs.items()}
    outputs = module(*leaves.values())
    sum((y * torch.from_numpy(up).double()).sum() for y, up in zip(outputs, ups, strict=True)).backward()
    found = {name: a.grad for name, a in leaves.items() if a.is_floating_point()}
    return {name: a.numpy() for name, a in (found | {n: p.grad for n, p in module.named_parameters()}).items()}


FOLDER.mkdir(exist_ok=True)
for name, (kind, inputs, outputs, axes, opset) in CASES.items():
    torch.manual_seed(len(name))
    module, path = kind().eval(), FOLDER / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
        )
    names = {tensor.name for tensor in onnx.load(path).graph.initializer}
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    given = {n: a.numpy() for n, a in inputs.items()}
    results = session.run(None, given)
    rng = np.random.default_rng(len(name))
    ups = [rng.standard_normal(a.shape).astype("float32") for a in results]
    grads = {n: a for n, a in gradients(module, inputs, ups).items() if n in names or n in inputs}
    arrays = {f"in/{n}": a for n, a in given.items()} | {f"grad/{n}": a for n, a in grads.items()}
    arrays |= {f"out/{n}": a for n, a in zip(outputs, results, strict=True)}
    arrays |= {f"up/{n}": a for n, a in zip(outputs, ups, strict=True)}
    about = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    arrays = {n: np.ascontiguousarray(a) for n, a in arrays.items()}
    save_file(arrays, FOLDER / f"{name}.safetensors", metadata={"about": json.dumps(about)})
    print(name, path.stat().st_size, sorted(grads))
