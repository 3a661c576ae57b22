"""A cell run over time, and back through time.

Everything that does not depend on the previous state stands outside the time loop, in blocks of time steps: the
input's share before the steps of a block, the gradients of the weights and of the input after them. A loop's step
is one matrix product and the point-wise work. Arrays have columns as examples: x (T, I, N), y (T, H, N).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import kernels
from ._door import wide
from .backends import Backend
from .cells import Cell, Masked

COLUMNS = 512  # of one hoisted product: T*N of a block; enough to reach the speed of BLAS, little enough for the cache


class Tape(NamedTuple):
    """What `forward` leaves for `backward`: the clean input, and the residuals of the steps."""

    x: Any
    valid: Any
    residuals: Any


def steps_per_block(batch: int) -> int:
    """The fixed length of a block of time steps; it depends on nothing but the batch."""
    return max(1, COLUMNS // max(batch, 1))


def forward(
    backend: Backend, cell: Cell, params: dict, x: Any, state: tuple, valid: Any = None, keep: bool = True
) -> tuple[Any, tuple, Any]:
    """Run the cell over x (T, I, N) from `state` -> y (T, H, N), the final state, and the tape if `keep`.

    `valid` (T, 1, N), if given, says where the sequences still run: elsewhere y is zero and the state stands still.
    """
    if kernel := kernels.find(backend, cell, x, valid):
        y, state, residuals = kernel.forward(cell, params, x, state, valid, steps_per_block(x.shape[2]), keep)
        return y, state, Tape(x, valid, residuals) if keep else None
    xp = backend.xp
    inputs = x
    if valid is not None:
        cell, inputs = Masked(cell), (x, valid)

    def step(state: tuple, pre: Any) -> tuple[tuple, tuple]:
        state, residual = cell.step(xp, params, pre, state)
        return state, (state[0], residual if keep else None)

    def block(state: tuple, inputs: Any) -> tuple[tuple, tuple]:
        return backend.scan(step, state, cell.project(xp, params, inputs))

    state, (y, residuals) = backend.scan_blocks(block, state, inputs, steps_per_block(x.shape[2]))
    if valid is not None:
        y = xp.where(valid, y, xp.zeros_like(y))
    return y, state, Tape(x, valid, residuals) if keep else None


def backward(
    backend: Backend, cell: Cell, params: dict, tape: Tape, dy: tuple, dstate: tuple
) -> tuple[dict, Any, tuple]:
    """Back through time -> the gradients of the parameters, of x, and of the initial state.

    `dy` holds, for each of the cell's states, the upstream gradient of that state at every step, (T, H, N) or None;
    `dstate` that of the final state. Both are zero where not valid.
    """
    if kernel := kernels.find(backend, cell, tape.x, tape.valid):
        return kernel.backward(cell, params, tape, dy, dstate, steps_per_block(tape.x.shape[2]))
    xp = backend.xp
    x, valid, residuals = tape
    inputs = x
    if valid is not None:
        cell, inputs = Masked(cell), (x, valid)

    def step_backward(dstate: tuple, inputs: Any) -> tuple[tuple, tuple]:
        residual, dy = inputs
        dstate = tuple(d if above is None else d + above for d, above in zip(dstate, dy, strict=True))
        dpre, drec, dstate = cell.step_backward(xp, params, residual, dstate)
        return dstate, (dpre, None if drec is dpre else drec)

    def block(carry: tuple, block: tuple) -> tuple[tuple, Any]:
        (dstate, sums), (inputs, residuals, dy) = carry, block
        dstate, (dpre, drec) = backend.scan(step_backward, dstate, (residuals, dy), reverse=True)
        drec = dpre if drec is None else drec
        grads = cell.weight_gradients(xp, params, inputs, residuals, dpre, drec)
        sums = {name: total + wide(xp, grads[name]) for name, total in sums.items()}
        return (dstate, sums), cell.project_backward(xp, params, dpre)

    carry = (dstate, {name: wide(xp, xp.zeros_like(weight)) for name, weight in params.items()})
    size = steps_per_block(x.shape[2])
    (dstate, sums), dx = backend.scan_blocks(block, carry, (inputs, residuals, dy), size, reverse=True)
    grads = {name: xp.astype(total, params[name].dtype, copy=False) for name, total in sums.items()}
    return grads, dx, dstate
