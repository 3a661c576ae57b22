"""The one table of operators, and what a node must have to be one of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from ._base import REQUIRED, Operator
from ._linear import LINEAR
from ._model import Node, short
from ._parts import PARTS
from ._pointwise import POINTWISE
from ._recurrent import RECURRENT
from ._shapes import SHAPES

# By name, each as of the opsets in which its meaning or form changed. "Constant" is none: it is there when it is read.
OPERATORS: dict[str, tuple[Operator, ...]] = {**RECURRENT, **LINEAR, **SHAPES, **PARTS, **POINTWISE}

_VALUES = {
    "value": "tensor",
    "value_float": "float",
    "value_floats": "floats",
    "value_int": "int",
    "value_ints": "ints",
}
_DTYPES = {"float": "float32", "floats": "float32", "int": "int64", "ints": "int64"}


class Step(NamedTuple):
    """A node with its operator, and all attributes by name."""

    node: Node
    operator: Operator
    attributes: dict[str, Any]

    @property
    def what(self) -> str:
        """How messages call it."""
        return what_of(self.node)


def what_of(node: Node) -> str:
    """How messages call it."""
    return f"node {short(node.label)} ({short(node.kind)[1:-1]})"


def step_of(node: Node, opset: int, constants: dict[str, numpy.ndarray]) -> Step:
    """The node with its operator; ValueError that names it if there is none, or it has what is not known."""
    what = what_of(node)
    versions = [operator for operator in OPERATORS.get(node.kind, ()) if operator.since <= opset]
    if not versions:
        since = f" in opset {opset}, but from {OPERATORS[node.kind][0].since} on" if node.kind in OPERATORS else ""
        raise ValueError(f"{what} is not supported{since}; supported are {', '.join(sorted([*OPERATORS, 'Constant']))}")
    operator = versions[-1]
    attributes = _attributes(node, operator, opset, what)
    _check_count(f"{what}, opset {opset}: inputs", node.inputs, operator.inputs, required=operator.inputs[0])
    _check_count(f"{what}, opset {opset}: outputs", node.outputs, operator.outputs, required=0)
    if operator.check is not None:
        known = {k: constants.get(name) for k, name in enumerate(node.inputs) if name}  # None: only known later
        try:
            operator.check(attributes, node.outputs, known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{what}, opset {opset}: {error}") from error
    return Step(node, operator, attributes)


def constant(node: Node, opset: int) -> numpy.ndarray:
    """The value of a node of kind Constant."""
    found = [name for name in node.attributes if _VALUES.get(name) == node.attributes[name][0]]
    if len(found) != 1 or len(node.attributes) != 1 or node.inputs or len(node.outputs) != 1:
        raise ValueError(
            f"{what_of(node)} has {', '.join(map(short, node.attributes)) or 'no attribute'}; expected one of "
            f"{', '.join(_VALUES)}, and one output"
        )
    if found != ["value"] and opset < 12:
        raise ValueError(f"{what_of(node)}: {found[0]} is not in opset {opset}")
    kind, value = node.attributes[found[0]]
    return value if kind == "tensor" else numpy.asarray(value, dtype=_DTYPES[kind])


def _attributes(node: Node, operator: Operator, opset: int, what: str) -> dict[str, Any]:
    known = operator.attributes
    for name, (kind, _) in node.attributes.items():
        if name not in known or known[name][0] != kind:
            expected = ", ".join(f"{n} ({k})" for n, (k, _) in known.items()) or "none"
            raise ValueError(
                f"{what} has the attribute {short(name)} ({kind}), not supported in opset {opset}; known are {expected}"
            )
    missing = [name for name, (_, default) in known.items() if default is REQUIRED and name not in node.attributes]
    if missing:
        raise ValueError(f"{what} lacks the attribute {missing[0]}")
    given = {name: value for name, (_, value) in node.attributes.items()}
    return {name: default for name, (_, default) in known.items()} | given


def _check_count(what: str, names: tuple[str, ...], counts: tuple[int, int], required: int) -> None:
    least, most = counts
    if not least <= len(names) <= most or not all(names[:required]):
        shown = ", ".join(map(short, names[:8]))
        raise ValueError(f"{what} are [{shown}]; expected at least {least} and at most {most}")
