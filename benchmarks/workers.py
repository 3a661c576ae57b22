"""The subjects of the benchmark, each in a process of its own:  python workers.py SUBJECT THREADS

Reads one JSON line a job from standard input, {"task", "cell", "size", "dtype"}, runs it once (the first time after
a warm-up) and answers with one JSON line: {"ms": time} or {"skip": true}.
"""

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np


def arrays(size, dtype, seed=0):
    T, N, I, H = size
    rng = np.random.default_rng(seed)
    return rng.standard_normal((T, N, I)).astype(dtype), rng.standard_normal((T, N, H)).astype(dtype)


class Floor:
    """The machine's best rate of matrix products, in the same threads."""

    def prepare(self, task, cell, size, dtype):
        a = np.random.default_rng(0).standard_normal((1536, 1536)).astype(dtype)
        return lambda: a @ a


class Layer:
    """polyrnn's layers on one backend, with kernels or without."""

    def __init__(self, backend, kernels=True):
        import polyrnn as pr

        self.pr, self.backend, self.kernels = pr, pr.backend(backend), kernels

    def prepare(self, task, cell, size, dtype):
        pr, B = self.pr, self.backend
        layer = {"LSTM": pr.LSTM, "GRU": pr.GRU, "RNN": pr.RNN}[cell](size[2], size[3])
        params = layer.init(seed=0, backend=B, dtype=dtype)
        x, dy = B.asarray(arrays(size, dtype))

        def forward():
            with pr.use_kernels(self.kernels):
                y, _ = layer(params, x)
            return B.to_numpy(y[:1])

        def train():
            with pr.use_kernels(self.kernels):
                _, _, tape = layer.forward(params, x)
                grads = layer.backward(tape, dy)
            return B.to_numpy(grads.x[:1])

        return {"forward": forward, "train": train}[task]


class Textbook:
    """The textbook's functions of a module, through their public doors."""

    def __init__(self, module):
        self.module = module

    def prepare(self, task, cell, size, dtype):
        if cell != "LSTM":
            return None
        _, N, I, H = size
        rng = np.random.default_rng(0)
        scale = H**-0.5
        parameters = {f"W{g}": scale * rng.standard_normal((H, H + I)) for g in "fico"}
        parameters |= {f"b{g}": scale * rng.standard_normal((H, 1)) for g in "fico"}
        parameters |= {"Wy": scale * rng.standard_normal((2, H)), "by": rng.standard_normal((2, 1))}
        parameters = {name: value.astype(dtype) for name, value in parameters.items()}
        x, da = (np.ascontiguousarray(a.transpose(2, 1, 0)) for a in arrays(size, dtype))
        a0 = np.zeros((H, N), dtype)
        f = self.module

        def train():
            caches = f.lstm_forward(x, a0, parameters)[-1]
            return f.lstm_backward(da, caches)

        return {"forward": lambda: f.lstm_forward(x, a0, parameters), "train": train}[task]


class Torch:
    """PyTorch on the CPU."""

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def prepare(self, task, cell, size, dtype):
        torch = self.torch
        kind = getattr(torch, dtype)
        layer = getattr(torch.nn, cell)(size[2], size[3]).to(kind)
        x, dy = (torch.from_numpy(a) for a in arrays(size, dtype))
        x.requires_grad_(task == "train")

        def forward():
            with torch.no_grad():
                return layer(x)

        def train():
            layer.zero_grad()
            x.grad = None
            layer(x)[0].backward(dy)

        return {"forward": forward, "train": train}[task]


def subject(name, threads):
    if name == "floor":
        return Floor()
    if name == "torch":
        return Torch(threads)
    if name == "textbook-loop":
        import textbook

        return Textbook(textbook)
    if name == "polyrnn-textbook":
        import polyrnn

        return Textbook(polyrnn)
    backend, _, kernels = name.removeprefix("polyrnn-").partition("-")
    return Layer(backend, kernels != "reference")


def main():
    sys.path.insert(0, str(Path(__file__).parent))
    chosen = subject(sys.argv[1], int(sys.argv[2]))
    prepare = functools.lru_cache(maxsize=None)(chosen.prepare)
    warm = set()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        key = (job["task"], job["cell"], tuple(job["size"]), job["dtype"])
        run = prepare(*key)
        if run is None:
            print(json.dumps({"skip": True}), flush=True)
            continue
        for _ in range(0 if key in warm else 3):
            run()
        warm.add(key)
        start = time.perf_counter()
        run()
        print(json.dumps({"ms": (time.perf_counter() - start) * 1e3}), flush=True)


if __name__ == "__main__":
    main()
