"""Learning-rate schedules: functions of the number of updates made so far, usable as a `learning_rate`.

Each is a frozen, hashable description. Called with a Python int it returns a float; with a 0-d integer array
of any backend, also a traced one, a 0-d float array. The first update is made at count 0.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from ._door import check_number
from .backends import backend, backend_of

__all__ = ["Constant", "CosineDecay", "ExponentialDecay", "LinearWarmup", "Schedule", "StepDecay"]

Array: TypeAlias = Any


@dataclass(frozen=True)
class Schedule:
    """A function of the step count; what the schedules have in common."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("steps"):
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    raise ValueError(f"{field.name}={value!r}: expected a number of steps, an int >= 0")
            else:
                object.__setattr__(self, field.name, check_number(field.name, value))

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates."""
        if isinstance(count, int):
            xp = backend("numpy").xp
            return float(self._value(xp, xp.asarray(float(count))))
        xp = backend_of(count, "count").xp
        # JAX has no float64 unless asked to; a float32 counts exactly to 2^24.
        floats = xp.__array_namespace_info__().dtypes(kind="real floating")
        return self._value(xp, xp.asarray(count, dtype=floats.get("float64", xp.float32)))

    def _value(self, xp: Any, count: Array) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    value: float

    def _value(self, xp: Any, count: Array) -> Array:
        return xp.full_like(count, self.value)


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """From `start` to `peak` in a straight line over `warmup_steps`, then `peak`.

    Examples
    --------
    >>> schedule = LinearWarmup(peak=0.1, warmup_steps=4)
    >>> [round(schedule(count), 3) for count in (0, 1, 4, 9)]
    [0.0, 0.025, 0.1, 0.1]
    """

    peak: float
    warmup_steps: int
    start: float = 0.0

    def _value(self, xp: Any, count: Array) -> Array:
        return self.start + (self.peak - self.start) * _part(xp, count, self.warmup_steps)


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """A linear warm-up from `start` to `peak`, then half a cosine down to `end` at `total_steps`, then `end`.

    With t the share of the decay that has passed: end + (peak - end) (1 + cos(pi t)) / 2. Without restarts,
    equation (5) of Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).

    Examples
    --------
    >>> schedule = CosineDecay(peak=1.0, total_steps=12, warmup_steps=2)
    >>> [round(schedule(count), 3) for count in (0, 1, 2, 7, 12, 99)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    peak: float
    total_steps: int
    warmup_steps: int = 0
    start: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_steps < self.warmup_steps:
            raise ValueError(
                f"total_steps={self.total_steps}: expected at least warmup_steps={self.warmup_steps}, "
                "which are counted in it"
            )

    def _value(self, xp: Any, count: Array) -> Array:
        passed = _part(xp, count - self.warmup_steps, self.total_steps - self.warmup_steps)
        decay = self.end + (self.peak - self.end) * (1 + xp.cos(math.pi * passed)) / 2
        warmup = self.start + (self.peak - self.start) * _part(xp, count, self.warmup_steps)
        return xp.where(count < self.warmup_steps, warmup, decay)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """initial * factor^(count / decay_steps), continuously.

    Examples
    --------
    >>> schedule = ExponentialDecay(initial=1.0, factor=0.25, decay_steps=10)
    >>> [schedule(count) for count in (0, 5, 10)]
    [1.0, 0.5, 0.25]
    """

    initial: float
    factor: float
    decay_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("decay_steps", self.decay_steps)

    def _value(self, xp: Any, count: Array) -> Array:
        return self.initial * self.factor ** (count / self.decay_steps)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by `factor` every `decay_steps` steps: initial * factor^floor(count / decay_steps).

    Examples
    --------
    >>> schedule = StepDecay(initial=1.0, factor=0.5, decay_steps=10)
    >>> [schedule(count) for count in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """

    initial: float
    factor: float
    decay_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("decay_steps", self.decay_steps)

    def _value(self, xp: Any, count: Array) -> Array:
        return self.initial * self.factor ** xp.floor(count / self.decay_steps)


def _part(xp: Any, count: Array, steps: int) -> Array:
    """The share of `steps` that has passed, 0 to 1; all of it where there are none."""
    if not steps:
        return xp.ones_like(count)
    return xp.minimum(xp.maximum(count / steps, 0.0), 1.0)  # array_api_compat's clip waits for a GPU


def _require_positive(name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{name}={steps}: expected at least 1")
