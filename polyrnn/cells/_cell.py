"""What all cells have in common: the contract, the input's share, and frozen states past a sequence's end.

Shapes, with the columns as examples: x_t (I, N), pre_t (G*H, N), states (H, N); sequences have T in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


@dataclass(frozen=True)
class Cell:
    """The contract of a cell, and the parts of it that are the same for RNN, LSTM and GRU.

    A cell is a frozen dataclass of its options. It gives `gates`, `states`, `step`, `step_backward` and, where the
    recurrent operand is not h_{t-1}, `recurrent_gradients`.
    """

    gates: ClassVar[int]  # G: blocks of H rows in each weight
    gate_names: ClassVar[str] = ""  # of the blocks, a letter each; initialisers look for f and z, which keep the past
    states: ClassVar[tuple[str, ...]] = ("h",)  # the first one is the output

    def shapes(self, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes."""
        rows = self.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        return shapes | ({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})

    def state_sizes(self, hidden_size: int) -> tuple[int, ...]:
        """The rows of each state."""
        return (hidden_size,) * len(self.states)

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        """The input's share of a block of steps: W x_t + b (T, G*H, N) for all t in one product."""
        W = params["weight_ih"]
        steps, size, batch = x.shape
        # One flat product: a batched one over T is up to four times slower at small batches.
        columns = xp.reshape(xp.permute_dims(x, (1, 0, 2)), (size, steps * batch))
        z = W @ columns
        b = self.projected_bias(xp, params)
        z = z if b is None else z + b[:, None]
        return xp.permute_dims(xp.reshape(z, (W.shape[0], steps, batch)), (1, 0, 2))

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
        W = params["weight_ih"]
        steps, rows, batch = dpre.shape
        dx = W.mT @ xp.reshape(xp.permute_dims(dpre, (1, 0, 2)), (rows, steps * batch))
        return xp.permute_dims(xp.reshape(dx, (W.shape[1], steps, batch)), (1, 0, 2))

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """The gradients of the parameters over a block of steps, from the stacked gradients of the pre-activations."""
        grads = {"weight_ih": over_steps(xp, dpre, x), "weight_hh": self.recurrent_gradients(xp, residuals, drec)}
        if "bias_ih" not in params:
            return grads
        db_ih = xp.sum(dpre, axis=(0, 2))
        db_hh = db_ih if drec is dpre else xp.sum(drec, axis=(0, 2))
        return grads | {"bias_ih": db_ih, "bias_hh": db_hh}

    def recurrent_gradients(self, xp: Any, residuals: Any, drec: Any) -> Any:
        """The gradient of U: dU = sum_t drec_t h_{t-1}^T."""
        return over_steps(xp, drec, residuals.h_prev)


def over_steps(xp: Any, dz: Any, operand: Any) -> Any:
    """sum_t dz_t operand_t^T, (rows, columns), of (T, rows, N) and (T, columns, N), in one product."""
    return xp.tensordot(dz, operand, axes=((0, 2), (0, 2)))


def blocks(z: Any, count: int) -> tuple[Any, ...]:
    """The `count` gate blocks of z (..., count*H, N), each (..., H, N)."""
    size = z.shape[-2] // count
    return tuple(z[..., k * size : (k + 1) * size, :] for k in range(count))


class MaskedResidual(NamedTuple):
    """The cell's residual, and which examples were still running."""

    cell: Any
    valid: Any


@dataclass(frozen=True)
class Masked(Cell):
    """A cell whose state stands still where `valid` (T, 1, N) is false; the input of a block is (x, valid).

    s_t = valid_t s'_t + (1 - valid_t) s_{t-1},   s' being the cell's own new state
    """

    cell: Cell

    def project(self, xp: Any, params: dict, x: Any) -> Any:
        """The cell's own, with valid beside it."""
        x, valid = x
        return self.cell.project(xp, params, x), valid

    def step(self, xp: Any, params: dict, pre: Any, state: tuple) -> tuple[tuple, Any]:
        """The cell's step where valid, else no step."""
        pre, valid = pre
        new, residual = self.cell.step(xp, params, pre, state)
        state = tuple(xp.where(valid, a, b) for a, b in zip(new, state, strict=True))
        return state, MaskedResidual(residual, valid)

    def step_backward(self, xp: Any, params: dict, residual: Any, dstate: tuple) -> tuple[Any, Any, tuple]:
        """The gradient goes through the cell where valid, else past it."""
        valid = residual.valid
        inside = tuple(xp.where(valid, d, xp.zeros_like(d)) for d in dstate)
        dpre, drec, before = self.cell.step_backward(xp, params, residual.cell, inside)
        return dpre, drec, tuple(xp.where(valid, a, b) for a, b in zip(before, dstate, strict=True))

    def project_backward(self, xp: Any, params: dict, dpre: Any) -> Any:
        """The cell's own."""
        return self.cell.project_backward(xp, params, dpre)

    def weight_gradients(self, xp: Any, params: dict, x: Any, residuals: Any, dpre: Any, drec: Any) -> dict:
        """The cell's own: where not valid, dpre and drec are zero."""
        return self.cell.weight_gradients(xp, params, x[0], residuals.cell, dpre, drec)
