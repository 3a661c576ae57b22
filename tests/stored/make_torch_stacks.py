"""Writes torch_stacks.safetensors: PyTorch's float64 results for the configurations of tests/stacks.py.

Keys are "K/y", "K/state.0", "K/grad/x", "K/grad/weight_ih_l0_reverse", ...; the arguments are drawn again by the test.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import stacks

torch.set_num_threads(1)
arrays = {f"{k}/{name}": value for k in range(stacks.COUNT) for name, value in stacks.by_torch(k).items()}
about = {"torch": torch.__version__, "numpy": np.__version__}
save_file(arrays, Path(__file__).with_name("torch_stacks.safetensors"), metadata={"about": json.dumps(about)})
