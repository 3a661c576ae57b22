"""Trees: arrays held in dicts, tuples, NamedTuples and None, as JAX's pytrees but for every backend."""

from collections.abc import Callable, Iterator
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
    return list(_walk(tree))


def rebuild(tree: Any, values: list[Any]) -> Any:
    """The tree with its leaves replaced by `values`, in order."""
    rest = iter(values)
    return tree_map(lambda _: next(rest), tree)


def _walk(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple):
        for branch in tree:
            yield from _walk(branch)
    elif tree is not None:
        yield tree


def pick(blocks: tuple, k: int) -> tuple:
    """Of the blocks that a backend's `each` returned, part k of each one."""
    return tuple(None if block is None else block[k] for block in blocks)
