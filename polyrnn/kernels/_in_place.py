"""What the NumPy kernels share: the recurrence in place, with `out=` everywhere and buffers made once.

The equations and their numbers are those of the cells. Two things differ from the reference, and neither changes the
mathematics:

- Forward, the weights of the sigmoids are halved: sigmoid(z) = tanh(z/2)/2 + 1/2 then costs one `tanh` over all gates
  and one multiply-add over the sigmoids, which stand together.
- Backward, every pre-activation gradient is linear in dh and dc, with coefficients that are known before the loop.
  They are formed for a block of steps at once; the loop does one product and a handful of point-wise calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..cells._cell import HeldResidual
from . import _memory as memory

Array = np.ndarray
LEAST_STEPS = 4  # below, preparing the weights costs more than it saves
DTYPES = frozenset((np.dtype("float32"), np.dtype("float64")))
LEAST_COLUMNS = 16  # of a product: below, it spends its time reading the weights


class Fixed(NamedTuple):
    """What stays the same for all steps."""

    cell: Any
    bias: Array | None  # of the recurrent product
    half: Array  # 1/2 as an array: a Python number would have to be made one at each step


class InPlace:
    """What the recurrences share: the blocks of steps, and everything that is hoisted out of the loop."""

    name = "numpy in-place"
    fuses = True  # whether one product can make the sum of the input's and the recurrent share

    def supports(self, x: Array, valid: Any) -> bool:
        """Sequences of a few steps or more, of one example or more, in float32 or float64."""
        T, *rest = x.shape
        return T >= LEAST_STEPS and len(rest) == 2 and rest[1] > 0 and x.dtype in DTYPES

    def supports_step(self, x: Array) -> bool:
        """One step of streaming, in float32 or float64."""
        return x.dtype in DTYPES

    def once(self, cell: Any, params: dict, x: Array, state: tuple) -> tuple:
        """One step of streaming: from x (I, N) and the states (H, N) the new states."""
        raise NotImplementedError

    def prepare(self, cell: Any, params: dict) -> tuple[Array, Array, Array | None, Array | None]:
        """W, U, the bias of the input's share and that of the recurrent product, as the loop wants them."""
        W, U, b_ih = params["weight_ih"], params["weight_hh"], params.get("bias_ih")
        return W, U, None if b_ih is None else b_ih + params["bias_hh"], None

    def make(self, k: int, H: int, N: int, dtype: Any) -> tuple[Array, ...]:
        """Buffers for the residuals of k steps; where none are kept k is 1, and the one is used again and again.

        Parts of a buffer that a step needs stand beside it: a slice in the loop costs half as much as arithmetic.
        """
        raise NotImplementedError

    def step(self, fixed: Fixed, z: Array, pre: Any, row: tuple) -> None:
        """One step; z is U h_{t-1}, and holds the input's share too where pre is None.

        `row` is the states before, the states after (to be filled), and the buffers.
        """
        raise NotImplementedError

    def residual(self, states: tuple, buffers: tuple) -> Any:
        """The cell's own residuals, as views; `states` (T + 1, H, N) holds those before and after each step."""
        raise NotImplementedError

    def forward(
        self, cell: Any, params: dict, x: Array, state: tuple, valid: Array | None, size: int, keep: bool
    ) -> tuple[Array, tuple, Any]:
        """From x (T, I, N), in blocks of `size` steps: y (T, H, N), the final state, the cell's residuals if `keep`."""
        T, I, N = x.shape
        W, U, b, b_rec = self.prepare(cell, params)
        H, dtype, size = U.shape[1], x.dtype, min(size, T)
        # With enough columns one product [U b W] [h; 1; x] a step is fastest: nothing is written and read again. With
        # few, W would be read from memory at each step; then its share of a whole block is one product before the loop.
        fused = self.fuses and N >= LEAST_COLUMNS
        project = None if fused else _Projection(W, b, size, N)
        operands = memory.empty((T + 1 if keep else size + 1, H + I + 1 if fused else H, N), dtype)
        if fused:
            U = np.concatenate((U, np.zeros((len(U), 1), dtype) if b is None else b[:, None], W), axis=1)
            operands[:, H] = 1
        # The operands hold h. The other states have a place for each step only where they are kept.
        others = tuple(memory.empty((T + 1 if keep else 1, H, N), dtype) for _ in state[1:])
        states = (operands[:, :H], *others)
        for whole, first in zip(states, state, strict=True):
            whole[0] = first
        buffers = self.make(T if keep else 1, H, N, dtype)
        fixed = Fixed(cell, b_rec, np.asarray(0.5, dtype))
        # Of each step where a state stands still, or None where none does: most steps of most batches are of that kind.
        still = [None] * T if valid is None else [row if row.any() else None for row in ~valid]
        y, z = np.empty((T, N, H), dtype), np.empty((len(U), N), dtype)  # y in the layout of the door
        for start in range(0, T, size):
            k = min(size, T - start)
            at = start if keep else 0

            def by_step(whole: Array, shift: int = 0, at: int = at, k: int = k) -> Iterable[Array]:
                return whole[at + shift : at + shift + k] if len(whole) > 1 else itertools.repeat(whole[0])

            if fused:
                operands[at : at + k, H + 1 :] = x[start : start + k]
            pres = itertools.repeat(None) if project is None else project(x[start : start + k])
            rows = zip(*map(by_step, states), *(by_step(s, 1) for s in states), *map(by_step, buffers), strict=False)
            for t, operand, pre, row in zip(itertools.count(start), by_step(operands), pres, rows, strict=False):
                np.dot(U, operand, out=z)  # as `matmul`, a microsecond earlier
                if (stands := still[t]) is None:
                    self.step(fixed, z, pre, row)
                    continue
                old = row[: len(states)] if keep else tuple(s.copy() for s in row[: len(states)])
                self.step(fixed, z, pre, row)
                for new, was in zip(row[len(states) :], old, strict=False):
                    np.copyto(new, was, where=stands)
            h = states[0]
            y[start : start + k] = h[at + 1 : at + k + 1].transpose(0, 2, 1)
            if not keep:
                h[0] = h[k]
        end_state = tuple(whole[-1 if keep else 0].copy() for whole in states)
        y, residual = y.transpose(0, 2, 1), self.residual(states, buffers) if keep else None
        if valid is None:
            return y, end_state, residual
        np.copyto(y, 0, where=~valid)
        return y, end_state, HeldResidual(residual, (valid,) * len(states)) if keep else None

    def coefficients(self, cell: Any, residual: Any, valid: Array | None) -> tuple[Array, ...]:
        """Of a block: the array that becomes the pre-activation gradients in the loop, and the others it needs."""
        raise NotImplementedError

    def step_backward(self, parts: tuple, U_T: Array, dstate: tuple, spare: Array) -> None:
        """One step back, in place in `parts` and in `dstate`."""
        raise NotImplementedError

    def gradients(self, dz: Array) -> tuple[Array, Array]:
        """Dpre and drec (G*H, k*N), from what `coefficients` made and the loop filled."""
        flat = side_by_side(dz)
        return flat, flat

    def backward(
        self,
        cell: Any,
        params: dict,
        x: Array,
        whole_valid: Array | None,
        residuals: Any,
        dy: tuple,
        dstate: tuple,
        size: int,
        sums: dict,
    ) -> tuple[dict, Array, tuple]:
        """-> the sums with the gradients of the parameters added, the gradients of x and of the initial state."""
        whole_residual = residuals if whole_valid is None else residuals.cell
        (T, I, N), H = x.shape, params["weight_hh"].shape[1]
        W, U_T = params["weight_ih"], params["weight_hh"].T
        if N >= LEAST_COLUMNS:
            U_T = np.ascontiguousarray(U_T)  # BLAS takes either, and this one faster
        grads = {name: total.copy() for name, total in sums.items()}
        dx = np.empty((T, N, I), x.dtype)  # the layout of the door, so that it needs no copy there
        dstate = tuple(np.array(d, order="C") for d in dstate)
        spare = np.empty_like(dstate[0])
        operands = np.ones((H + 1 + I, min(size, T) * N), x.dtype)  # [h; 1; x], step beside step
        for start in reversed(range(0, T, size)):
            end = min(start + size, T)
            residual = type(whole_residual)(*(part[start:end] for part in whole_residual))
            valid = None if whole_valid is None or whole_valid[start:end].all() else whole_valid[start:end]
            above = tuple(None if d is None else np.ascontiguousarray(d[start:end]) for d in dy)
            parts = self.coefficients(cell, residual, valid)
            given = [
                (d, iter(upstream[::-1])) for d, upstream in zip(dstate, above, strict=True) if upstream is not None
            ]
            for row in zip(*(part[::-1] for part in parts), strict=True):
                for d, upstream in given:
                    d += next(upstream)
                self.step_backward(row, U_T, dstate, spare)
            dpre, drec = self.gradients(parts[0])
            columns = operands[:, : dpre.shape[1]]
            columns[:H].reshape(H, -1, N)[...] = residual.h_prev.transpose(1, 0, 2)
            columns[H + 1 :].reshape(I, -1, N)[...] = x[start:end].transpose(1, 0, 2)
            if drec is dpre:
                dV = dpre @ columns.T
                dU, dW = dV[:, : H + 1], dV[:, H:]
            else:
                dU, dW = drec @ columns[: H + 1].T, dpre @ columns[H:].T
            grads["weight_ih"] += dW[:, 1:]
            grads["weight_hh"] += dU[:, :H]
            if "bias_ih" in grads:
                grads["bias_ih"] += dW[:, 0]
                grads["bias_hh"] += dU[:, H]
            np.matmul(dpre.T, W, out=dx[start:end].reshape(-1, I))
        return grads, dx.transpose(0, 2, 1), dstate


class _Projection:
    """W x_t + b for a block of steps as (k, G*H, N): contiguous, since the loop adds it step by step."""

    def __init__(self, W: Array, b: Array | None, k: int, N: int) -> None:
        rows, I = W.shape
        self.W = W if b is None else np.concatenate((W, b[:, None]), axis=1)  # b meets a row of ones in x
        self.flat = N < LEAST_COLUMNS
        shape = (k, N, self.W.shape[1]) if self.flat else (k, self.W.shape[1], N)
        self.x = np.ones(shape, W.dtype)
        self.inputs = self.x[..., :I] if self.flat else self.x[:, :I]
        self.out = np.empty((k, rows, N), W.dtype)

    def __call__(self, x: Array) -> Array:
        k, _, N = x.shape
        if self.flat:
            self.inputs[:k] = x.transpose(0, 2, 1)
            z = self.x[:k].reshape(k * N, -1) @ self.W.T
            return np.ascontiguousarray(z.reshape(k, N, -1).transpose(0, 2, 1))
        self.inputs[:k] = x
        return np.matmul(self.W, self.x[:k], out=self.out[:k])


def side_by_side(block: Array) -> Array:
    """(k, rows, N) as (rows, k*N): a view where the block came from the door as (k, N, rows), else one copy."""
    k, rows, N = block.shape
    return block.transpose(1, 0, 2).reshape(rows, k * N)
