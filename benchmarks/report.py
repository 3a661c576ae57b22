"""What the benchmark's figures look like: CSV, JSON, Markdown, a picture, and the history.

python benchmarks/report.py                # draws docs/images/speed.png from the last record of the history
python benchmarks/report.py --markdown     # prints that record's tables
python benchmarks/report.py --record benchmarks/results/results.json --picture speed.png
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from jobs import GATES, TASKS, Job

HERE = Path(__file__).parent
HISTORY, PICTURE = HERE / "history.json", HERE.parent / "docs" / "images" / "speed.png"
FIGURES = ("median", "low", "high", "first call beyond", "floor", "ratio median", "ratio low", "ratio high")
COLUMNS = (*Job._fields, "subject", "unit", "turns", *FIGURES)
# The picture's lines: colour, dash, marker, width. The colours are Okabe and Ito's; peers are grey and dashed.
STYLES = {
    "polyrnn-numpy": ("#0072B2", "-", "o", 3.0),
    "polyrnn-cupy": ("#009E73", "-", "P", 3.0),
    "polyrnn-jax": ("#D55E00", "-", "s", 2.4),
    "polyrnn-numpy-reference": ("#56B4E9", "-", "v", 1.6),
    "torch": ("#222222", "--", "D", 1.4),
    "onnxruntime": ("#222222", ":", "^", 1.4),
    "flax": ("#777777", "--", "X", 1.4),
    "jax-scan": ("#777777", ":", "p", 1.4),
    "textbook-loop": ("#aaaaaa", "--", "*", 1.4),
}
NAMES = {
    "polyrnn-numpy": "polyrnn, NumPy",
    "polyrnn-cupy": "polyrnn, CuPy",
    "polyrnn-jax": "polyrnn, JAX",
    "polyrnn-numpy-reference": "polyrnn, NumPy, without kernels",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "flax": "Flax",
    "jax-scan": "a plain lax.scan",
    "textbook-loop": "the textbook's loop",
}


# ---- files ---------------------------------------------------------------------------------


def digits(value, count=4):
    """Rounded to significant digits."""
    return float(f"{value:.{count}g}") if isinstance(value, float) else value


def write_csv(record: dict, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([digits(row.get(name)) for name in COLUMNS] for row in record["rows"])


def append(record: dict, path: Path = HISTORY) -> None:
    """To the history: the figures of each row, without the single turns; a line a row, so that a diff can be read."""
    history = json.loads(path.read_text("utf-8")) if path.exists() else []
    rows = [[digits(row.get(name)) for name in COLUMNS] for row in record["rows"]]
    history.append({key: value for key, value in record.items() if key != "rows"} | {"columns": COLUMNS, "rows": rows})
    parts = []
    for kept in history:
        head = json.dumps({key: value for key, value in kept.items() if key != "rows"}, ensure_ascii=False)
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in kept["rows"])
        parts.append(f'{head[:-1]}, "rows": [\n{lines}\n]}}')
    path.write_text("[\n" + ",\n".join(parts) + "\n]\n", "utf-8")


def last(path: Path = HISTORY) -> dict:
    """The last record of the history, or the one record of a file of results."""
    found = json.loads(path.read_text("utf-8"))
    record = found[-1] if isinstance(found, list) else found
    if "columns" in record:
        record["rows"] = [dict(zip(record["columns"], row, strict=True)) for row in record["rows"]]
    return record


# ---- Markdown ------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three significant digits, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 or not value else f"{value:.1e}"


def timed(row: dict) -> str:
    half = (row["high"] - row["low"]) / 2 / row["median"]
    ratio = row.get("ratio median")
    return f"{figure(row['median'])} ±{half:.0%}" + (f" ({ratio:.2f})" if ratio else "")


def table(head: list[str], lines: list[list[str]]) -> str:
    rule = "|---" + "|---:" * (len(head) - 1) + "|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def ordered(values) -> list:
    return list(dict.fromkeys(values))


def title(row: dict) -> str:
    what = {"forward": "Forward", "train": "Training step (forward and backward)", "stream": "One step, streaming"}
    parts = [what[row["way"]]]
    parts += ["2 layers, both directions"] if row["bidirectional"] else []
    parts += ["with lengths"] if row["lengths"] else []
    return ", ".join([*parts, row["dtype"]])


def timings(rows: list[dict]) -> list[str]:
    """A table for each kind of job, its cells beside each other where they fit."""
    found = []
    kinds = ordered((r["task"], r["way"], r["bidirectional"], r["lengths"], r["dtype"]) for r in rows)
    for kind in kinds:
        some = [r for r in rows if (r["task"], r["way"], r["bidirectional"], r["lengths"], r["dtype"]) == kind]
        columns = ordered((r["cell"], r["size"]) for r in some)
        groups = [[c for c in columns if c[0] == cell] for cell in GATES] if len(columns) > 6 else [columns]
        for group in filter(None, groups):
            at = {(r["subject"], r["cell"], r["size"]): r for r in some}
            sizes = {(r["cell"], r["size"]): r for r in some}
            head = [f"{c} {s} ({', '.join(str(sizes[c, s][k]) for k in 'TNIH')})" for c, s in group]
            floors = [figure(sizes[key]["floor"]) if sizes[key].get("floor") else "–" for key in group]
            lines = [["*the floor*", *floors]]
            for name in ordered(r["subject"] for r in some):
                cells = [at.get((name, *key)) for key in group]
                lines.append([name, *(timed(row) if row else "–" for row in cells)])
                if name == "polyrnn-numpy":
                    times = [f"{r['median'] / r['floor']:.1f}" if r and r.get("floor") else "–" for r in cells]
                    lines.append(["*that, in floors*", *times])
            found.append(f"**{title(some[0])}**: ms (in times of polyrnn-numpy)\n\n{table(['', *head], lines)}")
    return found


def markdown(record: dict) -> str:
    """All tables of a record, for docs/performance.md."""
    machine, rows = record["machine"], record["rows"]
    rates = ", ".join(f"{dtype} {rate:.0f} GFlop/s" for dtype, rate in record["rates"].items()) or "not measured"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    share = machine.get("others")
    others = "" if share is None else f" Other programs took {share:.0%} of the cores meanwhile."
    found = [
        f"{record['date']}, polyrnn {record['polyrnn']} ({record['commit']}), {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} threads for every subject; {versions}. "
        f"Best matrix product: {rates}.{others}\n"
    ]
    by_task = {task: [row for row in rows if row["task"] == task] for task in TASKS}
    for task in ("forward", "train", "stream", "bidirectional", "lengths"):
        found += timings(by_task[task])
    if by_task["linear"]:
        sizes = ordered(r["size"] for r in by_task["linear"])
        at = {(r["cell"], r["way"], r["size"]): figure(1e3 * r["median"]) for r in by_task["linear"]}
        ways = ordered((r["cell"], r["way"]) for r in by_task["linear"])
        lines = [[f"{c} {w}", *(at.get((c, w, s), "–") for s in sizes)] for c, w in ways]
        found.append(f"**Cost of a step, polyrnn-numpy**: microseconds\n\n{table(['', *sizes], lines)}")
    if by_task["memory"]:
        columns = ordered((r["cell"], r["size"]) for r in by_task["memory"])
        at = {(r["subject"], r["cell"], r["size"], r["way"]): figure(r["median"]) for r in by_task["memory"]}
        lines = []
        for name in ordered(r["subject"] for r in by_task["memory"]):
            ends = [[at.get((name, *key, way), "–") for way in ("first step", "third step")] for key in columns]
            lines.append([name, *(" / ".join(pair) for pair in ends)])
        head = ["", *(f"{cell} {size}" for cell, size in columns)]
        found.append(
            "**Peak memory of a training step** beyond inputs and parameters: MB, of the first step / of the third\n\n"
            + table(head, lines)
        )
    if by_task["job"]:
        lines = [[r["subject"], timed(r)] for r in by_task["job"]]
        found.append(
            "**The model of `polyrnn train`**: characters a second (time, in times of polyrnn-numpy's)\n\n"
            + table(["", "characters/s"], lines)
        )
    if by_task["door"]:
        lines = [[r["cell"], figure(r["median"])] for r in by_task["door"]]
        found.append(f"**What a public call adds**: microseconds\n\n{table(['', 'µs'], lines)}")
    found += [f"Not timed: {job}: {why}\n" for job, why in record.get("not timed", {}).items()]
    if record["kernels"]:
        runs = ", ".join(f"{cell} by {kernel}" for cell, kernel in record["kernels"].items())
        found.append(f"polyrnn-numpy runs {runs}.\n")
    return "\n".join([*found, first_calls(record)])


def first_calls(record: dict) -> str:
    """Import, and what the first call of a job takes beyond the later ones: compilation, above all."""
    lines = []
    for name, about in record["subjects"].items():
        extra = [r["first call beyond"] for r in record["rows"] if r["subject"] == name and r.get("first call beyond")]
        ends = [figure(statistics.median(extra)), figure(max(extra))] if extra else ["–", "–"]
        lines.append([name, figure(about["start_ms"]), *ends])
    head = ["", "start and import", "first call of a job beyond the later ones, median", "greatest"]
    return f"**Before the first result**: ms\n\n{table(head, lines)}"


# ---- the picture ---------------------------------------------------------------------------


def draw(record: dict, path: Path, cell: str = "LSTM", dtype: str = "float32") -> bool:
    """Time against size, in times of the floor; False where there is nothing to draw or nothing to draw with."""
    try:
        import matplotlib
    except ImportError:
        return False
    rows = [r for r in record["rows"] if (r["cell"], r["dtype"]) == (cell, dtype) and r["task"] in ("forward", "train")]
    if not rows:
        return False
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        chart, axes = plt.subplots(1, 2, figsize=(9, 4.8), sharey=True, layout="constrained")
        for axis, way, what in zip(axes, ("forward", "train"), ("forward", "forward + backward"), strict=True):
            some = [r for r in rows if r["way"] == way]
            floors = dict(sorted({r["size"]: r["floor"] for r in some}.items(), key=lambda pair: pair[1]))
            for name, (colour, dash, marker, width) in STYLES.items():
                at = {r["size"]: r for r in some if r["subject"] == name}
                places = [k for k, size in enumerate(floors) if size in at]
                if not places:
                    continue
                own = [at[size] for size in floors if size in at]
                values = [r["median"] / r["floor"] for r in own]
                ends = [[abs(r[end] - r["median"]) / r["floor"] for r in own] for end in ("low", "high")]
                axis.errorbar(
                    places,
                    values,
                    ends,
                    color=colour,
                    linestyle=dash,
                    marker=marker,
                    linewidth=width,
                    markersize=6,
                    elinewidth=0.8,
                    zorder=3 if name.startswith("polyrnn") else 2,
                    label=NAMES[name],
                )
            axis.axhline(1, color="black", linewidth=1)
            axis.set_yscale("log")
            shapes = {r["size"]: f"N {r['N']}, H {r['H']}" for r in some}
            ticks = [f"{size}\n{shapes[size]}\n{figure(floor)} ms" for size, floor in floors.items()]
            axis.set_xticks(range(len(floors)), ticks, fontsize=8.5)
            axis.set_xlim(-0.4, max(len(floors) - 0.6, 0.4))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.grid(axis="y", which="both", color="#dddddd", linewidth=0.5)
            axis.set_title(f"{cell}, {what}", fontsize=11)
        most = max(r["median"] / r["floor"] for r in rows if r["subject"] in STYLES)
        axes[0].set_ylim(0.8, 1.6 * most)  # a spread that goes beyond is cut
        axes[0].set_ylabel("time, in times of the floor")
        axes[0].annotate("the floor: operations at the rate of matrix products", (-0.35, 1.03), fontsize=8, va="bottom")
        handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        handles |= dict(zip(*reversed(axes[1].get_legend_handles_labels()), strict=True))
        chart.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
        machine = record["machine"]
        below = f"{machine['processor']}, {machine['threads']} threads, {dtype}; below each size its floor"
        chart.suptitle(below, fontsize=9, color="#555555")
        path.parent.mkdir(parents=True, exist_ok=True)
        chart.savefig(path, dpi=110)
        plt.close(chart)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=HISTORY, help="a history, or a file of results")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--markdown", action="store_true", help="print the tables; draw nothing")
    arguments = parser.parse_args()
    record = last(arguments.record)
    if arguments.markdown:
        print(markdown(record))
    elif draw(record, arguments.picture):
        print(arguments.picture)
    else:
        raise SystemExit("nothing to draw: no LSTM in float32 in that record, or no matplotlib here")


if __name__ == "__main__":
    main()
