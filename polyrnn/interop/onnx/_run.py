"""A graph that runs, and runs back: the nodes one after the other, on whatever arrays it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..._door import dtype_name
from ...backends import Backend, backend, backend_of
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
        The floating initializers by name: a model's parameters, and those of its constants that stand there.
    opset : int
        The version of ONNX' operators.
    """

    def __init__(self, model: Model) -> None:
        self._where, self.opset = model.where, model.opset
        self.inputs, self.outputs = model.inputs, model.outputs
        self.params = {name: a for name, a in model.initializers.items() if is_float(a)}
        self._constants: dict[str, np.ndarray] = {n: a for n, a in model.initializers.items() if n not in self.params}
        self._moved: dict[Backend, dict[str, Any]] = {}
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
        self._reached = {*self.params, *[value.name for value in self.inputs]}
        for step in steps:
            if self._reached.intersection(step.node.inputs):
                self._reached.update(filter(None, step.node.outputs))

    def __repr__(self) -> str:
        names = (", ".join(value.name for value in values) for values in (self.inputs, self.outputs))
        return f"Graph({' -> '.join(names)}, {len(self._steps)} nodes, opset {self.opset})"

    def run(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The outputs by name.

        Parameters
        ----------
        inputs : dict of str to array
            All inputs, of the dtypes and shapes that `inputs` has. Axes with one name have one size.
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
            or it would make more than 2^28 elements out of a shape; the message names the node.
        """
        on, values = self._begin(inputs, params)
        with np.errstate(all="ignore"):  # infinities and NaN are results, as ONNX has it
            for step, done in zip(self._steps, self._last, strict=True):
                record = self._apply(step, on, values, keep=False)
                values.update(zip(step.node.outputs, record.outputs, strict=False))
                for name in done:
                    values.pop(name, None)
        return self._results(on, values)

    def forward(self, inputs: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> tuple[dict, Tape]:
        """The outputs by name, and the tape that `backward` needs; arguments as for `run`."""
        on, values = self._begin(inputs, params)
        roots = {name: values[name] for name in (*[value.name for value in self.inputs], *self.params)}
        records = []
        with np.errstate(all="ignore"):
            for step in self._steps:
                record = self._apply(step, on, values, keep=True)
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
        self._check_gradients(tape, gradients)
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
        self._check_names("inputs", inputs, [value.name for value in self.inputs])
        if params is not None:
            self._check_names("params", params, list(self.params))
            for name, array in self.params.items():
                self._check_array(
                    f"params[{short(name)}]", params[name], Value(name, array.dtype.name, array.shape), {}
                )
        given = [*inputs.values(), *(params or {}).values()]
        on = backend_of(tuple(given), "inputs and params") if given else HOST
        sizes: dict[str, int] = {}
        for value in self.inputs:
            self._check_array(f"input {short(value.name)}", inputs[value.name], value, sizes)
        if params is None:
            if on not in self._moved:
                self._moved[on] = on.asarray(dict(self.params)) if self.params else {}
            params = self._moved[on]
        return on, {**self._constants, **params, **inputs}

    def _check_names(self, what: str, given: Any, expected: list[str]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{what} is a {type(given).__name__}; expected a dict of arrays by name")
        if set(given) != set(expected):
            missing, extra = [n for n in expected if n not in given], [str(n) for n in given if n not in expected]
            raise ValueError(
                f"{self._where}: {what} lack {', '.join(missing) or 'nothing'}, unknown are "
                f"{', '.join(extra) or 'none'}; expected {', '.join(expected) or 'none'}"
            )

    def _check_array(self, what: str, array: Any, value: Value, sizes: dict[str, int]) -> None:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise TypeError(f"{what} is a {type(array).__name__}; expected an array")
        shape = tuple(array.shape)
        expected = shape if value.shape is None else value.shape
        fits = len(shape) == len(expected)
        for size, want in zip(shape, expected, strict=False):
            want = sizes.setdefault(want, size) if isinstance(want, str) else want
            fits = fits and want in (None, size)
        if not fits or dtype_name(array) != value.dtype:
            named = f", where {', '.join(f'{n}={s}' for n, s in sizes.items())}" if sizes else ""
            raise ValueError(
                f"{self._where}: {what} has the shape {shape} of {dtype_name(array)}; expected {expected} of "
                f"{value.dtype}{named}"
            )

    def _check_gradients(self, tape: Tape, gradients: Mapping[str, Any]) -> None:
        if not isinstance(gradients, Mapping):
            raise TypeError(f"gradients is a {type(gradients).__name__}; expected a dict of arrays by name")
        for name, gradient in gradients.items():
            if name not in tape.outputs or not is_float(tape.outputs[name]):
                floats = [n for n, a in tape.outputs.items() if is_float(a)]
                raise ValueError(f"{self._where}: gradients: {name!r}; expected some of {', '.join(floats) or 'none'}")
            y = tape.outputs[name]
            self._check_array(
                f"the gradient of {short(name)}", gradient, Value(name, dtype_name(y), tuple(y.shape)), {}
            )
        if gradients and backend_of(dict(gradients), "gradients") is not tape.backend:
            raise TypeError(f"gradients: expected arrays of {tape.backend.name}, as the tape's")

    def _apply(self, step: Step, on: Backend, values: dict[str, Any], keep: bool) -> Record:
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
            at = At(here, here.xp, step.attributes, len(step.node.outputs))
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
