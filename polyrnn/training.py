"""Training: the value and gradient of a loss, one update of the parameters, and the mean loss over a text.

`value_and_grad` is the eager counterpart of JAX's; `train_step` joins it with an optimiser, and is compiled as
one function where the library compiles.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy

from ._door import INTEGERS, check_number, dtype_name, valid_steps
from ._module import Module
from .backends import Backend, backend_of
from .clipping import clip_by_global_norm, global_norm
from .losses import Loss
from .masks import fold, two_words
from .modules import Sequential
from .optimizers import Optimizer, apply_updates

__all__ = ["TrainStep", "evaluate", "initial_state", "train_step", "value_and_grad"]

Array: TypeAlias = Any
Arrays: TypeAlias = dict[str, Array]
LossFunction: TypeAlias = Callable[[Array, Array, Array | None], Loss]


def value_and_grad(model: Module, loss: LossFunction, has_aux: bool = False) -> Callable[..., tuple[Any, Arrays]]:
    """A function that returns the loss of a model and its gradient by the parameters.

    Parameters
    ----------
    model : Module
        With `forward` and `backward`.
    loss : callable
        loss(prediction, targets, mask) -> Loss, as `softmax_cross_entropy` and `mean_squared_error`.
    has_aux : bool
        Whether to return the final state too, for the next block of a long sequence.

    Returns
    -------
    callable
        f(params, x, targets, state=None, lengths=None, seed=None, masks=None, mask=None) -> value, grads; with
        `has_aux` (value, state), grads. `grads` is a dict with the keys of `params`. `mask` is the loss's: True
        where an entry counts. With `lengths` and without a `mask`, the steps of each sequence count; the targets
        must then start with (T, N). Of a model that pools over time they start with (N,), and each sequence counts.
        The other arguments are the model's.

    Notes
    -----
    The initial state is taken as a constant: truncated backpropagation through time.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.losses import mean_squared_error
    >>> model = pr.Linear(3, 2)
    >>> value, grads = value_and_grad(model, mean_squared_error)(
    ...     model.init(seed=0), np.ones((5, 4, 3), dtype="float32"), np.zeros((5, 4, 2), dtype="float32")
    ... )
    >>> value.shape, grads["weight"].shape
    ((), (2, 3))
    """

    def function(
        params: Arrays,
        x: Array,
        targets: Array,
        state: Any = None,
        lengths: Any = None,
        seed: Any = None,
        masks: Any = None,
        mask: Array | None = None,
    ) -> tuple[Any, Arrays]:
        y, end, tape = model.forward(params, x, state, lengths, seed, masks)
        if lengths is not None and mask is None and not model.pools:
            backend = backend_of((params, x), "params and x")
            members = model.ensemble
            own = x[0, ...] if members and len(x.shape) == 4 else x
            mask = valid_steps(backend, lengths, own, model.batch_first)
            mask = mask.mT if model.batch_first else mask  # in the layout of y
            mask = backend.xp.broadcast_to(mask, (members, *mask.shape)) if members else mask
        value, dy = loss(y, targets, mask)
        grads = model.backward(tape, dy).params
        return ((value, end) if has_aux else value), grads

    return function


class TrainStep(NamedTuple):
    """What one update returns.

    Attributes
    ----------
    params : dict of arrays
    optimizer_state : object
        Both for the next call.
    state : object
        The model's state after x, for the block that follows.
    value : array, shape ()
        The loss, before the update.
    norm : array, shape ()
        The global norm of the gradients, before clipping.
    """

    params: Arrays
    optimizer_state: Any
    state: Any
    value: Array
    norm: Array


def train_step(
    model: Module, loss: LossFunction, optimizer: Optimizer, clip_norm: float | None = None
) -> Callable[..., TrainStep]:
    """A function that makes one update: on JAX compiled as a whole, once for each shape of its arguments.

    Parameters
    ----------
    model : Module
    loss : callable
        As for `value_and_grad`.
    optimizer : Optimizer
    clip_norm : float, optional
        Scale the gradients down to this global norm where it is above.

    Returns
    -------
    callable
        step(params, optimizer_state, x, targets, state=None, seed=None, lengths=None, mask=None) -> TrainStep.
        `state` None is the beginning of the sequences. A `seed` switches dropout on; it is folded with the number
        of updates made so far, so that one seed serves for all steps. `lengths` and `mask` are those of
        `value_and_grad`.

    Raises
    ------
    ValueError, TypeError
        If `clip_norm` is not finite and above zero, or no number.

    Notes
    -----
    Nothing that is returned is waited for: on a GPU, read `value` every so many steps only. Under JAX's trace ids and
    labels out of range are clamped: check them beforehand.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.losses import softmax_cross_entropy
    >>> from polyrnn.optimizers import Adam
    >>> model, optimizer = pr.Sequential(pr.Embedding(11, 5), pr.LSTM(5, 7), pr.Linear(7, 11)), Adam(0.01)
    >>> params, state = model.init(seed=0), None
    >>> optimizer_state = optimizer.init(params)
    >>> step = train_step(model, softmax_cross_entropy, optimizer, clip_norm=1.0)
    >>> text = np.arange(12)[:, None] % 11
    >>> losses = []
    >>> for _ in range(30):
    ...     params, optimizer_state, _, value, _ = step(params, optimizer_state, text[:-1], text[1:])
    ...     losses.append(float(value))
    >>> losses[-1] < losses[0]
    True
    """
    if clip_norm is not None:
        clip_norm = check_number("clip_norm", clip_norm, positive=True, also=", or None")
    gradient = value_and_grad(model, loss, has_aux=True)

    @functools.cache
    def compiled(backend: Backend) -> Callable[..., TrainStep]:
        def update(
            params: Arrays, before: Any, x: Array, targets: Array, state: Any, key: Any, lengths: Any, mask: Any
        ) -> TrainStep:
            seed = None if key is None else fold(backend.xp, key, before.count, backend.device)
            (value, end), grads = gradient(params, x, targets, state, lengths, seed, None, mask)
            if clip_norm is None:
                norm = global_norm(grads)
            else:
                grads, norm = clip_by_global_norm(grads, clip_norm)
            updates, after = optimizer.update(grads, before, params)
            return TrainStep(apply_updates(params, updates), after, end, value, norm)

        return backend.jit(update)

    @functools.lru_cache(maxsize=8)
    def key_of(backend: Backend, seed: int) -> Array:
        # As an argument of a compiled function a Python int would have to fit in 32 bits.
        return backend.asarray(two_words(numpy, seed, "seed", None))

    def step(
        params: Arrays,
        optimizer_state: Any,
        x: Array,
        targets: Array,
        state: Any = None,
        seed: Any = None,
        lengths: Any = None,
        mask: Array | None = None,
    ) -> TrainStep:
        backend = backend_of((params, x, targets, state, mask), "params, x, targets, state and mask")
        if state is None:
            state = initial_state(model, params, x)
        if seed is not None:
            if not hasattr(optimizer_state, "count"):
                raise TypeError("seed: the optimiser's state has no `count` of updates to fold it with")
            seed = seed if hasattr(seed, "dtype") else key_of(backend, seed)
        if isinstance(lengths, (list, tuple)):
            lengths = backend.asarray(numpy.asarray(lengths))
        return compiled(backend)(params, optimizer_state, x, targets, state, seed, lengths, mask)

    return step


def evaluate(model: Module, loss: LossFunction, params: Arrays, windows: Iterable[tuple[Any, Any, Any]]) -> float:
    """The mean loss over a long sequence in windows, the state carried from each to the next.

    Parameters
    ----------
    model : Module
    loss : callable
        As for `value_and_grad`.
    params : dict of arrays
    windows : iterable of (x, targets, mask)
        Arrays of the host, as `data.evaluation_windows` makes them, of one shape; each is moved to the parameters'
        backend.

    Returns
    -------
    float
        The mean over all entries that count; nan where none does. For a softmax cross-entropy over characters,
        divide by log 2 for bits per character.

    Raises
    ------
    ValueError
        If the model pools over time: it has no output for each step.

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> from polyrnn.data import evaluation_windows
    >>> from polyrnn.losses import softmax_cross_entropy
    >>> model = pr.Sequential(pr.Embedding(11, 5), pr.LSTM(5, 7), pr.Linear(7, 11))
    >>> windows = evaluation_windows(np.arange(100) % 11, batch=1, time=16)
    >>> round(evaluate(model, softmax_cross_entropy, model.init(seed=0), windows))  # log 11 = 2.4
    2
    """
    if model.pools:
        raise ValueError(
            "model: it pools over time, while `evaluate` goes through one long sequence in windows; "
            "call the model, and the loss on what it puts out"
        )
    backend = backend_of(params, "params")
    compiled = _evaluation(model, loss, backend)
    state, total, count = None, 0.0, 0
    waiting: list[tuple[Array, int]] = []

    def read() -> None:
        nonlocal total, count
        for value, weight in waiting:
            total += float(value) * weight
            count += weight
        waiting.clear()

    for window in windows:
        x, targets, mask = backend.asarray(tuple(window))
        if state is None:
            state = initial_state(model, params, x)
        value, state = compiled(params, x, targets, state, mask)
        waiting.append((value, int(numpy.sum(window[2]))))
        if len(waiting) == 32:  # a device is waited for only now and then
            read()
    read()
    return total / count if count else float("nan")


@functools.lru_cache(maxsize=16)  # a fresh function would be compiled again at every call
def _evaluation(model: Module, loss: LossFunction, backend: Backend) -> Callable[..., tuple[Array, Any]]:
    def one(params: Arrays, x: Array, targets: Array, state: Any, mask: Array) -> tuple[Array, Any]:
        y, state = model(params, x, state)
        return loss(y, targets, mask).value, state

    return backend.jit(one)


def initial_state(model: Module, params: Arrays, x: Array) -> Any:
    """The state before the first step, as arrays of zeros in the form of the model's state.

    To a compiled function None and a state are two forms of argument, for each of which it is compiled; given this in
    the place of None, it meets one.

    Parameters
    ----------
    model : Module
    params : dict of arrays
    x : array (T, N, ...), or (N, T, ...) if the model is `batch_first`
        An input; only its shape and dtype matter.

    Returns
    -------
    array, tuple or None

    Examples
    --------
    >>> import numpy as np, polyrnn as pr
    >>> model = pr.GRU(3, 5)
    >>> initial_state(model, model.init(seed=0), np.ones((7, 2, 3), dtype="float32")).shape
    (1, 2, 5)
    """
    # Numbers have an axis of features behind that of time, ids have none; one sequence has no axis N before it.
    time = x.ndim - (1 if dtype_name(x) in INTEGERS else 2) if model.batch_first else 0
    time = 1 + time // 2 if model.ensemble and x.ndim == 4 else time
    _, state = model(params, x[(slice(None),) * time + (slice(0, 0), ...)])  # after no steps it is what it was
    return _unlearned(model, state)


def _unlearned(model: Module, state: Any) -> Any:
    """The state, but None where it is to be the one that the model learns."""
    if isinstance(model, Sequential):
        return tuple(_unlearned(member, part) for (_, member), part in zip(model.members, state, strict=True))
    return None if getattr(model, "learned_state", False) else state
