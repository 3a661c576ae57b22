"""A layer as ONNX' operator RNN, LSTM or GRU: one node for both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._recurrent import Recurrent
from ...activations import ACTIVATIONS, Activation, activation
from ...layers import LSTM, RNN
from .._converted import KINDS, OURS, kind_of, of_recurrence, reorder, suffixes
from ._write_graph import Array, permute_dims, reshape, where

ORDERS = {"rnn": "h", "lstm": "iofg", "gru": "zrn"}  # of ONNX' gate blocks, in polyrnn's letters
PEEPHOLES = "ifo", "iof"
LACKS = {"proj_size": 0, "layer_norm": False, "cell_clip": None, "zoneout_h": 0.0, "zoneout_c": 0.0}


def attributes(layer: Recurrent, dtype: Any) -> dict[str, Any] | None:
    """The operator's attributes, or None if it cannot represent the layer.

    It has no projection, normalisation or zoneout, nor a limit for c; one activation serves all of its gates; and its
    constants are of single precision.
    """
    if type(layer) not in KINDS.values() or any(getattr(layer, name, none) != none for name, none in LACKS.items()):
        return None
    functions = _functions(layer)
    if functions is None:
        return None
    found: dict[str, Any] = {}
    directions = 2 if layer.bidirectional else 1
    if functions:
        constants = [
            pair for phi in functions for pair in zip(ACTIVATIONS[phi.name].constants, phi.constants, strict=True)
        ]
        found["activations"] = [phi.name.title().replace("_", "") for phi in functions] * directions
        for name, value in constants * directions:
            found.setdefault(f"activation_{name}", []).append(value)
    if (limit := getattr(layer, "clip", None)) is not None:
        found["clip"] = limit
    numbers = [limit or 0.0, *found.get("activation_alpha", []), *found.get("activation_beta", [])]
    if dtype == np.float64 and any(float(np.float32(number)) != number for number in numbers):
        return None
    found |= {"hidden_size": layer.hidden_size, "direction": "bidirectional" if layer.bidirectional else "forward"}
    found |= {"input_forget": 1} if getattr(layer, "coupled", False) else {}
    return found | ({"linear_before_reset": 1} if getattr(layer, "reset_after", False) else {})


def layer_of(
    layer: Recurrent,
    options: dict[str, Any],
    params: Mapping[str, np.ndarray],
    k: int,
    x: Array,
    starts: Sequence[Array | None],
    lengths: Array | None,
) -> tuple[Array, list[Array]]:
    """The k-th layer over x (T, N, I) -> y (T, N, D*H), and the final states (D, N, H).

    `options` are the operator's attributes; the initial states are (D, N, H), or None for zero.
    """
    graph, kind, scope = x.graph, kind_of(layer), x.graph.root.scope
    D, H = 2 if layer.bidirectional else 1, layer.hidden_size
    each = [_weights(layer, kind, of_recurrence(params, suffix)) for suffix in suffixes(layer)[k * D : (k + 1) * D]]
    held = {name: graph.initializer(f"{scope}{name}_l{k}", np.stack([one[name] for one in each])) for name in each[0]}
    inputs = [x, held["W"], held["R"], held.get("B"), lengths, *starts, held.get("P")]
    steps, batch, _ = x.shape
    forms = [((steps, D, batch, H), x.dtype)] + [((D, batch, H), x.dtype)] * len(starts)
    y, *ends = graph.node(kind.upper(), inputs, forms, f"l{k}", **options)
    if lengths is not None:  # ONNX Runtime's final state of no steps is zero
        runs = (lengths > 0)[None, :, None]
        ends = [end if start is None else where(runs, end, start) for end, start in zip(ends, starts, strict=True)]
    return reshape(permute_dims(y, (0, 2, 1, 3)), (steps, batch, D * H)), ends


def _weights(layer: Recurrent, kind: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """W, R, B and P of one recurrence, by ONNX' names and in its order of gates.

    ONNX couples f = 1 - i, polyrnn i = 1 - f. With i the sigmoid of the negative arguments of f both hold, and so does
    the reading that computes the two and couples nothing.
    """
    blocks = {"W": [own["weight_ih"]], "R": [own["weight_hh"]]}
    blocks |= {"B": [own["bias_ih"], own["bias_hh"]]} if layer.bias else {}
    coupled = getattr(layer, "coupled", False)
    if coupled:
        blocks = {name: [_with_input_gate(block, 3) for block in found] for name, found in blocks.items()}
    found = {
        name: np.concatenate([reorder(block, OURS[kind], ORDERS[kind]) for block in parts])
        for name, parts in blocks.items()
    }
    if "weight_peephole" not in own:
        return found
    peephole = _with_input_gate(own["weight_peephole"], 2) if coupled else own["weight_peephole"]
    return found | {"P": reorder(peephole, *PEEPHOLES)}


def _with_input_gate(block: np.ndarray, count: int) -> np.ndarray:
    """The blocks f ... as i f ..., where sigmoid(a_i) = 1 - sigmoid(a_f)."""
    return np.concatenate([-np.split(block, count)[0], block])


def _functions(layer: Recurrent) -> list[Activation] | None:
    """Of an RNN f, of a GRU f g, of an LSTM f g h, in ONNX' letters; empty if the default; None if there are others."""
    if isinstance(layer, RNN):
        return [] if layer.nonlinearity == "tanh" else [activation(layer.nonlinearity)]
    given = getattr(layer.cell, "activations", None)
    if given is None:  # the textbook's cells have no choice
        return []
    gates, rest = (given[:2] + given[3:4], [given[2], given[4]]) if isinstance(layer, LSTM) else (given[:2], [given[2]])
    coupled = getattr(layer, "coupled", False)
    if len(set(gates)) > 1 or (coupled and gates[0] != Activation("sigmoid")):
        return None
    default = [Activation("sigmoid")] + [Activation("tanh")] * len(rest)
    return [] if [gates[0], *rest] == default else [gates[0], *rest]
