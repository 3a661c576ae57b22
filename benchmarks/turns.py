"""Processes that take turns: A B C, A B C, ..., so that whatever else the machine does meets all of them alike.

A process is stopped while it is not its turn. Threads of OpenBLAS and ONNX Runtime wait for their next work by
spinning, for 100 milliseconds: on two cores they would take one of them from the subject that comes next.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from jobs import MATRIX, Job, disagreement, file_name

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore", "PYTHONSAFEPATH": ""}
# How threads wait is each library's choice; told to sleep at once (OMP_WAIT_POLICY=passive), PyTorch takes twice as
# long.
IGNORED = ("POLYRNN_KERNELS", "POLYRNN_BACKEND", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "XLA_FLAGS")


class Subject:
    """A process that waits for requests; a RuntimeError says why it cannot run here."""

    def __init__(self, name: str, threads: int, pythons: list[str], **more: str) -> None:
        self.name, self.ready = name, {}
        environment = os.environ | dict.fromkeys(THREADS, str(threads)) | ENVIRONMENT | more
        environment = {key: value for key, value in environment.items() if key not in IGNORED}
        if name.startswith("polyrnn"):
            environment["PYTHONPATH"] = str(HERE.parent)  # the tree that this file is part of
        reasons = []
        for python in pythons:
            self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
            command = [python, str(HERE / "workers.py"), name, str(threads)]
            pipe, start = subprocess.PIPE, time.perf_counter()
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=environment
            )
            try:
                self.ready = self._answer() | {"start_ms": 1e3 * (time.perf_counter() - start)}
                self._signal("SIGSTOP")
                return
            except RuntimeError as error:
                reasons.append(str(error))
                self.close()
        raise RuntimeError(reasons[0])

    def _answer(self) -> dict:
        if line := self.process.stdout.readline():
            found = json.loads(line)
            if "cannot start" in found:
                raise RuntimeError(found["cannot start"])
            return found
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"ended with {self.process.returncode}")

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))
        elif name == "SIGSTOP":
            time.sleep(0.15)  # where processes cannot be stopped, its threads may fall asleep

    def ask(self, request: dict) -> dict:
        """The answer, or {"error": ...}; the process runs meanwhile, and no longer."""
        self._signal("SIGCONT")
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return self._answer()
        except (RuntimeError, OSError) as error:
            return {"error": str(error)}
        finally:
            self._signal("SIGSTOP")

    def close(self) -> None:
        self._signal("SIGCONT")
        with contextlib.suppress(OSError):  # it may have ended
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def __enter__(self) -> "Subject":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Turns:
    """Measures jobs; keeps the best rate of matrix products of the whole run."""

    def __init__(self, subjects: dict[str, Subject], reference: Subject, floor: Subject, folder: Path) -> None:
        self.subjects, self.reference, self.floor, self.folder = subjects, reference, floor, folder
        self.rates: dict[str, float] = {}  # operations a second, by dtype
        self.steps: dict[Job, float] = {}  # milliseconds of the bare products of a step
        self.refused: dict[str, str] = {}  # what was not timed, and why

    def agreeing(self, job: Job, names: list[str]) -> dict[str, float]:
        """Milliseconds of the first call of those whose result is the reference's."""
        path = self.folder / file_name(job)
        answer = self.reference.ask({"do": "first", "job": job, "save": str(path)})
        if "ms" not in answer:
            raise RuntimeError(f"the reference cannot run it: {answer.get('error')}")
        self.reference.ask({"do": "forget"})
        with np.load(path) as file:
            expected = dict(file)
        found = {}
        for name in names:
            answer = self.subjects[name].ask({"do": "first", "job": job, "save": str(path)})
            if "ms" in answer:
                with np.load(path) as file:
                    if why := disagreement(job, dict(file), expected):
                        answer["error"] = why
            if "error" in answer:
                print(f"  {name:26}not timed: {answer['error']}", flush=True)
                self.refused[f"{name}, {job}"] = answer["error"]
            elif "ms" in answer:
                found[name] = answer["ms"]
        path.unlink()
        return found

    def ask_floor(self, job: Job, seconds: float) -> None:
        """One turn of the floor."""
        answer = self.floor.ask({"do": "turn", "job": job, "seconds": seconds})
        if job.way == "stream":
            self.steps[job] = min(answer["median"], self.steps.get(job, answer["median"]))
        else:
            self.rates[job.dtype] = max(2 * MATRIX**3 / answer["min"] * 1e3, self.rates.get(job.dtype, 0))

    def floor_ms(self, job: Job) -> float | None:
        if job.way == "stream":
            return self.steps.get(job)
        return 1e3 * job.operations() / self.rates[job.dtype] if job.way in ("forward", "train") else None

    def measure(self, job: Job, names: list[str], rounds: int, seconds: float, budget: float) -> list[dict]:
        """A row for each subject: as many turns as asked for; fewer, but three, where they take more than `budget`."""
        statistic, first = "mean" if job.way == "job" else "median", self.agreeing(job, names)
        begin = time.perf_counter()
        times: dict[str, list[float]] = {name: [] for name in first}
        for turn in range(rounds):
            if turn >= 3 and time.perf_counter() - begin > budget:
                break
            if job.way != "job":
                self.ask_floor(job._replace(task="floor") if job.way != "stream" else job, seconds)
            for name in times:
                answer = self.subjects[name].ask({"do": "turn", "job": job, "seconds": seconds})
                times[name].append(answer.get(statistic, float("nan")))
        for subject in (self.floor, *self.subjects.values()):
            subject.ask({"do": "forget"})
        for name in [name for name, own in times.items() if any(t != t for t in own)]:
            print(f"  {name:26}failed in a turn", flush=True)
            del times[name]
        return [self._row(job, name, times, first[name]) for name in times]

    def linear(self, jobs: list[Job], name: str, rounds: int, seconds: float) -> list[dict]:
        """A row for each of jobs that differ in their number of steps: milliseconds a step, the jobs in turns."""
        subject, times = self.subjects[name], {job: [] for job in jobs}
        first = {job: self.agreeing(job, [name]) for job in jobs}
        for _ in range(rounds):
            for job in jobs:
                if first[job]:
                    answer = subject.ask({"do": "turn", "job": job, "seconds": seconds})
                    times[job].append(answer.get("median", float("nan")) / job.T)
        subject.ask({"do": "forget"})
        found = [(job, own) for job, own in times.items() if own and not any(t != t for t in own)]
        return [
            job._asdict() | {"subject": name, "unit": "ms/step", "turns": len(own), "all": own} | spread(own)
            for job, own in found
        ]

    def _row(self, job: Job, name: str, times: dict, first: float) -> dict:
        own = times[name]
        row = job._asdict() | {"subject": name, "unit": "ms", "turns": len(own), "all": own} | spread(own)
        row["first call beyond"] = max(0.0, first - row["median"])
        row["floor"] = self.floor_ms(job)
        if "polyrnn-numpy" in times:  # turn by turn
            ratios = spread([a / b for a, b in zip(own, times["polyrnn-numpy"], strict=True)])
            row |= {f"ratio {key}": value for key, value in ratios.items()}
        return row


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles; of fewer than four, the least and the greatest in place of these."""
    ends = (min(values), max(values)) if len(values) < 4 else statistics.quantiles(values, n=4, method="inclusive")[::2]
    return {"median": statistics.median(values), "low": ends[0], "high": ends[1]}


def busy() -> tuple[float, float] | None:
    """Seconds of all cores in which something ran, and those of this process and its ended children; Linux only."""
    try:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def pythons_for(name: str, peers: list[str]) -> list[str]:
    """Where a subject may run: polyrnn in this environment, the others wherever they are."""
    return [sys.executable] if name.startswith("polyrnn") else [sys.executable, *peers]
