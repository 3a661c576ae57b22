"""Losses, whose gradient stands beside their value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from .. import losses
from .._door import clean
from ..backends import Backend
from ..backends import backend as open_backend
from ._examine import examine
from ._layers import poisoned
from ._problem import Problem
from ._report import Report


def check_loss(
    loss: Callable,
    prediction: Any,
    target: Any,
    *,
    mask: Any = None,
    backend: Any = "numpy",
    dtype: str = "float64",
    seed: int = 0,
    methods: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Compare the gradient that a loss returns beside its value with others.

    Parameters
    ----------
    loss : callable
        loss(prediction, target, mask=None) -> (value, gradient), as those of `polyrnn.losses`.
    prediction : array
        Where to check.
    target : array
        Labels or values.
    mask : array of booleans, optional
        False: what stands there counts for nothing; the hand-written pass finds NaN there.
    backend, dtype, seed, methods, tolerance
        As for `check_layer`.

    Returns
    -------
    Report

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.gradcheck import check_loss
    >>> from polyrnn.losses import mean_squared_error
    >>> check_loss(mean_squared_error, np.array([1.0, 4.0]), np.array([1.5, 1.0]), methods=["differences"]).ok
    True
    """
    return examine(loss_problem(loss, prediction, target, mask), backend, dtype, methods, seed, tolerance)


def loss_problem(loss: Callable, prediction: Any, target: Any, mask: Any = None) -> Problem:
    """A loss at a point."""
    host = open_backend("numpy")
    prediction, target = numpy.asarray(prediction, dtype="float64"), numpy.asarray(target)
    counted = None if mask is None else numpy.asarray(mask)

    def run(chosen: Backend, prediction: Any) -> Any:
        goal = chosen.asarray(target)
        goal = chosen.xp.astype(goal, prediction.dtype) if target.dtype.kind == "f" else goal
        return loss(prediction, goal, mask=None if counted is None else chosen.asarray(counted))

    def by_hand(chosen: Backend, given: Any, upstream: Any) -> tuple[Any, Any]:
        value, gradient = run(chosen, poisoned(chosen, counted, given["prediction"]))
        return (value,), {"prediction": gradient * upstream[0]}

    def analytic(given: Any) -> Any:
        return (_ANALYTIC[loss](host, given["prediction"], target, counted).value,)

    title = getattr(loss, "__name__", type(loss).__name__)
    return Problem(
        title if mask is None else f"{title}, mask",
        {"prediction": clean(host.xp, counted, prediction)},
        (numpy.asarray(1.7),),  # the loss of a batch may stand inside a larger function
        by_hand,
        lambda chosen, given: (run(chosen, given["prediction"])[0],),
        analytic if loss in _ANALYTIC else None,
    )


# Behind the doors, which refuse complex numbers.
_ANALYTIC: dict[Any, Callable] = {
    losses.softmax_cross_entropy: lambda host, z, labels, mask: losses._softmax_cross_entropy(
        host.xp, z, labels, mask, None
    ),
    losses.mean_squared_error: lambda host, y, target, mask: losses._mean_squared_error(host.xp, y, target, mask),
}
