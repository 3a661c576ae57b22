"""Characters per second of the model that `polyrnn train` trains by default, in polyrnn and in PyTorch.

    python benchmarks/train.py polyrnn|torch STEPS      # one of them; used by `benchmarks/run.py --train`

The same text, model, batches, loss, clipping and optimiser: embedding 64, LSTM 128, linear; batch 32 x 64 steps; Adam.
Both carry the state from window to window.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH, STEPS, EMBEDDING, HIDDEN, RATE, CLIP = 32, 64, 64, 128, 5e-3, 1.0
ROOT = Path(__file__).parent.parent


def text_as_windows():
    from polyrnn import data

    text, _ = data.split(data.default_text())
    vocabulary = data.Vocabulary.of(text)
    return len(vocabulary), data.windows(np.asarray(vocabulary.encode(text)), BATCH, STEPS)


def run_polyrnn(steps):
    import polyrnn as pr

    size, windows = text_as_windows()
    model = pr.Sequential(
        embedding=pr.Embedding(size, EMBEDDING), lstm=pr.LSTM(EMBEDDING, HIDDEN), head=pr.Linear(HIDDEN, size)
    )
    optimizer = pr.Adam(RATE)
    params = model.init(seed=0, backend="numpy")
    kept, state = optimizer.init(params), None
    step = pr.train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=CLIP)
    for k, window in zip(range(steps + 5), windows, strict=False):
        if k == 5:
            begin = time.perf_counter()
        params, kept, state, loss, _ = step(params, kept, window.x, window.y, state)
    return steps * BATCH * STEPS / (time.perf_counter() - begin), float(loss)


def run_torch(steps):
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    size, windows = text_as_windows()
    embedding, lstm, head = (
        torch.nn.Embedding(size, EMBEDDING),
        torch.nn.LSTM(EMBEDDING, HIDDEN),
        torch.nn.Linear(HIDDEN, size),
    )
    parameters = [p for module in (embedding, lstm, head) for p in module.parameters()]
    optimizer, state = torch.optim.Adam(parameters, RATE), None
    for k, window in zip(range(steps + 5), windows, strict=False):
        if k == 5:
            begin = time.perf_counter()
        x, y = torch.from_numpy(window.x.astype("int64")), torch.from_numpy(window.y.astype("int64"))
        out, state = lstm(embedding(x), state)
        state = tuple(s.detach() for s in state)
        loss = torch.nn.functional.cross_entropy(head(out).reshape(-1, size), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return steps * BATCH * STEPS / (time.perf_counter() - begin), loss.item()


def compare(threads, torch_python, rounds=5, steps=60):
    """The two in turn, each in a fresh process."""
    count = str(threads)
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
    environment["PYTHONPATH"] = str(ROOT)
    speeds: dict[str, list[float]] = {"polyrnn": [], "torch": []}
    for _ in range(rounds):
        for name, python in (("polyrnn", sys.executable), ("torch", torch_python)):
            command = [python, __file__, name, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                print(f"{name}: left out ({done.stderr.strip().splitlines()[-1]})")
                continue
            speeds[name].append(json.loads(done.stdout)["characters_per_second"])
    for name, values in speeds.items():
        if values:
            print(f"{name:8} {statistics.median(values):10,.0f} characters/s   {[round(v) for v in values]}")
    if all(speeds.values()):
        pairs = [a / b for a, b in zip(speeds["polyrnn"], speeds["torch"], strict=True)]
        print(f"polyrnn / torch by pairs: median {statistics.median(pairs):.2f}, {min(pairs):.2f} to {max(pairs):.2f}")
    return speeds


if __name__ == "__main__":
    speed, loss = {"polyrnn": run_polyrnn, "torch": run_torch}[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({"characters_per_second": speed, "loss": loss}))
