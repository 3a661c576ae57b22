"""Layers and modules: as problems, and the public functions that check them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from .. import _pure, layers, masks
from .._door import clean
from .._module import Module, Stateless
from ..backends import Backend, available_backends, leaves
from ..backends import backend as open_backend
from ..modules import Sequential
from ..pooling import Pool
from ._examine import AGREEMENT, agree, distances, examine
from ._problem import Problem, cast, normal
from ._report import TOLERANCES, Report, Row

STEPPING = "step by step"  # in place of a method's name, for `step` against the whole call


def check_layer(
    layer: Module,
    *,
    x: Any = None,
    backend: Any = "numpy",
    dtype: str = "float64",
    steps: int = 7,
    batch: int = 3,
    lengths: Any = False,
    seed: int = 0,
    methods: Sequence[str] | None = None,
    tolerance: float | None = None,
    elementwise: int = 100,
) -> Report:
    """Compare a layer's hand-written gradients of every parameter, of x and of the initial state with others.

    Parameters, inputs and initial states are random and distinct, and so are the upstream gradients of the outputs and
    of each final state. With lengths, the padding of x and of the upstream gradient holds NaN, which must change
    nothing. References are found in float64 by the reference recurrence, without kernels; what they are compared with
    is what the layer does, kernels included. If the layer has states, `step` is then taken through the sequence, and
    must give the outputs and the final states of the whole call (without lengths and dropout, which it has not);
    where the layer has no `step`, is bidirectional or pools over time, the report says so.

    Parameters
    ----------
    layer : Module
        A recurrent layer, `Embedding`, `Linear`, `Dropout` (with a fixed seed, so a fixed mask), `Pool`, a
        `Sequential`, or a module of your own.
    x : array (T, N, ...), optional
        The input; random by default. For a module of your own that does not tell its input's size.
    backend : str or Backend
        Where the hand-written gradients are computed.
    dtype : {"float64", "float32"}
        In which dtype; references are always found in float64.
    steps, batch : int
        T and N.
    lengths : bool or sequence of int (N,)
        True: random lengths, among them T and, from three sequences on, 0.
    seed : int
        For everything random.
    methods : sequence of str, optional
        Of "jax.grad" (through the forward pass), "complex step", "differences"; by default all that can be used.
    tolerance : float, optional
        The largest relative error that counts as right; by default that of `TOLERANCES`.
    elementwise : int
        Inputs of at most so many elements are differenced element by element as well as along random directions.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For an unknown method, or one that cannot be used here.
    polyrnn.BackendUnavailable
        If the backend cannot run here.

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.gradcheck import check_layer
    >>> report = check_layer(pr.LSTM(3, 5), lengths=True, methods=["complex step"])
    >>> report.ok, [row.name for row in report.rows]
    (True, ['params.weight_ih_l0', 'params.weight_hh_l0', 'params.bias_ih_l0', 'params.bias_hh_l0', 'x',
            'state.0', 'state.1', 'outputs', 'final state.0', 'final state.1'])
    """
    problem = layer_problem(layer, x, steps, batch, lengths, seed)
    report = examine(problem, backend, dtype, methods, seed, tolerance, elementwise)
    allowed = TOLERANCES[STEPPING, dtype] if tolerance is None else tolerance
    try:
        rows = _stepping(layer, problem.inputs, open_backend(backend), dtype, allowed)
    except NotImplementedError as reason:
        return dataclasses.replace(report, skipped={**report.skipped, STEPPING: str(reason) or "there is no `step`"})
    return dataclasses.replace(report, rows=(*report.rows, *rows))


def compare_backends(
    layer: Module,
    *,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str] = ("float64", "float32"),
    steps: int = 7,
    batch: int = 3,
    lengths: Any = False,
    seed: int = 0,
) -> Report:
    """Compare a layer's outputs, final states and gradients on other backends with those of NumPy in float64.

    Agreement is not proof of correctness: the backends run the same lines, and a wrong derivative is equally wrong on
    all of them. It shows that a backend computes what the proven one does.

    Parameters
    ----------
    layer : Module
        As for `check_layer`.
    backends : sequence of str, optional
        By default all that can run here; those that cannot are listed with the reason.
    dtypes : sequence of str
        Which to run.
    steps, batch, lengths, seed
        As for `check_layer`.

    Returns
    -------
    Report

    Examples
    --------
    >>> import polyrnn as pr
    >>> from polyrnn.gradcheck import compare_backends
    >>> compare_backends(pr.GRU(3, 5), backends=["numpy"]).ok
    True
    """
    problem = layer_problem(layer, None, steps, batch, lengths, seed)
    found = available_backends()
    chosen = [name for name, a in found.items() if a.available] if backends is None else list(backends)
    skipped = {} if backends is not None else {n: str(a.reason) for n, a in found.items() if not a.available}
    reports = {(name, dtype): agree(problem, name, dtype) for name in chosen for dtype in dtypes}
    rows = [row._replace(name=f"{name} {dtype} {row.name}") for (name, dtype), r in reports.items() for row in r.rows]
    return Report(problem.title, tuple(rows), skipped, AGREEMENT)


def _stepping(layer: Module, inputs: dict, chosen: Backend, dtype: str, tolerance: float) -> list[Row]:
    """Outputs and final states of `step`, from step to step, against those of the whole call."""
    time = 1 if _any_is(layer, "batch_first") else 0
    if not leaves(inputs["state"]) or not inputs["x"].shape[time]:
        return []
    if _any_is(layer, "bidirectional"):
        raise NotImplementedError("a bidirectional layer needs the whole sequence")
    if layer.pools:
        raise NotImplementedError("pooling over time needs the whole sequence")
    # Weights as large as those of the gradients' check would blow rounding up from step to step in a wide layer.
    small = {name: a / a.shape[-1] ** 0.5 if a.ndim > 1 else a for name, a in inputs["params"].items()}
    params, x, state = cast((small, inputs["x"], inputs["state"]), dtype)
    with chosen.exact():
        params, state = chosen.asarray((params, state))
        whole = chosen.to_numpy(layer(params, chosen.asarray(x), state))
        outputs = []
        own = 1 if layer.ensemble and x.ndim == 4 else 0  # an axis E in front
        for x_t in numpy.moveaxis(x, time + own, 0):
            y, state = layer.step(params, chosen.asarray(x_t), state)
            outputs.append(y)
        found = [chosen.to_numpy(y) for y in outputs], chosen.to_numpy(state)
    return [
        *distances(
            "outputs",
            numpy.stack(found[0], axis=time + (1 if layer.ensemble else 0)),
            cast(whole[0], "float64"),
            dtype,
            STEPPING,
            tolerance,
        ),
        *distances("final state", found[1], cast(whole[1], "float64"), dtype, STEPPING, tolerance),
    ]


def _any_is(layer: Module, option: str) -> bool:
    """Whether the layer, or a member of a `Sequential`, has an option set."""
    if isinstance(layer, Sequential):
        return any(_any_is(member, option) for _, member in layer.members)
    return bool(getattr(layer, option, False))


# ---- layers and modules ----------------------------------------------------------------------------------------


def layer_problem(layer: Module, x: Any, steps: int, batch: int, lengths: Any, seed: int) -> Problem:
    """A layer at a random point."""
    host = open_backend("numpy")
    rng = numpy.random.default_rng([seed, 2])
    # Wide rows are smaller: a unit that is saturated hides its gradient in rounding.
    params: Any = {name: _scale(shape) * rng.standard_normal(shape) for name, shape in layer.shapes().items()}
    first = _any_is(layer, "batch_first")
    x = _input(layer, rng, *((batch, steps) if first else (steps, batch))) if x is None else numpy.asarray(x)
    own = 1 if layer.ensemble and x.ndim == 4 else 0  # an axis E in front
    steps, batch = x.shape[own : own + 2][:: -1 if first else 1]
    ends = _lengths(lengths, rng, steps, batch)
    valid = None if ends is None else numpy.arange(steps)[:, None] < numpy.asarray(ends)
    valid = valid.T if first and valid is not None else valid  # in x's layout
    x = poisoned(host, valid, x, own, 0.0)
    _, state = layer(params, x, lengths=ends, seed=seed)
    inputs = {"params": params, "x": x, "state": normal(rng, state)}
    traced, complex_forward = _traced(layer), _complex_forward(layer)

    def forward(chosen: Backend, given: Any) -> Any:
        return traced(given["params"], given["x"], given["state"], lengths=ends, seed=seed)

    def by_hand(chosen: Backend, given: Any, upstream: Any) -> tuple[Any, Any]:
        x = poisoned(chosen, valid, given["x"], own)
        y, state, tape = layer.forward(given["params"], x, given["state"], lengths=ends, seed=seed)
        dy, dstate = upstream
        members = 1 if layer.ensemble else 0
        dy = dy if layer.pools else poisoned(chosen, valid, dy, members)
        params, dx, before = layer.backward(tape, dy, dstate)
        return (y, state), {"params": params, "x": dx, "state": before}

    def analytic(given: Any) -> Any:
        return complex_forward(given["params"], given["x"], given["state"], valid, seed)  # type: ignore[misc]

    upstream = normal(rng, forward(host, inputs))
    title = describe(layer) + ("" if ends is None else f", lengths {ends}")
    return Problem(title, inputs, upstream, by_hand, forward, analytic if complex_forward else None)


def describe(layer: Module) -> str:
    """The layer's repr, without the options that have their default values."""
    if isinstance(layer, Sequential):
        return f"Sequential({', '.join(f'{name}={describe(member)}' for name, member in layer.members)})"
    if not dataclasses.is_dataclass(layer):
        return repr(layer)
    parts = []
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if field.default is dataclasses.MISSING:
            parts.append(f"{value!r}")
        elif value != field.default:
            parts.append(f"{field.name}={value!r}")
    return f"{type(layer).__name__}({', '.join(parts)})"


def _lengths(lengths: Any, rng: numpy.random.Generator, steps: int, batch: int) -> list[int] | None:
    if lengths is True:
        ends = numpy.linspace(steps, 0 if batch > 2 else steps // 2, batch).astype(int)
        return [int(n) for n in rng.permutation(ends)]
    return None if lengths is None or lengths is False else [int(n) for n in lengths]


def _scale(shape: tuple[int, ...]) -> float:
    return 0.5 * min(1.0, (5 / shape[-1]) ** 0.5) if len(shape) > 1 else 0.5


def _input(layer: Module, rng: numpy.random.Generator, *leading: int) -> Any:
    if isinstance(layer, Sequential):
        return _input(layer.members[0][1], rng, *leading)
    if ids := getattr(layer, "num_embeddings", None):
        return rng.integers(0, ids, leading)
    size = next((getattr(layer, n) for n in ("input_size", "in_features") if hasattr(layer, n)), 5)
    return rng.standard_normal((*leading, size))


def poisoned(chosen: Backend, valid: Any, array: Any, before: int = 0, poison: float = float("nan")) -> Any:
    """NaN where not valid, in an array of floating point numbers; ids stay. `before` counts the axes before (T, N)."""
    if valid is None or not chosen.xp.isdtype(array.dtype, "real floating"):
        return array
    mask = valid.reshape((1,) * before + valid.shape + (1,) * (array.ndim - valid.ndim - before))
    nan = chosen.xp.full_like(array, poison)
    return chosen.xp.where(chosen.asarray(numpy.broadcast_to(mask, array.shape).copy()), array, nan)


def _traced(layer: Module) -> Module:
    """The layer without its own derivative on JAX."""
    if isinstance(layer, Sequential):
        return Sequential(**{name: _traced(member) for name, member in layer.members})
    return dataclasses.replace(layer, traced=True) if isinstance(layer, layers.Recurrent) else layer


def _complex_forward(layer: Module) -> Callable | None:
    """(params, x, state, valid, seed) -> outputs on complex NumPy arrays, behind the doors, which refuse them."""
    host = open_backend("numpy")
    if isinstance(layer, Sequential):
        members = [(name, member, _complex_forward(member)) for name, member in layer.members]
        if not all(run for _, _, run in members):
            return None

        def sequential(params: dict, x: Any, state: tuple, valid: Any, seed: Any) -> tuple:
            states = []
            for k, (name, member, run) in enumerate(members):
                own = {key: params[f"{name}.{key}"] for key in member.shapes()}
                x, after = run(own, x, state[k], valid, masks.fold(host.xp, seed, k))  # type: ignore[misc]
                states.append(after)
                valid = None if member.pools else valid
            return x, tuple(states)

        return sequential
    if isinstance(layer, layers.Recurrent) and layer.cell.analytic:

        def recurrent(params: dict, x: Any, state: Any, valid: Any, seed: Any) -> tuple:
            start = state if isinstance(state, tuple) else (state,)
            key = None if seed is None else masks.two_words(host.xp, seed, "seed", None)
            valid = valid.T if valid is not None and layer.batch_first else valid
            return _pure.over_time(False, layer, host, params, x, start, valid, key, None)[:2]

        return recurrent
    if isinstance(layer, Pool):
        return lambda params, x, state, valid, seed: (layer._over_time(host.xp, x, valid)[0], None)
    if isinstance(layer, Stateless):

        def stateless(params: dict, x: Any, state: Any, valid: Any, seed: Any) -> tuple:
            y, _ = layer._run(host, params, clean(host.xp, valid, x), seed, None)
            return clean(host.xp, valid, y), None

        return stateless
    return None
