"""The recurrent layers behind their doors: pure functions, which JAX compiles once for each (layer, backend).

They turn the door's layouts, (T, N, I), (N, T, I), (T, I) or with an ensemble's axis in front (E, T, N, I), into the
core's, (T, I, N) or (T, E, I, N), and back.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from . import stack
from ._door import clean
from .backends import Backend


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
    """From the layout of the door to that of the core and back."""
    xp, one = backend.xp, len(x.shape) == 2
    valid = None if valid is None else valid[:, None, None, :] if layer.ensemble else valid[:, None, :]
    inner = clean(xp, valid, inward(layer, xp, x))
    starts = initial(layer, xp, state, inner, params)
    plan = plan_for(layer, inner)
    given = None if masks is None else {name: mask_inward(layer, xp, name, mask, one) for name, mask in masks.items()}
    y, ends, tape = stack.forward(backend, plan, params, inner, starts, valid, given, key, keep)
    return outward(layer, xp, y, one), pack(layer, xp, ends, one), tape


def backward(
    static: tuple[Any, Backend, bool],
    params: dict,
    tape: stack.Tape,
    like: Any,
    given: tuple,
    dy: Any,
    dstate: tuple,
) -> tuple[dict, Any, Any]:
    layer, backend, each = static
    xp, one = backend.xp, len(like.shape) == 2
    x, noise, _ = tape.recurrences[0]
    dy = None if dy is None else clean(xp, noise.valid, inward(layer, xp, dy))
    dstates = initial(layer, xp, dstate, x)
    grads, dx, starts = stack.backward(backend, plan_for(layer, x), params, tape, dy, dstates, each)
    for m, (names, _) in enumerate(layer._starts):
        for name, start in zip(names, starts, strict=True):
            last = start[m].ndim - 1
            of_each = xp.permute_dims(start[m], (last, *range(last)))
            of_each = of_each if given[m] is None else xp.zeros_like(of_each)
            grads[name] = of_each if each else xp.sum(of_each, axis=0)
    if layer.ensemble and len(like.shape) == 3:  # the members share x
        dx = xp.sum(dx, axis=1)
    return grads, outward(layer, xp, dx, one), pack(layer, xp, starts, one)


def step(static: tuple[Any, Backend], params: dict, x: Any, state: tuple) -> tuple[Any, Any]:
    layer, backend = static
    once = None if layer.ensemble else stack.stepper(backend, layer._plan, x)
    if once is not None:
        xp, inside = backend.xp, x.mT
        ends = stack.step(once, layer._plan, params, inside, initial(layer, xp, state, inside, params))
        return xp.asarray(ends[-1][0].mT, copy=True), pack(layer, xp, ends, False)  # y and state share no memory
    axis = len(x.shape) - 2 + (1 if layer.batch_first else 0)
    y, state = run(static, params, backend.xp.expand_dims(x, axis=axis), state, None, None, None)
    axis = len(y.shape) - (2 if layer.batch_first else 3)
    return y[(*[slice(None)] * axis, 0, ...)], state


def plan_for(layer: Any, x: Any) -> stack.Plan:
    """The layer's plan; with remat="auto" the segments are as long as there are many."""
    plan = layer._plan
    if plan.options.remat != "auto":
        return plan
    return plan._replace(options=plan.options._replace(remat=max(1, math.isqrt(x.shape[0]))))


def inward(layer: Any, xp: Any, x: Any) -> Any:
    """(T, N, I), (N, T, I) or (T, I) as (T, I, N); of an ensemble (E, T, N, I) as (T, E, I, N), E = 1 if shared."""
    if layer.ensemble:
        x = x[None, ...] if len(x.shape) == 3 else x
        return xp.permute_dims(x, (2, 0, 3, 1) if layer.batch_first else (1, 0, 3, 2))
    if len(x.shape) == 2:
        return x[..., None]
    return xp.permute_dims(x, (1, 2, 0)) if layer.batch_first else x.mT


def outward(layer: Any, xp: Any, y: Any, one: bool) -> Any:
    """The inverse; without an axis E in y there is none in the result."""
    if one:
        return y[..., 0]
    if len(y.shape) == 4:
        return xp.permute_dims(y, (1, 3, 0, 2) if layer.batch_first else (1, 0, 3, 2))
    return xp.permute_dims(y, (2, 0, 1)) if layer.batch_first else y.mT


def mask_inward(layer: Any, xp: Any, name: str, mask: Any, one: bool) -> Any:
    """A mask in x's layout, or (N, I) where it is the same at all steps, in that of the core."""
    if layer._masks[name].by_step:
        return inward(layer, xp, mask)
    return mask[:, None] if one else mask.mT


def initial(layer: Any, xp: Any, state: tuple, x: Any, params: dict | None = None) -> list[tuple]:
    """The parts (L*D, N, H) of a state, for each recurrence a tuple of (H, N).

    For an absent part zeros, or what `params` has learned for it.
    """
    each = range(layer._recurrences)
    lead = (layer.ensemble,) if layer.ensemble else ()
    found = []
    for m, (size, part) in enumerate(zip(layer._sizes, state, strict=True)):
        shape = (*lead, size, x.shape[-1])
        if part is None and params is not None and layer.learned_state:
            found.append([xp.broadcast_to(params[name][..., None], shape) for name in layer._starts[m][0]])
        elif part is None:
            zeros = xp.zeros(shape, dtype=x.dtype, device=getattr(x, "device", None))
            found.append([zeros for _ in each])
        elif lead:
            found.append([part[:, k, ...].mT for k in each])
        elif part.ndim == 2:
            found.append([part[k, :, None] for k in each])
        else:
            found.append([part[k, ...].mT for k in each])
    return list(zip(*found, strict=True))


def pack(layer: Any, xp: Any, states: list[tuple], one: bool) -> Any:
    """The states of all recurrences, (H, N) each part, as the door has them: h or (h, c), (L*D, N, H)."""
    axis = 1 if layer.ensemble else 0
    if len(states) == 1:  # by indexing, which costs NumPy a tenth of the time of expand_dims
        parts = [part[:, None, ...] if axis else part[None, ...] for part in states[0]]
    else:
        parts = [xp.stack(each, axis=axis) for each in zip(*states, strict=True)]
    parts = [part[..., 0] if one else part.mT for part in parts]
    return tuple(parts) if len(parts) > 1 else parts[0]


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
        grads, dx, start = backward((layer, backend, False), params, tape, like, state, dy, parts)
        starts = start if isinstance(start, tuple) else (start,)
        dstart = tuple(None if s is None else d for s, d in zip(state, starts, strict=True))
        return grads, dx, dstart, None, None, None  # none for what is valid, the seed's key and the masks

    return backend.custom_vjp(function, keeping, reverse)
