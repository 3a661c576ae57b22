"""ONNX models in and out: run and fine-tune them on NumPy, CuPy or JAX, without a runtime; needs the package onnx.

`load` gives the whole graph, which runs and has gradients; `find` its recurrent nodes as layers of polyrnn's; `dump`
and `save` write a layer as a model. What a graph may contain, `OPERATORS` lists; all else is refused when it is loaded.
"""

import importlib
from typing import Any

from ._find import find
from ._model import Value
from ._run import Graph, Tape, load
from ._table import OPERATORS

__all__ = ["OPERATORS", "Graph", "Tape", "Value", "dump", "find", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in ("dump", "save"):
        return getattr(importlib.import_module("._write", __name__), name)
    raise AttributeError(f"module 'polyrnn.interop.onnx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
