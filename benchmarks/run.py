"""What polyrnn costs on this machine, beside its peers and beside the floor.

    python benchmarks/run.py                     # recurrences, door, memory; needs polyrnn alone
    python benchmarks/run.py --train             # also the characters per second of `polyrnn train`'s model
    python benchmarks/run.py --json results.json

Every subject runs in a process of its own, with the same number of threads, and they take turns job by job (A B C A B
C ...), so that whatever else the machine does meets all of them alike. Figures are medians; the floor is the operation
count over the best rate of matrix products, measured in the same turns. PyTorch takes part where it is installed, or
with --torch-python PATH from another environment.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the tree that this file is part of, as the workers use it
SIZES = {  # T, N, I, H
    "tiny": (50, 1, 32, 64),
    "small": (100, 16, 64, 128),
    "medium": (100, 32, 128, 256),
    "long": (1000, 8, 64, 128),
}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
SUBJECTS = (
    "floor",
    "polyrnn-numpy",
    "polyrnn-numpy-reference",
    "polyrnn-textbook",
    "textbook-loop",
    "polyrnn-jax",
    "torch",
)


class Subject:
    """A worker process that waits for jobs."""

    def __init__(self, name: str, threads: int, python: str) -> None:
        count = str(threads)
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = (
            os.environ | dict.fromkeys(variables, count) | {"OMP_WAIT_POLICY": "passive", "JAX_PLATFORMS": "cpu"}
        )
        environment["PYTHONPATH"] = str(HERE.parent)
        command = [python, str(HERE / "workers.py"), name, count]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        if not self.answer():
            error = self.process.stderr.read().strip().splitlines()
            raise RuntimeError(error[-1] if error else "no answer")

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def run(self, job: dict) -> float | None:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.answer().get("ms")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def floor_ms(task: str, cell: str, size: tuple, peak_ms: float) -> float:
    T, N, I, H = size
    operations = 2 * T * N * GATES[cell] * H * (I + H) * (1 if task == "forward" else 3)
    return peak_ms * operations / (2 * 1536**3)


def recurrences(arguments: argparse.Namespace) -> list[dict]:
    subjects = {}
    for name in SUBJECTS:
        try:
            subjects[name] = Subject(
                name, arguments.threads, arguments.torch_python if name == "torch" else sys.executable
            )
        except RuntimeError as error:
            print(f"{name}: left out ({error})")
    rows = []
    for cell in arguments.cells:
        for label in arguments.sizes:
            for task in ("forward", "train"):
                job = {"task": task, "cell": cell, "size": SIZES[label], "dtype": arguments.dtype}
                times: dict[str, list[float]] = {name: [] for name in subjects}
                for _ in range(arguments.rounds):
                    for name, subject in subjects.items():
                        if (ms := subject.run(job)) is not None:
                            times[name].append(ms)
                medians = {name: statistics.median(values) for name, values in times.items() if values}
                floor = floor_ms(task, cell, SIZES[label], min(times["floor"]))
                rows.append(
                    {"cell": cell, "size": label, "task": task, "floor": floor, "median_ms": medians, "all_ms": times}
                )
                show(rows[-1], first=len(rows) == 1)
    for subject in subjects.values():
        subject.close()
    return rows


def show(row: dict, first: bool) -> None:
    names = [name for name in SUBJECTS if name != "floor"]
    if first:
        print("\nmilliseconds (and times the floor)\n")
        print(
            f"{'':22}{'floor':>9}"
            + "".join(f"{name.removeprefix('polyrnn-') if name != 'polyrnn-textbook' else name:>22}" for name in names)
        )
    cells = []
    for name in names:
        ms = row["median_ms"].get(name)
        cells.append(f"{ms:13.2f} ({ms / row['floor']:5.2f}x)" if ms else f"{'-':>22}")
    print(f"{row['cell']:5}{row['size']:8}{row['task']:9}{row['floor']:9.2f}" + "".join(cells), flush=True)


def door(calls: int = 2000) -> dict[str, float]:
    """Microseconds that a public call adds to the core it calls, on NumPy."""
    import numpy as np

    import polyrnn as pr
    from polyrnn import recurrence, stack

    result = {}
    for layer in (pr.RNN(3, 5), pr.LSTM(3, 5), pr.GRU(3, 5)):
        params, x = layer.init(seed=0, backend="numpy"), np.ones((1, 2, 3), "float32")
        state = tuple(np.ones((1, 2, 5), "float32") for _ in layer.cell.states)
        given = state if len(state) > 1 else state[0]
        backend, core = pr.backend("numpy"), stack._own(layer._plan.layers[0][0], params)
        inside, start = x.transpose(0, 2, 1), tuple(s[0].T for s in state)

        def public(layer=layer, params=params, x=x, given=given):
            return layer(params, x, given)

        def bare(backend=backend, layer=layer, core=core, inside=inside, start=start):
            return recurrence.forward(backend, recurrence.Options(layer.cell), core, inside, start, keep=False)

        times: dict[str, list[float]] = {"public": [], "bare": []}
        for _ in range(calls):
            for name, function in (("public", public), ("bare", bare)):
                begin = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - begin)
        result[type(layer).__name__] = 1e6 * (statistics.median(times["public"]) - statistics.median(times["bare"]))
    return result


def memory() -> dict[str, dict[str, float]]:
    """MB that inference needs at most beyond its input, and the size of its output, at T = 1,000 and 4,000."""
    import numpy as np

    import polyrnn as pr

    result = {}
    for kernels in (True, False):
        for steps in (1000, 4000):
            layer = pr.LSTM(64, 128)
            params, x = layer.init(seed=0, backend="numpy"), np.ones((steps, 8, 64), "float32")
            with pr.use_kernels(kernels):
                layer(params, x[:10])
                tracemalloc.start()
                y, _ = layer(params, x)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            name = f"{'kernels' if kernels else 'reference'}, T = {steps}"
            result[name] = {"peak": peak / 1e6, "output": y.nbytes / 1e6, "beyond": (peak - y.nbytes) / 1e6}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(GATES), choices=list(GATES))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--torch-python", default=sys.executable, help="the Python of an environment that has PyTorch")
    parser.add_argument("--train", action="store_true", help="characters per second of `polyrnn train`, and of PyTorch")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("numpy",)}
    machine = {"processor": processor(), "threads": arguments.threads, "python": platform.python_version(), **versions}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    report: dict = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "recurrences": recurrences(arguments)}
    report["door_us"] = door()
    print("\na public call adds, in microseconds:", {name: round(us, 1) for name, us in report["door_us"].items()})
    report["memory_MB"] = memory()
    print("\ninference, MB")
    for name, row in report["memory_MB"].items():
        print(f"  {name:24} peak {row['peak']:7.2f}   output {row['output']:7.2f}   beyond it {row['beyond']:6.2f}")
    if arguments.train:
        import train

        report["train"] = train.compare(arguments.threads, arguments.torch_python)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
