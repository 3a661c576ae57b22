"""The gradient matrix of this machine: every subject of the table, by every method and on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..backends import available_backends
from ..capabilities import SUBJECTS, Subject
from ..gradcheck import TOLERANCES, Report
from ..gradcheck._examine import agree, examine
from ..gradcheck._methods import METHODS, why_not
from ..gradcheck._problem import Problem
from ..kernels import registered, use_kernels

PROOF, AGREEMENT = "proof", "agreement"


class Column(NamedTuple):
    """A way to check.

    `run` gives the report of a subject, or says why there is none to give.
    """

    part: str
    label: tuple[str, ...]  # from top to bottom
    tolerance: float
    run: Callable[[Subject, Problem, int], Report | str]

    @property
    def name(self) -> str:
        """The label in one line."""
        return " ".join(self.label)


class Entry(NamedTuple):
    """What came out for one subject and one column; `error` is None where the column does not apply."""

    error: float | None
    ok: bool
    note: str = ""


def short(error: float) -> str:
    """An error in a few characters."""
    return "0" if error == 0 else f"{error:.0e}" if math.isfinite(error) else "error"


class Matrix(NamedTuple):
    """All of it; `absent` says what could not run on this machine, and why."""

    columns: list[Column]
    subjects: tuple[Subject, ...]
    entries: dict[tuple[str, str], Entry]  # by the subject's and the column's name
    absent: dict[str, str]

    @property
    def failures(self) -> list[tuple[str, str, Entry]]:
        """Subject, column, entry of all that is wrong."""
        return [(s, c, entry) for (s, c), entry in self.entries.items() if not entry.ok]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and every subject was proved by at least one method."""
        proofs = [column.name for column in self.columns if column.part == PROOF]
        proved = all(any(self.entries[s.name, name].error is not None for name in proofs) for s in self.subjects)
        return proved and not self.failures

    def largest(self, column: Column) -> float | None:
        """The largest error of a column."""
        found = (self.entries[s.name, column.name].error for s in self.subjects)
        return max((error for error in found if error is not None), default=None)

    def count(self, part: str) -> int:
        """The number of comparisons of a part."""
        names = {column.name for column in self.columns if column.part == part}
        return sum(entry.error is not None for (_, name), entry in self.entries.items() if name in names)


def columns(backends: Iterable[str] | None) -> tuple[list[Column], dict[str, str]]:
    """The columns that can run here, and what cannot, with the reason."""
    absent = {
        name: f"{found.reason}. To mend it: {found.remedy}"
        for name, found in available_backends().items()
        if not found.available and (backends is None or name.startswith("jax"))  # JAX is a method too
    }
    result = [_method(name) for name in METHODS if not (name.startswith("jax") and "jax" in absent)]
    chosen = [name for name in available_backends() if name not in absent] if backends is None else list(backends)
    for name in chosen:
        # NumPy's reference in float64 is what all are compared with.
        result += [_agreement(name, dtype) for dtype in ("float64", "float32") if (name, dtype) != ("numpy", "float64")]
        result += [_agreement(name, dtype, own) for own in registered(name) for dtype in ("float64", "float32")]
    return result, absent


def _method(name: str) -> Column:
    def run(subject: Subject, problem: Problem, seed: int) -> Report | str:
        if reason := why_not(name, problem):
            return reason
        # Where there is no complex step, the differences name the element.
        elementwise = 0 if problem.analytic else 100
        with use_kernels(False):
            return examine(problem, "numpy", "float64", [name], seed, elementwise=elementwise)

    return Column(PROOF, tuple(name.split()), TOLERANCES[name, "float64"], run)


def _agreement(backend: str, dtype: str, kernel: str | None = None) -> Column:
    """The reference on a backend, or one of its kernels wherever that applies."""

    def run(subject: Subject, problem: Problem, seed: int) -> Report | str:
        if reason := subject.unsupported.get(backend):
            return reason
        if kernel and not subject.kernel:
            return "no kernel, there is none for the cell"
        return agree(problem, backend, dtype, kernel or False)

    name = "strict" if backend == "array_api_strict" else backend
    label = (*(kernel.split(" ", 1) if kernel else (name,)), dtype)
    return Column(AGREEMENT, label, TOLERANCES["agreement", dtype], run)


def compute(backends: Iterable[str] | None, seed: int, progress: Callable[[str], None]) -> Matrix:
    """Run everything; `progress` is called with each subject's name before it is run."""
    found, absent = columns(backends)
    entries = {}
    for subject in SUBJECTS:
        progress(subject.name)
        problem = subject.problem(seed)
        for column in found:
            entries[subject.name, column.name] = _entry(subject, column, problem, seed)
    return Matrix(found, SUBJECTS, entries, absent)


def _entry(subject: Subject, column: Column, problem: Problem, seed: int) -> Entry:
    try:
        report = column.run(subject, problem, seed)
    except Exception as error:  # whatever it is, it is a failure of this entry, and the others shall still run
        lines = str(error).splitlines() or [""]
        return Entry(float("nan"), False, f"{type(error).__name__}: {lines[0]}")
    if isinstance(report, str):
        return Entry(None, True, report)
    worst = report.worst
    where = "" if worst.where is None else f" at {list(worst.where)}"
    return Entry(worst.relative, report.ok, f"{worst.name}{where}" + (f": {worst.note}" if worst.note else ""))
