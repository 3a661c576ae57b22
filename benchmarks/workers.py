"""The subjects of the benchmark, each in a process of its own:  python workers.py SUBJECT THREADS

Reads requests from standard input, one JSON line each, and answers each with one JSON line:

    {"do": "first", "job": [...], "save": PATH}   the first call, timed; its result goes into the file
    {"do": "turn", "job": [...], "seconds": s}    the job, warmed up and repeated for s seconds
    {"do": "memory", "job": [...]}                the peak memory of the first and the third run, in a fresh process
    {"do": "door"}                                what a public call costs beside the core
    {"do": "forget"}                              drop all jobs

This file has polyrnn's eager subjects and the textbook's; peers.py and peers_jax.py have the others.
"""

import functools
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

WARM = 0.02  # seconds: fills the caches and raises the clock


class Prepared(NamedTuple):
    """A job, ready to run."""

    run: Callable[[], Any]  # ends when the result is there
    result: Callable[[Any], dict]  # as NumPy arrays: y, dx, and gradients by PyTorch's names
    compile: Callable[[], None] = lambda: None  # without running


class Floor:
    """The machine's best rate of matrix products in these threads; for a step, its two bare products."""

    packages = ("numpy",)

    def prepare(self, job):
        import numpy as np
        from jobs import MATRIX, weights

        rng = np.random.default_rng(0)
        if job.way != "stream":
            a = rng.standard_normal((MATRIX, MATRIX)).astype(job.dtype)
            return Prepared(lambda: a @ a, lambda y: {})
        w, x = weights(job), rng.standard_normal(job.I).astype(job.dtype)
        h = rng.standard_normal(job.H).astype(job.dtype)
        return Prepared(lambda: (w["weight_ih_l0"] @ x, w["weight_hh_l0"] @ h), lambda y: {})


class Layer:
    """polyrnn's layers on an eager backend: with the kernels of its choice, with one of them, or with none."""

    def __init__(self, backend, kernels=None):
        import polyrnn as pr
        from polyrnn import kernels as module

        self.pr, self.backend, self.packages = pr, pr.backend(backend), (backend,)
        registered = getattr(module, "registered", lambda name: ())(backend)
        if kernels:
            named = {name.replace(" ", "-"): name for name in registered}
            pr.use_kernels(False if kernels == "reference" else named[f"{backend}-{kernels}"])  # from here on
        self.about = {"kernels": list(registered), "in use": pr.kernels_in_use()}
        self.only = set(self.about["in use"]) if kernels and kernels != "reference" else None

    def prepare(self, job):
        from jobs import arrays, valid_lengths, weights

        if job.way == "job":
            import train

            return train.with_polyrnn(self.backend)
        B = self.backend
        if self.only is not None and f"{B.name} {job.cell}" not in self.only:
            return None  # that kernel has no such cell: the reference would run under its name
        layer = getattr(self.pr, job.cell)(job.I, job.H, num_layers=job.layers, bidirectional=job.bidirectional)
        params, (x, dy), lengths = B.asarray(weights(job)), B.asarray(arrays(job)), valid_lengths(job)
        wait = B.synchronize

        def forward():
            y, _ = layer(params, x, lengths=lengths)
            wait()
            return y

        def both():
            y, _, tape = layer.forward(params, x, lengths=lengths)
            grads = layer.backward(tape, dy)
            wait()
            return y, grads

        state, inputs = None, [x[t] for t in range(job.T)] if job.way == "stream" else []
        count = 0

        def step():
            nonlocal state, count
            y, state = layer.step(params, inputs[count % job.T], state)
            count += 1
            wait()
            return y

        if job.way == "train":
            return Prepared(both, lambda r: B.to_numpy({"y": r[0], "dx": r[1].x, **r[1].params}))
        return Prepared(forward if job.way == "forward" else step, lambda y: {"y": B.to_numpy(y)})


class Textbook:
    """The textbook's functions of a module. Its GRU is another one than PyTorch's: it resets before the product."""

    packages = ("numpy",)

    def __init__(self, module):
        self.module = module

    def prepare(self, job):
        import numpy as np
        from jobs import arrays, weights

        if job.way not in ("forward", "train") or job.cell == "GRU" or job.layers > 1 or job.lengths:
            return None
        (x, dy), w = arrays(job), weights(job)
        x, da = (np.ascontiguousarray(a.transpose(2, 1, 0)) for a in (x, dy))
        bias = (w["bias_ih_l0"] + w["bias_hh_l0"])[:, None]
        head = {"by": np.zeros((2, 1), job.dtype)}
        if job.cell == "RNN":
            forward, backward = self.module.rnn_forward, self.module.rnn_backward
            parameters = {"Wax": w["weight_ih_l0"], "Waa": w["weight_hh_l0"], "ba": bias}
            head["Wya"] = np.zeros((2, job.H), job.dtype)
        else:
            forward, backward = self.module.lstm_forward, self.module.lstm_backward
            both = np.concatenate((w["weight_hh_l0"], w["weight_ih_l0"]), axis=1)
            gates = zip("ifco", np.split(both, 4), np.split(bias, 4), strict=True)
            parameters = {name: a.copy() for g, W, b in gates for name, a in ((f"W{g}", W), (f"b{g}", b))}
            head["Wy"] = np.zeros((2, job.H), job.dtype)
        parameters, a0 = parameters | head, np.zeros((job.H, job.N), job.dtype)

        def run():
            a, *_, caches = forward(x, a0, parameters)
            return a, backward(da, caches) if job.way == "train" else {}

        def result(found):
            a, grads = found
            return {"y": a.transpose(2, 1, 0)} | ({"dx": grads["dx"].transpose(2, 1, 0)} if grads else {})

        return Prepared(run, result)


def subject(name: str, threads: int):
    if name == "floor":
        return Floor()
    if name == "textbook-loop":
        import textbook

        return Textbook(textbook)
    if name == "polyrnn-textbook":
        import polyrnn

        return Textbook(polyrnn)
    if name.startswith("polyrnn-") and "jax" not in name:
        backend, _, kernels = name.removeprefix("polyrnn-").partition("-")
        return Layer(backend, kernels)
    module = importlib.import_module("peers" if name in ("torch", "onnxruntime") else "peers_jax")
    return module.SUBJECTS[name](threads)


def turn(run: Callable, known: float | None, seconds: float) -> dict:
    """Repeat for `seconds`, three times or more, after a moment that is not counted; a run of over a second once."""
    clock = time.perf_counter
    begin = clock()
    while (known is None or known < 1) and clock() - begin < WARM:
        run()
    times, begin = [], clock()
    while (len(times) < 3 or clock() - begin < seconds) and not (times and times[-1] > 1):
        start = clock()
        run()
        times.append(clock() - start)
    return {
        "median": 1e3 * statistics.median(times),
        "mean": 1e3 * statistics.mean(times),
        "min": 1e3 * min(times),
        "runs": len(times),
    }


def first(prepared: Prepared, job, path: str | None) -> dict:
    """The first call; where a call is one of many steps, the result is that of eight."""
    start = time.perf_counter()
    found = prepared.run()
    answer = {"ms": 1e3 * (time.perf_counter() - start)}
    if path:
        import numpy as np

        results = prepared.result(found)
        if job.way in ("stream", "job"):
            more = [results] + [prepared.result(prepared.run()) for _ in range(7)]
            results = {name: np.stack([r[name] for r in more]) for name in results}
        np.savez(path, **results)
    return answer


def answers(chosen) -> Callable[[dict], dict]:
    """What the process does when it is asked."""
    from jobs import Job

    prepare = functools.cache(chosen.prepare)
    known: dict = {}

    def answer(request: dict) -> dict:
        if request["do"] == "forget":
            prepare.cache_clear()
            known.clear()
            return {}
        if request["do"] == "door":
            import door

            return {"us": door.added_by_calls()}
        job = Job(*request["job"])
        if request["do"] == "memory":
            import memory

            return memory.peaks(chosen, job)
        prepared = prepare(job)
        if prepared is None:
            return {"skip": True}
        if request["do"] == "first":
            return first(prepared, job, request["save"])
        found = turn(prepared.run, known.get(job), request["seconds"])
        known[job] = found["median"] / 1e3
        return found

    return answer


def main() -> None:
    out = os.fdopen(os.dup(1), "w")  # for the answers alone: what libraries print goes to standard error
    os.dup2(2, 1)
    threads = int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):  # JAX asks for the cores that it may use, not for the number of threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    start = time.perf_counter()
    try:
        chosen = subject(sys.argv[1], threads)
    except Exception as error:  # not installed, no device
        print(json.dumps({"cannot start": str(error)}), file=out, flush=True)
        return
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", *chosen.packages)}
    ready = {"ready": True, "versions": versions, "import_ms": 1e3 * (time.perf_counter() - start)}
    print(json.dumps(ready | getattr(chosen, "about", {})), file=out, flush=True)
    answer = answers(chosen)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # whatever it is, the other subjects go on
            text = str(error).strip().splitlines()
            found = {"error": f"{type(error).__name__}: {text[0] if text else ''}"}
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
