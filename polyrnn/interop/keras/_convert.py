"""From a Keras layer's arrays and config to a layer of polyrnn's, and the activations of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...activations import Activation, activation
from .._converted import KINDS, OURS, Converted, reorder

THEIRS = {"rnn": "h", "lstm": "ifgo", "gru": "zrn"}  # Keras' order of the gate blocks; its c and h are g and n
CLASSES = {"SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
_CELLS = CLASSES | {f"{name}Cell": kind for name, kind in CLASSES.items()}
_KINDS = {len(order): kind for kind, order in OURS.items()}

# Keras' names, which have no constants, and polyrnn's activations.
ACTIVATIONS = {
    "tanh": activation("tanh"),
    "sigmoid": activation("sigmoid"),
    "relu": activation("relu"),
    "hard_sigmoid": activation(("hard_sigmoid", 1 / 6, 0.5)),  # relu6(x + 3) / 6; Keras 2 had 0.2 x + 0.5
    "softsign": activation("softsign"),
    "softplus": activation("softplus"),
    "elu": activation(("elu", 1.0)),
    "leaky_relu": activation(("leaky_relu", 0.2)),
    "linear": activation(("affine", 1.0, 0.0)),
}
LAYERS = {"LeakyReLU": ("leaky_relu", "negative_slope"), "ELU": ("elu", "alpha")}  # layers used as activations


class Assumed(NamedTuple):
    """What is taken for granted where there is no config."""

    activation: Any = "tanh"
    recurrent_activation: Any = "sigmoid"
    reset_after: bool = True
    allow_nan: bool = False


class Found(NamedTuple):
    """A recurrent layer before it is converted.

    `cells[direction][k]` returns the arrays of one cell; `config` is how Keras describes the layer, an object with
    class_name and config, or None.
    """

    where: str
    cells: Sequence[Sequence[Callable[[], Sequence[Any]]]]
    config: Mapping[str, Any] | None


def convert(found: Found, assumed: Assumed) -> Converted:
    """The layer in polyrnn's terms, or ValueError."""
    where = found.where
    described = _described(found.config, where)
    if not found.cells or not all(found.cells):
        raise ValueError(f"{where}: no arrays of it")
    if described and [len(cells) for cells in described] != [len(cells) for cells in found.cells]:
        raise ValueError(f"{where}: the config tells of other cells than there are arrays of")
    D, L = len(found.cells), len(found.cells[0])
    if D > 1 and [len(cells) for cells in found.cells] != [1, 1]:
        raise ValueError(f"{where}: stacked cells in two directions that do not meet between; polyrnn's do")
    layers = []
    for k in range(L):
        cells = [
            _cell(where, found.cells[d][k](), described[d][k] if described else (None, {}), assumed) for d in range(D)
        ]
        (kind, sizes, options, _), last = cells[0], cells[-1]
        if last[:3] != cells[0][:3]:
            raise ValueError(f"{where}: the two directions differ, in {last[:3]} and {cells[0][:3]}; expected the same")
        arguments: dict[str, Any] = {**sizes, **options, "bidirectional": D > 1}
        layer = KINDS[kind](batch_first=True, **arguments)
        ways = ("_l0", "_l0_reverse")
        params = {f"{name}{way}": a for way, cell in zip(ways, cells, strict=False) for name, a in cell[3].items()}
        layers.append(Converted(layer, params))
    return stacked(layers, where)


def stacked(layers: Sequence[Converted], where: str) -> Converted:
    """Layers of one recurrence each, one above the other, as one layer."""
    first = layers[0].layer
    width = first.hidden_size * (2 if first.bidirectional else 1)
    params: dict[str, np.ndarray] = {}
    for k, (layer, own) in enumerate(layers):
        expected = dataclasses.replace(first, input_size=width) if k else first
        if layer != expected or layer.num_layers != 1:
            raise ValueError(f"{where}: {layer} does not go above {first} in one layer; expected {expected}")
        params |= {name.replace("_l0", f"_l{k}"): array for name, array in own.items()}
    return Converted(dataclasses.replace(first, num_layers=len(layers)), params)


# ---- what a config says ----------------------------------------------------------------------------------------------


def entry(value: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """The class and the config of what Keras has serialised."""
    if isinstance(value, Mapping):
        name, config = value.get("class_name"), value.get("config")
        if isinstance(name, str) and isinstance(config, Mapping):
            return name, config
    raise ValueError(f"{where}: the config has {str(value)[:60]!r} where a layer is described")


def _described(config: Any, where: str) -> list[list[tuple[str | None, Mapping[str, Any]]]]:
    """Kind, None for a class that is not Keras', and config of each cell, by direction; nothing without a config."""
    if config is None:
        return []
    name, inside = entry(config, where)
    if name != "Bidirectional":
        return [_stack(name, inside, where, backwards=False)]
    if (mode := inside.get("merge_mode", "concat")) != "concat":
        raise ValueError(f"{where}: merge_mode={mode!r}; polyrnn puts the directions side by side: expected 'concat'")
    forward = entry(inside.get("layer"), where)
    backward = entry(inside["backward_layer"], where) if inside.get("backward_layer") else None
    if backward is None:
        backward = forward[0], {**forward[1], "go_backwards": not forward[1].get("go_backwards", False)}
    return [_stack(*forward, where, backwards=False), _stack(*backward, where, backwards=True)]


def _stack(name: str, config: Mapping, where: str, backwards: bool) -> list[tuple[str | None, Mapping[str, Any]]]:
    """Of one direction, the cells from below."""
    if config.get("go_backwards", False) is not backwards:
        raise ValueError(
            f"{where}: go_backwards={config.get('go_backwards')!r}; polyrnn runs backwards only as the second of two "
            f"directions: expected {backwards}"
        )
    if name != "RNN":
        return [(CLASSES.get(name), config)]
    name, config = entry(config.get("cell"), where)
    if name != "StackedRNNCells":
        return [(_CELLS.get(name), config)]
    cells = config.get("cells")
    named = [entry(cell, where) for cell in (cells if isinstance(cells, list) else [cells])]
    return [(_CELLS.get(name), config) for name, config in named]


def _activation(spec: Any, where: str, name: str) -> Activation:
    """Polyrnn's, of Keras' name, of its configuration of a layer, or of a tuple with constants, polyrnn's own form."""
    if isinstance(spec, str | None) and (spec or "linear") in ACTIVATIONS:
        return ACTIVATIONS[spec or "linear"]
    if isinstance(spec, tuple):
        return activation(spec, f"{where}: {name}")
    if isinstance(spec, Mapping) and spec.get("module") == "keras.layers" and spec.get("class_name") in LAYERS:
        ours, constant = LAYERS[spec["class_name"]]
        inside = spec.get("config")
        return activation((ours, inside.get(constant) if isinstance(inside, Mapping) else None), f"{where}: {name}")
    known = ", ".join(map(repr, ACTIVATIONS))
    raise ValueError(f"{where}: {name}={str(spec)[:200]!r}, which polyrnn does not have; expected one of {known}")


# ---- arrays ----------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    kind: str
    sizes: dict[str, int]
    options: dict[str, Any]
    params: dict[str, np.ndarray]


def _cell(where: str, given: Sequence[Any], described: tuple[str | None, Mapping], assumed: Assumed) -> _Cell:
    """One recurrence: kernel (I, G*H), recurrent_kernel (H, G*H), and bias (G*H,), or for a GRU (2, 3*H)."""
    known, config = described
    names = ("kernel", "recurrent_kernel", "bias")
    if len(given) not in (2, 3):
        raise ValueError(f"{where}: {len(given)} arrays; expected kernel, recurrent_kernel and perhaps bias")
    arrays = {name: _array(f"{where}: {name}", a, assumed.allow_nan) for name, a in zip(names, given, strict=False)}
    shapes = {name: array.shape for name, array in arrays.items()}
    I, columns, H = (*shapes["kernel"], *shapes["recurrent_kernel"])[:3] if _matrices(arrays) else (0, 0, 0)
    kind = known or (_KINDS.get(columns // H) if H else None)
    if (
        kind is None
        or not I
        or shapes["kernel"][1] != len(OURS[kind]) * H
        or shapes["recurrent_kernel"] != (H, columns)
    ):
        raise ValueError(
            f"{where}: the shapes {shapes}; expected those of {known or 'an rnn, lstm or gru'}, with G=1, 4 or 3 gates "
            "kernel (I, G*H) and recurrent_kernel (H, G*H)"
        )
    if len({array.dtype for array in arrays.values()}) != 1:
        raise ValueError(f"{where}: dtypes {[str(a.dtype) for a in arrays.values()]}; expected one")

    bias = len(arrays) == 3
    after = config.get("reset_after", arrays["bias"].ndim == 2 if bias else assumed.reset_after)
    if bias and shapes["bias"] != ((2, 3 * H) if kind == "gru" and after else (columns,)):
        raise ValueError(f"{where}: bias of shape {shapes['bias']}; expected ({columns},), or (2, {3 * H}) of a GRU")
    for name, there in (("use_bias", bias), ("units", H), ("reset_after", bool(after))):
        if config.get(name, there) != there:
            raise ValueError(f"{where}: the config has {name}={config[name]!r}, and the arrays are of {there}")

    order, to = THEIRS[kind], OURS[kind]
    params = {
        "weight_ih": np.ascontiguousarray(reorder(arrays["kernel"], order, to, axis=1).T),
        "weight_hh": np.ascontiguousarray(reorder(arrays["recurrent_kernel"], order, to, axis=1).T),
    }
    if bias:
        both = arrays["bias"] if arrays["bias"].ndim == 2 else np.stack([arrays["bias"], np.zeros_like(arrays["bias"])])
        params["bias_ih"], params["bias_hh"] = (reorder(row, order, to).copy() for row in both)
    options = (
        _options(kind, config, where, assumed) | {"bias": bias} | ({"reset_after": after} if kind == "gru" else {})
    )
    return _Cell(kind, {"input_size": I, "hidden_size": H}, options, params)


def _matrices(arrays: Mapping[str, np.ndarray]) -> bool:
    return arrays["kernel"].ndim == 2 and arrays["recurrent_kernel"].ndim == 2


def _array(where: str, given: Any, allow_nan: bool) -> np.ndarray:
    array = given if isinstance(given, np.ndarray) else given.read()
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)  # exact; NumPy has no such type
    if array.dtype.kind != "f":
        raise ValueError(f"{where}: dtype {array.dtype}; expected floating point numbers")
    if not allow_nan and not np.isfinite(array).all():
        raise ValueError(f"{where}: not all numbers are finite; allow_nan=True takes them")
    return array


def _options(kind: str, config: Mapping[str, Any], where: str, assumed: Assumed) -> dict[str, Any]:
    """The activations, where they are not the usual ones."""
    inner = _activation(config.get("activation", assumed.activation), where, "activation")
    if kind == "rnn":
        return {"nonlinearity": (inner.name, *inner.constants) if inner.constants else inner.name}
    spec = config.get("recurrent_activation", assumed.recurrent_activation)
    gate = _activation(spec, where, "recurrent_activation")
    if (gate, inner) == (ACTIVATIONS["sigmoid"], ACTIVATIONS["tanh"]):
        return {}
    gates = (gate, gate, inner, gate, inner) if kind == "lstm" else (gate, gate, inner)
    return {"activations": tuple((a.name, *a.constants) if a.constants else a.name for a in gates)}
