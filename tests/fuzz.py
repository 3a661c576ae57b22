"""Mutated files for the readers of trained models: whatever a file holds, nothing but the documented errors comes out.

    python -m pip install atheris h5py onnx
    python tests/fuzz.py torch --runs 30000

Atheris mutates good files, guided by the lines that they reach. A run that ends with another exception, takes longer
than 10 s, or more memory than 1 GiB, stops it and leaves the file. Readers: polyrnn torch npz keras_h5 keras onnx.
"""

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

STORED = Path(__file__).parent / "stored"
# The reader, its extension, and the folders and names of good files to begin with.
READERS = {
    "polyrnn": ("polyrnn.model", "Model.load", ".safetensors", ()),
    "torch": ("polyrnn.interop.torch", "find", ".safetensors", ("torch_modules.safetensors",)),
    "npz": ("polyrnn.interop.npz", "find", ".npz", ()),
    "keras_h5": ("polyrnn.interop.keras", "find", ".weights.h5", ("keras/*.weights.h5",)),
    "keras": ("polyrnn.interop.keras", "find", ".keras", ("keras/*.keras",)),
    "onnx": ("polyrnn.interop.onnx", "load", ".onnx", ("onnx_exports/*.onnx",)),
}
ERRORS = (ValueError, TypeError, OSError)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    module, name, extension, patterns = READERS[asked.reader]
    with atheris.instrument_imports(include=["polyrnn._safetensors", "polyrnn.model", "polyrnn.interop"]):
        read = importlib.import_module(module)
    for part in name.split("."):
        read = getattr(read, part)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    corpus = folder / "corpus"
    corpus.mkdir()
    begin(asked.reader, corpus, patterns)
    path = folder / f"file{extension}"
    longest = 0
    for file in sorted(corpus.iterdir()):  # a reader that refuses everything would pass every test of refusing
        path.write_bytes(file.read_bytes())
        read(path)
        longest = max(longest, file.stat().st_size)
    outcomes = {"read": 0, "refused": 0}

    def once(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except ERRORS:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
        count = sum(outcomes.values())
        if count % 5000 == 0 or count == asked.runs:
            print(f"{asked.reader}: {count:,} files: {outcomes}", flush=True)

    limits = ("-timeout=10", "-rss_limit_mb=1024", f"-max_len={2 * longest}")
    options = (f"-runs={asked.runs}", f"-seed={asked.seed}", *limits)
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={os.getcwd()}/{asked.reader}-", str(corpus)], once)
    atheris.Fuzz()


def begin(reader: str, corpus: Path, patterns: tuple[str, ...]) -> None:
    """Good files: stored ones, and small ones that polyrnn writes."""
    import polyrnn as pr
    from polyrnn.interop import npz, torch

    for pattern in patterns:
        for file in STORED.glob(pattern):
            (corpus / file.name).write_bytes(file.read_bytes())
    layers = (pr.LSTM(2, 3), pr.GRU(2, 3, bidirectional=True), pr.RNN(2, 3, num_layers=2))
    for k, layer in enumerate(layers):
        params, file = layer.init(seed=k), corpus / f"own{k}"
        if reader == "polyrnn":
            pr.Model(layer, params).save(file)
        elif reader == "torch":
            torch.save(file, layer, params, prefix="a")
        elif reader == "npz":
            npz.save(file, layer, params)
    assert any(corpus.iterdir()), f"no files for {reader} to begin with"


if __name__ == "__main__":
    main()
