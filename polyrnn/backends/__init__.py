"""The seam: the only place of the core that names an array library."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from . import _cupy, _jax, _numpy
from ._eager import Backend
from ._tree import leaves, tree_map

__all__ = [
    "Availability",
    "Backend",
    "BackendUnavailable",
    "available_backends",
    "backend",
    "backend_of",
    "leaves",
    "tree_map",
]


class BackendUnavailable(RuntimeError):
    """A backend that was asked for cannot run here; the message says why and what to do."""


class Availability(NamedTuple):
    """Whether a backend can run on this machine.

    Attributes
    ----------
    name : str
        The backend.
    available : bool
        Whether it can run here, found by trying.
    version : str or None
        The library's version.
    devices : tuple of str
        What it can run on.
    reason, remedy : str or None
        Why it cannot run, and the command or step that would mend it.
    """

    name: str
    available: bool
    version: str | None = None
    devices: tuple[str, ...] = ()
    reason: str | None = None
    remedy: str | None = None


class _Entry(NamedTuple):
    """A line of the registry."""

    package: str
    roots: tuple[str, ...]  # top-level modules in which the library's array types are defined
    accepts: Callable[[type], bool]
    open: Callable[[Any], Backend]
    describe: Callable[[], tuple[str, tuple[str, ...]]]
    remedy: str


def _standard(package: str, namespace: str, kind: str, remedy: str) -> _Entry:
    """The entry of an eager library that follows the standard: nothing more is needed for one."""

    def describe() -> tuple[str, tuple[str, ...]]:
        return importlib.import_module(package).__version__, ("cpu",)

    def open_backend(device: Any) -> Backend:
        xp = importlib.import_module(namespace)
        try:
            xp.empty(0, device=device)
        except Exception as error:
            raise ValueError(f"device={device!r}: {package} has no such device ({error})") from error
        return Backend(package, xp, device)

    return _Entry(package, (package,), lambda t: t.__name__ in (kind, "Parameter"), open_backend, describe, remedy)


_REGISTRY = {
    "numpy": _Entry("numpy", _numpy.ROOTS, _numpy.accepts, _numpy.open_backend, _numpy.describe, _numpy.REMEDY),
    "cupy": _Entry("cupy", _cupy.ROOTS, _cupy.accepts, _cupy.open_backend, _cupy.describe, _cupy.REMEDY),
    "jax": _Entry("jax", _jax.ROOTS, _jax.accepts, _jax.open_backend, _jax.describe, _jax.REMEDY),
    "torch": _standard("torch", "array_api_compat.torch", "Tensor", "pip install torch"),
    "array_api_strict": _standard("array_api_strict", "array_api_strict", "Array", "pip install array-api-strict"),
}
_OPEN: dict[tuple[str, Any], Backend] = {}
_BY_TYPE: dict[type, Backend] = {}  # filled as types are met: a look-up costs one dict access a leaf


def backend(name: str | None = None, device: Any = None) -> Backend:
    """The backend of that name.

    Parameters
    ----------
    name : str, optional
        "numpy", "cupy", "jax", "torch" or "array_api_strict"; by default the environment variable
        `POLYRNN_BACKEND`, else "numpy".
    device : str or object, optional
        Such as "cuda:1" (CuPy), "cpu:0" (JAX); by default the library's own choice.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        If the name or the device is unknown.
    BackendUnavailable
        If it cannot run here; the message says why and what to do.

    Examples
    --------
    >>> import polyrnn as pr
    >>> pr.backend("numpy").asarray([1.0, 2.0])
    array([1., 2.])
    """
    source = "name"
    if name is None:
        name = os.environ.get("POLYRNN_BACKEND") or "numpy"
        source = "POLYRNN_BACKEND" if "POLYRNN_BACKEND" in os.environ else source
    if isinstance(name, Backend):
        if device is None or str(device) == str(name.device):
            return name
        name = name.name
    if name not in _REGISTRY:
        raise ValueError(f"{source}={name!r}: no such backend; expected one of {', '.join(_REGISTRY)}")
    key = (name, str(device) if device is not None else None)
    if key not in _OPEN:
        reason, remedy = _why_not(name)
        if reason is None:
            try:
                _OPEN[key] = _REGISTRY[name].open(device)
            except (ImportError, RuntimeError) as error:
                reason, remedy = _reason(name, error)
        if reason is not None:
            raise BackendUnavailable(f"backend {name!r} cannot run here: {reason}. To mend it: {remedy}")
    return _OPEN[key]


def backend_of(tree: Any, name: str = "the arguments") -> Backend:
    """The backend that all arrays of a tree belong to.

    Parameters
    ----------
    tree : array, or dict or tuple of arrays
        None counts for nothing.
    name : str
        What to call it in an error.

    Raises
    ------
    TypeError
        If there is no array, something that is not an array, or arrays of two backends or devices.

    Examples
    --------
    >>> import numpy, polyrnn as pr
    >>> pr.backend_of({"x": numpy.zeros(3)})
    Backend('numpy')
    """
    arrays = leaves(tree)
    found = None
    kinds = dict.fromkeys(map(type, arrays))  # in order, so that an error always names the same one first
    for kind in kinds:
        this = _BY_TYPE.get(kind) or _recognise(next(a for a in arrays if type(a) is kind), name)
        if found is None:
            found = this
        elif this is not found:
            raise TypeError(
                f"{name}: arrays of {found.name} and of {this.name} are mixed; "
                f"move them to one backend, as in polyrnn.backend({found.name!r}).asarray(...)"
            )
    if found is None:
        raise TypeError(f"{name}: expected at least one array")
    found.check_device(arrays)
    return found


def available_backends() -> dict[str, Availability]:
    """For each backend whether it can run on this machine, or why not and what would mend it.

    Returns
    -------
    dict of str to Availability

    Examples
    --------
    >>> import polyrnn as pr
    >>> pr.available_backends()["numpy"].available
    True
    """
    return {name: _availability(name) for name in _REGISTRY}


def _availability(name: str) -> Availability:
    reason, remedy = _why_not(name)
    if reason is None:
        try:
            version, devices = _REGISTRY[name].describe()
            return Availability(name, True, version, devices)
        except (ImportError, RuntimeError) as error:
            reason, remedy = _reason(name, error)
    return Availability(name, False, reason=reason, remedy=remedy)


def _why_not(name: str) -> tuple[str | None, str | None]:
    entry = _REGISTRY[name]
    if importlib.util.find_spec(entry.package) is None:
        return f"{entry.package} is not installed", entry.remedy
    return None, None


def _reason(name: str, error: Exception) -> tuple[str, str]:
    reason, _, remedy = str(error).partition("|")
    first = next((line.strip() for line in reason.splitlines() if line.strip(" =-")), type(error).__name__)
    return first, remedy or _REGISTRY[name].remedy


def _recognise(array: Any, name: str) -> Backend:
    kind = type(array)
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        for library, entry in _REGISTRY.items():
            if root in entry.roots and entry.accepts(kind):
                _BY_TYPE[kind] = found = backend(library)
                return found
    expected = "an array of numpy, cupy, jax, torch or array_api_strict"
    hint = "; numpy.asarray makes one of it" if kind in (list, float, int) else ""
    raise TypeError(f"{name}: {kind.__module__}.{kind.__qualname__} where {expected} is expected{hint}")
