"""The textbook functions, with the prediction's share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from .. import _textbook, functional
from ..backends import Backend
from ..backends import backend as open_backend
from ._examine import examine
from ._problem import Problem, normal
from ._report import Report

KINDS = {"rnn": _textbook.RNN, "lstm": _textbook.LSTM, "gru": _textbook.GRU}


def check_textbook(
    cell: str,
    *,
    one_step: bool = False,
    backend: Any = "numpy",
    dtype: str = "float64",
    seed: int = 0,
    methods: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Compare the gradients of rnn_forward and rnn_backward, or of their kin, with others.

    The upstream gradients are those of the hidden states, of the predictions, of their scores' softmax, and for the
    LSTM of the cell states.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
        Which functions.
    one_step : bool
        The functions of one step, such as rnn_cell_forward, instead of those of a sequence.
    backend, dtype, seed, methods, tolerance
        As for `check_layer`.

    Returns
    -------
    Report

    Examples
    --------
    >>> from polyrnn.gradcheck import check_textbook
    >>> check_textbook("lstm", methods=["complex step"]).ok
    True
    """
    return examine(textbook_problem(cell, one_step, seed), backend, dtype, methods, seed, tolerance)


def textbook_problem(cell: str, one_step: bool = False, seed: int = 0) -> Problem:
    """A pair of textbook functions at a random point."""
    if cell not in KINDS:
        raise ValueError(f"cell={cell!r}; expected one of {', '.join(KINDS)}")
    kind, rng = KINDS[cell], numpy.random.default_rng([seed, 3])
    n_x, m, steps, n_a, n_y = 3, 2, 7, 5, 4
    shapes = kind.shapes({}, n_x, n_a)
    sizes = {name: (n_y if rows is None else rows, columns) for name, (rows, columns) in shapes.items()}
    parameters = {name: 0.5 * rng.standard_normal(shape) for name, shape in sizes.items()}
    cells = ("a", "c") if len(kind.cell.states) > 1 else ("a",)
    x = rng.standard_normal((n_x, m) if one_step else (n_x, m, steps))
    inputs: dict[str, Any] = {"parameters": parameters, "x": x}
    inputs |= {f"{name}0": rng.standard_normal((n_a, m)) for name in cells}
    prefix = f"{cell}_cell" if one_step else cell
    run, back = getattr(functional, f"{prefix}_forward"), getattr(functional, f"{prefix}_backward")

    def call(given: Any) -> tuple[dict, Any]:
        """The states, the prediction and the cache, whatever the order and the names of the arguments."""
        start = [given[f"{name}0"] for name in cells]
        if one_step:
            *states, y, cache = run(given["x"], *start, given["parameters"])
        elif len(cells) > 1:
            a, y, c, cache = run(given["x"], start[0], given["parameters"], c0=start[1])
            states = [a, c]
        else:
            *states, y, cache = run(given["x"], *start, given["parameters"])
        return {**dict(zip(cells, states, strict=True)), "y": y}, cache

    def forward(chosen: Backend, given: Any) -> Any:
        return call(given)[0]

    def by_hand(chosen: Backend, given: Any, upstream: Any) -> tuple[Any, Any]:
        outputs, cache = call(given)
        above = [upstream[name] for name in cells]
        if one_step:
            grads = back(*above, cache, dy=upstream["y"])
        elif len(cells) > 1:
            grads = back(above[0], cache, dc=above[1], dy=upstream["y"], with_dc0=True)
        else:
            grads = back(above[0], cache, dy=upstream["y"])
        found: dict[str, Any] = {"parameters": {name: grads[f"d{name}"] for name in parameters}}
        found["x"] = grads["dxt" if one_step else "dx"]
        return outputs, found | {f"{name}0": grads[f"d{name}_prev" if one_step else f"d{name}0"] for name in cells}

    def analytic(given: Any) -> Any:
        x, host = given["x"], open_backend("numpy")
        x = numpy.moveaxis(x[..., None] if one_step else x, -1, 0)
        states, y, _ = _textbook._run((kind, host), given["parameters"], x, tuple(given[f"{name}0"] for name in cells))
        parts = [numpy.moveaxis(part, 0, -1) for part in (*states, y)]
        return dict(zip((*cells, "y"), [part[..., 0] if one_step else part for part in parts], strict=True))

    upstream = normal(rng, forward(open_backend("numpy"), inputs))
    return Problem(f"{prefix}_backward", inputs, upstream, by_hand, forward, analytic)
