"""A recurrent model learns to repeat what it saw three steps ago; the same lines run on every backend.

Run it as

    python examples/three_backends.py [numpy | jax | cupy | torch]

Without a name the backend is that of the environment variable POLYRNN_BACKEND, else numpy.
"""

import sys

import numpy as np

import polyrnn as pr

backend = pr.backend(sys.argv[1] if len(sys.argv) > 1 else None)
ids = np.random.default_rng(0).integers(1, 8, size=(12, 16)).astype("int32")  # (T, N): noise, so that only memory helps
late = np.concatenate([np.zeros((3, 16), dtype="int32"), ids[:-3]])  # 0 where there is nothing yet to repeat

model = pr.Sequential(embedding=pr.Embedding(8, 16), lstm=pr.LSTM(16, 32), head=pr.Linear(32, 8))
optimizer = pr.Adam(learning_rate=2e-2)
step = pr.train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=1.0)

x, targets = backend.asarray((ids, late))
params = model.init(seed=0, backend=backend)
memory = optimizer.init(params)
for count in range(81):
    params, memory, _, loss, _ = step(params, memory, x, targets)
    if count % 20 == 0:
        print(f"{backend.name}, step {count:3}: {float(loss) / np.log(2):.4f} bits per symbol")

logits, _ = model(params, x)
right = backend.to_numpy(backend.xp.argmax(logits, axis=-1)) == late
print(f"{backend.name}: {100 * right.mean():.1f} % right")
