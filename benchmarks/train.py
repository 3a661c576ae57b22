"""The real job: the model that `polyrnn train` trains by default, in polyrnn and in PyTorch.

The same text, initial weights, batches, loss, clipping and optimiser: embedding 64, LSTM 128, linear; batch 32 x 64
steps; Adam. Both carry the state from window to window. Text and weights come in a file, since PyTorch's environment
may have no polyrnn: `python train.py FILE` writes it.
"""

import itertools
import os
import sys
from pathlib import Path

import numpy as np
from workers import Prepared

BATCH, STEPS, EMBEDDING, HIDDEN, RATE, CLIP = 32, 64, 64, 128, 5e-3, 1.0
WINDOWS = 64  # that many, over and over
DATA = "POLYRNN_BENCHMARK_TEXT"


def model(size: int):
    import polyrnn as pr

    return pr.Sequential(
        embedding=pr.Embedding(size, EMBEDDING), lstm=pr.LSTM(EMBEDDING, HIDDEN), head=pr.Linear(HIDDEN, size)
    )


def write(path: Path) -> None:
    """Windows of the text and the model's initial weights."""
    from polyrnn import data

    text, _ = data.split(data.default_text())
    vocabulary = data.Vocabulary.of(text)
    found = itertools.islice(data.windows(np.asarray(vocabulary.encode(text)), BATCH, STEPS), WINDOWS)
    x, y = zip(*((window.x, window.y) for window in found), strict=True)
    params = model(len(vocabulary)).init(seed=0, backend="numpy")
    np.savez(path, x=np.stack(x), y=np.stack(y), size=len(vocabulary), **params)


def read() -> tuple[int, np.ndarray, np.ndarray, dict]:
    with np.load(os.environ[DATA]) as file:
        found = dict(file)
    return int(found.pop("size")), found.pop("x"), found.pop("y"), found


def with_polyrnn(backend) -> Prepared:
    import polyrnn as pr

    size, xs, ys, params = read()
    windows = itertools.cycle([backend.asarray((x, y)) for x, y in zip(xs, ys, strict=True)])
    optimizer, state = pr.Adam(RATE), None
    params = backend.asarray(params)
    kept = optimizer.init(params)
    step = pr.train_step(model(size), pr.softmax_cross_entropy, optimizer, clip_norm=CLIP)
    if "numba" in pr.kernels_in_use().get(f"{backend.name} LSTM", ""):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")  # as `polyrnn train` does, which says why

    def run():
        nonlocal params, kept, state
        params, kept, state, loss, _ = step(params, kept, *next(windows), state)
        return float(loss)

    return Prepared(run, lambda loss: {"loss": np.asarray(loss)})


def with_torch() -> Prepared:
    import torch

    size, xs, ys, params = read()
    embedding, lstm = torch.nn.Embedding(size, EMBEDDING), torch.nn.LSTM(EMBEDDING, HIDDEN)
    net = torch.nn.ModuleDict({"embedding": embedding, "lstm": lstm, "head": torch.nn.Linear(HIDDEN, size)})
    net.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()})
    pairs = [tuple(torch.from_numpy(a.astype("int64")) for a in pair) for pair in zip(xs, ys, strict=True)]
    windows, parameters, state = itertools.cycle(pairs), list(net.parameters()), None
    optimizer = torch.optim.Adam(parameters, RATE)

    def run():
        nonlocal state
        x, y = next(windows)
        out, state = lstm(embedding(x), state)
        state = tuple(s.detach() for s in state)
        loss = torch.nn.functional.cross_entropy(net["head"](out).reshape(-1, size), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        return loss.item()

    return Prepared(run, lambda loss: {"loss": np.asarray(loss)})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
