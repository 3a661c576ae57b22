"""A graph that runs, and runs back: the nodes one after the other, on whatever arrays it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...backends import Backend, backend, backend_of
from . import _checks as checks
from ._base import At, is_float
from ._model import Model, Value, short
from ._read import read
from ._table import Step, constant, step_of

HOST = backend("numpy")
# What operators raise, and libraries from within them, where arrays do not fit together.
MISFITS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AssertionError, MemoryError)


class Record(NamedTuple):
    """A node that has run: its arguments, its results, and what else its backward needs."""

    step: Step
    at: At
    inputs: tuple
    outputs: tuple
    residual: Any


class Tape(NamedTuple):
    """What a graph's `forward` leaves for its `backward`."""

    graph: Graph
    backend: Backend
    roots: dict[str, Any]  # what has a gradient: the inputs and parameters that are floating
    outputs: dict[str, Any]
    records: tuple[Record, ...]


def load(source: Any) -> Graph:
    """A model of ONNX as a graph that runs on any backend, and has gradients.

    Parameters
    ----------
    source : str, path, bytes or onnx.ModelProto
        Tensors in other files are read if `source` is a path, and from its folder alone.

    Returns
    -------
    Graph

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not there; the message has the command.
    OSError
        If a file cannot be read.
    TypeError
        If `source` is something else.
    ValueError
        If it is no ONNX model, is damaged, or has an operator, attribute, type or opset that is not supported; the
        message names the file, and the node or tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> from polyrnn.interop import onnx
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    >>> w = numpy_helper.from_array(np.float32([[1, 2], [3, 4]]), "w")
    >>> nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    >>> model = helper.make_model(helper.make_graph(nodes, "example", [x], [y], [w]))
    >>> graph = onnx.load(model)
    >>> graph.inputs
    (Value(name='x', dtype='float32', shape=('N', 2)),)
    >>> graph.run({"x": np.float32([[1, -1]])})
    {'y': array([[0., 0.]], dtype=float32)}
    >>> outputs, tape = graph.forward({"x": np.float32([[1, 1]])})
    >>> graph.backward(tape, {"y": np.float32([[1, 0]])})["w"]
    array([[1., 0.],
           [1., 0.]], dtype=float32)
    """
    return Graph(read(source))


class Graph:
    """A model of ONNX, made by `load`.

    Integers that the model has as constants, and those that come of shapes, are kept on the host as NumPy arrays; all
    else is on the backend of the inputs.

    Attributes
    ----------
    inputs, outputs : tuple of Value
        Their names, dtypes and shapes.
    params : dict of str to NumPy array
        The floating initializers by name: a model's parameters, and those of its constants that stand there. Read-only,
        in a new dict each time: changed ones are given to `run` and `forward`.
    opset : int
        The version of ONNX' operators.
    """

    def __init__(self, model: Model) -> None:
        self._where, self.opset = model.where, model.opset
        self.inputs, self.outputs = model.inputs, model.outputs
        self._params = {name: a for name, a in model.initializers.items() if is_float(a)}
        self._constants: dict[str, np.ndarray] = {n: a for n, a in model.initializers.items() if n not in self._params}
        self._moved: dict[Backend, dict[str, Any]] = {}
        self._memos: dict[Backend, tuple[dict | None, ...]] = {}
        steps: list[Step] = []
        try:
            for node in model.nodes:
                if node.kind == "Constant":
                    self._constants[node.outputs[0]] = constant(node, model.opset)
                else:
                    steps.append(step_of(node, model.opset, self._constants))
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}") from error
        self._steps = tuple(steps)
        self._last = self._last_uses()
        # What depends on an input or parameter; nothing else has a gradient.
        self._reached = {*self._params, *[value.name for value in self.inputs]}
        for step in steps:
            if self._reached.intersection(step.node.inputs):
                self._reached.update(filter(None, step.node.outputs))

    def __repr__(self) -> str:
        names = (", ".join(value.name for value in values) for values in (self.inputs, self.outputs))
        return f"Graph({' -> '.join(names)}, {len(self._steps)} nodes, opset {self.opset})"

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The floating initializers by name."""
        return dict(self._params)

    def run(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The outputs by name.

        Parameters
        ----------
        inputs : dict of str to array
            All inputs, of the dtypes and shapes that `inputs` has; int32 will do for int64. Axes with one name have
            one size.
        params : dict of str to array, optional
            To be used in place of those of the file: all, of the same shapes and dtypes, on the inputs' backend.

        Returns
        -------
        dict of str to array
            On the inputs' backend; without inputs on that of `params`, without these on NumPy. They may share memory
            with inputs and parameters.

        Raises
        ------
        TypeError
            For mixed backends or devices, or what is no array.
        ValueError
            For missing or unknown inputs, wrong dtypes or shapes, and where an operator's operands do not fit together
            or it would make more than 2^28 elements out of a shape, or by repeating, joining, gathering or
            broadcasting; the message names the node.
        """
        on, values = self._begin(inputs, params)
        with np.errstate(all="ignore"):  # infinities and NaN are results, as ONNX has it
            for step, done, memo in zip(self._steps, self._last, self._memos_of(on, params), strict=True):
                record = self._apply(step, on, values, memo, keep=False)
                values.update(zip(step.node.outputs, record.outputs, strict=False))
                for name in done:
                    values.pop(name, None)
        return self._results(on, values)

    def forward(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> tuple[dict, Tape]:
        """The outputs by name, and the tape that `backward` needs; arguments as for `run`."""
        on, values = self._begin(inputs, params)
        roots = {name: values[name] for name in (*[value.name for value in self.inputs], *self._params)}
        records = []
        with np.errstate(all="ignore"):
            for step, memo in zip(self._steps, self._memos_of(on, params), strict=True):
                record = self._apply(step, on, values, memo, keep=True)
                values.update(zip(step.node.outputs, record.outputs, strict=False))
                records.append(record)
        outputs = self._results(on, values)
        return outputs, Tape(self, on, {n: a for n, a in roots.items() if is_float(a)}, outputs, tuple(records))

    def backward(self, tape: Tape, gradients: Mapping[str, Any]) -> dict[str, Any]:
        """The gradients of all floating inputs and of the parameters.

        Parameters
        ----------
        tape : Tape
            What this graph's `forward` returned.
        gradients : dict of str to array
            Those of outputs, of their shapes and dtypes; absent ones are zero.

        Returns
        -------
        dict of str to array
            By the names of inputs and parameters. One that takes no part has zeros.

        Raises
        ------
        TypeError
            If `tape` is no tape of this graph's, or for mixed backends.
        ValueError
            For gradients of what is no floating output, or of a wrong shape or dtype; and at a node whose derivative
            cannot be had.
        """
        if not isinstance(tape, Tape) or tape.graph is not self:
            raise TypeError("tape: expected what this graph's forward returned")
        checks.gradients(self._where, tape.outputs, gradients)
        if gradients and backend_of(dict(gradients), "gradients") is not tape.backend:
            raise TypeError(f"gradients: expected arrays of {tape.backend.name}, as the tape's")
        found = dict(gradients)
        with np.errstate(all="ignore"):
            for record in reversed(tape.records):
                above, back = tuple([found.pop(n, None) for n in record.step.node.outputs]), record.step.operator.back
                if back is None or all(g is None for g in above) or record.at.backend is not tape.backend:
                    continue  # or it is of constants alone
                try:
                    below = back(record.at, record.residual, record.inputs, record.outputs, above)
                except MISFITS as error:
                    raise ValueError(f"{self._where}: {record.step.what}, backward: {error}") from error
                for name, value, gradient in zip(record.step.node.inputs, record.inputs, below, strict=True):
                    if gradient is not None and value is not None and name in self._reached and is_float(value):
                        found[name] = found[name] + gradient if name in found else gradient
        xp = tape.backend.xp
        return {name: found[name] if name in found else xp.zeros_like(a) for name, a in tape.roots.items()}

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _begin(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None) -> tuple[Backend, dict[str, Any]]:
        """The backend, and the values that are there before the first node."""
        checks.names(self._where, "inputs", inputs, [value.name for value in self.inputs])
        if params is not None:
            checks.names(self._where, "params", params, list(self._params))
            for name, array in self._params.items():
                checks.array(
                    self._where, f"params[{short(name)}]", params[name], Value(name, array.dtype.name, array.shape), {}
                )
        given = [*inputs.values(), *(params or {}).values()]
        on = backend_of(tuple(given), "inputs and params") if given else HOST
        sizes: dict[str, int] = {}
        for value in self.inputs:
            checks.array(self._where, f"input {short(value.name)}", inputs[value.name], value, sizes)
        if params is None:
            params = self._moved.get(on)
            if params is None:
                params = on.asarray(dict(self._params)) if self._params else {}
                if on.is_concrete(params):  # under a trace nothing is kept
                    self._moved[on] = params
        return on, {**self._constants, **params, **checks.widened(on, self.inputs, inputs)}

    def _memos_of(self, on: Backend, params: Any) -> tuple[dict | None, ...]:
        """For each step its memo, if it has any use for one and the graph's own parameters are used."""
        if params is not None:
            return (None,) * len(self._steps)
        if on not in self._memos:
            found: list[dict | None] = []
            for step in self._steps:
                names = [name for k, name in enumerate(step.node.inputs) if name and k in step.operator.once]
                found.append({} if names and all(name in self._params for name in names) else None)
            self._memos[on] = tuple(found)
        return self._memos[on]

    def _apply(self, step: Step, on: Backend, values: dict[str, Any], memo: dict | None, keep: bool) -> Record:
        operator = step.operator
        inputs = [values[name] if name else None for name in step.node.inputs]
        try:
            free = [a for k, a in enumerate(inputs) if a is not None and k not in operator.host]
            here = HOST if all(isinstance(a, np.ndarray) for a in free) else on
            for k, array in enumerate(inputs):
                if array is not None:
                    home = HOST if k in operator.host else here
                    if home is not HOST and isinstance(array, np.ndarray):
                        inputs[k] = home.asarray(array)
                    elif home is HOST and not isinstance(array, np.ndarray):
                        inputs[k] = on.to_numpy(array)
            at = At(here, here.xp, step.attributes, len(step.node.outputs), memo)
            residual = None
            if keep and operator.forward is not None:
                found, residual = operator.forward(at, *inputs)
            else:
                found = operator.run(at, *inputs)
        except MISFITS as error:
            raise ValueError(f"{self._where}: {step.what}: {error}") from error
        found = found if isinstance(found, tuple) else (found,)
        outputs = tuple([np.asarray(a) if isinstance(a, np.generic) else a for a in found])
        return Record(step, at, tuple(inputs), outputs[: len(step.node.outputs)], residual)

    def _results(self, on: Backend, values: dict[str, Any]) -> dict[str, Any]:
        found = {value.name: values[value.name] for value in self.outputs}
        return {n: on.asarray(a) if isinstance(a, np.ndarray) and on is not HOST else a for n, a in found.items()}

    def _last_uses(self) -> tuple[tuple[str, ...], ...]:
        """For each step the values that nobody needs after it."""
        seen, found = {value.name for value in self.outputs}, []
        for step in reversed(self._steps):
            names = {name for name in (*step.node.inputs, *step.node.outputs) if name and name not in seen}
            seen |= names
            found.append(tuple(names))
        return tuple(reversed(found))
