"""Files of all formats by their extensions: what is in one, and how one is written."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np

from .. import _safetensors
from .._module import Module
from ..backends import backend_of
from ..checkpoint import write_atomically
from ..model import Model
from ._converted import Converted, members, only


class Format(NamedTuple):
    """A format of files."""

    extensions: tuple[str, ...]
    module: str  # of this package, which reads and writes it; "" for polyrnn's own
    order: dict[str, str]  # of gate blocks
    whole: bool = False  # whether it takes modules other than recurrent layers
    state_dict: bool = False  # whether it is a dict of tensors, which tells names and shapes alone
    alone: bool = False  # whether it has one recurrent layer, perhaps as several of its own


FORMATS = {
    "polyrnn": Format((".safetensors",), "", {"lstm": "i f g o", "gru": "r z n"}, True),
    "torch": Format((".safetensors",), "torch", {"lstm": "i f g o", "gru": "r z n"}, True, True),
    "keras": Format((".weights.h5", ".keras", ".h5"), "keras", {"lstm": "i f c o", "gru": "z r h"}, alone=True),
    "onnx": Format((".onnx",), "onnx", {"lstm": "i o f c", "gru": "z r h"}, True),
    "npz": Format((".npz",), "npz", {"lstm": "i f g o", "gru": "r z n"}, True),
}


def format_of(path: str | PathLike[str], given: str | None, option: str, reading: bool) -> str:
    """The format of a file: the one that is given, else by its extension, and when it is read by its content."""
    if given is not None:
        if given not in FORMATS:
            raise ValueError(f"{option} {given!r}: expected one of {', '.join(FORMATS)}")
        return given
    name = fspath(path)
    found = [key for key, form in FORMATS.items() if name.lower().endswith(form.extensions)]
    if not found:
        if name.lower().endswith((".pt", ".pth", ".bin", ".ckpt")):
            if reading:
                return "torch"  # whose reader says why not, and what to do
            raise ValueError(f"{name}: pickles are not written; expected .safetensors, which PyTorch's users read too")
        known = ", ".join(dict.fromkeys(form.extensions[0] for form in FORMATS.values()))
        raise ValueError(f"{name}: what format is that? Expected an extension such as {known}, or {option}")
    if len(found) > 1 and reading and _safetensors.read(path)[1].get("format") != "polyrnn":
        return "torch"
    return found[0]


def read(path: str | PathLike[str], form: str, **options: Any) -> Model | dict[str, Converted]:
    """A Model where the file tells all of it, else its recurrent layers by name; options as the readers take them."""
    if form == "polyrnn":
        _refuse_options(path, options, "its description tells")
        return Model.load(path, backend="numpy")
    module: Any = importlib.import_module(f".{FORMATS[form].module}", __package__)
    if form == "npz" and isinstance(found := module.read(path), Model):
        _refuse_options(path, options, "its description tells")
        return found
    if form == "onnx" and not options and (whole := _described(path)) is not None:
        return whole
    known = inspect.signature(module.find).parameters
    if any(kind.kind is kind.VAR_KEYWORD for kind in known.values()):
        return module.find(path, **options)
    if unknown := [name for name in options if name not in known]:
        raise ValueError(f"{path}: --{unknown[0].replace('_', '-')} has no meaning for {form} files")
    return module.find(path, **options)


def _described(path: Any) -> Model | None:
    from .onnx._described import described

    return described(path)


def _refuse_options(path: Any, options: dict[str, Any], why: str) -> None:
    if options:
        raise ValueError(f"{path}: --{next(iter(options)).replace('_', '-')} has no meaning here: {why}")


def left_out(path: str | PathLike[str], form: str, found: Model | dict[str, Converted]) -> list[str]:
    """The names of a state dict's tensors that belong to no recurrent layer."""
    if isinstance(found, Model) or not FORMATS[form].state_dict:
        return []
    from .torch import parts

    tensors, _ = _safetensors.read(path)
    used = {name for names in parts(tensors).values() for name in names.values()}
    return [name for name in tensors if name not in used]


def again(path: str | PathLike[str], form: str, like: dict[str, Converted]) -> dict[str, Converted]:
    """The layers of a file that was written from these, with what the file does not tell taken from them."""
    if not FORMATS[form].state_dict and not FORMATS[form].alone:
        return layers(read(path, form))
    module: Any = importlib.import_module(f".{FORMATS[form].module}", __package__)
    if FORMATS[form].state_dict:
        found = {}
        for name, (layer, _) in like.items():
            told = {key: getattr(layer, key) for key in ("nonlinearity", "batch_first") if hasattr(layer, key)}
            found[name] = module.load(path, name, **told)
        return found
    ((name, (layer, _)),) = like.items()
    told = {}
    if fspath(path).endswith(".h5"):
        told = {"reset_after": getattr(layer, "reset_after", True)}
        if hasattr(layer, "nonlinearity"):
            told["activation"] = layer.nonlinearity
        elif layer.activations:  # type: ignore[attr-defined]
            given = layer.activations  # type: ignore[attr-defined]
            told |= {"recurrent_activation": given[0], "activation": given[2]}
    names = list(module.find(path, **told))
    return {name: module.load(path, names if len(names) > 1 else names[0], **told)}


def layers(found: Model | dict[str, Converted]) -> dict[str, Converted]:
    """The recurrent layers, by name."""
    return members(found) if isinstance(found, Model) else found


def one_model(found: Model | dict[str, Converted], name: str | None, where: str) -> Model:
    """What is to be written or run: the whole model, or the layer of that name, or the only one."""
    if isinstance(found, Model) and name is None:
        return found
    layer, params = only(layers(found), name, where)
    return Model(layer, params)


def write(path: str | PathLike[str], form: str, model: Model) -> None:
    """Write a model; ValueError says what the format cannot represent."""
    if form in _WRITERS:
        _WRITERS[form](path, model)
        return
    if not FORMATS[form].whole:
        named = members(model)
        if len(named) != 1 or "" not in named:
            raise ValueError(
                f"{form} takes one recurrent layer, and this is a {type(model.module).__name__} with "
                f"{', '.join(map(repr, named)) or 'none'}; name one"
            )
    module: Any = importlib.import_module(f".{FORMATS[form].module}", __package__)
    module.save(path, model.module, model.params)


def _write_torch(path: str | PathLike[str], model: Model) -> None:
    """A state dict: the names of a Sequential's parameters are those of torch.nn.Sequential's."""
    from safetensors.numpy import save as serialise

    from . import torch

    for name, (layer, params) in members(model).items():
        torch.dump(layer, params, name)  # refuses what PyTorch has not
    _check_ensembles(model.module)
    host = backend_of(model.params, "params").to_numpy(dict(model.params))
    content = serialise({name: np.ascontiguousarray(array) for name, array in host.items()})
    with write_atomically(path) as file:
        file.write(content)


# Where whole models are written otherwise than layers.
_WRITERS: dict[str, Callable[[Any, Model], None]] = {
    "polyrnn": lambda path, model: model.save(path),
    "torch": _write_torch,
}


def _check_ensembles(module: Module) -> None:
    if module.ensemble:
        raise ValueError(
            f"{type(module).__name__} is an ensemble of {module.ensemble}, which PyTorch's modules are not"
        )
