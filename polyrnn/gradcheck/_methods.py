"""The ways to find a gradient without the hand-written one: the library's own, complex steps, differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy

from ..backends import available_backends, backend, leaves, tree_map
from ..kernels import use_kernels
from ._problem import Problem, is_real, walk
from ._report import Row

COMPLEX_STEP = 1e-30  # nothing is subtracted, so it can be so small that its square is lost
FIRST_STEP = 2.0**-9  # of the differences: their error falls with its fourth power; about 1e-12 here
SHRINK, ATTEMPTS = 8.0, 5  # a kink within a step shows as unrest; then a shorter step is tried, down to 5e-7
DIRECTIONS = 4  # random ones for each input


class Settings(NamedTuple):
    """How thorough the differences are."""

    tolerance: float
    elementwise: int  # inputs of at most so many elements are differenced element by element
    rng: numpy.random.Generator


Compare = Callable[[Problem, Any, Settings], Iterator[Row]]


def jax_grad(problem: Problem, gradients: Any, settings: Settings) -> Iterator[Row]:
    """Against JAX's differentiation of the forward pass."""
    jax = backend("jax")
    with jax.exact(), use_kernels(False):
        real = tuple(jax.asarray(leaf) for leaf in leaves(problem.inputs) if is_real(leaf))

        def function(real: tuple) -> Any:
            rest = iter(real)
            inputs = tree_map(lambda a: next(rest) if is_real(a) else jax.asarray(a), problem.inputs)
            return problem.forward(jax, inputs)

        found = iter(jax.to_numpy(jax.vjp(function, real, jax.asarray(problem.upstream))))
    reference = tree_map(lambda a: numpy.array(next(found)) if is_real(a) else None, problem.inputs)
    yield from _elements("jax.grad", problem, gradients, reference, settings)


def complex_step(problem: Problem, gradients: Any, settings: Settings) -> Iterator[Row]:
    """Against Im f(x + ih)/h, element by element: exact to rounding where f is analytic."""
    assert problem.analytic is not None
    inputs = tree_map(lambda a: a.astype("complex128") if is_real(a) else a, problem.inputs)
    upstream = leaves(problem.upstream)

    def derivative() -> float:
        outputs = leaves(problem.analytic(inputs))  # type: ignore[misc]
        return sum(float(numpy.sum(u * y.imag)) for u, y in zip(upstream, outputs, strict=True)) / COMPLEX_STEP

    def reference(leaf: Any) -> Any:
        if leaf.dtype.kind != "c":
            return None
        found = numpy.empty(leaf.shape)
        for index in numpy.ndindex(leaf.shape):
            before = leaf[index]
            leaf[index] = before + 1j * COMPLEX_STEP
            found[index] = derivative()
            leaf[index] = before
        return found

    with use_kernels(False):
        yield from _elements("complex step", problem, gradients, tree_map(reference, inputs), settings)


def differences(problem: Problem, gradients: Any, settings: Settings) -> Iterator[Row]:
    """Against central differences in float64, extrapolated: along random directions, and element by element."""
    numpy_backend = backend("numpy")
    inputs = tree_map(lambda a: a.copy(), problem.inputs)
    upstream = leaves(problem.upstream)

    def outputs() -> list[Any]:
        with use_kernels(False):
            return [numpy.array(y) for y in leaves(problem.forward(numpy_backend, inputs))]

    def moved(leaf: Any, direction: Any, *steps: float) -> list[list[Any]]:
        centre = leaf.copy()
        found = []
        for step in steps:
            leaf[...] = centre + step * direction
            found.append(outputs())
        leaf[...] = centre
        return found

    def along(leaf: Any, direction: Any, size: float) -> tuple[float, float]:
        def central(step: float) -> float:
            above, below = moved(leaf, direction, step, -step)
            change = sum(float(numpy.sum(u * (a - b))) for u, a, b in zip(upstream, above, below, strict=True))
            return change / (2 * step)

        return _settled(central, settings.tolerance, size)

    everything = list(walk(inputs, gradients))
    overall = max((_largest(g) for _, a, g in everything if is_real(a) and _comparable(a, g)), default=0.0)
    for name, leaf, gradient in everything:
        if not is_real(leaf) or not leaf.size or not _comparable(leaf, gradient):
            continue
        norm = float(numpy.sqrt(numpy.sum(gradient * gradient)))
        worst = Row(name, "differences", tolerance=settings.tolerance, note="along random directions")
        for _ in range(DIRECTIONS):
            direction = settings.rng.standard_normal(leaf.shape)
            direction = direction / numpy.sqrt(numpy.sum(direction * direction) / leaf.size)
            reference, unrest = along(leaf, direction, norm)
            claimed = float(numpy.sum(gradient * direction))
            scale = max(abs(reference), norm, 1e-3 * overall) or 1.0
            worst = _worse(worst, abs(claimed - reference), scale, unrest, None)
            worst = worst._replace(reference=max(worst.reference, abs(reference)))
        if _in_steps(lambda *steps, a=leaf, d=direction: moved(a, d, *steps)):
            note = "an output moves in steps, as if computed in float32 or rounded; differences cannot tell"
            worst = worst._replace(note=note, wrong=True)
        yield worst
        if leaf.size > settings.elementwise:
            continue
        found, unrests = numpy.empty(leaf.shape), numpy.empty(leaf.shape)
        for index in numpy.ndindex(leaf.shape):
            direction = numpy.zeros(leaf.shape)
            direction[index] = 1.0
            found[index], unrests[index] = along(leaf, direction, _largest(gradient))
        scale = max(_largest(found), 1e-3 * overall) or 1.0
        errors = numpy.abs(found - gradient)
        index = _argmax(errors)
        worst = Row(name, "differences", tolerance=settings.tolerance, note=_remark(found), reference=_largest(found))
        yield _worse(worst, float(errors[index]), scale, float(unrests.max()), index)


def _settled(central: Callable[[float], float], tolerance: float, size: float) -> tuple[float, float]:
    """The derivative, and the unrest: by how much two extrapolations of it differ.

    Two central differences give an extrapolation without the error in the step's square; a kink within the step shows
    as a difference between the extrapolations at two steps, and a shorter step is taken until it is outside.
    """
    best = (float("nan"), float("inf"))
    step = FIRST_STEP
    for _ in range(ATTEMPTS):
        one, two, four = central(step), central(step / 2), central(step / 4)
        coarse, fine = (4 * two - one) / 3, (4 * four - two) / 3
        if not abs(fine - coarse) >= best[1]:
            best = (fine, abs(fine - coarse))
        if not best[1] > 0.1 * tolerance * max(abs(fine), size):
            break
        step /= SHRINK
    return best


def _in_steps(moved: Callable[..., list[list[Any]]]) -> bool:
    """Whether an element of the outputs differs between three points and is flat at each of them."""
    points, tiny = (0.0, FIRST_STEP, -FIRST_STEP), FIRST_STEP * 2.0**-20
    at, beside = moved(*points), moved(*(point + tiny for point in points))
    for k in range(len(at[0])):
        flat = numpy.all([a[k] == b[k] for a, b in zip(at, beside, strict=True)], axis=0)
        # In float64 a smooth element that moves by less between the points may rightly be flat: one that is saturated.
        least = 2.0**-30 * numpy.abs(at[0][k])
        if numpy.any(flat & ((abs(at[0][k] - at[1][k]) > least) | (abs(at[0][k] - at[2][k]) > least))):
            return True
    return False


def _worse(worst: Row, absolute: float, scale: float, unrest: float, where: tuple[int, ...] | None) -> Row:
    relative = absolute / scale
    row = worst._replace(absolute=absolute, relative=relative, where=where)
    if not unrest / scale <= worst.tolerance:
        note = "the differences do not settle: a kink at this point, or noise; take other inputs"
        return row._replace(note=note, wrong=True)
    return worst if worst.wrong or relative < worst.relative else row


def _elements(method: str, problem: Problem, gradients: Any, reference: Any, settings: Settings) -> Iterator[Row]:
    """Compare element by element."""
    overall = max((_largest(leaf) for leaf in leaves(reference)), default=0.0)
    for name, leaf, gradient, expected in walk(problem.inputs, gradients, reference):
        if not is_real(leaf) or not leaf.size or not _comparable(leaf, gradient):
            continue
        errors = numpy.abs(gradient - expected)
        index = _argmax(errors)
        scale = max(_largest(expected), 1e-3 * overall) or 1.0
        error = float(errors[index])
        yield Row(
            name, method, error, error / scale, settings.tolerance, index, _remark(expected), False, _largest(expected)
        )


def _comparable(leaf: Any, gradient: Any) -> bool:
    """Whether numbers can be compared; if not, a row about the form has said so."""
    return getattr(gradient, "shape", None) == leaf.shape and bool(numpy.isfinite(gradient).all())


def _largest(array: Any) -> float:
    return float(numpy.max(numpy.abs(array))) if getattr(array, "size", 0) else 0.0


def _argmax(errors: Any) -> tuple[int, ...]:
    flat = numpy.where(numpy.isnan(errors), numpy.inf, errors)
    return tuple(int(k) for k in numpy.unravel_index(int(numpy.argmax(flat)), flat.shape))


def _remark(reference: Any) -> str:
    return "" if numpy.any(reference) else "zero everywhere: this input does not reach the outputs"


METHODS: dict[str, Compare] = {"jax.grad": jax_grad, "complex step": complex_step, "differences": differences}


def why_not(method: str, problem: Problem) -> str | None:
    """Why a method cannot be used for a problem on this machine; None if it can."""
    if method not in METHODS:
        raise ValueError(f"methods: no method {method!r}; expected some of {', '.join(METHODS)}")
    if METHODS[method] is complex_step:
        return None if problem.analytic else "no complex step, the function is not known to be analytic (relu is not)"
    if METHODS[method] is jax_grad:
        found = available_backends()["jax"]
        return None if found.available else f"{found.reason}; to mend it: {found.remedy}"
    return None
