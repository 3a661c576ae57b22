"""How training shows its progress: a bar on a terminal, lines now and then elsewhere."""

import math
import time
from typing import Any, NamedTuple, Protocol

SECONDS_BETWEEN_LINES = 5.0


class Report(NamedTuple):
    """Where training stands."""

    step: int
    steps: int | None  # None where only the time is given
    fraction: float
    loss: float
    speed: float  # characters per second
    seconds_left: float


class Display(Protocol):
    """What shows reports."""

    def show(self, report: Report) -> None:
        """Show this one, or keep it until it is time to."""

    def close(self) -> None:
        """Show the last one, and end."""


def open_display() -> Display:
    """The one that suits standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Lines:
    """A line at the beginning, one every few seconds, and one at the end."""

    def __init__(self) -> None:
        self.shown: Report | None = None
        self.last: Report | None = None
        self.when = -math.inf

    def show(self, report: Report) -> None:
        """Print a line, if the last one is long enough ago."""
        self.last = report
        if time.perf_counter() - self.when >= SECONDS_BETWEEN_LINES:
            self._print(report)

    def close(self) -> None:
        """Print the last report."""
        if self.last and self.last is not self.shown:
            self._print(self.last)

    def _print(self, report: Report) -> None:
        self.shown, self.when = report, time.perf_counter()
        print(f"{where(report)}: {', '.join((*numbers(report), left(report)))}", flush=True)


class Bar:
    """A bar with the numbers beside it, as many of them as the terminal is wide enough for."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = [TextColumn("{task.fields[where]}"), BarColumn(bar_width=None)]
        columns += [TextColumn("{task.fields[numbers]}"), TextColumn("{task.fields[left]}")]
        self.progress = Progress(*columns, console=console, expand=True, refresh_per_second=8)
        self.task = self.progress.add_task("", total=1.0, where="first step", numbers="", left="")
        self.progress.start()

    def show(self, report: Report) -> None:
        """Move the bar."""
        width = self.progress.console.width
        shown = slice(0, 3) if width >= 80 else slice(1, 3) if width >= 66 else slice(1, 2)
        some = "  ".join(numbers(report)[shown])
        self.progress.update(self.task, completed=report.fraction, where=where(report), numbers=some, left=left(report))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.progress.stop()


def where(report: Report) -> str:
    """The step, and of how many."""
    return f"{report.step:,}/{report.steps:,}" if report.steps else f"{report.step:,}"


def numbers(report: Report) -> tuple[str, str, str]:
    """The loss, in nats and in bits, and the speed."""
    bits = report.loss / math.log(2)
    return f"loss {report.loss:.3f}", f"{bits:.2f} bits/char", f"{report.speed:,.0f} chars/s"


def left(report: Report) -> str:
    """The time left."""
    if not math.isfinite(report.seconds_left):
        return "-:-- left"
    seconds = max(0, round(report.seconds_left))
    hours, minutes = divmod(seconds // 60, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{seconds % 60:02} left"
