"""The picture of a training: bits per character over the characters read."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import write_atomically
from ._history import Row

TRAIN, HELD_BACK = "#3b6ea8", "#c8553d"


def draw(path: Path, rows: Sequence[Row], characters_per_step: int, title: str) -> None:
    """Write a PNG: each step, their running mean, and the held-back text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    read = [row.step * characters_per_step for row in rows]
    bits = [row.loss / math.log(2) for row in rows]
    held = [(x, row.held_back) for x, row in zip(read, rows, strict=True) if row.held_back is not None]

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(read, bits, color=TRAIN, alpha=0.25, linewidth=0.8)
    smooth = running_mean(bits, steps=max(1, min(30, len(bits) // 40)))
    axes.plot(read, smooth, color=TRAIN, linewidth=1.8, label="training text (running mean)")
    if held:
        label = f"held-back text: {held[-1][1]:.2f} at the end"
        axes.plot(
            *zip(*held, strict=True),
            color=HELD_BACK,
            linewidth=1.5,
            marker="o",
            markersize=4,
            clip_on=False,
            label=label,
        )
    low, high = min([*bits, *(y for _, y in held)]), max(bits)
    axes.set_ylim(max(0.0, low - 0.15), min(high, low + 4.0) + 0.1)
    axes.set_xlim(0, read[-1])
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x / 1e6:g} M" if x >= 1e6 else f"{x / 1e3:g} k" if x else "0")
    )
    axes.set_xlabel("characters read")
    axes.set_ylabel("bits per character")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=150)


def running_mean(values: Sequence[float], steps: int) -> list[float]:
    """The exponential mean of the values so far, over about so many steps, corrected for its beginning."""
    kept, mean, result = 1 - 1 / steps, 0.0, []
    for k, value in enumerate(values, start=1):
        mean = kept * mean + (1 - kept) * value
        result.append(mean / (1 - kept**k))
    return result
