"""What is kept of every step of a training."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..checkpoint import write_atomically


class Row(NamedTuple):
    """A step: its number, the seconds from the beginning, and what was measured."""

    step: int
    seconds: float
    learning_rate: float
    loss: float
    gradient_norm: float
    held_back: float | None = None  # bits per character of the held-back text after this step


def write(path: Path, rows: Sequence[Row], characters_per_step: int) -> None:
    """Write a CSV with a line a step."""
    with write_atomically(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            (
                "step",
                "characters",
                "seconds",
                "learning_rate",
                "loss",
                "bits_per_character",
                "gradient_norm",
                "held_back_bits_per_character",
            )
        )
        for row in rows:
            table.writerow(
                (
                    row.step,
                    row.step * characters_per_step,
                    f"{row.seconds:.3f}",
                    f"{row.learning_rate:.6g}",
                    f"{row.loss:.6g}",
                    f"{row.loss / math.log(2):.6g}",
                    f"{row.gradient_norm:.6g}",
                    "" if row.held_back is None else f"{row.held_back:.6g}",
                )
            )
