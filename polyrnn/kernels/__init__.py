"""Optional recurrences, each written for one library and equal to the reference, used where they are faster.

A kernel runs a whole sequence of one cell, forward and back. It is registered here by backend and cell; nothing else
in the library knows of it. The reference (`polyrnn.recurrence`) runs wherever there is none, and whenever kernels are
switched off by `use_kernels(False)` or by the environment variable POLYRNN_KERNELS=off.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import os
from typing import Any, Protocol

from ..backends import Backend
from ..cells import Cell, GRUCell, LSTMCell, RNNCell

__all__ = ["Kernel", "find", "kernels_in_use", "use_kernels"]


class Kernel(Protocol):
    """What a kernel gives: the recurrence of one cell; its residuals are those of the reference, stacked over time."""

    name: str

    def supports(self, x: Any, valid: Any) -> bool:
        """Whether it can run on this input."""

    def forward(
        self, cell: Any, params: dict, x: Any, state: tuple, valid: Any, size: int, keep: bool
    ) -> tuple[Any, tuple, Any]:
        """From x (T, I, N), in blocks of `size` steps: y (T, H, N), the final state, the residuals if `keep`."""

    def backward(
        self,
        cell: Any,
        params: dict,
        x: Any,
        valid: Any,
        residuals: Any,
        dy: tuple,
        dstate: tuple,
        size: int,
        sums: dict,
    ) -> tuple[dict, Any, tuple]:
        """From what `forward` kept: `sums` with the parameters' gradients added, those of x, of the initial state."""


# backend, cell -> the module of this package and the name in it
_REGISTRY: dict[tuple[str, type[Cell]], tuple[str, str]] = {
    ("numpy", RNNCell): ("_numpy", "RNN"),
    ("numpy", LSTMCell): ("_numpy", "LSTM"),
    ("numpy", GRUCell): ("_numpy", "GRU"),
}
_switch: contextvars.ContextVar[bool | None] = contextvars.ContextVar("polyrnn_kernels", default=None)


@functools.cache
def _open(module: str, name: str) -> Kernel:
    return getattr(importlib.import_module(f".{module}", __package__), name)()


def _load(backend: str, cell: type[Cell]) -> Kernel | None:
    entry = _REGISTRY.get((backend, cell))
    return None if entry is None else _open(*entry)


def _on() -> bool:
    chosen = _switch.get()
    if chosen is not None:
        return chosen
    value = os.environ.get("POLYRNN_KERNELS", "")
    if value.lower() not in ("", "on", "1", "off", "0"):
        raise ValueError(f"POLYRNN_KERNELS={value!r}: expected 'on' or 'off'")
    return value.lower() not in ("off", "0")


def find(backend: Backend, cell: Cell, x: Any, valid: Any) -> Kernel | None:
    """The kernel for this recurrence, or None where the reference is to run."""
    kernel = _load(backend.name, type(cell)) if _on() else None
    return kernel if kernel and kernel.supports(x, valid) else None


def kernels_in_use() -> dict[str, str]:
    """Which kernels are used, by backend and cell; empty when they are switched off.

    Returns
    -------
    dict of str to str
        Such as {"numpy LSTM": "numpy in-place"}.

    Examples
    --------
    >>> import polyrnn as pr
    >>> with pr.use_kernels(False):
    ...     pr.kernels_in_use()
    {}
    """
    if not _on():
        return {}
    return {
        f"{name} {cell.__name__.removesuffix('Cell')}": _open(*entry).name for (name, cell), entry in _REGISTRY.items()
    }


class use_kernels:
    """Switch kernels on or off, for this thread or task alone: from here on, or within a `with` block.

    Parameters
    ----------
    on : bool
        False: the reference runs. True: kernels run even where POLYRNN_KERNELS says off.

    Examples
    --------
    >>> import polyrnn as pr
    >>> with pr.use_kernels(False):
    ...     y, h = pr.RNN(3, 5)(pr.RNN(3, 5).init(), pr.backend("numpy").asarray([[[1.0, 2.0, 3.0]]], dtype="float32"))
    >>> y.shape
    (1, 1, 5)
    """

    def __init__(self, on: bool) -> None:
        self._token = _switch.set(bool(on))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        _switch.reset(self._token)
