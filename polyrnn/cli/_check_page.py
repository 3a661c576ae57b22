"""The report of `polyrnn check`: one page that needs nothing but itself, with the matrix as a picture."""

from __future__ import annotations

import datetime
import math
import os
import platform
from html import escape

from .. import __version__
from ..backends import available_backends
from ._matrix import AGREEMENT, PROOF, Column, Entry, Matrix, short

# Geometry of the picture, in pixels.
LABEL, CELL, ROW, HEAD, GAP, GROUP = 216, 76, 21, 78, 26, 26
LEGEND = 480  # the width that it takes
# Errors from 1e-17 (dark green) to the tolerance (pale) on a logarithmic scale; beyond it red.
LEAST = -17
GREENS = ((11, 110, 79), (122, 190, 140), (236, 244, 214))
RED, GREY = "#c62828", "#eceff1"

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f8; color: #1c2428; font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 48px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 28px 0 8px; }
.verdict { padding: 12px 16px; border-radius: 6px; margin: 16px 0; color: #fff; background: #0b6e4f; }
.verdict.wrong { background: #c62828; }
.picture { background: #fff; border: 1px solid #dfe4e6; border-radius: 6px; padding: 12px; overflow-x: auto; }
svg { display: block; }
svg text { font: 12px system-ui, "Segoe UI", Roboto, sans-serif; fill: #1c2428; }
svg .number { font-variant-numeric: tabular-nums; text-anchor: middle; }
svg .head { text-anchor: middle; font-weight: 600; }
svg .part { font-weight: 600; font-size: 13px; text-anchor: middle; }
svg .sub { text-anchor: middle; fill: #5b666c; font-size: 11px; }
svg .group { font-weight: 600; fill: #5b666c; font-size: 11px; letter-spacing: .06em; text-transform: uppercase; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: 3px 18px 3px 0; font-weight: normal; }
th { color: #5b666c; white-space: nowrap; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; background: #e9edef; padding: 1px 5px; border-radius: 3px; }
ul { padding-left: 20px; margin: 8px 0; }
"""


def page(matrix: Matrix, words: list[str], seed: int, command: str) -> str:
    """The page; `words` is the command's summary."""
    verdict, *rest = words
    wrong = "" if matrix.ok else " wrong"
    remarks = "".join(f"<li>{escape(line)}</li>" for line in rest)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>polyrnn check</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>The gradient matrix of this machine</h1>
<div>Every hand-written gradient of polyrnn against gradients found without it, backends and kernels against NumPy</div>
<div class="verdict{wrong}">{escape(verdict)}</div>
{f"<ul>{remarks}</ul>" if remarks else ""}
<div class="picture">{picture(matrix)}</div>
{_reading()}
<h2>Where and how</h2>
<table>{"".join(f"<tr><th>{escape(a)}</th><td>{b}</td></tr>" for a, b in _circumstances(seed, command))}</table>
</main>
</body>
</html>
"""


def picture(matrix: Matrix) -> str:
    """The matrix as an SVG heat map, with numbers, and a legend under it."""
    shapes: list[str] = []
    lefts = _lefts(matrix.columns)
    right = max(max(lefts) + CELL, LABEL + LEGEND)
    for part, title in ((PROOF, "proof: relative error against"), (AGREEMENT, "agreement with NumPy float64")):
        of_part = [x for x, column in zip(lefts, matrix.columns, strict=True) if column.part == part]
        if of_part:
            middle = (of_part[0] + of_part[-1] + CELL) / 2
            shapes.append(f'<text class="part" x="{middle}" y="14">{title if len(of_part) > 2 else part}</text>')
            shapes.append(f'<path d="M{of_part[0] + 3} 21H{of_part[-1] + CELL - 3}" stroke="#b0bac0"/>')
    for x, column in zip(lefts, matrix.columns, strict=True):
        for k, label in enumerate(column.label):
            kind = "sub" if label.startswith("float") else "head"
            shapes.append(f'<text class="{kind}" x="{x + CELL / 2}" y="{38 + 15 * k}">{escape(label)}</text>')
    y, group = HEAD - GROUP, None
    for subject in matrix.subjects:
        if subject.group != group:
            group = subject.group
            y += GROUP
            shapes.append(f'<text class="group" x="0" y="{y + 2}">{escape(group)}</text>')
            y += 8
        shapes.append(f'<text x="0" y="{y + 15}">{escape(subject.name)}</text>')
        for x, column in zip(lefts, matrix.columns, strict=True):
            entry = matrix.entries[subject.name, column.name]
            shapes.append(_square(x, y, subject.name, column, entry))
        y += ROW
    y += 8
    shapes.append(f'<text class="group" x="0" y="{y + 15}">allowed</text>')
    for x, column in zip(lefts, matrix.columns, strict=True):
        shapes.append(f'<text class="sub" x="{x + CELL / 2}" y="{y + 15}">{short(column.tolerance)}</text>')
    legend, bottom = _legend(y + ROW + 18)
    shapes += legend
    return (
        f'<svg role="img" aria-label="Errors by subject and method" width="{right}" height="{bottom}" '
        f'viewBox="0 0 {right} {bottom}" xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )


def _lefts(columns: list[Column]) -> list[int]:
    result, x, before = [], LABEL, None
    for column in columns:
        x += GAP if before not in (None, column.part) else 0
        result.append(x)
        x, before = x + CELL, column.part
    return result


def _square(x: int, y: int, name: str, column: Column, entry: Entry) -> str:
    fill, ink = colour(entry, column.tolerance)
    if entry.error is None:
        number = "–"
    else:
        number = short(entry.error)
    number = number if entry.ok else f"✗ {number}"
    title = escape(f"{name}, {column.name}, allowed {column.tolerance:.0e}\n{entry.note}")
    return (
        f'<g><title>{title}</title><rect x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{ROW - 2}" rx="2" '
        f'fill="{fill}"/><text class="number" x="{x + CELL / 2}" y="{y + 15}" style="fill:{ink}">{number}</text></g>'
    )


def colour(entry: Entry, tolerance: float) -> tuple[str, str]:
    """Fill and ink."""
    if entry.error is None:
        return GREY, "#7b868c"
    if not entry.ok:
        return RED, "#ffffff"
    place = 0.0 if entry.error == 0 else (math.log10(entry.error) - LEAST) / (math.log10(tolerance) - LEAST)
    return _green(min(max(place, 0.0), 1.0))


def _green(place: float) -> tuple[str, str]:
    k = min(int(place * 2), 1)
    part = place * 2 - k
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(GREENS[k], GREENS[k + 1], strict=True))
    return f"rgb({red},{green},{blue})", "#ffffff" if place < 0.3 else "#1c2428"


def _legend(y: int) -> tuple[list[str], int]:
    steps, width = 12, 22
    shapes = [f'<text x="0" y="{y + 15}">largest relative error, log scale</text>']
    for k in range(steps):
        fill, _ = _green(k / (steps - 1))
        shapes.append(f'<rect x="{LABEL + k * width}" y="{y}" width="{width}" height="{ROW}" fill="{fill}"/>')
    end = LABEL + steps * width
    shapes += [
        f'<text x="{LABEL}" y="{y + 37}">1e-17</text>',
        f'<text x="{end}" y="{y + 37}" text-anchor="end">the column’s tolerance</text>',
        f'<rect x="{end + 24}" y="{y}" width="{width * 2}" height="{ROW}" rx="2" fill="{RED}"/>',
        f'<text x="{end + 24}" y="{y + 37}">wrong</text>',
        f'<rect x="{end + 112}" y="{y}" width="{width * 2}" height="{ROW}" rx="2" fill="{GREY}"/>',
        f'<text x="{end + 112}" y="{y + 37}">does not apply</text>',
    ]
    return shapes, y + 46


def _reading() -> str:
    return """<h2>How to read it</h2>
<ul>
<li>A number is the largest error of all parameters, inputs and initial states of a row, divided by the largest element
of the reference; hover over it for the place and the tolerance.</li>
<li><b>jax.grad</b> differentiates the library’s forward pass, <b>complex step</b> and <b>differences</b> evaluate it;
all three catch a wrong backward pass, none of them a forward pass that computes something else than its equations.</li>
<li><b>Agreement is not proof</b>: the backends run the same lines. It shows that each computes what the proven one
does. Where a kernel’s name stands under the backend’s, that kernel alone runs, wherever it applies; elsewhere the
reference runs, without kernels.</li>
<li>Parameters, inputs, initial states and all upstream gradients are random; with lengths, the padding holds NaN.</li>
</ul>"""


def _circumstances(seed: int, command: str) -> list[tuple[str, str]]:
    versions = [f"polyrnn {__version__}", f"Python {platform.python_version()}"]
    found = available_backends()
    versions += [f"{name} {a.version}" for name, a in found.items() if a.available]
    devices = [f"{name}: {', '.join(a.devices)}" for name, a in found.items() if a.available and a.devices != ("cpu",)]
    absent = [f"{name}: {a.reason}" for name, a in found.items() if not a.available]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    rows = [("command", f"<code>{escape(command)}</code>"), ("seed", str(seed)), ("date", now)]
    rows += [("machine", escape(machine)), ("versions", escape(", ".join(versions)))]
    rows += [("devices", escape("; ".join(devices)))] if devices else []
    rows += [("not on this machine", escape("; ".join(absent)))] if absent else []
    return rows
