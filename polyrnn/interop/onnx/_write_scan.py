"""A recurrence as ONNX' Scan, whose body is the cell's own equations: for what RNN, LSTM and GRU cannot represent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..._recurrent import Recurrent
from ...cells import Cell, Expected, Held
from .._converted import of_recurrence, suffixes
from ._write_graph import FLIP, XP, Array, Graph, concat, expand, value_info, where


def layer_of(
    layer: Recurrent,
    params: dict[str, np.ndarray],
    k: int,
    x: Array,
    starts: Sequence[Array | None],
    valid: Array | None,
) -> tuple[Array, list[Array]]:
    """The k-th layer over x (T, N, I) -> y (T, N, D*P), and the final states (D, N, H).

    The initial ones are (D, N, H), or None for zero. The weights have polyrnn's names and layout in the file.
    """
    graph, scope = x.graph, x.graph.root.scope
    D = 2 if layer.bidirectional else 1
    directions = suffixes(layer)[k * D : (k + 1) * D]
    sizes = layer.cell.state_sizes(layer.hidden_size)
    found = []
    for d, suffix in enumerate(directions):
        own = {
            name: graph.initializer(f"{scope}{name}{suffix}", array)
            for name, array in of_recurrence(params, suffix).items()
            if not name.startswith("state_")
        }
        begin = [
            expand(graph.constant(0.0, x.dtype), x, size) if start is None else start[d]
            for start, size in zip(starts, sizes, strict=True)
        ]
        graph.root.scope = f"{scope}{suffix[1:]}."
        found.append(_recurrence(layer, own, x, begin, valid, suffix.endswith("_reverse")))
        graph.root.scope = scope
    ends = zip(*[ends for _, ends in found], strict=True)
    return concat([y for y, _ in found], -1), [concat([end[None, ...] for end in each], 0) for each in ends]


def _recurrence(
    layer: Recurrent, params: dict[str, Array], x: Array, starts: list[Array], valid: Array | None, reverse: bool
) -> tuple[Array, list[Array]]:
    """One direction over x (T, N, I) from its states (N, H) -> y (T, N, P), and the final states.

    Where `valid` (T, N) is False the states stand still and y is zero. A reverse direction runs over the flipped
    sequence: not every runtime has Scan's own directions.
    """
    cell = layer.cell
    if type(cell).project is not Cell.project:
        raise ValueError(f"{type(cell).__name__} has a `project` of its own, which cannot be written as ONNX here")
    pre = x @ params["weight_ih"].mT
    bias = cell.projected_bias(XP, params)
    pre = (pre if bias is None else pre + bias).mT  # columns are examples: (T, G*H, N)
    rates = tuple([getattr(layer, f"zoneout_{name}", 0.0) for name in cell.states])
    cell = Expected(cell, rates) if any(rates) else cell
    runs = None if valid is None else valid[:, None, :]
    sequences = [pre] if runs is None else [pre, runs]
    sequences = [s[FLIP] for s in sequences] if reverse else sequences
    y, ends = _scan(cell, params, [start.mT for start in starts], sequences)
    y = y[FLIP] if reverse else y
    y = y if runs is None else where(runs, y, 0.0)
    return y.mT, [end.mT for end in ends]


def _scan(
    cell: Cell, params: dict[str, Array], starts: list[Array], sequences: list[Array]
) -> tuple[Array, list[Array]]:
    """The node, with its body: y (T, P, N), and the final states (H, N)."""
    from onnx import helper

    graph = sequences[0].graph
    body = Graph(graph)
    scope = graph.root.scope
    labels = [*[f"state_{m}" for m in range(len(starts))], "pre", "valid"][: len(starts) + len(sequences)]
    forms = [(a.shape, a.dtype) for a in starts] + [(a.shape[1:], a.dtype) for a in sequences]
    inside = [Array(body, f"{scope}{label}", *form) for label, form in zip(labels, forms, strict=True)]
    state, (pre, *moves) = tuple(inside[: len(starts)]), inside[len(starts) :]
    if moves:
        new, _ = Held(cell).step(XP, params, (pre, tuple(moves) * len(state)), state)
    else:
        new, _ = cell.step(XP, params, pre, state)
    outside = [body.node("Identity", [a], [(a.shape, a.dtype)])[0] for a in (*new, new[0])]
    declared = [[value_info(a) for a in arrays] for arrays in (inside, outside)]
    *ends, y = graph.node(
        "Scan",
        [*starts, *sequences],
        [*forms[: len(starts)], ((sequences[0].shape[0], *new[0].shape), new[0].dtype)],
        body=helper.make_graph(body.nodes, f"{scope}step", *declared),
        num_scan_inputs=len(sequences),
    )
    return y, ends
