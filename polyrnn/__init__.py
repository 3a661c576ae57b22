"""Recurrent networks whose mathematics is written once, and runs unchanged on NumPy, CuPy and JAX.

Layers `RNN`, `LSTM`, `GRU` with hand-written backward passes; the textbook functions `rnn_forward` ...
`lstm_backward`; and around them modules, losses, optimisers and a gradient checker. See the README.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._module import Gradients, Module
from ._recurrent import Recurrent
from .backends import Availability, Backend, BackendUnavailable, available_backends, backend, backend_of
from .kernels import kernels_in_use, use_kernels
from .layers import GRU, LSTM, RNN
from .modules import Dropout, Embedding, Linear, Sequential

if TYPE_CHECKING:
    from .checkpoint import load, save
    from .clipping import clip_by_global_norm, global_norm
    from .functional import (
        gru_backward,
        gru_cell_backward,
        gru_cell_forward,
        gru_forward,
        lstm_backward,
        lstm_cell_backward,
        lstm_cell_forward,
        lstm_forward,
        rnn_backward,
        rnn_cell_backward,
        rnn_cell_forward,
        rnn_forward,
        sigmoid,
        softmax,
    )
    from .losses import Loss, mean_squared_error, softmax_cross_entropy
    from .model import Model
    from .optimizers import SGD, Adam, AdamW, RMSProp, apply_updates
    from .pooling import Pool
    from .schedules import Constant, CosineDecay, ExponentialDecay, LinearWarmup, StepDecay
    from .training import train_step, value_and_grad
    from .truncated import pieces, truncated_value_and_grad

__version__ = "0.1.0"

# Imported when first named: `import polyrnn` stays light.
_PUBLIC_MODULES = ("cells", "functional", "gradcheck", "initializers", "interop", "testing")
_NAMES = {
    "checkpoint": ("load", "save"),
    "clipping": ("clip_by_global_norm", "global_norm"),
    "functional": (
        *(f"{cell}_{part}" for cell in ("rnn", "lstm", "gru") for part in ("forward", "backward")),
        *(f"{cell}_cell_{part}" for cell in ("rnn", "lstm", "gru") for part in ("forward", "backward")),
        "sigmoid",
        "softmax",
    ),
    "model": ("Model",),
    "losses": ("Loss", "mean_squared_error", "softmax_cross_entropy"),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSProp", "apply_updates"),
    "pooling": ("Pool",),
    "schedules": ("Constant", "CosineDecay", "ExponentialDecay", "LinearWarmup", "StepDecay"),
    "training": ("train_step", "value_and_grad"),
    "truncated": ("pieces", "truncated_value_and_grad"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "Availability",
    "Backend",
    "BackendUnavailable",
    "Constant",
    "CosineDecay",
    "Dropout",
    "Embedding",
    "ExponentialDecay",
    "Gradients",
    "Linear",
    "LinearWarmup",
    "Loss",
    "Model",
    "Module",
    "Pool",
    "RMSProp",
    "Recurrent",
    "Sequential",
    "StepDecay",
    "apply_updates",
    "available_backends",
    "backend",
    "backend_of",
    "clip_by_global_norm",
    "global_norm",
    "gru_backward",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_forward",
    "kernels_in_use",
    "load",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "mean_squared_error",
    "pieces",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "save",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "train_step",
    "truncated_value_and_grad",
    "use_kernels",
    "value_and_grad",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value  # the next time it is found without coming here
        return value
    raise AttributeError(f"module 'polyrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_PUBLIC_MODULES, "__version__"]
