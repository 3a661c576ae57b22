"""Where recurrent layers are found: in a file, in a live model, among arrays; each by its name there, not yet read."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._convert import CLASSES, Found
from ._files import opened
from ._hdf5 import Array

_RECURRENT = {*CLASSES, "RNN", "Bidirectional"}
_DEPTH = 64  # of models within models
_CELL = re.compile(r"(.+)/cell(?:/cells/([^/]+))?/vars/(\d{1,3})")


@contextlib.contextmanager
def found_in(source: Any) -> Iterator[tuple[str, dict[str, Found]]]:
    """What the source is called, and its recurrent layers, readable inside the block."""
    if isinstance(source, str | os.PathLike):
        with opened(source) as (file, config):
            where = os.fspath(source)
            yield where, _in_file(file.arrays, file.names, config, where)
    elif isinstance(source, Mapping | Sequence):
        yield "source", _in_arrays(source)
    elif hasattr(source, "get_config") and hasattr(source, "name"):
        found: dict[str, Found] = {}
        _in_model(source, "", found, set())
        yield str(source.name), found
    else:
        raise TypeError(f"source is {type(source).__name__}; expected a path, a Keras layer or model, or arrays")


def snake_case(name: str) -> str:
    """A class's name as Keras makes a path of it: SimpleRNN -> simple_rnn."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def unique(name: str, used: Mapping[str, Any] | set[str]) -> str:
    """lstm, lstm_1, lstm_2: the first that is not used yet."""
    return next(n for k in range(len(used) + 1) if (n := f"{name}_{k}" if k else name) not in used)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """So that lstm_2 stands before lstm_10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


# ---- a file ----------------------------------------------------------------------------------------------------------


def _in_file(
    arrays: Mapping[str, Array], names: Mapping[str, str], config: dict | None, where: str
) -> dict[str, Found]:
    """The config tells of layers by path, and the arrays stand there; some of either may be without the other."""
    cells: dict[str, dict[str, dict[str, dict[int, Array]]]] = {}  # by layer, direction and cell
    for path, array in arrays.items():
        if match := _CELL.fullmatch(path):
            layer, cell, number = match.groups()
            base, _, last = layer.rpartition("/")
            way = last if last in ("forward_layer", "backward_layer") and base else ""
            of_layer = cells.setdefault(base if way else layer, {})
            of_layer.setdefault(way, {}).setdefault(cell or "", {})[int(number)] = array

    described = dict(_described(config, "", "", where, 0)) if config else {}
    found: dict[str, Found] = {}
    for path in [*described, *sorted(cells.keys() - described.keys(), key=_natural)]:
        name, entry = described.get(path, (_named(path, names), None))
        known = entry is not None and entry["class_name"] in _RECURRENT
        there = cells.get(path, {})
        if not known and not _is_recurrent(there):
            continue
        if not there and any(_same(of, entry) for other, (_, of) in described.items() if other in cells):
            continue  # a layer in two models is stored once, in the first
        if entry is not None and names.get(path, entry["config"]["name"]) != entry["config"]["name"]:
            raise ValueError(f"{where}: {path} holds the layer {names[path]!r}; the config has {name!r} there")
        if there and sorted(there) not in ([""], ["backward_layer", "forward_layer"]):
            raise ValueError(f"{where}: {path} has the cells {sorted(there)}; expected one, or one of each direction")
        grid = [
            [_reader(there[way][cell], f"{where}: {path}") for cell in sorted(there[way], key=_natural)]
            for way in sorted(there, reverse=True)
        ]
        found[path if name in found else name] = Found(f"{where}: {name}", grid, entry)
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    return other is not None and all(one[key] == other[key] for key in ("class_name", "config"))


def _reader(numbered: Mapping[int, Array], where: str) -> Callable[[], list[Array]]:
    def read() -> list[Array]:
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"{where}: the arrays {sorted(numbered)} of a cell; expected 0, 1 and perhaps 2")
        return [numbered[k] for k in range(len(numbered))]

    return read


def _is_recurrent(cells: Mapping[str, Mapping[str, Mapping[int, Array]]]) -> bool:
    """Whether a layer of unknown class multiplies by matrices; a convolution does not."""
    first = [cell.get(0) for way in cells.values() for cell in way.values()]
    return bool(first) and all(a is None or len(a.shape) == 2 for a in first)


def _named(path: str, names: Mapping[str, str]) -> str:
    """A layer's name, of its path and of what its groups are called: layers/sequential/layers/lstm -> encoder/lstm."""
    parts = path.split("/")
    if path not in names:  # as of Keras' first versions
        return "/".join(part for part in parts if part != "layers")
    above = ("/".join(parts[: k + 1]) for k in range(len(parts)))
    return "/".join(names[group] for group in above if group in names)


def _described(entry: Any, path: str, name: str, where: str, depth: int) -> Iterator[tuple[str, tuple[str, Mapping]]]:
    """Of all layers of a serialised model the path of their arrays, their name and how they are described."""
    inside = entry.get("config")
    layers = inside.get("layers") if isinstance(inside, Mapping) else None
    if depth > _DEPTH:
        raise ValueError(f"{where}: config.json: more than {_DEPTH} models within each other")
    if isinstance(layers, list):
        children, used = [], dict[str, int]()
        for layer in layers:
            kind = snake_case(str(layer.get("class_name"))) if isinstance(layer, Mapping) else ""
            count = used[kind] = used.get(kind, -1) + 1
            children.append((f"layers/{kind}_{count}" if count else f"layers/{kind}", layer))
    elif isinstance(inside, Mapping) and "layer" in inside and entry.get("class_name") != "Bidirectional":
        children = [("layer", inside["layer"])]
    else:
        return
    for part, layer in children:
        config = layer.get("config") if isinstance(layer, Mapping) else None
        if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
            continue  # its arrays, if it has any, are found by their form
        below, called = f"{path}/{part}" if path else part, f"{name}/{config['name']}" if name else config["name"]
        if isinstance(layer.get("class_name"), str):
            yield below, (called, layer)
        yield from _described(layer, below, called, where, depth + 1)


# ---- a live model ----------------------------------------------------------------------------------------------------


def _in_model(layer: Any, name: str, found: dict[str, Found], met: set[int]) -> None:
    """Those of a layer and of the layers in it, in their order."""
    if id(layer) in met:
        return
    met.add(id(layer))
    classes = [of.__name__ for of in type(layer).__mro__]
    kind = next((of for of in classes if of in _RECURRENT and "ConvLSTM" not in classes), None)
    if kind is not None:
        own = name or str(layer.name)
        ways = [layer.forward_layer, layer.backward_layer] if kind == "Bidirectional" else [layer]
        grid = [[_weights(cell) for cell in _cells(way)] for way in ways]
        config = {"class_name": kind, "config": layer.get_config()}
        found[unique(own, found)] = Found(own, grid, config)
        return
    for inside in getattr(layer, "layers", None) or getattr(layer, "_layers", None) or ():
        if hasattr(inside, "name"):
            _in_model(inside, f"{name}/{inside.name}" if name else str(inside.name), found, met)


def _cells(layer: Any) -> list[Any]:
    cell = getattr(layer, "cell", None)
    return list(getattr(cell, "cells", [cell]))


def _weights(cell: Any) -> Callable[[], list[np.ndarray]]:
    def read() -> list[np.ndarray]:
        arrays = [np.asarray(a) for a in cell.get_weights()]
        if not arrays:
            raise ValueError(f"{cell.name}: no weights yet; build the model, or call it on something")
        return arrays

    return read


# ---- arrays ----------------------------------------------------------------------------------------------------------


def _in_arrays(source: Any) -> dict[str, Found]:
    """What `get_weights` returns: of one layer, of a list of layers, or of layers by name."""
    if isinstance(source, Mapping):
        named = dict(source)
    else:
        layers = [source] if source and all(hasattr(a, "shape") for a in source) else list(source)
        named = {}
        for arrays in layers:
            named[unique("layer", named)] = arrays
    found = {}
    for name, arrays in named.items():
        if not isinstance(arrays, Sequence) or isinstance(arrays, str) or not all(hasattr(a, "shape") for a in arrays):
            raise TypeError(
                f"source: {name}: expected a list of arrays, as of get_weights(), got {type(arrays).__name__}"
            )
        if len(arrays) not in (2, 3, 4, 6):
            raise ValueError(f"source: {name}: {len(arrays)} arrays; expected 2 or 3 a direction")
        one = list(map(np.asarray, arrays))
        ways = [one] if len(one) < 4 else [one[: len(one) // 2], one[len(one) // 2 :]]
        found[str(name)] = Found(f"source: {name}", [[functools.partial(list, own)] for own in ways], None)
    return found
