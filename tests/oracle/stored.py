"""Reads the stored results of PyTorch (tests/stored/README.md tells how they were made)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

FILE = Path(__file__).parents[1] / "stored" / "torch.safetensors"

with safe_open(FILE, framework="numpy") as _file:
    _about = json.loads(_file.metadata()["about"])
    ARRAYS: dict[str, np.ndarray] = {key: _file.get_tensor(key) for key in _file.keys()}  # noqa: SIM118

VERSION: str = _about["torch"]
OPTIONS: dict[str, dict[str, Any]] = _about["options"]

for _array in ARRAYS.values():
    _array.flags.writeable = False

#: the names of the stored recurrent cases, such as "lstm/bias/lengths"
RECURRENT = [name for name, options in OPTIONS.items() if "cell" in options]


def case(name: str) -> dict[str, np.ndarray]:
    """The arrays of one case, without its name: ``case("lstm/bias/lengths")["dy"]``."""
    found = {k.removeprefix(name + "/"): v for k, v in ARRAYS.items() if k.startswith(name + "/")}
    if not found:
        raise KeyError(name)
    return found
