"""How each type of module is written: a function each, which adds its nodes and returns the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..._module import Module
from ..._recurrent import Recurrent
from ...modules import Dropout, Embedding, Linear, Sequential
from ...pooling import Pool
from .._converted import suffixes
from . import _write_operator, _write_scan
from ._write_graph import Array, Graph, apply, astype, concat, equal, expand, permute_dims, reduce, where

Params = dict[str, np.ndarray]


@dataclass
class Writer:
    """What the functions share: the graph, the options, and what has been declared."""

    graph: Graph
    state: bool
    scan: bool
    x: Array  # the input, time first, and zero where not valid
    lengths: Array | None = None
    valid: Array | None = None  # (T, N); None behind a Pool, too
    inputs: list[Array] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)  # the final states


def _embedding(w: Writer, module: Embedding, params: Params, ids: Array, scope: str) -> Array:
    if ids.dtype != np.int64:
        raise ValueError(f"{scope}Embedding takes ids, and gets {ids.dtype}; expected it in front of all others")
    weight = w.graph.initializer(f"{scope}weight", params["weight"])
    shape = (*ids.shape, module.embedding_dim)
    return _clean(w, apply("Gather", weight, ids, shape=shape, axis=0))


def _linear(w: Writer, module: Linear, params: Params, x: Array, scope: str) -> Array:
    _check_size(x, module.in_features, module, scope)
    y = x @ w.graph.initializer(f"{scope}weight", params["weight"]).mT
    return _clean(w, y + w.graph.initializer(f"{scope}bias", params["bias"])) if module.bias else y


def _dropout(w: Writer, module: Dropout, params: Params, x: Array, scope: str) -> Array:
    return x


def _pool(w: Writer, module: Pool, params: Params, x: Array, scope: str) -> Array:
    """Of no steps each is zero."""
    steps, valid, lengths = _steps(x), w.valid, w.lengths
    w.valid = None
    count = astype(steps if lengths is None else lengths[:, None], x.dtype)  # (1,), or (N, 1)
    if module.how == "max":
        x = x if valid is None else where(valid[..., None], x, -np.inf)
        return where(count > 0, reduce("ReduceMax", x, 0), 0.0)
    if module.how == "last":
        number = _range(x)[:, None] + 1
        last = equal(number, steps if lengths is None else astype(lengths, "int64")[None, :])
        return reduce("ReduceSum", where(last[..., None], x, 0.0), 0)
    return reduce("ReduceSum", x, 0) / where(count > 0, count, 1.0)


def _recurrent(w: Writer, layer: Recurrent, params: Params, x: Array, scope: str) -> Array:
    _check_size(x, layer.input_size, layer, scope)
    options = None if w.scan else _write_operator.attributes(layer, x.dtype)
    starts, D = _starts(w, layer, params, x, scope), 2 if layer.bidirectional else 1
    ends: list[list[Array]] = []
    for k in range(layer.num_layers):
        own = [start if start is None or layer.num_layers == 1 else start[k * D : (k + 1) * D] for start in starts]
        if options is None:
            x, found = _write_scan.layer_of(layer, params, k, x, own, w.valid)
        else:
            x, found = _write_operator.layer_of(layer, options, params, k, x, own, w.lengths)
        ends.append(found)
    for name, parts in zip(layer.cell.states, zip(*ends, strict=True), strict=True):
        w.outputs[f"{scope}{name}"] = concat(parts, 0)
    return x


def _sequential(w: Writer, module: Sequential, params: Params, x: Array, scope: str) -> Array:
    for name, member in module.members:
        own = {key: params[f"{name}.{key}"] for key in member.shapes()}
        x = write(w, member, own, x, f"{scope}{name}.")
    return x


WRITERS: dict[type[Module], Callable[..., Array]] = {
    Embedding: _embedding,
    Linear: _linear,
    Dropout: _dropout,
    Pool: _pool,
    Sequential: _sequential,
}


def write(w: Writer, module: Module, params: Params, x: Array, scope: str) -> Array:
    """The module's output; what it adds has names that begin with `scope`."""
    of: Callable[..., Array] | None = _recurrent if isinstance(module, Recurrent) else WRITERS.get(type(module))
    if of is None:
        raise TypeError(f"{scope}{module!r} has no form in ONNX; expected modules of polyrnn's own")
    before, w.graph.scope = w.graph.scope, scope
    y = of(w, module, params, x, scope)
    w.graph.scope = before
    return y


def begin(module: Module, dtype: Any, lengths: bool, state: bool, scan: bool) -> Writer:
    """A new graph with the inputs x and lengths, and x as the modules take it."""
    graph = Graph()
    first = next((leaf for leaf in _leaves(module) if not isinstance(leaf, (Dropout, Pool))), None)
    ids = isinstance(first, Embedding)
    size = getattr(first, "in_features", getattr(first, "input_size", "F"))
    leading = ("N", "T") if module.batch_first else ("T", "N")
    given = x = Array(graph, "x", leading if ids else (*leading, size), "int64" if ids else dtype)
    x = exchanged(x) if module.batch_first else x
    w = Writer(graph, state, scan, x, inputs=[given])
    if lengths:
        w.lengths = Array(graph, "lengths", ("N",), "int32")
        w.inputs.append(w.lengths)
        w.valid = _range(x)[:, None] < astype(w.lengths, "int64")[None, :]
        w.x = _clean(w, x)
    return w


def _leaves(module: Module) -> list[Module]:
    members = [member for _, member in module.members] if isinstance(module, Sequential) else None
    return [module] if members is None else [leaf for member in members for leaf in _leaves(member)]


def _starts(w: Writer, layer: Recurrent, params: Params, x: Array, scope: str) -> list[Array | None]:
    """The initial states (L*D, N, H): inputs, learned, or None for zero."""
    found: list[Array | None] = []
    for name, size in zip(layer.cell.states, layer.cell.state_sizes(layer.hidden_size), strict=True):
        start = None
        if w.state:
            start = Array(w.graph, f"{scope}{name}0", (len(suffixes(layer)), "N", size), x.dtype)
            w.inputs.append(start)
        elif layer.learned_state:
            learned = np.stack([params[f"state_{name}{suffix}"] for suffix in suffixes(layer)])
            start = expand(w.graph.initializer(f"{scope}state_{name}", learned[:, None, :]), x, size)
        found.append(start)
    return found


def _clean(w: Writer, x: Array) -> Array:
    """Zero where not valid."""
    if w.valid is None:
        return x
    return where(w.valid if x.ndim == 2 else w.valid[..., None], x, 0)


def _steps(x: Array) -> Array:
    """T of x (T, N, ...), as (1,)."""
    return apply("Shape", x, shape=(1,), dtype="int64", start=0, end=1)


def _range(x: Array) -> Array:
    """0 ... T-1."""
    first, step = x.graph.constant(0, "int64"), x.graph.constant(1, "int64")
    return apply("Range", first, _steps(x)[0], step, shape=("T",))


def exchanged(x: Array) -> Array:
    """(N, T, ...) as (T, N, ...), and back."""
    return permute_dims(x, (1, 0, *range(2, x.ndim)))


def _check_size(x: Array, size: int, module: Module, scope: str) -> None:
    if x.shape[-1] != size:
        raise ValueError(
            f"{scope}{type(module).__name__} takes {size} features; what stands before it gives {x.shape[-1]}"
        )
