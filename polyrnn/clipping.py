"""Clipping: the global norm of gradients, and gradients scaled down to one.

Nothing is modified, and nothing waits for a device.
"""

from typing import Any, TypeAlias

from ._door import check_number
from .backends import backend_of

__all__ = ["clip_by_global_norm", "global_norm"]

Array: TypeAlias = Any
Arrays: TypeAlias = dict[str, Array]


def global_norm(grads: Arrays) -> Array:
    """The root of the sum of the squares of all elements.

    The hazard: squares overflow where the elements do not (in float32 above about 1.8e19), and the norm is
    then inf.

    Parameters
    ----------
    grads : dict of arrays

    Returns
    -------
    array, shape (), in the gradients' dtype

    Examples
    --------
    >>> import numpy as np
    >>> float(global_norm({"w": np.array([3.0]), "b": np.array([[4.0]])}))
    5.0
    """
    return _norm(backend_of(grads, "grads").xp, grads)


def clip_by_global_norm(grads: Arrays, max_norm: float) -> tuple[Arrays, Array]:
    """The gradients, scaled down together where their global norm is above `max_norm`.

    Below it, a norm of zero included, they come back bit for bit. Where the norm is not finite no direction
    can be trusted: all gradients come back as zeros, so that one overflow does not make every parameter NaN,
    and the norm tells. Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks"
    (ICML 2013), algorithm 1; PyTorch adds 1e-6 to the norm, and lets a norm that is not finite through.

    Parameters
    ----------
    grads : dict of arrays
    max_norm : float
        Finite, above zero.

    Returns
    -------
    grads : dict of arrays
    norm : array, shape ()
        Before scaling.

    Raises
    ------
    ValueError, TypeError
        If `max_norm` is not finite and above zero, or no number.

    Examples
    --------
    >>> import numpy as np
    >>> clipped, norm = clip_by_global_norm({"w": np.array([3.0, 4.0])}, max_norm=1.0)
    >>> clipped, float(norm)
    ({'w': array([0.6, 0.8])}, 5.0)
    """
    max_norm = check_number("max_norm", max_norm, positive=True)
    xp = backend_of(grads, "grads").xp
    norm = _norm(xp, grads)
    finite = xp.isfinite(norm)
    limit = xp.full_like(norm, max_norm)
    scale = limit / xp.maximum(xp.where(finite, norm, limit), limit)  # exactly 1 up to max_norm
    return {name: xp.where(finite, g * xp.astype(scale, g.dtype), 0.0) for name, g in grads.items()}, norm


def _norm(xp: Any, grads: Arrays) -> Array:
    squares = [xp.sum(g * g) for g in grads.values()]
    return xp.sqrt(sum(squares[1:], start=squares[0]))
