"""Trees: arrays held in dicts, tuples, NamedTuples and None, as JAX's pytrees but for every backend."""

from collections.abc import Callable
from typing import Any


def tree_map(function: Callable[..., Any], tree: Any) -> Any:
    """The same tree with `function` applied to each leaf; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: tree_map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        branches = [tree_map(function, branch) for branch in tree]
        return type(tree)._make(branches) if hasattr(tree, "_make") else tuple(branches)
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    """The arrays of a tree, in order."""
    found: list[Any] = []
    _collect(tree, found)
    return found


def _collect(tree: Any, found: list[Any]) -> None:
    # No generator and no call for each leaf: every public call comes through here.
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else (tree,):
        if isinstance(branch, (dict, tuple)):
            _collect(branch, found)
        elif branch is not None:
            found.append(branch)


def rebuild(tree: Any, values: list[Any]) -> Any:
    """The tree with its leaves replaced by `values`, in order."""
    rest = iter(values)
    return tree_map(lambda _: next(rest), tree)
