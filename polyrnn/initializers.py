"""Initial values of parameters: functions of a NumPy generator and a shape, drawn on the host in float64.

So the same seed gives the same numbers on every backend; whoever asked for them casts and moves them.

`SCHEMES`, and `Chrono`, make all parameters of one recurrence together; they are the recurrent layers' `initializer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "SCHEMES",
    "Chrono",
    "Initializer",
    "Scheme",
    "glorot",
    "normal",
    "orthogonal",
    "recurrent",
    "uniform",
    "zeros",
]

Initializer: TypeAlias = "Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]"
Scheme: TypeAlias = "Callable[[np.random.Generator, Any, dict[str, tuple[int, ...]], int], dict[str, np.ndarray]]"


def zeros(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zeros; the generator is not asked.

    Examples
    --------
    >>> zeros(np.random.default_rng(0), (2,))
    array([0., 0.])
    """
    return np.zeros(shape)


def uniform(bound: float) -> Initializer:
    """Uniform between -bound and bound.

    Parameters
    ----------
    bound : float
        Not negative.

    Returns
    -------
    function of (generator, shape)

    Examples
    --------
    >>> draw = uniform(0.5)
    >>> bool(np.all(np.abs(draw(np.random.default_rng(0), (3, 5))) <= 0.5))
    True
    """
    if not 0 <= bound < np.inf:
        raise ValueError(f"bound={bound!r}: expected a finite number >= 0")
    return lambda generator, shape: generator.uniform(-bound, bound, shape)


def normal(std: float = 1.0) -> Initializer:
    """Normal with mean 0 and that standard deviation, as PyTorch draws an embedding with std = 1.

    Parameters
    ----------
    std : float
        Not negative.

    Returns
    -------
    function of (generator, shape)

    Examples
    --------
    >>> normal(0.01)(np.random.default_rng(0), (3, 5)).shape
    (3, 5)
    """
    if not 0 <= std < np.inf:
        raise ValueError(f"std={std!r}: expected a finite number >= 0")
    return lambda generator, shape: generator.normal(0.0, std, shape)


def recurrent(hidden_size: int) -> Initializer:
    """PyTorch's default for every weight and bias of a recurrent layer: uniform within 1/sqrt(H).

    Parameters
    ----------
    hidden_size : int
        H.

    Returns
    -------
    function of (generator, shape)

    Examples
    --------
    >>> bool(np.all(np.abs(recurrent(16)(np.random.default_rng(0), (64, 3))) <= 0.25))
    True
    """
    if hidden_size < 1:
        raise ValueError(f"hidden_size={hidden_size!r}: expected at least 1")
    return uniform(hidden_size**-0.5)


def glorot(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform within sqrt(6 / (rows + columns)): Glorot and Bengio (AISTATS 2010); Keras' default for input weights.

    Examples
    --------
    >>> bool(np.all(np.abs(glorot(np.random.default_rng(0), (4, 2))) <= 1))
    True
    """
    return uniform((6 / sum(shape)) ** 0.5)(generator, shape)


def orthogonal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A matrix with orthonormal columns, or rows if it is wider than high: Saxe et al. (ICLR 2014); as Keras draws it.

    Examples
    --------
    >>> U = orthogonal(np.random.default_rng(0), (6, 2))
    >>> bool(np.allclose(U.T @ U, np.eye(2)))
    True
    """
    rows, columns = shape
    q, r = np.linalg.qr(generator.standard_normal((max(shape), min(shape))))
    q = q * np.sign(np.diagonal(r))  # else the distribution would not be uniform
    return q if rows >= columns else q.T


# ---- all parameters of one recurrence: (generator, cell, shapes, H) -> parameters, under the cell's own names -------


def _pytorch(generator: np.random.Generator, cell: Any, shapes: dict, hidden_size: int) -> dict[str, np.ndarray]:
    """U(-1/sqrt(H), 1/sqrt(H)) for everything."""
    draw = recurrent(hidden_size)
    return {name: draw(generator, shape) for name, shape in shapes.items()}


def _keras(generator: np.random.Generator, cell: Any, shapes: dict, hidden_size: int) -> dict[str, np.ndarray]:
    """Input weights Glorot, recurrent weights orthogonal, vectors 0 but for an LSTM's forget bias, which is 1."""
    draws = {"weight_ih": glorot, "weight_hh": orthogonal, "weight_hr": glorot}
    params = {name: draws.get(name, zeros)(generator, shape) for name, shape in shapes.items()}
    if "bias_ih" in params and "f" in cell.gate_names:
        params["bias_ih"][_rows(cell, "f", hidden_size)] = 1.0
    return params


def _lecun(generator: np.random.Generator, cell: Any, shapes: dict, hidden_size: int) -> dict[str, np.ndarray]:
    """Weights normal with variance 1 / (number of inputs), vectors 0: LeCun et al., Efficient BackProp (1998)."""
    return {
        name: normal(shape[1] ** -0.5)(generator, shape) if len(shape) > 1 else zeros(generator, shape)
        for name, shape in shapes.items()
    }


SCHEMES: dict[str, Scheme] = {"pytorch": _pytorch, "keras": _keras, "lecun": _lecun}


@dataclass(frozen=True)
class Chrono:
    """Gate biases for dependencies over up to `t_max` steps; the other parameters by the scheme `base`.

    With u uniform between 1 and t_max - 1 for each unit, the LSTM's forget gate has the bias log u and its input gate,
    if it has one, -log u; the GRU's update gate, which keeps the past, log u. Other biases of the gates are 0.

    Parameters
    ----------
    t_max : int
        The longest dependency in steps, at least 3.
    base : {"pytorch", "keras", "lecun"}
        The weights' scheme.

    Raises
    ------
    ValueError
        For other values; when parameters are drawn, for a cell without a gate that keeps the past, or without biases.

    Notes
    -----
    Source: C. Tallec and Y. Ollivier, Can recurrent neural networks warp time?, ICLR 2018.

    Examples
    --------
    >>> import polyrnn as pr
    >>> lstm = pr.LSTM(2, 3, initializer=pr.initializers.Chrono(100))
    >>> b = lstm.init(seed=0)["bias_ih_l0"]
    >>> bool((b[3:6] >= 0).all() and (b[:3] == -b[3:6]).all())
    True
    """

    t_max: int
    base: str = "pytorch"

    def __post_init__(self) -> None:
        if isinstance(self.t_max, bool) or not isinstance(self.t_max, int) or self.t_max < 3:
            raise ValueError(f"t_max={self.t_max!r}: expected a whole number of at least 3")
        if self.base not in SCHEMES:
            raise ValueError(f"base={self.base!r}: expected one of {', '.join(map(repr, SCHEMES))}")

    def __call__(
        self, generator: np.random.Generator, cell: Any, shapes: dict, hidden_size: int
    ) -> dict[str, np.ndarray]:
        """The parameters of one recurrence."""
        keeps = next((gate for gate in "fz" if gate in cell.gate_names), None)
        if keeps is None or "bias_ih" not in shapes:
            lacks = "biases" if keeps else "gate that keeps the past"
            raise ValueError(f"initializer={self!r}: {type(cell).__name__} has no {lacks}; expected another scheme")
        params = SCHEMES[self.base](generator, cell, shapes, hidden_size)
        long = np.log(generator.uniform(1, self.t_max - 1, hidden_size))
        params["bias_ih"], params["bias_hh"] = np.zeros(shapes["bias_ih"]), np.zeros(shapes["bias_hh"])
        params["bias_ih"][_rows(cell, keeps, hidden_size)] = long
        if "i" in cell.gate_names:  # coupled it is 1 - f, which comes to the same: sigmoid(-a) = 1 - sigmoid(a)
            params["bias_ih"][_rows(cell, "i", hidden_size)] = -long
        return params


def _rows(cell: Any, gate: str, hidden_size: int) -> slice:
    start = cell.gate_names.index(gate) * hidden_size
    return slice(start, start + hidden_size)
