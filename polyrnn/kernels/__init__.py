"""Optional recurrences, each written for one library and equal to the reference, used where they are faster.

A kernel runs a whole sequence of one cell, forward and back. It is registered here by backend and cell; nothing else
in the library knows of it. The reference (`polyrnn.recurrence`) runs wherever there is none, and whenever kernels are
switched off by `use_kernels(False)` or by the environment variable POLYRNN_KERNELS=off.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import importlib.util
import os
import warnings
from typing import Any, NamedTuple, Protocol

from .._door import check_size
from ..backends import Backend
from ..cells import Cell, GRUCell, LSTMCell, RNNCell
from . import _threads

__all__ = [
    "Kernel",
    "KernelStatus",
    "find",
    "kernel_statuses",
    "kernels_in_use",
    "registered",
    "use_kernels",
]


class Kernel(Protocol):
    """What a kernel gives: the recurrence of one cell; its residuals are those of the reference, stacked over time.

    It may also have once(cell, params, x, state) -> state, one step of streaming, for those x (I, N) of which
    supports_step(x) is true.
    """

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


class _Source(NamedTuple):
    """Kernels of one kind: where they are, and what they need."""

    backend: str
    module: str  # of this package; it has a class of each cell's name without "Cell", and is imported at first use
    package: str  # that must be installed
    remedy: str
    scope: str  # what it is used for


# By name, the preferred ones of a backend first.
_SOURCES: dict[str, _Source] = {
    "numpy numba": _Source(
        "numpy",
        "_numba",
        "numba",
        "pip install 'polyrnn[fast]'",
        "float32 and float64, two steps or more; all threads",
    ),
    "numpy in-place": _Source(
        "numpy",
        "_numpy",
        "numpy",
        "pip install numpy",
        "float32 and float64, four steps or more, and streaming step by step; one thread, and BLAS's",
    ),
    "cupy fused": _Source(
        "cupy",
        "_cupy",
        "cupy",
        "pip install 'cupy-cuda13x[ctk]', or 'cupy-cuda12x[ctk]'",
        "float32 and float64; a product and a launch a time step",
    ),
}
_CELLS: dict[type[Cell], str] = {RNNCell: "RNN", LSTMCell: "LSTM", GRUCell: "GRU"}
_switch: contextvars.ContextVar[bool | str | None] = contextvars.ContextVar("polyrnn_kernels", default=None)


@functools.cache
def _open(name: str, cell: Any) -> Any:
    return getattr(importlib.import_module(f".{_SOURCES[name].module}", __package__), _CELLS[cell])()


_declined: dict[str, str] = {}  # kernels whose packages turned out not to run here, with the reason


def decline(name: str, reason: str) -> None:
    """Leave a kernel out from here on; the next one, or the reference, runs in its place."""
    _declined[name] = reason
    _candidates.cache_clear()
    warnings.warn(f"kernels {name!r} are not used: {reason}", RuntimeWarning, stacklevel=2)


@functools.cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None  # found, not imported


def registered(backend: str) -> tuple[str, ...]:
    """The names of a backend's kernels whose packages are installed and run, the preferred first."""
    found = (name for name, source in _SOURCES.items() if source.backend == backend and _installed(source.package))
    return tuple(name for name in found if name not in _declined)


def _chosen() -> bool | str:
    """True, False, or the name of the one kernel that may run."""
    chosen = _switch.get()
    if chosen is not None:
        return chosen
    value = os.environ.get("POLYRNN_KERNELS", "")
    if value in _SOURCES:
        return value
    if value.lower() not in ("", "on", "1", "off", "0"):
        known = ", ".join(map(repr, ("on", "off", *_SOURCES)))
        raise ValueError(f"POLYRNN_KERNELS={value!r}: expected one of {known}")
    return value.lower() not in ("off", "0")


@functools.cache
def _candidates(backend: str, chosen: bool | str) -> tuple[str, ...]:
    return tuple(name for name in registered(backend) if chosen in (True, name))


def find(backend: Backend, cell: Cell, x: Any, valid: Any) -> Kernel | None:
    """The kernel for this recurrence, or None where the reference is to run."""
    kind: Any = type(cell)
    if kind in _CELLS:
        for name in _candidates(backend.name, _chosen()):
            kernel = _open(name, kind)
            if kernel.supports(x, valid):
                return kernel
    return None


def find_step(backend: Backend, cell: Cell, x: Any) -> Any:
    """A kernel's `once`, which does one step of streaming, or None where the reference is to run; x is (N, I)."""
    kind: Any = type(cell)
    if kind in _CELLS:
        for name in _candidates(backend.name, _chosen()):
            kernel = _open(name, kind)
            if hasattr(kernel, "once") and kernel.supports_step(x):
                return kernel.once
    return None


def kernels_in_use() -> dict[str, str]:
    """Which kernels are used, by backend and cell; empty when they are switched off.

    Where there are several, the one that is preferred; the next one takes what it declines.

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
    chosen = _chosen()
    backends = dict.fromkeys(source.backend for source in _SOURCES.values())
    names = {backend: _candidates(backend, chosen) for backend in backends}
    return {f"{backend} {cell}": found[0] for backend, found in names.items() if found for cell in _CELLS.values()}


class KernelStatus(NamedTuple):
    """Whether a kind of kernel is used here, and why.

    Attributes
    ----------
    name, backend : str
        The kernel's name and the backend whose recurrences it runs.
    used : bool
        Whether it runs where it applies.
    why : str
        What it is used for, or why it is not used.
    remedy : str or None
        What would mend that.
    """

    name: str
    backend: str
    used: bool
    why: str
    remedy: str | None = None


def kernel_statuses() -> list[KernelStatus]:
    """Every kind of kernel that there is, the preferred ones of a backend first, with why it is used here or not."""
    chosen, found = _chosen(), []
    for name, source in _SOURCES.items():
        if not _installed(source.package):
            status = KernelStatus(name, source.backend, False, f"{source.package} is not installed", source.remedy)
        elif name in _declined:
            status = KernelStatus(name, source.backend, False, _declined[name], source.remedy)
        elif chosen is not True and chosen != name:
            word = "kernels are switched off" if chosen is False else f"only {chosen!r} is switched on"
            status = KernelStatus(name, source.backend, False, word, "POLYRNN_KERNELS=on, or use_kernels(True)")
        else:
            status = KernelStatus(name, source.backend, True, source.scope)
        found.append(status)
    return found


class use_kernels:
    """Switch kernels on or off, for this thread or task alone: from here on, or within a `with` block.

    Parameters
    ----------
    on : bool or str, optional
        By default as it was. False: the reference runs. True: kernels run even where POLYRNN_KERNELS says off. A
        kernel's name, as `kernels_in_use` gives it: that one alone runs, where it applies.
    threads : int, optional
        How many threads compiled kernels may use; by default as it was, and at first POLYRNN_NUM_THREADS, else one for
        each processor that this process may use, at most OMP_NUM_THREADS. Results are the same to the last bit with
        any number.

    Raises
    ------
    ValueError
        If there is no kernel of that name, or `threads` is below 1.

    Examples
    --------
    >>> import polyrnn as pr
    >>> with pr.use_kernels(False):
    ...     y, h = pr.RNN(3, 5)(pr.RNN(3, 5).init(), pr.backend("numpy").asarray([[[1.0, 2.0, 3.0]]], dtype="float32"))
    >>> y.shape
    (1, 1, 5)
    """

    def __init__(self, on: bool | str | None = None, threads: int | None = None) -> None:
        if isinstance(on, str) and on not in _SOURCES:
            raise ValueError(f"use_kernels({on!r}): expected True, False or one of {', '.join(map(repr, _SOURCES))}")
        if threads is not None:
            check_size("threads", threads)
        self._token = _switch.set(_switch.get() if on is None else on if isinstance(on, str) else bool(on))
        self._threads = _threads.set_threads(_threads.chosen() if threads is None else threads)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        _switch.reset(self._token)
        _threads.reset_threads(self._threads)
