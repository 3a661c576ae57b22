"""What all cells have in common: the contract, the input's share, and states that stand still.

Shapes, with the columns as examples: x_t (I, N), pre_t (G*H, N), states (H, N); sequences have T in front. An ensemble
has its axis E before these two, in parameters and states (E, H, N) alike; a sequence is (T, E, H, N).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from .._door import wide


@dataclass(frozen=True)
class Cell:
    """The contract of a cell, and the parts of it that are the same for RNN, LSTM and GRU.

    A cell is a frozen dataclass of its options. It gives `gates`, `states`, `step`, `step_backward` and, where the
    recurrent operand is not h_{t-1}, `recurrent_gradients`.
    """

    gates: ClassVar[int]  # G: blocks of H rows in each weight
    gate_names: ClassVar[str] = ""  # of the blocks, a letter each; initialisers look for f and z, which keep the past
    states: ClassVar[tuple[str, ...]] = ("h",)  # the first one is the output
    analytic: ClassVar[bool] = True  # whether it has no bend, so that it may be run on complex numbers
    drops_state: ClassVar[bool] = False  # whether its products with h_{t-1} go through `dropped`

    # Variational dropout of the state: 0 or 1 / (1 - rate), (H, N), the same at all steps.
    kept: Any = field(default=None, kw_only=True, compare=False, repr=False)

    def shapes(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes."""
        rows = self.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})

    def state_sizes(self, hidden_size: int) -> tuple[int, ...]:
        """The rows of each state."""
        return (hidden_size,) * len(self.states)

    def dropped(self, xp: Any, h: Any) -> Any:
        """What variational dropout leaves of h_{t-1} before a recurrent product, or of a gradient behind its transpose.

        At one step, or at many, (T, H, N).
        """
        return h if self.kept is None else h * self.kept

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        """The input's share of a block of steps: W x_t + b (T, G*H, N) for all t in one product."""
        # One flat product: a batched one over T is up to four times slower at small batches.
        z = params["weight_ih"] @ columns(xp, x)
        b = self.projected_bias(xp, params)
        return sequence(xp, z if b is None else z + b[..., None], x.shape[0], x.shape[-1])

    def projected_bias(self, xp: Any, params: dict) -> Any:
        """The biases that can be added before the loop, (G*H,) or None: both, but where a gate stands between them."""
        return params["bias_ih"] + params["bias_hh"] if "bias_ih" in params else None

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Any]:
        """One step -> state, residual (what `step_backward` needs, as a NamedTuple of arrays)."""
        raise NotImplementedError

    def step_backward(self, xp: Any, params: dict, residual: Any, dstate: tuple) -> tuple[Any, Any, tuple]:
        """The gradient of the new state -> dpre, drec, the gradient of the previous state.

        `dpre` and `drec` are the gradients of the input's and of the recurrent pre-activations.
        """
        raise NotImplementedError

    def project_backward(self, xp: Any, params: dict, dpre: Any) -> Any:
        """The gradient of x, (T, I, N): dx_t = W^T dpre_t for all t in one product."""
        return sequence(xp, params["weight_ih"].mT @ columns(xp, dpre), dpre.shape[0], dpre.shape[-1])

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """The gradients of the parameters over a block of steps, from the stacked gradients of the pre-activations."""
        grads = {"weight_ih": over_steps(xp, dpre, x), "weight_hh": self.recurrent_gradients(xp, residuals, drec)}
        if "bias_ih" not in params:
            return grads
        db_ih = over_steps_and_examples(xp, dpre)
        db_hh = db_ih if drec is dpre else over_steps_and_examples(xp, drec)
        return grads | {"bias_ih": db_ih, "bias_hh": db_hh}

    def recurrent_gradients(self, xp: Any, residuals: Any, drec: Any) -> Any:
        """The gradient of U: dU = sum_t drec_t h_{t-1}^T."""
        return over_steps(xp, drec, self.dropped(xp, residuals.h_prev))


def columns(xp: Any, sequence: Any) -> Any:
    """(T, ..., rows, N) as (..., rows, T*N): all examples of all steps side by side."""
    steps, *leading, rows, batch = sequence.shape
    last = len(leading) + 2
    turned = xp.permute_dims(sequence, (*range(1, last), 0, last))
    return xp.reshape(turned, (*leading, rows, steps * batch))


def sequence(xp: Any, columns: Any, steps: int, batch: int) -> Any:
    """The inverse: (..., rows, T*N) as (T, ..., rows, N)."""
    *leading, rows, _ = columns.shape
    last = len(leading) + 2
    apart = xp.reshape(columns, (*leading, rows, steps, batch))
    return xp.permute_dims(apart, (last - 1, *range(last - 1), last))


def over_steps(xp: Any, dz: Any, operand: Any) -> Any:
    """sum_t dz_t operand_t^T, (rows, columns), of (T, rows, N) and (T, columns, N), in one product."""
    return columns(xp, dz) @ columns(xp, operand).mT


def over_steps_and_examples(xp: Any, dz: Any) -> Any:
    """sum_t sum_n dz_t, (rows,), of (T, rows, N)."""
    return xp.sum(wide(xp, dz), axis=(0, -1))


def blocks(z: Any, count: int) -> tuple[Any, ...]:
    """The `count` gate blocks of z (..., count*H, N), each (..., H, N)."""
    size = z.shape[-2] // count
    return tuple(z[..., k * size : (k + 1) * size, :] for k in range(count))


class HeldResidual(NamedTuple):
    """The cell's residual, and for each state where it moved."""

    cell: Any
    moves: tuple


@dataclass(frozen=True)
class Wrapped(Cell):
    """A cell around a cell: what it does not change is the inner one's."""

    cell: Cell

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        """The cell's own."""
        return self.cell.project(xp, params, x)

    def project_backward(self, xp: Any, params: dict, dpre: Any) -> Any:
        """The cell's own."""
        return self.cell.project_backward(xp, params, dpre)

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """The cell's own."""
        return self.cell.weight_gradients(xp, params, x, residuals, dpre, drec)


@dataclass(frozen=True)
class Held(Wrapped):
    """A cell whose states stand still where they do not move; `project` takes (x, moves).

    s_t = s'_t where move_t, else s_{t-1},   s' being the cell's own new state

    `moves` holds for each state a boolean array (T, H, N) or (T, 1, N), or None where it always moves. Past the end of
    a sequence nothing moves; zoneout holds a unit at a step with some probability (D. Krueger et al., Zoneout,
    arXiv:1606.01305 (2016)).
    """

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        """The cell's own, with the moves beside it."""
        x, moves = x
        return self.cell.project(xp, params, x), moves

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Any]:
        """The cell's step where a state moves, else none."""
        pre, moves = pre
        new, residual = self.cell.step(xp, params, pre, state)
        state = tuple(_where(xp, m, a, b) for m, a, b in zip(moves, new, state, strict=True))
        return state, HeldResidual(residual, moves)

    def step_backward(self, xp: Any, params: dict, residual: Any, dstate: tuple) -> tuple[Any, Any, tuple]:
        """The gradient goes through the cell where a state moved, else past it."""
        pairs = [(m, d, xp.zeros_like(d)) for m, d in zip(residual.moves, dstate, strict=True)]
        inside = tuple(_where(xp, m, d, zero) for m, d, zero in pairs)
        dpre, drec, before = self.cell.step_backward(xp, params, residual.cell, inside)
        past = tuple(_where(xp, m, zero, d) for m, d, zero in pairs)
        return dpre, drec, tuple(a + b for a, b in zip(before, past, strict=True))

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """The cell's own: where nothing moved, dpre and drec are zero."""
        return super().weight_gradients(xp, params, x, residuals.cell, dpre, drec)


@dataclass(frozen=True)
class Expected(Wrapped):
    """A cell of which zoneout takes the expected state, when nothing is drawn: the mean of what `Held` would give.

    s_t = rate * s_{t-1} + (1 - rate) * s'_t,   s' being the cell's own new state
    """

    rates: tuple[float, ...]

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Any]:
        """The mean of the state before and the cell's new one."""
        new, residual = self.cell.step(xp, params, pre, state)
        return tuple(r * b + (1 - r) * a for r, a, b in zip(self.rates, new, state, strict=True)), residual

    def step_backward(self, xp: Any, params: dict, residual: Any, dstate: tuple) -> tuple[Any, Any, tuple]:
        """The gradient goes through the cell and past it in the same shares."""
        inside = tuple((1 - r) * d for r, d in zip(self.rates, dstate, strict=True))
        dpre, drec, before = self.cell.step_backward(xp, params, residual, inside)
        return dpre, drec, tuple(a + r * d for a, r, d in zip(before, self.rates, dstate, strict=True))


def _where(xp: Any, condition: Any, a: Any, b: Any) -> Any:
    return a if condition is None else xp.where(condition, a, b)
