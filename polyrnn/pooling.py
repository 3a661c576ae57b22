"""From an output at every step to one of the whole sequence: Pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._door import check_array, check_flag, check_float, check_params, dtype_name, valid_steps
from ._module import Gradients, Module, Tape
from .backends import backend_of

_HOW = ("last", "mean", "max")


@dataclass(frozen=True)
class Pool(Module):
    """Takes the axis of time away: the last, the mean or the maximum over the valid steps of each sequence.

    Parameters
    ----------
    how : {"last", "mean", "max"}
        What stands for the sequence: its output at the last valid step, the mean over its valid steps, or of each
        feature the largest value.
    batch_first : bool
        Whether x is (N, T, F).

    Notes
    -----
    No parameters. x is (T, N, F), with `batch_first` (N, T, F), and y (N, F); or x is one sequence (T, F), and y (F,).
    `lengths` (N,) or a boolean mask in x's layout (T, N) are those of the recurrent layers; without them all steps are
    valid. What stands at the other steps, NaN included, changes nothing, and their gradient is exactly zero. A
    sequence without a valid step, as where T = 0, gives zeros and gets zero gradients.

    Each y is the mean of x over some steps: the last one, all that are valid, or those that hold the maximum; its
    gradient goes to them in equal parts. So steps that tie for a maximum share it, as in JAX, TensorFlow and PyTorch's
    `amax`, and no step is favoured for its place.

    Of a bidirectional layer "last" takes the reverse direction's output at the last step, which has seen that step
    alone: take "mean" or "max", or the layer's final state.

    In a `Sequential` the members that follow get no lengths; there must be none among them that runs over time.

    Raises
    ------
    ValueError
        For another `how`, a wrong shape, lengths out of range, or lengths of one sequence; by `step`, since one step
        is not the sequence.
    TypeError
        If x is not floating, or for mixed backends.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> x = np.arange(6.0).reshape(3, 2, 1)  # T = 3 steps of N = 2 sequences
    >>> pr.Pool("mean")({}, x)[0].ravel(), pr.Pool("mean")({}, x, lengths=[2, 3])[0].ravel()
    (array([2., 3.]), array([1., 3.]))
    >>> model = pr.Sequential(pr.Embedding(11, 5), pr.LSTM(5, 7), pr.Pool("last"), pr.Linear(7, 2))
    >>> logits, _ = model(model.init(seed=0), np.array([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), lengths=[3, 2, 1])
    >>> logits.shape
    (3, 2)
    """

    how: str
    batch_first: bool = False

    pools = True

    def __post_init__(self) -> None:
        if self.how not in _HOW:
            raise ValueError(f"how={self.how!r}: expected one of {', '.join(map(repr, _HOW))}")
        check_flag("batch_first", self.batch_first)

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, None, Tape]:
        """The output (N, F), no state, and the tape."""
        if state is not None:
            raise ValueError("state: Pool has none; expected None")
        check_params(params, {}, "Pool")
        check_float("x", x)
        if x.ndim not in (2, 3):
            layout = "(N, T, F)" if self.batch_first else "(T, N, F)"
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {layout}, or one sequence (T, F)")
        if lengths is not None and x.ndim == 2:
            raise ValueError("lengths: x is one sequence, (T, F); cut it, or give x an axis N")
        found = backend_of(x, "x")
        valid = None if lengths is None else valid_steps(found, lengths, x, self.batch_first)
        y, at = self._over_time(found.xp, x, valid.mT if valid is not None and self.batch_first else valid)
        return y, None, Tape({}, at, None, y)

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None) -> Gradients:
        """The gradient of x; dy (N, F), or None for zero (then x is None too)."""
        if dstate is not None:
            raise ValueError("dstate: Pool has no state; expected None")
        y, at = tape.y, tape.kept
        found = backend_of((y, dy), "tape and dy")
        if dy is None:
            return Gradients({}, None, None)
        check_array("dy", dy, y.shape, dtype_name(y), "(N, F)" if y.ndim == 2 else "(F,)", "y")
        xp, axis = found.xp, self._axis(y.ndim + 1)
        share = dy / _count(xp, at, dy.dtype, axis)
        return Gradients({}, xp.where(at, xp.expand_dims(share, axis=axis), 0.0), None)

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, Any]:
        """There is none: ValueError."""
        raise ValueError(f"step: {self!r} needs the whole sequence")

    def _axis(self, ndim: int) -> int:
        """That of time."""
        return 1 if self.batch_first and ndim == 3 else 0

    def _over_time(self, xp: Any, x: Any, valid: Any) -> tuple[Any, Any]:
        """What comes out, and the steps whose mean it is, (T, N, F) or (T, N, 1); `valid` is in x's layout."""
        device = getattr(x, "device", None)  # a traced array has none
        axis = self._axis(x.ndim)
        steps = x.shape[axis]
        at = xp.ones(x.shape[:-1], dtype=xp.bool, device=device) if valid is None else valid
        at = at[..., None]
        if self.how == "max" and steps:  # of no steps there is no maximum, only the mean below, which is zero
            largest = xp.max(xp.where(at, x, -float("inf")), axis=axis, keepdims=True)
            y = xp.where(xp.any(at, axis=axis, keepdims=True), largest, 0.0)
            return xp.squeeze(y, axis=axis), at & (x == largest)  # the mean of equals would be rounded
        if self.how == "last" and steps:
            number = xp.reshape(xp.arange(steps, dtype=xp.int32, device=device), (steps,) + (1,) * (x.ndim - 1 - axis))
            at = at & (number == xp.max(xp.where(at, number, -1), axis=axis, keepdims=True))
        return xp.sum(xp.where(at, x, 0.0), axis=axis) / _count(xp, at, x.dtype, axis), at


def _count(xp: Any, at: Any, dtype: Any, axis: int) -> Any:
    """The number of steps in a mean, or 1 where there is none; in whole numbers, since float16 ends at 2048."""
    return xp.astype(xp.maximum(xp.sum(xp.astype(at, xp.int32), axis=axis), 1), dtype)
