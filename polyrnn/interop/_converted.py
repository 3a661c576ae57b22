"""What the converters share: the order of gate blocks, the names of a stack's recurrences, and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._module import Module
from .._recurrent import Recurrent
from ..backends import backend_of
from ..layers import GRU, LSTM, RNN
from ..model import Model
from ..modules import Embedding, Sequential

KINDS: dict[str, type[Recurrent]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
OURS = {"rnn": "h", "lstm": "ifgo", "gru": "rzn"}  # polyrnn's gate blocks, PyTorch's

# These change nothing of what a trained layer computes from given parameters when it is not trained, or are chosen
# anew on the other side.
_INDIFFERENT = {"initializer", "traced", "remat", "dropout", "input_dropout", "recurrent_dropout", "output_dropout"}

T = TypeVar("T")


class Converted(NamedTuple):
    """A layer that was found somewhere.

    Attributes
    ----------
    layer : RNN, LSTM or GRU
    params : dict of str to NumPy array
        By polyrnn's names, as `layer.shapes()` tells them.
    """

    layer: Recurrent
    params: dict[str, np.ndarray]

    def __repr__(self) -> str:
        """With the number of parameters in the place of all their numbers."""
        count = sum(int(np.prod(array.shape)) for array in self.params.values())
        return f"Converted(layer={self.layer!r}, params=<{len(self.params)} arrays, {count:,} numbers>)"


def kind_of(layer: Any) -> str:
    """Of a layer: "rnn", "lstm" or "gru"; TypeError for anything else."""
    for kind, of in KINDS.items():
        if type(layer) is of:
            return kind
    raise TypeError(f"layer is {layer!r}; expected an RNN, LSTM or GRU of polyrnn's")


def reorder(array: np.ndarray, of: str, to: str, axis: int = 0) -> np.ndarray:
    """The gate blocks along an axis, which stand in the order of the letters `of`, in the order `to`."""
    if of == to:
        return array
    blocks = np.split(array, len(of), axis=axis)
    return np.concatenate([blocks[of.index(gate)] for gate in to], axis=axis)


def suffixes(layer: Recurrent) -> list[str]:
    """Of the parameters' names of all recurrences: "_l0", "_l0_reverse", "_l1", ..."""
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{k}{way}" for k in range(layer.num_layers) for way in ways]


def of_recurrence(params: Mapping[str, T], suffix: str) -> dict[str, T]:
    """The parameters of one recurrence, without the suffix in their names."""
    return {
        name.removesuffix(suffix): array
        for name, array in params.items()
        if name.endswith(suffix) and (suffix.endswith("_reverse") or not name.endswith("_reverse"))
    }


def checked(layer: Recurrent, params: Any) -> dict[str, np.ndarray]:
    """The parameters on the host, if they are the layer's: all of them, of the right shapes; else ValueError."""
    kind_of(layer)
    if not isinstance(params, Mapping):
        raise TypeError(f"params is {type(params).__name__}; expected a dict of arrays by name")
    found = {name: tuple(array.shape) for name, array in params.items()}
    expected = layer.shapes()
    if found != expected:
        raise ValueError(f"params have the shapes {found}; expected those of {layer!r}: {expected}")
    return {name: np.asarray(a) for name, a in backend_of(dict(params), "params").to_numpy(dict(params)).items()}


def refuse(layer: Recurrent, target: str, allowed: Iterable[str] = ()) -> None:
    """ValueError if the layer has options that `target` cannot represent: all but the sizes, `allowed` and training's.

    `allowed` are names of fields of the layer, such as "proj_size".
    """
    free = {"input_size", "hidden_size", "batch_first"} | _INDIFFERENT | set(allowed)
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.name not in free and value != field.default:
            raise ValueError(
                f"{type(layer).__name__} has {field.name}={value!r}, which {target} cannot represent; expected "
                f"{field.name}={field.default!r}"
            )


def check_finite(where: str, array: np.ndarray) -> None:
    """ValueError if there is a NaN or an infinity; `where` names the array. Looks at a piece at a time."""
    flat = array.reshape(-1)
    for first in range(0, flat.size, 1 << 18):
        finite = np.isfinite(flat[first : first + (1 << 18)])
        if not finite.all():
            k = first + int(np.argmin(finite))
            raise ValueError(
                f"{where}: holds {flat[k]} at {tuple(map(int, np.unravel_index(k, array.shape)))}; "
                "allow_nan=True would take it"
            )


def only(found: Mapping[str, T], name: str | None, where: str) -> T:
    """The one of that name; without a name the only one; else ValueError that lists what there is."""
    there = ", ".join(map(repr, found)) or "none"
    if name is None:
        if len(found) != 1:
            word = "no recurrent layer" if not found else f"{len(found)} recurrent layers, {there}; name one"
            raise ValueError(f"{where}: {word}")
        return next(iter(found.values()))
    if name not in found:
        raise ValueError(f"{where}: no recurrent layer of the name {name!r}; there is {there}")
    return found[name]


def members(model: Model) -> dict[str, Converted]:
    """The recurrent layers of a model, by their names in it."""
    found: dict[str, Converted] = {}

    def visit(module: Any, prefix: str) -> None:
        if isinstance(module, Recurrent):
            own = {name: model.params[prefix + name] for name in module.shapes()}
            found[prefix.removesuffix(".")] = Converted(module, own)
        for name, member in getattr(module, "members", ()):
            visit(member, f"{prefix}{name}.")

    visit(model.module, "")
    return found


def example(model: Model) -> np.ndarray | None:
    """Random input, T = 5 and N = 3: ids for an Embedding, else vectors; None where nothing tells their size."""
    rng = np.random.default_rng(0)
    for module in _leaves(model.module):
        if isinstance(module, Embedding):
            return rng.integers(0, module.num_embeddings, (5, 3))
        if size := getattr(module, "input_size", 0) or getattr(module, "in_features", 0):
            return rng.standard_normal((5, 3, size)).astype(next(iter(model.params.values())).dtype)
    return None


def _leaves(module: Module) -> list[Module]:
    if isinstance(module, Sequential):
        return [leaf for _, member in module.members for leaf in _leaves(member)]
    return [module]
