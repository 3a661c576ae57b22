"""Losses: the value and its gradient side by side.

Each is a mean over the entries that count, so that its gradient does not grow with the batch, and 0 with zero
gradients when none counts. What stands in an entry that does not count, NaN included, changes nothing.
"""

from math import prod
from typing import Any, NamedTuple, TypeAlias

from .backends import Backend, backend_of

__all__ = ["Loss", "mean_squared_error", "softmax_cross_entropy"]

Array: TypeAlias = Any


class Loss(NamedTuple):
    """A loss and its gradient.

    Attributes
    ----------
    value : array, shape ()
        The mean over the entries that count.
    gradient : array
        Its derivative by the first argument, in that argument's shape.
    """

    value: Array
    gradient: Array


def softmax_cross_entropy(logits: Array, labels: Array, mask: Array | None = None) -> Loss:
    r"""Cross-entropy of the softmax of logits, in nats per entry.

    The hazard: exp overflows at large logits, and log(softmax) is -inf where softmax underflows. The largest
    logit of an entry is subtracted first, and the logarithm taken of the sum, never of a probability:

        s_k       = z_k - max_j z_j
        value     = mean over entries of  log(sum_j exp(s_j)) - s_label
        gradient  = (softmax(z)_k - [k = label]) / count

    A logit of -inf takes its class out; a label on it costs inf. Logits of +inf or NaN that count give NaN.

    Parameters
    ----------
    logits : array, float, shape (..., V)
        Unnormalised log-probabilities.
    labels : array, integer, shape (...)
        The classes, 0 <= label < V. Checked once a call (on a GPU this waits for the device); under a JAX
        trace, where values cannot be seen, they are clamped into that range instead. Where the mask is False,
        any value.
    mask : array, bool, shape (...), optional
        True where an entry counts; by default all do.

    Returns
    -------
    Loss
        `value` of shape () and `gradient` of shape (..., V), in the logits' dtype.

    Raises
    ------
    TypeError
        If the arrays are of two backends, or a dtype is of the wrong kind.
    ValueError
        If a shape does not fit (nothing is broadcast), or a label is out of range.

    Notes
    -----
    The gradient of a softmax under cross-entropy: Bridle, "Probabilistic interpretation of feedforward
    classification network outputs" (1990). Bits per character are the value divided by log 2.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.zeros((2, 4))
    >>> value, gradient = softmax_cross_entropy(logits, np.array([0, 3]), mask=np.array([True, False]))
    >>> round(float(value), 4)  # log 4
    1.3863
    >>> gradient
    array([[-0.75, 0.25, 0.25, 0.25],
           [ 0.  , 0.  , 0.  , 0.  ]])
    """
    backend = backend_of((logits, labels, mask), "logits, labels, mask")
    _require(backend, "logits", logits, "real floating")
    _require(backend, "labels", labels, "integral")
    if len(logits.shape) == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: shape {_shape(logits)}; expected (..., V) with at least one class")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels: shape {_shape(labels)}; expected {_shape(logits)[:-1]}, that of logits "
            f"{_shape(logits)} without the last axis"
        )
    if mask is not None:
        _require(backend, "mask", mask, "bool")
        if mask.shape != labels.shape:
            raise ValueError(f"mask: shape {_shape(mask)}; expected that of labels, {_shape(labels)}")
    labels = _valid_labels(backend, labels, mask, logits.shape[-1])
    return _softmax_cross_entropy(backend.xp, logits, labels, mask, backend.device)


def mean_squared_error(prediction: Array, target: Array, mask: Array | None = None) -> Loss:
    """Mean of the squared differences.

        value     = mean over elements of (prediction - target)^2
        gradient  = 2 (prediction - target) / count

    The hazard: squares overflow where differences do not (in float32 above about 1.8e19); the gradient stays
    right. The convention is PyTorch's and NumPy's: no factor 1/2, and a mean over all axes.

    Parameters
    ----------
    prediction, target : array, float, shape (...)
        Of one shape and dtype.
    mask : array, bool, optional
        True where an element counts; of the prediction's shape, or of that shape without the last axis, which
        then counts whole.

    Returns
    -------
    Loss
        `value` of shape () and `gradient` of the prediction's shape and dtype.

    Raises
    ------
    TypeError
        If the arrays are of two backends, or a dtype is of the wrong kind.
    ValueError
        If a shape does not fit (nothing is broadcast).

    Examples
    --------
    >>> import numpy as np
    >>> value, gradient = mean_squared_error(np.array([1.0, 4.0]), np.array([1.0, 1.0]))
    >>> float(value), gradient
    (4.5, array([0., 3.]))
    """
    backend = backend_of((prediction, target, mask), "prediction, target, mask")
    _require(backend, "prediction", prediction, "real floating")
    if target.dtype != prediction.dtype:
        raise TypeError(f"target: dtype {target.dtype}; expected that of prediction, {prediction.dtype}")
    if target.shape != prediction.shape:
        raise ValueError(f"target: shape {_shape(target)}; expected that of prediction, {_shape(prediction)}")
    if mask is not None:
        _require(backend, "mask", mask, "bool")
        if mask.shape != prediction.shape and mask.shape != prediction.shape[:-1]:
            raise ValueError(
                f"mask: shape {_shape(mask)}; expected that of prediction, {_shape(prediction)}, "
                f"or {_shape(prediction)[:-1]}"
            )
    return _mean_squared_error(backend.xp, prediction, target, mask)


def _softmax_cross_entropy(xp: Any, logits: Array, labels: Array, mask: Array | None, device: Any) -> Loss:
    classes = logits.shape[-1]
    if mask is not None:  # before the arithmetic: after it, 0 * NaN would be NaN
        logits = xp.where(mask[..., None], logits, 0.0)
        labels = xp.where(mask, labels, 0)
    largest = xp.max(logits, axis=-1, keepdims=True)
    exponentials = xp.exp(logits - largest)
    total = xp.sum(exponentials, axis=-1, keepdims=True)
    labels = labels[..., None]
    entries = (xp.log(total) + (largest - xp.take_along_axis(logits, labels, axis=-1)))[..., 0]

    weight = _weight(xp, logits, mask, prod(labels.shape))
    if mask is None:
        value, share = xp.sum(entries) * weight, weight
    else:
        value = xp.sum(xp.where(mask, entries, 0.0)) * weight
        share = (xp.astype(mask, logits.dtype) * weight)[..., None]
    chosen = xp.astype(labels, xp.int32) == xp.arange(classes, dtype=xp.int32, device=device)
    gradient = exponentials * (share / total) - xp.astype(chosen, logits.dtype) * share
    return Loss(value, gradient)


def _mean_squared_error(xp: Any, prediction: Array, target: Array, mask: Array | None) -> Loss:
    if mask is not None:  # before the subtraction, as above
        if len(mask.shape) < len(prediction.shape):
            mask = xp.broadcast_to(mask[..., None], prediction.shape)
        prediction, target = xp.where(mask, prediction, 0.0), xp.where(mask, target, 0.0)
    difference = prediction - target
    weight = _weight(xp, prediction, mask, prod(prediction.shape))
    return Loss(xp.sum(difference * difference) * weight, difference * (2 * weight))


def _weight(xp: Any, like: Array, mask: Array | None, size: int) -> Any:
    """1 / the number of entries that count, or 1 where none does."""
    if mask is None:
        return 1 / max(size, 1)
    return 1 / xp.maximum(xp.sum(xp.astype(mask, like.dtype)), 1.0)


def _valid_labels(backend: Backend, labels: Array, mask: Array | None, classes: int) -> Array:
    """The labels in the dtype of an index, checked where their values can be seen, clamped where not."""
    xp = backend.xp
    index = xp.__array_namespace_info__().default_dtypes()["indexing"]  # PyTorch takes no other
    labels = xp.astype(labels, index, copy=False)
    bad = (labels < 0) | (labels >= classes)
    if mask is not None:
        bad = bad & mask
    any_bad = xp.any(bad)
    if not backend.is_concrete(any_bad):
        return xp.clip(labels, 0, classes - 1)
    if bool(any_bad):
        _, *first = (int(axis[0]) for axis in backend.to_numpy(bad)[None].nonzero())
        position = tuple(first)
        label = int(backend.to_numpy(labels)[position])
        raise ValueError(f"labels: {label} at {position}; expected 0 <= label < {classes}, the number of classes")
    return labels


def _require(backend: Backend, name: str, array: Array, kind: str) -> None:
    if not backend.xp.isdtype(array.dtype, kind):
        article = "an" if kind[0] in "aeiou" else "a"
        raise TypeError(f"{name}: dtype {array.dtype}; expected {article} {kind} dtype")


def _shape(array: Array) -> tuple[int, ...]:
    return tuple(array.shape)
