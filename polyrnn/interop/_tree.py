"""Trees of arrays, nested dicts or live modules of JAX' libraries: walked, checked, and made of recurrences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ._converted import (
    KINDS,
    Converted,
    check_finite,
    checked,
    of_recurrence,
    suffixes,
)


def children(node: Any) -> dict[str, Any] | None:
    """What a node of a tree holds by name, without what is None; None if it is no node but a leaf.

    Nodes are mappings, sequences, and live modules of Flax or Equinox, which hold arrays and nodes among other things.
    """
    if isinstance(node, Mapping):
        return {str(key): value for key, value in node.items() if value is not None}
    if isinstance(node, (list, tuple)):
        return {str(k): value for k, value in enumerate(node) if value is not None}
    if is_module(node):
        return {key: value for key, value in vars(node).items() if key[0] != "_" and (is_array(value) or nests(value))}
    return None


def is_array(value: Any) -> bool:
    """Whether it is like an array; the type np.float32, which modules hold, is not."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type)


def nests(value: Any) -> bool:
    """Whether it is a node."""
    return isinstance(value, (Mapping, list, tuple)) or is_module(value)


def is_module(value: Any) -> bool:
    """Whether it is a live module of Flax or Equinox, which need not be imported to say that."""
    return not is_array(value) and any(
        base.__name__ in ("Module", "Pytree") and base.__module__.partition(".")[0] in ("flax", "equinox")
        for base in type(value).__mro__
    )


def nodes(source: Any, path: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All nodes of a tree by their paths, "encoder.cell"; one that holds itself is met once.

    Raises
    ------
    TypeError
        If it is no tree.
    """
    inside = children(source)
    if inside is None:
        if not path:
            raise TypeError(f"source is {type(source).__name__}; expected nested dicts of arrays, or a live module")
        return
    if id(source) in above:
        return
    yield path, source
    for name, child in inside.items():
        if nests(child):
            yield from nodes(child, at(path, name), (*above, id(source)))


def holding(source: Any, is_cell: Callable[[Any], bool]) -> dict[str, tuple[str, Any]]:
    """The nodes that are cells, each with its path, by their paths."""
    return {path: (path, node) for path, node in nodes(source) if is_cell(node)}


def at(path: str, name: str) -> str:
    """The path of what a node holds."""
    return f"{path}.{name}" if path else name


def exactly(found: Iterable[str], expected: Iterable[str], path: str, what: str) -> None:
    """ValueError unless the names are those expected."""
    there, wanted = set(found), set(expected)
    missing, extra = sorted(wanted - there), sorted(there - wanted)
    if missing or extra:
        words = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)} beside"] * bool(extra)
        raise ValueError(f"{path or 'the tree'}: {what} {' and '.join(words)}; expected {', '.join(sorted(wanted))}")


def array(value: Any, path: str, shape: tuple[int | None, ...], allow_nan: bool) -> np.ndarray:
    """A leaf as an array of its own on the host, of float16, float32 or float64; bfloat16 becomes float32, exactly.

    Raises
    ------
    ValueError
        If it is none, or of another shape (None stands for any length), or not finite.
    """
    try:
        found = np.array(value)
    except (TypeError, ValueError) as error:  # ragged lists; what is traced, or on a device
        raise ValueError(f"{path} is {type(value).__name__}, which makes no array: {error}") from error
    if found.dtype.name == "bfloat16":
        found = found.astype(np.float32)
    if found.dtype.name not in ("float16", "float32", "float64"):
        raise ValueError(f"{path} is {type(value).__name__} of {found.dtype}; expected an array of float32 or such")
    if found.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape) + "," * (len(shape) == 1)
        raise ValueError(f"{path} has shape {found.shape}; expected ({expected})")
    if not allow_nan:
        check_finite(path, found)
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def one_dtype(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError unless all have the same."""
    if len({a.dtype for a in arrays.values()}) > 1:
        dtypes = ", ".join(f"{name} {a.dtype}" for name, a in arrays.items())
        raise ValueError(f"{path or 'the tree'}: arrays of different dtypes, {dtypes}; expected one")


def one(path: str, kind: str, arrays: dict[str, np.ndarray], **options: Any) -> Converted:
    """A layer of one recurrence, of its arrays by polyrnn's names without "_l0"; an absent bias_hh is zero."""
    one_dtype(path, arrays)
    if "bias_ih" in arrays:
        arrays = {**arrays, "bias_hh": arrays.get("bias_hh", np.zeros_like(arrays["bias_ih"]))}
    sizes = arrays["weight_ih"].shape[1], arrays["weight_hh"].shape[1]
    layer = KINDS[kind](*sizes, bias="bias_ih" in arrays, **options)
    return Converted(layer, {f"{name}_l0": np.ascontiguousarray(a) for name, a in arrays.items()})


def each(layer: Any, params: Any, write: Callable[[dict[str, np.ndarray]], Any], allow_nan: bool) -> Any:
    """What `write` makes of each recurrence's arrays, by "l0", "l0_reverse", "l1"...; of the only one alone.

    It is given them by polyrnn's names without "_l0"; biases that there are not are zeros.
    """
    host = {name: array(a, name, a.shape, allow_nan) for name, a in checked(layer, params).items()}
    trees = {}
    for suffix in suffixes(layer):
        own = of_recurrence(host, suffix)
        zero = np.zeros_like(own["weight_hh"][:, 0])
        trees[suffix[1:]] = write({"bias_ih": zero, "bias_hh": zero, **own})
    return trees if len(trees) > 1 else trees["l0"]


def join(cells: Iterable[Converted], bidirectional: bool = False) -> Converted:
    """Several recurrences as the layers, and directions, of one.

    Parameters
    ----------
    cells : iterable of Converted
        Layers of one recurrence, in the order of `dump`: the lowest first, each followed by that of the other direction
        if `bidirectional`.
    bidirectional : bool
        Whether every second one runs from the end.

    Returns
    -------
    Converted

    Raises
    ------
    ValueError
        If they do not fit one above the other, or differ in more than the number of inputs.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.interop import flax
    >>> gru = pr.GRU(3, 5, num_layers=2)
    >>> params = gru.init(seed=0)
    >>> tree = flax.dump(gru, params, api="linen")
    >>> flax.join(flax.find(tree).values()).layer == gru
    True
    """
    given = list(cells)
    ways = 2 if bidirectional else 1
    if not given or len(given) % ways:
        raise ValueError(f"{len(given)} recurrences do not make layers of {ways} direction{'s' * (ways - 1)}")
    first = given[0].layer
    layer = dataclasses.replace(first, num_layers=len(given) // ways, bidirectional=bool(bidirectional))
    params: dict[str, np.ndarray] = {}
    for suffix, cell in zip(suffixes(layer), given, strict=True):
        alone = cell.layer.num_layers == 1 and not cell.layer.bidirectional
        if not alone or type(cell.layer) is not type(first):
            raise ValueError(f"{cell.layer!r} as {suffix[1:]}: expected one {type(first).__name__} of one recurrence")
        if dataclasses.replace(cell.layer, input_size=first.input_size) != first:
            raise ValueError(f"{cell.layer!r} as {suffix[1:]}: expected the options of {first!r}")
        params |= {name.removesuffix("_l0") + suffix: a for name, a in cell.params.items()}
    return Converted(layer, checked(layer, params))
