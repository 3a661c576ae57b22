"""Models of polyrnn as ONNX: what `dump` and `save` of the package do."""

from __future__ import annotations

import contextlib
import json
from os import PathLike
from typing import Any

import numpy as np

from ..._door import check_flag, check_params
from ..._module import Module
from ...backends import backend_of
from ...checkpoint import write_atomically
from ...model import describe
from ._write_graph import Array, value_info
from ._write_modules import begin, exchanged, write

OPSET, IR_VERSION = 22, 10


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
        Write each recurrence as a Scan of elementary operators, even where RNN, LSTM or GRU would do: more runtimes
        have them, and ONNX Runtime runs them in float64.

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
    initial state. ONNX checks no values: an id that is out of range, or a length above T, is for the runtime to find.

    ONNX Runtime 1.32 refuses float64 in RNN, LSTM and GRU. T = 0 and N = 0 are well formed, and it runs N = 0 in a
    Scan, but not T = 0; its GRU ends the whole process for either, its LSTM for N = 0.

    Weights are initializers, whose names have the member's in front: of RNN, LSTM and GRU "W_l0", "R_l0", "B_l0" and
    "P_l0", in ONNX' layout and order of gates, both directions in one; all others have polyrnn's names and layout. The
    nodes RNN, LSTM and GRU are called "l0", "l1", ...

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
            f"ensemble={module.ensemble}: a model is one network; write each member for itself, with its own "
            "parameters and ensemble=0"
        )
    helper = _library()
    dtype = np.dtype(check_params(params, module.shapes(), type(module).__name__) or "float32")
    held = backend_of(params, "params").to_numpy(params) if params else {}
    held = {name: np.asarray(array) for name, array in held.items()}
    w = begin(module, dtype, bool(lengths), bool(state), bool(scan))
    y = write(w, module, held, w.x, "")
    if state and not w.outputs:
        raise ValueError(f"state=True: {type(module).__name__} has no recurrent layer")
    if module.batch_first and not module.pools:
        y = exchanged(y)
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
    with contextlib.suppress(TypeError):  # of somebody's own; the description is for information alone
        helper.set_model_props(model, {"polyrnn": json.dumps(describe(module))})
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
