"""A model of polyrnn's out of the graph that was written of it, by the description that stands in its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..._recurrent import Recurrent
from ...model import Model, build, check_fit
from .._converted import example
from ._find import find
from ._read import metadata
from ._run import load

_CLOSE = 1e-3


def described(source: Any) -> Model | None:
    """The model, if `dump` wrote the graph and nobody has changed it since; else None.

    Of what the metadata tell, nothing is believed: the parameters are the graph's, and both must compute the same.
    """
    text = metadata(source).get("polyrnn")
    if text is None:
        return None
    try:
        module = build(json.loads(text))
        graph, nodes = load(source), find(source)
        params: dict[str, Any] = {}
        for prefix, member in _members(module, ""):
            if isinstance(member, Recurrent):
                for level in range(member.num_layers):
                    for name, array in nodes[f"{prefix}l{level}"].params.items():
                        params[prefix + name.replace("_l0", f"_l{level}", 1)] = array
            else:
                params |= {prefix + name: graph.params[prefix + name] for name in member.shapes()}
        check_fit(module, params)
        params = {name: params[name] for name in module.shapes()}
        model = Model(module, params)
        x = example(model)
        if x is None or [value.name for value in graph.inputs] != ["x"]:
            return None
        y, there = model.predict(x).y, graph.run({"x": x})["y"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    scale = max(1.0, float(np.max(np.abs(y), initial=0)))
    return model if y.shape == there.shape and np.max(np.abs(y - there), initial=0) < _CLOSE * scale else None


def _members(module: Any, prefix: str) -> list[tuple[str, Any]]:
    if hasattr(module, "members"):
        return [leaf for name, member in module.members for leaf in _members(member, f"{prefix}{name}.")]
    return [(prefix, module)]
