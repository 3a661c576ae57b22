"""Recurrences one above the other and in both directions of time, with dropout between the layers.

Arrays have columns as examples, as in `polyrnn.recurrence`: x (T, I, N), y (T, D*P, N), where P rows are what one
direction puts out and D is the number of directions; states stand one after the other, (L*D, P, N), those of layer l
and direction d at l*D + d. valid is (T, 1, N).

A reverse direction is the recurrence over flipped sequences. Where a sequence ends early its flipped steps come late,
and since a state stands still where not valid, the direction starts at the last valid step by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import recurrence
from .backends import Backend
from .cells import Cell


class Direction(NamedTuple):
    """One recurrence of the stack: its parameters' names by the cell's own, and which way it runs."""

    names: dict[str, str]
    reverse: bool


class Plan(NamedTuple):
    """What a stack is made of."""

    cell: Cell
    layers: tuple[tuple[Direction, ...], ...]
    dropout: float


class Tape(NamedTuple):
    """What `forward` leaves for `backward`: the tapes of the recurrences, and the masks between the layers."""

    recurrences: tuple[recurrence.Tape, ...]
    masks: tuple[Any, ...]


def forward(
    backend: Backend,
    plan: Plan,
    params: dict,
    x: Any,
    states: Sequence[tuple],
    valid: Any,
    masks: tuple,
    keep: bool,
) -> tuple[Any, list[tuple], Tape | None]:
    """-> y, the final states of each recurrence, and the tape if `keep`.

    `states` holds the initial states of each recurrence; `masks` an array (T, D*P, N) or None for every layer but the
    last, True where an output of that layer goes on to the next.
    """
    xp = backend.xp
    ends: list[tuple] = []
    tapes: list[recurrence.Tape] = []
    for k, directions in enumerate(plan.layers):
        if k:
            x = _drop(xp, masks[k - 1], x, plan.dropout)
        outputs = []
        for direction in directions:
            own, start = _own(direction, params), states[len(ends)]
            if direction.reverse:
                turned, still = _flip(xp, x), _flip(xp, valid)
                y, end, tape = recurrence.forward(backend, plan.cell, own, turned, start, still, keep)
                y = _flip(xp, y)
            else:
                y, end, tape = recurrence.forward(backend, plan.cell, own, x, start, valid, keep)
            outputs.append(y)
            ends.append(end)
            tapes.append(tape)
        # Joined as the door has them, (T, N, D*P): on NumPy that is how they lie in memory.
        x = outputs[0] if len(outputs) == 1 else xp.concat([y.mT for y in outputs], axis=2).mT
    return x, ends, Tape(tuple(tapes), masks) if keep else None


def backward(
    backend: Backend, plan: Plan, params: dict, tape: Tape, dy: Any, dstates: Sequence[tuple]
) -> tuple[dict, Any, list[tuple]]:
    """-> the gradients of the parameters, of x, and of the initial states of each recurrence."""
    xp = backend.xp
    grads: dict[str, Any] = {}
    starts: list[Any] = [None] * len(tape.recurrences)
    at = len(starts)
    for k in reversed(range(len(plan.layers))):
        directions = plan.layers[k]
        at -= len(directions)
        rows = 0
        dx = None
        for d, direction in enumerate(directions, at):
            own = _own(direction, params)
            end = dstates[d]
            size = end[0].shape[0]
            above = None if dy is None else dy[:, rows : rows + size, :]
            rows += size
            above = _flip(xp, above) if direction.reverse else above
            given, dx_d, starts[d] = recurrence.backward(
                backend, plan.cell, own, tape.recurrences[d], (above,) + (None,) * (len(end) - 1), end
            )
            grads |= {direction.names[inside]: gradient for inside, gradient in given.items()}
            dx_d = _flip(xp, dx_d) if direction.reverse else dx_d
            dx = dx_d if dx is None else dx + dx_d
        dy = _drop(xp, tape.masks[k - 1], dx, plan.dropout) if k else dx
    return grads, dy, starts


def _own(direction: Direction, params: dict) -> dict:
    return {inside: params[name] for inside, name in direction.names.items()}


def _flip(xp: Any, sequence: Any) -> Any:
    return None if sequence is None else xp.flip(sequence, axis=0)


def _drop(xp: Any, mask: Any, x: Any, rate: float) -> Any:
    return x if mask is None else xp.where(mask, x * (1 / (1 - rate)), xp.zeros_like(x))
