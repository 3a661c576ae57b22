"""What each option of a layer costs: its time forward and backward in times of the plain layer's.

    python benchmarks/options.py                 # NumPy, float32, T 100, N 32, I 128, H 256
    python benchmarks/options.py --threads 2 --rounds 20
    python benchmarks/options.py --long          # segments computed again at T = 10,000: time and memory
    python benchmarks/options.py --ensembles     # E networks in one call, and in E calls

The subjects take turns in one process, so that whatever else the machine does meets all of them alike; a figure is the
median of the ratios of turns.
"""

import argparse
import os
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tree that this file is part of


def job(layer, x, lengths=None, seed=None, per_sample=False):
    """One forward and backward pass."""
    import numpy as np

    params = layer.init(seed=0)
    y, _ = layer(params, x)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(x.dtype)

    def run():
        *_, tape = layer.forward(params, x, lengths=lengths, seed=seed)
        layer.backward(tape, dy, per_sample=per_sample)

    return run


def in_turns(jobs: dict, rounds: int) -> dict:
    """The times of each, in seconds, as arrays over the turns."""
    import numpy as np

    times: dict = {name: [] for name in jobs}
    for turn in range(rounds + 2):
        for name, run in jobs.items():
            begin = time.perf_counter()
            run()
            if turn > 1:
                times[name].append(time.perf_counter() - begin)
    return {name: np.asarray(found) for name, found in times.items()}


def options(rounds: int) -> None:
    import numpy as np

    import polyrnn as pr

    T, N, I, H = 100, 32, 128, 256
    rng = np.random.default_rng(0)
    x, wide = (rng.standard_normal((T, N, size)).astype("float32") for size in (I, H))
    lengths = [int(n) for n in rng.integers(1, T + 1, N)]
    softsigns = ("sigmoid", "sigmoid", "softsign", "sigmoid", "softsign")
    jobs = {
        "LSTM": job(pr.LSTM(I, H), x),
        "LSTM by the reference": without_kernels(job(pr.LSTM(I, H), x)),
        "lengths, random": job(pr.LSTM(I, H), x, lengths),
        "lengths, all full": job(pr.LSTM(I, H), x, [T] * N),
        "bidirectional": job(pr.LSTM(I, H, bidirectional=True), x),
        "second layer alone": job(pr.LSTM(H, H), wide),
        "num_layers=2": job(pr.LSTM(I, H, num_layers=2), x),
        "num_layers=2, dropout": job(pr.LSTM(I, H, num_layers=2, dropout=0.3), x, seed=1),
        "batch_first": job(pr.LSTM(I, H, batch_first=True), np.ascontiguousarray(x.swapaxes(0, 1))),
        "learned_state": job(pr.LSTM(I, H, learned_state=True), x),
        "proj_size=128": job(pr.LSTM(I, H, proj_size=128), x),
        "input_dropout, output_dropout": job(pr.LSTM(I, H, input_dropout=0.3, output_dropout=0.3), x, seed=1),
        "recurrent_dropout": job(pr.LSTM(I, H, recurrent_dropout=0.3), x, seed=1),
        "zoneout_h, zoneout_c": job(pr.LSTM(I, H, zoneout_h=0.1, zoneout_c=0.1), x, seed=1),
        "zoneout, expected": job(pr.LSTM(I, H, zoneout_h=0.1, zoneout_c=0.1), x),
        "peephole": job(pr.LSTM(I, H, peephole=True), x),
        "coupled": job(pr.LSTM(I, H, coupled=True), x),
        "clip": job(pr.LSTM(I, H, clip=3.0), x),
        "cell_clip": job(pr.LSTM(I, H, cell_clip=3.0), x),
        "activations": job(pr.LSTM(I, H, activations=softsigns), x),
        "layer_norm": job(pr.LSTM(I, H, layer_norm=True), x),
        'remat="auto"': job(pr.LSTM(I, H, remat="auto"), x),
        "per_sample": job(pr.LSTM(I, H), x, per_sample=True),
    }
    times = in_turns(jobs, rounds)
    plain = times["LSTM"]
    print(f"LSTM ({T}, {N}, {I}, {H}), float32: {1e3 * np.median(plain):.1f} ms forward and backward; in times of it:")
    for name, found in times.items():
        print(f"  {name:32} {np.median(found / plain):5.2f}")
    both = np.median(times["num_layers=2"] / (plain + times["second layer alone"]))
    print(f"  two layers in times of the sum of the two: {both:.2f}")


def without_kernels(run):
    import polyrnn as pr

    def reference():
        with pr.use_kernels(False):
            run()

    return reference


def long_sequences(rounds: int) -> None:
    """T 10,000, N 8, I 256, H 256: what is needed beyond inputs, outputs and their gradients."""
    import numpy as np

    import polyrnn as pr

    T, N, I, H = 10_000, 8, 256, 256
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, N, I)).astype("float32"), rng.standard_normal((T, N, H)).astype("float32")
    layers = {
        "plain": pr.LSTM(I, H),
        "remat=128": pr.LSTM(I, H, remat=128),
        'remat="auto"': pr.LSTM(I, H, remat="auto"),
    }
    params, jobs, beyond = layers["plain"].init(seed=0), {}, {}
    for name, layer in layers.items():

        def run(layer=layer):
            y, _, tape = layer.forward(params, x)
            return y, layer.backward(tape, dy)

        jobs[name] = run
        tracemalloc.start()
        y, grads = run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        beyond[name] = (peak - y.nbytes - grads.x.nbytes) / 1e6
        del y, grads
    times = in_turns(jobs, rounds)
    print(f"LSTM ({T}, {N}, {I}, {H}), float32, forward and backward")
    for name, found in times.items():
        ratio = np.median(found / times["plain"])
        print(
            f"  {name:16} {np.median(found):6.2f} s, {ratio:.2f} times; {beyond[name]:7.1f} MB beyond x, y, dy and dx"
        )


def ensembles(rounds: int) -> None:
    import numpy as np

    import polyrnn as pr

    rng = np.random.default_rng(0)
    for T, N, I, H in ((50, 1, 32, 64), (50, 4, 8, 16), (100, 16, 64, 128)):
        x = rng.standard_normal((T, N, I)).astype("float32")
        for E in (4, 16):
            one, all_of_them = job(pr.LSTM(I, H), x), job(pr.LSTM(I, H, ensemble=E), x)

            def separately(one=one, E=E):
                for _ in range(E):
                    one()

            times = in_turns({"one call": all_of_them, "E calls": separately}, rounds)
            ratio = np.median(times["E calls"] / times["one call"])
            print(
                f"LSTM ({T}, {N}, {I}, {H}), E = {E}: one call {1e3 * np.median(times['one call']):.1f} ms, "
                f"{E} calls {1e3 * np.median(times['E calls']):.1f} ms: {ratio:.2f} times as long"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--ensembles", action="store_true")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)  # before NumPy is imported
    warnings.simplefilter("ignore")
    print(f"{arguments.threads} threads, {arguments.rounds} turns")
    if arguments.long:
        long_sequences(arguments.rounds)
    elif arguments.ensembles:
        ensembles(arguments.rounds)
    else:
        options(arguments.rounds)


if __name__ == "__main__":
    main()
