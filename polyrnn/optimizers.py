"""Optimisers: descriptions that turn gradients into updates, in optax's shape, with PyTorch's conventions.

    state            = optimizer.init(params)
    updates, state   = optimizer.update(grads, state, params)
    params           = apply_updates(params, updates)

Parameters, gradients, updates and moments are dicts of one set of names. Nothing is modified, everything
stays in the parameters' dtype and on their device, and nothing waits for a device. A state is a NamedTuple of
dicts of arrays and of the number of updates made so far, an int32 array of shape (), so that a jitted step
compiles once.

Augmented assignment acts on arrays that were made a line before, and saves memory where a library can.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from ._door import check_flag, check_number
from .backends import Backend, backend_of

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "AdamW",
    "Optimizer",
    "RMSProp",
    "RMSPropState",
    "SGDState",
    "apply_updates",
]

Array: TypeAlias = Any
Arrays: TypeAlias = dict[str, Array]
LearningRate: TypeAlias = float | Callable[[Array], Array]


class Optimizer(Protocol):
    """What an optimiser offers; `train_step` takes any object that has it and is hashable."""

    def init(self, params: Arrays) -> Any:
        """The state before the first update."""

    def update(self, grads: Arrays, state: Any, params: Arrays) -> tuple[Arrays, Any]:
        """What to add to the parameters, and the next state."""


class SGDState(NamedTuple):
    """The state of `SGD`.

    Attributes
    ----------
    count : array, int32, shape ()
        Updates made so far.
    velocity : dict or None
        None without momentum.
    """

    count: Array
    velocity: Arrays | None


class AdamState(NamedTuple):
    """The state of `Adam` and `AdamW`.

    Attributes
    ----------
    count : array, int32, shape ()
        Updates made so far.
    mean, square : dict
        Running means of the gradients and of their squares, both starting from zero.
    """

    count: Array
    mean: Arrays
    square: Arrays


class RMSPropState(NamedTuple):
    """The state of `RMSProp`.

    Attributes
    ----------
    count : array, int32, shape ()
        Updates made so far.
    square : dict
        Running means of the gradients' squares.
    velocity : dict or None
        None without momentum.
    """

    count: Array
    square: Arrays
    velocity: Arrays | None


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

        g'       = g + weight_decay p
        v        = momentum v + g'                          v = g' without momentum
        update   = -learning_rate v                         with nesterov -learning_rate (g' + momentum v)

    Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning"
    (ICML 2013), in PyTorch's form: the learning rate multiplies the velocity and is not part of it.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule: a function of the number of updates made so far.
    momentum : float
        Not negative; 0 for none.
    nesterov : bool
        Look ahead along the velocity; needs momentum.
    weight_decay : float
        The factor of an L2 penalty.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = SGD(learning_rate=0.5)
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"w": np.array([0.2, -0.4])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> apply_updates(params, updates)
    {'w': array([0.9, 2.2])}
    """

    learning_rate: LearningRate = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _settle(self, "momentum", "weight_decay")
        check_flag("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True: expected a momentum > 0 with it")

    def init(self, params: Arrays) -> SGDState:
        """The state before the first update."""
        backend = backend_of(params, "params")
        return SGDState(_no_updates(backend), _zeros(backend, params) if self.momentum else None)

    def update(self, grads: Arrays, state: SGDState, params: Arrays) -> tuple[Arrays, SGDState]:
        """What to add to the parameters, and the next state."""
        xp = _check(grads, params).xp
        rates = _Rates(xp, self.learning_rate, state.count)
        updates, velocity = {}, {}
        for name, p in params.items():
            g = grads[name]
            if self.weight_decay:
                g = g + self.weight_decay * p
            if state.velocity is not None:
                v = self.momentum * state.velocity[name]
                v += g
                velocity[name] = v
                g = g + self.momentum * v if self.nesterov else v
            updates[name] = -rates[p.dtype] * g
        return updates, SGDState(state.count + 1, None if state.velocity is None else velocity)


@dataclass(frozen=True)
class Adam:
    """Adam, with an L2 penalty.

        g'       = g + weight_decay p
        m        = beta1 m + (1 - beta1) g'
        v        = beta2 v + (1 - beta2) g'^2
        update   = -learning_rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    with t = 1 at the first update. Kingma and Ba, "Adam: a method for stochastic optimization" (ICLR 2015),
    algorithm 1.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule: a function of the number of updates made so far.
    betas : tuple of two floats
        0 <= beta < 1: how much of the running means of the gradients and of their squares is kept.
    eps : float
        Added to the root.
    weight_decay : float
        The factor of an L2 penalty.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Adam(learning_rate=0.1)
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"w": np.array([0.2, -0.4])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> np.round(apply_updates(params, updates)["w"], 6)  # the first step is as long as the learning rate
    array([0.9, 2.1])
    """

    learning_rate: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    _decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _settle(self, "eps", "weight_decay")
        expected = f"betas={self.betas!r}: expected two numbers, 0 <= beta < 1"
        try:
            betas = tuple(self.betas)  # a list would not hash
        except TypeError:
            raise TypeError(expected) from None
        if len(betas) != 2:
            raise ValueError(expected)
        checked = tuple(check_number(f"betas[{k}]", beta, below=1) for k, beta in enumerate(betas))
        object.__setattr__(self, "betas", checked)

    def init(self, params: Arrays) -> AdamState:
        """The state before the first update."""
        backend = backend_of(params, "params")
        return AdamState(_no_updates(backend), _zeros(backend, params), _zeros(backend, params))

    def update(self, grads: Arrays, state: AdamState, params: Arrays) -> tuple[Arrays, AdamState]:
        """What to add to the parameters, and the next state."""
        xp = _check(grads, params).xp
        beta1, beta2 = self.betas
        count = state.count + 1
        rates = _Rates(xp, self.learning_rate, state.count)
        corrections: dict[Any, tuple[Array, Array]] = {}
        mean, square, updates = {}, {}, {}
        for name, p in params.items():
            g = grads[name]
            if self.weight_decay and not self._decoupled:
                g = g + self.weight_decay * p
            mean[name] = m = _running_mean(beta1, state.mean[name], g)
            square[name] = v = _running_mean(beta2, state.square[name], g * g)
            if p.dtype not in corrections:
                # The fraction is multiplied out by scale = sqrt(1 - beta2^t): numbers are scaled, not arrays.
                scale = xp.sqrt(_one_minus_power(xp, beta2, count, p.dtype))
                factor = rates[p.dtype] * scale / _one_minus_power(xp, beta1, count, p.dtype)
                corrections[p.dtype] = -factor, self.eps * scale
            factor, eps = corrections[p.dtype]
            root = xp.sqrt(v)
            root += eps
            update = factor * m
            update /= root
            if self.weight_decay and self._decoupled:
                update -= (rates[p.dtype] * self.weight_decay) * p
            updates[name] = update
        return updates, AdamState(count, mean, square)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

        update   = Adam's update, its moments of g alone, - learning_rate weight_decay p

    Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR 2019), algorithm 2, in PyTorch's
    form: the learning rate multiplies the decay too.

    Parameters
    ----------
    learning_rate, betas, eps
        As in `Adam`.
    weight_decay : float
        The factor of the decay.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"w": np.array([0.0, 0.0])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> apply_updates(params, updates)
    {'w': array([0.95, 1.9 ])}
    """

    weight_decay: float = 1e-2

    _decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSProp:
    """Gradients divided by the root of the running mean of their squares.

        g'       = g + weight_decay p
        v        = alpha v + (1 - alpha) g'^2
        d        = g' / (sqrt(v) + eps)
        b        = momentum b + d                                    b = d without momentum
        update   = -learning_rate b

    Tieleman and Hinton, lecture 6.5 of "Neural networks for machine learning" (2012), in PyTorch's form: eps
    is added outside the root.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a schedule: a function of the number of updates made so far.
    alpha : float
        0 <= alpha < 1: how much of the running mean is kept.
    eps : float
        Added to the root.
    weight_decay : float
        The factor of an L2 penalty.
    momentum : float
        Not negative; 0 for none.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = RMSProp(learning_rate=0.1, alpha=0.75)
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"w": np.array([0.2, -0.4])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> np.round(apply_updates(params, updates)["w"], 6)
    array([0.8, 2.2])
    """

    learning_rate: LearningRate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _settle(self, "eps", "weight_decay", "momentum")
        object.__setattr__(self, "alpha", check_number("alpha", self.alpha, below=1))

    def init(self, params: Arrays) -> RMSPropState:
        """The state before the first update."""
        backend = backend_of(params, "params")
        velocity = _zeros(backend, params) if self.momentum else None
        return RMSPropState(_no_updates(backend), _zeros(backend, params), velocity)

    def update(self, grads: Arrays, state: RMSPropState, params: Arrays) -> tuple[Arrays, RMSPropState]:
        """What to add to the parameters, and the next state."""
        xp = _check(grads, params).xp
        rates = _Rates(xp, self.learning_rate, state.count)
        square, velocity, updates = {}, {}, {}
        for name, p in params.items():
            g = grads[name]
            if self.weight_decay:
                g = g + self.weight_decay * p
            square[name] = v = _running_mean(self.alpha, state.square[name], g * g)
            root = xp.sqrt(v)
            root += self.eps
            direction = g / root
            if state.velocity is not None:
                direction += self.momentum * state.velocity[name]
                velocity[name] = direction
            updates[name] = -rates[p.dtype] * direction
        return updates, RMSPropState(state.count + 1, square, None if state.velocity is None else velocity)


def apply_updates(params: Arrays, updates: Arrays) -> Arrays:
    """The parameters with the updates added.

    Parameters
    ----------
    params, updates : dict of arrays
        With the same names, shapes and dtypes.

    Returns
    -------
    dict of arrays

    Examples
    --------
    >>> import numpy as np
    >>> apply_updates({"w": np.array([1.0])}, {"w": np.array([-0.25])})
    {'w': array([0.75])}
    """
    _check(updates, params, "updates")
    return {name: p + updates[name] for name, p in params.items()}


class _Rates(dict):
    """The learning rate for each dtype: a number as it is, what a schedule gives cast to that dtype."""

    def __init__(self, xp: Any, learning_rate: LearningRate, count: Array) -> None:
        self.xp = xp
        self.rate = learning_rate(count) if callable(learning_rate) else learning_rate

    def __missing__(self, dtype: Any) -> Array:
        # A float leaves the dtype of an array alone; a float64 array, of shape () too, promotes float32.
        # (Not isinstance: numpy.float64 is a float.)
        rate = self.rate if type(self.rate) is float else self.xp.asarray(self.rate, dtype=dtype)
        return self.setdefault(dtype, rate)


def _running_mean(kept: float, mean: Array, new: Array) -> Array:
    """Kept * mean + (1 - kept) * new."""
    result = kept * mean
    result += (1 - kept) * new
    return result


def _one_minus_power(xp: Any, beta: float, count: Array, dtype: Any) -> Array:
    """1 - beta^count, without the cancellation that would cost a float32 four digits at beta = 0.999."""
    count = xp.asarray(count, dtype=dtype)
    return -xp.expm1(count * math.log(beta)) if beta else xp.ones_like(count)


def _no_updates(backend: Backend) -> Array:
    return backend.xp.zeros((), dtype=backend.xp.int32, device=backend.device)


def _zeros(backend: Backend, params: Arrays) -> Arrays:
    return {name: backend.xp.zeros_like(p) for name, p in params.items()}


def _check(grads: Arrays, params: Arrays, what: str = "grads") -> Backend:
    backend = backend_of((params, grads), f"params and {what}")
    if grads.keys() != params.keys():
        missing, extra = sorted(params.keys() - grads.keys()), sorted(grads.keys() - params.keys())
        raise ValueError(f"{what}: expected the names of params; missing {missing}, too many {extra}")
    for name, p in params.items():
        g = grads[name]
        if g.shape != p.shape:
            raise ValueError(
                f"{what}[{name!r}]: shape {tuple(g.shape)}; expected that of the parameter, {tuple(p.shape)}"
            )
        if g.dtype != p.dtype:
            raise TypeError(f"{what}[{name!r}]: dtype {g.dtype}; expected that of the parameter, {p.dtype}")
    return backend


def _settle(optimizer: Any, *names: str) -> None:
    """Check the learning rate and the numbers of those names, and keep them as Python floats.

    A NumPy scalar would promote float32 arrays.
    """
    rate = optimizer.learning_rate
    if not callable(rate):
        object.__setattr__(optimizer, "learning_rate", check_number("learning_rate", rate, also=", or a schedule"))
    for name in names:
        object.__setattr__(optimizer, name, check_number(name, getattr(optimizer, name)))
