"""Models of polyrnn as ONNX: what `dump` and `save` of the package do, and how each type of module is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from ..._door import check_flag, check_params
from ..._module import Module
from ..._recurrent import Recurrent
from ...backends import backend_of
from ...checkpoint import write_atomically
from ...model import describe
from ...modules import Dropout, Embedding, Linear, Sequential
from ...pooling import Pool
from .._converted import suffixes
from . import _write_operator, _write_scan
from ._write_graph import Array, Graph, apply, astype, concat, equal, expand, permute_dims, reduce, value_info, where

OPSET, IR_VERSION = 22, 10

Params = dict[str, np.ndarray]


def dump(module: Module, params: dict, *, lengths: bool = False, state: bool = False, scan: bool = False) -> Any:
    """A model of polyrnn as an ONNX model, which computes what `module(params, x, state, lengths)` does.

    Parameters
    ----------
    module : Module
        A layer or a Sequential, of whatever depth.
    params : dict of str to array
        Of any backend; the model has their dtype.
    lengths : bool
        Whether the model takes `lengths`.
    state : bool
        Whether it takes the initial states; otherwise they are the learned ones, or zero.
    scan : bool
        Write each recurrence as a Scan of elementary operators, even where RNN, LSTM or GRU would do: ONNX Runtime
        then runs float64, and no steps and no sequences, which make its GRU and LSTM end the process.

    Returns
    -------
    onnx.ModelProto
        Opset 22. Inputs and outputs are named, and the names T and N stand for the sizes that are free:

        ======================  =========================================================================
        x                       (T, N, I), with `batch_first` (N, T, I); of an Embedding int64 without I
        lengths                 (N,), int32
        h0, c0                  (L*D, N, H), the initial states
        y                       (T, N, D*H) in x's layout, after a Pool (N, D*H)
        h, c                    (L*D, N, H), the final states
        ======================  =========================================================================

        In a Sequential states have the member's name in front, as its parameters do: "lstm.h0", "lstm.h". The
        metadata has the module's description as JSON under "polyrnn".

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not there.
    ValueError
        If `module` is an ensemble; if sizes do not fit together; if `state` is asked for where there is none; if a cell
        of somebody's own computes something that has no counterpart.
    TypeError
        For a module of an unknown type, or parameters of mixed dtypes.

    Notes
    -----
    A layer becomes one node RNN, LSTM or GRU, for both directions, where the operator can represent it: with peepholes,
    coupled gates (of sigmoids), clip, the reset after or before, and activations, one for all gates. What it lacks is
    written as a Scan, with the cell's own equations as its body: projections, layer normalisation, cell_clip, zoneout,
    which is the expected state, activations that differ from gate to gate, cells of one's own, and, in float64,
    constants that single precision has not. Dropout does nothing, since a model does not learn.

    What stands behind the end of a sequence is read as zero and put out as zero; a sequence of length 0 ends in its
    initial state. ONNX Runtime 1.32 refuses float64 in RNN, LSTM and GRU. ONNX checks no values: an id that is out of
    range, or a length greater than T, is for the runtime to find.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import onnx
    >>> layer = pr.LSTM(3, 5, bidirectional=True)
    >>> model = onnx.dump(layer, layer.init(seed=0), lengths=True, state=True)
    >>> [node.op_type for node in model.graph.node if node.op_type.isupper()]
    ['LSTM']
    >>> [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    (['x', 'lengths', 'h0', 'c0'], ['y', 'h', 'c'])
    """
    for name, flag in (("lengths", lengths), ("state", state), ("scan", scan)):
        check_flag(name, flag)
    if not isinstance(module, Module):
        raise TypeError(f"module is {module!r}; expected a module of polyrnn's, such as polyrnn.LSTM(3, 5)")
    if module.ensemble:
        raise ValueError(
            f"ensemble={module.ensemble}: a model is one network; write each member for itself, with its own parameters "
            "and ensemble=0"
        )
    helper = _library()
    dtype = np.dtype(check_params(params, module.shapes(), type(module).__name__) or "float32")
    held = {name: np.asarray(array) for name, array in backend_of(params, "params").to_numpy(params).items()}
    w = _begin(Graph(), module, held, bool(lengths), bool(state), bool(scan), dtype)
    y = _write(w, module, held, w.x, "")
    if state and not w.outputs:
        raise ValueError(f"state=True: {type(module).__name__} has no recurrent layer")
    if module.batch_first and not module.pools:
        y = _exchanged(y)
    outputs = {"y": y} | w.outputs
    for name, array in outputs.items():
        w.graph.nodes.append(helper.make_node("Identity", [array.name], [name], name))
    graph = helper.make_graph(
        w.graph.nodes,
        type(module).__name__,
        [value_info(array) for array in w.inputs],
        [value_info(Array(w.graph, name, array.shape, array.dtype)) for name, array in outputs.items()],
        [_tensor(name, array) for name, array in w.graph.initializers.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="polyrnn"
    )
    try:
        helper.set_model_props(model, {"polyrnn": json.dumps(describe(module))})
    except TypeError:  # of somebody's own; the description is for information alone
        pass
    return model


def save(
    path: str | PathLike[str],
    module: Module,
    params: dict,
    *,
    lengths: bool = False,
    state: bool = False,
    scan: bool = False,
) -> None:
    """Write a model of polyrnn to a file, whole or not at all.

    Parameters
    ----------
    path : str or path
        An old file of that name is replaced.
    module, params, lengths, state, scan
        As of `dump`.

    Raises
    ------
    OSError
        If the file cannot be written.
    ModuleNotFoundError, ValueError, TypeError
        As `dump` does.

    Examples
    --------
    >>> import os, tempfile, polyrnn as pr
    >>> from polyrnn.interop import onnx
    >>> model = pr.Sequential(table=pr.Embedding(11, 5), gru=pr.GRU(5, 7), last=pr.Pool("last"), head=pr.Linear(7, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(folder + "/model.onnx", model, model.init(seed=0), lengths=True)
    ...     os.listdir(folder)
    ['model.onnx']
    """
    content = dump(module, params, lengths=lengths, state=state, scan=scan).SerializeToString(deterministic=True)
    with write_atomically(path) as file:
        file.write(content)


# ---- one function a type of module -------------------------------------------------------------------------------------


@dataclass
class _Writer:
    """What the functions share: the graph, the options, and what has been declared."""

    graph: Graph
    state: bool
    scan: bool
    x: Array  # the input, time first, and zero where not valid
    lengths: Array | None = None
    valid: Array | None = None  # (T, N); None behind a Pool, too
    inputs: list[Array] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)  # the final states


def _embedding(w: _Writer, module: Embedding, params: Params, ids: Array, scope: str) -> Array:
    weight = w.graph.initializer(f"{scope}weight", params["weight"])
    shape = (*ids.shape, module.embedding_dim)
    return _clean(w, apply("Gather", weight, ids, shape=shape, axis=0))


def _linear(w: _Writer, module: Linear, params: Params, x: Array, scope: str) -> Array:
    _check_size(x, module.in_features, module, scope)
    y = x @ w.graph.initializer(f"{scope}weight", params["weight"]).mT
    return _clean(w, y + w.graph.initializer(f"{scope}bias", params["bias"])) if module.bias else y


def _dropout(w: _Writer, module: Dropout, params: Params, x: Array, scope: str) -> Array:
    return x


def _pool(w: _Writer, module: Pool, params: Params, x: Array, scope: str) -> Array:
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


def _recurrent(w: _Writer, layer: Recurrent, params: Params, x: Array, scope: str) -> Array:
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


def _sequential(w: _Writer, module: Sequential, params: Params, x: Array, scope: str) -> Array:
    for name, member in module.members:
        own = {key: params[f"{name}.{key}"] for key in member.shapes()}
        x = _write(w, member, own, x, f"{scope}{name}.")
    return x


WRITERS: dict[type[Module], Callable[..., Array]] = {
    Embedding: _embedding,
    Linear: _linear,
    Dropout: _dropout,
    Pool: _pool,
    Sequential: _sequential,
}


def _write(w: _Writer, module: Module, params: Params, x: Array, scope: str) -> Array:
    """The module's output; what it adds has names that begin with `scope`."""
    of = _recurrent if isinstance(module, Recurrent) else WRITERS.get(type(module))
    if of is None:
        raise TypeError(f"{scope}: {module!r} has no form in ONNX; expected modules of polyrnn's own")
    before, w.graph.scope = w.graph.scope, scope
    y = of(w, module, params, x, scope)
    w.graph.scope = before
    return y


# ---- what they are made of ---------------------------------------------------------------------------------------------


def _begin(graph: Graph, module: Module, params: Params, lengths: bool, state: bool, scan: bool, dtype: Any) -> _Writer:
    """The inputs x and lengths, and x as the modules take it."""
    first = next((leaf for leaf in _leaves(module) if not isinstance(leaf, (Dropout, Pool))), None)
    ids = isinstance(first, Embedding)
    size = getattr(first, "in_features", getattr(first, "input_size", "F"))
    leading = ("N", "T") if module.batch_first else ("T", "N")
    given = x = Array(graph, "x", leading if ids else (*leading, size), "int64" if ids else dtype)
    x = _exchanged(x) if module.batch_first else x
    w = _Writer(graph, state, scan, x, inputs=[given])
    if lengths:
        w.lengths = Array(graph, "lengths", ("N",), "int32")
        w.inputs.append(w.lengths)
        w.valid = _range(x)[:, None] < astype(w.lengths, "int64")[None, :]
        w.x = _clean(w, x)
    return w


def _leaves(module: Module) -> list[Module]:
    members = [member for _, member in module.members] if isinstance(module, Sequential) else None
    return [module] if members is None else [leaf for member in members for leaf in _leaves(member)]


def _starts(w: _Writer, layer: Recurrent, params: Params, x: Array, scope: str) -> list[Array | None]:
    """The initial states (L*D, N, H): inputs, learned, or None for zero."""
    found: list[Array | None] = []
    for name, size in zip(layer.cell.states, layer.cell.state_sizes(layer.hidden_size), strict=True):
        start = None
        if w.state:
            start = Array(w.graph, f"{scope}{name}0", (len(suffixes(layer)), "N", size), x.dtype)
            w.inputs.append(start)
        elif layer.learned_state:
            learned = np.stack([params[f"state_{name}{suffix}"] for suffix in suffixes(layer)])
            start = expand(x, learned[:, None, :], f"{scope}state_{name}")
        found.append(start)
    return found


def _clean(w: _Writer, x: Array) -> Array:
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


def _exchanged(x: Array) -> Array:
    """(N, T, ...) as (T, N, ...), and back."""
    return permute_dims(x, (1, 0, *range(2, x.ndim)))


def _check_size(x: Array, size: int, module: Module, scope: str) -> None:
    if x.shape[-1] != size:
        raise ValueError(
            f"{scope}{type(module).__name__} takes {size} features; what stands before it gives {x.shape[-1]}"
        )


def _tensor(name: str, array: np.ndarray) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def _library() -> Any:
    try:
        from onnx import helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"polyrnn.interop.onnx needs the package onnx ({error}): pip install 'polyrnn[onnx]'", name=error.name
        ) from error
    return helper
