"""A problem examined on one backend: first the form of the gradients, then their values by every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy

from .._door import check_number
from ..backends import Backend, backend, tree_map
from ..kernels import use_kernels
from ._methods import METHODS, Settings, why_not
from ._problem import MISSING, Problem, cast, is_real, unknown, walk
from ._report import TOLERANCES, Report, Row

NOTHING = "every reference is zero: nothing was compared; take inputs that reach the outputs"
AGREEMENT = "Agreement of backends is not proof: they run the same lines. The gradients are proved by the methods."


def examine(
    problem: Problem,
    on: Any = "numpy",
    dtype: str = "float64",
    methods: Sequence[str] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    elementwise: int = 100,
) -> Report:
    """The hand-written gradients, found on a backend in a dtype, against references found in float64."""
    if not any(is_real(leaf) for _, leaf in walk(problem.inputs)):
        raise ValueError(f"{problem.title}: none of the inputs is floating; there is nothing to differentiate")
    if tolerance is not None:
        tolerance = check_number("tolerance", tolerance, also=", or None")
    chosen, skipped = _choose(problem, methods)
    problem = rounded(problem, dtype)
    rows, gradients = _form(problem, backend(on), dtype)
    for method in chosen:
        allowed = TOLERANCES[method, dtype] if tolerance is None else tolerance
        settings = Settings(allowed, elementwise, numpy.random.default_rng([seed, 1]))
        rows += _compared(list(METHODS[method](problem, gradients, settings)))
    return Report(problem.title, tuple(rows), skipped)


def agree(problem: Problem, on: Any, dtype: str, kernels: bool | str = True) -> Report:
    """Outputs and gradients on a backend in a dtype, against NumPy's in float64 without kernels.

    `kernels` is what `use_kernels` takes: a name is that of the only kernel that may run.
    """
    problem, chosen = rounded(problem, dtype), backend(on)
    with use_kernels(kernels):
        outputs, gradients = _by_hand(problem, chosen, dtype)[1]
    with use_kernels(False):
        expected = _by_hand(problem, backend("numpy"), "float64")[1]
    method, tolerance = f"{chosen.name} {dtype}", TOLERANCES["agreement", dtype]
    rows = [
        *distances("outputs", outputs, expected[0], dtype, method, tolerance),
        *distances("", gradients, expected[1], dtype, method, tolerance),
    ]
    return Report(problem.title, tuple(rows), remark=AGREEMENT)


def rounded(problem: Problem, dtype: str) -> Problem:
    """The problem at inputs that the dtype can hold, so that a reference in float64 starts from the same numbers."""
    inputs, upstream = (cast(cast(tree, dtype), "float64") for tree in (problem.inputs, problem.upstream))
    return dataclasses.replace(problem, inputs=inputs, upstream=upstream)


def _by_hand(problem: Problem, chosen: Backend, dtype: str) -> tuple[Any, Any]:
    """NumPy arrays: the arguments after the call, and what came out of it, (outputs, gradients)."""

    def both(inputs: Any, upstream: Any) -> tuple[Any, Any]:
        return problem.by_hand(chosen, inputs, upstream)

    with chosen.exact():
        given = tuple(
            chosen.asarray(tree_map(numpy.copy, cast(tree, dtype))) for tree in (problem.inputs, problem.upstream)
        )
        results = (chosen.quick(both) if problem.whole else both)(*given)
        inputs, upstream = chosen.to_numpy(given)
        return {"inputs": inputs, "upstream": upstream}, tree_map(numpy.array, chosen.to_numpy(results))


def _choose(problem: Problem, methods: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    chosen = list(METHODS) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    reasons = {method: why_not(method, problem) for method in chosen}
    skipped = {method: reason for method, reason in reasons.items() if reason is not None}
    if methods is not None and skipped:
        method, reason = next(iter(skipped.items()))
        raise ValueError(f"methods: {method!r} cannot be used for {problem.title}: {reason}")
    if not chosen:
        raise ValueError(f"methods is empty; expected some of {', '.join(METHODS)}")
    return [method for method in chosen if method not in skipped], skipped


def _form(problem: Problem, chosen: Backend, dtype: str) -> tuple[list[Row], Any]:
    """Rows for what is wrong before any value is compared; and the gradients, in float64."""
    before = {"inputs": cast(problem.inputs, dtype), "upstream": cast(problem.upstream, dtype)}
    after, (outputs, gradients) = _by_hand(problem, chosen, dtype)

    def wrong(name: str, note: str) -> Row:
        return Row(name, "form", relative=float("inf"), note=note, wrong=True)

    rows = []
    for name, leaf, kept in walk(after, before):
        if not numpy.array_equal(leaf, kept):
            rows.append(wrong(name, "an argument was changed"))
    for name, leaf in walk(outputs, name="outputs"):
        if leaf.dtype.kind == "f" and leaf.dtype.name != dtype:
            rows.append(wrong(name, f"dtype {leaf.dtype}; expected {dtype}"))
    for name, leaf, gradient in walk(problem.inputs, gradients):
        if is_real(leaf) and (note := _fault(leaf, gradient, dtype)):
            rows.append(wrong(name, note))
    rows += [wrong(name, "a gradient of an input that there is not") for name in unknown(problem.inputs, gradients)]
    return rows, cast(gradients, "float64")


def _compared(rows: list[Row]) -> list[Row]:
    """The rows of a method; none is right if every reference is zero, for zeros agree with whatever is forgotten."""
    if any(row.reference for row in rows):
        return rows
    return [row if row.wrong else row._replace(note=NOTHING, wrong=True) for row in rows]


def _fault(leaf: Any, gradient: Any, dtype: str) -> str:
    if gradient is MISSING or gradient is None:
        return "no gradient"
    if gradient.shape != leaf.shape:
        return f"shape {gradient.shape}; expected {leaf.shape}"
    if gradient.dtype.name != dtype:
        return f"dtype {gradient.dtype}; expected {dtype}"
    if not numpy.isfinite(gradient).all():
        return f"{numpy.sum(~numpy.isfinite(gradient))} of {gradient.size} elements are NaN or infinite"
    return ""


def distances(prefix: str, tree: Any, expected: Any, dtype: str, method: str, tolerance: float) -> Iterator[Row]:
    """Rows for the floating arrays of two trees of host arrays, `expected` in float64; `prefix` begins their names."""
    pairs = [(n, e, t) for n, e, t in walk(expected, tree, name=prefix) if e.dtype.kind == "f"]
    overall = max((float(numpy.abs(e).max()) for _, e, _ in pairs if e.size), default=0.0)
    for name, reference, found in pairs:
        if note := _fault(reference, found, dtype) if hasattr(found, "dtype") else "missing":
            yield Row(name, method, relative=float("inf"), tolerance=tolerance, note=note, wrong=True)
        elif reference.size:
            errors = numpy.abs(found.astype("float64") - reference)
            where = tuple(int(k) for k in numpy.unravel_index(int(errors.argmax()), errors.shape))
            scale = max(float(numpy.abs(reference).max()), 1e-3 * overall) or 1.0
            yield Row(name, method, float(errors[where]), float(errors[where]) / scale, tolerance, where)
