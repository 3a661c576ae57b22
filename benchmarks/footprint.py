"""What it costs to load an LSTM of ten million parameters and run it once: time, memory, size on disk.

    python benchmarks/footprint.py [--turns 7] [--threads 2]

Each run is a process of its own, from its start to its first output: the interpreter starts, the library is imported,
the file is read, one step runs. polyrnn reads the safetensors file that PyTorch reads too, on NumPy alone, without
Numba; ONNX Runtime reads the same weights as an .onnx file. Runs take turns; the table has medians. Memory is the peak
of the process; of that beyond the weights a bare interpreter's is a part. The outputs are compared first. The size on
disk is that of the packages that the process has loaded, as they are installed.

torch, onnx and onnxruntime are left out where they are not installed (pip install ".[bench]").
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

I, H, STEPS, BATCH = 672, 1280, 1, 1
WORK = """
import sys, json, time
folder = sys.argv[1]
{code}
import numpy
numpy.save(folder + "/{name}.npy", numpy.asarray(y))
end = time.time()
with open("/proc/self/status") as file:  # getrusage would count what this process was before it was a new program
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
print(json.dumps({{"end": end, "peak": peak,
    "modules": sorted({{m.partition(".")[0] for m in sys.modules}})}}))
"""
CODES = {
    "polyrnn, one step": """
import numpy as np, polyrnn as pr
model = pr.Model.load(folder + "/lstm.safetensors")
y, state = model.module.step(model.params, np.load(folder + "/x.npy")[0])
y = y[None]
""",
    "polyrnn, PyTorch's file": """
import numpy as np
from polyrnn.interop import torch
layer, params = torch.load(folder + "/torch.safetensors")
y, state = layer.step(params, np.load(folder + "/x.npy")[0])
y = y[None]
""",
    "PyTorch": """
import numpy as np, torch
from safetensors.torch import load_file
torch.set_num_threads(THREADS)
lstm = torch.nn.LSTM(INPUTS, HIDDEN, device="meta")
lstm.load_state_dict(load_file(folder + "/torch.safetensors"), assign=True)
with torch.inference_mode():
    y, state = lstm(torch.from_numpy(np.load(folder + "/x.npy")))
""",
    "ONNX Runtime": """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = THREADS
session = onnxruntime.InferenceSession(folder + "/lstm.onnx", options)
y = session.run(["y"], {"x": np.load(folder + "/x.npy")})[0]
""",
    "NumPy alone": """
import numpy as np
y = np.zeros((1, 1, 1))
""",
}
NEEDS = {"PyTorch": ("torch",), "ONNX Runtime": ("onnx", "onnxruntime")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    names = [n for n in CODES if all(importlib.util.find_spec(p) for p in NEEDS.get(n, ()))]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), "ONNX Runtime" in names)
        runs: dict[str, list[dict]] = {name: [] for name in names}
        for turn in range(asked.turns + 1):  # the first one warms the file cache
            for name in names:
                found = run(name, folder, asked.threads)
                if turn:
                    runs[name].append(found)
        agree(Path(folder), names)
    weights = 4 * (4 * H * (I + H) + 8 * H) / 2**20
    print(f"LSTM, I {I}, H {H}: {4 * H * (I + H) + 8 * H:,} parameters, {weights:.0f} MiB; {asked.threads} threads")
    print(f"{'':24}{'first output':>14}{'peak memory':>14}{'beyond weights':>16}{'on disk':>10}")
    for name, found in runs.items():
        seconds = statistics.median(one["seconds"] for one in found)
        peak = statistics.median(one["peak"] for one in found)
        beyond = peak - (0 if name == "NumPy alone" else weights)
        size = sum(on_disk(module) for module in found[0]["modules"]) / 2**20
        print(f"{name:24}{seconds:12.2f} s{peak:10.0f} MiB{beyond:12.0f} MiB{size:6.0f} MiB")


def prepare(folder: Path, onnx: bool) -> None:
    """The same weights as a file of each library, and an input."""
    import polyrnn as pr
    from polyrnn.interop import torch

    lstm = pr.LSTM(I, H)
    params = lstm.init(seed=0)
    pr.Model(lstm, params).save(folder / "lstm.safetensors")
    torch.save(folder / "torch.safetensors", lstm, params)
    if onnx:
        from polyrnn.interop.onnx import save

        save(folder / "lstm.onnx", lstm, params)
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((STEPS, BATCH, I)).astype("float32"))


def run(name: str, folder: str, threads: int) -> dict:
    code = CODES[name].replace("THREADS", str(threads)).replace("INPUTS", str(I)).replace("HIDDEN", str(H))
    code = WORK.format(code=code, name=name.replace(" ", "_"))
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=os.environ | counts
    )
    found = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found | {"seconds": found["end"] - start}


def agree(folder: Path, names: list[str]) -> None:
    """All have computed the same."""
    outputs = {n: np.load(folder / f"{n.replace(' ', '_')}.npy") for n in names if n != "NumPy alone"}
    first = next(iter(outputs.values()))
    for name, y in outputs.items():
        worst = float(np.max(np.abs(y.reshape(first.shape) - first)))
        assert worst < 1e-5, f"{name} differs by {worst}"


def on_disk(module: str) -> int:
    """The bytes of an installed package, as one module of it is found; 0 for what comes with Python."""
    spec = importlib.util.find_spec(module) if module.isidentifier() and module != "__main__" else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or not {"site-packages", "polyrnn"} & set(Path(places[0]).parts):
        return 0
    home = Path(places[0])
    beside = [home.parent / f"{module}.libs"]  # NumPy's OpenBLAS
    return sum(f.stat().st_size for p in (home, *beside) if p.exists() for f in p.rglob("*") if f.is_file())


if __name__ == "__main__":
    main()
