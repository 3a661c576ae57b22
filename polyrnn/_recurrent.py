"""What the recurrent layers share: the door that checks, PyTorch's layouts and names, and what JAX compiles."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from . import _pure, initializers, recurrence, stack
from ._door import check_array, check_flag, check_params, check_rate, check_size, dtype_name, valid_steps
from ._module import Gradients, Module
from .backends import Backend, backend_of
from .cells import Cell
from .masks import two_words

_ACCEPTED = 1024  # kinds of arguments that a layer remembers to have checked


class LayerTape(NamedTuple):
    """What a layer's forward leaves for its backward."""

    params: dict
    stack: stack.Tape
    like: Any  # x without an entry: it tells the layout
    given: tuple  # of each part of the initial state: None where it was absent, else the part without an entry


@dataclass(frozen=True)
class Recurrent(Module):
    """What RNN, LSTM and GRU share: all but the cell."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    initializer: str | initializers.Scheme = field(default="pytorch", kw_only=True)
    learned_state: bool = field(default=False, kw_only=True)
    traced: bool = field(default=False, kw_only=True)
    input_dropout: float = field(default=0.0, kw_only=True)
    recurrent_dropout: float = field(default=0.0, kw_only=True)
    output_dropout: float = field(default=0.0, kw_only=True)
    zoneout_h: float = field(default=0.0, kw_only=True)
    remat: int | str = field(default=0, kw_only=True)
    ensemble: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_size("input_size", self.input_size)
        check_size("hidden_size", self.hidden_size)
        check_size("num_layers", self.num_layers)
        for name in ("bias", "batch_first", "bidirectional", "learned_state", "traced"):
            check_flag(name, getattr(self, name))
        for name in ("dropout", "input_dropout", "recurrent_dropout", "output_dropout", *self._zoneouts):
            object.__setattr__(self, name, check_rate(name, getattr(self, name)))
        if self.remat != "auto":
            if isinstance(self.remat, str):
                raise ValueError(f"remat={self.remat!r}: expected a whole number of at least 0, or 'auto'")
            check_size("remat", self.remat, least=0)
        check_size("ensemble", self.ensemble, least=0)
        if self.dropout and self.num_layers == 1:
            inherited = type(self).__post_init__ is Recurrent.__post_init__  # else one more function stands between
            warnings.warn(
                f"dropout={self.dropout!r} stands between layers, and num_layers=1: it does nothing",
                stacklevel=3 if inherited else 4,
            )
        if not callable(self.initializer) and self.initializer not in tuple(initializers.SCHEMES):
            known = ", ".join(map(repr, initializers.SCHEMES))
            raise ValueError(
                f"initializer={self.initializer!r}: expected one of {known}, an initializers.Chrono, or a function "
                "of (generator, cell, shapes, hidden_size) that returns the parameters of these shapes"
            )
        self._check_projection()
        if self.recurrent_dropout and not self.cell.drops_state:
            raise ValueError(
                f"recurrent_dropout={self.recurrent_dropout!r}: {type(self.cell).__name__} does not say that its "
                "products with h go through `dropped` (drops_state); expected 0"
            )

    def _check_projection(self) -> None:
        if self.proj_size != 0:
            raise ValueError(f"proj_size={self.proj_size!r}: only an LSTM has a projection; expected 0")

    @property
    def cell(self) -> Cell:
        """The cell's equations."""
        raise NotImplementedError

    @functools.cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The size of each state; that of the first is what one direction puts out."""
        return self.cell.state_sizes(self.hidden_size)

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for k, directions in enumerate(self._plan.layers):
            inputs = len(directions) * self._sizes[0] if k else self.input_size
            shapes = self.cell.shapes(inputs, self.hidden_size, self.bias)
            found |= {direction.names[name]: shape for direction in directions for name, shape in shapes.items()}
        found |= {name: (size,) for names, size in self._starts for name in names}
        return {name: self._members + shape for name, shape in found.items()}

    @functools.cached_property
    def _members(self) -> tuple[int, ...]:
        """The axis of an ensemble, if it is one."""
        return (self.ensemble,) if self.ensemble else ()

    @property
    def _zoneouts(self) -> tuple[str, ...]:
        """The names of the rates of zoneout."""
        return ("zoneout_h",)

    @functools.cached_property
    def _masks(self) -> dict[str, stack.Mask]:
        """The masks that its options ask for, by name."""
        return stack.masks(self._plan)

    @functools.cached_property
    def _plan(self) -> stack.Plan:
        own = self.cell.shapes(1, self.hidden_size, self.bias)
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        layers = (
            tuple(stack.Direction({name: f"{name}_l{k}{s}" for name in own}, f"_l{k}{s}", bool(s)) for s in suffixes)
            for k in range(self.num_layers)
        )
        rates = {f"zoneout_{name}": 0.0 for name in self.cell.states}
        rates |= {name: getattr(self, name) for name in self._zoneouts}
        zoneout = tuple(rates.values()) if any(rates.values()) else ()
        return stack.Plan(
            recurrence.Options(self.cell, zoneout, self.remat),
            tuple(layers),
            self.dropout,
            self.input_dropout,
            self.recurrent_dropout,
            self.output_dropout,
        )

    @functools.cached_property
    def _starts(self) -> tuple[tuple[list[str], int], ...]:
        """For each state, the names of its learned initial values in all recurrences, and their size."""
        if not self.learned_state:
            return ()
        suffixes = [direction.suffix for directions in self._plan.layers for direction in directions]
        states = zip(self.cell.states, self._sizes, strict=True)
        return tuple(([f"state_{name}{suffix}" for suffix in suffixes], size) for name, size in states)

    @functools.cached_property
    def _recurrences(self) -> int:
        return self.num_layers * (2 if self.bidirectional else 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes, PyTorch's: weight_ih_l0 (G*H, I), weight_hh_l0 (G*H, H), bias_ih_l0, ..."""
        return dict(self._shapes)

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """By the layer's initializer, one recurrence after the other; of an ensemble, one member after the other."""
        if not self.ensemble:
            return self._draw_member(rng)
        members = [self._draw_member(rng) for _ in range(self.ensemble)]
        return {name: numpy.stack([member[name] for member in members]) for name in self._shapes}

    def _draw_member(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        scheme = self.initializer if callable(self.initializer) else initializers.SCHEMES[self.initializer]
        found: dict[str, numpy.ndarray] = {}
        for direction in (direction for directions in self._plan.layers for direction in directions):
            shapes = {inside: self._shapes[name][len(self._members) :] for inside, name in direction.names.items()}
            gains = {name: numpy.ones(shape) for name, shape in shapes.items() if name.startswith("weight_layer_norm")}
            asked = {name: shape for name, shape in shapes.items() if name not in gains}
            drawn = scheme(rng, self.cell, asked, self.hidden_size)
            got = {name: numpy.shape(a) for name, a in drawn.items()} if isinstance(drawn, dict) else type(drawn)
            if got != asked:
                raise ValueError(f"initializer={self.initializer!r} returned {got}; expected arrays of shapes {asked}")
            drawn = drawn | gains
            found |= {name: drawn[inside] for inside, name in direction.names.items()}
        return found | {name: numpy.zeros(size) for names, size in self._starts for name in names}

    # ---- the doors ------------------------------------------------------------------------

    def __call__(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any]:
        """The outputs and the final state.

        L is `num_layers`, D the number of directions, P what one direction puts out: `proj_size`, else `hidden_size`.

        Parameters
        ----------
        params : dict
            The parameters, as `init` makes them.
        x : array (T, N, I), with `batch_first` (N, T, I); or one sequence, (T, I)
            The input sequences. Of an ensemble (T, N, I), which all members share, or (E, T, N, I).
        state : array or tuple of arrays (L*D, N, H), optional
            The initial state: h, for an LSTM (h, c); layer l and direction d stand at l*D + d. Zeros by default. h is
            (L*D, N, P) with a projection; for one sequence there is no axis N, for an ensemble E in front.
        lengths : array of integers (N,), optional
            The number of valid steps of each sequence, in any order, 0 allowed. Outputs past the end are zero, the
            final state is the one after the last valid step, a reverse direction starts there, and what stands in the
            padding changes nothing. Or a boolean array of x's shape without the last axis, True where a step is
            valid: at the others, wherever they are, the state stands still.
        seed : int or integer array, optional
            Switches all dropout on, and zoneout from the expected state to drawn ones.
        masks : dict of boolean arrays, optional
            Masks in place of those that a seed would give, all that the layer has: True where an element is kept, or a
            state moves. Of each step, in y's layout, (T, N, ...): "dropout_l0" (D*P), ..., of each layer but the last;
            "zoneout_h_l0" (P) and "zoneout_c_l0" (H), of each recurrence. The same at all steps, (N, ...):
            "input_dropout_l0" (I), then "input_dropout_l1" (D*P) and so on; "recurrent_dropout_l0" (P), of each
            recurrence; "output_dropout" (D*P). A reverse direction's end in "_l0_reverse". For one sequence there is no
            axis N; of an ensemble E stands in front, but not of "input_dropout_l0" where the members share x.

        Returns
        -------
        y : array (T, N, D*P), of x's layout
            h of the last layer at every step, the reverse direction's after the forward one's. Of an ensemble
            (E, T, N, D*P).
        state : array or tuple of arrays (L*D, N, H)
            The final state, of the form of the initial one.

        Raises
        ------
        ValueError
            For a wrong shape, a wrong set of parameters, or lengths out of range.
        TypeError
            For mixed backends, devices or dtypes.
        """
        backend, *arguments = self._enter(params, x, state, lengths, seed, masks)
        return backend.call(_pure.run, (self, backend), params, x, *arguments)

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any, LayerTape]:
        """The outputs, the final state, and the tape that `backward` needs; arguments as for the call."""
        backend, *arguments = self._enter(params, x, state, lengths, seed, masks)
        y, state, tape = backend.call(_pure.forward, (self, backend), params, x, *arguments)
        given = tuple([None if part is None else part[:0, ...] for part in arguments[0]])
        return y, state, LayerTape(params, tape, x[:0, ...], given)

    def backward(self, tape: LayerTape, dy: Any = None, dstate: Any = None, per_sample: bool = False) -> Gradients:
        """The gradients of the parameters, of x and of the initial state.

        Parameters
        ----------
        tape : LayerTape
            What this layer's `forward` returned; it stays whole and can be used again. It borrows x and the
            parameters: do not write into them in between.
        dy : array (T, N, D*P), of y's layout, optional
            The gradient of the outputs. None means zero.
        dstate : array or tuple of arrays (L*D, N, H), for an ensemble (E, L*D, N, H), optional
            The gradient of the final state; None, of all or of a part, means zero.
        per_sample : bool
            Whether the parameters' gradients are those of each example alone, with an axis N in front, as differential
            privacy and the study of single examples need them; their sum over N is the usual gradient. Of an ensemble
            they are (N, E, ...).

        Returns
        -------
        Gradients
            `params` under the parameters' names, `x` of x's shape, for an x that the members of an ensemble share the
            sum of theirs, `state` of the state's form.
        """
        if not isinstance(tape, LayerTape):
            raise TypeError(f"tape is a {type(tape).__name__}; expected what {type(self).__name__}.forward returned")
        check_flag("per_sample", per_sample)
        check_params(tape.params, self._shapes, f"the tape of this {type(self).__name__}")
        steps, *_, batch = tape.stack.recurrences[0].x.shape
        one, dtype = len(tape.like.shape) == 2, dtype_name(tape.like)
        parts = _split_state("dstate", dstate, self.cell.states)
        backend = backend_of((tape.like, dy, parts), "tape, dy and dstate")
        if dy is not None:
            size = len(self._plan.layers[0]) * self._sizes[0]
            shape, letters = self._form(steps, batch, size, "D*P", one)
            check_array("dy", dy, shape, dtype, letters)
        self._check_states("dstate", parts, () if one else (batch,), dtype)
        grads, dx, start = backend.call(_pure.backward, (self, backend, bool(per_sample)), *tape, dy, parts)
        return Gradients({name: grads[name] for name in self._shapes}, dx, start)  # JAX sorts the keys

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One time step: x (N, I) -> y (N, P) and the state, (L, N, H) each part, for streaming."""
        if self.bidirectional:
            raise ValueError("step: a bidirectional layer needs the whole sequence; expected bidirectional=False")
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) != 2 and not (self.ensemble and len(shape) == 3):
            also = f", or ({self.ensemble}, N, {self.input_size}) = (E, N, I)" if self.ensemble else ""
            raise ValueError(f"x has shape {shape}; expected (N, {self.input_size}) = (N, I){also}")
        backend, parts, *_ = self._enter(params, x[..., None, :] if self.batch_first else x[..., None, :, :], state)
        return backend.call(_pure.step, (self, backend), params, x, parts)

    # ---- their checks ---------------------------------------------------------------------

    def _enter(
        self, params: dict, x: Any, state: Any, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Backend, tuple, Any, Any, Any]:
        """Check everything -> the backend, the parts of the state or Nones, valid, the seed's key, the masks."""
        parts = _split_state("state", state, self.cell.states)
        try:  # what was found good once is good again: a call costs one look-up
            arrays = (*params.values(), x, *parts)
            key = (*params, *[None if a is None else (type(a), a.shape, a.dtype) for a in arrays])
            backend = self._accepted.get(key)
        except (AttributeError, TypeError):  # not a dict, or not all of them arrays: the checks say it better
            backend, key = None, None
        if backend is None:
            backend = self._check(params, x, parts)
            if len(self._accepted) >= _ACCEPTED:
                self._accepted.clear()
            if key is not None:
                self._accepted[key] = backend
        else:
            backend.check_device([a for a in arrays if a is not None])
        if lengths is None and seed is None and masks is None:
            return backend, parts, None, None, None
        return backend, parts, self._valid(backend, x, lengths), *self._dropout(backend, x, seed, masks)

    @functools.cached_property
    def _accepted(self) -> dict:
        """The backends by the names, types, shapes and dtypes that passed `_check`."""
        return {}

    def _check(self, params: dict, x: Any, parts: tuple) -> Backend:
        backend = backend_of((params, x, parts), "params, x and state")
        dtype = check_params(params, self._shapes, type(self).__name__)
        axes = len(x.shape)
        one = axes == 2 and not self.ensemble  # of an ensemble (E, T, I) and (T, N, I) could not be told apart
        shape, letters = self._form(None, None, self.input_size, "I", one, members=axes == 4)
        if axes not in ((3, 4) if self.ensemble else (2, 3)):
            letters += ", or of each member (E, ...)" if self.ensemble else ", or one sequence (T, I)"
        check_array("x", x, shape, dtype, letters)
        batch = () if one else (x.shape[-3 if self.batch_first else -2],)
        self._check_states("state", parts, batch, dtype)
        return backend

    def _form(
        self, steps: int | None, batch: int | None, last: int, letter: str, one: bool, members: bool = True
    ) -> tuple[tuple[int | None, ...], str]:
        """The shape of a sequence in the door's layout, in which None is any size, and its letters."""
        axes = (
            [("T", steps)]
            if one
            else [("N", batch), ("T", steps)]
            if self.batch_first
            else [("T", steps), ("N", batch)]
        )
        axes = [("E", self.ensemble), *axes] if self.ensemble and members else axes
        return (*[size for _, size in axes], last), f"({', '.join([name for name, _ in axes])}, {letter})"

    def _check_states(self, what: str, parts: tuple, batch: tuple[int, ...], dtype: str) -> None:
        for name, size, part in zip(self.cell.states, self._sizes, parts, strict=True):
            if part is not None:
                lead = "E, L*D" if self.ensemble else "L*D"
                letters = f"({lead}, {'N, ' if batch else ''}{'P' if size != self.hidden_size else 'H'})"
                check_array(f"{what} {name}", part, (*self._members, self._recurrences, *batch, size), dtype, letters)

    def _valid(self, backend: Backend, x: Any, lengths: Any) -> Any:
        """The mask (T, N) of valid steps."""
        if lengths is None:
            return None
        if len(x.shape) == 2:
            raise ValueError("lengths: x is one sequence, (T, I); cut it, or give x an axis N")
        return valid_steps(backend, lengths, x[0, ...] if len(x.shape) == 4 else x, self.batch_first)

    def _dropout(self, backend: Backend, x: Any, seed: Any, masks: Any) -> tuple[Any, Any]:
        """The key of the seed, and the masks."""
        if masks is not None:
            names = self._masks.keys()
            if not names:
                raise ValueError(f"masks: {type(self).__name__} has no dropout; expected None")
            if not isinstance(masks, dict):
                raise ValueError(f"masks is a {type(masks).__name__}; expected a dict of {', '.join(names)}")
            lacks, extra = [n for n in names if masks.get(n) is None], [str(n) for n in masks if n not in names]
            if lacks or extra:
                found = [
                    f"{what} {', '.join(some)}" for what, some in (("lacks", lacks), ("has unknown", extra)) if some
                ]
                raise ValueError(f"masks {' and '.join(found)}; expected a dict of {', '.join(names)}")
            backend_of((x, masks), "x and masks")
            for name, mask in masks.items():
                shape, letters = self._mask_form(name, x)
                check_array(f"masks[{name!r}]", mask, shape, "bool", letters, "a mask")
            return None, masks
        if seed is None or not self._masks:
            return None, None
        return two_words(backend.xp, seed, "seed", getattr(x, "device", None)), None

    def _mask_form(self, name: str, x: Any) -> tuple[tuple[int | None, ...], str]:
        """The shape of a mask, and its letters."""
        _, by_step, rows = self._masks[name]
        sizes = dict(zip(self.cell.states, self._sizes, strict=True))
        sizes |= {"x": self.input_size, "y": len(self._plan.layers[0]) * self._sizes[0]}
        size, members = sizes[rows], rows != "x" or len(x.shape) == 4
        letter = {"x": "I", "y": "D*P"}.get(rows, "H" if size == self.hidden_size else "P")
        one = len(x.shape) == 2
        steps, batch = (x.shape[0], None) if one else x.shape[-3:-1][:: -1 if self.batch_first else 1]
        if by_step:
            return self._form(steps, batch, size, letter, one, members)
        axes = [("E", self.ensemble)] * bool(self.ensemble and members) + [("N", batch)] * (not one)
        return (*[n for _, n in axes], size), f"({', '.join([n for n, _ in axes] + [letter])})"


def _split_state(name: str, state: Any, parts: tuple[str, ...]) -> tuple:
    """A state h or (h, c) as a tuple; None for what is absent."""
    if state is None:
        return (None,) * len(parts)
    if len(parts) == 1 and not isinstance(state, tuple):
        return (state,)
    if not isinstance(state, tuple) or len(state) != len(parts):
        expected = parts[0] if len(parts) == 1 else f"a tuple ({', '.join(parts)})"
        raise TypeError(f"{name} is {type(state).__name__}; expected {expected} of arrays, or None")
    return state
