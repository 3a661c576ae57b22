"""A recurrent model learns to repeat what it saw three steps ago, in JAX's own way: jax.value_and_grad and optax.

The derivative that JAX takes is the hand-written one of the layers. Run it as

    python -m pip install jax optax
    python examples/with_optax.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import polyrnn as pr

ids = np.random.default_rng(0).integers(1, 8, size=(12, 16)).astype("int32")  # (T, N): noise, so that only memory helps
late = np.concatenate([np.zeros((3, 16), dtype="int32"), ids[:-3]])  # 0 where there is nothing yet to repeat

model = pr.Sequential(embedding=pr.Embedding(8, 16), lstm=pr.LSTM(16, 32), head=pr.Linear(32, 8))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-2))


def loss(params, x, targets):
    """The mean cross-entropy, in nats."""
    logits, _ = model(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@jax.jit
def step(params, memory, x, targets):
    """One update, compiled once."""
    value, grads = jax.value_and_grad(loss)(params, x, targets)
    updates, memory = optimizer.update(grads, memory, params)
    return optax.apply_updates(params, updates), memory, value


x, targets = jnp.asarray(ids), jnp.asarray(late)
params = model.init(seed=0, backend="jax")  # a flat dict of arrays, which is a pytree
memory = optimizer.init(params)
for count in range(81):
    params, memory, value = step(params, memory, x, targets)
    if count % 20 == 0:
        print(f"step {count:3}: {float(value) / np.log(2):.4f} bits per symbol")

logits, _ = model(params, x)
print(f"{100 * float((logits.argmax(-1) == targets).mean()):.1f} % right")
