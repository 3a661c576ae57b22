"""What is measured: cells, sizes and tasks, their numbers, the operations they need, and when two results agree.

Numbers and weights are drawn here, once for all subjects, under PyTorch's names; nothing is imported but NumPy.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np

SIZES = {  # T, N, I, H
    "tiny": (50, 1, 32, 64),
    "small": (100, 16, 64, 128),
    "medium": (100, 32, 128, 256),
    "large": (100, 64, 512, 512),
    "long": (1000, 8, 64, 128),
}
STREAM = (8, 1, 256, 256)  # one step at a time; eight inputs in turn
LINEAR = {f"T={T}": (T, 8, 64, 128) for T in (100, 1000, 10_000)}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
TASKS = ("forward", "train", "stream", "bidirectional", "lengths", "linear", "memory", "job", "door")
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest difference, relative to the largest value
MATRIX = 1536  # the product whose rate is the machine's


class Job(NamedTuple):
    """One row of the benchmark, for all subjects."""

    task: str
    way: str  # forward; train: forward and backward; stream: one step; job: one step of training a model
    cell: str
    size: str
    T: int
    N: int
    I: int
    H: int
    dtype: str
    layers: int = 1
    bidirectional: bool = False
    lengths: bool = False

    def inputs(self) -> list[tuple[str, int]]:
        """Of each recurrence, the suffix of its parameters' names and the size of its input."""
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        width = len(suffixes) * self.H
        return [(f"_l{k}{suffix}", width if k else self.I) for k in range(self.layers) for suffix in suffixes]

    def operations(self) -> int:
        """The least of it: its matrix products, of valid steps; backward takes two for each of forward."""
        steps = int(valid_lengths(self).sum()) if self.lengths else self.T * self.N
        products = sum(2 * steps * GATES[self.cell] * self.H * (inputs + self.H) for _, inputs in self.inputs())
        return products * (3 if self.way == "train" else 1)

    def __str__(self) -> str:
        shape = f"{self.layers} layers, both directions, " if self.bidirectional else ""
        lengths = "lengths, " if self.lengths else ""
        return f"{self.task}, {self.cell} {self.size}, {self.way}, {shape}{lengths}{self.dtype}"


def weights(job: Job) -> dict[str, np.ndarray]:
    """By PyTorch's names, as all subjects take them: U(-1/sqrt(H), 1/sqrt(H))."""
    rng, rows = np.random.default_rng(1), GATES[job.cell] * job.H
    found = {}
    for suffix, inputs in job.inputs():
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, job.H), "bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            found[name + suffix] = rng.uniform(-1, 1, shape).astype(job.dtype) / np.asarray(job.H**0.5, job.dtype)
    return found


def arrays(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """x (T, N, I) and dy (T, N, D*H), which is zero in the padding."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((job.T, job.N, job.I)).astype(job.dtype)
    dy = rng.standard_normal((job.T, job.N, job.H * (1 + job.bidirectional))).astype(job.dtype)
    if job.lengths:
        dy[np.arange(job.T)[:, None] >= valid_lengths(job)] = 0
    return x, dy


def valid_lengths(job: Job) -> np.ndarray | None:
    """(N,) between T/10 and T, the first of them T; None if all are T."""
    if not job.lengths:
        return None
    found = np.random.default_rng(2).integers(max(1, job.T // 10), job.T + 1, job.N)
    found[0] = job.T
    return found.astype("int32")


def difference(found: dict, expected: dict) -> tuple[str, float]:
    """Where two results differ most, and by how much of the largest value."""
    worst = ("", 0.0)
    for name in found.keys() & expected.keys():
        a, b = found[name], expected[name]
        if a.shape != b.shape:
            return f"{name} {a.shape} instead of {b.shape}", math.inf
        error = float(np.max(np.abs(a.astype("float64") - b)) / max(float(np.max(np.abs(b))), 1e-30))
        worst = max(worst, (name, error if math.isfinite(error) else math.inf), key=lambda pair: pair[1])
    return worst


def disagreement(job: Job, found: dict, expected: dict) -> str | None:
    """Why this result is not that of the reference, or None."""
    needed = {"forward": {"y"}, "stream": {"y"}, "train": {"y", "dx"}, "job": {"loss"}}[job.way]
    if missing := needed - (found.keys() & expected.keys()):
        return f"gives no {', '.join(sorted(missing))}"
    name, error = difference(found, expected)
    tolerance = TOLERANCE[job.dtype] * (10 if job.way == "job" else 1)  # Adam divides small gradients by themselves
    return f"disagrees with the reference: {name} by {error:.1e}" if error > tolerance else None


class Selection(NamedTuple):
    """What is asked for; an empty tuple is the default."""

    tasks: tuple[str, ...] = TASKS
    cells: tuple[str, ...] = tuple(GATES)
    sizes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = DTYPES


# By default float64, both directions and lengths are measured at one size, and the large one for the LSTM alone: the
# whole then ends within half an hour.
DEFAULT_SIZES = {
    ("forward", "float32"): tuple(SIZES),
    ("train", "float32"): tuple(SIZES),
    ("forward", "float64"): ("small",),
    ("train", "float64"): ("small",),
    ("bidirectional", "float32"): ("small",),
    ("lengths", "float32"): ("small",),
}


def timed_jobs(asked: Selection) -> list[Job]:
    """The rows that are timed subject by subject, in turns."""
    found, all_cells = [], len(asked.cells) == len(GATES)
    for task in asked.tasks:
        for dtype in asked.dtypes:
            for cell in asked.cells:
                if task == "stream" and (dtype == "float32" or asked.sizes):
                    found.append(Job(task, "stream", cell, "step", *STREAM, dtype))
                for size in asked.sizes or DEFAULT_SIZES.get((task, dtype), ()):
                    if size == "large" and cell != "LSTM" and all_cells and not asked.sizes:
                        continue
                    what = (cell, size, *SIZES[size], dtype)
                    if task in ("forward", "train"):
                        found.append(Job(task, task, *what))
                    elif task == "bidirectional":
                        found += [Job(task, way, *what, 2, True) for way in ("forward", "train")]
                    elif task == "lengths":
                        found += [Job(task, way, *what, lengths=True) for way in ("forward", "train")]
                        found += [Job(task, way, *what, 2, True, True) for way in ("forward", "train")]
    return found


def memory_jobs(asked: Selection) -> list[Job]:
    """Training steps whose peak memory is measured."""
    cells = ("LSTM",) if len(asked.cells) == len(GATES) else asked.cells
    return [
        Job("memory", "train", c, s, *SIZES[s], "float32") for c in cells for s in asked.sizes or ("medium", "long")
    ]


def linear_jobs(asked: Selection) -> list[list[Job]]:
    """Sets of jobs that differ in T alone."""
    cells = ("LSTM",) if len(asked.cells) == len(GATES) else asked.cells
    return [
        [Job("linear", way, cell, label, *size, "float32") for label, size in LINEAR.items()]
        for cell in cells
        for way in ("forward", "train")
    ]


def file_name(job: Job) -> str:
    """A short name for its results."""
    return f"{zlib.crc32(repr(job).encode()):08x}.npz"
