"""The contract that every module keeps, and the half of it that modules without state share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from ._door import FLOATS, check_array, clean, dtype_name, valid_steps
from .backends import Backend, backend_of
from .backends import backend as open_backend


class Gradients(NamedTuple):
    """What `backward` returns.

    Attributes
    ----------
    params : dict
        The gradients of the parameters, under the same keys.
    x : array or None
        The gradient of the input; None if it is made of integers.
    state : array, tuple or None
        The gradient of the initial state, of the state's form.
    """

    params: dict
    x: Any
    state: Any


class Module:
    """An immutable, hashable description of a function with parameters; the parameters are a flat dict beside it."""

    batch_first: bool = False  # whether x is (N, T, ...)
    stepwise: bool = False  # whether it takes each step by itself, so that x need not have an axis of time
    pools: bool = False  # whether y has lost x's axis of time
    ensemble: int = 0  # the number of networks that it is, each with its own parameters along their first axis; 0: one

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' names and shapes."""
        return {}

    def draw(self, rng: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """The initial parameters in float64, on the host."""
        return {}

    def init(self, seed: Any = 0, backend: Any = None, dtype: str = "float32") -> dict[str, Any]:
        """Fresh parameters: the same numbers on every backend, since NumPy draws them on the host.

        Parameters
        ----------
        seed : int or numpy.random.Generator
            Where the numbers come from.
        backend : str or Backend, optional
            Where they go; by default POLYRNN_BACKEND, else NumPy.
        dtype : str
            "float32" or "float64".

        Returns
        -------
        dict of str to array
        """
        chosen = open_backend(backend)
        if not isinstance(dtype, str):
            dtype = getattr(dtype, "name", None) or numpy.dtype(dtype).name
        if dtype not in FLOATS:
            raise ValueError(f"dtype={dtype!r}: expected a floating one, such as 'float32' or 'float64'")
        try:
            rng = numpy.random.default_rng(seed)
        except (TypeError, ValueError) as error:
            expected = "expected a whole number of at least 0, or a numpy.random.Generator"
            raise type(error)(f"seed={seed!r}: {expected}") from error
        drawn = self.draw(rng)
        return chosen.asarray(drawn, dtype=dtype)

    def __call__(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any]:
        """The output and the new state, as `forward` gives them, with nothing kept for a backward pass."""
        y, state, _ = self.forward(params, x, state, lengths, seed, masks)
        return y, state

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, Any, Any]:
        """The output, the new state, and the tape that `backward` needs."""
        raise NotImplementedError

    def backward(self, tape: Any, dy: Any = None, dstate: Any = None) -> Gradients:
        """The gradients of everything, from those of the output and of the final state; an absent one means zero."""
        raise NotImplementedError

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, Any]:
        """One time step: x without the time axis -> y, state."""
        raise NotImplementedError


class Tape(NamedTuple):
    """What a stateless module's forward leaves for its backward."""

    params: dict
    kept: Any
    valid: Any
    y: Any


class Stateless(Module):
    """A module without state: it gives `_run` and `_back`, on arrays of any leading shape."""

    stepwise = True

    def _check(self, params: dict, x: Any) -> Backend:
        raise NotImplementedError

    def _run(self, backend: Backend, params: dict, x: Any, seed: Any, masks: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def _back(self, backend: Backend, params: dict, kept: Any, dy: Any) -> tuple[dict, Any]:
        raise NotImplementedError

    def forward(
        self, params: dict, x: Any, state: Any = None, lengths: Any = None, seed: Any = None, masks: Any = None
    ) -> tuple[Any, None, Tape]:
        """The output (T, N, ...), no state, and the tape; with lengths, padding is read as zero and put out as zero."""
        if state is not None:
            raise ValueError(f"state: {type(self).__name__} has none; expected None")
        found = self._check(params, x)
        valid = None
        if lengths is not None:
            if x.ndim < 2:
                raise ValueError(f"x has shape {tuple(x.shape)}; with lengths it must start with (T, N)")
            if getattr(lengths, "ndim", 1) == 3:  # what Sequential says of x (E, T, N, ...)
                valid = lengths
            elif self.ensemble:
                valid = valid_steps(found, lengths, x[0, ...])[None, ...]
            else:
                valid = valid_steps(found, lengths, x)
            x = clean(found.xp, valid, x)
        y, kept = self._run(found, params, x, seed, masks)
        return clean(found.xp, valid, y), None, Tape(params, kept, valid, y)

    def backward(self, tape: Tape, dy: Any = None, dstate: Any = None) -> Gradients:
        """The gradients of the parameters and of x; dy of the output's shape, or None for zero (then x is None too)."""
        if dstate is not None:
            raise ValueError(f"dstate: {type(self).__name__} has no state; expected None")
        found = backend_of((tape.params, tape.y, dy), "tape and dy")
        if dy is None:
            return Gradients({name: found.xp.zeros_like(w) for name, w in tape.params.items()}, None, None)
        check_array("dy", dy, tape.y.shape, dtype_name(tape.y))
        grads, dx = self._back(found, tape.params, tape.kept, clean(found.xp, tape.valid, dy))
        return Gradients(grads, clean(found.xp, tape.valid, dx), None)

    def step(self, params: dict, x: Any, state: Any = None) -> tuple[Any, None]:
        """One time step: x (N, ...) -> y (N, ...)."""
        return self(params, x, state)
