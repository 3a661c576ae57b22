"""The recurrent nodes of a model as layers of polyrnn's, for use and training without the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._converted import Converted
from ._model import Model, Node, Value
from ._read import read
from ._recurrent import RECURRENT, WEIGHTS, converted
from ._run import Graph
from ._table import constant, step_of, what_of


def find(source: Any) -> dict[str, Converted]:
    """The recurrent nodes of a model that are one layer of polyrnn's, each by the node's name.

    What else is in the model need not be supported. Left out are nodes whose weights are no constants, those in reverse
    direction alone, and those with other activations in one direction than in the other: in a graph, `load`, all run.

    Parameters
    ----------
    source : str, path, bytes or onnx.ModelProto

    Returns
    -------
    dict of str to Converted
        The layer, `batch_first` for layout=1, and its parameters as NumPy arrays. A node without a name goes by its
        first output. Initial states and lengths of the graph are not part of a layer.

    Raises
    ------
    ModuleNotFoundError, OSError, TypeError, ValueError
        As for `load`; ValueError also for a recurrent node that is not as ONNX has it.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> from polyrnn.interop import onnx
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    >>> weights = [numpy_helper.from_array(np.ones((1, 15, n), "float32"), name) for name, n in (("W", 2), ("R", 5))]
    >>> node = helper.make_node("GRU", ["x", "W", "R"], ["y"], name="gru", hidden_size=5)
    >>> model = helper.make_model(helper.make_graph([node], "example", [x], [y], weights))
    >>> layer, params = onnx.find(model)["gru"]
    >>> layer.reset_after, params["weight_ih_l0"].shape
    (False, (15, 2))
    """
    model = read(source)
    found: dict[str, Converted] = {}
    constants = dict(model.initializers)
    origin = {name: node for node in model.nodes for name in node.outputs if name}
    what = ""
    try:
        for node in model.nodes:
            what = what_of(node)
            if node.kind == "Constant":
                constants[node.outputs[0]] = constant(node, model.opset)
            elif node.kind in RECURRENT:
                step = step_of(node, model.opset, constants)
                names = [node.inputs[k] if k < len(node.inputs) else "" for k in WEIGHTS]
                _evaluate(model, origin, [name for name in names if name], constants)
                if all(name in constants for name in names if name):
                    arrays = [constants[name] if name else None for name in names]
                    if layer := converted(node.kind.lower(), step.attributes, *arrays):
                        found[node.label] = layer
    except (ValueError, TypeError) as error:
        raise ValueError(f"{model.where}: {'' if what in str(error) else what + ': '}{error}") from error
    return found


def _evaluate(model: Model, origin: dict[str, Node], names: list[str], constants: dict[str, np.ndarray]) -> None:
    """Add the values of these names to the constants, if they depend on nothing else and can be computed."""
    needed: dict[str, Node] = {}
    waiting = [name for name in names if name not in constants]
    wanted = tuple(Value(name, "", None) for name in dict.fromkeys(waiting))
    while waiting:
        name = waiting.pop()
        if name not in origin:
            return  # an input
        if name not in needed:
            needed |= dict.fromkeys(filter(None, origin[name].outputs), origin[name])
            waiting += [n for n in origin[name].inputs if n and n not in constants]
    if needed:
        parts = {id(node) for node in needed.values()}
        nodes = tuple(node for node in model.nodes if id(node) in parts)
        try:
            graph = Graph(model._replace(inputs=(), outputs=wanted, initializers=dict(constants), nodes=nodes))
        except ValueError:  # an operator that is not supported
            return
        constants |= graph.run({})
