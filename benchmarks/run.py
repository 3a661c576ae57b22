"""What polyrnn costs on this machine, beside its peers and beside the floor: one command.

    python benchmarks/run.py                  # everything that can run here, about 25 minutes
    python benchmarks/run.py --quick          # the LSTM at two sizes, about two minutes
    python benchmarks/run.py --tasks forward train --cells LSTM --sizes medium --subjects polyrnn-numpy torch
    python benchmarks/run.py --record         # also appends to benchmarks/history.json, and draws the README's picture

Every subject runs in a process of its own, with the same number of threads, and they take turns (A B C A B C ...). In
a turn the job runs for a moment that is not counted, then again and again for a while; the turn's figure is the
median. The table has the median of turns and their quartiles; ratios are formed turn by turn. The floor is the
operation count at the machine's best rate of matrix products, measured in the same turns, for a step of streaming its
two bare products in NumPy. A subject whose result is not that of polyrnn's reference is not timed.

PyTorch, ONNX Runtime and Flax take part where they are installed (pip install ".[bench]"), here or in an environment
that --peers-python names.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jobs
import report
import train
from jobs import DTYPES, GATES, SIZES, TASKS, Job
from turns import Subject, Turns, busy, pythons_for, spread

HERE = Path(__file__).parent
AFTER_KERNELS = ("polyrnn-numpy-reference", "polyrnn-textbook", "polyrnn-jax", "polyrnn-jax-autodiff", "polyrnn-cupy")
PEERS = ("textbook-loop", "jax-scan", "flax", "torch", "onnxruntime")
JOB = ("polyrnn-numpy", "polyrnn-jax", "torch")


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--quick", action="store_true", help="few of everything")
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--cells", nargs="+", default=list(GATES), choices=list(GATES))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="for all tasks; by default a choice for each")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--subjects", nargs="+", help="by default all that can run")
    parser.add_argument("--rounds", type=int, help="turns of each subject")
    parser.add_argument("--seconds", type=float, default=0.1, help="of a turn")
    parser.add_argument("--budget", type=float, default=20, help="seconds of a row, after which three turns will do")
    parser.add_argument("--threads", type=int, default=cores, help="of each subject")
    parser.add_argument("--peers-python", nargs="+", default=[], help="Pythons of environments that have the peers")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="a folder for CSV, JSON and picture")
    parser.add_argument("--record", action="store_true", help="append to the history, and draw the README's picture")
    found = parser.parse_args()
    if found.quick:
        found.cells, found.dtypes, found.sizes = ["LSTM"], ["float32"], found.sizes or ["tiny", "small"]
        found.tasks = found.tasks or ["forward", "train", "stream", "job"]
    found.tasks = found.tasks or list(TASKS)
    found.rounds = found.rounds or (3 if found.quick else 5)
    return found


def start_all(arguments: argparse.Namespace, start) -> tuple[dict[str, Subject], dict[str, str]]:
    """The processes of all subjects that can run here, and why the others cannot."""
    names, subjects, out = ["polyrnn-numpy"], {}, {}
    while names:
        name = names.pop(0)
        if not arguments.subjects or name in arguments.subjects or name == "polyrnn-numpy":
            try:
                subjects[name] = start(name)
            except RuntimeError as error:
                out[name] = str(error)
                print(f"{name}: left out ({error})", flush=True)
        has_kernels = name in subjects and name in ("polyrnn-numpy", "polyrnn-cupy")
        if has_kernels:
            ready = subjects[name].ready
            default = set(ready["in use"].values())  # one kernel for all cells: it has been started
            kernels = [k for k in ready["kernels"] if {k} != default or arguments.subjects]
            names += [f"polyrnn-{kernel.replace(' ', '-')}" for kernel in kernels]
        if name == "polyrnn-numpy":
            names += [*AFTER_KERNELS, *PEERS]
            unknown = set(arguments.subjects or ()) - {*names, "polyrnn-numpy"}
            if unknown:
                raise SystemExit(f"no such subject: {', '.join(sorted(unknown))}; there are {name}, {', '.join(names)}")
    if "polyrnn-numpy" not in subjects:
        raise SystemExit(f"polyrnn cannot run here: {out['polyrnn-numpy']}")
    if arguments.subjects and "polyrnn-numpy" not in arguments.subjects:
        subjects.pop("polyrnn-numpy").close()
    return subjects, out


def measure_all(arguments: argparse.Namespace, turns: Turns, asked: jobs.Selection, rows: list[dict], start) -> None:
    """Everything that is asked for, into `rows`, which keeps what is there when it is interrupted."""
    names, options = list(turns.subjects), (arguments.rounds, arguments.seconds, arguments.budget)
    for job in jobs.timed_jobs(asked):
        print(f"\n{job}", flush=True)
        rows += (found := turns.measure(job, names, *options))
        show(found)
    if "linear" in asked.tasks and "polyrnn-numpy" in names:
        for some in jobs.linear_jobs(asked):
            rows += (found := turns.linear(some, "polyrnn-numpy", min(arguments.rounds, 3), arguments.seconds))
            print(f"\nlinear, {some[0].cell} {some[0].way}: microseconds a step", flush=True)
            print("".join(f"  {row['size']} {1e3 * row['median']:.2f}" for row in found), flush=True)
    if "job" in asked.tasks:
        job = Job("job", "job", "LSTM", "model", train.STEPS, train.BATCH, train.EMBEDDING, train.HIDDEN, "float32")
        print("\nthe model of `polyrnn train`: characters a second", flush=True)
        found = turns.measure(job, [n for n in JOB if n in names], arguments.rounds, max(0.5, arguments.seconds), 60)
        rows += [characters(row) for row in found]
        show(rows[len(rows) - len(found) :])
    if "door" in asked.tasks and "polyrnn-numpy" in names:
        answer = turns.subjects["polyrnn-numpy"].ask({"do": "door"})
        print("\na public call adds, in microseconds:", answer.get("us", answer.get("error")), flush=True)
        common = Job("door", "forward", "", "", 1, 2, 3, 5, "float32")._asdict() | {"subject": "polyrnn-numpy"}
        rows += [common | {"cell": c, "unit": "us", "median": us} for c, us in answer.get("us", {}).items()]
    if "memory" in asked.tasks:
        import memory

        rows += memory.rows(jobs.memory_jobs(asked), names, start)


def characters(row: dict) -> dict:
    """A row of milliseconds a step as one of characters a second; its ratios stay ratios of times."""
    rates = spread([1e3 * train.BATCH * train.STEPS / ms for ms in row["all"]])
    return row | {"unit": "characters/s", "all": None} | rates


def show(rows: list[dict]) -> None:
    for row in rows:
        line = (
            f"  {row['subject']:26}{row['median']:12,.3f}  {row['low']:12,.3f} to {row['high']:12,.3f} {row['unit']:14}"
        )
        line += f" floor x{row['median'] / row['floor']:6.2f}" if row.get("floor") else ""
        line += f"  polyrnn x{row['ratio median']:6.2f}" if "ratio median" in row else ""
        print(f"{line}  first call +{row['first call beyond']:,.0f} ms", flush=True)


def machine(threads: int) -> dict:
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads, "system": platform.system()}


def commit() -> str | None:
    """The commit, with a plus sign where the library has been changed since."""
    git = ["git", "-C", str(HERE.parent)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "polyrnn"], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + "+" * bool(changed)


def main() -> None:
    arguments, begin = arguments_of(), time.perf_counter()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the processes are ended and the results written
    sizes = tuple(arguments.sizes or ())
    asked = jobs.Selection(tuple(arguments.tasks), tuple(arguments.cells), sizes, tuple(arguments.dtypes))
    rows: list[dict] = []
    before = busy()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        text = Path(folder) / "text.npz"

        def start(name: str) -> Subject:
            pythons = pythons_for(name, arguments.peers_python)
            return Subject(name, arguments.threads, pythons, **{train.DATA: str(text)})

        if "job" in asked.tasks:
            environment = os.environ | {"PYTHONPATH": str(HERE.parent), "PYTHONSAFEPATH": ""}
            subprocess.run([sys.executable, str(HERE / "train.py"), str(text)], check=True, env=environment)
        subjects, out = start_all(arguments, start)
        for subject in subjects.values():
            stack.enter_context(subject)
        reference = stack.enter_context(start("polyrnn-numpy-reference"))
        turns = Turns(subjects, reference, stack.enter_context(start("floor")), Path(folder))
        versions = {key: value for s in subjects.values() for key, value in s.ready["versions"].items()}
        about = machine(arguments.threads)
        print(", ".join(f"{key} {value}" for key, value in (about | versions).items()), flush=True)
        try:
            measure_all(arguments, turns, asked, rows, start)
        except KeyboardInterrupt:
            print("\ninterrupted: what is there is written", flush=True)
        for row in rows:  # the best rate of the whole run
            row["floor"] = turns.floor_ms(Job(*(row[name] for name in Job._fields))) if row["unit"] == "ms" else None
    if before and (after := busy()):
        share = (after[0] - before[0] - (after[1] - before[1])) / (time.perf_counter() - begin) / (os.cpu_count() or 1)
        about["others"] = max(0.0, round(share, 3))
    report_all(arguments, rows, turns, about, versions, subjects, out)
    print(f"\n{(time.perf_counter() - begin) / 60:.1f} minutes")
    if turns.refused:
        raise SystemExit(f"not timed: {len(turns.refused)} jobs, for they failed or disagreed; see above")


def report_all(arguments, rows, turns, about, versions, subjects, out) -> None:
    """The tables, the files, and the history if asked for."""
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "polyrnn": subjects_version(),
        "commit": commit(),
        "machine": about,
        "versions": versions,
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds},
        "rates": {dtype: rate / 1e9 for dtype, rate in turns.rates.items()},
        "subjects": {name: {"start_ms": subject.ready["start_ms"]} for name, subject in subjects.items()},
        "kernels": next((s.ready["in use"] for n, s in subjects.items() if n == "polyrnn-numpy"), {}),
        "left out": out,
        "not timed": turns.refused,
        "rows": rows,
    }
    print("\n" + report.markdown(record))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1), "utf-8")
    (arguments.out / "results.md").write_text(report.markdown(record), "utf-8")
    report.write_csv(record, arguments.out / "results.csv")
    report.draw(record, arguments.out / "speed.png")
    if arguments.record:
        report.append(record)
        report.draw(record, report.PICTURE)


def subjects_version() -> str:
    """polyrnn's version, from its source: this process need not import it."""
    source = (HERE.parent / "polyrnn" / "__init__.py").read_text("utf-8")
    line = next((line for line in source.splitlines() if line.startswith("__version__")), '"?"')
    return line.split('"')[1]


if __name__ == "__main__":
    main()
