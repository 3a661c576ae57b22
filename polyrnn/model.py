"""A module with its parameters, in one piece: predicts, and goes into a file and out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from . import checkpoint
from ._door import check_params, check_size
from ._module import Module
from .backends import Backend, backend_of, leaves, tree_map
from .backends import backend as open_backend
from .layers import GRU, LSTM, RNN
from .modules import Dropout, Embedding, Linear, Sequential
from .pooling import Pool

__all__ = ["Model", "Prediction", "build", "describe"]

MODULES: dict[str, type[Module]] = {of.__name__: of for of in (RNN, LSTM, GRU, Embedding, Linear, Dropout, Pool)}
DEEPEST = 32  # Sequential in Sequential


def describe(module: Module) -> dict[str, Any]:
    """A module in values that JSON can hold: its type, and its options where they are not the defaults.

    Parameters
    ----------
    module : Module
        One of polyrnn's own. An `initializer` that is no name is left out: it draws parameters, and has no part in
        what is computed from them.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        For a module of another type.

    Examples
    --------
    >>> import polyrnn as pr
    >>> describe(pr.Sequential(lstm=pr.LSTM(3, 5, bidirectional=True), head=pr.Linear(10, 2)))
    {'type': 'Sequential', 'members': [['lstm', {'type': 'LSTM', 'input_size': 3, 'hidden_size': 5,
     'bidirectional': True}], ['head', {'type': 'Linear', 'in_features': 10, 'out_features': 2}]]}
    """
    if type(module) is Sequential:
        return {"type": "Sequential", "members": [[name, describe(member)] for name, member in module.members]}
    if MODULES.get(type(module).__name__) is not type(module):
        raise TypeError(f"{module!r}: expected one of {', '.join(MODULES)} or Sequential")
    found: dict[str, Any] = {"type": type(module).__name__}
    for field in dataclasses.fields(module):  # type: ignore[arg-type]
        value = getattr(module, field.name)
        if value != field.default and not (field.name == "initializer" and not isinstance(value, str)):
            found[field.name] = value.item() if isinstance(value, np.generic) else value
    return found


def build(description: Any) -> Module:
    """The module that `describe` described.

    Parameters
    ----------
    description : dict

    Returns
    -------
    Module

    Raises
    ------
    ValueError, TypeError
        If it describes none.

    Examples
    --------
    >>> build({"type": "GRU", "input_size": 3, "hidden_size": 5})
    GRU(input_size=3, hidden_size=5, ...)
    """
    return _build(description, "model", 0)


def _build(description: Any, where: str, depth: int) -> Module:
    if not isinstance(description, dict) or not isinstance(description.get("type"), str):
        raise ValueError(f"{where}: {description!r:.100}; expected a dict with a type")
    options = {name: _tuples(value) for name, value in description.items() if name != "type"}
    kind = description["type"]
    if kind == "Sequential":
        members = options.get("members")
        if options.keys() != {"members"} or not isinstance(members, tuple) or depth >= DEEPEST:
            raise ValueError(f"{where}: expected members, and no more than {DEEPEST} Sequentials in one another")
        for member in members:
            if not isinstance(member, tuple) or len(member) != 2 or not isinstance(member[0], str):
                raise ValueError(f"{where}: {member!r:.100}; expected a name and a description")
        named = {name: _build(inner, f"{where}.{name}", depth + 1) for name, inner in members}
        if len(named) != len(members):
            raise ValueError(f"{where}: two members of one name")
        return Sequential(**named)
    if kind not in MODULES:
        raise ValueError(f"{where}: type {kind!r:.60}; expected one of {', '.join(MODULES)} or Sequential")
    known = {field.name for field in dataclasses.fields(MODULES[kind])}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"{where}: {kind} has no option {unknown[0]!r:.60}; it has {', '.join(sorted(known))}")
    try:
        return MODULES[kind](**options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {kind}: {error}") from None


def _tuples(value: Any) -> Any:
    """JSON has no tuples, and options no lists."""
    return tuple([_tuples(item) for item in value]) if isinstance(value, list) else value


def check_fit(module: Module, params: dict[str, np.ndarray]) -> None:
    """ValueError or TypeError unless these are the module's parameters; `shapes` is not asked of more than they are."""
    if _levels(module) > len(params):
        raise ValueError(f"it has {_levels(module):,} recurrent layers, and there are {len(params)} arrays")
    shapes, found = module.shapes(), {name: tuple(array.shape) for name, array in params.items()}
    for name in (*shapes, *found):
        if shapes.get(name) != found.get(name):
            was, should = (f"shape {of[name]}" if name in of else "no such array" for of in (found, shapes))
            raise ValueError(f"{name}: {was}; expected {should}")
    check_params(params, shapes, type(module).__name__)


def _levels(module: Any) -> int:
    return getattr(module, "num_layers", 0) + sum(_levels(member) for _, member in getattr(module, "members", ()))


class Prediction(NamedTuple):
    """What `Model.predict` returns.

    Attributes
    ----------
    y : NumPy array
        The outputs.
    state : NumPy array, tuple or None
        The final state, of the module's form.
    """

    y: np.ndarray
    state: Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A module and its parameters.

    Parameters
    ----------
    module : Module
        Such as an LSTM, or a Sequential.
    params : dict of str to array
        Of any backend; read, never written.
    config : dict
        More that belongs to it, such as a vocabulary, in values that JSON can hold.

    Notes
    -----
    The file is a safetensors file. Its metadata hold "format": "polyrnn", "version": "1", and "config", a JSON object
    in which "model" is what `describe` returns; its tensors have the parameters' names. All other entries of the
    object are `config`. Read by any safetensors library, it is a dict of arrays by PyTorch's names.

    Examples
    --------
    >>> import tempfile, numpy as np, polyrnn as pr
    >>> lstm = pr.LSTM(3, 5)
    >>> model = pr.Model(lstm, lstm.init(seed=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder + "/model.safetensors")
    ...     again = pr.Model.load(folder + "/model.safetensors")
    ...     y, (h, c) = again.predict(np.ones((7, 4, 3), dtype="float32"), batch_size=2)
    >>> y.shape, h.shape
    ((7, 4, 5), (1, 4, 5))
    """

    module: Module
    params: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file: whole, or not at all.

        Raises
        ------
        OSError, TypeError, ValueError
            If the file cannot be written, or the module cannot be described.
        """
        if "model" in self.config:
            raise ValueError("config: the entry 'model' is the module's description, and written by save")
        checkpoint.save(path, self.params, {"model": describe(self.module), **self.config})

    @classmethod
    def load(cls, path: str | PathLike[str], backend: Any = None) -> Model:
        """Read it from a file.

        Parameters
        ----------
        path : str or path
            What `save` or `polyrnn train` wrote.
        backend : str or Backend, optional
            Where the parameters go; by default POLYRNN_BACKEND, else NumPy, where they are read-only views of the
            mapped file, and not copied.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is no such file, or damaged, or its parameters are not those of its module.
        """
        params, config = checkpoint.load(path, mapped=True)
        try:
            if "model" not in config:
                raise ValueError("its configuration has no entry 'model'")
            module = build(config["model"])
            check_fit(module, params)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
        chosen = open_backend(backend)
        rest = {name: value for name, value in config.items() if name != "model"}
        return cls(module, chosen.asarray(params), rest)

    def predict(
        self,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Prediction:
        """The outputs for x, a batch of sequences after the other, on the backend of the parameters.

        Parameters
        ----------
        x : array (T, N, ...), with `batch_first` (N, T, ...)
            What the module takes, of any size N that fits into the memory of the host.
        state : array or tuple, optional
            The initial state, of the module's form.
        lengths : array of integers (N,) or mask (T, N), optional
            As the module takes them.
        batch_size : int, optional
            How many sequences run at once; all of them by default.
        progress : function, optional
            Called as progress(done, N) after each batch.

        Returns
        -------
        Prediction
            `y` and the final `state`, on the host.

        Raises
        ------
        ValueError, TypeError
            As the module raises them.
        """
        backend = backend_of(self.params, "params") if self.params else open_backend(None)
        module, x = self.module, np.asarray(x)
        at = 0 if module.batch_first else 1
        several = x.ndim > (1 if x.dtype.kind in "iu" else 2)  # ids, or vectors; else it is one sequence
        if batch_size is None or module.ensemble or not several:
            y, after = module(self.params, *_moved(backend, (x, state, lengths)))
            found = Prediction(backend.to_numpy(y), _host(backend, after))
            if progress is not None:
                progress(*[x.shape[at] if several else 1] * 2)
            return found
        parts = []
        total = x.shape[at]
        own_lengths = None if lengths is None else np.asarray(lengths)
        _check_batch(total, own_lengths, at, state)
        for first, last in _batches(total, batch_size):
            here = slice(first, last)
            own = own_lengths
            own = None if own is None else own[here] if own.ndim == 1 or at == 0 else own[:, here]
            before = tree_map(lambda part, here=here: part[:, here, ...], state)
            y, after = module(self.params, *_moved(backend, (x[(slice(None),) * at + (here,)], before, own)))
            parts.append((backend.to_numpy(y), _host(backend, after)))
            if progress is not None:
                progress(last, total)
        join = 0 if module.pools else at
        y = np.concatenate([y for y, _ in parts], axis=join)
        flat = [leaves(after) for _, after in parts]
        joined = iter([np.concatenate(arrays, axis=1) for arrays in zip(*flat, strict=True)])
        return Prediction(y, tree_map(lambda part: next(joined), parts[0][1]))


def _batches(total: int, size: int) -> Iterator[tuple[int, int]]:
    check_size("batch_size", size)
    for first in range(0, max(total, 1), size):
        yield first, min(first + size, total)


def _check_batch(total: int, lengths: Any, at: int, state: Any) -> None:
    """ValueError unless lengths, or a mask, and the parts of a state are those of so many sequences."""
    if lengths is not None and (lengths.ndim not in (1, 2) or lengths.shape[at if lengths.ndim == 2 else 0] != total):
        raise ValueError(f"lengths has shape {lengths.shape}; expected ({total},) = (N,), or a mask of x's steps")
    for part in leaves(state):
        shape = tuple(getattr(part, "shape", ()))
        if len(shape) != 3 or shape[1] != total:
            found = f"has a part of shape {shape}" if hasattr(part, "shape") else f"has a {type(part).__name__}"
            raise ValueError(f"state {found}; expected arrays (L*D, {total}, H) = (L*D, N, H)")


def _moved(backend: Backend, tree: Any) -> Any:
    return tree_map(backend.asarray, tree)


def _host(backend: Backend, tree: Any) -> Any:
    return tree_map(backend.to_numpy, tree)
