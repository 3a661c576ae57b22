"""A recurrent layer that PyTorch has trained is fine-tuned on JAX, with optax, and given back to PyTorch.

PyTorch need not be installed. Where it is, the layer that comes back is run there too, and the outputs compared.

    python -m pip install jax optax
    python examples/fine_tune.py [lstm.safetensors]

The file is what `safetensors.torch.save_file(module.state_dict(), "lstm.safetensors")` writes of a torch.nn.LSTM; in
its absence one is made.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import polyrnn as pr
from polyrnn.interop import torch as pytorch

folder = Path(tempfile.mkdtemp())
if len(sys.argv) > 1:
    path = Path(sys.argv[1])
else:
    path = folder / "lstm.safetensors"
    made = pr.LSTM(4, 16)
    pytorch.save(path, made, made.init(seed=0))

lstm, arrays = pytorch.load(path)
print(f"found {type(lstm).__name__} of {lstm.hidden_size}, input {lstm.input_size}")

# The task: at every step, the sum of the last three inputs' first entries.
x = jnp.asarray(np.random.default_rng(1).standard_normal((24, 32, lstm.input_size)).astype("float32"))
targets = x[:, :, 0] + jnp.pad(x, ((1, 0), (0, 0), (0, 0)))[:-1, :, 0] + jnp.pad(x, ((2, 0), (0, 0), (0, 0)))[:-2, :, 0]

arrays = {name: array.astype("float32") for name, array in arrays.items()}
outputs = lstm(arrays, np.asarray(x[:1]))[0].shape[-1]
model = pr.Sequential(lstm=lstm, head=pr.Linear(outputs, 1))
head = pr.Linear(outputs, 1).init(seed=1)
joined = {f"lstm.{name}": array for name, array in arrays.items()} | {f"head.{name}": a for name, a in head.items()}
params = pr.backend("jax").asarray(joined)
optimizer = optax.adam(1e-2)


def loss(params):
    """The mean squared error."""
    return jnp.mean((model(params, x)[0][..., 0] - targets) ** 2)


@jax.jit
def step(params, memory):
    """One update; the derivative is the hand-written one."""
    value, grads = jax.value_and_grad(loss)(params)
    updates, memory = optimizer.update(grads, memory, params)
    return optax.apply_updates(params, updates), memory, value


memory = optimizer.init(params)
for count in range(201):
    params, memory, value = step(params, memory)
    if count % 50 == 0:
        print(f"step {count:3}: error {float(value):.4f}")

tuned = {name.removeprefix("lstm."): array for name, array in params.items() if name.startswith("lstm.")}
pytorch.save(folder / "tuned.safetensors", lstm, tuned)
back = pytorch.load(folder / "tuned.safetensors")
mine, _ = back.layer(back.params, np.asarray(x))
print(f"given back: {len(back.params)} arrays, {sum(a.size for a in back.params.values()):,} numbers")

if importlib.util.find_spec("torch"):
    import torch
    from safetensors.torch import load_file

    options = {"num_layers": lstm.num_layers, "bias": lstm.bias, "bidirectional": lstm.bidirectional}
    options |= {"proj_size": lstm.proj_size} if lstm.proj_size else {}
    module = getattr(torch.nn, type(lstm).__name__)(lstm.input_size, lstm.hidden_size, **options)
    module.load_state_dict(load_file(folder / "tuned.safetensors"))
    with torch.inference_mode():
        theirs, _ = module(torch.from_numpy(np.array(x)))
    print(f"PyTorch's outputs differ by at most {np.max(np.abs(mine - theirs.numpy())):.1e}")
