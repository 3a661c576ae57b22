"""`polyrnn check`: the gradient matrix of this machine."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..backends import available_backends

if TYPE_CHECKING:
    from ._matrix import Column, Entry, Matrix

WIDTH = 13  # of a column on a terminal, with the space between


def check(
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="NAME",
            help="Compare this backend with NumPy; can be repeated. [default: all that can run]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For the random parameters, inputs and upstream gradients.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the matrix as a picture.")
    ] = None,
) -> None:
    """Check the hand-written gradient of every cell, option, module, loss and textbook function on this machine.

    Each is compared with jax.grad (where JAX is installed), with complex steps and with differences; then the backends
    with each other. Exit code 1 if anything is wrong.
    """
    for name in backend or ():
        found = available_backends().get(name)
        if found is None:
            known = ", ".join(available_backends())
            raise typer.BadParameter(f"{name!r}: no such backend; expected one of {known}", param_hint="--backend")
        if not found.available:
            message = f"{name} cannot run here: {found.reason}. To mend it: {found.remedy}"
            raise typer.BadParameter(message, param_hint="--backend")
    if seed < 0:
        raise typer.BadParameter(f"{seed}; expected a whole number of at least 0", param_hint="--seed")
    if report is not None:
        _writable(report)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ..capabilities import SUBJECTS
    from ._matrix import compute

    console = Console(highlight=False)
    begun = time.perf_counter()
    with Progress(
        TextColumn("checking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=len(SUBJECTS))
        started = False

        def progress(name: str) -> None:
            nonlocal started
            bar.update(task, advance=int(started), description=name)
            started = True

        names = dict.fromkeys(backend) if backend else None
        matrix = compute(names, seed, progress)
    seconds = time.perf_counter() - begun

    show(matrix, console)
    words = summary(matrix, seconds)
    print("\n".join(words))
    if report is not None:
        from ._check_page import page

        command = shlex.join(["polyrnn", *sys.argv[1:]])
        _write(report, page(matrix, words, seed, command))
        print(f"Report: {report}")
    if not matrix.ok:
        raise typer.Exit(1)


# ---- the tables ------------------------------------------------------------------------------------------------


def show(matrix: Matrix, console: Any) -> None:
    """The matrix as tables: coloured on a terminal, plain elsewhere."""
    from ._matrix import AGREEMENT, PROOF

    titles = {
        PROOF: "Gradients against independent ones (float64, NumPy; largest relative errors)",
        AGREEMENT: "Backends against NumPy in float64: outputs and gradients. Agreement is not proof",
    }
    for part, title in titles.items():
        columns = [column for column in matrix.columns if column.part == part]
        if columns and not console.is_terminal:
            _plain(matrix, columns, title)
        elif columns:
            fitting = max(1, (console.width - max(len(s.name) for s in matrix.subjects)) // WIDTH)
            for first in range(0, len(columns), fitting):
                _rich(matrix, columns[first : first + fitting], title, console)


def text(entry: Entry) -> str:
    """An entry in a few characters."""
    if entry.error is None:
        return "-"
    from ._matrix import short

    return short(entry.error) if entry.ok else f"WRONG {short(entry.error)}"


def _rich(matrix: Matrix, columns: list[Column], title: str, console: Any) -> None:
    from rich import box
    from rich.table import Table

    console.print(title, style="bold", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("")
    for column in columns:
        table.add_column("\n".join(column.label), justify="right", no_wrap=True)
    group = None
    for subject in matrix.subjects:
        if subject.group != group:
            group = subject.group
            table.add_section()
        found = [matrix.entries[subject.name, column.name] for column in columns]
        styles = ["dim" if e.error is None else "green" if e.ok else "bold white on red" for e in found]
        table.add_row(subject.name, *(f"[{s}]{text(e)}[/]" for s, e in zip(styles, found, strict=True)))
    table.add_section()
    table.add_row("allowed", *(f"{column.tolerance:.0e}" for column in columns), style="dim")
    console.print(table)


def _plain(matrix: Matrix, columns: list[Column], title: str) -> None:
    margin = max(len(subject.name) for subject in matrix.subjects)
    widths = [max(len(part) for part in (*column.label, "WRONG 1e+00")) for column in columns]

    def line(name: str, cells: list[str]) -> None:
        row = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        print(" ".join((name.ljust(margin), *row)).rstrip())

    print(title)
    for k in range(max(len(column.label) for column in columns)):
        line("", ["".join(column.label[k : k + 1]) for column in columns])
    for subject in matrix.subjects:
        line(subject.name, [text(matrix.entries[subject.name, column.name]) for column in columns])
    line("allowed", [f"{column.tolerance:.0e}" for column in columns])
    print()


def summary(matrix: Matrix, seconds: float) -> list[str]:
    """What it comes to, what is wrong, and what could not run."""
    from ._matrix import AGREEMENT, PROOF, short

    largest = "; ".join(
        f"{column.name} {short(error)}"
        for column in matrix.columns
        if column.part == PROOF and (error := matrix.largest(column)) is not None
    )
    failures = matrix.failures
    total = matrix.count(PROOF) + matrix.count(AGREEMENT)
    verdict = (
        f"{len(failures)} of {total} comparisons are WRONG"
        if failures
        else "All gradients are right"
        if matrix.ok
        else "Something was not checked"
    )
    lines = [
        f"{verdict}: {len(matrix.subjects)} subjects, {matrix.count(PROOF)} comparisons with independent gradients "
        f"(largest errors: {largest}) and {matrix.count(AGREEMENT)} between backends, in {seconds:.0f} s."
    ]
    lines += [f"WRONG: {subject}, {column}: {_words(entry)}" for subject, column, entry in failures]
    notes = {e.note for e in matrix.entries.values() if e.error is None}
    lines += [f"A dash where a column does not apply: {'; '.join(sorted(notes))}."] if notes else []
    lines += [f"Not run: {name}{_stands_for(name)}: {reason}" for name, reason in matrix.absent.items()]
    return lines


def _words(entry: Entry) -> str:
    """What is wrong: the error, where it is a number, and its place."""
    number = entry.error is not None and math.isfinite(entry.error)
    return f"{entry.error:.1e} in {entry.note}" if number else entry.note


def _stands_for(name: str) -> str:
    return " (and jax.grad)" if name == "jax" else ""


# ---- the file --------------------------------------------------------------------------------------------------


def _writable(path: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; expected the name of a file", param_hint="--report")
    folder = path.parent
    if not folder.is_dir():
        raise typer.BadParameter(f"{path}: there is no folder {folder}", param_hint="--report")
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{path}: the folder {folder} cannot be written to", param_hint="--report")


def _write(path: Path, content: str) -> None:
    """Whole or not at all: under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
