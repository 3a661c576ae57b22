"""The recurrent layers behind their doors: pure functions, which JAX compiles once for each (layer, backend).

They turn the door's layouts, (T, N, I), (N, T, I) or (T, I), into the core's, (T, I, N), and back.
"""

from __future__ import annotations

import functools
from typing import Any

from . import stack
from ._door import clean
from .backends import Backend
from .masks import fold, keep_mask


def run(static: tuple[Any, Backend], *arguments: Any) -> tuple[Any, Any]:
    layer, backend = static
    if backend.traces and not layer.traced:
        return differentiable(layer, backend)(*arguments)
    return over_time(False, layer, backend, *arguments)[:2]


def forward(static: tuple[Any, Backend], *arguments: Any) -> tuple:
    return over_time(True, *static, *arguments)


def over_time(
    keep: bool, layer: Any, backend: Backend, params: dict, x: Any, state: tuple, valid: Any, key: Any, masks: Any
) -> tuple[Any, Any, Any]:
    """From the layout of the door to that of the core, (T, I, N), and back."""
    xp, one = backend.xp, len(x.shape) == 2
    valid = None if valid is None else valid[:, None, :]
    inner = clean(xp, valid, inward(layer, xp, x))
    starts = initial(layer, xp, state, inner, params)
    dropped = between_layers(layer, xp, key, masks, inner)
    y, ends, tape = stack.forward(backend, layer._plan, params, inner, starts, valid, dropped, keep)
    return outward(layer, xp, y, one), pack(xp, ends, one), tape


def backward(
    static: tuple[Any, Backend], params: dict, tape: stack.Tape, like: Any, given: tuple, dy: Any, dstate: tuple
) -> tuple[dict, Any, Any]:
    layer, backend = static
    xp, one = backend.xp, len(like.shape) == 2
    x, valid, _ = tape.recurrences[0]
    dy = None if dy is None else clean(xp, valid, inward(layer, xp, dy))
    grads, dx, starts = stack.backward(backend, layer._plan, params, tape, dy, initial(layer, xp, dstate, x))
    for m, (names, _) in enumerate(layer._starts):
        for name, start in zip(names, starts, strict=True):
            grads[name] = xp.sum(start[m], axis=1) if given[m] is None else xp.zeros_like(params[name])
    return grads, outward(layer, xp, dx, one), pack(xp, starts, one)


def step(static: tuple[Any, Backend], params: dict, x: Any, state: tuple) -> tuple[Any, Any]:
    axis = 1 if static[0].batch_first else 0
    y, state = run(static, params, static[1].xp.expand_dims(x, axis=axis), state, None, None, None)
    return y[:, 0, :] if axis else y[0, ...], state


def inward(layer: Any, xp: Any, x: Any) -> Any:
    """(T, N, I), (N, T, I) or (T, I) as (T, I, N)."""
    if len(x.shape) == 2:
        return x[..., None]
    return xp.permute_dims(x, (1, 2, 0)) if layer.batch_first else x.mT


def outward(layer: Any, xp: Any, y: Any, one: bool) -> Any:
    if one:
        return y[..., 0]
    return xp.permute_dims(y, (2, 0, 1)) if layer.batch_first else y.mT


def initial(layer: Any, xp: Any, state: tuple, x: Any, params: dict | None = None) -> list[tuple]:
    """The parts (L*D, N, H) of a state, for each recurrence a tuple of (H, N).

    For an absent part zeros, or what `params` has learned for it.
    """
    each = range(layer._recurrences)
    found = []
    for m, (size, part) in enumerate(zip(layer._sizes, state, strict=True)):
        if part is None and params is not None and layer.learned_state:
            names = layer._starts[m][0]
            found.append([xp.broadcast_to(params[name][:, None], (size, x.shape[2])) for name in names])
        elif part is None:
            zeros = xp.zeros((size, x.shape[2]), dtype=x.dtype, device=getattr(x, "device", None))
            found.append([zeros for _ in each])
        elif part.ndim == 2:
            found.append([part[k, :, None] for k in each])
        else:
            found.append([part[k, ...].mT for k in each])
    return list(zip(*found, strict=True))


def pack(xp: Any, states: list[tuple], one: bool) -> Any:
    """The states of all recurrences, (H, N) each part, as the door has them: h or (h, c), (L*D, N, H)."""
    if len(states) == 1:
        parts = [part[None, ...] for part in states[0]]
    else:
        parts = [xp.stack(each) for each in zip(*states, strict=True)]
    parts = [part[..., 0] if one else part.mT for part in parts]
    return tuple(parts) if len(parts) > 1 else parts[0]


def between_layers(layer: Any, xp: Any, key: Any, masks: Any, x: Any) -> tuple:
    """The masks between the layers, (T, D*P, N) or None each."""
    between = range(layer.num_layers - 1)
    if masks is not None:
        return tuple(inward(layer, xp, masks[f"dropout_l{k}"]) for k in between)
    if key is None:
        return (None,) * len(between)
    device = getattr(x, "device", None)
    shape = (x.shape[0], x.shape[2], len(layer._plan.layers[0]) * layer._sizes[0])
    return tuple(keep_mask(xp, fold(xp, key, k, device), shape, layer.dropout, device).mT for k in between)


@functools.cache
def differentiable(layer: Any, backend: Backend) -> Any:
    """The layer as a function whose derivative is the hand-written one."""

    def function(*arguments: Any) -> Any:
        return over_time(False, layer, backend, *arguments)[:2]

    def keeping(params: dict, x: Any, state: tuple, *arguments: Any) -> tuple[Any, Any]:
        y, end, tape = over_time(True, layer, backend, params, x, state, *arguments)
        return (y, end), (params, tape, x[:0, ...], state)

    def reverse(kept: tuple, above: tuple) -> tuple:
        params, tape, like, state = kept
        dy, dstate = above
        parts = dstate if isinstance(dstate, tuple) else (dstate,)
        grads, dx, start = backward((layer, backend), params, tape, like, state, dy, parts)
        starts = start if isinstance(start, tuple) else (start,)
        dstart = tuple(None if s is None else d for s, d in zip(state, starts, strict=True))
        return grads, dx, dstart, None, None, None  # none for what is valid, the seed's key and the masks

    return backend.custom_vjp(function, keeping, reverse)
