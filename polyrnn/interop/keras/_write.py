"""From a layer of polyrnn's to Keras' arrays and files."""

from __future__ import annotations

import importlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ...activations import activation
from ...layers import GRU
from .._converted import OURS, checked, kind_of, of_recurrence, refuse, reorder, suffixes
from ._convert import ACTIVATIONS, CLASSES, LAYERS, THEIRS
from ._sources import snake_case, unique


def dump(layer: Any, params: Any) -> list[list[np.ndarray]]:
    """The arrays of a layer as Keras wants them.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        With `num_layers` L it becomes L layers of Keras', one above the other.
    params : dict of str to array
        Of any backend.

    Returns
    -------
    list of list of NumPy array
        For each of the L layers what its `set_weights` takes: kernel (I, G*H), recurrent_kernel (H, G*H) and, if the
        layer has it, bias, (G*H,) or for a GRU with reset after (2, 3*H); for Bidirectional the forward direction's
        and then the backward direction's. The layer there must have the same units, `use_bias`, `reset_after` and
        activations.

    Raises
    ------
    ValueError
        If the layer has something that Keras has not, or the parameters are not the layer's.
    TypeError
        If the layer is none of these.

    Examples
    --------
    >>> import polyrnn as pr
    >>> gru = pr.GRU(3, 5, num_layers=2)
    >>> [[array.shape for array in arrays] for arrays in dump(gru, gru.init(seed=0))]
    [[(3, 15), (5, 15), (2, 15)], [(5, 15), (5, 15), (2, 15)]]
    """
    described(layer)
    arrays = [_cell(layer, of_recurrence(checked(layer, params), suffix)) for suffix in suffixes(layer)]
    D = 2 if layer.bidirectional else 1
    return [[array for cell in arrays[k : k + D] for array in cell] for k in range(0, len(arrays), D)]


def save(path: str | os.PathLike[str], layer: Any, params: Any) -> None:
    """Write a layer to a file that Keras 3 loads; needs h5py, not Keras.

    Parameters
    ----------
    path : str or path
        Ends in .keras, for `keras.saving.load_model`: a Sequential model of the L layers of `dump`, with
        return_sequences=True. Or in .weights.h5, for `load_weights` of such a model that is there already: its layers
        must be these alone, without dropout, and their options as `dump` says.
    layer : RNN, LSTM or GRU
    params : dict of str to array
        Of any backend; all of one dtype.

    Raises
    ------
    ValueError
        As for `dump`; or if the path ends otherwise.
    OSError
        If the file cannot be written.
    TypeError
        If the layer is none of these, or the parameters are no floating point numbers.
    ModuleNotFoundError
        If h5py is missing.
    """
    where = os.fspath(path)
    if not where.endswith((".keras", ".weights.h5")):
        raise ValueError(f"path={where!r}; expected an ending of Keras', .keras or .weights.h5")
    models = dump(layer, params)
    dtype = models[0][0].dtype
    if dtype.kind != "f" and dtype.name != "bfloat16":
        raise TypeError(f"params of dtype {dtype}; expected floating point numbers")
    names: dict[str, list[np.ndarray]] = {}
    one = described(layer)
    one["config"]["dtype"] = dtype.name
    if (
        dtype.itemsize == 2
    ):  # Keras draws before it loads, and its usual way needs a decomposition, for which JAX has none
        one["config"]["recurrent_initializer"] = "glorot_uniform"
    entry = _direction(one, layer.bidirectional)
    for arrays in models:
        names[unique(snake_case(entry["class_name"]), names)] = arrays
    weights = _weights(names, layer.bidirectional)
    if where.endswith(".keras"):
        weights = _archive(_model(entry, list(names), layer.input_size, dtype.name), weights)
    Path(where).write_bytes(weights)


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        text = "Keras' files are HDF5, and to write one needs h5py: python -m pip install 'polyrnn[keras]'"
        raise ModuleNotFoundError(text, name="h5py") from error


def _direction(entry: dict[str, Any], bidirectional: bool) -> dict[str, Any]:
    if not bidirectional:
        return entry
    ways = {
        key: {**entry, "config": {"name": name, **entry["config"], "go_backwards": key != "layer"}}
        for key, name in (("layer", "forward_layer"), ("backward_layer", "backward_layer"))
    }
    return {"module": "keras.layers", "class_name": "Bidirectional", "config": {"merge_mode": "concat", **ways}}


def _weights(layers: dict[str, list[np.ndarray]], bidirectional: bool) -> bytes:
    """The HDF5 file: layers/lstm/cell/vars/0, or layers/bidirectional/forward_layer/cell/vars/0, ..."""
    file = io.BytesIO()
    with _h5py().File(file, "w") as h5:
        h5.create_group("vars").attrs["name"] = "sequential"
        for name, arrays in layers.items():
            h5.create_group(f"layers/{name}/vars").attrs["name"] = name
            ways = ("/forward_layer", "/backward_layer") if bidirectional else ("",)
            each = len(arrays) // len(ways)
            for d, way in enumerate(ways):
                for k, array in enumerate(arrays[d * each : d * each + each]):
                    stored = h5.create_dataset(f"layers/{name}{way}/cell/vars/{k}", data=array)
                    if array.dtype.name == "bfloat16":
                        stored.attrs["dtype"] = "bfloat16"
    return file.getvalue()


def _model(entry: dict[str, Any], names: list[str], input_size: int, dtype: str) -> dict[str, Any]:
    """A Sequential model as Keras serialises it."""
    shape = [None, None, input_size]
    start = {"batch_shape": shape, "dtype": dtype, "name": "input_layer"}
    layers = [{"module": "keras.layers", "class_name": "InputLayer", "config": start}]
    for name in names:
        layers.append({**entry, "config": {"name": name, "dtype": dtype, **entry["config"]}})
    config = {"name": "sequential", "layers": layers, "build_input_shape": shape}
    return {"module": "keras", "class_name": "Sequential", "config": config, "build_config": {"input_shape": shape}}


def _archive(config: dict[str, Any], weights: bytes) -> bytes:
    """The .keras file; with a fixed date, so that the same layer gives the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("metadata.json", json.dumps({"keras_version": "3.0.0", "date_saved": "1980-01-01@00:00:00"}).encode()),
            ("config.json", json.dumps(config).encode()),
            ("model.weights.h5", weights),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def _cell(layer: Any, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    order, to = OURS[kind_of(layer)], THEIRS[kind_of(layer)]
    weights = [np.ascontiguousarray(reorder(params[name], order, to).T) for name in ("weight_ih", "weight_hh")]
    if not layer.bias:
        return weights
    ih, hh = (reorder(params[name], order, to) for name in ("bias_ih", "bias_hh"))
    return [*weights, np.stack([ih, hh]) if isinstance(layer, GRU) and layer.reset_after else ih + hh]


def described(layer: Any) -> dict[str, Any]:
    """Class and config of one of the layers in Keras that match, without direction; ValueError if there is none."""
    kind = kind_of(layer)
    own = {"rnn": {"nonlinearity"}, "lstm": {"activations"}, "gru": {"activations", "reset_after"}}[kind]
    refuse(layer, "Keras", {"num_layers", "bias", "bidirectional", *own})
    config: dict[str, Any] = {"units": layer.hidden_size, "use_bias": layer.bias, "return_sequences": True}
    if kind == "rnn":
        config["activation"] = _activation(layer.nonlinearity)
    else:
        default = ("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh")[: len(THEIRS[kind]) + (kind == "lstm")]
        gates = [activation(spec) for spec in layer.activations or default]
        pattern = (gates[0], gates[0], gates[2], gates[0], gates[2])[: len(gates)]
        if tuple(gates) != pattern:
            raise ValueError(
                f"activations={layer.activations!r}, which Keras cannot represent: one for the gates and one for "
                "the rest"
            )
        config["activation"], config["recurrent_activation"] = (_activation(gates[k]) for k in (2, 0))
    if kind == "gru":
        config["reset_after"] = layer.reset_after
    return {"module": "keras.layers", "class_name": next(n for n, k in CLASSES.items() if k == kind), "config": config}


def _activation(spec: Any) -> Any:
    """Keras' name of it, or if it has constants of its own Keras' layer."""
    ours = spec if hasattr(spec, "constants") else activation(spec)
    for name, theirs in ACTIVATIONS.items():
        if ours == theirs:
            return name
    for name, (kind, constant) in LAYERS.items():
        if ours.name == kind:
            return {"module": "keras.layers", "class_name": name, "config": {constant: ours.constants[0]}}
    known = ", ".join(ACTIVATIONS)
    raise ValueError(f"the activation {ours.name} {ours.constants}, which Keras cannot represent; it has {known}")
