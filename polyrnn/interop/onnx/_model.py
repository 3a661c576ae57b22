"""What a model is after reading: plain tuples and NumPy arrays, without a trace of protobuf."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Value(NamedTuple):
    """An input or output of a graph.

    Attributes
    ----------
    name : str
    dtype : str
        Such as "float32".
    shape : tuple, or None
        Of each axis its size, or the name that stands for it, or None; None alone: nothing is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class Node(NamedTuple):
    """An operator at its place in a graph; an absent input or output is called ""."""

    label: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Model(NamedTuple):
    """A graph as the file has it; `where` names the file in messages."""

    where: str
    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    initializers: dict[str, np.ndarray]
    nodes: tuple[Node, ...]


def text(string: Any) -> str:
    """A string of a protobuf; those that are no UTF-8 come as bytes, and are refused."""
    if not isinstance(string, str):
        raise ValueError(f"{string[:40]!r} is no text")
    return string


def short(name: str) -> str:
    """A name as it stands in a message: in quotes, and cut if somebody made it long."""
    return repr(name if len(name) <= 80 else name[:77] + "...")
