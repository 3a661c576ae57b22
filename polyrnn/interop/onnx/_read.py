"""ONNX files: parsed by the package onnx, then checked and turned into plain tuples."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ._model import Model, Node, Value, short, text
from ._tensors import Outside, array_of, dtype_of

NEWEST = 28  # the opset whose changes the table of operators knows

# AttributeProto.AttributeType -> what a message calls it, and the field; graphs, sparse tensors and types are refused.
_ATTRIBUTES = {
    1: ("float", "f"),
    2: ("int", "i"),
    3: ("string", "s"),
    4: ("tensor", "t"),
    6: ("floats", "floats"),
    7: ("ints", "ints"),
    8: ("strings", "strings"),
}


def read(source: Any) -> Model:
    """A model from a path, bytes, or an onnx.ModelProto.

    Raises
    ------
    ModuleNotFoundError
        If the package onnx is not there; the message has the command.
    OSError
        If the file, or one beside it that has some of the tensors, cannot be read.
    TypeError
        If `source` is something else.
    ValueError
        If it is no ONNX model, is damaged, or has what is not supported.
    """
    proto, where, folder = _parse(source)
    try:
        return _model(proto, where, Outside(folder))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def metadata(source: Any) -> dict[str, str]:
    """The properties of a model, by name; raises what `read` raises."""
    proto, _, _ = _parse(source)
    return {entry.key: entry.value for entry in proto.metadata_props}


def _parse(source: Any) -> tuple[Any, str, Path | None]:
    try:
        import onnx

        DecodeError = importlib.import_module("google.protobuf.message").DecodeError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"polyrnn.interop.onnx needs the package onnx ({error}): pip install 'polyrnn[onnx]'", name=error.name
        ) from error

    if isinstance(source, onnx.ModelProto):
        return source, "the model", None
    folder = None
    where = "the model"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(f"{path} is no file")  # a pipe would be waited for
        raw, where, folder = path.read_bytes(), str(path), path.parent
    elif isinstance(source, (bytes, bytearray, memoryview)):
        raw = bytes(source)
    else:
        raise TypeError(f"source is a {type(source).__name__}; expected a path, bytes or an onnx.ModelProto")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(raw)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: no ONNX model, or damaged: {error}") from error
    return proto, where, folder


def _model(proto: Any, where: str, outside: Outside) -> Model:
    if not proto.HasField("graph") or not proto.graph.output:
        raise ValueError("no ONNX model: there is no graph with an output in it")
    if proto.graph.sparse_initializer:
        raise ValueError("sparse initializers are not supported")
    if any(_is_standard(function.domain) for function in proto.functions):
        raise ValueError("functions of the model that replace ONNX' own operators are not supported")
    graph = proto.graph
    initializers: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        if not text(tensor.name) or tensor.name in initializers:
            raise ValueError(f"initializer {short(tensor.name)}: expected a name of its own")
        initializers[tensor.name] = array_of(tensor, f"initializer {short(tensor.name)}", outside)
    inputs = [_value(info, "input") for info in graph.input if info.name not in initializers]
    outputs = [_value(info, "output") for info in graph.output]
    opset = _opset(proto)
    nodes = tuple(_nodes(graph.node, outside))
    _check_names([value.name for value in inputs], initializers, nodes, [value.name for value in outputs])
    return Model(where, opset, tuple(inputs), tuple(outputs), initializers, nodes)


def _is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _opset(proto: Any) -> int:
    versions = {entry.version for entry in proto.opset_import if _is_standard(entry.domain)}
    if not proto.opset_import and proto.ir_version < 3:
        versions = {1}  # there was no other
    if len(versions) != 1:
        raise ValueError(
            f"opset_import has {sorted(versions) or 'no version'} of ONNX' operators; expected one version"
        )
    (version,) = versions
    if not 1 <= version <= NEWEST:
        raise ValueError(f"opset {version} of ONNX' operators; supported are 1 to {NEWEST}")
    return version


def _value(info: Any, what: str) -> Value:
    what = f"{what} {short(text(info.name))}"
    if info.type.WhichOneof("value") != "tensor_type":
        raise ValueError(f"{what} is a {info.type.WhichOneof('value') or 'value of no type'}; supported are tensors")
    tensor = info.type.tensor_type
    dtype = dtype_of(tensor.elem_type, what)
    if not tensor.HasField("shape"):
        return Value(info.name, dtype, None)
    shape = [
        text(dim.dim_param) or None if dim.WhichOneof("value") != "dim_value" or dim.dim_value < 0 else dim.dim_value
        for dim in tensor.shape.dim
    ]
    return Value(info.name, dtype, tuple(shape))


def _nodes(protos: Iterable[Any], outside: Outside) -> Iterable[Node]:
    labels: set[str] = set()
    for proto in protos:
        inputs, outputs = tuple(map(text, proto.input)), tuple(map(text, proto.output))
        label = text(proto.name) or next(filter(None, outputs), "")
        label = label if label not in labels else f"{label} ({next(filter(None, outputs), '')})"
        labels.add(label)
        what = f"node {short(label)} ({short(text(proto.op_type))[1:-1]})"
        if not _is_standard(text(proto.domain)):
            raise ValueError(f"{what} is of the domain {short(proto.domain)}; supported are ONNX' own operators")
        attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            if text(attribute.name) in attributes:
                raise ValueError(f"{what} has the attribute {short(attribute.name)} twice")
            attributes[attribute.name] = _attribute(attribute, what, outside)
        yield Node(label, proto.op_type, inputs, outputs, attributes)


def _attribute(proto: Any, what: str, outside: Outside) -> tuple[str, Any]:
    """What it is called, and the value; strings are decoded, tensors are arrays."""
    what = f"{what}: attribute {short(proto.name)}"
    if proto.type not in _ATTRIBUTES or proto.ref_attr_name:
        raise ValueError(f"{what} is of type {proto.type}; graphs, sparse tensors and types are not supported")
    word, field = _ATTRIBUTES[proto.type]
    value = getattr(proto, field)
    try:
        if word == "tensor":
            return word, array_of(value, what, outside)
        if word == "string":
            return word, value.decode()
        if word == "strings":
            return word, tuple(text.decode() for text in value)
    except UnicodeDecodeError:
        raise ValueError(f"{what} is no text") from None
    return word, tuple(value) if word in ("floats", "ints") else value


def _check_names(inputs: list[str], initializers: dict, nodes: tuple[Node, ...], outputs: list[str]) -> None:
    """Each value has one origin, and is computed before it is used."""
    known: set[str] = set()
    for name in (*inputs, *initializers):
        if not name or name in known:
            raise ValueError(f"input {short(name)}: expected a name of its own")
        known.add(name)
    made = {name for node in nodes for name in node.outputs if name}
    for node in nodes:
        what = f"node {short(node.label)} ({short(node.kind)[1:-1]})"
        for name in filter(None, node.inputs):
            if name not in known:
                how = (
                    "is computed by no node before it: a circle, or nodes out of order"
                    if name in made
                    else "is nowhere"
                )
                raise ValueError(f"{what}: its input {short(name)} {how}")
        for name in filter(None, node.outputs):
            if name in known:
                raise ValueError(f"{what}: its output {short(name)} is there already")
            known.add(name)
    for name in outputs:
        if name not in known:
            raise ValueError(f"output {short(name)} is computed by no node")
    if len(set(outputs)) != len(outputs):
        raise ValueError(f"outputs {', '.join(map(short, outputs))}: expected each once")
