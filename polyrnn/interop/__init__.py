"""Trained recurrent layers in from other libraries, and out to them; none of these need be installed to import this.

Each module has the same functions. `find(source)` returns all recurrent layers in a file, a dict of arrays or a live
model, each a `Converted` by the name that it has there; `load(source, name=None)` returns one of them; `dump(layer,
params)` returns the arrays that the other library wants, and `save(path, layer, params)`, where the library has a file
format, writes them. Parameters are NumPy arrays, in polyrnn's names and layout; what one side cannot represent is
refused with a ValueError that says why.
"""

import importlib
from typing import Any

from ._converted import Converted

__all__ = [
    "Converted",
    "cs231n",
    "cudnn",
    "dlpack",
    "equinox",
    "flax",
    "keras",
    "npz",
    "onnx",
    "textbook",
    "torch",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'polyrnn.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
