"""A classifier of whole sequences of different lengths: which of two marks came first, however long ago.

Run it as

    python examples/classify.py [last | mean | max]

Each sequence is noise of the symbols 3 to 9 with one 1 and one 2 in it; its label says whether the 1 came before the 2.
Where the sequences end there is padding, which `lengths` keeps from everything.
"""

import sys

import numpy as np

import polyrnn as pr

how = sys.argv[1] if len(sys.argv) > 1 else "last"
rng = np.random.default_rng(0)


def draw(count, steps=16):
    """Ids (T, N), lengths (N,) and labels (N,)."""
    ids, lengths = rng.integers(3, 10, size=(steps, count)), rng.integers(4, steps + 1, size=count)
    labels = rng.integers(0, 2, size=count)
    for n in range(count):
        early, late = sorted(rng.choice(lengths[n], size=2, replace=False))
        ids[early, n], ids[late, n] = (1, 2) if labels[n] else (2, 1)
    ids[np.arange(steps)[:, None] >= lengths] = 0
    return ids.astype("int32"), lengths.astype("int32"), labels.astype("int32")


model = pr.Sequential(embedding=pr.Embedding(10, 8), gru=pr.GRU(8, 16), pool=pr.Pool(how), head=pr.Linear(16, 2))
optimizer = pr.Adam(learning_rate=1e-2)
step = pr.train_step(model, pr.softmax_cross_entropy, optimizer, clip_norm=1.0)

params = model.init(seed=0)
memory = optimizer.init(params)
for count in range(121):
    ids, lengths, labels = draw(64)
    params, memory, _, loss, _ = step(params, memory, ids, labels, lengths=lengths)
    if count % 30 == 0:
        print(f"{how}, step {count:3}: {float(loss) / np.log(2):.4f} bits per label")

ids, lengths, labels = draw(1000)  # sequences that it has not seen
logits, _ = model(params, ids, lengths=lengths)
right = np.argmax(logits, axis=-1) == labels
print(
    f"{how}: {100 * right.mean():.1f} % right, {100 * right[lengths > 12].mean():.1f} % of those longer than 12 steps"
)
assert right.mean() > 0.95
