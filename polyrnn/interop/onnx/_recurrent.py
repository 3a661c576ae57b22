"""RNN, LSTM and GRU of ONNX, by polyrnn's layers: one for each direction.

What ONNX says on the left, where polyrnn has it on the right:

    blocks of W, R, B    LSTM i o f c, GRU z r h          i f g o, r z n
    blocks of P          i o f                            i f o
    activations          f g h; f g; f                    of i f g o h; r z n; the nonlinearity
    input_forget         f = 1 - i                        i = 1 - f: of -W_i, -R_i, -B_i, -P_i, W_f being unused; f must
                                                          have a complement 1 - f(x) = f'(-x)
    linear_before_reset  != 0                             reset_after
    layout               1                                N before T, also in the states

The reverse direction is the layer on the reversed sequence, with its padding in front, where the state stands still.
The final state of a sequence of length 0 is the initial one, since no step is taken; ONNX Runtime 1.32 has zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from ..._door import valid_steps
from ..._recurrent import LayerTape, Recurrent
from ...activations import ACTIVATIONS, activation
from .._converted import KINDS, OURS, Converted
from ._base import At, Attributes, Operator

THEIRS = {"rnn": "h", "lstm": "iofg", "gru": "zrn"}
DEFAULTS = {"rnn": ("tanh",), "lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}
PLACES = {"rnn": (0,), "lstm": (0, 0, 1, 0, 2), "gru": (0, 0, 1)}  # of the layer's activations in those of ONNX
WEIGHTS = (1, 2, 3, 7)  # W, R, B, P among the inputs
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
COMPLEMENTS: dict[str, Callable[..., tuple]] = {
    "sigmoid": lambda: (),
    "hard_sigmoid": lambda alpha, beta: (alpha, 1 - beta),
    "affine": lambda alpha, beta: (alpha, 1 - beta),
}
NAMES = {name.replace("_", ""): name for name in ACTIVATIONS}

Spec = str | tuple  # a name of ACTIVATIONS, with all of its constants if it has any


class Residual(NamedTuple):
    """What forward leaves for backward, by direction."""

    layers: tuple[Recurrent, ...]
    tapes: tuple[LayerTape, ...]


# ---- attributes -----------------------------------------------------------------------------------------------------


def functions(kind: str, attributes: dict[str, Any]) -> list[tuple[Spec, ...]]:
    """The activations of each direction, with their constants, which the lists have in order."""
    directions, default = _directions(attributes), DEFAULTS[kind]
    given = attributes["activations"] or default * len(directions)
    if len(given) != len(default) * len(directions):
        raise ValueError(f"activations={given}: expected {len(default)} for each of {len(directions)} directions")
    constants = {key: list(attributes[f"activation_{key}"] or ()) for key in ("alpha", "beta")}
    found = []
    for name in given:
        known = NAMES.get(name.lower().replace("_", ""))
        if known is None:
            raise ValueError(f"activations={given}: no {name!r}; expected some of {', '.join(NAMES)}")
        values = [
            constants[key].pop(0) if constants[key] else usual for key, usual in ACTIVATIONS[known].constants.items()
        ]
        if None in values:
            raise ValueError(f"activations={given}: {name} needs activation_alpha and activation_beta")
        spec = activation((known, *values), "activations")
        found.append((spec.name, *spec.constants) if spec.constants else spec.name)
    if any(constants.values()):
        raise ValueError(f"activation_alpha and activation_beta: more numbers than {given} have constants: {constants}")
    return [tuple(found[k : k + len(default)]) for k in range(0, len(found), len(default))]


def _directions(attributes: dict[str, Any]) -> tuple[bool, ...]:
    """Of each direction whether it is the reverse one."""
    if attributes["direction"] not in DIRECTIONS:
        raise ValueError(f"direction={attributes['direction']!r}; expected one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[attributes["direction"]]


def options(kind: str, attributes: dict[str, Any], specs: tuple[Spec, ...]) -> dict[str, Any]:
    """The layer's options, without the sizes; of activations that are the usual ones, none are named."""
    found: dict[str, Any] = {"clip": attributes["clip"] or None}
    usual = specs == DEFAULTS[kind]
    placed = tuple(specs[k] for k in PLACES[kind])
    if kind == "rnn":
        return found | ({} if usual else {"nonlinearity": placed[0]})
    if kind == "gru":
        found |= {"reset_after": bool(attributes["linear_before_reset"])}
    elif attributes["input_forget"]:
        name, *constants = specs[0] if isinstance(specs[0], tuple) else (specs[0],)
        if name not in COMPLEMENTS:
            raise ValueError(f"input_forget with the activation {name}; expected one of {', '.join(COMPLEMENTS)}")
        found |= {"coupled": True}
        placed = ((name, *COMPLEMENTS[name](*constants)) if constants else name, *placed[2:])
    return found | ({} if usual else {"activations": placed})


def _check(kind: str, attributes: dict[str, Any], outputs: tuple[str, ...], _: Any) -> None:
    """At load time: everything that the attributes say."""
    if attributes["clip"] is not None and not attributes["clip"] >= 0:
        raise ValueError(f"clip={attributes['clip']}; expected a number of at least 0, which is none")
    if attributes.get("layout", 0) not in (0, 1):
        raise ValueError(f"layout={attributes['layout']}; expected 0 or 1")
    for specs in functions(kind, attributes):
        options(kind, attributes, specs)
    if not attributes.get("output_sequence", 1) and outputs[0]:
        raise ValueError("output_sequence=0, and yet Y is an output")


# ---- parameters -----------------------------------------------------------------------------------------------------


def _blocks(array: Any, letters: str) -> dict[str, Any]:
    size = array.shape[0] // len(letters)
    return {letter: array[k * size : (k + 1) * size, ...] for k, letter in enumerate(letters)}


def to_ours(xp: Any, array: Any, theirs: str, ours: str, coupled: bool) -> Any:
    """The blocks of one direction in polyrnn's order."""
    found = _blocks(array, theirs)
    if coupled:
        found, ours = found | {"f": -found["i"]}, ours.replace("i", "")
    return xp.concat([found[letter] for letter in ours], axis=0)


def to_theirs(xp: Any, array: Any, theirs: str, ours: str, coupled: bool) -> Any:
    """Its backward, and its inverse: f, which is not used, is zero where i and f are coupled."""
    found = _blocks(array, ours.replace("i", "") if coupled else ours)
    if coupled:
        found = found | {"i": -found["f"], "f": xp.zeros_like(found["f"])}
    return xp.concat([found[letter] for letter in theirs], axis=0)


def parameters(xp: Any, kind: str, coupled: bool, d: int, W: Any, R: Any, B: Any = None, P: Any = None) -> dict:
    """The layer's, of one direction."""
    letters = THEIRS[kind], OURS[kind], coupled
    found = {"weight_ih_l0": to_ours(xp, W[d, ...], *letters), "weight_hh_l0": to_ours(xp, R[d, ...], *letters)}
    if B is not None:
        half = B.shape[1] // 2
        found |= {"bias_ih_l0": to_ours(xp, B[d, :half], *letters), "bias_hh_l0": to_ours(xp, B[d, half:], *letters)}
    return found if P is None else found | {"weight_peephole_l0": to_ours(xp, P[d, ...], "iof", "ifo", coupled)}


def _arrays(xp: Any, kind: str, coupled: bool, grads: list[dict]) -> tuple[Any, ...]:
    """The gradients of W, R, B and P of those of the layers' parameters; None for what is absent."""

    def stacked(name: str, theirs: str = THEIRS[kind], ours: str = OURS[kind]) -> Any:
        if name not in grads[0]:
            return None
        return xp.stack([to_theirs(xp, g[name], theirs, ours, coupled) for g in grads])

    b_ih, b_hh = stacked("bias_ih_l0"), stacked("bias_hh_l0")
    bias = None if b_ih is None else xp.concat((b_ih, b_hh), axis=1)
    peephole = stacked("weight_peephole_l0", "iof", "ifo")
    return stacked("weight_ih_l0"), stacked("weight_hh_l0"), bias, peephole


@functools.lru_cache(maxsize=256)
def _layer(kind: str, sizes: tuple[int, int], given: tuple[tuple[str, Any], ...]) -> Recurrent:
    return KINDS[kind](*sizes, **dict(given))


def layers(kind: str, attributes: dict[str, Any], W: Any, R: Any, B: Any = None, P: Any = None) -> list[Recurrent]:
    """A layer for each direction; ValueError if the weights' shapes do not fit."""
    specs, gates = functions(kind, attributes), len(THEIRS[kind])
    D, H, inputs = len(specs), R.shape[-1] if R.ndim else 0, W.shape[-1] if W.ndim else 0
    if attributes["hidden_size"] not in (None, H):
        raise ValueError(f"hidden_size={attributes['hidden_size']}, but R has the shape {tuple(R.shape)}")
    expected = {"W": (D, gates * H, inputs), "R": (D, gates * H, H), "B": (D, 2 * gates * H), "P": (D, 3 * H)}
    for (name, shape), array in zip(expected.items(), (W, R, B, P), strict=True):
        if array is not None and tuple(array.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(array.shape)}; expected {shape}, H = {H} of R")
    more = {"bias": B is not None} | ({"peephole": True} if P is not None else {})
    return [_layer(kind, (inputs, H), tuple({**options(kind, attributes, spec), **more}.items())) for spec in specs]


def converted(kind: str, attributes: dict[str, Any], W: Any, R: Any, B: Any = None, P: Any = None) -> Converted | None:
    """Both directions as one layer of polyrnn's; None if they are not: in reverse alone, or with other activations."""
    both = layers(kind, attributes, W, R, B, P)
    if attributes["direction"] == "reverse" or len(set(both)) > 1:
        return None
    fields = options(kind, attributes, functions(kind, attributes)[0])
    fields |= {"bias": B is not None, "bidirectional": len(both) == 2, "batch_first": bool(attributes.get("layout"))}
    fields |= {"peephole": True} if P is not None else {}
    layer = KINDS[kind](both[0].input_size, both[0].hidden_size, **fields)
    params: dict[str, numpy.ndarray] = {}
    for d, tail in enumerate(("", "_reverse")[: len(both)]):
        found = parameters(numpy, kind, bool(attributes.get("input_forget")), d, W, R, B, P)
        params |= {name + tail: array for name, array in found.items()}
    return Converted(layer, params)


# ---- the operators --------------------------------------------------------------------------------------------------


def _forward(
    kind: str,
    keep: bool,
    at: At,
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    lens: Any = None,
    h: Any = None,
    c: Any = None,
    P: Any = None,
) -> Any:
    """The outputs Y, Y_h and Y_c; with `keep` also what backward needs."""
    xp, swap, coupled = at.xp, bool(at.attributes.get("layout")), bool(at.attributes.get("input_forget"))
    own = layers(kind, at.attributes, W, R, B, P)
    x, h, c = (xp.moveaxis(a, 0, 1) if swap and a is not None else a for a in (X, h, c))
    if len(x.shape) != 3:
        raise ValueError(f"X has the shape {tuple(X.shape)}; expected three axes")
    for name, state in (("initial_h", h), ("initial_c", c)):
        if state is not None and state.shape[0] != len(own):
            raise ValueError(f"{name} has {state.shape[0]} directions; expected {len(own)}")
    valid = None if lens is None else valid_steps(at.backend, lens, x)
    ys, ends, tapes = [], [], []
    for d, (layer, reverse) in enumerate(zip(own, _directions(at.attributes), strict=True)):
        params = at.once(d, functools.partial(parameters, xp, kind, coupled, d, W, R, B, P))
        state = tuple(None if a is None else a[d : d + 1, ...] for a in (h, c)[: len(layer.cell.states)])
        arguments = params, _turned(xp, x, reverse), state, _turned(xp, valid, reverse)
        if keep:
            y, end, tape = layer.forward(*arguments)
            tapes.append(tape)
        else:
            y, end = layer(*arguments)
        ys.append(_turned(xp, y, reverse))
        ends.append(end if isinstance(end, tuple) else (end,))
    Y = xp.stack(ys, axis=1)
    last = [xp.concat(parts, axis=0) for parts in zip(*ends, strict=True)]
    outputs = (xp.permute_dims(Y, (2, 0, 1, 3)) if swap else Y, *[xp.moveaxis(a, 0, 1) if swap else a for a in last])
    return (outputs, Residual(tuple(own), tuple(tapes))) if keep else outputs


def _turned(xp: Any, array: Any, reverse: bool) -> Any:
    return xp.flip(array, axis=0) if reverse and array is not None else array


def _back(kind: str, at: At, residual: Residual, inputs: tuple, outputs: tuple, gradients: tuple) -> tuple:
    """The gradients of X, W, R, B, sequence_lens, initial_h, initial_c, P."""
    xp, swap, coupled = at.xp, bool(at.attributes.get("layout")), bool(at.attributes.get("input_forget"))
    dY, *dlast = (*gradients, None, None, None)[:3]
    dY = xp.permute_dims(dY, (1, 2, 0, 3)) if swap and dY is not None else dY
    dlast = [xp.moveaxis(a, 0, 1) if swap and a is not None else a for a in dlast]
    grads, dx, starts = [], None, []
    for d, (layer, reverse) in enumerate(zip(residual.layers, _directions(at.attributes), strict=True)):
        dy = None if dY is None else _turned(xp, dY[:, d, ...], reverse)
        dstate = tuple(None if a is None else a[d : d + 1, ...] for a in dlast[: len(layer.cell.states)])
        found = layer.backward(residual.tapes[d], dy, dstate)
        grads.append(found.params)
        part = _turned(xp, found.x, reverse)
        dx = part if dx is None else dx + part
        starts.append(found.state if isinstance(found.state, tuple) else (found.state,))
    first = [xp.concat(parts, axis=0) for parts in zip(*starts, strict=True)]
    dx, *first = [xp.moveaxis(a, 0, 1) if swap else a for a in (dx, *first)]
    dW, dR, dB, dP = _arrays(xp, kind, coupled, grads)
    return (dx, dW, dR, dB, None, *first, *[None] * (2 - len(first)), dP)[: len(inputs)]


COMMON: Attributes = {
    "hidden_size": ("int", None),
    "direction": ("string", "forward"),
    "activations": ("strings", None),
    "activation_alpha": ("floats", None),
    "activation_beta": ("floats", None),
    "clip": ("float", None),
}
OWN: dict[str, Attributes] = {
    "rnn": {},
    "lstm": {"input_forget": ("int", 0)},
    "gru": {"linear_before_reset": ("int", 0)},
}


def _versions(kind: str) -> tuple[Operator, ...]:
    """Opset 1 may leave Y out; 14 has `layout`. All else has been the same from the beginning."""
    counts = ((3, 8), (1, 3)) if kind == "lstm" else ((3, 6), (1, 2))
    newest = Operator(
        functools.partial(_forward, kind, False),
        functools.partial(_back, kind),
        {**COMMON, **OWN[kind], "layout": ("int", 0)},
        *counts,
        since=14,
        once=WEIGHTS,
        forward=functools.partial(_forward, kind, True),
        check=functools.partial(_check, kind),
    )
    middle = newest._replace(attributes={**COMMON, **OWN[kind]}, since=7)
    return middle._replace(attributes={**middle.attributes, "output_sequence": ("int", 0)}, since=1), middle, newest


RECURRENT = {kind.upper(): _versions(kind) for kind in KINDS}
