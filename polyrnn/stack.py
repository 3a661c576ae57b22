"""Recurrences one above the other and in both directions of time, with all kinds of dropout.

Arrays have columns as examples, as in `polyrnn.recurrence`: x (T, I, N), y (T, D*P, N), where P rows are what one
direction puts out and D is the number of directions; each recurrence has its own states (P, N). valid is (T, 1, N).
An ensemble has its axis E behind T in sequences, and in front of all others; a sequence that they share has 1 there.

A reverse direction is the recurrence over flipped sequences. Where a sequence ends early its flipped steps come late,
and since a state stands still where not valid, the direction starts at the last valid step by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from . import kernels, recurrence
from .backends import Backend
from .masks import fold, keep_mask


class Direction(NamedTuple):
    """One recurrence of the stack: its parameters' names by the cell's own, its suffix, and which way it runs."""

    names: dict[str, str]
    suffix: str
    reverse: bool


class Plan(NamedTuple):
    """What a stack is made of."""

    options: recurrence.Options
    layers: tuple[tuple[Direction, ...], ...]
    dropout: float = 0.0  # between the layers, a mask for each step
    input_dropout: float = 0.0  # these have one mask for all steps
    recurrent_dropout: float = 0.0
    output_dropout: float = 0.0


class Tape(NamedTuple):
    """What `forward` leaves for `backward`: the tapes of the recurrences, and where the dropouts' masks come from."""

    recurrences: tuple[recurrence.Tape, ...]
    between: tuple[Any, ...]  # of the layers but the last: a mask (T, D*P, N), or the key (2,) to draw it from
    inputs: tuple[Any, ...]  # of the layers: 0 or 1 / (1 - rate), (I, N)
    output: Any  # the same, (D*P, N)


class Mask(NamedTuple):
    """One of the masks that a stack has: its rate, whether each time step has its own, and of what it has the rows."""

    rate: float
    by_step: bool
    rows: str  # "x", "y" of a layer, or the name of a state


def masks(plan: Plan) -> dict[str, Mask]:
    """The masks whose rates are not zero, by name."""
    found: dict[str, Mask] = {}
    states, last = plan.options.cell.states, len(plan.layers) - 1
    for k, directions in enumerate(plan.layers):
        found[f"dropout_l{k}"] = Mask(plan.dropout if k < last else 0.0, True, "y")
        found[f"input_dropout_l{k}"] = Mask(plan.input_dropout, False, "y" if k else "x")
        for direction in directions:
            found["recurrent_dropout" + direction.suffix] = Mask(plan.recurrent_dropout, False, states[0])
            for name, rate in zip(states, plan.options.zoneout or (0.0,) * len(states), strict=True):
                found[f"zoneout_{name}{direction.suffix}"] = Mask(rate, True, name)
    found["output_dropout"] = Mask(plan.output_dropout, False, "y")
    return {name: mask for name, mask in found.items() if mask.rate}


class _Source:
    """Where masks come from: a dict of them, in the core's layout, or a key."""

    def __init__(self, xp: Any, plan: Plan, given: dict | None, key: Any, device: Any) -> None:
        self.xp, self.given, self.key, self.device = xp, given, key, device
        # Without noise there is nothing to look up, and a short call would feel it.
        self.rates = masks(plan) if given is not None or key is not None else {}

    def own_key(self, kind: int, number: int) -> Any:
        key = fold(self.xp, self.key, number, self.device)  # of dropout between layers: kind 0
        return fold(self.xp, key, kind, self.device) if kind else key

    def absent(self, name: str) -> bool:
        return name not in self.rates

    def by_step(self, name: str, kind: int, number: int) -> tuple[Any, Any]:
        """A mask, or a key to draw it from."""
        if self.absent(name):
            return None, None
        return (self.given[name], None) if self.given is not None else (None, self.own_key(kind, number))

    def factor(self, name: str, kind: int, number: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """0 or 1 / (1 - rate), of the transpose of that shape (..., N, H)."""
        if self.absent(name):
            return None
        rate = self.rates[name].rate
        if self.given is not None:
            mask = self.given[name]
        else:
            mask = keep_mask(self.xp, self.own_key(kind, number), (1, *shape), rate, self.device)[0, ...].mT
        return self.xp.astype(mask, dtype) * (1 / (1 - rate))


def forward(
    backend: Backend,
    plan: Plan,
    params: dict,
    x: Any,
    states: Sequence[tuple],
    valid: Any = None,
    given: dict | None = None,
    key: Any = None,
    keep: bool = True,
) -> tuple[Any, list[tuple], Tape | None]:
    """-> y, the final states of each recurrence, and the tape if `keep`.

    `states` holds the initial states of each recurrence. `given` holds the masks by the names that `masks` tells, True
    where an output goes on, an operand is seen or a state moves; else they are drawn from `key`, else there are none.
    """
    xp = backend.xp
    device = getattr(x, "device", None)
    source = _Source(xp, plan, given, key, device)
    ends: list[tuple] = []
    tapes: list[recurrence.Tape] = []
    between: list[Any] = []
    inputs: list[Any] = []
    for k, directions in enumerate(plan.layers):
        if k:
            mask, drawn = source.by_step(f"dropout_l{k - 1}", 0, k - 1)
            if drawn is not None and not plan.options.remat:  # else drawn again in blocks, to save memory
                mask = keep_mask(xp, drawn, x.mT.shape, plan.dropout, device).mT
            between.append(drawn if mask is None else mask)
            x = _drop(backend, between[-1], x, plan.dropout)
        inputs.append(source.factor(f"input_dropout_l{k}", 1, k, x.mT.shape[1:], x.dtype))
        x = x if inputs[-1] is None else x * inputs[-1]
        outputs = []
        for direction in directions:
            own, start, number = _own(direction, params), states[len(ends)], len(ends)
            noise = recurrence.QUIET
            if source.rates:
                noise = _noise(source, plan, direction, number, start[0], x)
            turn = _flip if direction.reverse else _as_it_is
            if valid is not None or source.rates:
                moves = tuple(turn(xp, mask) for mask in noise.moves)
                noise = noise._replace(valid=turn(xp, valid), moves=moves, steps=turn(xp, noise.steps))
            y, end, tape = recurrence.forward(backend, plan.options, own, turn(xp, x), start, noise, keep)
            outputs.append(turn(xp, y))
            ends.append(end)
            tapes.append(tape)
        # Joined as the door has them, (T, N, D*P): on NumPy that is how they lie in memory.
        x = outputs[0] if len(outputs) == 1 else xp.concat([y.mT for y in outputs], axis=-1).mT
    output = source.factor("output_dropout", 1, len(plan.layers), x.mT.shape[1:], x.dtype)
    x = x if output is None else x * output
    return x, ends, Tape(tuple(tapes), tuple(between), tuple(inputs), output) if keep else None


def backward(
    backend: Backend,
    plan: Plan,
    params: dict,
    tape: Tape,
    dy: Any,
    dstates: Sequence[tuple],
    each: bool = False,
) -> tuple[dict, Any, list[tuple]]:
    """-> the gradients of the parameters, with `each` those of each example; of x; of each initial state."""
    xp = backend.xp
    grads: dict[str, Any] = {}
    starts: list[Any] = [None] * len(tape.recurrences)
    at = len(starts)
    dy = dy if dy is None or tape.output is None else dy * tape.output
    for k in reversed(range(len(plan.layers))):
        directions = plan.layers[k]
        at -= len(directions)
        rows = 0
        dx = None
        for d, direction in enumerate(directions, at):
            own, turn = _own(direction, params), _flip if direction.reverse else _as_it_is
            end = dstates[d]
            size = end[0].shape[-2]
            above = None if dy is None else turn(xp, dy[..., rows : rows + size, :])
            rows += size
            uppers = (above,) + (None,) * (len(end) - 1)
            given, dx_d, starts[d] = recurrence.backward(
                backend, plan.options, own, tape.recurrences[d], uppers, end, each
            )
            grads |= {direction.names[inside]: gradient for inside, gradient in given.items()}
            dx = turn(xp, dx_d) if dx is None else dx + turn(xp, dx_d)
        dx = dx if tape.inputs[k] is None else dx * tape.inputs[k]
        dy = _drop(backend, tape.between[k - 1], dx, plan.dropout) if k else dx
    return grads, dy, starts


def stepper(backend: Backend, plan: Plan, x: Any) -> Any:
    """What a kernel has for one step of streaming from x (N, I); None where there is no kernel."""
    return None if any(plan.options.zoneout) else kernels.find_step(backend, plan.options.cell, x)


def step(once: Any, plan: Plan, params: dict, x: Any, states: Sequence[tuple]) -> list[tuple]:
    """One step of streaming by `stepper`'s kernel: from x (I, N) the new states of each layer."""
    ends = []
    for (direction,), state in zip(plan.layers, states, strict=True):
        ends.append(once(plan.options.cell, _own(direction, params), x, state))
        x = ends[-1][0]
    return ends


def _noise(source: _Source, plan: Plan, direction: Direction, number: int, h: Any, x: Any) -> recurrence.Noise:
    """Dropout of the state and zoneout of one recurrence, in the order of the steps of x."""
    xp, suffix = source.xp, direction.suffix
    drawn = [source.by_step(f"zoneout_{s}{suffix}", 3 + m, number) for m, s in enumerate(plan.options.cell.states)]
    moves, keys = zip(*drawn, strict=True)
    return recurrence.Noise(
        kept=source.factor(f"recurrent_dropout{suffix}", 2, number, h.mT.shape, x.dtype),
        moves=moves if any(mask is not None for mask in moves) else (),
        keys=keys if any(key is not None for key in keys) else (),
        steps=xp.arange(x.shape[0], dtype=xp.int32, device=source.device) if any(k is not None for k in keys) else None,
    )


def _own(direction: Direction, params: dict) -> dict:
    return {inside: params[name] for inside, name in direction.names.items()}


def _flip(xp: Any, sequence: Any) -> Any:
    return None if sequence is None else xp.flip(sequence, axis=0)


def _as_it_is(xp: Any, sequence: Any) -> Any:
    return sequence


def _drop(backend: Backend, mask: Any, x: Any, rate: float) -> Any:
    """Drop what the mask says, or the mask that a key gives: its own derivative, since it is linear."""
    xp = backend.xp
    if mask is None:
        return x
    if mask.ndim > 1:
        return xp.where(mask, x * (1 / (1 - rate)), xp.zeros_like(x))

    def block(carry: None, block: tuple) -> tuple[None, Any]:
        x, steps = block
        drawn = keep_mask(xp, mask, x.mT.shape, rate, getattr(x, "device", None), steps).mT
        return None, xp.where(drawn, x * (1 / (1 - rate)), xp.zeros_like(x))

    steps = xp.arange(x.shape[0], dtype=xp.int32, device=getattr(x, "device", None))
    return backend.scan_blocks(block, None, (x, steps), recurrence.steps_per_block(x.shape[-1]))[1]
