"""Truncated backpropagation through time: a long sequence in pieces, the state carried from each to the next.

Source: R. J. Williams and J. Peng, An efficient gradient-based algorithm for on-line training of recurrent network
trajectories, Neural Computation 2 (1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ._door import check_size, valid_steps
from ._module import Module
from .backends import Backend, backend_of
from .masks import fold
from .modules import Sequential
from .training import Array, Arrays, LossFunction, value_and_grad

__all__ = ["Piece", "pieces", "truncated_value_and_grad"]


class Piece(NamedTuple):
    """A stretch of time steps of a batch of sequences.

    Attributes
    ----------
    x, targets : arrays (T', N, ...), or (N, T', ...)
    lengths : boolean array (T', N) or (N, T'), or None
        The mask of the valid steps within the piece, which layers take for their lengths.
    mask : array, or None
        The entries of the piece that count in the loss.
    """

    x: Array
    targets: Array
    lengths: Any
    mask: Array | None


def pieces(
    x: Array, targets: Array, steps: int, lengths: Any = None, mask: Array | None = None, batch_first: bool = False
) -> Iterator[Piece]:
    """Cut sequences into pieces of `steps` time steps, of which the last one may be shorter.

    Parameters
    ----------
    x, targets : arrays (T, N, ...), with `batch_first` (N, T, ...)
    steps : int
        At least 1.
    lengths : array of integers (N,), or a boolean mask of valid steps, optional
        Of the whole sequences. In pieces past a sequence's end its state stands still.
    mask : array, optional
        The loss's, of the targets' leading axes.
    batch_first : bool
        Whether the time is the second axis.

    Returns
    -------
    iterator of Piece

    Raises
    ------
    ValueError, TypeError
        If `steps` is not a whole number of at least 1, the targets have another time, or the lengths do not fit.

    Examples
    --------
    One update after each piece, the state carried on:

    >>> import numpy as np, polyrnn as pr
    >>> model, optimizer = pr.Sequential(pr.Embedding(7, 3), pr.GRU(3, 5), pr.Linear(5, 7)), pr.Adam(0.01)
    >>> params, state, text = model.init(seed=0), None, np.arange(101)[:, None] % 7
    >>> memory, step = optimizer.init(params), pr.train_step(model, pr.softmax_cross_entropy, optimizer)
    >>> for piece in pr.pieces(text[:-1], text[1:], steps=20):
    ...     params, memory, state, loss, _ = step(params, memory, piece.x, piece.targets, state)
    >>> loss.shape
    ()
    """
    check_size("steps", steps)
    axis = 1 if batch_first else 0
    if targets.shape[axis] != x.shape[axis]:
        raise ValueError(f"targets have {targets.shape[axis]} time steps, x has {x.shape[axis]}")
    if lengths is not None:
        lengths = valid_steps(backend_of(x, "x"), lengths, x, batch_first)
        lengths = lengths.mT if batch_first else lengths
    return _cut(x, targets, int(steps), lengths, mask, axis)


def _cut(x: Array, targets: Array, steps: int, lengths: Any, mask: Any, axis: int) -> Iterator[Piece]:
    length = x.shape[axis]
    for start in range(0, length, steps):
        k = min(steps, length - start)
        part = (slice(None),) * axis + (slice(start, start + k), ...)
        own, counts = (None if whole is None else whole[part] for whole in (lengths, mask))
        yield Piece(x[part], targets[part], own, counts)


def truncated_value_and_grad(
    model: Module, loss: LossFunction, steps: int, has_aux: bool = False
) -> Callable[..., Any]:
    """As `value_and_grad`, but the gradient goes back through pieces of `steps` time steps only.

    The state is carried through the whole sequence, so that the loss is that of the whole; its gradient forgets what
    lies before the beginning of a piece. The tapes of one piece at a time are kept.

    Parameters
    ----------
    model : Module
        Of one direction, and without pooling.
    loss : callable
        As for `value_and_grad`; a mean over the entries that count.
    steps : int
        At least 1.
    has_aux : bool
        Whether to return the final state too.

    Returns
    -------
    callable
        f(params, x, targets, state=None, lengths=None, seed=None, mask=None) -> value, grads; with `has_aux`
        (value, state), grads. A seed is folded with the number of the piece.

    Raises
    ------
    ValueError, TypeError
        If the model has a second direction or pools over time, or `steps` is not a whole number of at least 1.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> model = pr.LSTM(3, 5)
    >>> x, targets = np.ones((50, 2, 3), dtype="float32"), np.zeros((50, 2, 5), dtype="float32")
    >>> f = pr.truncated_value_and_grad(model, pr.mean_squared_error, steps=10)
    >>> value, grads = f(model.init(seed=0), x, targets)
    >>> grads["weight_hh_l0"].shape
    (20, 5)
    """
    check_size("steps", steps)
    for member in _members(model):
        if getattr(member, "bidirectional", False):
            raise ValueError(f"{member!r}: a second direction comes from the end; expected bidirectional=False")
        if member.ensemble:
            raise ValueError(f"{member!r}: pieces are cut along the first axes; expected ensemble=0")
        if member.pools:
            raise ValueError(f"{member!r}: it needs the whole sequence; expected a model that keeps the time")
    gradient = value_and_grad(model, loss, has_aux=True)

    def function(
        params: Arrays,
        x: Array,
        targets: Array,
        state: Any = None,
        lengths: Any = None,
        seed: Any = None,
        mask: Array | None = None,
    ) -> tuple[Any, Arrays]:
        backend = backend_of((params, x), "params and x")
        xp = backend.xp
        total: Any = None
        weight: Any = None
        grads: Arrays = {}
        for k, piece in enumerate(pieces(x, targets, steps, lengths, mask, model.batch_first)):
            own = None if seed is None else fold(xp, seed, k, getattr(x, "device", None))
            (value, state), found = gradient(
                params, piece.x, piece.targets, state, piece.lengths, own, None, piece.mask
            )
            count = _count(backend, piece, value)
            # Means of pieces in which different numbers of entries count, joined as the mean of all; nothing counts
            # where the mean is 0 / 0.
            share = {name: xp.where(count > 0, g * count, xp.zeros_like(g)) for name, g in found.items()}
            value = xp.where(count > 0, value * count, xp.zeros_like(value))
            total, weight = (value, count) if total is None else (total + value, weight + count)
            grads = {name: grads[name] + g for name, g in share.items()} if grads else share
        if total is None:  # T = 0
            (value, state), grads = gradient(params, x, targets, state, lengths, seed, None, mask)
        else:
            weight = xp.where(weight > 0, weight, xp.ones_like(weight))  # where nothing counts, all is zero
            value, grads = total / weight, {name: g / weight for name, g in grads.items()}
        return ((value, state) if has_aux else value), grads

    return function


def _members(model: Module) -> list[Module]:
    if isinstance(model, Sequential):
        return [inner for _, member in model.members for inner in _members(member)]
    return [model]


def _count(backend: Backend, piece: Piece, like: Any) -> Any:
    """How many entries count in a piece, as a number of the loss's dtype."""
    xp = backend.xp
    if piece.mask is not None:
        return xp.sum(xp.astype(backend.asarray(piece.mask), like.dtype))
    if piece.lengths is not None:
        return xp.sum(xp.astype(backend.asarray(piece.lengths), like.dtype))
    return xp.ones_like(like) * (piece.targets.shape[0] * piece.targets.shape[1])
