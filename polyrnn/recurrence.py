"""A cell run over time, and back through time.

Everything that does not depend on the previous state stands outside the time loop, in blocks of time steps: the
input's share before the steps of a block, the gradients of the weights and of the input after them. A loop's step
is one matrix product and the point-wise work. Arrays have columns as examples: x (T, I, N), y (T, H, N).

With `remat` the forward pass keeps the state before every so many steps, and the backward pass runs each of these
segments again before it goes back through it. Segments consist of whole blocks, so that the same sums are formed in
the same order: on NumPy the gradients are the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from . import kernels
from ._door import wide
from .backends import Backend, tree_map
from .cells import Cell, Expected, Held
from .masks import keep_mask

COLUMNS = 512  # of one hoisted product: T*N of a block; enough to reach the speed of BLAS, little enough for the cache


class Options(NamedTuple):
    """What is fixed about a recurrence: its cell, the rates of zoneout of each state, and the steps of a segment."""

    cell: Cell
    zoneout: tuple[float, ...] = ()
    remat: Any = 0  # 0: everything is kept


class Noise(NamedTuple):
    """The arrays that say where the states move and what is left of them; each may be absent."""

    valid: Any = None  # (T, 1, N): where the sequences still run
    kept: Any = None  # (H, N): what a recurrent product sees of h_{t-1}, 0 or 1 / (1 - rate)
    moves: tuple = ()  # zoneout's masks, for each state (T, H, N) or None
    keys: tuple = ()  # or keys to draw them from, for each state (2,) or None,
    steps: Any = None  # and the numbers of the steps (T,), by which they are drawn


QUIET = Noise()


class Tape(NamedTuple):
    """What `forward` leaves for `backward`: the clean input, and the residuals of the steps or the segments' states."""

    x: Any
    noise: Noise
    residuals: Any


def steps_per_block(batch: int) -> int:
    """The fixed length of a block of time steps; it depends on nothing but the batch."""
    return max(1, COLUMNS // max(batch, 1))


def steps_per_segment(remat: int, batch: int) -> int:
    """`remat` rounded up to whole blocks."""
    block = steps_per_block(batch)
    return -(-remat // block) * block


def forward(
    backend: Backend, options: Options, params: dict, x: Any, state: tuple, noise: Noise = QUIET, keep: bool = True
) -> tuple[Any, tuple, Any]:
    """Run the cell over x (T, I, N) from `state` -> y (T, H, N), the final state, and the tape if `keep`.

    Where `noise.valid` is False, y is zero and the state stands still.
    """
    run = _runner(backend, options, params, x, noise)
    if not options.remat or not (keep or backend.traces):
        y, state, residuals = run.forward(_by_step(x, noise), state, keep)
        return y, state, Tape(x, noise, residuals) if keep else None

    def segment(state: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        y, after, _ = run.forward(inputs, state, False)
        return after, (y, tree_map(lambda part: part[None, ...], state))

    size = steps_per_segment(options.remat, x.shape[-1])
    # A library that differentiates this itself shall run the segments again too.
    state, (y, starts) = backend.scan_blocks(backend.recomputed(segment), state, _by_step(x, noise), size)
    return y, state, Tape(x, noise, starts) if keep else None


def backward(
    backend: Backend, options: Options, params: dict, tape: Tape, dy: tuple, dstate: tuple, each: bool = False
) -> tuple[dict, Any, tuple]:
    """Back through time -> the gradients of the parameters, of x, and of the initial state.

    `dy` holds, for each of the cell's states, the upstream gradient of that state at every step, (T, H, N) or None;
    `dstate` that of the final state. Both are zero where not valid. With `each` the parameters' gradients are those of
    each example, (N, ...).
    """
    x, noise, residuals = tape
    run = _runner(backend, options, params, x, noise, each)
    sums = run.zeros(x.shape[-1])
    if not options.remat:
        sums, dx, dstate = run.backward(_by_step(x, noise), residuals, dy, dstate, sums)
        return run.narrow(sums), dx, dstate

    again = _runner(backend, options, params, x, noise)  # as forward ran them

    def segment(carry: tuple, block: tuple) -> tuple[tuple, Any]:
        (dstate, sums), ((inputs, dy), start) = carry, block
        _, _, residuals = again.forward(inputs, start, True)
        sums, dx, dstate = run.backward(inputs, residuals, dy, dstate, sums)
        return (dstate, sums), dx

    size = steps_per_segment(options.remat, x.shape[-1])
    inputs = (_by_step(x, noise), dy)
    (dstate, sums), dx = backend.scan_blocks(segment, (dstate, sums), inputs, size, reverse=True, rows=residuals)
    return run.narrow(sums), dx, dstate


def _by_step(x: Any, noise: Noise) -> tuple:
    """What has the time in front."""
    return x, noise.valid, noise.moves, noise.steps


def _runner(backend: Backend, options: Options, params: dict, x: Any, noise: Noise, each: bool = False) -> Any:
    plain = not each and noise.kept is None and not any(options.zoneout)
    kernel = kernels.find(backend, options.cell, x, noise.valid) if plain else None
    if kernel is None:
        return _Reference(backend, options, params, noise, each)
    return _Fast(backend, options, params, kernel)


class _Runner:
    """Runs a stretch of steps, forward and back; the sums of the weights' gradients go in and come out."""

    def __init__(self, backend: Backend, options: Options, params: dict) -> None:
        self.backend, self.options, self.params = backend, options, params

    def zeros(self, batch: int) -> dict:
        return {name: self.backend.xp.zeros_like(weight) for name, weight in self.params.items()}

    def narrow(self, sums: dict) -> dict:
        return sums


class _Fast(_Runner):
    """By a kernel."""

    def __init__(self, backend: Backend, options: Options, params: dict, kernel: kernels.Kernel) -> None:
        super().__init__(backend, options, params)
        self.kernel = kernel

    def forward(self, inputs: tuple, state: tuple, keep: bool) -> tuple[Any, tuple, Any]:
        x, valid, *_ = inputs
        size = steps_per_block(x.shape[-1])
        return self.kernel.forward(self.options.cell, self.params, x, state, valid, size, keep)

    def backward(self, inputs: tuple, residuals: Any, dy: tuple, dstate: tuple, sums: dict) -> tuple[dict, Any, tuple]:
        x, valid, *_ = inputs
        size = steps_per_block(x.shape[-1])
        return self.kernel.backward(self.options.cell, self.params, x, valid, residuals, dy, dstate, size, sums)


class _Reference(_Runner):
    """By the cell's own steps, inside the wrappers that the noise asks for."""

    def __init__(self, backend: Backend, options: Options, params: dict, noise: Noise, each: bool) -> None:
        super().__init__(backend, options, params)
        self.noise, self.each = noise, each
        self.drawn = any(part is not None for part in (*noise.moves, *noise.keys))
        self.holds = noise.valid is not None or self.drawn
        self.cell = self.wrapped(noise.kept)

    def wrapped(self, kept: Any) -> Cell:
        cell, rates = self.options.cell, self.options.zoneout
        cell = cell if kept is None else dataclasses.replace(cell, kept=kept)
        cell = Expected(cell, rates) if any(rates) and not self.drawn else cell
        return Held(cell) if self.holds else cell

    def moves(self, inputs: tuple, state: tuple) -> tuple:
        """Where each state moves, in a block of steps."""
        x, valid, masks, steps = inputs
        xp, found = self.backend.xp, []
        for m, part in enumerate(state):
            move = masks[m] if masks else None
            if self.noise.keys and (key := self.noise.keys[m]) is not None:
                shape = (x.shape[0], *part.mT.shape)
                move = keep_mask(xp, key, shape, self.options.zoneout[m], getattr(x, "device", None), steps).mT
            found.append(valid if move is None else move if valid is None else move & valid)
        return tuple(found)

    def forward(self, inputs: tuple, state: tuple, keep: bool) -> tuple[Any, tuple, Any]:
        backend, xp, cell, params = self.backend, self.backend.xp, self.cell, self.params

        def step(state: tuple, pre: Any) -> tuple[tuple, tuple]:
            state, residual = cell.step(xp, params, pre, state)
            return state, (state[0], residual if keep else None)

        def block(state: tuple, inputs: tuple) -> tuple[tuple, tuple]:
            x = (inputs[0], self.moves(inputs, state)) if self.holds else inputs[0]
            return backend.scan(step, state, cell.project(xp, params, x))

        x, valid, *_ = inputs
        state, (y, residuals) = backend.scan_blocks(block, state, inputs, steps_per_block(x.shape[-1]))
        return y if valid is None else xp.where(valid, y, xp.zeros_like(y)), state, residuals

    def backward(self, inputs: tuple, residuals: Any, dy: tuple, dstate: tuple, sums: dict) -> tuple[dict, Any, tuple]:
        backend, xp, cell = self.backend, self.backend.xp, self.cell
        params = backend.transposable(self.params)

        def step_backward(dstate: tuple, inputs: Any) -> tuple[tuple, tuple]:
            residual, dy = inputs
            dstate = tuple(d if above is None else d + above for d, above in zip(dstate, dy, strict=True))
            dpre, drec, dstate = cell.step_backward(xp, params(), residual, dstate)
            return dstate, (dpre, None if drec is dpre else drec)

        def block(carry: tuple, block: tuple) -> tuple[tuple, Any]:
            (dstate, sums), (x, residuals, dy) = carry, block
            dstate, (dpre, drec) = backend.scan(step_backward, dstate, (residuals, dy), reverse=True)
            grads = self.weight_gradients(x, residuals, dpre, dpre if drec is None else drec)
            sums = {name: total + wide(xp, grads[name]) for name, total in sums.items()}
            return (dstate, sums), cell.project_backward(xp, params(), dpre)

        x = inputs[0]
        size = steps_per_block(x.shape[-1])
        (dstate, sums), dx = backend.scan_blocks(block, (dstate, sums), (x, residuals, dy), size, reverse=True)
        return sums, dx, dstate

    def weight_gradients(self, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        xp = self.backend.xp
        if not self.each:
            return self.cell.weight_gradients(xp, self.params, x, residuals, dpre, drec)

        def apart(array: Any) -> Any:
            # (T, ..., rows, N) as (T, N, ..., rows, 1): to the sums each example is a member of an ensemble.
            last = array.ndim - 1
            return xp.permute_dims(array, (0, last, *range(1, last)))[..., None]

        kept = None if self.noise.kept is None else apart(self.noise.kept[None, ...])[0, ...]
        same, (x, residuals, dpre) = drec is dpre, tree_map(apart, (x, residuals, dpre))
        drec = dpre if same else tree_map(apart, drec)
        return self.wrapped(kept).weight_gradients(xp, self.params, x, residuals, dpre, drec)

    def zeros(self, batch: int) -> dict:
        xp, found = self.backend.xp, super().zeros(batch)
        found = {name: wide(xp, total) for name, total in found.items()}
        if not self.each:
            return found
        return {name: xp.broadcast_to(total, (batch, *total.shape)) for name, total in found.items()}

    def narrow(self, sums: dict) -> dict:
        xp = self.backend.xp
        return {name: xp.astype(total, self.params[name].dtype, copy=False) for name, total in sums.items()}
