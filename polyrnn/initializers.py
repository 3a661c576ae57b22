"""Initial values of parameters: functions of a NumPy generator and a shape, drawn on the host in float64.

So the same seed gives the same numbers on every backend; whoever asked for them casts and moves them.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

__all__ = ["Initializer", "normal", "recurrent", "uniform", "zeros"]

Initializer: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


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
