"""What a check says: rows of errors, the tolerances they are held against, and the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# The largest relative error that counts as right, about ten times the largest that was measured (beside it): over 40
# seeds of every cell with and without lengths, 15 of everything, with JAX 3. Relative means: divided by the largest
# element of the reference, or by a thousandth of the largest of all inputs' references where that is more (what is all
# but zero has no accurate digits).
TOLERANCES: dict[tuple[str, str], float] = {
    ("jax.grad", "float64"): 4e-14,  # 1.9e-15
    ("complex step", "float64"): 4e-14,  # 3.5e-15
    # More than ten times: near a kink the step must be short, and then rounding takes more digits.
    ("differences", "float64"): 1e-8,  # 7e-11
    ("agreement", "float64"): 4e-14,  # 2e-15, on JAX
    ("step by step", "float64"): 4e-14,  # 1e-15, up to 256 units and 100 steps
    # The error of float32 itself, whatever it is held against.
    ("jax.grad", "float32"): 2e-5,  # 1.8e-6
    ("complex step", "float32"): 2e-5,
    ("differences", "float32"): 2e-5,
    ("agreement", "float32"): 2e-5,
    ("step by step", "float32"): 2e-5,  # 5e-7
}


class WrongGradient(AssertionError):
    """A gradient is not that of the function; the message is the report."""


class Row(NamedTuple):
    """One input (or output) under one method.

    Attributes
    ----------
    name : str
        The input, such as "params.weight_hh_l0".
    method : str
        What it was compared with.
    absolute, relative : float
        The largest error; relative means divided by the largest element of the reference.
    tolerance : float
        The largest relative error that counts as right.
    where : tuple of int or None
        The element with the largest error; None along a direction, or where there is no element to name.
    note : str
        What else is wrong, such as a shape or a NaN, in words; or what to know.
    wrong : bool
        Whether `note` alone makes the row wrong.
    reference : float
        The largest element of the gradient that a method found, or the largest derivative along a direction.
    """

    name: str
    method: str
    absolute: float = 0.0
    relative: float = 0.0
    tolerance: float = 0.0
    where: tuple[int, ...] | None = None
    note: str = ""
    wrong: bool = False
    reference: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return not self.wrong and self.relative <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes
    ----------
    title : str
        What was checked.
    rows : tuple of Row
        One for each input and method.
    skipped : dict of str to str
        The methods that could not run, with the reason.
    remark : str
        What the result does not say.

    Examples
    --------
    >>> import numpy as np
    >>> from polyrnn.gradcheck import check
    >>> report = check(np.sin, lambda dy, x: dy * np.sin(x), [np.array([0.1, 0.7])])
    >>> report.ok
    False
    >>> report.worst.name
    'x'
    """

    title: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""

    @property
    def ok(self) -> bool:
        """Whether every row is right, and there is at least one."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row:
        """The wrong row, or the one nearest to its tolerance."""
        if not self.rows:
            raise ValueError(f"{self.title}: nothing was checked ({dict(self.skipped)})")
        return max(self.rows, key=_badness)

    def of(self, *methods: str) -> Report:
        """The rows of these methods alone."""
        return Report(self.title, tuple(r for r in self.rows if r.method in methods), self.skipped, self.remark)

    def raise_if_wrong(self) -> None:
        """Raise WrongGradient, with the report as its message, unless everything is right."""
        if not self.ok:
            raise WrongGradient(str(self))

    def __str__(self) -> str:
        wrong = sum(not row.ok for row in self.rows)
        verdict = "nothing was checked" if not self.rows else f"WRONG in {wrong} of {len(self.rows)}" if wrong else "ok"
        lines = [f"{self.title}: {verdict}"]
        head = ("", "input", "compared with", "absolute", "relative", "allowed", "at", "")
        lines += ["  " + line for line in _aligned([head, *map(_cells, self.rows)])]
        lines += [f"  not run: {method}: {reason}" for method, reason in self.skipped.items()]
        return "\n".join([*lines, *([f"  {self.remark}"] if self.remark else [])])


def _badness(row: Row) -> tuple[bool, float]:
    ratio = row.relative / row.tolerance if row.tolerance else 0.0
    return not row.ok, ratio if ratio == ratio else float("inf")


def _cells(row: Row) -> tuple[str, ...]:
    numbers: tuple[str, ...] = ("", "", "")
    if row.tolerance:
        numbers = (f"{row.absolute:.1e}", f"{row.relative:.1e}", f"{row.tolerance:.0e}")
    where = "" if row.where is None else str(list(row.where))
    return ("" if row.ok else "WRONG", row.name, row.method, *numbers, where, row.note)


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    used = [k for k, width in enumerate(widths) if width]
    return ["  ".join(row[k].ljust(widths[k]) for k in used).rstrip() for row in table]
